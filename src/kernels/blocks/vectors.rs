//! The vector operations that the kernels are written in, and the choice of an implementation.

use super::super::isa::Isa;
use super::super::lanes::{self, Arithmetic, Scalar};
use super::{
    Format, ROWS,
    activations::Half,
    layout::{Block, F16s, LARGEST_NIBBLE, Q4K, Q5K, Q6K, Q8_0, Vector, low_bits},
};

/// What is computed in each of several lanes, of a row of weights each.
pub(super) trait Dots: Arithmetic {
    /// 2 signed integers of 16 bits per lane.
    type Pairs: Copy;
    /// An exact integer sum per lane.
    type Sums: Copy;

    /// Sums that start from `start` in each lane.
    fn sums(self, start: i32) -> Self::Sums;
    /// Adds `pairs · x`. At most 16 such products fit one sum.
    fn add_pairs(self, sums: Self::Sums, pairs: Self::Pairs, x: [i16; 2]) -> Self::Sums;
    fn total(self, sums: Self::Sums) -> Self::Floats;
}

/// Vector operations on the 16 rows of a panel.
pub(super) trait Vectors: Dots + lanes::Lanes {
    /// 4 codes per lane.
    type Codes: Copy;
    /// Whether registers hold the sums of two panels with several rows.
    const HAVE_ROOM_FOR_TWO: bool = false;

    fn load_codes(self, vector: &Vector) -> Self::Codes;
    /// Each byte shifted right (left, if negative) by up to 4 bits, of which `mask` takes none that crossed bytes.
    fn bits(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes;
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// The codes as f32, by input.
    fn values(self, codes: Self::Codes) -> [Self::Floats; 4];
    /// `code - center` of each lane's first and third code, and of its second and fourth.
    fn split(self, codes: Self::Codes, center: u8) -> [Self::Pairs; 2];

    /// Adds `codes · x` over 16 inputs, for codes up to `largest`. At most 32 inputs fit one sum.
    fn dot(self, sums: Self::Sums, codes: [Self::Codes; 4], largest: u8, x: &Half) -> Self::Sums;
    /// `codes · x` over 32 inputs, for codes that are nibbles and nothing else.
    #[inline(always)]
    fn dot_of_nibbles(self, nibbles: &[Vector; 4], [x, other_x]: &[Half; 2]) -> Self::Sums {
        let [codes, other_codes] = low_bits(nibbles, self);
        self.dot(self.dot(self.sums(0), codes, LARGEST_NIBBLE, x), other_codes, LARGEST_NIBBLE, other_x)
    }

    fn f16s(self, values: &F16s) -> Self::Floats;
    fn unsigned(self, values: &[u8; ROWS]) -> Self::Floats;
    fn signed(self, values: &[i8; ROWS]) -> Self::Floats;
    /// Rounds finite values to bf16, to nearest even; each u32 has `even` in its low half and `odd` in its high one.
    fn store_bf16_pairs(self, even: Self::Floats, odd: Self::Floats, out: &mut [u32; ROWS]);
}

/// The lanes of two panels side by side.
#[derive(Clone, Copy)]
pub(super) struct Two<I>(pub(super) I);

impl<I: Arithmetic> Arithmetic for Two<I> {
    type Floats = [I::Floats; 2];

    #[inline(always)]
    fn splat(self, value: f32) -> [I::Floats; 2] {
        [self.0.splat(value); 2]
    }

    #[inline(always)]
    fn mul(self, [a, b]: [I::Floats; 2], [c, d]: [I::Floats; 2]) -> [I::Floats; 2] {
        [self.0.mul(a, c), self.0.mul(b, d)]
    }

    #[inline(always)]
    fn mul_add(self, [a, b]: [I::Floats; 2], [c, d]: [I::Floats; 2], [e, f]: [I::Floats; 2]) -> [I::Floats; 2] {
        [self.0.mul_add(a, c, e), self.0.mul_add(b, d, f)]
    }
}

impl<I: Dots> Dots for Two<I> {
    type Pairs = [I::Pairs; 2];
    type Sums = [I::Sums; 2];

    #[inline(always)]
    fn sums(self, start: i32) -> [I::Sums; 2] {
        [self.0.sums(start); 2]
    }

    #[inline(always)]
    fn add_pairs(self, [a, b]: [I::Sums; 2], [c, d]: [I::Pairs; 2], x: [i16; 2]) -> [I::Sums; 2] {
        [self.0.add_pairs(a, c, x), self.0.add_pairs(b, d, x)]
    }

    #[inline(always)]
    fn total(self, [a, b]: [I::Sums; 2]) -> [I::Floats; 2] {
        [self.0.total(a), self.0.total(b)]
    }
}

/// A kernel for any instruction set and format; its functions are inlined into one entry per pair of them.
pub(super) trait Job {
    fn run<I: Vectors, B: Block>(self, isa: I);
}

/// Runs `job` at the level `isa`, or at the highest that the CPU has.
pub(super) fn dispatch<J: Job>(isa: Isa, format: Format, job: J) {
    let isa = isa.min(Isa::best());
    match format {
        Format::Q8_0 => at_level::<J, Q8_0>(isa, job),
        Format::Q4K => at_level::<J, Q4K>(isa, job),
        Format::Q5K => at_level::<J, Q5K>(isa, job),
        Format::Q6K => at_level::<J, Q6K>(isa, job),
    }
}

#[allow(unsafe_code)]
fn at_level<J: Job, B: Block>(isa: Isa, job: J) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has the features of this level.
        Isa::Avx2 => unsafe { super::avx2::run::<J, B>(job) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 | Isa::Bf16 | Isa::Amx => unsafe { super::avx512::run::<J, B>(job) },
        _ => job.run::<_, B>(Scalar),
    }
}
