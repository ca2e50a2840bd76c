//! Several tokens in chunks of matrix products.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::super::isa::{Isa, vectorized};
use super::super::pool::{self, Columns};
use super::super::rows::add_scaled_row;
use super::{Inputs, Sizing, Steps, decay_in_f32};

/// How many tokens are multiplied at once. The work within a chunk grows with its length, that between chunks falls; it
/// changes no result but for rounding.
const CHUNK: usize = 64;

/// The rows of a chunk's triangle that are multiplied together, up to the last one's column.
const TRIANGLE_STEP: usize = 16;

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

vectorized! {
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
