//! The queries of a prompt: blocks of them meet blocks of keys in products of matrices.

use std::ops::Range;

use super::super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::super::isa::{Isa, vectorized};
use super::super::math::exp;
use super::super::pool;
use super::super::rows::{self, exp_row};
use super::{Attention, KEYS};

/// The least queries of a head that look at a block together.
const QUERIES: usize = 32;

/// So many queries of all heads that share a key look at a block together: it is transposed for them once.
const TOGETHER: usize = 128;

/// Each thread has so many parts of a prompt, if there are as many queries: they differ in how many keys they see.
const PARTS: usize = 4;

impl Attention<'_> {
    /// Several queries: blocks of them for each key head, on all threads.
    pub(super) fn prefill(&self, isa: Isa, y: &mut [f32]) {
        let (group, value_width) = (self.group(), self.v.width());
        let fair = self.n_queries * self.kv_heads() / (PARTS * pool::threads());
        let together = (TOGETHER / group).min(fair).max(QUERIES);
        let blocks = self.n_queries.div_ceil(together);
        let rows = pool::Chunks::new(y, value_width);
        pool::run(self.kv_heads() * blocks, |part| {
            let (kv_head, block) = (part % self.kv_heads(), part / self.kv_heads());
            let first = block * together;
            let count = together.min(self.n_queries - first);
            for (own, block) in self.prefill_block(isa, kv_head, first, count).into_iter().enumerate() {
                for (query, sum) in block.sums.chunks_exact(value_width.max(1)).take(count).enumerate() {
                    let head = kv_head * group + own;
                    let weight = block.weights.get(query).copied().unwrap_or(1.0);
                    if let Some(y) = rows.take((first + query) * self.heads + head) {
                        y.iter_mut().zip(sum).for_each(|(y, sum)| *y = sum / weight);
                    }
                }
            }
        });
    }

    /// Some queries of each head that a key head answers.
    fn prefill_block(&self, isa: Isa, kv_head: usize, first: usize, count: usize) -> Vec<Block> {
        let before = self.n_keys - self.n_queries;
        let keys = (before + first + 1).saturating_sub(self.window)..before + first + count;
        let mut blocks: Vec<Block> = (0..self.group()).map(|_| Block::new(count, self.v.width())).collect();
        let width = self.k.width();
        let mut transposed = vec![0.0; width * KEYS];
        for Range { start, end } in self.blocks(keys) {
            transpose(isa, self.k.rows(kv_head, start), end - start, width, &mut transposed);
            for (own, block) in blocks.iter_mut().enumerate() {
                let q = self.q.rows(kv_head * self.group() + own, first);
                let q = Strided { data: q.data, row_stride: q.stride, column_stride: 1 };
                let sizes = Sizes { rows: count, inner: width, columns: KEYS };
                block.scores.fill(0.0);
                let scores = RowsMut { data: &mut block.scores, stride: KEYS };
                add_product(isa, sizes, q, Rows { data: &transposed, stride: KEYS }, scores);
                let seen = |query: usize| {
                    let own = before + first + query;
                    (own + 1).saturating_sub(self.window).max(start) - start..(own + 1).min(end).max(start) - start
                };
                block.add(isa, self.scale, count, seen, self.v.rows(kv_head, start), end - start);
            }
        }
        blocks
    }
}

/// The queries of one head that are in work.
struct Block {
    scores: Vec<f32>,  // [queries, KEYS]
    largest: Vec<f32>, // [queries]
    weights: Vec<f32>, // [queries]
    sums: Vec<f32>,    // [queries, width]
    width: usize,
}

impl Block {
    fn new(queries: usize, width: usize) -> Self {
        Self {
            scores: vec![0.0; queries * KEYS],
            largest: vec![f32::NEG_INFINITY; queries],
            weights: vec![0.0; queries],
            sums: vec![0.0; queries * width],
            width,
        }
    }

    /// Adds the values of a block of keys, of which each query has `seen` some.
    fn add(
        &mut self,
        isa: Isa,
        scale: f32,
        count: usize,
        seen: impl Fn(usize) -> Range<usize>,
        v: Rows<'_>,
        n_keys: usize,
    ) {
        let rows = self.scores.chunks_exact_mut(KEYS).zip(self.sums.chunks_exact_mut(self.width.max(1)));
        let totals = self.largest.iter_mut().zip(&mut self.weights);
        for (query, ((scores, sums), (largest, weight))) in rows.zip(totals).take(count).enumerate() {
            *weight = weigh(isa, scores, seen(query), scale, largest, *weight, sums);
        }
        let weights = Strided { data: &self.scores, row_stride: KEYS, column_stride: 1 };
        let sizes = Sizes { rows: count, inner: n_keys, columns: self.width };
        add_product(isa, sizes, weights, v, RowsMut { data: &mut self.sums, stride: self.width });
    }
}

vectorized! {
    /// Turns the scores that are `seen` into weights and the others into zeros, and shrinks `sums` and the sum of weights
    /// before, which with the new ones is returned.
    fn weigh(
        isa: Isa, scores: &mut [f32], seen: Range<usize>, scale: f32, largest: &mut f32, weight: f32,
        sums: &mut [f32],
    ) -> f32 {
        let (start, end) = (seen.start, seen.end);
        let own = scores.get_mut(start..end).unwrap_or_default();
        let before = *largest;
        for score in own.iter_mut() {
            *score *= scale;
        }
        *largest = rows::largest(isa, own, before);
        let added = exp_row(isa, *largest, own);
        for score in scores.iter_mut().take(start) {
            *score = 0.0;
        }
        for score in scores.iter_mut().skip(end) {
            *score = 0.0;
        }
        if *largest == before {
            return weight + added;
        }
        let shrunk = exp(isa, before - *largest);
        for sum in sums.iter_mut() {
            *sum *= shrunk;
        }
        weight * shrunk + added
    }

    fn transpose(isa: Isa, rows: Rows<'_>, count: usize, width: usize, transposed: &mut [f32]) {
        transposed.fill(0.0);
        for (at, row) in rows.data.chunks(rows.stride).take(count).enumerate() {
            for (column, value) in transposed.chunks_exact_mut(KEYS).zip(row.iter().take(width)) {
                if let Some(own) = column.get_mut(at) {
                    *own = *value;
                }
            }
        }
    }
}
