//! The vector operations in plain Rust.

use half::f16;

use super::{
    ROWS,
    activations::Half,
    isa::Isa,
    layout::{F16s, Vector},
};

#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Isa for Scalar {
    type Codes = Vector;
    type Sums = [i32; ROWS];
    type Floats = [f32; ROWS];

    #[inline(always)]
    fn load(self, vector: &Vector) -> Vector {
        *vector
    }

    #[inline(always)]
    fn bits(self, codes: Vector, right: i32, mask: u8) -> Vector {
        let shift = |code: u8| if right < 0 { code << -right } else { code >> right };
        codes.map(|four| four.map(|code| shift(code) & mask))
    }

    #[inline(always)]
    fn or(self, mut a: Vector, b: Vector) -> Vector {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a |= b;
        }
        a
    }

    #[inline(always)]
    fn values(self, codes: Vector) -> [[f32; ROWS]; 4] {
        [codes.map(|[k, ..]| k), codes.map(|[_, k, ..]| k), codes.map(|[.., k, _]| k), codes.map(|[.., k]| k)]
            .map(|input| input.map(f32::from))
    }

    #[inline(always)]
    fn sums(self, start: i32) -> [i32; ROWS] {
        [start; ROWS]
    }

    #[inline(always)]
    fn dot(self, mut sums: [i32; ROWS], codes: [Vector; 4], x: &Half) -> [i32; ROWS] {
        for ((codes, hi), lo) in codes.iter().zip(&x.hi).zip(&x.lo) {
            for (sum, codes) in sums.iter_mut().zip(codes) {
                for ((code, hi), lo) in codes.iter().zip(hi).zip(lo) {
                    *sum += i32::from(*code) * (256 * i32::from(*hi) + i32::from(*lo));
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn total(self, sums: [i32; ROWS]) -> [f32; ROWS] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; ROWS] {
        [value; ROWS]
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
    fn add(self, mut a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
    }

    #[inline(always)]
    fn mul(self, mut a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
        a
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; ROWS], b: [f32; ROWS], c: [f32; ROWS]) -> [f32; ROWS] {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn store(self, values: [f32; ROWS], out: &mut [f32; ROWS]) {
        *out = values;
    }

    #[inline(always)]
    fn store_bf16_pairs(self, even: [f32; ROWS], odd: [f32; ROWS], out: &mut [u32; ROWS]) {
        for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
            *out = (rounded(even) >> 16) | (rounded(odd) & 0xffff_0000);
        }
    }
}

/// The bits of a finite `value`, whose upper 16 are those of the nearest bf16.
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    bits + 0x7fff + ((bits >> 16) & 1)
}
