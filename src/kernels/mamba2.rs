//! The recurrence of Mamba2 (<https://arxiv.org/abs/2405.21060>): one token in one pass over the state, or several in
//! chunks of matrix products (section 6, "SSD"); both leave the same state. And the convolution before it.
//!
//! Δ and the logarithms of the decays are f64: within a chunk the decay between two tokens is a difference of sums.

use std::ops::Range;

use super::LANES;
use super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::isa::{FAR, Isa, prefetch, vectorized};
use super::math::{exp, silu};
use super::pool::{self, Columns};
use super::rows::add_scaled_row;

/// How many tokens are multiplied at once. The work within a chunk grows with its length, that between chunks falls; it
/// changes no result but for rounding.
const CHUNK: usize = 64;

/// So many numbers of a state, 16 KiB, are worth a part of a parallel region: a microsecond or two.
const STEP: usize = 1 << 12;

/// Below e to this, about 2⁻⁸⁰, a decay is none: f32 can't hold what it leaves beside any other term. Its products would
/// have been subnormal, with which processors are a hundred times as slow: in granite-h-350m, half of a step's time.
const LOST: f64 = -55.0;

/// The rows of a chunk's triangle that are multiplied together, up to the last one's column.
const TRIANGLE_STEP: usize = 16;

/// The sizes of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizing {
    /// How many heads there are.
    pub heads: usize,
    /// How many values of x one head takes.
    pub head_dim: usize,
    /// How many values of state there are for each value of x.
    pub state_size: usize,
    /// How many groups of heads share B and C.
    pub groups: usize,
}

impl Sizing {
    /// The width of x.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The width of x, B and C side by side.
    pub fn conv_dim(&self) -> usize {
        self.inner() + 2 * self.shared()
    }

    /// The width of B, and that of C.
    fn shared(&self) -> usize {
        self.groups * self.state_size
    }

    /// Where B and C of a head lie beside x.
    fn b_and_c(&self, head: usize) -> (usize, usize) {
        let b = self.inner() + head / (self.heads / self.groups) * self.state_size;
        (b, b + self.shared())
    }
}

/// Tokens' inputs to the recurrence.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// x, B and C side by side, `[tokens, conv_dim]`, convolved but for those of a [`Token`].
    pub xbc: &'a [f32],
    /// Δ of each token and head.
    pub dt: Steps<'a>,
    /// A, `[heads]`, negative.
    pub a: &'a [f64],
    /// D, `[heads]`.
    pub d: &'a [f32],
}

/// What Δ = clip(softplus(dt + bias)) is made of.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    /// dt as it was projected, `[tokens, heads]`.
    pub projected: Rows<'a>,
    /// `[heads]`.
    pub bias: &'a [f64],
    /// The bounds that Δ is clipped to.
    pub limit: (f64, f64),
}

impl Steps<'_> {
    /// Δ of a token and head.
    fn of(&self, token: usize, head: usize) -> Option<f64> {
        let Rows { data, stride } = self.projected;
        let dt = f64::from(*data.get(token * stride + head)?) + self.bias.get(head)?;
        let (low, high) = self.limit;
        Some((dt.max(0.0) + (-dt.abs()).exp().ln_1p()).clamp(low, high))
    }
}

/// e^log, what is left of a state after `log` = Δ · A.
fn decay(log: f64) -> f32 {
    if log < LOST { 0.0 } else { log.exp() as f32 }
}

/// The same within loops over tokens.
#[inline(always)]
fn decay_in_f32(isa: Isa, log: f32) -> f32 {
    if log < LOST as f32 { 0.0 } else { exp(isa, log) }
}

/// The causal depthwise convolution and its SiLU.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// `[kernel, channels]`; the last multiplies the current token.
    pub taps: &'a [f32],
    /// `[channels]`, where there is one.
    pub bias: Option<&'a [f32]>,
}

/// What is convolved: the tokens that a state keeps, then others.
#[derive(Clone, Copy)]
struct Seen<'a> {
    kept: &'a [f32], // [kernel - 1, channels]
    x: Rows<'a>,
    channels: usize,
}

impl Seen<'_> {
    fn n_kept(&self) -> usize {
        self.kept.len() / self.channels.max(1)
    }

    /// All channels of a token; the first is the state's first.
    fn row(&self, at: usize) -> &[f32] {
        let n_kept = self.n_kept();
        let (data, start) =
            if at < n_kept { (self.kept, at * self.channels) } else { (self.x.data, (at - n_kept) * self.x.stride) };
        data.get(start..start + self.channels).unwrap_or_default()
    }
}

impl Convolution<'_> {
    /// Convolves `x` `[tokens, channels]`, rows `stride` apart, behind the tokens in `state` `[kernel − 1, channels]`,
    /// which becomes the last ones: `y` `[tokens, channels]`.
    pub fn run(&self, isa: Isa, x: Rows<'_>, state: &mut [f32], channels: usize, y: &mut [f32]) {
        let seen = Seen { kept: state, x, channels };
        super::rows::each_row(y, channels, |token, y| self.token(isa, seen, token, 0, y));
        keep_last(state, x, channels, y.len() / channels.max(1));
    }

    /// The channels of one token from `first` on.
    fn token(&self, isa: Isa, seen: Seen<'_>, token: usize, first: usize, y: &mut [f32]) {
        let own = first..first + y.len();
        match self.bias.and_then(|bias| bias.get(own.clone())) {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(0.0),
        }
        for (tap, weights) in self.taps.chunks_exact(seen.channels.max(1)).enumerate() {
            let (x, weights) = (seen.row(token + tap).get(own.clone()), weights.get(own.clone()));
            add_tap(isa, x.unwrap_or_default(), weights.unwrap_or_default(), y);
        }
        activate(isa, y);
    }
}

/// The last tokens of a convolution's `state` and `x` become its state.
fn keep_last(state: &mut [f32], x: Rows<'_>, channels: usize, tokens: usize) {
    let kept = state.len() / channels.max(1);
    // Rows only move forward: those that are read come after the one that is written.
    for at in 0..kept {
        let from = tokens + at;
        if from < kept {
            state.copy_within(from * channels..(from + 1) * channels, at * channels);
        } else if let (Some(own), Some(x)) = (
            state.get_mut(at * channels..(at + 1) * channels),
            x.data.get((from - kept) * x.stride..(from - kept) * x.stride + channels),
        ) {
            own.copy_from_slice(x);
        }
    }
}

vectorized! {
    fn add_tap(isa: Isa, x: &[f32], weights: &[f32], y: &mut [f32]) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weights) {
            *y = isa.mul_add(*x, *weight, *y);
        }
    }

    fn activate(isa: Isa, y: &mut [f32]) {
        for y in y.iter_mut() {
            *y = silu(isa, *y);
        }
    }

    /// `S ← decay · S + Δ · x ⊗ B`, `y = (S · C + D · x) · silu(z)` for one head, whose x is in `y`.
    fn step_head(isa: Isa, state: &mut [f32], head: Head<'_>, y: &mut [f32]) {
        for (row, y) in state.chunks_exact_mut(head.b.len().max(1)).zip(&mut *y) {
            let x = *y;
            *y = advance_row(isa, row, head.decay, head.dt * x, head.b, head.c) + head.d * x;
        }
        for (y, z) in y.iter_mut().zip(head.z.unwrap_or_default()) {
            *y *= silu(isa, *z);
        }
    }

    /// The products within a chunk, where each stands: scores · e^(sum_i − sum_j) · Δ_j for j ≤ i, else nothing.
    fn mix(isa: Isa, scores: &[f32], sums: &[f64], dt: &[f32], mixing: &mut [f32]) {
        let rows = mixing.chunks_exact_mut(CHUNK).zip(scores.chunks_exact(CHUNK)).zip(sums).enumerate();
        for (i, ((mixing, scores), sum)) in rows {
            // Whole vectors: what lies beyond the row's own column is made zero behind it.
            let count = (i + 1).next_multiple_of(LANES).min(sums.len());
            for (((mixing, score), other), dt) in mixing.iter_mut().take(count).zip(scores).zip(sums).zip(dt) {
                *mixing = score * decay_in_f32(isa, (sum - other) as f32) * dt;
            }
            for mixing in mixing.iter_mut().skip(i + 1) {
                *mixing = 0.0;
            }
        }
    }

}

/// What one head takes of a token, but for x.
#[derive(Clone, Copy)]
struct Head<'a> {
    b: &'a [f32],
    c: &'a [f32],
    dt: f32,
    decay: f32,
    d: f32,
    z: Option<&'a [f32]>,
}

/// `row ← decay · row + input · b`; returns `row · c` of the new row. All are `[state_size]`.
#[inline(always)]
fn advance_row(isa: Isa, row: &mut [f32], decay: f32, input: f32, b: &[f32], c: &[f32]) -> f32 {
    let (row_lanes, row_rest) = row.as_chunks_mut::<LANES>();
    let ((b_lanes, b_rest), (c_lanes, c_rest)) = (b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for ((row, b), c) in row_lanes.iter_mut().zip(b_lanes).zip(c_lanes) {
        prefetch::<FAR, _>(row);
        for (((sum, s), b), c) in sums.iter_mut().zip(row).zip(b).zip(c) {
            *s = isa.mul_add(input, *b, decay * *s);
            *sum = isa.mul_add(*s, *c, *sum);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for ((s, b), c) in row_rest.iter_mut().zip(b_rest).zip(c_rest) {
        *s = isa.mul_add(input, *b, decay * *s);
        total += *s * c;
    }
    total
}

/// One token on its way through a layer.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Its x, B, C and Δ.
    pub inputs: Inputs<'a>,
    /// What x, B and C go through first.
    pub convolution: Convolution<'a>,
    /// Its gate `[heads · head_dim]`, where the output takes it at once.
    pub z: Option<&'a [f32]>,
}

/// What a layer keeps of the tokens before.
#[derive(Debug)]
pub struct State<'a> {
    /// `[kernel − 1, conv_dim]`.
    pub conv: &'a mut [f32],
    /// `[heads, head_dim, state_size]`.
    pub ssm: &'a mut [f32],
}

/// Advances `state` by one token and writes `y` `[heads · head_dim]`, times silu(z) where there is a gate.
pub fn step(isa: Isa, sizing: Sizing, State { conv, ssm }: State<'_>, token: Token<'_>, y: &mut [f32]) {
    let (head_dim, per_head, channels) = (sizing.head_dim, sizing.head_dim * sizing.state_size, sizing.conv_dim());
    let x = Rows { data: token.inputs.xbc, stride: channels };
    let seen = Seen { kept: conv, x, channels };
    let convolve = |first: usize, y: &mut [f32]| token.convolution.token(isa, seen, 0, first, y);
    let mut shared = vec![0.0; 2 * sizing.shared()];
    convolve(sizing.inner(), &mut shared);
    let least = STEP.div_ceil(per_head.max(1));
    pool::split_rows_of_two((ssm, per_head), (y, head_dim), least, |first, ssm, y| {
        convolve(first * head_dim, y);
        let heads = ssm.chunks_exact_mut(per_head.max(1)).zip(y.chunks_exact_mut(head_dim.max(1)));
        for (head, (ssm, y)) in (first..).zip(heads) {
            if let Some(own) = head_of(sizing, &token, &shared, head) {
                step_head(isa, ssm, own, y);
            }
        }
    });
    keep_last(conv, x, channels, 1);
}

/// `shared` has B and C side by side.
fn head_of<'a>(sizing: Sizing, token: &Token<'a>, shared: &'a [f32], head: usize) -> Option<Head<'a>> {
    let Inputs { dt, a, d, .. } = token.inputs;
    let (b, c) = sizing.b_and_c(head);
    let of_shared = |start: usize| shared.get(start - sizing.inner()..)?.get(..sizing.state_size);
    let dt = dt.of(0, head)?;
    Some(Head {
        b: of_shared(b)?,
        c: of_shared(c)?,
        dt: dt as f32,
        decay: decay(dt * a.get(head)?),
        d: *d.get(head)?,
        z: token.z.and_then(|z| z.get(head * sizing.head_dim..(head + 1) * sizing.head_dim)),
    })
}

/// Advances `state` `[heads, head_dim, state_size]` by several tokens and writes `y` `[tokens, heads · head_dim]`.
pub fn scan(isa: Isa, sizing: Sizing, state: &mut [f32], inputs: Inputs<'_>, y: &mut [f32]) {
    let scores = Scores::new(isa, sizing, inputs.xbc);
    let per_head = sizing.head_dim * sizing.state_size;
    let states = pool::Chunks::new(state, per_head);
    pool::columns((y, sizing.inner()), sizing.inner(), sizing.head_dim, |head, mut y| {
        if let Some(state) = states.take(head) {
            scan_head(isa, sizing, head, &scores, inputs, state, &mut y);
        }
    });
}

/// C · Bᵀ of each chunk and group: `[chunks, groups, CHUNK, CHUNK]`.
struct Scores {
    scores: Vec<f32>,
    groups: usize,
}

impl Scores {
    fn new(isa: Isa, sizing: Sizing, xbc: &[f32]) -> Self {
        let Sizing { heads, state_size, groups, .. } = sizing;
        let width = sizing.conv_dim();
        let n_chunks = (xbc.len() / width).div_ceil(CHUNK);
        let mut scores = vec![0.0; n_chunks * groups * CHUNK * CHUNK];
        pool::chunks(&mut scores, CHUNK * CHUNK, |at, scores| {
            let (chunk, group) = (at / groups, at % groups);
            let own = xbc.get(chunk * CHUNK * width..).unwrap_or_default();
            let tokens = CHUNK.min(own.len() / width);
            let (b, c) = sizing.b_and_c(group * (heads / groups));
            let mut transposed = vec![0.0; state_size * CHUNK]; // B of the chunk, [state_size, CHUNK]
            for (token, row) in own.chunks_exact(width).take(tokens).enumerate() {
                let b = row.iter().skip(b).take(state_size);
                transposed.iter_mut().skip(token).step_by(CHUNK).zip(b).for_each(|(own, b)| *own = *b);
            }
            let c = Strided { data: own.get(c..).unwrap_or_default(), row_stride: width, column_stride: 1 };
            let sizes = Sizes { rows: tokens, inner: state_size, columns: CHUNK };
            let b = Rows { data: &transposed, stride: CHUNK };
            add_product(isa, sizes, c, b, RowsMut { data: scores, stride: CHUNK });
        });
        Self { scores, groups }
    }

    fn of(&self, chunk: usize, group: usize) -> &[f32] {
        let start = (chunk * self.groups + group) * CHUNK * CHUNK;
        self.scores.get(start..start + CHUNK * CHUNK).unwrap_or_default()
    }
}

/// All chunks of one head, one after the other. Within them the state lies as `[state_size, head_dim]`.
fn scan_head(
    isa: Isa,
    sizing: Sizing,
    head: usize,
    scores: &Scores,
    inputs: Inputs<'_>,
    state: &mut [f32],
    y: &mut Columns<'_, f32>,
) {
    let width = sizing.conv_dim();
    let mut work = HeadScan::new(isa, sizing, head, state, &inputs);
    for (chunk, xbc) in inputs.xbc.chunks(CHUNK * width).enumerate() {
        work.take_steps(chunk * CHUNK..chunk * CHUNK + xbc.len() / width, inputs.dt);
        work.chunk(xbc, scores.of(chunk, head / (sizing.heads / sizing.groups)));
        for (token, own) in work.y.chunks_exact(sizing.head_dim).take(xbc.len() / width).enumerate() {
            y.row(chunk * CHUNK + token).copy_from_slice(own);
        }
    }
    transpose(&work.state, sizing.head_dim, state);
}

/// One head on its way through the chunks.
struct HeadScan {
    isa: Isa,
    sizing: Sizing,
    head: usize,
    a: f64,
    d: f32,
    state: Vec<f32>,  // [state_size, head_dim]
    dt: Vec<f32>,     // [tokens]
    sums: Vec<f64>,   // [tokens]: of Δ · A up to and with each token, from the chunk's start
    mixing: Vec<f32>, // [CHUNK, CHUNK]
    read: Vec<f32>,   // [CHUNK, head_dim]
    y: Vec<f32>,      // [CHUNK, head_dim]
}

impl HeadScan {
    fn new(isa: Isa, sizing: Sizing, head: usize, state: &[f32], inputs: &Inputs<'_>) -> Self {
        let mut transposed = vec![0.0; state.len()];
        transpose(state, sizing.state_size, &mut transposed);
        let rows = || vec![0.0; CHUNK * sizing.head_dim];
        let (a, d) = (inputs.a.get(head).copied(), inputs.d.get(head).copied());
        Self {
            isa,
            sizing,
            head,
            a: a.unwrap_or_default(),
            d: d.unwrap_or_default(),
            state: transposed,
            dt: Vec::new(),
            sums: Vec::new(),
            mixing: vec![0.0; CHUNK * CHUNK],
            read: rows(),
            y: rows(),
        }
    }

    /// Takes the Δ of the chunk's tokens.
    fn take_steps(&mut self, tokens: Range<usize>, steps: Steps<'_>) {
        self.dt.clear();
        self.sums.clear();
        let mut sum = 0.0;
        for dt in tokens.filter_map(|token| steps.of(token, self.head)) {
            sum += dt * self.a;
            self.dt.push(dt as f32);
            self.sums.push(sum);
        }
    }

    /// One chunk: writes its output and advances the state.
    fn chunk(&mut self, xbc: &[f32], scores: &[f32]) {
        let Sizing { head_dim, state_size, .. } = self.sizing;
        let (isa, tokens, width) = (self.isa, self.dt.len(), self.sizing.conv_dim());
        let (b, c) = self.sizing.b_and_c(self.head);
        let from = |column: usize| xbc.get(column..).unwrap_or_default();
        let x = Rows { data: from(self.head * head_dim), stride: width };

        // From before the chunk: y_i = e^(sum_i) · S · C_i.
        self.read.fill(0.0);
        let c = Strided { data: from(c), row_stride: width, column_stride: 1 };
        let sizes = Sizes { rows: tokens, inner: state_size, columns: head_dim };
        let state = Rows { data: &self.state, stride: head_dim };
        add_product(isa, sizes, c, state, RowsMut { data: &mut self.read, stride: head_dim });
        self.y.fill(0.0);
        let rows = self.y.chunks_exact_mut(head_dim).zip(self.read.chunks_exact(head_dim));
        for (((y, read), sum), x) in rows.zip(&self.sums).zip(x.data.chunks(width)) {
            add_scaled_row(isa, read, decay_in_f32(isa, *sum as f32), y);
            add_scaled_row(isa, x, self.d, y);
        }

        // Within it: y_i = Σ_{j ≤ i} e^(sum_i − sum_j) · (C_i · B_j) · Δ_j x_j.
        mix(isa, scores, &self.sums, &self.dt, &mut self.mixing);
        for start in (0..tokens).step_by(TRIANGLE_STEP) {
            let end = tokens.min(start + TRIANGLE_STEP);
            let rows = self.mixing.get(start * CHUNK..).unwrap_or_default();
            let mixing = Strided { data: rows, row_stride: CHUNK, column_stride: 1 };
            let sizes = Sizes { rows: end - start, inner: end, columns: head_dim };
            let y = self.y.get_mut(start * head_dim..).unwrap_or_default();
            add_product(isa, sizes, mixing, x, RowsMut { data: y, stride: head_dim });
        }

        // S ← e^(sum_last) · S + Σ_j e^(sum_last − sum_j) · Δ_j x_j ⊗ B_j.
        let last = self.sums.last().copied().unwrap_or_default();
        self.read.fill(0.0);
        let rows = self.read.chunks_exact_mut(head_dim).zip(x.data.chunks(width));
        for ((own, x), (sum, dt)) in rows.zip(self.sums.iter().zip(&self.dt)) {
            add_scaled_row(isa, x, decay_in_f32(isa, (last - sum) as f32) * dt, own);
        }
        let decay = decay_in_f32(isa, last as f32);
        self.state.iter_mut().for_each(|state| *state *= decay);
        let b = Strided { data: from(b), row_stride: 1, column_stride: width };
        let sizes = Sizes { rows: state_size, inner: tokens, columns: head_dim };
        let input = Rows { data: &self.read, stride: head_dim };
        add_product(isa, sizes, b, input, RowsMut { data: &mut self.state, stride: head_dim });
    }
}

/// `x` `[rows, width]` as `y` `[width, rows]`.
fn transpose(x: &[f32], width: usize, y: &mut [f32]) {
    let rows = x.len() / width.max(1);
    for (row, x) in x.chunks_exact(width.max(1)).enumerate() {
        y.iter_mut().skip(row).step_by(rows).zip(x).for_each(|(y, x)| *y = *x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The recurrence as the paper has it, in f64 and by index.
    fn exact(sizing: Sizing, state: &mut [f64], inputs: Inputs<'_>) -> Vec<f64> {
        let Sizing { heads, head_dim, state_size, .. } = sizing;
        let mut y = Vec::new();
        for (token, xbc) in inputs.xbc.chunks(sizing.conv_dim()).enumerate() {
            for h in 0..heads {
                let dt = inputs.dt.of(token, h).unwrap();
                let ((b, c), decay) = (sizing.b_and_c(h), (dt * inputs.a[h]).exp());
                for p in 0..head_dim {
                    let x = f64::from(xbc[h * head_dim + p]);
                    let mut sum = f64::from(inputs.d[h]) * x;
                    for n in 0..state_size {
                        let s = &mut state[(h * head_dim + p) * state_size + n];
                        *s = decay * *s + dt * x * f64::from(xbc[b + n]);
                        sum += *s * f64::from(xbc[c + n]);
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn steps_and_scans_equal_the_recurrence_in_f64(
            groups in 1usize..4, per_group in 1usize..4, head_dim in 1usize..20, state_size in 1usize..50,
            tokens in prop_oneof![1usize..5, Just(63), Just(64), Just(65), 100usize..200], seed in 0u32..1000,
        ) {
            let sizing = Sizing { heads: groups * per_group, head_dim, state_size, groups };
            let heads = sizing.heads;
            let wave = |n: usize, k: f32| (0..n).map(|i| ((i as f32 + seed as f32) * k).sin()).collect::<Vec<f32>>();
            let (channels, d) = (sizing.conv_dim(), wave(heads, 1.1));
            let (x, taps, mut xbc) = (wave(tokens * channels, 0.3), wave(3 * channels, 0.47), vec![0.0; tokens * channels]);
            let convolution = Convolution { taps: &taps, bias: None };
            let kept = wave(2 * channels, 0.53);
            convolution.run(Isa::best(), Rows { data: &x, stride: channels }, &mut kept.clone(), channels, &mut xbc);
            let (dt, bias) = (wave(tokens * heads, 0.9), vec![-0.3; heads]);
            let a: Vec<f64> = wave(heads, 1.3).iter().map(|v| -f64::from(v.abs())).collect();
            let steps = |dt| Steps { projected: Rows { data: dt, stride: heads }, bias: &bias, limit: (0.1, 1.5) };
            let inputs = Inputs { xbc: &xbc, dt: steps(&dt), a: &a, d: &d };
            let before = wave(heads * head_dim * state_size, 0.2);
            let mut exact_state: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
            let want = exact(sizing, &mut exact_state, inputs);
            let largest = exact_state.iter().chain(&want).fold(1.0, |max: f64, v| max.max(v.abs()));
            let bound = 1e-5 * largest * (state_size as f64).sqrt();
            for isa in Isa::available() {
                let (mut scanned, mut y) = (before.clone(), vec![f32::NAN; tokens * sizing.inner()]);
                scan(isa, sizing, &mut scanned, inputs, &mut y);
                let (mut ssm, mut conv, mut by_step) = (before.clone(), kept.clone(), vec![f32::NAN; y.len()]);
                let by_token = x.chunks(channels).zip(dt.chunks(heads)).zip(by_step.chunks_mut(sizing.inner()));
                for ((xbc, dt), y) in by_token {
                    let token = Token { inputs: Inputs { xbc, dt: steps(dt), ..inputs }, convolution, z: None };
                    step(isa, sizing, State { conv: &mut conv, ssm: &mut ssm }, token, y);
                }
                for (got, state) in [(y, scanned), (by_step, ssm)] {
                    for (got, want) in got.iter().zip(&want).chain(state.iter().zip(&exact_state)) {
                        prop_assert!((f64::from(*got) - want).abs() <= bound, "{isa:?}: {got} for {want}");
                    }
                }
            }
        }

        #[test]
        fn a_convolution_sees_the_tokens_before(
            kept in 0usize..4, channels in 1usize..40, tokens in 1usize..9, gap in 0usize..3, has_bias: bool,
        ) {
            let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
            let (taps, bias) = (wave((kept + 1) * channels, 0.3), wave(channels, 0.9));
            let (state, stride) = (wave(kept * channels, 0.7), channels + gap);
            let x = wave(tokens * stride, 0.41);
            let convolution = Convolution { taps: &taps, bias: has_bias.then_some(&bias) };
            let seen: Vec<&[f32]> = state.chunks(channels).chain(x.chunks(stride).map(|row| &row[..channels])).collect();
            for isa in Isa::available() {
                let (mut after, mut y) = (state.clone(), vec![f32::NAN; tokens * channels]);
                convolution.run(isa, Rows { data: &x, stride }, &mut after, channels, &mut y);
                for (token, y) in y.chunks(channels).enumerate() {
                    for (channel, got) in y.iter().enumerate() {
                        let products = (0..=kept).map(|tap| f64::from(seen[token + tap][channel] * taps[tap * channels + channel]));
                        let sum = products.sum::<f64>() + if has_bias { f64::from(bias[channel]) } else { 0.0 };
                        let want = sum / (1.0 + (-sum).exp());
                        prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?}: {got} for {want}");
                    }
                }
                prop_assert_eq!(after, seen[tokens..].concat());
            }
        }
    }

    #[test]
    fn a_step_is_gated_head_by_head() {
        let sizing = Sizing { heads: 6, head_dim: 37, state_size: 128, groups: 2 };
        let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
        let (xbc, z, state) = (wave(sizing.conv_dim(), 0.3), wave(6 * 37, 0.7), wave(6 * 37 * 128, 0.2));
        let steps = Steps { projected: Rows { data: &[0.3; 6], stride: 6 }, bias: &[0.1; 6], limit: (0.0, 9.0) };
        let inputs = Inputs { xbc: &xbc, dt: steps, a: &[-0.5; 6], d: &[0.7; 6] };
        let (taps, bias) = (wave(2 * sizing.conv_dim(), 0.4), wave(sizing.conv_dim(), 0.9));
        let convolution = Convolution { taps: &taps, bias: Some(&bias) };
        for isa in Isa::available() {
            let stepped = |z: Option<&[f32]>| {
                let (mut ssm, mut conv, mut y) = (state.clone(), wave(sizing.conv_dim(), 0.5), vec![f32::NAN; 6 * 37]);
                let (state, token) = (State { conv: &mut conv, ssm: &mut ssm }, Token { inputs, convolution, z });
                pool::Pool::new(3).unwrap().install(|| step(isa, sizing, state, token, &mut y));
                assert_eq!(conv, xbc);
                (ssm, y)
            };
            let ((state, mut want), (gated_state, gated)) = (stepped(None), stepped(Some(&z)));
            super::super::rows::gate_row(isa, Some(&z), None, &mut want);
            assert_eq!((state, want), (gated_state, gated), "{isa:?}");
        }
    }

    #[test]
    fn no_state_becomes_subnormal_by_a_decay_that_f32_loses() {
        let sizing = Sizing { heads: 1, head_dim: 1, state_size: 1, groups: 1 };
        let x = [1e-3, 1.0, 1.0, 0.0, 1.0, 1.0]; // two tokens, the second without input
        let (convolution, mut xbc) = (Convolution { taps: &[1.0; 3], bias: None }, [0.0; 6]);
        convolution.run(Isa::best(), Rows { data: &x, stride: 3 }, &mut [], 3, &mut xbc);
        for log in [-50.0, -56.0, -80.0, -87.0, -95.0] {
            let steps = Steps { projected: Rows { data: &[0.0, 0.0], stride: 1 }, bias: &[0.0], limit: (1.0, 1.0) };
            let inputs = Inputs { xbc: &xbc, dt: steps, a: &[log], d: &[0.0] };
            let kept = if log < LOST { 0.0 } else { xbc[0] * xbc[1] * log.exp() as f32 };
            for isa in Isa::available() {
                let (mut stepped, mut scanned, mut y) = ([0.0f32], [0.0f32], [f32::NAN; 2]);
                for (xbc, y) in x.chunks(3).zip(y.chunks_mut(1)) {
                    let token = Token { inputs: Inputs { xbc, ..inputs }, convolution, z: None };
                    step(isa, sizing, State { conv: &mut [], ssm: &mut stepped }, token, y);
                }
                scan(isa, sizing, &mut scanned, inputs, &mut y);
                for state in [stepped[0], scanned[0]] {
                    assert!((state - kept).abs() <= 1e-6 * kept && !state.is_subnormal(), "{isa:?} {log}: {state:e}");
                }
            }
        }
    }

    #[test]
    fn a_step_is_that_of_softplus_within_its_limits() {
        let delta = |dt: f32, bias: f64, limit| {
            Steps { projected: Rows { data: &[dt], stride: 1 }, bias: &[bias], limit }.of(0, 0).unwrap()
        };
        for (dt, bias) in [(0.3f32, 0.2), (-30.0, 1.0), (40.0, 0.5), (0.0, -3.0)] {
            let want = (1.0 + (f64::from(dt) + bias).exp()).ln();
            assert!((delta(dt, bias, (0.0, f64::INFINITY)) - want).abs() <= 1e-12 * want.max(1.0));
        }
        assert_eq!((delta(9.0, 0.0, (0.1, 0.5)), delta(-9.0, 0.0, (0.1, 0.5))), (0.5, 0.1));
    }
}
