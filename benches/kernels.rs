//! Each kernel by itself: `cargo bench --bench kernels`. Throughput is in bytes of weights or states where a kernel is
//! bound by memory, in multiply-adds where it is bound by arithmetic.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::hint::black_box;

use blazr::kernels::attention::{Attention, Heads};
use blazr::kernels::blocks::Activations;
use blazr::kernels::gemm::Rows;
use blazr::kernels::isa::Isa;
use blazr::kernels::mamba2::{ConvState, Convolution, Inputs, Sizing, State, Steps, Token, scan, step};
use blazr::kernels::matrix::{Matrix, Precision, WeightType};
use blazr::kernels::pages::Pages;
use blazr::kernels::per_head::{self, Shared};
use blazr::kernels::pool::{self, Pool};
use blazr::kernels::rope;
use blazr::kernels::row::{self, Input, Mlp, Product};
use blazr::kernels::rows::{GatedNorm, gate_row, rms_norm, swiglu};
use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HIDDEN: usize = 1024;
const PROMPT: usize = 512;
const SIZING: Sizing = Sizing { heads: 32, head_dim: 64, state_size: 128, groups: 1 };

fn wave(count: usize, k: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * k).sin()).collect()
}

/// With as many threads as the machine has cores.
fn pooled(work: impl FnOnce()) {
    Pool::new(num_cpus::get_physical()).unwrap().install(work);
}

/// Larger than the caches next to a core. No type has subnormal numbers of such bytes.
fn matrix(dtype: WeightType, n_out: usize, n_in: usize) -> Matrix {
    Matrix::new(dtype, n_out, n_in, |_, panel| panel.fill(0x3c)).unwrap()
}

/// What changes numbers in place has the same ones each time, whose copying is timed too: left to themselves they become
/// subnormal, which is slow.
fn in_place(b: &mut Bencher<'_>, numbers: &[f32], change: impl Fn(&mut [f32])) {
    let mut own = numbers.to_vec();
    b.iter(|| {
        own.copy_from_slice(numbers);
        change(&mut own);
    });
}

fn matrices(c: &mut Criterion) {
    let (n_out, x) = (32_768, wave(PROMPT * HIDDEN, 0.7));
    let mut group = c.benchmark_group("one row");
    for dtype in WeightType::ALL {
        let [matrix, down] = [(n_out, HIDDEN), (HIDDEN, n_out)].map(|(n_out, n_in)| matrix(dtype, n_out, n_in));
        group.throughput(Throughput::Bytes(matrix.bytes() as u64));
        for precision in [Precision::Fast, Precision::Exact] {
            let id = BenchmarkId::new(dtype.name(), format!("{precision:?}"));
            pooled(|| {
                group.bench_function(id, |b| b.iter(|| matrix.times(Isa::best(), &x[..HIDDEN], precision)));
            });
        }
        group.throughput(Throughput::Bytes((2 * matrix.bytes() + down.bytes()) as u64));
        let [up, down] = [&matrix, &down].map(|matrix| Product::plain(matrix, Precision::Fast));
        let (layer, input) = (Mlp { gate: Some((up, 1.0)), up, down }, Input::from(&x[..HIDDEN]));
        pooled(|| {
            let id = BenchmarkId::new(dtype.name(), "feed-forward layer");
            group.bench_function(id, |b| b.iter(|| row::mlp(layer, Isa::best(), input)));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("512 rows");
    group.sample_size(20);
    for dtype in WeightType::ALL {
        let matrix = matrix(dtype, 4096, HIDDEN);
        group.throughput(Throughput::Elements((PROMPT * HIDDEN * 4096) as u64));
        for isa in Isa::available().filter(|isa| *isa >= Isa::Avx2) {
            let id = BenchmarkId::new(dtype.name(), format!("{isa:?}"));
            pooled(|| {
                group.bench_function(id, |b| b.iter(|| matrix.times(isa, &x, Precision::Fast)));
            });
        }
    }
    group.finish();
}

fn recurrence(c: &mut Criterion) {
    let width = SIZING.conv_dim();
    let (xbc, d) = (wave(PROMPT * width, 0.3), wave(SIZING.heads, 1.1));
    let (dt, bias, a) = (wave(PROMPT * SIZING.heads, 0.9), vec![-5.0; SIZING.heads], vec![-1.0; SIZING.heads]);
    let dt = Steps { projected: Rows { data: &dt, stride: SIZING.heads }, bias: &bias, limit: (0.0, f64::INFINITY) };
    let inputs = Inputs { xbc: &xbc, dt, a: &a, d: &d };
    let (mut state, z) = (wave(SIZING.inner() * SIZING.state_size, 0.2), wave(SIZING.inner(), 0.8));
    let mut y = vec![0.0; PROMPT * SIZING.inner()];
    let mut group = c.benchmark_group("mamba2");
    group.throughput(Throughput::Bytes(2 * size_of_val(&state[..]) as u64));
    pooled(|| {
        let (taps, bias) = (wave(4 * width, 0.4), wave(width, 0.9));
        let convolution = Convolution { taps: &taps, bias: Some(&bias) };
        let (mut conv, mut out) = (ConvState::new(wave(3 * width, 0.5), width), vec![0.0; PROMPT * width]);
        let token = Token { inputs: Inputs { xbc: &xbc[..width], ..inputs }, convolution, z: Some(&z) };
        group.bench_function("step", |b| {
            b.iter(|| {
                let state = State { conv: &mut conv, ssm: &mut state };
                step(Isa::best(), SIZING, state, token, &mut y[..SIZING.inner()]);
            });
        });
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function("scan 512", |b| b.iter(|| scan(Isa::best(), SIZING, &mut state, inputs, &mut y)));
        for tokens in [1, PROMPT] {
            let (x, out) = (Rows { data: &xbc, stride: width }, &mut out[..tokens * width]);
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(format!("convolution {tokens}"), |b| {
                b.iter(|| convolution.run(Isa::best(), x, conv.in_order(), width, out));
            });
        }
    });
    group.finish();
}

/// The tokens of a page of keys.
const PAGE: usize = 248;

fn pages(heads: usize, tokens: usize, width: usize) -> Pages {
    let mut pages = Pages::new(heads, PAGE, width);
    pages.make_room(tokens);
    let vectors = wave(tokens * heads * width, 0.3);
    vectors.chunks(heads * width).enumerate().for_each(|(token, vectors)| pages.set(token, vectors));
    pages
}

fn attention(c: &mut Criterion) {
    let (heads, kv_heads, width, n_keys) = (16, 4, 64, 4096usize);
    let (q, keys) = (wave(PROMPT * heads * width, 0.7), pages(kv_heads, n_keys, width));
    let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
    let k = keys.columns(width);
    let mut group = c.benchmark_group("attention over 4096");
    let mut y = vec![0.0; PROMPT * heads * width];
    for n_queries in [1, PROMPT] {
        let window = usize::MAX;
        let over = Attention { q, heads, k, v: k, n_queries, n_keys, scale: 0.125, window };
        pooled(|| {
            let y = &mut y[..n_queries * heads * width];
            group.bench_function(format!("{n_queries} queries"), |b| b.iter(|| over.run(Isa::best(), y)));
        });
    }
    // The latents of multi-head latent attention: all heads read the same wide keys.
    let (width, value_width) = (576, 512);
    let (q, latents) = (wave(heads * width, 0.7), pages(1, n_keys, width));
    let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
    let (k, v) = (latents.columns(width), latents.columns(value_width));
    let over = Attention { q, heads, k, v, n_queries: 1, n_keys, scale: 0.07, window: usize::MAX };
    let mut y = vec![0.0; heads * value_width];
    pooled(|| {
        group.bench_function("latents", |b| b.iter(|| over.run(Isa::best(), &mut y)));
    });
    group.finish();
}

/// The matrices of multi-head latent attention that expand latents for 16 heads.
fn heads(c: &mut Criterion) {
    let matrices =
        [128; 16].map(|n_out| Matrix::new(WeightType::Bf16, n_out, 512, |_, panel| panel.fill(0x3c)).unwrap());
    let (x, behind) = (wave(PROMPT * 512, 0.7), wave(PROMPT * 64, 0.3));
    let mut group = c.benchmark_group("16 heads of [128, 512]");
    pooled(|| {
        group.throughput(Throughput::Bytes(matrices.iter().map(|matrix| matrix.bytes() as u64).sum()));
        group.bench_function("a row each", |b| {
            b.iter(|| per_head::times_own(&matrices, Isa::best(), &x[..16 * 512], 1, Precision::Fast));
        });
        group.throughput(Throughput::Elements((PROMPT * 512 * 128 * 16) as u64));
        let shared = Shared { x: &x, rows: PROMPT, behind: &behind };
        group.bench_function("512 rows for all", |b| {
            b.iter(|| per_head::times_shared(&matrices, Isa::best(), shared, Precision::Fast));
        });
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    let (weight, z) = (wave(2048, 0.3), wave(2048, 0.9));
    let (x, mut y) = (wave(2048, 0.7), vec![0.0; 2048]);
    let mut group = c.benchmark_group("2048 numbers");
    group.throughput(Throughput::Elements(2048));
    group.bench_function("rms norm", |b| b.iter(|| rms_norm(Isa::best(), &x, &weight, 1e-5, &mut y)));
    let norm = Some(GatedNorm { weight: &weight, group: 2048, eps: 1e-5, is_before_gate: false });
    group.bench_function("gated norm", |b| in_place(b, &x, |x| gate_row(Isa::best(), Some(&z), norm, x)));
    group.bench_function("swiglu", |b| in_place(b, &x, |x| swiglu(Isa::best(), &z, 1.0, x)));
    group.bench_function("quantized", |b| b.iter(|| Activations::quantize(&x)));
    let (cos, sin) = (wave(32, 0.1), wave(32, 0.2));
    group.bench_function("rope", |b| {
        in_place(b, &x, |x| x.chunks_mut(64).for_each(|head| rope::rotate(Isa::best(), head, &cos, &sin, false)));
    });
    group.finish();
}

fn regions(c: &mut Criterion) {
    pooled(|| {
        c.bench_function("parallel region of 8 parts", |b| {
            b.iter(|| {
                pool::run(8, |part| {
                    black_box(part);
                });
            });
        });
    });
}

criterion_group!(kernels, matrices, recurrence, attention, heads, rows, regions);
criterion_main!(kernels);
