//! The vector operations in AVX-512 with VNNI.

#![allow(unsafe_code)]

use std::arch::{asm, x86_64::*};

use super::super::lanes::x86::Avx512;
use super::{
    ROWS,
    activations::Half,
    layout::{Block, F16s, Vector},
    vectors::{Dots, Job, Vectors},
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
pub(super) fn run<J: Job, B: Block>(job: J) {
    // SAFETY: who calls this has found the features.
    job.run::<_, B>(unsafe { Avx512::new() });
}

impl Dots for Avx512 {
    type Pairs = __m512i;
    /// Of the activations' high bytes, and of their low bytes.
    type Sums = [__m512i; 2];

    #[inline(always)]
    fn sums(self, start: i32) -> [__m512i; 2] {
        // SAFETY: the type proves the features.
        unsafe { [_mm512_setzero_si512(), _mm512_set1_epi32(start)] }
    }

    #[inline(always)]
    fn add_pairs(self, [hi, lo]: [__m512i; 2], pairs: __m512i, x: [i16; 2]) -> [__m512i; 2] {
        // SAFETY: the type proves the features.
        unsafe { [hi, add_products(lo, pairs, _mm512_set1_epi32(bytemuck::cast(x)))] }
    }

    #[inline(always)]
    fn total(self, [hi, lo]: [__m512i; 2]) -> __m512 {
        // SAFETY: the type proves the features.
        unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(hi), lo)) }
    }
}

impl Vectors for Avx512 {
    type Codes = __m512i;
    const HAVE_ROOM_FOR_TWO: bool = true;

    #[inline(always)]
    fn load_codes(self, vector: &Vector) -> __m512i {
        // SAFETY: the type proves the features, and the vector has 64 bytes.
        unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bits(self, codes: __m512i, right: i32, mask: u8) -> __m512i {
        // SAFETY: the type proves the features.
        unsafe {
            let shifted = if right < 0 {
                _mm512_sll_epi16(codes, _mm_cvtsi32_si128(-right))
            } else {
                _mm512_srl_epi16(codes, _mm_cvtsi32_si128(right))
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the type proves the features.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn values(self, codes: __m512i) -> [__m512; 4] {
        // SAFETY: the type proves the features.
        unsafe {
            let low = _mm512_set1_epi32(0xff);
            [
                _mm512_cvtepi32_ps(_mm512_and_si512(codes, low)),
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<8>(codes), low)),
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<16>(codes), low)),
                _mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(codes)),
            ]
        }
    }

    #[inline(always)]
    fn dot(self, sums: [__m512i; 2], [a, b, c, d]: [__m512i; 4], _: u8, x: &Half) -> [__m512i; 2] {
        let ([hi_a, hi_b, hi_c, hi_d], [lo_a, lo_b, lo_c, lo_d]) = (x.hi, x.lo);
        let sums = self.add_dot(sums, a, hi_a, lo_a);
        let sums = self.add_dot(sums, b, hi_b, lo_b);
        let sums = self.add_dot(sums, c, hi_c, lo_c);
        self.add_dot(sums, d, hi_d, lo_d)
    }

    #[inline(always)]
    fn split(self, codes: __m512i, center: u8) -> [__m512i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            let center = _mm512_set1_epi16(center.into());
            let even = _mm512_and_si512(codes, _mm512_set1_epi16(0xff));
            [_mm512_sub_epi16(even, center), _mm512_sub_epi16(_mm512_srli_epi16::<8>(codes), center)]
        }
    }

    #[inline(always)]
    fn f16s(self, values: &F16s) -> __m512 {
        // SAFETY: the type proves the features, and the values have 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn unsigned(self, values: &[u8; ROWS]) -> __m512 {
        // SAFETY: the type proves the features, and the values have 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(values.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn signed(self, values: &[i8; ROWS]) -> __m512 {
        // SAFETY: the type proves the features, and the values have 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store_bf16_pairs(self, even: __m512, odd: __m512, out: &mut [u32; ROWS]) {
        let (even, odd) = (self.rounded(even), self.rounded(odd));
        // SAFETY: the type proves the features, and the output has 64 bytes.
        unsafe {
            let high = _mm512_and_si512(odd, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_or_si512(_mm512_srli_epi32::<16>(even), high));
        }
    }
}

impl Avx512 {
    /// Adds the dot products of 4 codes with 4 activations.
    #[inline(always)]
    fn add_dot(self, [hi, lo]: [__m512i; 2], codes: __m512i, x_hi: [i8; 4], x_lo: [i8; 4]) -> [__m512i; 2] {
        // SAFETY: the type proves the features.
        unsafe {
            [
                _mm512_dpbusd_epi32(hi, codes, _mm512_set1_epi32(bytemuck::cast(x_hi))),
                _mm512_dpbusd_epi32(lo, codes, _mm512_set1_epi32(bytemuck::cast(x_lo))),
            ]
        }
    }

    /// The bits of values, whose upper 16 are those of the nearest bf16: of NaN its own, which are those of a quiet one.
    #[inline(always)]
    fn rounded(self, values: __m512) -> __m512i {
        // SAFETY: the type proves the features.
        unsafe {
            let bits = _mm512_castps_si512(values);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            _mm512_mask_mov_epi32(nearest, _mm512_cmpunord_ps_mask(values, values), bits)
        }
    }
}

/// Adds the products of two pairs in each lane. The compiler makes two instructions of the intrinsic for it, which take twice
/// as long.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: it changes nothing but this register.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
