//! The kernels on the emulator, held to those of the CPU or to sums in f64.

use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

use super::attention::WIDEST;
use super::emulator::{aligned, at, at_mut, room, run};
use super::*;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::Sizing;
use crate::kernels::mamba2::{ConvState, Convolution, Inputs, State, Steps, Token, step};
use crate::kernels::matrix::WeightType;
use crate::kernels::rows::{GatedNorm, gate_row};
use crate::kernels::{rope, rows};
use crate::model::packing::StoredRows;

const EPS: f32 = 1e-5;

fn wave(count: usize, k: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * k).sin()).collect()
}

/// Numbers in −12..12 that look random: Knuth's multiplicative hash of the index.
pub(crate) fn scattered(count: usize) -> Vec<f32> {
    let hash = |i: u32| i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 8;
    (1..=count as u32).map(|i| hash(i) as f32 / (1 << 24) as f32 * 24.0 - 12.0).collect()
}

/// Every third of them is one of these instead.
pub(crate) fn with(mut logits: Vec<f32>, others: &[f32]) -> Vec<f32> {
    for (logit, other) in logits.iter_mut().step_by(3).zip(others.iter().cycle()) {
        *logit = *other;
    }
    logits
}

fn assert_close(got: &[f32], want: &[f32], bound: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound * want.abs().max(1.0), "{what}, {i}: {got} for {want}");
    }
}

/// The types that matrices of several heads have.
const STORED: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];

/// Rows of `n_in` weights as kernels take them, and what they are.
pub(crate) fn stored(dtype: WeightType, n_in: usize, numbers: &[f32]) -> (Vec<u128>, Vec<f32>) {
    let row = |row: usize| bytemuck::cast_slice(&numbers[row * n_in..(row + 1) * n_in]).into();
    let rows = StoredRows { dtype: WeightType::F32, n_out: numbers.len() / n_in, n_in, row: &row, done: &|_| {} };
    let matrix = rows.pack(Some(dtype)).unwrap();
    let mut numbers = numbers.to_vec();
    numbers.chunks_mut(n_in).enumerate().for_each(|(output, row)| matrix.row(output, row));
    let bytes = match dtype {
        WeightType::F32 => bytemuck::cast_slice(&numbers).to_vec(),
        WeightType::F16 => bytemuck::cast_slice(&Vec::<f16>::from_f32_slice(&numbers)).to_vec(),
        WeightType::Bf16 => bytemuck::cast_slice(&Vec::<bf16>::from_f32_slice(&numbers)).to_vec(),
        WeightType::Blocks(_) => matrix.into_planes().to_vec(),
    };
    let mut memory = room(bytes.len());
    bytemuck::cast_slice_mut::<_, u8>(&mut memory)[..bytes.len()].copy_from_slice(&bytes);
    (memory, numbers)
}

/// Each type of weights with the sizes of matrices that it can have: ends of rows, of words and of panels, and what several
/// words at a time leave.
fn sizes() -> impl Iterator<Item = (WeightType, (usize, usize))> {
    let all = [(1, 1), (5, 7), (21, 37), (16, 8), (3, 32), (21, 160), (5, 256), (21, 1032), (37, 2080), (33, 2304)];
    let all = WeightType::ALL.into_iter().flat_map(move |dtype| all.map(|sizes| (dtype, sizes)));
    all.filter(|(dtype, (_, n_in))| dtype.row_bytes(*n_in).is_some())
}

#[test]
fn a_row_times_matrices_is_the_sum_of_products() {
    let single = sizes().map(|(dtype, (n_out, n_in))| (dtype, (1, n_out, n_in)));
    let several = STORED.into_iter().flat_map(|dtype| [(3, 5, 1024), (2, 130, 264)].map(|case| (dtype, case)));
    for (dtype, (count, n_out, n_in)) in single.chain(several) {
        let (memory, w) = stored(dtype, n_in, &wave(count * n_out * n_in, 0.37));
        let (x, bias) = (wave(count * n_in, 0.73), wave(n_out, 0.9));
        let weights = Weights { at: at(&memory), dtype, count, n_out, n_in };
        for bias in (count == 1).then_some(&bias).into_iter().map(Some).chain([None]) {
            let mut y = vec![f32::NAN; count * n_out];
            let after = After { bias: bias.map_or(0, |bias| at(bias)), ..After::default() };
            run([weights.row_times(at(&aligned(&x)), Norm::default(), after, at_mut(&mut y))]);
            let want: Vec<f32> = (0..count * n_out)
                .map(|i| {
                    let (which, output) = (i / n_out, i % n_out);
                    let row = &w[i * n_in..(i + 1) * n_in];
                    let products = row.iter().zip(&x[which * n_in..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    (products.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[output]))) as f32
                })
                .collect();
            assert_close(&y, &want, 1e-5, &format!("{dtype:?} {count} {n_out} {n_in}"));
        }
    }
}

#[test]
fn a_gated_row_is_what_its_parts_make() {
    for (dtype, (n_out, n_in)) in sizes() {
        let [gates, ups] = [0.37, 0.53].map(|k| stored(dtype, n_in, &wave(n_out * n_in, k)).0);
        let [gate, up] = [&gates, &ups].map(|memory| Weights { at: at(memory), dtype, count: 1, n_out, n_in });
        let x = aligned(&wave(n_in, 0.73));
        let [mut got, mut want, mut gate_of_x] = [(); 3].map(|()| vec![f32::NAN; n_out]);
        let plainly = |w: &Weights, y: &mut [f32]| w.row_times(at(&x), Norm::default(), After::default(), at_mut(y));
        run([plainly(&gate, &mut gate_of_x), plainly(&up, &mut want)]);
        run([gated(&gate, &up, 0.7, at(&x), Norm::default(), at_mut(&mut got))]);
        rows::swiglu(Isa::Scalar, &gate_of_x, 0.7, &mut want);
        assert_close(&got, &want, 1e-5, &format!("{dtype:?} {n_out} {n_in}"));
    }
}

#[test]
fn a_norm_before_a_product_and_a_residual_after_it_are_what_they_are_by_themselves() {
    for (dtype, (n_out, n_in)) in sizes() {
        let [w, up] = [0.37, 0.53].map(|k| stored(dtype, n_in, &wave(n_out * n_in, k)).0);
        let [w, up] = [&w, &up].map(|memory| Weights { at: at(memory), dtype, count: 1, n_out, n_in });
        let (x, weight) = (aligned(&wave(n_in, 0.73)), aligned(&wave(n_in, 0.19)));
        let (bias, residual, mut normed) = (wave(n_out, 0.9), wave(n_out, 0.3), aligned(&vec![f32::NAN; n_in]));
        let norm = Norm { weight: at(&weight), eps: EPS };
        let after = After { bias: at(&bias), residual: at(&residual), factor: 0.7 };
        let [mut got, mut want, mut got_gated, mut want_gated] = [(); 4].map(|()| vec![f32::NAN; n_out]);
        run([
            rms_norm(at(&x), norm.weight, at_mut(&mut normed), [1, n_in], EPS),
            w.row_times(at(&normed), Norm::default(), After { bias: at(&bias), ..After::default() }, at_mut(&mut want)),
            add_to_scaled(at(&residual), 0.7, at_mut(&mut want), n_out),
            gated(&w, &up, 0.7, at(&normed), Norm::default(), at_mut(&mut want_gated)),
            w.row_times(at(&x), norm, after, at_mut(&mut got)),
            gated(&w, &up, 0.7, at(&x), norm, at_mut(&mut got_gated)),
        ]);
        // Sums of as many numbers as a row has, where the norm's factor comes last, and where it comes first.
        assert_close(&got, &want, 1e-4, &format!("{dtype:?} {n_out} {n_in}"));
        // What a gate is off by, where most of its sum goes away, is multiplied by as much as 60.
        assert_close(&got_gated, &want_gated, 1e-3, &format!("{dtype:?} {n_out} {n_in}, gated"));
    }
}

#[test]
fn rows_of_blocks_become_the_numbers_that_they_are_on_the_cpu() {
    for (dtype, (n_out, n_in)) in sizes().filter(|(dtype, _)| dtype.is_blocks()) {
        let (memory, w) = stored(dtype, n_in, &wave(n_out * n_in, 0.37));
        let weights = Weights { at: at(&memory), dtype, count: 1, n_out, n_in };
        let (ids, rows) = ([n_out as u32 - 1, 0, n_out as u32 / 2], 1..n_out);
        let mut embedded = vec![f32::NAN; ids.len() * n_in];
        let (mut wide, mut narrow) = (vec![f32::NAN; rows.len() * n_in], vec![bf16::NAN; rows.len() * n_in]);
        run([
            weights.embed(at(&ids), ids.len(), at_mut(&mut embedded)),
            weights.widen_to_f32(rows.clone(), at_mut(&mut wide)),
            weights.widen_to_bf16(rows, at_mut(&mut narrow)),
        ]);
        let what = format!("{dtype:?} {n_out} {n_in}");
        // Offsets lose what is less than a scale / 2^16, which is a tenth here.
        assert_close(&wide, &w[n_in..], 2e-6, &what);
        assert_eq!(narrow, Vec::<bf16>::from_f32_slice(&wide), "{what}");
        let named: Vec<f32> = ids.iter().flat_map(|id| &w[*id as usize * n_in..][..n_in]).copied().collect();
        assert_close(&embedded, &named, 2e-6, &what);
    }
}

#[test]
fn rows_become_what_they_become_on_the_cpu() {
    let (count, size) = (3, 300);
    let (x, weight) = (wave(count * size, 0.37), wave(size, 0.11));
    let mut want = vec![0.0; x.len()];
    rows::rms_norm(Isa::Scalar, &x, &weight, 1e-5, &mut want);
    let mut got = vec![f32::NAN; x.len()];
    run([rms_norm(at(&x), at(&weight), at_mut(&mut got), [count, size], 1e-5)]);
    assert_close(&got, &want, 1e-5, "norm");

    let gate = wave(x.len(), 0.51);
    let (mut got, mut want) = (x.clone(), x.clone());
    rows::swiglu(Isa::Scalar, &gate, 0.7, &mut want);
    run([swiglu(at(&gate), 0.7, at_mut(&mut got), x.len())]);
    assert_close(&got, &want, 1e-5, "swiglu");

    rows::add_to_scaled(Isa::Scalar, &gate, 0.3, &mut want);
    run([add_to_scaled(at(&gate), 0.3, at_mut(&mut got), x.len())]);
    assert_close(&got, &want, 1e-5, "sum");
}

#[test]
fn vectors_are_turned_as_on_the_cpu() {
    let (tokens, heads, width, pairs) = (3, 2, 20, 8);
    let x = wave(tokens * heads * width, 0.37);
    let (cos, sin) = (wave(tokens * pairs, 0.9), wave(tokens * pairs, 0.4));
    for are_neighbours in [false, true] {
        let (mut got, mut want) = (x.clone(), x.clone());
        for (row, x) in want.chunks_mut(width).enumerate() {
            let angles = row / heads * pairs..(row / heads + 1) * pairs;
            rope::rotate(Isa::Scalar, x, &cos[angles.clone()], &sin[angles], are_neighbours);
        }
        run([rotate(at_mut(&mut got), [tokens, heads, width], (at(&cos), at(&sin)), pairs, are_neighbours)]);
        assert_close(&got, &want, 1e-5, "turned");
    }
}

/// A layer between its projections, with its state, on the CPU token by token.
struct Layer {
    sizing: Sizing,
    taps: Vec<f32>,
    conv_bias: Option<Vec<f32>>,
    dt_bias: Vec<f64>,
    dt_limit: (f64, f64),
    a: Vec<f64>,
    d: Vec<f32>,
    norm: Option<(Vec<f32>, bool)>,
}

impl Layer {
    fn new(sizing: Sizing, kernel: usize, norm: Option<bool>) -> Self {
        let f64s = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect();
        Self {
            sizing,
            taps: wave(kernel * sizing.conv_dim(), 0.31),
            conv_bias: (kernel > 1).then(|| wave(sizing.conv_dim(), 0.21)),
            dt_bias: f64s(wave(sizing.heads, 0.8)),
            dt_limit: (0.05, 3.0),
            a: wave(sizing.heads, 0.3).iter().map(|a| -f64::from(a.abs()) - 0.1).collect(),
            d: wave(sizing.heads, 0.6),
            norm: norm.map(|is_first| (wave(sizing.inner(), 0.17), is_first)),
        }
    }

    fn kept(&self) -> usize {
        self.taps.len() / self.sizing.conv_dim() - 1
    }

    fn on_the_cpu(&self, projected: &[f32], conv: &mut [f32], ssm: &mut [f32]) -> Vec<f32> {
        let (inner, conv_dim) = (self.sizing.inner(), self.sizing.conv_dim());
        let width = inner + conv_dim + self.sizing.heads;
        let mut kept = ConvState::new(conv.to_vec(), conv_dim);
        let token = |row: &[f32]| {
            let convolution = Convolution { taps: &self.taps, bias: self.conv_bias.as_deref() };
            let projected = Rows { data: &row[inner + conv_dim..], stride: width };
            let dt = Steps { projected, bias: &self.dt_bias, limit: self.dt_limit };
            let inputs = Inputs { xbc: &row[inner..inner + conv_dim], dt, a: &self.a, d: &self.d };
            let mut y = vec![0.0; inner];
            let state = State { conv: &mut kept, ssm: &mut *ssm };
            step(Isa::Scalar, self.sizing, state, Token { inputs, convolution, z: None }, &mut y);
            let group = inner / self.sizing.groups;
            let norm = self.norm.as_ref();
            let norm = norm.map(|(weight, first)| GatedNorm { weight, group, eps: EPS, is_before_gate: *first });
            gate_row(Isa::Scalar, Some(&row[..inner]), norm, &mut y);
            y
        };
        let y = projected.chunks(width).flat_map(token).collect();
        conv.copy_from_slice(kept.in_order());
        y
    }

    fn on_the_emulator(&self, projected: &[f32], conv: &mut [f32], ssm: &mut [f32]) -> Vec<f32> {
        let (inner, conv_dim) = (self.sizing.inner(), self.sizing.conv_dim());
        let tokens = projected.len() / (inner + conv_dim + self.sizing.heads);
        let layer = Mamba2 {
            sizing: self.sizing,
            kept: self.kept(),
            taps: at(&self.taps),
            conv_bias: self.conv_bias.as_ref().map_or(0, |bias| at(bias)),
            dt_bias: at(&self.dt_bias),
            dt_limit: self.dt_limit,
            a: at(&self.a),
            d: at(&self.d),
            norm: self.norm.as_ref().map_or(0, |(weight, _)| at(weight)),
            eps: EPS,
            is_norm_first: self.norm.as_ref().is_some_and(|(_, first)| *first),
        };
        let mut room = room(layer.room(tokens));
        let [mut y, mut normed] = [(); 2].map(|()| vec![f32::NAN; tokens * inner]);
        let mut next_conv = vec![f32::NAN; conv.len()];
        run(layer.launches(Mamba2Run {
            tokens,
            projected: at(projected),
            conv: at(conv),
            next_conv: at_mut(&mut next_conv),
            ssm: at_mut(ssm),
            y: at_mut(&mut y),
            room: at_mut(&mut room),
        }));
        conv.copy_from_slice(&next_conv);
        if layer.leaves_norm(tokens) {
            run([rms_norm(at(&y), layer.norm, at_mut(&mut normed), [tokens, inner], EPS)]);
            return normed;
        }
        y
    }
}

#[test]
fn mamba2_is_the_recurrence_however_a_prompt_is_split() {
    let sizings = [
        Sizing { heads: 4, head_dim: 8, state_size: 16, groups: 2 },
        Sizing { heads: 2, head_dim: 66, state_size: 70, groups: 1 },
    ];
    let norms = [Some(false), None, Some(true)];
    for (sizing, (kernel, norm)) in
        sizings.into_iter().flat_map(|sizing| [4, 1, 2].into_iter().zip(norms).map(move |case| (sizing, case)))
    {
        let layer = Layer::new(sizing, kernel, norm);
        let width = sizing.inner() + sizing.conv_dim() + sizing.heads;
        let projected = wave(310 * width, 0.0137);
        let states = || (wave(layer.kept() * sizing.conv_dim(), 0.43), wave(sizing.inner() * sizing.state_size, 0.29));
        let (mut conv, mut ssm) = states();
        let want = layer.on_the_cpu(&projected, &mut conv, &mut ssm);
        for split in [&[310][..], &[1, 128, 2, 129, 50], &[127, 1, 182]] {
            let (mut own_conv, mut own_ssm) = states();
            let mut rest = &projected[..];
            let mut got = Vec::new();
            for tokens in split {
                let (own, others) = rest.split_at(tokens * width);
                got.extend(layer.on_the_emulator(own, &mut own_conv, &mut own_ssm));
                rest = others;
            }
            let what = format!("{sizing:?} {kernel} {norm:?} {split:?}");
            assert_close(&got, &want, 2e-4, &what);
            assert_close(&own_conv, &conv, 0.0, &what);
            assert_close(&own_ssm, &ssm, 1e-4, &what);
        }
    }
}

#[test]
fn one_query_attends_by_the_definition() {
    for (heads, kv_heads, n_keys, width, value_width) in
        [(4, 2, 1, 6, 3), (4, 1, 63, 64, 64), (2, 2, 700, 40, 50), (3, 1, 5000, 576, 512), (1, 1, 70, WIDEST, WIDEST)]
    {
        let stride = width + 3;
        let q = wave(heads * width, 0.37);
        let (k, v) = (wave(kv_heads * n_keys * stride, 0.23), wave(kv_heads * n_keys * value_width, 0.71));
        let attend = Attend {
            heads,
            kv_heads,
            n_keys,
            k: Heads { at: at(&k), head_stride: n_keys * stride, stride, width },
            v: Heads { at: at(&v), head_stride: n_keys * value_width, stride: value_width, width: value_width },
            scale: 0.4,
        };
        assert!(attend.fits());
        let mut room = room(attend.room());
        let mut y = vec![f32::NAN; heads * value_width];
        run(attend.launches(at(&q), at_mut(&mut room), at_mut(&mut y)));
        let want = (0..heads).flat_map(|head| {
            let own = head / (heads / kv_heads) * n_keys;
            let score = |key: usize| {
                let key = &k[(own + key) * stride..][..width];
                key.iter().zip(&q[head * width..]).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>() * 0.4
            };
            let weights: Vec<f64> = (0..n_keys).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            let value = |j| {
                let values = weights.iter().enumerate().map(|(i, w)| w * f64::from(v[(own + i) * value_width + j]));
                (values.sum::<f64>() / total) as f32
            };
            (0..value_width).map(value).collect::<Vec<_>>()
        });
        assert_close(&y, &want.collect::<Vec<_>>(), 1e-5, &format!("{n_keys} keys of {width}"));
    }
}

#[test]
fn a_token_weighs_the_keys_that_it_sees() {
    let (heads, tokens) = (2, 5);
    for (keys, window) in [(5, 100), (9, 100), (9, 3), (400, 300), (400, 1)] {
        let mut scores = wave(heads * tokens * keys, 1.7);
        let row = |(i, row): (usize, &[f32])| {
            let own = keys - tokens + i % tokens;
            let sees = |key: usize| key <= own && own - key < window;
            let exp = |key: usize| if sees(key) { f64::from(row[key]).exp() } else { 0.0 };
            let total: f64 = (0..keys).map(exp).sum();
            (0..keys).map(|key| (exp(key) / total) as f32).collect::<Vec<_>>()
        };
        let want: Vec<f32> = scores.chunks(keys).enumerate().flat_map(row).collect();
        run([causal_softmax(at_mut(&mut scores), [heads, tokens, keys], window)]);
        assert_close(&scores, &want, 1e-6, &format!("{keys} keys, window {window}"));
    }
}

#[test]
fn the_list_of_kernels_is_what_the_sources_export() {
    let sources: [&str; MODULES.len()] = [
        include_str!("products.cu"),
        include_str!("blocks.cu"),
        include_str!("rows.cu"),
        include_str!("mamba2.cu"),
        include_str!("attention.cu"),
        include_str!("moe.cu"),
        include_str!("sampling.cu"),
        include_str!("draws.cu"),
        include_str!("visits.cu"),
    ];
    for (module, source) in MODULES.iter().zip(sources) {
        let families = module.families.iter().map(|(family, _)| format!("{family}_##T"));
        let names: Vec<_> = module.functions.iter().map(ToString::to_string).chain(families).collect();
        assert_eq!(source.matches("extern \"C\" __global__").count(), names.len(), "{}", module.name);
        for name in names {
            assert!(source.contains(&format!(" {name}(")), "{name} in {}.cu", module.name);
        }
    }
}
