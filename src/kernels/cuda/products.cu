// One row of activations times a matrix: every weight is read once, which is what it costs.
#include "common.cuh"

constexpr u32 ROWS = 2;  // of each warp, side by side: they share what is read of x

// So many weights are 16 bytes, which a lane reads at once.
template <typename T>
constexpr u32 TOGETHER = 16 / sizeof(T);

template <typename T>
__device__ __forceinline__ float product(const T* w, const float* x) {
    float sum = 0;
    for (u32 i = 0; i < TOGETHER<T>; i++) sum = fmaf(widen(w[i]), x[i], sum);
    return sum;
}

// y [n_out] = W [n_out, n_in] · x [n_in] + bias. Of a batch (grid.y), each has matrix, row and output of its own.
template <typename T>
__device__ __forceinline__ void row_times(const T* w, const float* x, const float* bias, float* y, u32 n_in, u32 n_out) {
    w += u64(blockIdx.y) * n_in * n_out;
    x += u64(blockIdx.y) * n_in;
    y += u64(blockIdx.y) * n_out;
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    u32 first = warp * ROWS;
    if (first >= n_out) return;

    u32 count = min(ROWS, n_out - first);
    const T* row = w + u64(first) * n_in;
    float sums[ROWS] = {};
    // Rows that begin between 16 bytes are read number by number.
    u32 whole = n_in % TOGETHER<T> == 0 ? n_in : 0;
    for (u32 i = lane * TOGETHER<T>; i < whole; i += WARP * TOGETHER<T>) {
        alignas(16) float own[TOGETHER<T>];
        for (u32 j = 0; j < TOGETHER<T>; j += 4)
            *reinterpret_cast<float4*>(own + j) = *reinterpret_cast<const float4*>(x + i + j);
        for (u32 r = 0; r < ROWS; r++) {
            if (r >= count) break;
            uint4 words = *reinterpret_cast<const uint4*>(row + u64(r) * n_in + i);
            sums[r] += product(reinterpret_cast<const T*>(&words), own);
        }
    }
    for (u32 i = whole + lane; i < n_in; i += WARP)
        for (u32 r = 0; r < count; r++) sums[r] = fmaf(widen(row[u64(r) * n_in + i]), x[i], sums[r]);
    for (u32 r = 0; r < ROWS; r++) {
        float sum = warp_sum(sums[r]);
        if (lane == 0 && r < count) y[first + r] = sum + (bias ? bias[first + r] : 0);
    }
}

// y [n_in] = x [n_out] · W [n_out, n_in], in a batch as above: a thread for each column.
template <typename T>
__device__ __forceinline__ void columns_times(const T* w, const float* x, float* y, u32 n_in, u32 n_out) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n_in) return;
    w += u64(blockIdx.y) * n_in * n_out + column;
    x += u64(blockIdx.y) * n_out;
    float sum = 0;
    for (u32 row = 0; row < n_out; row++) sum = fmaf(widen(w[u64(row) * n_in]), x[row], sum);
    y[u64(blockIdx.y) * n_in + column] = sum;
}

#define PRODUCTS(T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) row_times_##T(const T* __restrict__ w,                     \
        const float* __restrict__ x, const float* __restrict__ bias, float* __restrict__ y, u32 n_in, u32 n_out) { \
        row_times(w, x, bias, y, n_in, n_out);                                                                   \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(128) columns_times_##T(const T* __restrict__ w,                 \
        const float* __restrict__ x, float* __restrict__ y, u32 n_in, u32 n_out) {                               \
        columns_times(w, x, y, n_in, n_out);                                                                     \
    }

PRODUCTS(float)
PRODUCTS(f16)
PRODUCTS(bf16)
