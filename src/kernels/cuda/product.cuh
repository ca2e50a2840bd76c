// One row of activations times a matrix: every weight is read once, which is what it costs.
#pragma once

#include "common.cuh"

constexpr u32 ROWS = 2;   // of each warp, side by side: they share what is read of x
constexpr u32 AHEAD = 4;  // words of each row that are on their way at a time

// So many weights are a word of 16 bytes, which a lane reads at once.
template <typename T>
constexpr u32 TOGETHER = 16 / sizeof(T);

// Adds the products of `count` words of each row, a warp's width apart from each other, with x.
template <u32 count, typename T>
__device__ __forceinline__ void add_words(const T* const (&rows)[ROWS], const float* x, u32 start,
                                          float (&sums)[ROWS]) {
    uint4 words[ROWS][count];
    for (u32 i = 0; i < count; i++)
        for (u32 r = 0; r < ROWS; r++)
            words[r][i] = *reinterpret_cast<const uint4*>(rows[r] + start + i * WARP * TOGETHER<T>);
    for (u32 i = 0; i < count; i++) {
        const float4* own = reinterpret_cast<const float4*>(x + start + i * WARP * TOGETHER<T>);
        for (u32 j = 0; j < TOGETHER<T> / 4; j++) {
            float4 four = own[j];
            for (u32 r = 0; r < ROWS; r++) {
                const T* w = reinterpret_cast<const T*>(&words[r][i]) + 4 * j;
                sums[r] = fmaf(widen(w[0]), four.x, sums[r]);
                sums[r] = fmaf(widen(w[1]), four.y, sums[r]);
                sums[r] = fmaf(widen(w[2]), four.z, sums[r]);
                sums[r] = fmaf(widen(w[3]), four.w, sums[r]);
            }
        }
    }
}

// The products of each row [n_in] with x, in all lanes of a warp.
template <typename T>
__device__ __forceinline__ void products(const T* const (&rows)[ROWS], const float* x, u32 n_in, float (&sums)[ROWS]) {
    // Rows that begin between 16 bytes are read number by number.
    u32 lane = threadIdx.x % WARP, whole = n_in % TOGETHER<T> == 0 ? n_in : 0;
    constexpr u32 stride = WARP * TOGETHER<T>;
    u32 at = lane * TOGETHER<T>;
    for (; at + (AHEAD - 1) * stride < whole; at += AHEAD * stride) add_words<AHEAD>(rows, x, at, sums);
    for (; at < whole; at += stride) add_words<1>(rows, x, at, sums);
    for (u32 i = whole + lane; i < n_in; i += WARP)
        for (u32 r = 0; r < ROWS; r++) sums[r] = fmaf(widen(rows[r][i]), x[i], sums[r]);
    for (u32 r = 0; r < ROWS; r++) sums[r] = warp_sum(sums[r]);
}

// The number of a warp among all of grid.x.
__device__ __forceinline__ u32 own_warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / WARP; }

// y [n_out] = W [n_out, n_in] · x [n_in] + bias, by all warps of grid.x.
template <typename T>
__device__ __forceinline__ void row_times(const T* w, const float* x, const float* bias, float* y, u32 n_in, u32 n_out) {
    u32 first = own_warp() * ROWS;
    if (first >= n_out) return;
    // Where there is no second row, the first stands in: all lanes of all warps do the same.
    const T* rows[ROWS];
    for (u32 r = 0; r < ROWS; r++) rows[r] = w + u64(min(first + r, n_out - 1)) * n_in;
    float sums[ROWS] = {};
    products(rows, x, n_in, sums);
    for (u32 r = 0; r < ROWS; r++)
        if (threadIdx.x % WARP == 0 && first + r < n_out) y[first + r] = sums[r] + (bias ? bias[first + r] : 0);
}

// y [n_out] = silu(gate · x · factor) · (up · x), with both [n_out, n_in]: a warp for each output.
template <typename T>
__device__ __forceinline__ void gated(const T* gate, const T* up, const float* x, float* y, u32 n_in, u32 n_out,
                                      float factor) {
    static_assert(ROWS == 2, "the gate's and the other");
    u32 output = own_warp();
    if (output >= n_out) return;
    const T* rows[ROWS] = {gate + u64(output) * n_in, up + u64(output) * n_in};
    float sums[ROWS] = {};
    products(rows, x, n_in, sums);
    if (threadIdx.x % WARP == 0) y[output] = silu(sums[0] * factor) * sums[1];
}
