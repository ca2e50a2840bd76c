// A mixture of experts: whom tokens visit is decided here and stays here, and one token's visits are made here.
#include "common.cuh"
#include "product.cuh"

// How a router's logits become shares, as in `model/moe.rs`.
struct Routing {
    u32 experts, chosen, groups, kept, judged_by, is_sigmoid, is_normalized;
    float scale, smallest_sum;
};

// Where the largest of `values` first is. What is no number is passed over; where there are no others, it is the first.
__device__ __forceinline__ u32 first_largest(const float* values, u32 count, u32 lane) {
    float largest = -INFINITY;
    u32 where = count;
    for (u32 i = lane; i < count; i += WARP)
        if (values[i] > largest || (where == count && !isnan(values[i]))) {
            largest = values[i];
            where = i;
        }
    for (u32 step = WARP / 2; step > 0; step /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, largest, step);
        u32 there = __shfl_xor_sync(ALL_LANES, where, step);
        if (there < count && (where == count || other > largest || (other == largest && there < where))) {
            largest = other;
            where = there;
        }
    }
    return where < count ? where : 0;
}

// A group is as good as the sum of so many of its best: a thread for each group.
__device__ __forceinline__ float worth(const float* values, u32 count, u32 judged_by) {
    float sum = 0, below = INFINITY;
    u32 taken = 0;
    while (taken < min(judged_by, count)) {
        float next = -INFINITY;
        u32 times = 0;
        for (u32 i = 0; i < count; i++) {
            if (!(values[i] < below)) continue;
            times = values[i] > next ? 1 : times + (values[i] == next);
            next = fmaxf(next, values[i]);
        }
        if (times == 0) break;
        times = min(times, judged_by - taken);
        sum += next * times;
        taken += times;
        below = next;
    }
    return sum;
}

// From each token's logits [experts] to the chosen ones and their shares [chosen]: a warp for each token (grid.x).
extern "C" __global__ void choose(const float* __restrict__ logits, const float* __restrict__ correction,
                                  u32* __restrict__ ids, float* __restrict__ shares, Routing routing) {
    DYNAMIC_SHARED(float, scores);  // [experts], then what is left of the corrected ones, then the worth of groups
    float *left = scores + routing.experts, *worths = left + routing.experts;
    u32 lane = threadIdx.x, experts = routing.experts;
    logits += u64(blockIdx.x) * experts;
    ids += blockIdx.x * routing.chosen;
    shares += blockIdx.x * routing.chosen;
    float largest = -INFINITY, sum = 0;
    for (u32 i = lane; i < experts; i += WARP) largest = fmaxf(largest, logits[i]);
    largest = warp_max(largest);
    for (u32 i = lane; i < experts; i += WARP) {
        scores[i] = routing.is_sigmoid ? 1.0f / (1.0f + expf(-logits[i])) : expf(logits[i] - largest);
        sum += scores[i];
    }
    sum = routing.is_sigmoid ? 1.0f : warp_sum(sum);
    for (u32 i = lane; i < experts; i += WARP) {
        scores[i] /= sum;
        left[i] = scores[i] + correction[i];
    }
    __syncwarp();

    if (routing.groups > 1) {
        u32 size = experts / routing.groups;
        for (u32 group = lane; group < routing.groups; group += WARP)
            worths[group] = worth(left + group * size, size, routing.judged_by);
        __syncwarp();
        for (u32 round = 0; round < routing.kept; round++) {
            u32 group = first_largest(worths, routing.groups, lane);
            __syncwarp();
            if (lane == 0) worths[group] = NAN;
            __syncwarp();
        }
        for (u32 i = lane; i < experts; i += WARP)
            if (!isnan(worths[i / size])) left[i] = -INFINITY;
        __syncwarp();
    }

    float total = 0;
    for (u32 round = 0; round < routing.chosen; round++) {
        u32 expert = first_largest(left, experts, lane);
        __syncwarp();
        if (lane == 0) {
            left[expert] = NAN;
            ids[round] = expert;
            shares[round] = scores[expert];
        }
        total += scores[expert];
        __syncwarp();
    }
    float factor = routing.scale / fmaxf(routing.is_normalized ? total : 1.0f, routing.smallest_sum);
    for (u32 i = lane; i < routing.chosen; i += WARP) shares[i] *= factor;
}

// For each chosen expert (grid.y), y [chosen, n_out] = W [n_out, n_in] · x, where `table` has the addresses of all
// experts' matrices; rows of x are `x_stride` apart.
template <typename T>
__device__ __forceinline__ void chosen_row_times(const u64* table, const u32* ids, const float* x, float* y, u32 n_in,
                                                 u32 n_out, u32 x_stride) {
    const T* w = reinterpret_cast<const T*>(table[ids[blockIdx.y]]);
    row_times(w, 0, x + u64(blockIdx.y) * x_stride, Norm(), After(), y + u64(blockIdx.y) * n_out, n_in, n_out);
}

// As `gated`, for each chosen expert (grid.y), of the same x.
template <typename T>
__device__ __forceinline__ void chosen_gated(const u64* gates, const u64* ups, const u32* ids, const float* x, float* y,
                                             u32 n_in, u32 n_out, float factor) {
    u32 expert = ids[blockIdx.y];
    gated(reinterpret_cast<const T*>(gates[expert]), reinterpret_cast<const T*>(ups[expert]), x, Norm(),
          y + u64(blockIdx.y) * n_out, n_in, n_out, factor);
}

#define CHOSEN(T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) chosen_row_times_##T(                                     \
        const u64* __restrict__ table, const u32* __restrict__ ids, const float* __restrict__ x,                \
        float* __restrict__ y, u32 n_in, u32 n_out, u32 x_stride) {                                             \
        chosen_row_times<T>(table, ids, x, y, n_in, n_out, x_stride);                                           \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(128) chosen_gated_##T(                                         \
        const u64* __restrict__ gates, const u64* __restrict__ ups, const u32* __restrict__ ids,                \
        const float* __restrict__ x, float* __restrict__ y, u32 n_in, u32 n_out, float factor) {                \
        chosen_gated<T>(gates, ups, ids, x, y, n_in, n_out, factor);                                            \
    }

CHOSEN(float)
CHOSEN(f16)
CHOSEN(bf16)
CHOSEN(q8_0)
CHOSEN(q4_k)
CHOSEN(q5_k)
CHOSEN(q6_k)

// x = relu(x)².
extern "C" __global__ void squared_relu(float* __restrict__ x, u64 count) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) x[i] = x[i] > 0 ? x[i] * x[i] : 0;
}

// y [size] = Σ shares · answers [chosen, size] of each token (grid.x).
extern "C" __global__ void weigh(const float* __restrict__ answers, const float* __restrict__ shares,
                                 float* __restrict__ y, u32 chosen, u32 size) {
    u32 i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= size) return;
    u64 first = u64(blockIdx.x) * chosen;
    float sum = 0;
    for (u64 visit = first; visit < first + chosen; visit++) sum = fmaf(shares[visit], answers[visit * size + i], sum);
    y[u64(blockIdx.x) * size + i] = sum;
}
