// Attention over a growing cache, for one query a head. Keys are split among blocks, whose parts are joined at the end
// (https://pytorch.org/blog/flash-decoding/): a long sequence keeps the whole device busy.
#include "common.cuh"

constexpr u32 MOST_OF_A_LANE = 20;  // numbers of a row of keys or values: widths of up to 640

// Of keys and values, heads and rows are so many numbers apart.
struct Rows {
    u64 head_stride, stride;
};

// A part of a softmax: the largest score, the sum of e^(score − largest), and, elsewhere, the values by the same shares.
struct Part {
    float largest, sum;
};

// Takes one key and its value into a part whose values are spread over the lanes of a warp.
__device__ __forceinline__ void take(Part& part, float (&values)[MOST_OF_A_LANE], float score, const float* value,
                                     u32 width, u32 lane) {
    float largest = fmaxf(part.largest, score), old = expf(part.largest - largest), own = expf(score - largest);
    part = {largest, part.sum * old + own};
#pragma unroll
    for (u32 i = 0; i < MOST_OF_A_LANE; i++)
        if (lane + i * WARP < width) values[i] = values[i] * old + own * value[lane + i * WARP];
}

// One part for each head (grid.x) and span of keys (grid.y): `parts` [heads, spans] and `sums` [heads, spans, value_width].
extern "C" __global__ void __launch_bounds__(128) attend(const float* __restrict__ q, const float* __restrict__ k,
                                                         const float* __restrict__ v, Part* __restrict__ parts,
                                                         float* __restrict__ sums, Rows keys, Rows values, u32 width,
                                                         u32 value_width, u32 n_keys, u32 group, float scale) {
    DYNAMIC_SHARED(float, room);  // [warps, 2 + value_width]
    u32 head = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    u32 span = (n_keys + gridDim.y - 1) / gridDim.y, first = blockIdx.y * span, end = min(n_keys, first + span);
    q += u64(head) * width;
    k += head / group * keys.head_stride;
    v += head / group * values.head_stride;

    float query[MOST_OF_A_LANE], own[MOST_OF_A_LANE] = {};
#pragma unroll
    for (u32 i = 0; i < MOST_OF_A_LANE; i++) query[i] = lane + i * WARP < width ? q[lane + i * WARP] * scale : 0;
    Part part = {-INFINITY, 0};
    for (u32 key = first + warp; key < end; key += warps) {
        const float* row = k + key * keys.stride;
        float score = 0;
#pragma unroll
        for (u32 i = 0; i < MOST_OF_A_LANE; i++)
            if (lane + i * WARP < width) score = fmaf(query[i], row[lane + i * WARP], score);
        take(part, own, warp_sum(score), v + key * values.stride, value_width, lane);
    }

    float* mine = room + warp * (2 + value_width);
    if (lane == 0) {
        mine[0] = part.largest;
        mine[1] = part.sum;
    }
#pragma unroll
    for (u32 i = 0; i < MOST_OF_A_LANE; i++)
        if (lane + i * WARP < value_width) mine[2 + lane + i * WARP] = own[i];
    __syncthreads();
    float largest = -INFINITY, sum = 0;
    for (u32 w = 0; w < warps; w++) largest = fmaxf(largest, room[w * (2 + value_width)]);
    // A warp that had no key has −∞, and so has a span without keys.
    auto share = [&](u32 w) {
        float other = room[w * (2 + value_width)];
        return other == -INFINITY ? 0.0f : expf(other - largest);
    };
    for (u32 w = 0; w < warps; w++) sum += share(w) * room[w * (2 + value_width) + 1];
    u64 place = u64(head) * gridDim.y + blockIdx.y;
    for (u32 at = threadIdx.x; at < value_width; at += blockDim.x) {
        float value = 0;
        for (u32 w = 0; w < warps; w++) value = fmaf(share(w), room[w * (2 + value_width) + 2 + at], value);
        sums[place * value_width + at] = value;
    }
    if (threadIdx.x == 0) parts[place] = {largest, sum};
}

// Joins the parts of each head (grid.x): y [heads, value_width].
extern "C" __global__ void join(const Part* __restrict__ parts, const float* __restrict__ sums, float* __restrict__ y,
                                u32 spans, u32 value_width) {
    parts += u64(blockIdx.x) * spans;
    sums += u64(blockIdx.x) * spans * value_width;
    float largest = -INFINITY, total = 0;
    for (u32 span = 0; span < spans; span++) largest = fmaxf(largest, parts[span].largest);
    for (u32 span = 0; span < spans; span++) total += expf(parts[span].largest - largest) * parts[span].sum;
    for (u32 at = threadIdx.x; at < value_width; at += blockDim.x) {
        float value = 0;
        for (u32 span = 0; span < spans; span++)
            value = fmaf(expf(parts[span].largest - largest), sums[u64(span) * value_width + at], value);
        y[u64(blockIdx.x) * value_width + at] = value / total;
    }
}

// Softmax in place over scores [heads, tokens, keys] (grid.y: head, grid.x: token), whose last key is the last token's
// own: a token sees its own key and those before it, so many in all where there is a window.
extern "C" __global__ void causal_softmax(float* __restrict__ scores, u32 tokens, u32 keys, u32 window) {
    DYNAMIC_SHARED(float, room);
    u32 token = blockIdx.x, own = keys - tokens + token, first = own + 1 > window ? own + 1 - window : 0;
    scores += (u64(blockIdx.y) * tokens + token) * keys;
    float largest = -INFINITY;
    for (u32 key = first + threadIdx.x; key <= own; key += blockDim.x) largest = fmaxf(largest, scores[key]);
    largest = block_max(largest, room);
    float sum = 0;
    for (u32 key = first + threadIdx.x; key <= own; key += blockDim.x) sum += scores[key] = expf(scores[key] - largest);
    sum = block_sum(sum, room);
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x)
        scores[key] = key < first || key > own ? 0 : scores[key] / sum;
}
