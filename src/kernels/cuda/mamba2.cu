// Mamba2 (https://arxiv.org/abs/2405.21060) between its projections. One token goes through the recurrence in one pass
// over the state, several in chunks of matrix products (section 6, "SSD"), all chunks at once but for what one hands to
// the next. Δ and the logarithms of the decays are f64: within a chunk the decay between two tokens is a difference of
// sums.
#include "common.cuh"

constexpr u32 CHUNK = 128;  // tokens

struct Sizes {
    u32 tokens, heads, head_dim, state_size, groups;

    __device__ u32 inner() const { return heads * head_dim; }
    __device__ u32 shared() const { return groups * state_size; }
    __device__ u32 conv_dim() const { return inner() + 2 * shared(); }
    __device__ u32 group(u32 head) const { return head / (heads / groups); }
    __device__ u32 chunk_tokens(u32 chunk) const { return min(CHUNK, tokens - chunk * CHUNK); }
};

// ---------------------------------------------------------------------------------------------------- convolution

// What the causal depthwise convolution takes in: rows of x, `stride` apart, behind a state [kept, channels], by taps
// [kept + 1, channels].
struct Convolution {
    const float *x, *state, *taps, *bias;
    u32 tokens, channels, stride, kept;

    __device__ float input(u32 at, u32 channel) const {
        return at < kept ? state[at * channels + channel] : x[u64(at - kept) * stride + channel];
    }

    // The output of one channel at one token, with its SiLU.
    __device__ float at(u32 token, u32 channel) const {
        float sum = bias ? bias[channel] : 0;
        for (u32 tap = 0; tap <= kept; tap++)
            sum = fmaf(input(token + tap, channel), taps[tap * channels + channel], sum);
        return silu(sum);
    }

    // The state of one channel after all tokens goes to `next`, which is other memory: others still read this one.
    __device__ void keep(float* next, u32 channel) const {
        for (u32 at = 0; at < kept; at++) next[at * channels + channel] = input(tokens + at, channel);
    }
};

// y [tokens, channels] and the state that is left.
extern "C" __global__ void convolve(Convolution convolution, float* __restrict__ next, float* __restrict__ y) {
    u32 channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= convolution.channels) return;
    for (u32 token = blockIdx.y; token < convolution.tokens; token += gridDim.y)
        y[u64(token) * convolution.channels + channel] = convolution.at(token, channel);
    if (blockIdx.y == 0) convolution.keep(next, channel);
}

// ------------------------------------------------------------------------------------------------------ recurrence

// Δ = clip(softplus(dt + bias)).
__device__ __forceinline__ double discretize(float dt, double bias, double low, double high) {
    double sum = dt + bias;
    return fmin(fmax(fmax(sum, 0.0) + log1p(exp(-fabs(sum))), low), high);
}

// One token of z, x, B, C and Δ side by side, `projected`: after the convolution S ← e^(Δ·A) · S + Δ · x ⊗ B and
// y = S · C + D · x, with S [heads, head_dim, state_size], gated by silu(z) where asked for. A warp for each row of S:
// grid.x has the heads, grid.y the warps' rows. Every block convolves its B and C itself.
extern "C" __global__ void __launch_bounds__(512) step(float* __restrict__ state, const float* __restrict__ projected,
                                                       Convolution convolution, float* __restrict__ next,
                                                       const double* __restrict__ dt_bias, const double* __restrict__ a,
                                                       const float* __restrict__ d, float* __restrict__ y, Sizes sizes,
                                                       u32 is_gated, double low, double high) {
    DYNAMIC_SHARED(float, b);  // [2, state_size]: B and C; then Δ and the decay, as arithmetic in f64 is slow
    float *c = b + sizes.state_size, *times = c + sizes.state_size;
    u32 head = blockIdx.x, lane = threadIdx.x % WARP, row = (blockIdx.y * blockDim.x + threadIdx.x) / WARP;
    u32 own_channel = head * sizes.head_dim + row, group = sizes.group(head);
    bool is_first_of_group = blockIdx.y == 0 && (head == 0 || sizes.group(head - 1) != group);
    for (u32 i = threadIdx.x; i < 2 * sizes.state_size; i += blockDim.x) {
        u32 of_c = i / sizes.state_size;
        u32 channel = sizes.inner() + of_c * sizes.shared() + group * sizes.state_size + i % sizes.state_size;
        b[i] = convolution.at(0, channel);
        if (is_first_of_group) convolution.keep(next, channel);
    }
    if (threadIdx.x == blockDim.x - 1) {
        double delta = discretize(projected[sizes.inner() + sizes.conv_dim() + head], dt_bias[head], low, high);
        times[0] = delta;
        times[1] = exp(delta * a[head]);
    }
    __syncthreads();
    if (row >= sizes.head_dim) return;
    float x = convolution.at(0, own_channel), decay = times[1], input = times[0] * x;
    state += u64(own_channel) * sizes.state_size;
    float sum = 0;
    for (u32 i = lane; i < sizes.state_size; i += WARP) {
        float own = fmaf(input, b[i], decay * state[i]);
        state[i] = own;
        sum = fmaf(own, c[i], sum);
    }
    sum = fmaf(d[head], x, warp_sum(sum));
    if (lane > 0) return;
    y[own_channel] = is_gated ? sum * silu(projected[own_channel]) : sum;
    convolution.keep(next, own_channel);
}

// ----------------------------------------------------------------------------------------------------- several tokens

// Δ of every token [heads, tokens] and the sums of Δ · A from its chunk's start up to and with it, a block of CHUNK
// threads for each head (grid.x) and chunk (grid.y). Rows of dt are `stride` apart.
extern "C" __global__ void scan_times(const float* __restrict__ dt, const double* __restrict__ dt_bias,
                                      const double* __restrict__ a, float* __restrict__ deltas,
                                      double* __restrict__ sums, Sizes sizes, u32 stride, double low, double high) {
    DYNAMIC_SHARED(double, parts);
    u32 head = blockIdx.x, own = threadIdx.x, token = blockIdx.y * CHUNK + own;
    bool is_there = token < sizes.tokens;
    double delta = is_there ? discretize(dt[u64(token) * stride + head], dt_bias[head], low, high) : 0;
    double sum = delta * a[head];
    for (u32 step = 1; step < CHUNK; step *= 2) {
        parts[own] = sum;
        __syncthreads();
        if (own >= step) sum += parts[own - step];
        __syncthreads();
    }
    if (!is_there) return;
    deltas[u64(head) * sizes.tokens + token] = delta;
    sums[u64(head) * sizes.tokens + token] = sum;
}

constexpr u32 TILE = 64;   // rows and columns of a product that a block makes
constexpr u32 DEPTH = 16;  // of its terms, so many at a time
constexpr u32 SIDE = 4;    // rows and columns of each thread: a block has (TILE / SIDE)² = 256

// Terms of an operand; rows that are no multiple of all banks, so that two threads at most meet in one.
using Terms = float[DEPTH][TILE + 4];

struct alignas(16) Tile {
    Terms a, b;
};
static_assert(sizeof(Tile) == 2 * DEPTH * (TILE + 4) * sizeof(float), "what a launch asks for");

// What lies side by side in memory, and so is read by threads side by side: the terms of one row or column, or all rows or
// columns of one term.
enum class Beside { Terms, Places };

template <Beside beside, typename Operand>
__device__ __forceinline__ void fetch(Terms& terms, u32 start, u32 depth, Operand operand) {
    for (u32 i = threadIdx.x; i < TILE * DEPTH; i += blockDim.x) {
        u32 k = beside == Beside::Terms ? i % DEPTH : i / TILE;
        u32 place = beside == Beside::Terms ? i / DEPTH : i % TILE;
        terms[k][place] = start + k < depth ? operand(place, start + k) : 0;
    }
}

// Adds to `sums` a thread's part of Σ_k a(row, k) · b(column, k), k < depth, of a tile.
template <Beside of_a, Beside of_b, typename A, typename B>
__device__ __forceinline__ void add_product(Tile& tile, float (&sums)[SIDE][SIDE], u32 depth, A a, B b) {
    u32 row = threadIdx.x / (TILE / SIDE) * SIDE, column = threadIdx.x % (TILE / SIDE) * SIDE;
    for (u32 start = 0; start < depth; start += DEPTH) {
        fetch<of_a>(tile.a, start, depth, a);
        fetch<of_b>(tile.b, start, depth, b);
        __syncthreads();
        for (u32 k = 0; k < DEPTH; k++)
            for (u32 i = 0; i < SIDE; i++)
                for (u32 j = 0; j < SIDE; j++)
                    sums[i][j] = fmaf(tile.a[k][row + i], tile.b[k][column + j], sums[i][j]);
        __syncthreads();
    }
}

// Calls `put` with the place in the tile of each of a thread's sums.
template <typename Put>
__device__ __forceinline__ void for_each(const float (&sums)[SIDE][SIDE], Put put) {
    u32 row = threadIdx.x / (TILE / SIDE) * SIDE, column = threadIdx.x % (TILE / SIDE) * SIDE;
    for (u32 i = 0; i < SIDE; i++)
        for (u32 j = 0; j < SIDE; j++) put(row + i, column + j, sums[i][j]);
}

// C · Bᵀ of each chunk (grid.z) and group (grid.y): [chunks, groups, CHUNK, CHUNK], in tiles (grid.x).
extern "C" __global__ void __launch_bounds__(256) scan_scores(const float* __restrict__ xbc,
                                                              float* __restrict__ scores, Sizes sizes) {
    DYNAMIC_SHARED(Tile, tile);
    u32 chunk = blockIdx.z, group = blockIdx.y, tokens = sizes.chunk_tokens(chunk), width = sizes.conv_dim();
    u32 first_row = blockIdx.x / (CHUNK / TILE) * TILE, first_column = blockIdx.x % (CHUNK / TILE) * TILE;
    if (first_column > first_row) return;  // later tokens, which nobody asks for
    const float* b = xbc + u64(chunk) * CHUNK * width + sizes.inner() + group * sizes.state_size;
    const float* c = b + sizes.shared();
    float sums[SIDE][SIDE] = {};
    add_product<Beside::Terms, Beside::Terms>(
        *tile, sums, sizes.state_size,
        [&](u32 row, u32 k) { return first_row + row < tokens ? c[u64(first_row + row) * width + k] : 0; },
        [&](u32 column, u32 k) {
            return first_column + column < tokens ? b[u64(first_column + column) * width + k] : 0;
        });
    scores += (u64(chunk) * sizes.groups + group) * CHUNK * CHUNK;
    for_each(sums, [&](u32 row, u32 column, float sum) {
        scores[(first_row + row) * CHUNK + first_column + column] = sum;
    });
}

// What each chunk (grid.z) adds to the state of each head (grid.y), Σ_j e^(sum_last − sum_j) · Δ_j x_j ⊗ B_j: [chunks,
// heads, head_dim, state_size], in tiles (grid.x).
extern "C" __global__ void __launch_bounds__(256) scan_gains(const float* __restrict__ xbc,
                                                             const float* __restrict__ deltas,
                                                             const double* __restrict__ sums_of_logs,
                                                             float* __restrict__ gains, Sizes sizes) {
    DYNAMIC_SHARED(Tile, tile);
    u32 chunk = blockIdx.z, head = blockIdx.y, tokens = sizes.chunk_tokens(chunk), width = sizes.conv_dim();
    u32 across = (sizes.state_size + TILE - 1) / TILE;
    u32 first_row = blockIdx.x / across * TILE, first_column = blockIdx.x % across * TILE;
    const float* x = xbc + u64(chunk) * CHUNK * width + head * sizes.head_dim;
    const float* b = xbc + u64(chunk) * CHUNK * width + sizes.inner() + sizes.group(head) * sizes.state_size;
    deltas += u64(head) * sizes.tokens + chunk * CHUNK;
    sums_of_logs += u64(head) * sizes.tokens + chunk * CHUNK;
    double last = sums_of_logs[tokens - 1];
    float sums[SIDE][SIDE] = {};
    add_product<Beside::Places, Beside::Places>(
        *tile, sums, tokens,
        [&](u32 row, u32 token) {
            if (first_row + row >= sizes.head_dim) return 0.0f;
            return x[u64(token) * width + first_row + row] * deltas[token] * expf(float(last - sums_of_logs[token]));
        },
        [&](u32 column, u32 token) {
            return first_column + column < sizes.state_size ? b[u64(token) * width + first_column + column] : 0;
        });
    gains += (u64(chunk) * sizes.heads + head) * sizes.head_dim * sizes.state_size;
    for_each(sums, [&](u32 row, u32 column, float sum) {
        row += first_row;
        column += first_column;
        if (row < sizes.head_dim && column < sizes.state_size) gains[u64(row) * sizes.state_size + column] = sum;
    });
}

// From one chunk to the next, a thread for each number of the state: what a chunk gains becomes the state before it, and
// the state is what is behind the last one.
extern "C" __global__ void scan_states(float* __restrict__ state, float* __restrict__ gains,
                                       const double* __restrict__ sums_of_logs, Sizes sizes) {
    u64 count = u64(sizes.inner()) * sizes.state_size, i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 head = i / (sizes.head_dim * sizes.state_size);
    sums_of_logs += u64(head) * sizes.tokens;
    float own = state[i];
    for (u32 start = 0; start < sizes.tokens; start += CHUNK, gains += count) {
        float gain = gains[i];
        gains[i] = own;
        own = fmaf(own, expf(float(sums_of_logs[min(start + CHUNK, sizes.tokens) - 1])), gain);
    }
    state[i] = own;
}

// y [tokens, inner] of each chunk (grid.z) and head (grid.y), in tiles (grid.x): from within the chunk, Σ_{j ≤ i}
// e^(sum_i − sum_j) · (C_i · B_j) · Δ_j x_j, from the state S before it, e^(sum_i) · S · C_i, and D · x_i.
extern "C" __global__ void __launch_bounds__(256) scan_outputs(const float* __restrict__ xbc,
                                                               const float* __restrict__ deltas,
                                                               const double* __restrict__ sums_of_logs,
                                                               const float* __restrict__ scores,
                                                               const float* __restrict__ states,
                                                               const float* __restrict__ d, float* __restrict__ y,
                                                               Sizes sizes) {
    DYNAMIC_SHARED(Tile, tile);
    u32 chunk = blockIdx.z, head = blockIdx.y, tokens = sizes.chunk_tokens(chunk), width = sizes.conv_dim();
    u32 across = (sizes.head_dim + TILE - 1) / TILE;
    u32 first_row = blockIdx.x / across * TILE, first_column = blockIdx.x % across * TILE;
    if (first_row >= tokens) return;
    const float* x = xbc + u64(chunk) * CHUNK * width + head * sizes.head_dim;
    const float* c = xbc + u64(chunk) * CHUNK * width + sizes.inner() + sizes.shared() +
                     sizes.group(head) * sizes.state_size;
    deltas += u64(head) * sizes.tokens + chunk * CHUNK;
    sums_of_logs += u64(head) * sizes.tokens + chunk * CHUNK;
    scores += (u64(chunk) * sizes.groups + sizes.group(head)) * CHUNK * CHUNK;
    states += (u64(chunk) * sizes.heads + head) * sizes.head_dim * sizes.state_size;

    float sums[SIDE][SIDE] = {};
    auto own_x = [&](u32 column, u32 token) {
        return first_column + column < sizes.head_dim ? x[u64(token) * width + first_column + column] : 0;
    };
    add_product<Beside::Terms, Beside::Places>(
        *tile, sums, min(first_row + TILE, tokens),
        [&](u32 row, u32 token) {
            row += first_row;
            if (row >= tokens || token > row) return 0.0f;
            return scores[row * CHUNK + token] * expf(float(sums_of_logs[row] - sums_of_logs[token])) * deltas[token];
        },
        own_x);
    add_product<Beside::Terms, Beside::Terms>(
        *tile, sums, sizes.state_size,
        [&](u32 row, u32 k) {
            row += first_row;
            return row < tokens ? c[u64(row) * width + k] * expf(float(sums_of_logs[row])) : 0;
        },
        [&](u32 column, u32 k) {
            column += first_column;
            return column < sizes.head_dim ? states[u64(column) * sizes.state_size + k] : 0;
        });
    for_each(sums, [&](u32 row, u32 column, float sum) {
        u32 token = first_row + row;
        if (token >= tokens || first_column + column >= sizes.head_dim) return;
        u64 place = (u64(chunk) * CHUNK + token) * sizes.inner() + head * sizes.head_dim + first_column + column;
        y[place] = fmaf(d[head], own_x(column, token), sum);
    });
}
