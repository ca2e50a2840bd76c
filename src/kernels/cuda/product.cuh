// One row of activations times a matrix: every weight is read once, which is what it costs.
#pragma once

#include "common.cuh"

constexpr u32 ROWS = 2;   // of each warp, side by side: they share what is read of x
constexpr u32 AHEAD = 4;  // words of each row that are on their way at a time

// So many weights are a word of 16 bytes, which a lane reads at once.
template <typename T>
constexpr u32 TOGETHER = 16 / sizeof(T);

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
template <u32 count, bool is_normed, typename T>
__device__ __forceinline__ void add_words(const T* const (&rows)[ROWS], const float* x, const float* weight, u32 start,
                                          Sums& sums) {
    uint4 words[ROWS][count];
    for (u32 i = 0; i < count; i++)
        for (u32 r = 0; r < ROWS; r++)
            words[r][i] = *reinterpret_cast<const uint4*>(rows[r] + start + i * WARP * TOGETHER<T>);
    for (u32 i = 0; i < count; i++)
        for (u32 j = 0; j < TOGETHER<T>; j += 4) {
            u32 at = start + i * WARP * TOGETHER<T> + j;
            float4 four = *reinterpret_cast<const float4*>(x + at);
            if (is_normed) four = weighed(four, weight, at, sums.squares);
            for (u32 r = 0; r < ROWS; r++) {
                const T* w = reinterpret_cast<const T*>(&words[r][i]) + j;
                float& sum = sums.products[r];
                sum = fmaf(widen(w[0]), four.x, sum);
                sum = fmaf(widen(w[1]), four.y, sum);
                sum = fmaf(widen(w[2]), four.z, sum);
                sum = fmaf(widen(w[3]), four.w, sum);
            }
        }
}

// A lane's part of the products of each row [n_in] with x.
template <bool is_normed, typename T>
__device__ __forceinline__ void add_row(const T* const (&rows)[ROWS], const float* x, const float* weight, u32 n_in,
                                        Sums& sums) {
    // Rows that begin between 16 bytes are read number by number.
    u32 lane = threadIdx.x % WARP, whole = n_in % TOGETHER<T> == 0 ? n_in : 0;
    constexpr u32 stride = WARP * TOGETHER<T>;
    u32 at = lane * TOGETHER<T>;
    for (; at + (AHEAD - 1) * stride < whole; at += AHEAD * stride)
        add_words<AHEAD, is_normed>(rows, x, weight, at, sums);
    for (; at < whole; at += stride) add_words<1, is_normed>(rows, x, weight, at, sums);
    for (u32 i = whole + lane; i < n_in; i += WARP) {
        if (is_normed) sums.squares = fmaf(x[i], x[i], sums.squares);
        float own = is_normed ? x[i] * weight[i] : x[i];
        for (u32 r = 0; r < ROWS; r++) sums.products[r] = fmaf(widen(rows[r][i]), own, sums.products[r]);
    }
}

// The products of each row [n_in] with x, which goes through the norm, in all lanes of a warp.
template <typename T>
__device__ __forceinline__ void products(const T* const (&rows)[ROWS], const float* x, Norm norm, u32 n_in,
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

// y [n_out] = W [n_out, n_in] · x [n_in], with what comes before and after, by all warps of grid.x.
template <typename T>
__device__ __forceinline__ void row_times(const T* w, const float* x, Norm norm, After after, float* y, u32 n_in,
                                          u32 n_out) {
    u32 first = own_warp() * ROWS;
    if (first >= n_out) return;
    // Where there is no second row, the first stands in: all lanes of all warps do the same.
    const T* rows[ROWS];
    for (u32 r = 0; r < ROWS; r++) rows[r] = w + u64(min(first + r, n_out - 1)) * n_in;
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
    const T* rows[ROWS] = {gate + u64(output) * n_in, up + u64(output) * n_in};
    float results[ROWS];
    products(rows, x, norm, n_in, results);
    if (threadIdx.x % WARP == 0) y[output] = silu(results[0] * factor) * results[1];
}
