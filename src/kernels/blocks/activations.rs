//! Activations as 16-bit integers: one row, or several.

use bytemuck::{Pod, Zeroable};

use super::super::isa::{Isa, vectorized};
use super::super::pool;
use super::super::scratch::Scratch;
use super::GROUP;

/// So many sums are kept side by side.
const SUMS: usize = 8;

/// The rows that meet weights at once: with 16 lanes of two vectors, their sums are in 12 of 16 registers, and in as many of
/// 32 where a vector has 16 lanes and there are two panels. So many follow each other before one waits for itself.
pub(super) const TOGETHER: usize = 6;

const HALF: usize = GROUP / 2;

/// The largest magnitude of a quantized activation: its high byte fits an i8 with the low byte in -128..=127.
const LARGEST: f32 = 32512.0;

/// Rows of activations whose largest magnitude is below this are zeros: its inverse would overflow.
const SMALLEST: f32 = 1e-30;

/// Adding this to an f32 of magnitude below 2²² rounds it to the nearest integer, which the low bits of the sum hold.
const TO_INTEGER: f32 = 12_582_912.0; // 1.5 · 2²³

/// A row `[n_in]` quantized to `scale · q` per 32 inputs, for integers of magnitude at most 32512.
#[derive(Debug)]
pub struct Activations {
    groups: Scratch, // of a `Group` for 32 inputs
}

/// 32 activations.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Group {
    pub(super) halves: [Half; 2],
    pub(super) scale: f32,
    /// The sum of `scale · q`.
    pub(super) sum: f32,
}

/// 16 activations `q = 256 · hi + lo` in fours, as the dot-4 instructions take them.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Half {
    pub(super) hi: [[i8; 4]; 4],
    pub(super) lo: [[i8; 4]; 4],
    /// The sum of `q`.
    pub(super) sum: i32,
}

impl Activations {
    /// Quantizes `x` `[n_in]`, whose length is a multiple of 32. A group with a NaN or an infinity becomes NaN.
    pub fn quantize(x: &[f32]) -> Self {
        let (groups, rest) = x.as_chunks::<GROUP>();
        debug_assert!(rest.is_empty(), "{} activations are no multiple of {GROUP}", x.len());
        let mut quantized = Scratch::new(size_of::<Group>() / size_of::<f32>() * groups.len());
        quantize_groups(Isa::best(), groups, bytemuck::cast_slice_mut(&mut quantized));
        Self { groups: quantized }
    }

    /// How many activations the row has.
    pub fn n_in(&self) -> usize {
        self.groups().len() * GROUP
    }

    pub(super) fn groups(&self) -> &[Group] {
        bytemuck::cast_slice(&self.groups)
    }
}

/// Rows `[rows, n_in]`, quantized as [`Activations`] are.
#[derive(Clone, Debug)]
pub struct ActivationRows {
    groups: Vec<GroupOfRows>, // [ceil(rows / 6), n_in / 32]
    n_in: usize,
}

/// 32 activations of each of [`TOGETHER`] rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupOfRows {
    /// `[halves, pairs, rows]`. Of each four activations, the first and third are a pair, and the second and fourth.
    pub(super) pairs: [[[[i16; 2]; TOGETHER]; 8]; 2],
    pub(super) scales: [f32; TOGETHER],
    /// The sums of `scale · q`.
    pub(super) sums: [f32; TOGETHER],
}

impl ActivationRows {
    /// Quantizes `x` `[rows, n_in]`, as [`Activations::quantize`] does each row; `n_in` is a multiple of 32.
    pub fn quantize(isa: Isa, x: &[f32], n_in: usize) -> Self {
        debug_assert!(n_in.is_multiple_of(GROUP), "{n_in} activations are no multiple of {GROUP}");
        debug_assert!(x.len().is_multiple_of(n_in.max(1)), "{} activations in rows of {n_in}", x.len());
        let (rows, groups) = (x.len() / n_in.max(1), n_in / GROUP);
        let mut quantized = vec![GroupOfRows::default(); rows.div_ceil(TOGETHER) * groups];
        pool::chunks(&mut quantized, groups.max(1), |at, groups| {
            let rows = x.chunks_exact(n_in.max(1)).skip(at * TOGETHER).take(TOGETHER);
            rows.enumerate().for_each(|(row, x)| quantize_row(isa, x, row, groups));
        });
        Self { groups: quantized, n_in }
    }

    /// How many activations a row has.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// How many groups a row has.
    pub(super) fn groups(&self) -> usize {
        self.n_in / GROUP
    }

    /// The groups of [`TOGETHER`] rows, then of the next ones.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = &[GroupOfRows]> {
        self.groups.chunks_exact(self.groups().max(1))
    }
}

vectorized! {
    fn quantize_groups(_isa: Isa, x: &[[f32; GROUP]], groups: &mut [Group]) {
        for (group, x) in groups.iter_mut().zip(x) {
            *group = Group::new(&Quantized::new(x));
        }
    }

    fn quantize_row(_isa: Isa, x: &[f32], row: usize, groups: &mut [GroupOfRows]) {
        for (group, x) in groups.iter_mut().zip(x.as_chunks().0) {
            group.put(row, &Quantized::new(x));
        }
    }
}

/// 32 activations `scale · q`.
struct Quantized {
    halves: [[i16; HALF]; 2],
    scale: f32,
    /// The sums of `q` in each half.
    sums: [i32; 2],
}

impl Quantized {
    #[inline(always)]
    fn new(x: &[f32; GROUP]) -> Self {
        let largest = largest_magnitude(x);
        let (scale, inverse) = if largest < SMALLEST { (0.0, 0.0) } else { (largest / LARGEST, LARGEST / largest) };
        let [first, second]: &[[f32; HALF]; 2] = bytemuck::cast_ref(x);
        let [(first, first_sum), (second, second_sum)] = [to_integers(first, inverse), to_integers(second, inverse)];
        let scale = if largest.is_finite() { scale } else { f32::NAN };
        Self { halves: [first, second], scale, sums: [first_sum, second_sum] }
    }

    /// The sum of `scale · q`.
    #[inline(always)]
    fn sum(&self) -> f32 {
        let [first, second] = self.sums;
        self.scale * (first + second) as f32
    }
}

impl Group {
    #[inline(always)]
    fn new(quantized: &Quantized) -> Self {
        let ([first, second], [first_sum, second_sum]) = (&quantized.halves, quantized.sums);
        let halves = [Half::split(first, first_sum), Half::split(second, second_sum)];
        Self { halves, scale: quantized.scale, sum: quantized.sum() }
    }
}

impl GroupOfRows {
    #[inline(always)]
    fn put(&mut self, row: usize, quantized: &Quantized) {
        let pairs: [[i16; 2]; HALF] =
            bytemuck::cast(bytemuck::cast::<_, [u64; GROUP / 4]>(quantized.halves).map(paired));
        for (own, pair) in self.pairs.as_flattened_mut().iter_mut().zip(pairs) {
            put(own, row, pair);
        }
        put(&mut self.scales, row, quantized.scale);
        put(&mut self.sums, row, quantized.sum());
    }
}

/// Four numbers of 16 bits, of which the second and the third have changed places.
#[inline(always)]
fn paired(four: u64) -> u64 {
    let [outer, inner]: [u64; 2] = [0xffff_0000_0000_ffff, 0xffff_0000];
    four & outer | (four & inner) << 16 | four >> 16 & inner
}

#[inline(always)]
fn put<T>(all: &mut [T], row: usize, value: T) {
    if let Some(own) = all.get_mut(row) {
        *own = value;
    }
}

impl Half {
    /// The high and the low bytes of four activations after the other.
    #[inline(always)]
    pub(super) fn fours(&self) -> [[[i8; 4]; 2]; 4] {
        let ([hi_a, hi_b, hi_c, hi_d], [lo_a, lo_b, lo_c, lo_d]) = (self.hi, self.lo);
        [[hi_a, lo_a], [hi_b, lo_b], [hi_c, lo_c], [hi_d, lo_d]]
    }

    #[inline(always)]
    fn split(q: &[i16; HALF], sum: i32) -> Self {
        let (mut hi, mut lo) = ([0; HALF], [0; HALF]);
        for ((hi, lo), &q) in hi.iter_mut().zip(&mut lo).zip(q) {
            *lo = q as i8; // the low byte, read as signed; what is left is a multiple of 256
            *hi = (q.wrapping_sub(i16::from(*lo)) >> 8) as i8;
        }
        Self { hi: bytemuck::cast(hi), lo: bytemuck::cast(lo), sum }
    }
}

/// The largest magnitude; NaN is larger than infinity.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())))
}

/// The nearest integers to `x · factor`, and their sum; for what is no number, any.
#[inline(always)]
fn to_integers(x: &[f32; HALF], factor: f32) -> ([i16; HALF], i32) {
    let mut q = [0; HALF];
    let mut sums = [0.0; SUMS]; // of integers that f32 has exactly
    for (q, x) in q.as_chunks_mut::<SUMS>().0.iter_mut().zip(x.as_chunks::<SUMS>().0) {
        for ((q, x), sum) in q.iter_mut().zip(x).zip(&mut sums) {
            let rounded = x * factor + TO_INTEGER;
            *q = rounded.to_bits() as i16;
            *sum += rounded - TO_INTEGER;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    (q, ((a + e) + (c + g) + ((b + f) + (d + h))) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dequantized(row: &Activations) -> Vec<f32> {
        let wide = |scale: f32, half: &Half| -> Vec<f32> {
            let planes = half.hi.as_flattened().iter().zip(half.lo.as_flattened());
            planes.map(|(&hi, &lo)| scale * (256.0 * f32::from(hi) + f32::from(lo))).collect()
        };
        row.groups().iter().flat_map(|group| group.halves.map(|half| wide(group.scale, &half))).flatten().collect()
    }

    proptest! {
        #[test]
        fn a_row_is_kept_to_half_a_step_of_its_scale(
            x in prop::collection::vec(-8f32..8.0, 96), exponent in -60i32..60,
        ) {
            let x: Vec<f32> = x.iter().map(|x| x * 2f32.powi(exponent)).collect();
            let row = Activations::quantize(&x);
            prop_assert_eq!(row.n_in(), 96);
            for ((x, got), group) in x.chunks(32).zip(dequantized(&row).chunks(32)).zip(row.groups()) {
                // Half a step, and the rounding of the inverse and of two products.
                let bound = group.scale * (0.5 + 3.0 * LARGEST * f32::EPSILON);
                prop_assert!(x.iter().zip(got).all(|(x, got)| (x - got).abs() <= bound), "{x:?} {got:?}");
                let sum: f64 = got.iter().map(|v| f64::from(*v)).sum();
                prop_assert!((sum - f64::from(group.sum)).abs() <= f64::from(32.0 * bound * 1e-2), "{}", group.sum);
            }
        }
    }

    #[test]
    fn the_extremes_fit_both_planes_and_their_sums() {
        for sign in [1.0, -1.0] {
            let row = Activations::quantize(&[sign * 3.0; 32]);
            assert_eq!(row.groups()[0].halves[0].sum, 16 * 32512 * sign as i32);
            assert!(dequantized(&row).iter().all(|v| (v - sign * 3.0).abs() < 1e-6));
        }
    }

    #[test]
    fn zeros_stay_zeros_and_what_is_no_number_stays_none() {
        assert!(dequantized(&Activations::quantize(&[0.0; 32])).iter().all(|v| *v == 0.0));
        assert!(dequantized(&Activations::quantize(&[1e-38; 32])).iter().all(|v| *v == 0.0));
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[17] = poison;
            assert!(dequantized(&Activations::quantize(&x)).iter().all(|v| v.is_nan()));
        }
    }
}
