//! Vectors of numbers in the registers of each level. Where a kernel needs several of them, the compiler keeps arrays of
//! numbers in memory and writes them at every step.

#![allow(unsafe_code)]

use super::LANES;
use super::isa::Isa;

/// Arithmetic on several f32 at once. A value of the type proves that the CPU has the instructions.
pub(super) trait Arithmetic: Copy {
    type Floats: Copy;

    fn splat(self, value: f32) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b + c
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// The same on [`LANES`] of them.
pub(super) trait Lanes: Arithmetic {
    /// How many such vectors of sums have room in registers, beside what is added to them.
    const ROOM: usize;

    fn load(self, numbers: &[f32; LANES]) -> Self::Floats;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn store(self, floats: Self::Floats, numbers: &mut [f32; LANES]);

    #[inline(always)]
    fn load_all<const N: usize>(self, numbers: &[[f32; LANES]; N]) -> [Self::Floats; N] {
        let mut all = [self.splat(0.0); N];
        for (floats, numbers) in all.iter_mut().zip(numbers) {
            *floats = self.load(numbers);
        }
        all
    }

    /// The sum of all.
    #[inline(always)]
    fn sum(self, floats: Self::Floats) -> f32 {
        let mut numbers = [0.0; LANES];
        self.store(floats, &mut numbers);
        let [mut eight, others]: [[f32; LANES / 2]; 2] = bytemuck::cast(numbers);
        for (own, other) in eight.iter_mut().zip(others) {
            *own += other;
        }
        let [mut four, others]: [[f32; LANES / 4]; 2] = bytemuck::cast(eight);
        for (own, other) in four.iter_mut().zip(others) {
            *own += other;
        }
        let [a, b, c, d] = four;
        (a + b) + (c + d)
    }
}

/// A kernel for any level; its functions are inlined into one entry for each.
pub(super) trait Job {
    fn run<L: Lanes>(self, lanes: L);
}

/// Runs `job` at the level `isa`, or at the highest that the CPU has.
pub(super) fn dispatch(isa: Isa, job: impl Job) {
    match isa.min(Isa::best()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has the features of this level.
        Isa::Avx2 => unsafe { x86::avx2(job) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 | Isa::Bf16 | Isa::Amx => unsafe { x86::avx512(job) },
        _ => job.run(Scalar),
    }
}

#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Arithmetic for Scalar {
    type Floats = [f32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for (sum, (a, (b, c))) in sums.iter_mut().zip(a.iter().zip(b.iter().zip(&c))) {
            *sum = Isa::Scalar.mul_add(*a, *b, *c);
        }
        sums
    }
}

impl Lanes for Scalar {
    const ROOM: usize = 4;

    #[inline(always)]
    fn load(self, numbers: &[f32; LANES]) -> [f32; LANES] {
        *numbers
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn store(self, floats: [f32; LANES], numbers: &mut [f32; LANES]) {
        *numbers = floats;
    }
}

/// `f` of each lane, in a new array: compiled by rustc 1.95 with `opt-level = 1`, a function that takes an array by value
/// and changes it in place changes the caller's array too.
#[inline(always)]
pub(super) fn zip<T: Copy + Default>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> T) -> [T; LANES] {
    let mut c = [T::default(); LANES];
    for ((c, a), b) in c.iter_mut().zip(&a).zip(&b) {
        *c = f(*a, *b);
    }
    c
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::{Arithmetic, Job, LANES, Lanes};

    /// AVX2 with FMA and F16C: lanes 0 to 7 and 8 to 15 in a register each.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(());

    impl Avx2 {
        /// # Safety
        /// The CPU has the features: that makes every call below sound.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Avx512 {
        /// # Safety
        /// As for AVX2.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(job: impl Job) {
        // SAFETY: who calls this has found the features.
        job.run(unsafe { Avx2::new() });
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn avx512(job: impl Job) {
        // SAFETY: as above.
        job.run(unsafe { Avx512::new() });
    }

    impl Arithmetic for Avx2 {
        type Floats = [__m256; 2];

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn mul(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_mul_ps(a, c), _mm256_mul_ps(b, d)] }
        }

        #[inline(always)]
        fn mul_add(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2], [e, f]: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] }
        }
    }

    impl Lanes for Avx2 {
        const ROOM: usize = 4;

        #[inline(always)]
        fn load(self, numbers: &[f32; LANES]) -> [__m256; 2] {
            bytemuck::cast(*numbers)
        }

        #[inline(always)]
        fn add(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] }
        }

        #[inline(always)]
        fn store(self, floats: [__m256; 2], numbers: &mut [f32; LANES]) {
            *numbers = bytemuck::cast(floats);
        }
    }

    impl Arithmetic for Avx512 {
        type Floats = __m512;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    impl Lanes for Avx512 {
        const ROOM: usize = 24;

        #[inline(always)]
        fn load(self, numbers: &[f32; LANES]) -> __m512 {
            // SAFETY: the type proves the features, and the numbers are there.
            unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn store(self, floats: __m512, numbers: &mut [f32; LANES]) {
            // SAFETY: the type proves the features, and there is room.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), floats) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SumOfProducts<'a>(&'a mut f32);

    impl Job for SumOfProducts<'_> {
        fn run<L: Lanes>(self, lanes: L) {
            let numbers: [f32; LANES] = std::array::from_fn(|at| at as f32);
            let [ones, own] = lanes.load_all(&[[1.0; LANES], numbers]);
            let sum = lanes.add(lanes.mul_add(own, lanes.splat(2.0), ones), own);
            let mut stored = [0.0; LANES];
            lanes.store(sum, &mut stored);
            assert_eq!(stored, numbers.map(|number| 3.0 * number + 1.0));
            *self.0 = lanes.sum(sum);
        }
    }

    #[test]
    fn every_level_computes_what_arrays_do() {
        for isa in Isa::available() {
            let mut total = 0.0;
            dispatch(isa, SumOfProducts(&mut total));
            assert_eq!(total, 3.0 * 120.0 + 16.0, "{isa:?}");
        }
    }
}
