//! Matrix times vector for weights stored as f32, f16 or bf16: every weight is read once, widened to f32 in registers
//! and accumulated in f32.

use super::isa::{Isa, vectorized};
use super::panels::Element;
use super::{LANES, PARALLEL_WORK, pool};

/// `y[o] = Σᵢ w[o, i] · x[i]` for `w` `[out, in]` row by row, `x` `[in]` and `y` `[out]`.
pub fn rows_times<W: Element>(isa: Isa, w: &[W], x: &[f32], y: &mut [f32]) {
    debug_assert_eq!(w.len(), x.len() * y.len());
    let inner = x.len().max(1);
    pool::split_rows(y, 1, PARALLEL_WORK.div_ceil(inner), |first, y| {
        some_rows_times(isa, w.get(first * inner..).unwrap_or_default(), x, y);
    });
}

vectorized! {
    fn some_rows_times<W: Element>(isa: Isa, w: &[W], x: &[f32], y: &mut [f32]) {
        for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len().max(1))) {
            *y = dot(isa, row, x);
        }
    }

    /// `y[i] = Σₒ x[o] · w[o, i]` for `w` `[out, in]` row by row, `x` `[out]` and `y` `[in]`: the product with `w`
    /// transposed.
    pub fn columns_times<W: Element>(isa: Isa, w: &[W], x: &[f32], y: &mut [f32]) {
        debug_assert_eq!(w.len(), x.len() * y.len());
        y.fill(0.0);
        for (row, x) in w.chunks_exact(y.len().max(1)).zip(x) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y = isa.mul_add(*x, w.value(), *y));
        }
    }
}

#[inline(always)]
fn dot<W: Element>(isa: Isa, w: &[W], x: &[f32]) -> f32 {
    let (w_lanes, w_rest) = w.as_chunks::<LANES>();
    let (x_lanes, x_rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (w, x) in w_lanes.iter().zip(x_lanes) {
        for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
            *sum = isa.mul_add(w.value(), *x, *sum);
        }
    }
    let rest: f32 = w_rest.iter().zip(x_rest).map(|(w, x)| w.value() * x).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn exact(w: &[f64], x: &[f32], transposed: bool, n_out: usize) -> Vec<f64> {
        let stride = if transposed { n_out } else { x.len() };
        let at = |o: usize, i: usize| if transposed { w[i * stride + o] } else { w[o * stride + i] };
        (0..n_out).map(|o| x.iter().enumerate().map(|(i, x)| at(o, i) * f64::from(*x)).sum()).collect()
    }

    fn check<W: Element>(narrow: impl Fn(f32) -> W, w: &[f32], x: &[f32], transposed: bool) {
        let n_out = w.len() / x.len();
        let stored: Vec<W> = w.iter().map(|&v| narrow(v)).collect();
        let wide: Vec<f64> = stored.iter().map(|v| f64::from(v.value())).collect();
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; n_out];
            if transposed {
                columns_times(isa, &stored, x, &mut y);
            } else {
                rows_times(isa, &stored, x, &mut y);
            }
            // f32 rounds each of the sum's n terms by at most 2^-24 of the sum of magnitudes (here at most n · 4).
            let bound = 4.0 * (x.len() as f64).powi(2) * f64::from(f32::EPSILON);
            for (got, want) in y.iter().zip(exact(&wide, x, transposed, n_out)) {
                assert!((f64::from(*got) - want).abs() <= bound, "{isa:?}: {got} for {want}, bound {bound}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_storage_type_equals_the_exact_sum(
            inner in 1usize..70, n_out in 1usize..40, transposed: bool, seed in 0u32..1000,
        ) {
            let wave = |i: usize, k: f32| ((i as f32 + seed as f32) * k).sin() * 2.0;
            let w: Vec<f32> = (0..inner * n_out).map(|i| wave(i, 0.37)).collect();
            let x: Vec<f32> = (0..inner).map(|i| wave(i, 0.61)).collect();
            check(|v| v, &w, &x, transposed);
            check(f16::from_f32, &w, &x, transposed);
            check(bf16::from_f32, &w, &x, transposed);
        }
    }

    #[test]
    fn a_product_that_is_shared_among_threads_equals_the_exact_sum() {
        let (inner, n_out) = (257, 1031);
        let w: Vec<f32> = (0..inner * n_out).map(|i| (i as f32 * 0.11).cos()).collect();
        let x: Vec<f32> = (0..inner).map(|i| (i as f32 * 0.7).sin()).collect();
        check(bf16::from_f32, &w, &x, false);
    }
}
