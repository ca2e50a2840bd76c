// What happens to rows of activations between products.
#include "common.cuh"

// y = x / √(mean of x² + eps) · weight, a block for each row of `size`.
extern "C" __global__ void rms_norm(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ y,
                                    u32 size, float eps) {
    DYNAMIC_SHARED(float, room);
    x += u64(blockIdx.x) * size;
    y += u64(blockIdx.x) * size;
    float squares = 0;
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) squares = fmaf(x[i], x[i], squares);
    float scale = 1.0f / sqrtf(block_sum(squares, room) / size + eps);
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) y[i] = x[i] * scale * weight[i];
}

// y [rows, width], gated by silu of z, whose rows are `z_stride` apart, and normalized within each of equal groups
// (grid.y) of a row (grid.x): after the gate, before it, or, without a weight, not at all.
extern "C" __global__ void gate(float* __restrict__ y, const float* __restrict__ z, const float* __restrict__ weight,
                                u32 width, u32 z_stride, float eps, u32 is_norm_first) {
    DYNAMIC_SHARED(float, room);
    u32 size = width / gridDim.y, start = blockIdx.y * size;
    y += u64(blockIdx.x) * width + start;
    z += u64(blockIdx.x) * z_stride + start;
    if (!weight) {
        for (u32 i = threadIdx.x; i < size; i += blockDim.x) y[i] *= silu(z[i]);
        return;
    }
    weight += start;
    float squares = 0;
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) {
        float own = is_norm_first ? y[i] : y[i] * silu(z[i]);
        squares = fmaf(own, own, squares);
    }
    float scale = 1.0f / sqrtf(block_sum(squares, room) / size + eps);
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) y[i] = y[i] * silu(z[i]) * scale * weight[i];
}

// up = silu(gate · factor) · up.
extern "C" __global__ void swiglu(const float* __restrict__ gate, float* __restrict__ up, u64 count, float factor) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) up[i] *= silu(gate[i] * factor);
}

// y = x + y · factor.
extern "C" __global__ void add_to_scaled(const float* __restrict__ x, float* __restrict__ y, u64 count, float factor) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) y[i] = fmaf(y[i], factor, x[i]);
}

// Turns the first pairs of each vector of x [tokens, heads, width] by `cos` and `sin` [tokens, pairs]: a block for each
// vector (grid.x: token, grid.y: head), whose pairs are neighbours or lie `pairs` apart.
extern "C" __global__ void rotate(float* __restrict__ x, const float* __restrict__ cos, const float* __restrict__ sin,
                                  u32 width, u32 pairs, u32 are_neighbours) {
    x += (u64(blockIdx.x) * gridDim.y + blockIdx.y) * width;
    for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        u32 first = are_neighbours ? 2 * pair : pair, second = are_neighbours ? first + 1 : pair + pairs;
        float c = cos[u64(blockIdx.x) * pairs + pair], s = sin[u64(blockIdx.x) * pairs + pair];
        float a = x[first], b = x[second];
        x[first] = a * c - b * s;
        x[second] = a * s + b * c;
    }
}
