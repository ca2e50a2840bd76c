// One row of activations times matrices. Of a batch (grid.y), each has matrix, row and output of its own.
#include "common.cuh"
#include "product.cuh"

// y [n_in] = x [n_out] · W [n_out, n_in], a thread for each column.
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

#define PRODUCTS(T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) row_times_##T(const T* __restrict__ w,                       \
        const float* __restrict__ x, Norm norm, After after, float* __restrict__ y, u32 n_in, u32 n_out) {         \
        u32 which = blockIdx.y;                                                                                    \
        row_times(w, which, x + u64(which) * n_in, norm, after, y + u64(which) * n_out, n_in, n_out);              \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) gated_##T(const T* __restrict__ w, const T* __restrict__ up, \
        const float* __restrict__ x, Norm norm, float* __restrict__ y, u32 n_in, u32 n_out, float factor) {        \
        gated(w, up, x, norm, y, n_in, n_out, factor);                                                             \
    }

PRODUCTS(float)
PRODUCTS(f16)
PRODUCTS(bf16)
PRODUCTS(q8_0)
PRODUCTS(q4_k)
PRODUCTS(q5_k)
PRODUCTS(q6_k)

#define COLUMNS(T)                                                                                \
    extern "C" __global__ void __launch_bounds__(128) columns_times_##T(const T* __restrict__ w,  \
        const float* __restrict__ x, float* __restrict__ y, u32 n_in, u32 n_out) {                \
        columns_times(w, x, y, n_in, n_out);                                                      \
    }

COLUMNS(float)
COLUMNS(f16)
COLUMNS(bf16)
