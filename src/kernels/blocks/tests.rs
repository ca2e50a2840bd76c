use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use half::bf16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// A random matrix in ggml's blocks, packed, and as candle reads it.
struct Matrix {
    format: Format,
    n_in: usize,
    weights: Vec<f32>, // [n_out, n_in]
    panels: Vec<u8>,
}

impl Matrix {
    fn random(format: Format, n_out: usize, n_in: usize, seed: u64) -> Self {
        let dtype = match format {
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
        };
        let values = random(n_out * n_in, seed);
        let blocks = QTensor::quantize(&Tensor::from_vec(values, (n_out, n_in), &Device::Cpu).unwrap(), dtype).unwrap();
        let weights = blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut panels = vec![0xff; format.packed_bytes(n_out, n_in)];
        pack(format, &blocks.data().unwrap(), n_out, n_in, &mut panels);
        Self { format, n_in, weights, panels }
    }

    fn n_out(&self) -> usize {
        self.weights.len() / self.n_in
    }

    fn panels(&self) -> std::slice::ChunksExact<'_, u8> {
        self.panels.chunks_exact(self.format.panel_bytes(self.n_in))
    }

    /// Weights as candle has them, zeros beyond the last row.
    fn weight(&self, o: usize, i: usize) -> f32 {
        if o < self.n_out() { self.weights[o * self.n_in + i] } else { 0.0 }
    }

    /// Products with `x`, and the sums of the products' magnitudes, in f64.
    fn exact_times(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let products = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).collect::<Vec<_>>();
        let rows = self.weights.chunks(self.n_in).map(products);
        rows.map(|row| (row.iter().sum(), row.iter().map(|p| p.abs()).sum())).collect()
    }
}

/// Values of widely different magnitude by group, a few of them zero.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scale = 1.0;
    let values = (0..n).map(|i| {
        if i % GROUP == 0 {
            scale = if rng.random_range(0..20) == 0 { 0.0 } else { 10f32.powf(rng.random_range(-2.0..1.0)) };
        }
        scale * rng.random_range(-1.0..1.1)
    });
    values.collect()
}

fn levels() -> impl Iterator<Item = Level> {
    [Level::Scalar, Level::Avx2, Level::Avx512].into_iter().filter(|level| *level <= Level::detect())
}

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

/// Rows and inputs of a matrix.
fn shape(format: Format) -> impl Strategy<Value = (Format, usize, usize)> {
    let n_out = prop_oneof![Just(1), Just(15), Just(16), Just(17), Just(40), 1usize..50];
    (Just(format), n_out, (1..=768 / format.block_len()).prop_map(move |blocks| blocks * format.block_len()))
}

fn matrix() -> impl Strategy<Value = Matrix> {
    (format().prop_flat_map(shape), any::<u64>())
        .prop_map(|((format, n_out, n_in), seed)| Matrix::random(format, n_out, n_in, seed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn unpacked_rows_are_those_that_candle_reads_bit_for_bit(matrix in matrix()) {
        for level in levels() {
            for (p, panel) in matrix.panels().enumerate() {
                for row in 0..ROWS {
                    let mut got = vec![f32::NAN; matrix.n_in];
                    unpack_row(level, matrix.format, panel, row, &mut got);
                    for (i, got) in got.iter().enumerate() {
                        prop_assert_eq!(*got, matrix.weight(p * ROWS + row, i), "{:?} at {}, {}", level, row, i);
                    }
                }
            }
        }
    }

    #[test]
    fn widened_panels_have_the_weights_by_input(matrix in matrix(), from in 0usize..24, n in 0usize..24) {
        let groups = matrix.n_in / GROUP;
        let start = from % groups;
        let k = start * GROUP..(start + n % (groups - start + 1)) * GROUP;
        for level in levels() {
            for (p, panel) in matrix.panels().enumerate() {
                let (mut wide, mut pairs) = (vec![f32::NAN; k.len() * ROWS], vec![u32::MAX; k.len() / 2 * ROWS]);
                widen_panel(level, matrix.format, panel, k.clone(), &mut wide);
                widen_panel_bf16_pairs(level, matrix.format, panel, k.clone(), &mut pairs);
                for (at, got) in wide.iter().enumerate() {
                    let (i, row) = (at / ROWS, at % ROWS);
                    let want = matrix.weight(p * ROWS + row, k.start + i);
                    prop_assert_eq!(*got, want, "{:?} at {}, {}", level, row, i);
                    let pair = pairs[i / 2 * ROWS + row];
                    let got = bf16::from_bits(if i % 2 == 0 { pair as u16 } else { (pair >> 16) as u16 });
                    prop_assert_eq!(got, bf16::from_f32(want), "bf16 {:?} at {}, {}", level, row, i);
                }
            }
        }
    }

    #[test]
    fn products_equal_the_exact_sum(matrix in matrix(), seed: u64) {
        let x = random(matrix.n_in, seed);
        let quantized = Activations::quantize(&x);
        // Of each activation, at most half a step of 1/32512 of its group's largest, and f32's rounding of the rest.
        let steps: Vec<f32> = x.chunks(GROUP).flat_map(|x| [x.iter().fold(0f32, |a, x| a.max(x.abs())); GROUP]).collect();
        let of_steps = matrix.exact_times(&steps);
        for level in levels() {
            let (mut y, mut y_f32) = (vec![f32::NAN; matrix.n_out()], vec![f32::NAN; matrix.n_out()]);
            rows_times(level, matrix.format, &matrix.panels, &quantized, &mut y);
            rows_times_f32(level, matrix.format, &matrix.panels, &x, &mut y_f32);
            for (o, (want, magnitude)) in matrix.exact_times(&x).into_iter().enumerate() {
                let offsets = matrix.offsets_magnitude(o, &x);
                let rounding = (magnitude + offsets) * (matrix.n_in as f64 / 4.0 + 8.0) * f64::from(f32::EPSILON);
                let error = (f64::from(y_f32[o]) - want).abs();
                prop_assert!(error <= rounding, "f32 {level:?} row {o}: {} for {want}", y_f32[o]);
                let error = (f64::from(y[o]) - want).abs();
                prop_assert!(error <= rounding + of_steps[o].1 * 0.5 / 32512.0, "{level:?} row {o}: {} for {want}", y[o]);
            }
        }
    }
}
