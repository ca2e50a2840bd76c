// What all kernels share. They read weights as they are stored and compute in f32.
#pragma once

#ifdef EMULATED
#include "emulator.h"
#else
#include <cuda_fp16.h>
using f16 = __half;
alignas(32) extern __shared__ float4 dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(dynamic_shared)
#endif

using u32 = unsigned;
using u64 = unsigned long long;

struct bf16 {
    unsigned short bits;
};

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffff;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(f16 value) { return __half2float(value); }
__device__ __forceinline__ float widen(bf16 value) { return __uint_as_float(u32(value.bits) << 16); }

// The nearest bf16, of two the even one.
__device__ __forceinline__ bf16 narrow(float value) {
    u32 bits = __float_as_uint(value);
    if (isnan(value)) return {0x7fff};
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// Of what the lanes of a warp have, in all of them.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

// Of what the threads of a block of whole warps have, in all of them. `room` has a number for each warp.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* room) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = 0;
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) sum += room[warp];
    return sum;
}

__device__ __forceinline__ float block_max(float value, float* room) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) value = fmaxf(value, room[warp]);
    return value;
}
