// What there is to know of logits: the largest of them, and a sum over all.
#include "sampling.cuh"

// What a part of the logits comes to: the largest, the sum of all weights, and whether any is no number.
struct Survey {
    double total;
    float largest;
    u32 has_nan;
};

// So many neighbours are of one part, and those after them of the next: tokens that were made together are often likely
// together, and each part is to have its share of the likely ones. It is what memory hands out at once.
constexpr u32 RUN = 8;

// Infinity minus itself is no number: the largest logits weigh 1 without arithmetic.
__device__ __forceinline__ float weight(float logit, float largest) {
    if (!(logit > -INFINITY)) return 0;
    return logit == largest ? 1.0f : expf(logit - largest);
}

// A part for each block.
extern "C" __global__ void __launch_bounds__(128) survey(const float* __restrict__ logits, Survey* __restrict__ parts,
                                                         u32 count) {
    DYNAMIC_SHARED(double, sums);  // a number for each warp, then a largest logit for each
    float* maxima = reinterpret_cast<float*>(sums + blockDim.x / WARP);
    u32 turn = gridDim.x * RUN, step = blockDim.x / RUN * turn;
    u32 first = blockIdx.x * RUN + threadIdx.x / RUN * turn + threadIdx.x % RUN;
    float largest = -INFINITY;
    double nans = 0, total = 0;
    for (u32 i = first; i < count; i += step) {
        largest = fmaxf(largest, logits[i]);
        nans += isnan(logits[i]);
    }
    largest = block_max(largest, maxima);
    for (u32 i = first; i < count; i += step) total += weight(logits[i], largest);
    nans = block_sum(nans, sums);
    total = block_sum(total, sums);
    if (threadIdx.x == 0) parts[blockIdx.x] = {total, largest, nans > 0};
}

// From all parts, a thread for each: the floor is the largest logit of the part that comes at `best` by it, as there are
// then `best` logits that are no smaller.
extern "C" __global__ void __launch_bounds__(256) set_floor(const Survey* __restrict__ parts, Head* __restrict__ head,
                                                            u32 best) {
    DYNAMIC_SHARED(double, sums);  // a number for each warp, then the largest logit of each part
    float* maxima = reinterpret_cast<float*>(sums + blockDim.x / WARP);
    u32 own = threadIdx.x, before = 0;
    Survey part = parts[own];
    maxima[own] = part.largest;
    __syncthreads();
    float largest = -INFINITY;
    for (u32 i = 0; i < blockDim.x; i++) {
        largest = fmaxf(largest, maxima[i]);
        before += maxima[i] > part.largest || (maxima[i] == part.largest && i < own);
    }
    double nans = block_sum(double(part.has_nan), sums);
    double total = block_sum(part.total * weight(part.largest, largest), sums);
    if (before + 1 == best) *head = {total, largest, part.largest, 0, nans > 0};
}

// Lists the possible tokens from the floor on, in no order, as far as there is room.
extern "C" __global__ void list_best(const float* __restrict__ logits, Head* head, Entry* __restrict__ list, u32 count,
                                     u32 room) {
    u32 token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= count) return;
    float logit = logits[token];
    if (!(logit >= head->floor && logit > -INFINITY)) return;
    u32 place = atomicAdd(&head->listed, 1);
    if (place < room) list[place] = {token, logit};
}
