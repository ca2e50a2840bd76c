// SQUARE rows of activations times SQUARE rows of each of one or two matrices, by a block of SQUARE_BLOCK threads. It
// multiplies STEP inputs of all rows at a time, while the next ones are on their way.
#pragma once

#include "common.cuh"
#include "product.cuh"

#ifndef EMULATED
#include <mma.h>
#endif

namespace wmma = nvcuda::wmma;

constexpr u32 SQUARE = 64;
constexpr u32 SQUARE_BLOCK = 128;
constexpr u32 RESULT_STRIDE = SQUARE + 4;  // of results [activations, outputs] in shared memory, beside bank conflicts

template <typename T>
constexpr u32 TOGETHER = RowOfNumbers<T>::TOGETHER;

// So many inputs as fit into 16 bytes, with zeros behind the last of them.
template <typename T>
__device__ __forceinline__ uint4 word_of(const T* row, u32 at, u32 n_in) {
    uint4 word = {};
    if (n_in % TOGETHER<T> == 0) return at < n_in ? *reinterpret_cast<const uint4*>(row + at) : word;
    // Rows that begin between 16 bytes are read number by number.
    for (u32 i = 0; i < TOGETHER<T>; i++)
        if (at + i < n_in) reinterpret_cast<T*>(&word)[i] = row[at + i];
    return word;
}

// A thread's words of STEP inputs of SQUARE rows.
template <typename T, u32 STEP>
struct Fetched {
    static constexpr u32 OF_ROW = STEP / TOGETHER<T>, COUNT = SQUARE * OF_ROW / SQUARE_BLOCK;
    const T* rows[COUNT];
    uint4 words[COUNT];

    static __device__ u32 row(u32 i) { return (threadIdx.x + i * SQUARE_BLOCK) / OF_ROW; }
    static __device__ u32 input() { return threadIdx.x % OF_ROW * TOGETHER<T>; }

    // `from` tells where a row is.
    template <typename From>
    __device__ void begin(From from) {
        for (u32 i = 0; i < COUNT; i++) rows[i] = from(row(i));
    }

    __device__ void fetch(u32 start, u32 n_in) {
        for (u32 i = 0; i < COUNT; i++) words[i] = word_of(rows[i], start + input(), n_in);
    }
};

// In f32, of weights of any type: each thread has 8 rows of activations and 4 outputs of each matrix.
template <typename T, u32 MATRICES>
struct InF32 {
    using X = float;
    using W = T;
    using Shared = float;  // [STEP, SQUARE], of the activations and of each matrix
    static constexpr u32 STEP = 16, STRIDE = SQUARE + 4, SIZE = STEP * STRIDE;
    static constexpr u32 ROWS_OF_X = 8, OUTPUTS = 4;
    float sums[MATRICES][ROWS_OF_X][OUTPUTS] = {};

    template <typename S>
    static __device__ void put(const Fetched<S, STEP>& fetched, float* shared) {
        for (u32 i = 0; i < fetched.COUNT; i++)
            for (u32 j = 0; j < TOGETHER<S>; j++)
                shared[(fetched.input() + j) * STRIDE + fetched.row(i)] =
                    widen(reinterpret_cast<const S*>(&fetched.words[i])[j]);
    }

    static __device__ u32 own_row() { return threadIdx.x / (SQUARE / OUTPUTS) * ROWS_OF_X; }
    static __device__ u32 own_output() { return threadIdx.x % (SQUARE / OUTPUTS) * OUTPUTS; }

    __device__ void add(const float* shared) {
        for (u32 k = 0; k < STEP; k++) {
            float x[ROWS_OF_X], w[OUTPUTS];
            copy(x, shared + k * STRIDE + own_row());
            for (u32 matrix = 0; matrix < MATRICES; matrix++) {
                copy(w, shared + (1 + matrix) * SIZE + k * STRIDE + own_output());
                for (u32 i = 0; i < ROWS_OF_X; i++)
                    for (u32 j = 0; j < OUTPUTS; j++)
                        sums[matrix][i][j] = fmaf(x[i], w[j], sums[matrix][i][j]);
            }
        }
    }

    template <u32 COUNT>
    static __device__ void copy(float (&to)[COUNT], const float* from) {
        for (u32 i = 0; i < COUNT; i += 4)
            *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
    }

    template <typename Finish>
    __device__ void finish(Finish finish, float* results) {
        for (u32 i = 0; i < ROWS_OF_X; i++)
            for (u32 j = 0; j < OUTPUTS; j++) {
                float products[MATRICES];
                for (u32 matrix = 0; matrix < MATRICES; matrix++) products[matrix] = sums[matrix][i][j];
                results[(own_row() + i) * RESULT_STRIDE + own_output() + j] = finish.of(products);
            }
    }
};

// Of bf16 on tensor cores, with sums in f32: each warp has a quarter of the square.
template <u32 MATRICES>
struct OnTensorCores {
    using X = bf16;
    using W = bf16;
    using Shared = __nv_bfloat16;  // [SQUARE, STEP], of the activations and of each matrix
    using Sums = wmma::fragment<wmma::accumulator, 16, 16, 16, float>;
    static constexpr u32 STEP = 32, STRIDE = STEP + 8, SIZE = SQUARE * STRIDE;
    static constexpr u32 SIDE_OF_A_WARP = SQUARE / 2, SIDES = SIDE_OF_A_WARP / 16;
    Sums sums[MATRICES][SIDES][SIDES];

    __device__ OnTensorCores() {
        for (auto& of_matrix : sums)
            for (auto& of_row : of_matrix)
                for (auto& sum : of_row) wmma::fill_fragment(sum, 0.0f);
    }

    static __device__ void put(const Fetched<bf16, STEP>& fetched, __nv_bfloat16* shared) {
        for (u32 i = 0; i < fetched.COUNT; i++)
            *reinterpret_cast<uint4*>(shared + fetched.row(i) * STRIDE + fetched.input()) = fetched.words[i];
    }

    static __device__ u32 own_row() { return threadIdx.x / WARP / 2 * SIDE_OF_A_WARP; }
    static __device__ u32 own_output() { return threadIdx.x / WARP % 2 * SIDE_OF_A_WARP; }

    __device__ void add(const __nv_bfloat16* shared) {
        for (u32 k = 0; k < STEP; k += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> x[SIDES];
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> w;
            for (u32 i = 0; i < SIDES; i++)
                wmma::load_matrix_sync(x[i], shared + (own_row() + i * 16) * STRIDE + k, STRIDE);
            for (u32 matrix = 0; matrix < MATRICES; matrix++)
                for (u32 j = 0; j < SIDES; j++) {
                    const __nv_bfloat16* weights = shared + (1 + matrix) * SIZE;
                    wmma::load_matrix_sync(w, weights + (own_output() + j * 16) * STRIDE + k, STRIDE);
                    for (u32 i = 0; i < SIDES; i++)
                        wmma::mma_sync(sums[matrix][i][j], x[i], w, sums[matrix][i][j]);
                }
        }
    }

    // Fragments of one kind have the same results in the same places.
    template <typename Finish>
    __device__ void finish(Finish finish, float* results) {
#pragma unroll
        for (u32 i = 0; i < SIDES; i++)
#pragma unroll
            for (u32 j = 0; j < SIDES; j++) {
                Sums& first = sums[0][i][j];
                for (u32 place = 0; place < first.num_elements; place++) {
                    float products[MATRICES];
                    for (u32 matrix = 0; matrix < MATRICES; matrix++) products[matrix] = sums[matrix][i][j].x[place];
                    first.x[place] = finish.of(products);
                }
                float* own = results + (own_row() + i * 16) * RESULT_STRIDE + own_output() + j * 16;
                wmma::store_matrix_sync(own, first, RESULT_STRIDE, wmma::mem_row_major);
            }
    }
};

// What a block multiplies, on its way to shared memory.
template <typename Products, u32 MATRICES>
struct Operands {
    Fetched<typename Products::X, Products::STEP> x;
    Fetched<typename Products::W, Products::STEP> w[MATRICES];

    __device__ void fetch(u32 start, u32 n_in) {
        x.fetch(start, n_in);
        for (auto& of_matrix : w) of_matrix.fetch(start, n_in);
    }

    __device__ void put(typename Products::Shared* shared) const {
        Products::put(x, shared);
        for (u32 matrix = 0; matrix < MATRICES; matrix++)
            Products::put(w[matrix], shared + (1 + matrix) * Products::SIZE);
    }
};

// The products [SQUARE, SQUARE] of rows of n_in inputs, after `finish`: in shared memory, rows RESULT_STRIDE apart.
template <typename Products, typename Finish>
__device__ __forceinline__ const float* multiply(Operands<Products, Finish::MATRICES>& operands, u32 n_in,
                                                 Finish finish) {
    DYNAMIC_SHARED(typename Products::Shared, shared);
    constexpr u32 SIZE = (1 + Finish::MATRICES) * Products::SIZE;
    Products products;
    operands.fetch(0, n_in);
    operands.put(shared);
    __syncthreads();
    for (u32 start = 0, buffer = 0; start < n_in; start += Products::STEP) {
        operands.fetch(start + Products::STEP, n_in);
        products.add(shared + buffer * SIZE);
        buffer = 1 - buffer;
        operands.put(shared + buffer * SIZE);
        __syncthreads();
    }
    float* results = reinterpret_cast<float*>(shared);
    products.finish(finish, results);
    __syncthreads();
    return results;
}
