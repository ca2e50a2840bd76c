// One row of activations times a matrix: every weight is read once, which is what it costs.
#pragma once

#include <type_traits>

#include "blocks.cuh"
#include "common.cuh"

constexpr u32 ROWS = 2;  // of each warp, side by side: they share what is read of x

// A row [n_in] of numbers, read in words of 16 bytes.
template <typename T>
struct RowOfNumbers {
    static constexpr u32 TOGETHER = 16 / sizeof(T);  // so many weights are a word, which a lane reads at once
    static constexpr u32 AHEAD = 4;                  // so many words are on their way at a time
    static constexpr bool IS_WHOLE = false;          // a row may end, and so the next begin, within a word

    struct Word {
        uint4 bits;

        __device__ float4 four(u32 j) const {
            const T* w = reinterpret_cast<const T*>(&bits) + 4 * j;
            return {widen(w[0]), widen(w[1]), widen(w[2]), widen(w[3])};
        }
    };

    const T* numbers;

    __device__ static RowOfNumbers of(const T* w, u32 n_in, u64 row) { return {w + row * n_in}; }
    __device__ Word word(u32 at) const { return {*reinterpret_cast<const uint4*>(numbers + at)}; }
    __device__ float number(u32 i) const { return widen(numbers[i]); }

    // Where the j-th four of a word's inputs begin.
    __device__ u32 input(u32 at, u32 j) const { return at + 4 * j; }
};

template <typename T>
using Row = std::conditional_t<std::is_base_of_v<Blocks, T>, RowOfBlocks<T>, RowOfNumbers<T>>;

// What a row goes through before a product: x / √(mean of x² + eps) · weight; nothing without a weight. Every warp sees
// all of the row anyway, so that none waits for another.
struct Norm {
    const float* weight;
    float eps;
};

// What comes out becomes residual + (product + bias) · factor; without a residual there is no factor.
struct After {
    const float *bias, *residual;
    float factor;

    __device__ float of(float product, u32 output) const {
        float own = product + (bias ? bias[output] : 0);
        return residual ? fmaf(own, factor, residual[output]) : own;
    }
};

// The sums of a warp's rows, and of the squares of x.
struct Sums {
    float products[ROWS], squares;
};

__device__ __forceinline__ float4 weighed(float4 x, const float* weight, u32 at, float& squares) {
    float4 own = *reinterpret_cast<const float4*>(weight + at);
    squares = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, squares))));
    return {x.x * own.x, x.y * own.y, x.z * own.z, x.w * own.w};
}

// Adds the products of `count` words of each row, a warp's width apart from each other, with x.
template <u32 count, bool is_normed, typename R>
__device__ __forceinline__ void add_words(const R (&rows)[ROWS], const float* x, const float* weight, u32 start,
                                          Sums& sums) {
    typename R::Word words[ROWS][count];
    for (u32 i = 0; i < count; i++)
        for (u32 r = 0; r < ROWS; r++) words[r][i] = rows[r].word(start + i * WARP * R::TOGETHER);
#pragma unroll
    for (u32 i = 0; i < count; i++)
#pragma unroll
        for (u32 j = 0; j < R::TOGETHER / 4; j++) {
            u32 at = rows[0].input(start + i * WARP * R::TOGETHER, j);
            float4 four = *reinterpret_cast<const float4*>(x + at);
            if (is_normed) four = weighed(four, weight, at, sums.squares);
            for (u32 r = 0; r < ROWS; r++) {
                float4 w = words[r][i].four(j);
                float& sum = sums.products[r];
                sum = fmaf(w.x, four.x, sum);
                sum = fmaf(w.y, four.y, sum);
                sum = fmaf(w.z, four.z, sum);
                sum = fmaf(w.w, four.w, sum);
            }
        }
}

// Adds the products of each row with x number by number, from one of them on.
template <bool is_normed, typename R>
__device__ __forceinline__ void add_numbers(const R (&rows)[ROWS], const float* x, const float* weight, u32 start,
                                            u32 n_in, Sums& sums) {
    for (u32 i = start + threadIdx.x % WARP; i < n_in; i += WARP) {
        if (is_normed) sums.squares = fmaf(x[i], x[i], sums.squares);
        float own = is_normed ? x[i] * weight[i] : x[i];
        for (u32 r = 0; r < ROWS; r++) sums.products[r] = fmaf(rows[r].number(i), own, sums.products[r]);
    }
}

// A lane's part of the products of each row [n_in] with x.
template <bool is_normed, typename R>
__device__ __forceinline__ void add_row(const R (&rows)[ROWS], const float* x, const float* weight, u32 n_in,
                                        Sums& sums) {
    // Rows that begin between 16 bytes are read number by number.
    u32 whole = R::IS_WHOLE || n_in % R::TOGETHER == 0 ? n_in : 0;
    constexpr u32 stride = WARP * R::TOGETHER;
    u32 at = threadIdx.x % WARP * R::TOGETHER;
    for (; at + (R::AHEAD - 1) * stride < whole; at += R::AHEAD * stride)
        add_words<R::AHEAD, is_normed>(rows, x, weight, at, sums);
    for (; at < whole; at += stride) add_words<1, is_normed>(rows, x, weight, at, sums);
    if constexpr (!R::IS_WHOLE) add_numbers<is_normed>(rows, x, weight, whole, n_in, sums);
}

// The products of each row [n_in] with x, which goes through the norm, in all lanes of a warp.
template <typename R>
__device__ __forceinline__ void products(const R (&rows)[ROWS], const float* x, Norm norm, u32 n_in,
                                         float (&results)[ROWS]) {
    Sums sums = {};
    float scale = 1;
    if (norm.weight) {
        add_row<true>(rows, x, norm.weight, n_in, sums);
        scale = 1.0f / sqrtf(warp_sum(sums.squares) / n_in + norm.eps);
    } else {
        add_row<false>(rows, x, norm.weight, n_in, sums);
    }
    for (u32 r = 0; r < ROWS; r++) results[r] = warp_sum(sums.products[r]) * scale;
}

// The number of a warp among all of grid.x.
__device__ __forceinline__ u32 own_warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / WARP; }

// y [n_out] = W [n_out, n_in] · x [n_in], with what comes before and after, by all warps of grid.x. Of several matrices one
// after the other, W is the one of this number.
template <typename T>
__device__ __forceinline__ void row_times(const T* w, u32 which, const float* x, Norm norm, After after, float* y,
                                          u32 n_in, u32 n_out) {
    u32 first = own_warp() * ROWS;
    if (first >= n_out) return;
    // Where there is no second row, the first stands in: all lanes of all warps do the same.
    Row<T> rows[ROWS];
    for (u32 r = 0; r < ROWS; r++) rows[r] = Row<T>::of(w, n_in, u64(which) * n_out + min(first + r, n_out - 1));
    float results[ROWS];
    products(rows, x, norm, n_in, results);
    for (u32 r = 0; r < ROWS; r++)
        if (threadIdx.x % WARP == 0 && first + r < n_out) y[first + r] = after.of(results[r], first + r);
}

// y [n_out] = silu(gate · x · factor) · (up · x), with both [n_out, n_in]: a warp for each output.
template <typename T>
__device__ __forceinline__ void gated(const T* gate, const T* up, const float* x, Norm norm, float* y, u32 n_in,
                                      u32 n_out, float factor) {
    static_assert(ROWS == 2, "the gate's and the other");
    u32 output = own_warp();
    if (output >= n_out) return;
    const Row<T> rows[ROWS] = {Row<T>::of(gate, n_in, output), Row<T>::of(up, n_in, output)};
    float results[ROWS];
    products(rows, x, norm, n_in, results);
    if (threadIdx.x % WARP == 0) y[output] = silu(results[0] * factor) * results[1];
}
