// Rows of a matrix of blocks as plain numbers: for products of several rows, and for embeddings.
#include "blocks.cuh"

__device__ __forceinline__ void store(float* y, float4 four) { *reinterpret_cast<float4*>(y) = four; }

__device__ __forceinline__ void store(bf16* y, float4 four) {
    ushort4 halves = {narrow(four.x).bits, narrow(four.y).bits, narrow(four.z).bits, narrow(four.w).bits};
    *reinterpret_cast<ushort4*>(y) = halves;
}

// A block of threads makes a row of y [rows, n_in] of the row of w that `ids` names; without those, of as many from `first`.
template <typename B, typename T>
__device__ __forceinline__ void widen_row(const B* w, const u32* ids, u32 first, T* y, u32 n_in) {
    auto row = RowOfBlocks<B>::of(w, n_in, ids ? ids[blockIdx.x] : first + blockIdx.x);
    y += u64(blockIdx.x) * n_in;
    for (u32 at = threadIdx.x * B::TOGETHER; at < n_in; at += blockDim.x * B::TOGETHER) {
        auto word = row.word(at);
        for (u32 j = 0; j < B::TOGETHER / 4; j++) store(y + row.input(at, j), word.four(j));
    }
}

#define WIDEN(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128) widen_to_float_##T(                                            \
        const T* __restrict__ w, const u32* __restrict__ ids, u32 first, float* __restrict__ y, u32 n_in) {          \
        widen_row(w, ids, first, y, n_in);                                                                           \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) widen_to_bf16_##T(                                             \
        const T* __restrict__ w, const u32* __restrict__ ids, u32 first, bf16* __restrict__ y, u32 n_in) {           \
        widen_row(w, ids, first, y, n_in);                                                                           \
    }

WIDEN(q8_0)
WIDEN(q4_k)
WIDEN(q5_k)
WIDEN(q6_k)
