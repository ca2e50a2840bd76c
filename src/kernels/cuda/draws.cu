// Draws a token as `src/sampling` does on the CPU, bit for bit: weights are the same, and are summed up in the same order.
#include "sampling.cuh"

// As `softmax.rs` has them. A block of weights is not one of threads.
constexpr u32 LANES = 16, BLOCK = 64, BLOCKS = 64, STRETCH = BLOCK * BLOCKS;

// The numbers of a stretch in shared memory.
constexpr u32 STRETCH_ROOM = BLOCKS + BLOCKS * LANES;

struct Drawn {
    u32 token;
    float logit;
    u32 has_nan, is_drawn;
};

// Rounded twice, as on the CPU: of `a * b + c` the compiler would make one operation. So it would of a product and the
// difference that is made of it later, which is why none is written with `*`.
__device__ __forceinline__ float times_plus(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

// `exp` of `softmax.rs`.
__device__ __forceinline__ float exp_as_on_cpu(float x) {
    constexpr float ROUND = 12582912.0f;
    float rounded = times_plus(x, 1.44269504f, ROUND);
    float n = rounded - ROUND;
    float r = times_plus(-2.1219444e-4f, -n, times_plus(0.6933594f, -n, x));
    float polynomial = times_plus(1.9875691e-4f, r, 1.3982e-3f);
    polynomial = times_plus(polynomial, r, 8.333452e-3f);
    polynomial = times_plus(polynomial, r, 4.1665796e-2f);
    polynomial = times_plus(polynomial, r, 1.6666665e-1f);
    polynomial = times_plus(polynomial, r, 0.5f);
    float power = __fadd_rn(times_plus(__fmul_rn(polynomial, r), r, r), 1.0f);
    return x > -87.0f ? __uint_as_float(__float_as_uint(power) + (__float_as_uint(rounded) << 23)) : 0.0f;
}

// How logits become weights, besides the largest of them: those further below it than `within` weigh nothing.
struct Weighing {
    double within;
    float per_temperature;
};

// `Softmax` of the CPU.
struct Softmax {
    float largest, per_temperature, least;

    __device__ Softmax(float largest, Weighing weighing)
        : largest(largest),
          per_temperature(weighing.per_temperature),
          least(weighing.within < INFINITY ? float(largest - weighing.within) : -INFINITY) {}

    __device__ float weight(float logit) const {
        if (!(logit >= least && logit > -INFINITY)) return 0;
        // Infinity minus itself is no number.
        return logit == largest ? 1.0f : exp_as_on_cpu(__fmul_rn(logit - largest, per_temperature));
    }
};

__device__ __forceinline__ double sum_of(const double* numbers, u32 count) {
    double sum = 0;
#pragma unroll 8
    for (u32 i = 0; i < count; i++) sum += numbers[i];
    return sum;
}

// `reach` of the CPU: where the masses, laid end to end, reach the target, of which what is missing there is left.
__device__ __forceinline__ u32 reach(const double* masses, u32 count, double& target) {
    u32 place = 0;
    double missing = target;
#pragma unroll 8
    for (u32 i = 0; i < count; i++) {
        if (masses[i] > 0) {
            place = i;
            target = missing;
            if (masses[i] >= missing) break;
        }
        missing -= masses[i];
    }
    return place;
}

// A stretch of weights, summed up by a block of threads.
template <typename Weight>
struct Stretch {
    const Weight& weight;  // of each place, 0 behind the last
    double* masses;        // of the blocks
    double* lanes;         // those of each block

    __device__ Stretch(const Weight& weight, double* room) : weight(weight), masses(room), lanes(room + BLOCKS) {
        __syncthreads();
        for (u32 lane = threadIdx.x; lane < BLOCKS * LANES; lane += blockDim.x) {
            u32 first = lane / LANES * BLOCK + lane % LANES;
            lanes[lane] = 0;
            for (u32 i = first; i < first + BLOCK; i += LANES) lanes[lane] += weight(i);
        }
        __syncthreads();
        for (u32 block = threadIdx.x; block < BLOCKS; block += blockDim.x)
            masses[block] = sum_of(lanes + block * LANES, LANES);
        __syncthreads();
    }

    __device__ double total() const { return sum_of(masses, BLOCKS); }

    __device__ u32 place(double target) const {
        u32 first = reach(masses, BLOCKS, target) * BLOCK;
        for (u32 i = threadIdx.x; i < BLOCK; i += blockDim.x) lanes[i] = weight(first + i);
        __syncthreads();
        return first + reach(lanes, BLOCK, target);
    }

    __device__ u32 place_at(double share) const { return place(__dmul_rn(share, total())); }
};

__device__ __forceinline__ u32 stretches_of(u32 count) { return (count + STRETCH - 1) / STRETCH; }

// The weights of a stretch of the logits.
struct Weights {
    const float* logits;
    u32 count;
    Softmax softmax;

    __device__ Weights(const float* logits, u32 count, Softmax softmax, u32 stretch)
        : logits(logits + stretch * STRETCH), count(count - stretch * STRETCH), softmax(softmax) {}

    __device__ double operator()(u32 place) const { return place < count ? softmax.weight(logits[place]) : 0; }
};

// The weights of each stretch, summed up.
extern "C" __global__ void __launch_bounds__(256) weigh_stretches(const float* __restrict__ logits,
                                                                  const Head* __restrict__ head,
                                                                  double* __restrict__ totals, u32 count,
                                                                  Weighing weighing) {
    DYNAMIC_SHARED(double, room);
    Weights weights(logits, count, Softmax(head->largest, weighing), blockIdx.x);
    Stretch stretch(weights, room);
    if (threadIdx.x == 0) totals[blockIdx.x] = stretch.total();
}

// From all logits.
extern "C" __global__ void __launch_bounds__(256) draw_from_all(const float* __restrict__ logits,
                                                                const Head* __restrict__ head,
                                                                const double* __restrict__ totals,
                                                                Drawn* __restrict__ drawn, u32 count, Weighing weighing,
                                                                double unit) {
    DYNAMIC_SHARED(double, room);
    double target = __dmul_rn(unit, sum_of(totals, stretches_of(count)));
    u32 number = reach(totals, stretches_of(count), target);
    Weights weights(logits, count, Softmax(head->largest, weighing), number);
    u32 token = number * STRETCH + Stretch(weights, room).place(target);
    if (threadIdx.x == 0) *drawn = {token, logits[token], head->has_nan, true};
}

__device__ __forceinline__ bool is_better(Entry a, Entry b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

__device__ __forceinline__ bool is_earlier(Entry a, Entry b) { return a.token < b.token; }

// The first so many of them in this order.
template <typename Before>
__device__ __forceinline__ void order(const Entry* from, u32 count, Before before, Entry* to, u32 kept) {
    for (u32 own = threadIdx.x; own < count; own += blockDim.x) {
        u32 place = 0;
        for (u32 other = 0; other < count; other++) place += before(from[other], from[own]);
        if (place < kept) to[place] = from[own];
    }
}

// The weights of so many that are listed.
struct ListedWeights {
    const Entry* list;
    u32 count;
    Softmax softmax;

    __device__ double operator()(u32 place) const { return place < count ? softmax.weight(list[place].logit) : 0; }
};

// From the best `top_k`, unless more are listed than there was room for.
extern "C" __global__ void __launch_bounds__(256) draw_from_best(const float* __restrict__ logits,
                                                                 const Head* __restrict__ head,
                                                                 const Entry* __restrict__ list,
                                                                 Drawn* __restrict__ drawn, u32 most, Weighing weighing,
                                                                 u32 top_k, double top_p, double unit) {
    DYNAMIC_SHARED(double, room);  // of a stretch, then the best [most]
    Entry* best = reinterpret_cast<Entry*>(room + STRETCH_ROOM);
    u32 listed = min(head->listed, most);
    ListedWeights weights = {best, min(top_k, listed), Softmax(head->largest, weighing)};
    order(list, listed, is_better, best, weights.count);
    if (top_p < 1) weights.count = min(weights.count, Stretch(weights, room).place_at(top_p) + 1);
    u32 place = Stretch(weights, room).place_at(unit), token = place < weights.count ? best[place].token : 0;
    if (threadIdx.x == 0) *drawn = {token, logits[token], head->has_nan, head->listed <= most};
}

// From the best that together reach `top_p` of the weight of all, unless those that are listed don't reach it.
extern "C" __global__ void __launch_bounds__(256) draw_from_nucleus(const float* __restrict__ logits,
                                                                    const Head* __restrict__ head,
                                                                    const Entry* __restrict__ list,
                                                                    const double* __restrict__ totals,
                                                                    Drawn* __restrict__ drawn, u32 count, u32 most,
                                                                    Weighing weighing, double top_p, double unit) {
    DYNAMIC_SHARED(double, room);  // of a stretch, then the best [most], then the nucleus [most]
    Entry *best = reinterpret_cast<Entry*>(room + STRETCH_ROOM), *nucleus = best + most;
    u32 listed = min(head->listed, most);
    double target = __dmul_rn(top_p, sum_of(totals, stretches_of(count)));
    ListedWeights weights = {best, listed, Softmax(head->largest, weighing)};
    order(list, listed, is_better, best, listed);
    Stretch all(weights, room);
    bool is_drawn = head->listed <= most && all.total() >= target;
    weights = {nucleus, min(listed, all.place(target) + 1), weights.softmax};
    order(best, weights.count, is_earlier, nucleus, weights.count);
    u32 place = Stretch(weights, room).place_at(unit), token = place < weights.count ? nucleus[place].token : 0;
    if (threadIdx.x == 0) *drawn = {token, logits[token], head->has_nan, is_drawn};
}
