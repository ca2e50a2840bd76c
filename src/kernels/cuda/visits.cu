// A mixture of experts for the tokens of a prompt. A visit is a token with one of its chosen experts, numbered by token
// and then by choice. Visits are gathered by expert, and a block gives some outputs of a batch of them.
#include "common.cuh"
#include "square.cuh"

// Visits to one expert, at most SQUARE, from `first` on in the order of all; of none there is nothing to do.
struct Batch {
    u32 expert, first, count;
};

__device__ __forceinline__ u32 batches_of(u32 visits) { return (visits + SQUARE - 1) / SQUARE; }

// From the expert of each visit to the visits in the order of experts, each expert's in their own order, and to as many
// batches as there can be: a block for each expert (grid.x).
extern "C" __global__ void __launch_bounds__(256) gather(const u32* __restrict__ ids, u32* __restrict__ order,
                                                         Batch* __restrict__ batches, u32 visits, u32 n_batches) {
    DYNAMIC_SHARED(u32, counts);  // of each expert's visits, then of those that each thread finds, then room for sums
    u32 experts = gridDim.x, own = blockIdx.x, *found = counts + experts, *room = found + blockDim.x;
    for (u32 i = threadIdx.x; i < experts; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < visits; i += blockDim.x) atomicAdd(&counts[ids[i]], 1);
    __syncthreads();

    u32 first = 0, batch = 0;
    for (u32 i = threadIdx.x; i < own; i += blockDim.x) {
        first += counts[i];
        batch += batches_of(counts[i]);
    }
    first = block_sum(first, room);
    batch = block_sum(batch, room);
    u32 n_own = batches_of(counts[own]);
    for (u32 i = threadIdx.x; i < n_own; i += blockDim.x)
        batches[batch + i] = {own, first + i * SQUARE, min(SQUARE, counts[own] - i * SQUARE)};
    if (own == experts - 1)
        for (u32 i = batch + n_own + threadIdx.x; i < n_batches; i += blockDim.x) batches[i] = {};

    u32 span = (visits + blockDim.x - 1) / blockDim.x;
    u32 begin = min(threadIdx.x * span, visits), end = min(begin + span, visits), n_found = 0;
    for (u32 i = begin; i < end; i++) n_found += ids[i] == own;
    found[threadIdx.x] = n_found;
    __syncthreads();
    u32 at = first;
    for (u32 i = 0; i < threadIdx.x; i++) at += found[i];
    for (u32 i = begin; i < end; i++)
        if (ids[i] == own) order[at++] = i;
}

// What visits ask of their experts.
struct Visits {
    const Batch* batches;
    const u32* order;
    u32 of_a_row;  // so many visits share a row of activations
    u32 n_in, n_out;
};

// What an expert's products become: silu(gate · factor) · up, relu(up)², or what they are.
struct Gated {
    static constexpr u32 MATRICES = 2;
    float factor;
    __device__ float of(const float (&products)[2]) const { return silu(products[0] * factor) * products[1]; }
};

struct SquaredRelu {
    static constexpr u32 MATRICES = 1;
    __device__ float of(const float (&products)[1]) const {
        return products[0] > 0 ? products[0] * products[0] : 0;
    }
};

struct Plain {
    static constexpr u32 MATRICES = 1;
    __device__ float of(const float (&products)[1]) const { return products[0]; }
};

// Weights of bf16 that meet activations rounded to bf16.
struct rounded;

template <typename T, u32 MATRICES>
struct Chosen {
    using Products = InF32<T, MATRICES>;
};

template <u32 MATRICES>
struct Chosen<rounded, MATRICES> {
    using Products = OnTensorCores<MATRICES>;
};

template <typename T>
using Activation = typename Chosen<T, 1>::Products::X;

__device__ __forceinline__ void set(float& y, float value) { y = value; }
__device__ __forceinline__ void set(bf16& y, float value) { y = narrow(value); }

// For a batch (grid.y) and SQUARE outputs (grid.x), y [visits, n_out] = finish(W [n_out, n_in] · x [.., n_in]) of the
// matrices that `tables` have for the batch's expert.
template <typename T, typename Finish, typename Y>
__device__ __forceinline__ void answer(const Visits& visits, const u64* const (&tables)[Finish::MATRICES],
                                       const Activation<T>* x, Y* y, Finish finish) {
    using Products = typename Chosen<T, Finish::MATRICES>::Products;
    using W = typename Products::W;
    Batch batch = visits.batches[blockIdx.y];
    if (batch.count == 0) return;
    u32 n_in = visits.n_in, n_out = visits.n_out, first = blockIdx.x * SQUARE;
    const u32* order = visits.order + batch.first;
    Operands<Products, Finish::MATRICES> operands;
    // Behind the last row, it stands in for others.
    operands.x.begin([&](u32 row) { return x + u64(order[min(row, batch.count - 1)] / visits.of_a_row) * n_in; });
    for (u32 matrix = 0; matrix < Finish::MATRICES; matrix++) {
        const W* w = reinterpret_cast<const W*>(tables[matrix][batch.expert]);
        operands.w[matrix].begin([&](u32 row) { return w + u64(min(first + row, n_out - 1)) * n_in; });
    }
    const float* results = multiply(operands, n_in, finish);
    for (u32 i = threadIdx.x; i < batch.count * SQUARE; i += blockDim.x) {
        u32 row = i / SQUARE, output = i % SQUARE;
        if (first + output < n_out)
            set(y[u64(order[row]) * n_out + first + output], results[row * RESULT_STRIDE + output]);
    }
}

#define VISITS(T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(SQUARE_BLOCK) visits_gated_##T(                           \
        Visits visits, const u64* __restrict__ gates, const u64* __restrict__ ups,                         \
        const Activation<T>* __restrict__ x, Activation<T>* __restrict__ y, float factor) {                \
        answer<T>(visits, {gates, ups}, x, y, Gated{factor});                                              \
    }                                                                                                      \
    extern "C" __global__ void __launch_bounds__(SQUARE_BLOCK) visits_squared_##T(                         \
        Visits visits, const u64* __restrict__ ups, const Activation<T>* __restrict__ x,                   \
        Activation<T>* __restrict__ y) {                                                                   \
        answer<T>(visits, {ups}, x, y, SquaredRelu());                                                     \
    }                                                                                                      \
    extern "C" __global__ void __launch_bounds__(SQUARE_BLOCK) visits_times_##T(                           \
        Visits visits, const u64* __restrict__ table, const Activation<T>* __restrict__ x,                 \
        float* __restrict__ y) {                                                                           \
        answer<T>(visits, {table}, x, y, Plain());                                                         \
    }

VISITS(float)
VISITS(f16)
VISITS(bf16)
VISITS(rounded)
