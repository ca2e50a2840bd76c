//! What happens to the numbers of a row between matrix products.

use super::isa::{Isa, vectorized};
use super::math::{exp, silu};
use super::{LANES, pool};

/// So many numbers are worth a part of a parallel region.
const PART: usize = 1 << 13;

/// The sum of the squares of `x`.
#[inline(always)]
fn sum_of_squares(isa: Isa, x: &[f32]) -> f32 {
    let (lanes, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for x in lanes {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = isa.mul_add(*x, *x, *sum);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}

/// What `x` is multiplied by so that the mean of its squares is 1.
#[inline(always)]
fn rms_factor(isa: Isa, x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(isa, x) / x.len() as f32 + eps).sqrt()
}

vectorized! {
    fn rms_row(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let factor = rms_factor(isa, x, eps);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * factor * weight;
        }
    }

    /// `up` becomes silu(gate · factor) · up.
    pub fn swiglu_row(isa: Isa, gate: &[f32], factor: f32, up: &mut [f32]) {
        for (up, gate) in up.iter_mut().zip(gate) {
            *up *= silu(isa, gate * factor);
        }
    }

    /// `x` becomes relu(x)².
    pub fn square_relu_row(isa: Isa, x: &mut [f32]) {
        for x in x.iter_mut() {
            let positive = x.max(0.0);
            *x = positive * positive;
        }
    }

    /// `y` becomes x · y.
    pub fn multiply_row(isa: Isa, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }

    /// `y` becomes x + y · factor.
    pub fn add_to_scaled_row(isa: Isa, x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = isa.mul_add(*y, factor, *x);
        }
    }

    /// Adds `x · factor` to `y`.
    pub fn add_scaled_row(isa: Isa, x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = isa.mul_add(*x, factor, *y);
        }
    }

    /// `x` becomes silu(z) · x where it hasn't met its gate z yet, with a norm over each group of it before or after the
    /// gate where there is one.
    pub fn gate_row(isa: Isa, z: Option<&[f32]>, norm: Option<GatedNorm<'_>>, x: &mut [f32]) {
        let is_first = norm.is_some_and(|norm| norm.is_before_gate);
        if is_first {
            norm_groups(isa, norm, x);
        }
        for (x, z) in x.iter_mut().zip(z.unwrap_or_default()) {
            *x *= silu(isa, *z);
        }
        if !is_first {
            norm_groups(isa, norm, x);
        }
    }

    /// The largest of `x` and `least`; numbers alone count.
    pub fn largest(isa: Isa, x: &[f32], least: f32) -> f32 {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let (lanes, rest) = x.as_chunks::<LANES>();
        let mut all = [least; LANES];
        for x in lanes {
            for (all, x) in all.iter_mut().zip(x) {
                *all = larger(*all, *x);
            }
        }
        all.iter().chain(rest).fold(least, |all, x| larger(all, *x))
    }

    /// Turns scores into e^(score − largest), whose sum is returned.
    pub fn exp_row(isa: Isa, largest: f32, scores: &mut [f32]) -> f32 {
        let (lanes, rest) = scores.as_chunks_mut::<LANES>();
        let mut sums = [0.0; LANES];
        for scores in lanes {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp(isa, *score - largest);
                *sum += *score;
            }
        }
        for score in rest.iter_mut() {
            *score = exp(isa, *score - largest);
        }
        sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

/// The grouped RMSNorm beside a gate.
#[derive(Clone, Copy, Debug)]
pub struct GatedNorm<'a> {
    /// As wide as a row.
    pub weight: &'a [f32],
    /// The width of a group.
    pub group: usize,
    /// What is added to the mean of the squares.
    pub eps: f32,
    /// Whether the gate comes after the norm.
    pub is_before_gate: bool,
}

#[inline(always)]
fn norm_groups(isa: Isa, norm: Option<GatedNorm<'_>>, x: &mut [f32]) {
    let Some(norm) = norm else { return };
    let groups = x.chunks_exact_mut(norm.group.max(1)).zip(norm.weight.chunks_exact(norm.group.max(1)));
    for (x, weight) in groups {
        let factor = rms_factor(isa, x, norm.eps);
        for (x, weight) in x.iter_mut().zip(weight) {
            *x *= factor * weight;
        }
    }
}

/// The RMSNorm of each row of `x` `[rows, width]`, `width` being that of `weight`.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    each_row(y, width, |row, y| {
        rms_row(isa, x.get(row * width..(row + 1) * width).unwrap_or_default(), weight, eps, y);
    });
}

/// `up` becomes silu(gate · factor) · up. Both are `[rows, width]`.
pub fn swiglu(isa: Isa, gate: &[f32], factor: f32, up: &mut [f32]) {
    pool::split_rows(up, 1, PART, |first, up| {
        swiglu_row(isa, gate.get(first..first + up.len()).unwrap_or_default(), factor, up);
    });
}

/// `y` becomes x + y · factor.
pub fn add_to_scaled(isa: Isa, x: &[f32], factor: f32, y: &mut [f32]) {
    pool::split_rows(y, 1, PART, |first, y| {
        add_to_scaled_row(isa, x.get(first..first + y.len()).unwrap_or_default(), factor, y);
    });
}

/// `x` becomes `x · factor`.
pub fn scale(factor: f32, x: &mut [f32]) {
    pool::split_rows(x, 1, PART, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Calls `work` with the number of each row and the row.
pub fn each_row(rows: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    pool::split_rows(rows, width, PART.div_ceil(width.max(1)), |first, rows| {
        rows.chunks_exact_mut(width.max(1)).enumerate().for_each(|(row, own)| work(first + row, own));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, k: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * k).sin() * 2.0).collect()
    }

    fn assert_close(got: &[f32], want: impl IntoIterator<Item = f64>) {
        let want: Vec<f64> = want.into_iter().collect();
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(got, want)| assert!((f64::from(*got) - want).abs() < 2e-6, "{got} for {want}"));
    }

    fn exact_norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().zip(weight).map(|(x, weight)| x / (mean + eps).sqrt() * f64::from(*weight)).collect()
    }

    fn exact_silu(x: f32) -> f64 {
        f64::from(x) / (1.0 + f64::from(-x).exp())
    }

    #[test]
    fn every_level_norms_and_gates_as_the_definitions_say() {
        for (width, group) in [(1, 1), (24, 8), (37, 37), (130, 65)] {
            let (x, z, weight) = (wave(width, 0.7), wave(width, 0.3), wave(width, 0.11));
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let grouped = |x: &[f64]| -> Vec<f64> {
                x.chunks(group).zip(weight.chunks(group)).flat_map(|(x, weight)| exact_norm(x, weight, 1e-5)).collect()
            };
            let gate = |x: &[f64]| -> Vec<f64> { x.iter().zip(&z).map(|(x, z)| x * exact_silu(*z)).collect() };
            for isa in Isa::available() {
                let mut y = vec![0.0; width];
                rms_norm(isa, &x, &weight, 1e-5, &mut y);
                assert_close(&y, exact_norm(&wide, &weight, 1e-5));
                for is_before_gate in [true, false] {
                    let mut y = x.clone();
                    gate_row(
                        isa,
                        Some(&z),
                        Some(GatedNorm { weight: &weight, group, eps: 1e-5, is_before_gate }),
                        &mut y,
                    );
                    assert_close(&y, if is_before_gate { gate(&grouped(&wide)) } else { grouped(&gate(&wide)) });
                }
                let mut y = x.clone();
                gate_row(isa, Some(&z), None, &mut y);
                assert_close(&y, gate(&wide));
                let mut y = x.clone();
                swiglu(isa, &z, 0.5, &mut y);
                assert_close(&y, x.iter().zip(&z).map(|(x, z)| f64::from(*x) * exact_silu(z * 0.5)));
            }
        }
    }

    #[test]
    fn sums_with_a_factor_are_those_of_f64() {
        let (x, y) = (wave(37, 0.7), wave(37, 0.3));
        for isa in Isa::available() {
            let (mut added, mut scaled) = (y.clone(), y.clone());
            add_scaled_row(isa, &x, 0.7, &mut added);
            add_to_scaled_row(isa, &x, 0.7, &mut scaled);
            let wide = |x: &f32| f64::from(*x);
            assert_close(&added, x.iter().zip(&y).map(|(x, y)| wide(y) + wide(x) * wide(&0.7)));
            assert_close(&scaled, x.iter().zip(&y).map(|(x, y)| wide(x) + wide(y) * wide(&0.7)));
        }
    }

    #[test]
    fn a_softmax_of_equal_scores_is_even() {
        for isa in Isa::available() {
            let mut scores = [3.0; 21];
            assert_eq!(exp_row(isa, 3.0, &mut scores), 21.0);
            assert_eq!(scores, [1.0; 21]);
        }
    }
}
