// One row of activations times matrices. Of a batch (grid.y), each has matrix, row and output of its own.
#include "common.cuh"
#include "product.cuh"

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
