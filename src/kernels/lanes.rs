//! Some numbers at once in registers of each level. Where a kernel needs several such vectors, the compiler keeps arrays of
//! numbers in memory and writes them at every step.

#![allow(unsafe_code)]

use super::LANES;
use super::isa::Isa;

/// Operations on vectors of [`LANES`] numbers. A value of the type proves that the CPU has the instructions.
pub(super) trait Lanes: Copy {
    /// As many numbers.
    type Vector: Copy;
    /// Whether registers hold the sums of 16 vectors.
    const HAVE_ROOM: bool = false;

    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, numbers: &[f32; LANES]) -> Self::Vector;
    /// a · b + c
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn store(self, vector: Self::Vector, numbers: &mut [f32; LANES]);

    #[inline(always)]
    fn load_all<const N: usize>(self, numbers: &[[f32; LANES]; N]) -> [Self::Vector; N] {
        let mut vectors = [self.splat(0.0); N];
        for (vector, numbers) in vectors.iter_mut().zip(numbers) {
            *vector = self.load(numbers);
        }
        vectors
    }

    /// The sum of all numbers.
    #[inline(always)]
    fn total(self, vector: Self::Vector) -> f32 {
        let mut numbers = [0.0; LANES];
        self.store(vector, &mut numbers);
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
struct Scalar;

impl Lanes for Scalar {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, numbers: &[f32; LANES]) -> [f32; LANES] {
        *numbers
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], mut c: [f32; LANES]) -> [f32; LANES] {
        for (c, (a, b)) in c.iter_mut().zip(a.into_iter().zip(b)) {
            *c = Isa::Scalar.mul_add(a, b, *c);
        }
        c
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], mut b: [f32; LANES]) -> [f32; LANES] {
        for (b, a) in b.iter_mut().zip(a) {
            *b += a;
        }
        b
    }

    #[inline(always)]
    fn store(self, vector: [f32; LANES], numbers: &mut [f32; LANES]) {
        *numbers = vector;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Job, LANES, Lanes};

    /// Exists only inside [`avx2`], whose callers know that the CPU has the features: that makes every call below sound.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// As [`Avx2`], inside [`avx512`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(job: impl Job) {
        job.run(Avx2(()));
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn avx512(job: impl Job) {
        job.run(Avx512(()));
    }

    impl Lanes for Avx2 {
        type Vector = [__m256; 2];

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn load(self, numbers: &[f32; LANES]) -> [__m256; 2] {
            bytemuck::cast(*numbers)
        }

        #[inline(always)]
        fn mul_add(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2], [e, f]: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] }
        }

        #[inline(always)]
        fn add(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the type proves the features.
            unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] }
        }

        #[inline(always)]
        fn store(self, vector: [__m256; 2], numbers: &mut [f32; LANES]) {
            *numbers = bytemuck::cast(vector);
        }
    }

    impl Lanes for Avx512 {
        type Vector = __m512;
        const HAVE_ROOM: bool = true;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, numbers: &[f32; LANES]) -> __m512 {
            // SAFETY: the type proves the features, and the numbers are there.
            unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the type proves the features.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn store(self, vector: __m512, numbers: &mut [f32; LANES]) {
            // SAFETY: the type proves the features, and there is room.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), vector) }
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
            *self.0 = lanes.total(sum);
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
