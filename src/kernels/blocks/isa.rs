//! The vector operations that the kernels are written in, and the choice of an implementation.

use super::{
    Format, ROWS,
    activations::Half,
    layout::{Block, F16s, Q4K, Q5K, Q6K, Q8_0, Vector},
    scalar::Scalar,
};

/// What the CPU can do; the levels are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No assumption.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI, FMA and F16C.
    Avx512,
}

impl Level {
    /// The highest level of this CPU.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            let fma = has!("fma") && has!("f16c");
            if fma && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                return Self::Avx512;
            }
            if fma && has!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }
}

/// Vector operations on 16 rows (lanes). A value of the type proves that the CPU has the instructions.
pub(super) trait Isa: Copy {
    /// 4 codes per lane.
    type Codes: Copy;
    /// An exact integer sum per lane.
    type Sums: Copy;
    /// An f32 per lane.
    type Floats: Copy;

    fn load(self, vector: &Vector) -> Self::Codes;
    /// Each byte shifted right (left, if negative) by up to 4 bits, of which `mask` takes none that crossed bytes.
    fn bits(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes;
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// The codes as f32, by input.
    fn values(self, codes: Self::Codes) -> [Self::Floats; 4];

    /// Sums that start from `start` in each lane.
    fn sums(self, start: i32) -> Self::Sums;
    /// Adds `codes · x` over 16 inputs. At most 32 inputs fit one sum, and their codes may use all 8 bits.
    fn dot(self, sums: Self::Sums, codes: [Self::Codes; 4], x: &Half) -> Self::Sums;
    fn total(self, sums: Self::Sums) -> Self::Floats;

    fn splat(self, value: f32) -> Self::Floats;
    fn f16s(self, values: &F16s) -> Self::Floats;
    fn unsigned(self, values: &[u8; ROWS]) -> Self::Floats;
    fn signed(self, values: &[i8; ROWS]) -> Self::Floats;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b + c
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    fn store(self, values: Self::Floats, out: &mut [f32; ROWS]);
    /// Rounds finite values to bf16, to nearest even; each u32 has `even` in its low half and `odd` in its high one.
    fn store_bf16_pairs(self, even: Self::Floats, odd: Self::Floats, out: &mut [u32; ROWS]);

    /// Asks for the memory that is read some steps after `now`.
    #[inline(always)]
    fn prefetch_after<T>(self, _now: &T) {}
}

/// A kernel for any instruction set and format; its functions are inlined into one entry per pair of them.
pub(super) trait Job {
    fn run<I: Isa, B: Block>(self, isa: I);
}

/// Runs `job` at `level`, or at the highest that the CPU has.
pub(super) fn dispatch<J: Job>(level: Level, format: Format, job: J) {
    let level = level.min(Level::detect());
    match format {
        Format::Q8_0 => at_level::<J, Q8_0>(level, job),
        Format::Q4K => at_level::<J, Q4K>(level, job),
        Format::Q5K => at_level::<J, Q5K>(level, job),
        Format::Q6K => at_level::<J, Q6K>(level, job),
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn at_level<J: Job, B: Block>(detected: Level, job: J) {
    match detected {
        Level::Scalar => job.run::<_, B>(Scalar),
        // SAFETY: the CPU has the features of this level.
        Level::Avx2 => unsafe { super::avx2::run::<J, B>(job) },
        // SAFETY: as above.
        Level::Avx512 => unsafe { super::avx512::run::<J, B>(job) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn at_level<J: Job, B: Block>(_detected: Level, job: J) {
    job.run::<_, B>(Scalar);
}
