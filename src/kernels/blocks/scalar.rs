//! The vector operations in plain Rust.

use half::f16;

use super::super::lanes::{Scalar, zip};
use super::super::left::rounded;
use super::{
    ROWS,
    activations::Half,
    layout::{F16s, Vector},
    vectors::{Dots, Vectors},
};

impl Dots for Scalar {
    type Pairs = [[i16; 2]; ROWS];
    type Sums = [i32; ROWS];

    #[inline(always)]
    fn sums(self, start: i32) -> [i32; ROWS] {
        [start; ROWS]
    }

    #[inline(always)]
    fn add_pairs(self, sums: [i32; ROWS], pairs: [[i16; 2]; ROWS], x: [i16; 2]) -> [i32; ROWS] {
        let [x, y] = x.map(i32::from);
        zip(sums, pairs.map(|[a, b]| i32::from(a) * x + i32::from(b) * y), |sum, product| sum + product)
    }

    #[inline(always)]
    fn total(self, sums: [i32; ROWS]) -> [f32; ROWS] {
        sums.map(|sum| sum as f32)
    }
}

impl Vectors for Scalar {
    type Codes = Vector;

    #[inline(always)]
    fn load_codes(self, vector: &Vector) -> Vector {
        *vector
    }

    #[inline(always)]
    fn bits(self, codes: Vector, right: i32, mask: u8) -> Vector {
        let mask = u32::from_ne_bytes([mask; 4]);
        codes.map(|four| {
            let bits = u32::from_ne_bytes(four);
            (if right < 0 { bits << -right } else { bits >> right } & mask).to_ne_bytes()
        })
    }

    #[inline(always)]
    fn or(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| (u32::from_ne_bytes(a) | u32::from_ne_bytes(b)).to_ne_bytes())
    }

    #[inline(always)]
    fn values(self, codes: Vector) -> [[f32; ROWS]; 4] {
        [codes.map(|[k, ..]| k), codes.map(|[_, k, ..]| k), codes.map(|[.., k, _]| k), codes.map(|[.., k]| k)]
            .map(|input| input.map(f32::from))
    }

    #[inline(always)]
    fn dot(self, sums: [i32; ROWS], codes: [Vector; 4], _: u8, x: &Half) -> [i32; ROWS] {
        let mut dots = [0; ROWS];
        for ((codes, hi), lo) in codes.iter().zip(&x.hi).zip(&x.lo) {
            for (dot, codes) in dots.iter_mut().zip(codes) {
                for ((code, hi), lo) in codes.iter().zip(hi).zip(lo) {
                    *dot += i32::from(*code) * (256 * i32::from(*hi) + i32::from(*lo));
                }
            }
        }
        zip(sums, dots, |sum, dot| sum + dot)
    }

    #[inline(always)]
    fn split(self, codes: Vector, center: u8) -> [[[i16; 2]; ROWS]; 2] {
        let signed = |code: u8| i16::from(code) - i16::from(center);
        [codes.map(|[a, _, c, _]| [signed(a), signed(c)]), codes.map(|[_, b, _, d]| [signed(b), signed(d)])]
    }

    #[inline(always)]
    fn f16s(self, values: &F16s) -> [f32; ROWS] {
        values.map(|bytes| f16::from_le_bytes(bytes).to_f32())
    }

    #[inline(always)]
    fn unsigned(self, values: &[u8; ROWS]) -> [f32; ROWS] {
        values.map(f32::from)
    }

    #[inline(always)]
    fn signed(self, values: &[i8; ROWS]) -> [f32; ROWS] {
        values.map(f32::from)
    }

    #[inline(always)]
    fn store_bf16_pairs(self, even: [f32; ROWS], odd: [f32; ROWS], out: &mut [u32; ROWS]) {
        for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
            *out = u32::from(rounded(even)) | u32::from(rounded(odd)) << 16;
        }
    }
}
