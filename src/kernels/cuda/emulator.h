// Runs a kernel on the host: the blocks of a grid one after the other, the threads of a block as fibers that change at
// barriers. What would hang or go unnoticed on a device ends the program here: a barrier that not all threads reach,
// and writes behind the shared memory that the launch asked for. Shared memory starts as NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::shared.data())

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) ushort4 {
    unsigned short x, y, z, w;
};
using f16 = _Float16;

static dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulator {

enum class State { Ready, AtWarp, AtBlock, Done };

struct Fiber {
    ucontext_t context;
    dim3 index;
    State state;
    std::vector<char> stack;
};

constexpr unsigned WARP = 32;
constexpr size_t STACK = 64 << 10, GUARD = 64;

static std::vector<unsigned char> shared;
static std::vector<Fiber> fibers;
static std::vector<double> exchanged;
static ucontext_t scheduler;
static unsigned current;
static void (*body)(void**);
static void** arguments;

inline void fail(const char* what) {
    std::fprintf(stderr, "%s, block %u %u %u, thread %u\n", what, blockIdx.x, blockIdx.y, blockIdx.z, current);
    std::abort();
}

inline void wait(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void enter() {
    body(arguments);
    fibers[current].state = State::Done;
}

inline bool release(unsigned start, unsigned end, State waiting) {
    unsigned count = 0, done = 0;
    for (unsigned i = start; i < end; i++) {
        count += fibers[i].state == waiting;
        done += fibers[i].state == State::Done;
    }
    if (count == 0 || count + done < end - start) return false;
    for (unsigned i = start; i < end; i++)
        if (fibers[i].state == waiting) fibers[i].state = State::Ready;
    return true;
}

inline void run_block() {
    unsigned count = blockDim.x;
    for (unsigned i = 0; i < count; i++) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.stack.resize(STACK);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        fiber.index = {i, 0, 0};
        fiber.state = State::Ready;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool is_moving = true; is_moving;) {
        is_moving = false;
        for (current = 0; current < count; current++) {
            if (fibers[current].state != State::Ready) continue;
            threadIdx = fibers[current].index;
            swapcontext(&scheduler, &fibers[current].context);
            is_moving = true;
        }
        for (unsigned start = 0; start < count; start += WARP)
            is_moving |= release(start, std::min(start + WARP, count), State::AtWarp);
        is_moving |= release(0, count, State::AtBlock);
    }
    for (current = 0; current < count; current++)
        if (fibers[current].state != State::Done) fail("a barrier that not all threads reach");
}

inline void run(void (*kernel)(void**), const unsigned* grid, unsigned block, unsigned bytes, void** args) {
    body = kernel;
    arguments = args;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    fibers.resize(block);
    exchanged.resize(block);
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                shared.assign(bytes + GUARD, 0xff);
                run_block();
                for (size_t i = bytes; i < bytes + GUARD; i++)
                    if (shared[i] != 0xff) fail("a write behind shared memory");
            }
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::AtBlock); }
inline void __syncwarp() { emulator::wait(emulator::State::AtWarp); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    unsigned own = emulator::current;
    emulator::exchanged[own] = value;
    __syncwarp();
    T other = static_cast<T>(emulator::exchanged[own ^ mask]);
    __syncwarp();
    return other;
}

// Threads run one after the other.
inline unsigned atomicAdd(unsigned* number, unsigned more) {
    unsigned before = *number;
    *number += more;
    return before;
}

// Nothing is made one operation: see `build.rs`.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline float __half2float(f16 value) { return static_cast<float>(value); }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Of the eight bytes of x and y, those that the four nibbles of the selection name.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selection) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned bytes = 0;
    for (unsigned i = 0; i < 4; i++) bytes |= unsigned(both >> (selection >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return bytes;
}

struct __nv_bfloat16 {
    unsigned short bits;
};

// A warp's products of matrices. Each lane has all of every fragment, which starts as NaN.
namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

constexpr unsigned SIDE = 16;

template <typename Use, int, int, int, typename T, typename Layout = void>
struct fragment {
    static constexpr unsigned num_elements = SIDE * SIDE;
    T x[num_elements];

    fragment() { std::memset(x, 0xff, sizeof x); }
};

// What a device demands of a matrix in memory. All lanes of a warp come here.
inline void meet_at(const void* matrix, size_t stride_bytes) {
    size_t start = static_cast<const unsigned char*>(matrix) - emulator::shared.data();
    if (start % 32 != 0 || stride_bytes % 16 != 0) emulator::fail("a matrix that begins or goes on between words");
    __syncwarp();
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* from, unsigned stride) {
    meet_at(from, stride * sizeof(T));
    bool is_by_row = std::is_same_v<Layout, row_major>;
    for (unsigned i = 0; i < SIDE; i++)
        for (unsigned j = 0; j < SIDE; j++) to.x[is_by_row ? i * SIDE + j : j * SIDE + i] = from[i * stride + j];
}

using Sums = fragment<accumulator, 16, 16, 16, float>;

inline void store_matrix_sync(float* to, const Sums& from, unsigned stride, layout_t) {
    meet_at(to, stride * sizeof(float));
    for (unsigned i = 0; i < SIDE; i++)
        for (unsigned j = 0; j < SIDE; j++) to[i * stride + j] = from.x[i * SIDE + j];
}

inline void fill_fragment(Sums& sums, float value) { std::fill(std::begin(sums.x), std::end(sums.x), value); }

inline float widened(__nv_bfloat16 value) { return __uint_as_float(value.bits << 16); }

template <typename A, typename B>
void mma_sync(Sums& to, const A& a, const B& b, const Sums& c) {
    __syncwarp();
    Sums sums = c;
    for (unsigned i = 0; i < SIDE; i++)
        for (unsigned k = 0; k < SIDE; k++)
            for (unsigned j = 0; j < SIDE; j++)
                sums.x[i * SIDE + j] += widened(a.x[i * SIDE + k]) * widened(b.x[k * SIDE + j]);
    to = sums;
}

}  // namespace nvcuda::wmma
