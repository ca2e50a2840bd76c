// Weights in blocks, in panels of 16 rows as `kernels/blocks/planes.rs` lays them out: of each plane the 16 rows one after
// the other, first the codes, then their upper bits, then what a block has beside them.
#pragma once

#include "common.cuh"

constexpr u32 PANEL = 16;

// So many lanes side by side share a span of inputs, each every eighth four of it: what they read of x at a time lies side
// by side too. The last span of a row may have fewer.
constexpr u32 SHARING = 8;

__device__ __forceinline__ u32 part(const uint4& word, u32 i) { return reinterpret_cast<const u32*>(&word)[i]; }

// Byte i of four as a number: the lowest bits of 2^23 count ones.
__device__ __forceinline__ float byte(u32 four, u32 i) {
    return __uint_as_float(__byte_perm(four, 0x4b000000, 0x7440 | i)) - 8388608.0f;
}

// How a code of up to 8 bits, or of fewer than 7, is put among the bits of a number that is larger by ZERO: what a weight
// then is too much goes off with its offset, and no code has to be made a number first.
struct Put8 {
    static constexpr u32 NUMBER = 0x47000000, SELECTION = 0x7404, STEP = 0x10;
    static constexpr float ZERO = 32768;
};
struct Put6 {
    static constexpr u32 NUMBER = 0x43000000, SELECTION = 0x7044, STEP = 0x100;
    static constexpr float ZERO = 128;
};

// scale · (code - center) + offset of four codes: exact without an offset, else off by less than scale / 2^16.
template <typename Put>
__device__ __forceinline__ float4 weights_of(u32 codes, float scale, float center, float offset) {
    float rest = fmaf(-(Put::ZERO + center), scale, offset);
    auto weight = [&](u32 i) {
        float put = __uint_as_float(__byte_perm(codes, Put::NUMBER, Put::SELECTION + Put::STEP * i));
        return fmaf(put, scale, rest);
    };
    return {weight(0), weight(1), weight(2), weight(3)};
}

struct Blocks {};

// A row [n_in] of a panel. B says how many weights a lane reads at once (TOGETHER: 16 bytes of codes) and a block has, how
// many bytes of upper bits there are for each such word, and of either kind of scales for each block.
template <typename B>
struct RowOfBlocks {
    using Word = typename B::Word;
    static constexpr u32 TOGETHER = B::TOGETHER, AHEAD = 2;
    static constexpr bool IS_WHOLE = true;

    const char* panel;
    u32 codes, upper, scales, shared;  // where its planes begin for this row
    u32 n_in;

    __device__ static RowOfBlocks of(const B* w, u32 n_in, u64 row) {
        u32 words = n_in / TOGETHER, blocks = n_in / B::BLOCK, own = row % PANEL;
        u32 codes = words * u32(sizeof(uint4)), upper = words * B::UPPER;
        u32 scales = blocks * B::SCALES, shared = blocks * B::SHARED;
        return {reinterpret_cast<const char*>(w) + row / PANEL * PANEL * (codes + upper + scales + shared),
                own * codes,
                PANEL * codes + own * upper,
                PANEL * (codes + upper) + own * scales,
                PANEL * (codes + upper + scales) + own * shared,
                n_in};
    }

    __device__ Word word(u32 at) const { return B::word(*this, at); }

    // Where the j-th four of a word's inputs begin.
    __device__ u32 input(u32 at, u32 j) const {
        constexpr u32 span = SHARING * TOGETHER;
        u32 start = at / span * span;
        u32 sharing = B::BLOCK < span ? min(SHARING, (n_in - start) / TOGETHER) : SHARING;
        return start + 4 * (j * sharing + at % span / TOGETHER);
    }

    template <typename T>
    __device__ T read(u32 plane, u32 i) const { return reinterpret_cast<const T*>(panel + plane)[i]; }
};

// Codes of 8 bits, and a scale for 32 of them.
struct q8_0 : Blocks {
    static constexpr u32 TOGETHER = 16, BLOCK = 32, UPPER = 0, SCALES = 0, SHARED = 2;

    struct Word {
        uint4 codes;
        float scales[TOGETHER / 4];

        __device__ float4 four(u32 j) const { return weights_of<Put8>(part(codes, j), scales[j], 128, 0); }
    };

    template <typename Row>
    __device__ static Word word(const Row& row, u32 at) {
        Word word = {row.template read<uint4>(row.codes, at / TOGETHER), {}};
        for (u32 j = 0; j < TOGETHER / 4; j++)
            word.scales[j] = __half2float(row.template read<f16>(row.shared, row.input(at, j) / BLOCK));
        return word;
    }
};

// The upper bits of a word's codes, so many of each.
template <u32 bits>
struct alignas(4 * bits) Upper {
    u32 parts[bits];

    template <typename Row>
    __device__ static Upper of(const Row& row, u32 word) { return row.template read<Upper>(row.upper, word); }
    __device__ u32 four(u32 j) const {
        constexpr u32 mask = ((1 << bits) - 1) * 0x01010101;
        return (parts[j * bits / 8] >> (j * bits % 8) & mask) << 4;
    }
};

template <>
struct Upper<0> {
    template <typename Row>
    __device__ static Upper of(const Row&, u32) { return {}; }
    __device__ u32 four(u32) const { return 0; }
};

// A scale and a minimum for 32 codes, each a number of 6 bits times one that 256 share.
struct ScalesAndMinima {
    static constexpr u32 SCALES = 16, SHARED = 4;
    static constexpr float CENTER = 0;
    uint4 both;
    float d, dmin;

    template <typename Row>
    __device__ static ScalesAndMinima of(const Row& row, u32 block, u32) {
        f16 d = row.template read<f16>(row.shared, 2 * block), dmin = row.template read<f16>(row.shared, 2 * block + 1);
        return {row.template read<uint4>(row.scales, block), __half2float(d), __half2float(dmin)};
    }
    __device__ float scale(u32 j) const { return d * byte(part(both, j / 4), j % 4); }
    __device__ float offset(u32 j) const { return -dmin * byte(part(both, 2 + j / 4), j % 4); }
};

// A scale for 16 codes, a number of 8 bits times one that 256 share.
struct ScalesOfHalves {
    static constexpr u32 SCALES = 16, SHARED = 2;
    static constexpr float CENTER = 32;
    uint2 own;
    float d;

    template <typename Row>
    __device__ static ScalesOfHalves of(const Row& row, u32 block, u32 half) {
        return {row.template read<uint2>(row.scales, 2 * block + half),
                __half2float(row.template read<f16>(row.shared, block))};
    }
    __device__ float scale(u32 j) const { return d * (byte(j < 4 ? own.x : own.y, j % 4) - 128); }
    __device__ float offset(u32) const { return 0; }
};

// Codes of 4 bits and so many upper ones, 256 in a block. The fours of a word are 32 inputs apart.
template <typename S, u32 bits>
struct Nibbles : Blocks {
    static constexpr u32 TOGETHER = 32, BLOCK = 256, UPPER = 4 * bits, SCALES = S::SCALES, SHARED = S::SHARED;

    struct Word {
        uint4 nibbles;
        Upper<bits> upper;
        S scales;

        __device__ float4 four(u32 j) const {
            u32 codes = (part(nibbles, j / 2) >> (j % 2 * 4) & 0x0f0f0f0f) | upper.four(j);
            return weights_of<Put6>(codes, scales.scale(j), S::CENTER, scales.offset(j));
        }
    };

    template <typename Row>
    __device__ static Word word(const Row& row, u32 at) {
        u32 own = at / TOGETHER;
        return {row.template read<uint4>(row.codes, own), Upper<bits>::of(row, own),
                S::of(row, at / BLOCK, own % SHARING / (SHARING / 2))};
    }
};

struct q4_k : Nibbles<ScalesAndMinima, 0> {};
struct q5_k : Nibbles<ScalesAndMinima, 1> {};
struct q6_k : Nibbles<ScalesOfHalves, 2> {};
