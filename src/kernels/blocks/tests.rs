use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use half::{bf16, f16};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Packs ggml's `blocks` of a matrix `[n_out, n_in]`, row by row, into `out` of [`Format::packed_bytes`].
fn pack(format: Format, blocks: &[u8], n_out: usize, n_in: usize, out: &mut [u8]) {
    debug_assert_eq!(blocks.len(), n_out * format.ggml_row_bytes(n_in));
    debug_assert_eq!(out.len(), format.packed_bytes(n_out, n_in));
    let rows = blocks.chunks((ROWS * format.ggml_row_bytes(n_in)).max(1));
    for (rows, panel) in rows.zip(out.chunks_exact_mut(format.panel_bytes(n_in).max(1))) {
        pack_panel(format, rows, n_in, panel);
    }
}

/// A random matrix, packed, and as candle reads it.
#[derive(Debug)]
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

    fn magnitudes(&self) -> Vec<f32> {
        self.weights.iter().map(|w| w.abs()).collect()
    }

    fn times(&self, level: Isa, x: &Activations) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.n_out()];
        rows_times(level, self.format, &self.panels, x, &mut y);
        y
    }

    /// How far f32 may be off in the product with `x`, by row: each addition rounds by at most 2^-24 of the terms'
    /// magnitudes. A term `scale · code` or `offset` is at most a few times its group's largest weight.
    fn rounding_of_f32(&self, x: &[f32]) -> Vec<f64> {
        let magnitudes: Vec<f32> = x.iter().map(|x| 5.0 * x.abs()).collect();
        let additions = self.n_in as f64 / 4.0 + 8.0;
        let terms = exact_times(&peaks(&self.weights), &magnitudes);
        terms.into_iter().map(|terms| additions * terms * f64::from(f32::EPSILON)).collect()
    }
}

fn peaks(values: &[f32]) -> Vec<f32> {
    values.chunks(GROUP).flat_map(|group| [group.iter().fold(0f32, |peak, v| peak.max(v.abs())); GROUP]).collect()
}

/// The product of `w` [n_out, n_in] with `x` [n_in] in f64.
fn exact_times(w: &[f32], x: &[f32]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()).collect()
}

/// Values of widely different magnitude by group, a few of them zero.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut scale = 1.0;
    let values = (0..n).map(|i| {
        if i % GROUP == 0 {
            scale = if rng.random_range(0..20) == 0 { 0.0 } else { 10f32.powf(rng.random_range(-2.0..1.0)) };
        }
        scale * rng.random_range(-1.0..1.1)
    });
    values.collect()
}

fn levels() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|level| *level <= Isa::Avx512)
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
        let want = exact_times(&matrix.weights, &x);
        let rounding = matrix.rounding_of_f32(&x);
        // Half a step of 1/32512 of each group's largest activation, and a bit for what f32 rounds in quantizing it.
        let steps = exact_times(&matrix.magnitudes(), &peaks(&x));
        let scalar = matrix.times(Isa::Scalar, &Activations::quantize(&x));
        for level in levels() {
            let y = matrix.times(level, &Activations::quantize(&x));
            let mut y_f32 = vec![f32::NAN; matrix.n_out()];
            rows_times_f32(level, matrix.format, &matrix.panels, &x, &mut y_f32);
            for (o, &want) in want.iter().enumerate() {
                let error = |got: f32| (f64::from(got) - want).abs();
                prop_assert!(error(y_f32[o]) <= rounding[o], "f32 {level:?} row {o}: {} for {want}", y_f32[o]);
                let bound = rounding[o] + 0.52 / 32512.0 * steps[o];
                prop_assert!(error(y[o]) <= bound, "{level:?} row {o}: {} for {want}", y[o]);
                let difference = f64::from(y[o] - scalar[o]).abs();
                prop_assert!(difference <= rounding[o], "{level:?} row {o}: {} for the scalar {}", y[o], scalar[o]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn several_rows_give_bit_for_bit_what_each_gives(matrix in matrix(), rows in 0usize..20, seed: u64) {
        let mut x = random(rows * matrix.n_in, seed);
        let at = seed as usize % x.len().max(1);
        if let Some(poisoned) = x.get_mut(at).filter(|_| seed % 3 == 0) {
            *poisoned = [f32::NAN, f32::INFINITY, 1e-38][seed as usize / 3 % 3];
        }
        for level in levels() {
            let quantized = ActivationRows::quantize(level, &x, matrix.n_in);
            let alone = x.chunks(matrix.n_in).map(|x| matrix.times(level, &Activations::quantize(x)));
            let alone: Vec<f32> = alone.flatten().collect();
            let mut together = vec![f32::NAN; rows * matrix.n_out()];
            let both = 2 * matrix.format.panel_bytes(matrix.n_in);
            for (at, panels) in matrix.panels.chunks(both).enumerate() {
                let mut y = vec![[[f32::NAN; ROWS]; 2]; rows];
                panels_times_rows(level, matrix.format, panels, &quantized, &mut y);
                for (together, y) in together.chunks_mut(matrix.n_out()).zip(&y) {
                    together[at * 2 * ROWS..].iter_mut().zip(y.as_flattened()).for_each(|(own, y)| *own = *y);
                }
            }
            let bits = |y: &[f32]| y.iter().map(|y| if y.is_nan() { u32::MAX } else { y.to_bits() }).collect::<Vec<_>>();
            prop_assert_eq!(bits(&together), bits(&alone), "{:?}", level);
        }
    }
}

#[test]
fn the_extremes_of_codes_and_activations_do_not_overflow() {
    for format in Format::ALL {
        let n_in = 256;
        // All bits set but those of the scales in f16, which are 1.
        let mut block = vec![0xff; format.ggml_block_bytes()];
        let scales = match format {
            Format::Q8_0 => vec![0],
            Format::Q4K | Format::Q5K => vec![0, 2],
            Format::Q6K => vec![block.len() - 2],
        };
        for at in scales {
            block[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
        }
        let blocks = block.repeat(n_in / format.block_len());
        let mut panel = vec![0; format.panel_bytes(n_in)];
        pack_panel(format, &blocks, n_in, &mut panel);
        let mut weights = vec![0.0; n_in];
        unpack_row(Isa::Scalar, format, &panel, 0, &mut weights);
        // The last have the least low bytes: 32384 is 127 · 256 - 128.
        let low: Vec<f32> = (0..n_in).map(|i| if i % GROUP == 0 { 1.0 } else { 32384.0 / 32512.0 }).collect();
        for x in [vec![1.0; n_in], vec![-1.0; n_in], low] {
            let want = exact_times(&weights, &x)[0];
            for level in levels() {
                let (mut y, mut rows) = ([f32::NAN], [[[f32::NAN; ROWS]; 2]]);
                rows_times(level, format, &panel, &Activations::quantize(&x), &mut y);
                let both = panel.repeat(2);
                panels_times_rows(level, format, &both, &ActivationRows::quantize(level, &x, n_in), &mut rows);
                for y in [y[0], rows[0][0][0], rows[0][1][0]] {
                    assert!((f64::from(y) - want).abs() <= want.abs() * 1e-6, "{format:?} {level:?}: {y} for {want}");
                }
            }
        }
    }
}

#[test]
fn packed_blocks_have_at_most_3_percent_more_bytes_than_those_of_ggml() {
    for format in Format::ALL {
        let (packed, ggml) = (format.packed_bytes(ROWS, 4096), ROWS * format.ggml_row_bytes(4096));
        assert!((ggml..=ggml * 103 / 100).contains(&packed), "{format:?}: {packed} bytes for {ggml}");
    }
}

#[test]
fn a_scale_that_is_no_number_makes_no_number_of_its_weights_at_every_level() {
    for format in Format::ALL {
        let matrix = Matrix::random(format, 16, 256, 1);
        let nan = f16::NAN.to_le_bytes();
        // Whatever lies where: all that could be a scale becomes NaN.
        let panel: Vec<u8> = matrix.panels.chunks(2).flat_map(|_| nan).collect();
        for isa in levels() {
            let (mut wide, mut pairs) = (vec![0.0; 256 * ROWS], vec![0; 128 * ROWS]);
            widen_panel(isa, format, &panel, 0..256, &mut wide);
            widen_panel_bf16_pairs(isa, format, &panel, 0..256, &mut pairs);
            assert!(wide.iter().all(|value| value.is_nan()), "{format:?} {isa:?}");
            let halves = pairs.iter().flat_map(|pair| [pair << 16, pair & 0xffff_0000]);
            assert!(halves.map(f32::from_bits).all(f32::is_nan), "{format:?} {isa:?}");
        }
    }
}
