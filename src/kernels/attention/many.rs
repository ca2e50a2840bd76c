//! Many queries that share keys meet them in products of matrices: to add one query's products with a key up takes as long as
//! those of several.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::{MANY_ROWS, Rows, RowsMut, Sizes, Strided, add_product};
use super::super::isa::{Isa, prefetch};
use super::super::scratch::Scratch;
use super::decode::{Softmax, weigh};
use super::{Attention, KEYS};

impl Attention<'_> {
    /// As [`Attention::decode_few`].
    pub(super) fn decode_many(
        &self,
        isa: Isa,
        turned: Rows<'_>,
        kv_head: usize,
        keys: Range<usize>,
        softmaxes: &mut [Softmax],
        sums: &mut [f32],
    ) {
        let (group, width) = (softmaxes.len(), self.v.width());
        let mut by_key = Scratch::new(KEYS * turned.stride);
        let mut scores = Scratch::new(group * KEYS);
        for block in self.blocks(keys) {
            by_key.fill(0.0);
            // Before some keys are met, memory is asked for as many of the next block.
            for (at, by_key) in block.clone().step_by(MANY_ROWS).zip(by_key.chunks_mut(MANY_ROWS * turned.stride)) {
                let count = MANY_ROWS.min(block.end - at);
                let [k, v] = [self.k, self.v].map(|own| own.rows(kv_head, at + block.len()));
                ask_for(k, count);
                if k.data.as_ptr() != v.data.as_ptr() {
                    ask_for(v, count);
                }
                let k = self.k.rows(kv_head, at);
                let k = Strided { data: k.data, row_stride: k.stride, column_stride: 1 };
                let sizes = Sizes { rows: count, inner: self.k.width(), columns: turned.stride };
                add_product(isa, sizes, k, turned, RowsMut { data: by_key, stride: turned.stride });
            }
            let v = self.v.rows(kv_head, block.start);
            let queries =
                softmaxes.iter_mut().zip(sums.chunks_exact_mut(width.max(1))).zip(scores.chunks_exact_mut(KEYS));
            for (query, ((softmax, sums), scores)) in queries.enumerate() {
                let scores = scores.get_mut(..block.len()).unwrap_or_default();
                let own = by_key.iter().skip(query).step_by(turned.stride);
                scores.iter_mut().zip(own).for_each(|(score, own)| *score = own * self.scale);
                weigh(isa, scores, softmax, sums);
            }
            let weights = Strided { data: &scores, row_stride: KEYS, column_stride: 1 };
            let sizes = Sizes { rows: group, inner: block.len(), columns: width };
            add_product(isa, sizes, weights, v, RowsMut { data: sums, stride: width });
        }
    }
}

/// The query of each head, those of a key head side by side: `[kv_heads, key width, group]`, with room behind a group for
/// whole vectors.
pub(super) struct Turned {
    numbers: Vec<f32>,
    stride: usize,
    of_head: usize,
}

impl Turned {
    pub(super) fn new(attention: &Attention<'_>) -> Self {
        let (group, stride) = (attention.group(), attention.group().next_multiple_of(LANES));
        let of_head = attention.k.width() * stride;
        let mut numbers = vec![0.0; attention.kv_heads() * of_head];
        for (kv_head, own) in numbers.chunks_exact_mut(of_head.max(1)).enumerate() {
            for query in 0..group {
                let q = attention.q.row(kv_head * group + query, 0);
                own.iter_mut().skip(query).step_by(stride).zip(q).for_each(|(own, q)| *own = *q);
            }
        }
        Self { numbers, stride, of_head }
    }

    pub(super) fn of(&self, kv_head: usize) -> Rows<'_> {
        Rows { data: self.numbers.get(kv_head * self.of_head..).unwrap_or_default(), stride: self.stride }
    }
}

/// Asks for the memory of some rows, as far as they are there.
fn ask_for(rows: Rows<'_>, count: usize) {
    rows.data.iter().take(count * rows.stride).step_by(LANES).for_each(prefetch::<0, _>);
}
