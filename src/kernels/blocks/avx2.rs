//! The vector operations in AVX2 with FMA and F16C: lanes 0 to 7 and 8 to 15 in a register each.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::super::isa::FAR;
use super::super::lanes::x86::Avx2;
use super::{
    ROWS,
    activations::Half,
    layout::{Block, F16s, LARGEST_NIBBLE, Vector, load_one},
    vectors::{Dots, Job, Vectors},
};

/// Codes of which the products of 8 with bytes add up to 16 bits: 8 · 31 · 128 < 2¹⁵.
const LARGEST_OF_BYTES: u8 = 31;

#[target_feature(enable = "avx2,f16c,fma")]
pub(super) fn run<J: Job, B: Block>(job: J) {
    // SAFETY: who calls this has found the features.
    job.run::<_, B>(unsafe { Avx2::new() });
}

impl Dots for Avx2 {
    type Pairs = [__m256i; 2];
    type Sums = [__m256i; 2];

    #[inline(always)]
    fn sums(self, start: i32) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe { [_mm256_set1_epi32(start); 2] }
    }

    #[inline(always)]
    fn add_pairs(self, [a, b]: [__m256i; 2], [pairs_a, pairs_b]: [__m256i; 2], x: [i16; 2]) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let x = _mm256_set1_epi32(bytemuck::cast(x));
            [_mm256_add_epi32(a, _mm256_madd_epi16(pairs_a, x)), _mm256_add_epi32(b, _mm256_madd_epi16(pairs_b, x))]
        }
    }

    #[inline(always)]
    fn total(self, [a, b]: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the type proves the features.
        unsafe { [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)] }
    }
}

impl Vectors for Avx2 {
    type Codes = [__m256i; 2];

    #[inline(always)]
    fn load_codes(self, vector: &Vector) -> [__m256i; 2] {
        let start: *const __m256i = vector.as_ptr().cast();
        // SAFETY: the type proves the features, and the vector has 64 bytes.
        unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
    }

    #[inline(always)]
    fn bits(self, [a, b]: [__m256i; 2], right: i32, mask: u8) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let mask = _mm256_set1_epi8(mask.cast_signed());
            let [a, b] = if right < 0 {
                let left = _mm_cvtsi32_si128(-right);
                [_mm256_sll_epi16(a, left), _mm256_sll_epi16(b, left)]
            } else {
                let right = _mm_cvtsi32_si128(right);
                [_mm256_srl_epi16(a, right), _mm256_srl_epi16(b, right)]
            };
            [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)]
        }
    }

    #[inline(always)]
    fn or(self, [a, b]: [__m256i; 2], [c, d]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe { [_mm256_or_si256(a, c), _mm256_or_si256(b, d)] }
    }

    #[inline(always)]
    fn values(self, [a, b]: [__m256i; 2]) -> [[__m256; 2]; 4] {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.values_of_8(a), self.values_of_8(b));
        [[a0, b0], [a1, b1], [a2, b2], [a3, b3]]
    }

    #[inline(always)]
    fn dot(self, sums: [__m256i; 2], codes: [[__m256i; 2]; 4], largest: u8, x: &Half) -> [__m256i; 2] {
        if largest <= LARGEST_OF_BYTES {
            self.add_dot_of_bytes(sums, codes, x)
        } else {
            self.add_dot_of_pairs(sums, codes, x)
        }
    }

    /// The products of all 32 inputs add up to 16 bits: 16 · 15 · 128 < 2¹⁵.
    #[inline(always)]
    fn dot_of_nibbles(self, nibbles: &[Vector; 4], x: &[Half; 2]) -> [__m256i; 2] {
        let [x, y] = x;
        let ([a, b, c, d], [x_a, x_b, x_c, x_d], [y_a, y_b, y_c, y_d]) = (nibbles, x.fours(), y.fours());
        let sums = self.add_dot_of_nibbles([self.sums(0); 2], a, [x_a, y_a]);
        let sums = self.add_dot_of_nibbles(sums, b, [x_b, y_b]);
        let sums = self.add_dot_of_nibbles(sums, c, [x_c, y_c]);
        let sums = self.add_dot_of_nibbles(sums, d, [x_d, y_d]);
        sums.map(|planes| self.joined(planes))
    }

    #[inline(always)]
    fn split(self, [a, b]: [__m256i; 2], center: u8) -> [[__m256i; 2]; 2] {
        let ([even_a, odd_a], [even_b, odd_b]) = (self.split_8(a, center), self.split_8(b, center));
        [[even_a, even_b], [odd_a, odd_b]]
    }

    #[inline(always)]
    fn f16s(self, values: &F16s) -> [__m256; 2] {
        let start: *const __m128i = values.as_ptr().cast();
        // SAFETY: the type proves the features, and the values have 32 bytes.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(start)), _mm256_cvtph_ps(_mm_loadu_si128(start.add(1)))] }
    }

    #[inline(always)]
    fn unsigned(self, values: &[u8; ROWS]) -> [__m256; 2] {
        // SAFETY: the type proves the features, and the values have 16 bytes.
        unsafe {
            let a = _mm_loadu_si128(values.as_ptr().cast());
            let b = _mm_unpackhi_epi64(a, a);
            [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(a)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b))]
        }
    }

    #[inline(always)]
    fn signed(self, values: &[i8; ROWS]) -> [__m256; 2] {
        // SAFETY: the type proves the features, and the values have 16 bytes.
        unsafe {
            let a = _mm_loadu_si128(values.as_ptr().cast());
            let b = _mm_unpackhi_epi64(a, a);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b))]
        }
    }

    #[inline(always)]
    fn store_bf16_pairs(self, [even_a, even_b]: [__m256; 2], [odd_a, odd_b]: [__m256; 2], out: &mut [u32; ROWS]) {
        let (a, b) = (self.bf16_pairs_of_8(even_a, odd_a), self.bf16_pairs_of_8(even_b, odd_b));
        let start: *mut __m256i = out.as_mut_ptr().cast();
        // SAFETY: the type proves the features, and the output has 64 bytes.
        unsafe {
            _mm256_storeu_si256(start, a);
            _mm256_storeu_si256(start.add(1), b);
        }
    }
}

/// The steps of the operations that take more than an instruction.
impl Avx2 {
    #[inline(always)]
    fn values_of_8(self, codes: __m256i) -> [__m256; 4] {
        // SAFETY: the type proves the features.
        unsafe {
            let low = _mm256_set1_epi32(0xff);
            [
                _mm256_cvtepi32_ps(_mm256_and_si256(codes, low)),
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32::<8>(codes), low)),
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32::<16>(codes), low)),
                _mm256_cvtepi32_ps(_mm256_srli_epi32::<24>(codes)),
            ]
        }
    }

    #[inline(always)]
    fn split_8(self, codes: __m256i, center: u8) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let center = _mm256_set1_epi16(center.into());
            let even = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
            [_mm256_sub_epi16(even, center), _mm256_sub_epi16(_mm256_srli_epi16::<8>(codes), center)]
        }
    }

    /// Of each 4 activations, the first and third as one pair of i16, the second and fourth as another.
    #[inline(always)]
    fn pairs(self, x: &Half) -> ([i32; 4], [i32; 4]) {
        // SAFETY: the type proves the features, and either plane has 16 bytes.
        unsafe {
            let hi = _mm_loadu_si128(x.hi.as_ptr().cast());
            let lo = _mm_loadu_si128(x.lo.as_ptr().cast());
            let even = _mm_add_epi16(_mm_slli_epi16::<8>(hi), _mm_srai_epi16::<8>(_mm_slli_epi16::<8>(lo)));
            let odd = _mm_add_epi16(_mm_andnot_si128(_mm_set1_epi16(0xff), hi), _mm_srai_epi16::<8>(lo));
            (bytemuck::cast(even), bytemuck::cast(odd))
        }
    }

    #[inline(always)]
    fn add_dot_of_nibbles(
        self,
        [a, b]: [[__m256i; 2]; 2],
        nibbles: &Vector,
        [x, y]: [[[i8; 4]; 2]; 2],
    ) -> [[__m256i; 2]; 2] {
        let (x, y) = (x.map(|four| self.four(four)), y.map(|four| self.four(four)));
        let [first, second] = load_one::<FAR, _>(nibbles, self);
        [self.add_dot_of_8_nibbles(a, first, x, y), self.add_dot_of_8_nibbles(b, second, x, y)]
    }

    #[inline(always)]
    fn add_dot_of_8_nibbles(
        self,
        [hi, lo]: [__m256i; 2],
        nibbles: __m256i,
        [x_hi, x_lo]: [__m256i; 2],
        [y_hi, y_lo]: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let mask = _mm256_set1_epi8(LARGEST_NIBBLE.cast_signed());
            let (low, high) =
                (_mm256_and_si256(nibbles, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(nibbles), mask));
            let add = |sum, x, y| {
                let products = _mm256_add_epi16(_mm256_maddubs_epi16(low, x), _mm256_maddubs_epi16(high, y));
                _mm256_add_epi16(sum, products)
            };
            [add(hi, x_hi, y_hi), add(lo, x_lo, y_lo)]
        }
    }

    /// Adds the dot products of small codes with the high and the low bytes of 16 activations, in 16 bits as far as these
    /// reach.
    #[inline(always)]
    fn add_dot_of_bytes(self, [a, b]: [__m256i; 2], codes: [[__m256i; 2]; 4], x: &Half) -> [__m256i; 2] {
        let ([hi_a, hi_b], [lo_a, lo_b]) = (self.products(codes, x.hi), self.products(codes, x.lo));
        // SAFETY: the type proves the features.
        unsafe { [_mm256_add_epi32(a, self.joined([hi_a, lo_a])), _mm256_add_epi32(b, self.joined([hi_b, lo_b]))] }
    }

    /// What products with the high and with the low bytes, in 16 bits, come to.
    #[inline(always)]
    fn joined(self, [hi, lo]: [__m256i; 2]) -> __m256i {
        // SAFETY: the type proves the features.
        unsafe {
            let hi = _mm256_madd_epi16(hi, _mm256_set1_epi16(256));
            _mm256_add_epi32(hi, _mm256_madd_epi16(lo, _mm256_set1_epi16(1)))
        }
    }

    /// For each row two sums over 8 inputs each, in 16 bits.
    #[inline(always)]
    fn products(self, [a, b, c, d]: [[__m256i; 2]; 4], [x_a, x_b, x_c, x_d]: [[i8; 4]; 4]) -> [__m256i; 2] {
        let [a, b, c, d] = [self.times(a, x_a), self.times(b, x_b), self.times(c, x_c), self.times(d, x_d)];
        // SAFETY: the type proves the features.
        unsafe {
            [
                _mm256_add_epi16(_mm256_add_epi16(a[0], b[0]), _mm256_add_epi16(c[0], d[0])),
                _mm256_add_epi16(_mm256_add_epi16(a[1], b[1]), _mm256_add_epi16(c[1], d[1])),
            ]
        }
    }

    #[inline(always)]
    fn times(self, [a, b]: [__m256i; 2], x: [i8; 4]) -> [__m256i; 2] {
        let x = self.four(x);
        // SAFETY: the type proves the features.
        unsafe { [_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, x)] }
    }

    /// The bytes of four activations for each row.
    #[inline(always)]
    fn four(self, x: [i8; 4]) -> __m256i {
        // SAFETY: the type proves the features.
        unsafe { _mm256_set1_epi32(bytemuck::cast(x)) }
    }

    #[inline(always)]
    fn add_dot_of_pairs(self, sums: [__m256i; 2], [a, b, c, d]: [[__m256i; 2]; 4], x: &Half) -> [__m256i; 2] {
        let ([even_a, even_b, even_c, even_d], [odd_a, odd_b, odd_c, odd_d]) = self.pairs(x);
        let sums = self.add_dot(sums, a, even_a, odd_a);
        let sums = self.add_dot(sums, b, even_b, odd_b);
        let sums = self.add_dot(sums, c, even_c, odd_c);
        self.add_dot(sums, d, even_d, odd_d)
    }

    /// Adds the dot products of 4 codes with the 4 activations that [`Self::pairs`] split.
    #[inline(always)]
    fn add_dot(self, [a, b]: [__m256i; 2], [codes_a, codes_b]: [__m256i; 2], even: i32, odd: i32) -> [__m256i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let (even, odd) = (_mm256_set1_epi32(even), _mm256_set1_epi32(odd));
            [self.add_dot_of_8(a, codes_a, even, odd), self.add_dot_of_8(b, codes_b, even, odd)]
        }
    }

    #[inline(always)]
    fn add_dot_of_8(self, sums: __m256i, codes: __m256i, even: __m256i, odd: __m256i) -> __m256i {
        // SAFETY: the type proves the features.
        unsafe {
            let even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xff)), even);
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), odd);
            _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    fn bf16_pairs_of_8(self, even: __m256, odd: __m256) -> __m256i {
        let (even, odd) = (self.rounded(even), self.rounded(odd));
        // SAFETY: the type proves the features.
        unsafe {
            let high = _mm256_and_si256(odd, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            _mm256_or_si256(_mm256_srli_epi32::<16>(even), high)
        }
    }

    /// The bits of values, whose upper 16 are those of the nearest bf16: of NaN its own, which are those of a quiet one.
    #[inline(always)]
    fn rounded(self, values: __m256) -> __m256i {
        // SAFETY: the type proves the features.
        unsafe {
            let bits = _mm256_castps_si256(values);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let nearest = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
            _mm256_blendv_epi8(nearest, bits, is_nan)
        }
    }
}
