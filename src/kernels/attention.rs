//! Causal attention of queries over keys and values that other queries share, without the matrix of all scores
//! (FlashAttention, <https://arxiv.org/abs/2205.14135>): keys are taken in blocks, and what was summed up so far shrinks
//! where a block has a larger score.

use std::ops::Range;

use super::LANES;
use super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::isa::{FAR, Isa, prefetch, vectorized};
use super::math::exp;
use super::pool::{self, Filling, Fresh, Slice};
use super::row::{Input, Tail};
use super::rows::{self, exp_row};

/// The keys of a block.
const KEYS: usize = 64;

/// The least queries of a head that look at a block together.
const QUERIES: usize = 32;

/// So many queries of all heads that share a key look at a block together: it is transposed for them once.
const TOGETHER: usize = 128;

/// The columns of values that are summed up together.
const TILE: usize = 4 * LANES;

/// So many queries that share a key meet it in matrix products, where of vectors of queries most numbers are in use.
const MANY: usize = LANES / 2;

/// Each thread has so many parts of a prompt, if there are as many queries: they differ in how many keys they see.
const PARTS: usize = 4;

/// Keys of a head whose queries take fewer multiply-adds than this are not split.
const LEAST_SPLIT: usize = 1 << 16;

/// So many pieces for each thread are enough for threads to end together.
const PIECES: usize = 16;

/// Pieces leave at most one number for so many multiply-adds.
const LEFT: usize = 32;

/// So many multiply-adds are worth a part of a parallel region: a microsecond.
const LEAST_WORK: usize = 1 << 14;

/// Vectors of several heads in memory, one a token.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Where the numbers are.
    pub data: &'a [f32],
    /// The distance of heads.
    pub head_stride: usize,
    /// The distance of tokens.
    pub stride: usize,
    /// The numbers of a vector.
    pub width: usize,
}

impl<'a> Heads<'a> {
    fn rows(&self, head: usize, first: usize) -> Rows<'a> {
        let data = self.data.get(head * self.head_stride + first * self.stride..).unwrap_or_default();
        Rows { data, stride: self.stride }
    }

    fn row(&self, head: usize, token: usize) -> &'a [f32] {
        self.rows(head, token).data.get(..self.width).unwrap_or_default()
    }
}

/// Keys or values of several heads, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// The vectors of each page.
    pub pages: &'a [Heads<'a>],
    /// The tokens of each page but the last.
    pub page: usize,
}

impl<'a> Pages<'a> {
    /// The numbers of a vector.
    pub fn width(&self) -> usize {
        self.pages.first().map_or(0, |page| page.width)
    }

    fn rows(&self, head: usize, first: usize) -> Rows<'a> {
        let page = self.pages.get(first / self.page.max(1));
        page.map_or(Rows { data: &[], stride: 1 }, |page| page.rows(head, first % self.page.max(1)))
    }
}

/// What attention runs over. The last of `n_queries` queries stands at the last of `n_keys` keys; head h reads key head
/// `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The queries of `heads` heads.
    pub q: Heads<'a>,
    /// The keys of `kv_heads` heads.
    pub k: Pages<'a>,
    /// The values of `kv_heads` heads.
    pub v: Pages<'a>,
    /// How many heads ask.
    pub heads: usize,
    /// How many heads answer.
    pub kv_heads: usize,
    /// How many queries each head has.
    pub n_queries: usize,
    /// How many keys there are.
    pub n_keys: usize,
    /// What the products are multiplied by.
    pub scale: f32,
    /// A query sees so many of the last keys, its own among them.
    pub window: usize,
}

/// What a softmax over a query's scores needs of some of them.
#[derive(Clone, Copy, Debug)]
struct Softmax {
    /// The largest score.
    largest: f32,
    /// The sum of e^(score − largest), by which what is weighed so has yet to be divided.
    sum: f32,
}

/// What a query has of some keys.
struct Partial<'a> {
    softmax: &'a mut Softmax,
    sums: &'a mut [f32],
}

impl Softmax {
    const NONE: Self = Self { largest: f32::NEG_INFINITY, sum: 0.0 };
}

impl Attention<'_> {
    /// `y` `[n_queries, heads · value width]`.
    pub fn run(&self, isa: Isa, y: &mut [f32]) {
        if self.n_queries == 1 { self.decode(isa, y) } else { self.prefill(isa, y) }
    }

    fn group(&self) -> usize {
        (self.heads / self.kv_heads.max(1)).max(1)
    }

    /// The keys of a range block by block, each within a page of keys and one of values.
    fn blocks(&self, keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let page_end = |start: usize, page: usize| (start / page.max(1)).saturating_add(1).saturating_mul(page);
        let (k, v, mut next) = (self.k.page, self.v.page, keys.start);
        std::iter::from_fn(move || {
            let start = next;
            next = keys.end.min(start + KEYS).min(page_end(start, k)).min(page_end(start, v));
            (start < next).then_some(start..next)
        })
    }

    /// How many pieces the keys of a head become.
    fn splits(&self, seen: usize) -> usize {
        let threads = pool::threads();
        let wanted = if threads == 1 { 1 } else { threads * PIECES / self.kv_heads.max(1) };
        let of_query = seen.saturating_mul(self.k.width() + self.v.width());
        let worth = of_query.saturating_mul(self.group()) / LEAST_SPLIT;
        wanted.min(worth).min(of_query / (LEFT * self.v.width()).max(1)).max(1)
    }

    /// One query for each head.
    fn decode(&self, isa: Isa, y: &mut [f32]) {
        let split = Split::new(self);
        let mut softmaxes = split.softmaxes();
        let partials = Filling::new(split.partials(&mut softmaxes));
        let answers = Filling::new((Slice::new(y, split.width()), split.least_merged()));
        pool::region(&[
            &partials.by(|parts| split.look(isa, parts)),
            &answers.by(|parts| split.merge(partials.whole(), parts)),
        ]);
    }

    /// What a layer's tail makes of the answers to one query for each head, `[heads · value width]`, in one parallel region.
    ///
    /// # Panics
    /// There are more queries, or the tail's product doesn't take as many numbers.
    pub fn decode_into(&self, isa: Isa, tail: Tail<'_>) -> Vec<f32> {
        let (split, product) = (Split::new(self), tail.product);
        let (width, numbers) = (split.width(), self.heads * split.width());
        assert_eq!((self.n_queries, product.matrix.n_in()), (1, numbers), "one query's answers");
        let mut softmaxes = split.softmaxes();
        let partials = Filling::new(split.partials(&mut softmaxes));
        let look = partials.by(|parts| split.look(isa, parts));
        if split.least_merged() >= self.heads {
            // Each thread merges all sooner than it waits for another.
            return tail.behind(isa, &[&look], |parts| {
                let mut answers = vec![0.0; numbers];
                split.merge(partials.whole(), std::iter::once((0, &mut *answers)));
                product.fill(isa, Input::from(&*answers), parts);
            });
        }
        let answers = Filling::new((Fresh::new(numbers, width), split.least_merged()));
        let merge = answers.by(|parts| split.merge(partials.whole(), parts));
        tail.behind(isa, &[&look, &merge], |parts| product.fill(isa, answers.whole().into(), parts))
    }

    /// All queries of a key head over some of its keys: adds to their `softmaxes` and `sums` `[group, value width]`.
    fn decode_some(&self, isa: Isa, kv_head: usize, keys: Range<usize>, softmaxes: &mut [Softmax], sums: &mut [f32]) {
        for block in self.blocks(keys) {
            let (k, v) = (self.k.rows(kv_head, block.start), self.v.rows(kv_head, block.start));
            let queries = softmaxes.iter_mut().zip(sums.chunks_exact_mut(self.v.width().max(1)));
            for (own, (softmax, sums)) in queries.enumerate() {
                let q = self.q.row(kv_head * self.group() + own, 0);
                add_block(isa, q, k, v, self.scale, block.len(), Partial { softmax, sums });
            }
        }
    }

    /// The same where the queries are many, by products of matrices.
    fn decode_many(
        &self,
        isa: Isa,
        turned: Rows<'_>,
        kv_head: usize,
        keys: Range<usize>,
        softmaxes: &mut [Softmax],
        sums: &mut [f32],
    ) {
        let (group, width) = (softmaxes.len(), self.v.width());
        let mut by_key = vec![0.0; KEYS * turned.stride];
        let mut scores = vec![0.0; group * KEYS];
        for block in self.blocks(keys) {
            let (k, v) = (self.k.rows(kv_head, block.start), self.v.rows(kv_head, block.start));
            by_key.fill(0.0);
            let k = Strided { data: k.data, row_stride: k.stride, column_stride: 1 };
            let sizes = Sizes { rows: block.len(), inner: self.k.width(), columns: turned.stride };
            add_product(isa, sizes, k, turned, RowsMut { data: &mut by_key, stride: turned.stride });
            let queries =
                softmaxes.iter_mut().zip(sums.chunks_exact_mut(width.max(1))).zip(scores.chunks_exact_mut(KEYS));
            for (query, ((softmax, sums), scores)) in queries.enumerate() {
                let scores = scores.get_mut(..block.len()).unwrap_or_default();
                let own = by_key.iter().skip(query).step_by(turned.stride);
                scores.iter_mut().zip(own).for_each(|(score, own)| *score = own * self.scale);
                weigh_all(isa, scores, Partial { softmax, sums });
            }
            let weights = Strided { data: &scores, row_stride: KEYS, column_stride: 1 };
            let sizes = Sizes { rows: group, inner: block.len(), columns: width };
            add_product(isa, sizes, weights, v, RowsMut { data: sums, stride: width });
        }
    }

    /// Several queries: blocks of them for each key head, on all threads.
    fn prefill(&self, isa: Isa, y: &mut [f32]) {
        let (group, value_width) = (self.group(), self.v.width());
        let fair = self.n_queries * self.kv_heads / (PARTS * pool::threads());
        let together = (TOGETHER / group).min(fair).max(QUERIES);
        let blocks = self.n_queries.div_ceil(together);
        let rows = pool::Chunks::new(y, value_width);
        pool::run(self.kv_heads * blocks, |part| {
            let (kv_head, block) = (part % self.kv_heads, part / self.kv_heads);
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

/// One query for each head on its way: the keys are split among threads where there are many.
struct Split<'a> {
    attention: &'a Attention<'a>,
    /// The first key that is seen.
    first: usize,
    /// How many pieces the keys of a head are.
    splits: usize,
    /// How many keys a piece has.
    size: usize,
    /// The queries, where many share a key.
    turned: Option<Turned>,
}

/// What the queries of key heads have of pieces of their keys: `[kv_heads, splits, group]`, and sums for each.
type Partials<'a> = (Slice<'a, Softmax>, Fresh);

impl<'a> Split<'a> {
    fn new(attention: &'a Attention<'a>) -> Self {
        let first = attention.n_keys.saturating_sub(attention.window);
        let seen = attention.n_keys - first;
        let splits = attention.splits(seen);
        let turned = (attention.group() >= MANY).then(|| Turned::new(attention));
        Self { attention, first, splits, size: seen.div_ceil(splits), turned }
    }

    fn width(&self) -> usize {
        self.attention.v.width().max(1)
    }

    fn softmaxes(&self) -> Vec<Softmax> {
        vec![Softmax::NONE; self.attention.kv_heads * self.splits * self.attention.group()]
    }

    /// Rows for the pieces, and how many are worth a part.
    fn partials<'s>(&self, softmaxes: &'s mut [Softmax]) -> (Partials<'s>, usize) {
        let (group, width) = (self.attention.group(), self.width());
        let least = LEAST_WORK.div_ceil((self.size * group * (self.attention.k.width() + width)).max(1));
        let sums = Fresh::new(softmaxes.len() * width, group * width);
        ((Slice::new(softmaxes, group), sums), least)
    }

    /// So many heads are worth a part where pieces are merged.
    fn least_merged(&self) -> usize {
        LEAST_WORK.div_ceil(self.splits * self.width())
    }

    fn look<'p>(&self, isa: Isa, parts: impl Iterator<Item = (usize, (&'p mut [Softmax], &'p mut [f32]))>) {
        let (attention, group) = (self.attention, self.attention.group());
        for (at, (softmaxes, sums)) in parts {
            let pieces = softmaxes.chunks_mut(group).zip(sums.chunks_mut(group * self.width()));
            for (at, (softmaxes, sums)) in (at..).zip(pieces) {
                let start = self.first + at % self.splits * self.size;
                let (kv_head, keys) = (at / self.splits, start..attention.n_keys.min(start + self.size));
                match &self.turned {
                    Some(turned) => attention.decode_many(isa, turned.of(kv_head), kv_head, keys, softmaxes, sums),
                    None => attention.decode_some(isa, kv_head, keys, softmaxes, sums),
                }
            }
        }
    }

    fn merge<'p>(&self, (softmaxes, sums): (&[Softmax], &[f32]), parts: impl Iterator<Item = (usize, &'p mut [f32])>) {
        let (group, width, splits) = (self.attention.group(), self.width(), self.splits);
        for (first, y) in parts {
            for (head, y) in (first..).zip(y.chunks_exact_mut(width)) {
                let first = head / group * splits * group + head % group;
                merge(softmaxes.iter().zip(sums.chunks_exact(width)).skip(first).step_by(group).take(splits), y);
            }
        }
    }
}

/// The query of each head, those of a key head side by side: `[kv_heads, key width, group]`, with room behind a group for
/// whole vectors.
struct Turned {
    numbers: Vec<f32>,
    stride: usize,
    of_head: usize,
}

impl Turned {
    fn new(attention: &Attention<'_>) -> Self {
        let (group, stride) = (attention.group(), attention.group().next_multiple_of(LANES));
        let of_head = attention.k.width() * stride;
        let mut numbers = vec![0.0; attention.kv_heads * of_head];
        for (kv_head, own) in numbers.chunks_exact_mut(of_head.max(1)).enumerate() {
            for query in 0..group {
                let q = attention.q.row(kv_head * group + query, 0);
                own.iter_mut().skip(query).step_by(stride).zip(q).for_each(|(own, q)| *own = *q);
            }
        }
        Self { numbers, stride, of_head }
    }

    fn of(&self, kv_head: usize) -> Rows<'_> {
        Rows { data: self.numbers.get(kv_head * self.of_head..).unwrap_or_default(), stride: self.stride }
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

    /// Turns scores into weights, and shrinks what one query has where one of them is larger than those before.
    fn weigh_all(isa: Isa, scores: &mut [f32], partial: Partial<'_>) {
        join(isa, scores, partial);
    }

    /// Adds some keys' values to what one query has.
    fn add_block(isa: Isa, q: &[f32], k: Rows<'_>, v: Rows<'_>, scale: f32, count: usize, partial: Partial<'_>) {
        let Partial { softmax, sums } = partial;
        let mut scores = [0.0; KEYS];
        for (score, key) in scores.iter_mut().take(count).zip(k.data.chunks(k.stride)) {
            *score = dot(isa, q, key) * scale;
        }
        let scores = scores.get_mut(..count).unwrap_or_default();
        join(isa, scores, Partial { softmax, sums: &mut *sums });
        let (tiles, rest) = sums.as_chunks_mut::<TILE>();
        let first_of_rest = tiles.len() * TILE;
        for (at, sums) in tiles.iter_mut().enumerate() {
            add_tile(isa, scores, v, at * TILE, sums);
        }
        for (weight, value) in scores.iter().zip(v.data.chunks(v.stride)) {
            let value = value.get(first_of_rest..).unwrap_or_default();
            for (sum, value) in rest.iter_mut().zip(value) {
                *sum = isa.mul_add(*weight, *value, *sum);
            }
        }
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

/// As [`weigh_all`].
#[inline(always)]
fn join(isa: Isa, scores: &mut [f32], partial: Partial<'_>) {
    let Partial { softmax, sums } = partial;
    let largest = rows::largest(isa, scores, softmax.largest);
    let shrunk = if softmax.sum == 0.0 { 0.0 } else { exp(isa, softmax.largest - largest) };
    for sum in sums.iter_mut() {
        *sum *= shrunk;
    }
    *softmax = Softmax { largest, sum: softmax.sum * shrunk + exp_row(isa, largest, scores) };
}

/// Adds the weighed values of [`TILE`] columns from `first` on; their sums stay in registers.
#[inline(always)]
fn add_tile(isa: Isa, weights: &[f32], v: Rows<'_>, first: usize, sums: &mut [f32; TILE]) {
    let mut own = *sums;
    for (weight, value) in weights.iter().zip(v.data.chunks(v.stride)) {
        let Some(value) = value.get(first..).and_then(|value| value.first_chunk::<TILE>()) else { break };
        prefetch::<FAR, _>(value);
        for (sum, value) in own.iter_mut().zip(value) {
            *sum = isa.mul_add(*weight, *value, *sum);
        }
    }
    *sums = own;
}

/// The product of `q` and as many numbers of `key`.
#[inline(always)]
fn dot(isa: Isa, q: &[f32], key: &[f32]) -> f32 {
    let key = key.get(..q.len()).unwrap_or_default();
    let ((q, q_rest), (key, key_rest)) = (q.as_chunks::<LANES>(), key.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (q, key) in q.iter().zip(key) {
        prefetch::<FAR, _>(key);
        for (sum, (q, key)) in sums.iter_mut().zip(q.iter().zip(key)) {
            *sum = isa.mul_add(*q, *key, *sum);
        }
    }
    sums.iter().sum::<f32>() + q_rest.iter().zip(key_rest).map(|(q, key)| q * key).sum::<f32>()
}

/// What several parts of the keys give together.
fn merge<'a>(parts: impl Iterator<Item = (&'a Softmax, &'a [f32])> + Clone, y: &mut [f32]) {
    let largest = parts.clone().fold(f32::NEG_INFINITY, |largest, (softmax, _)| largest.max(softmax.largest));
    let share = |softmax: &Softmax| if softmax.sum == 0.0 { 0.0 } else { (softmax.largest - largest).exp() };
    let total: f32 = parts.clone().map(|(softmax, _)| softmax.sum * share(softmax)).sum();
    y.fill(0.0);
    for (softmax, sums) in parts {
        let share = share(softmax) / total;
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y += share * sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matrix::tests::matrix;
    use crate::kernels::matrix::{Precision, WeightType};
    use crate::kernels::row::{Product, Residual};
    use proptest::prelude::*;

    fn wave(count: usize, k: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * k).sin() * 2.0).collect()
    }

    fn pages(data: &[f32], heads: usize, width: usize, page: usize) -> Vec<Heads<'_>> {
        let of = |data| Heads { data, head_stride: page * width, stride: width, width };
        data.chunks(page * heads * width).map(of).collect()
    }

    /// Attention by its definition, in f64: `[n_queries, heads · value width]`.
    fn exact(attention: &Attention<'_>) -> Vec<f64> {
        let Attention { q, k, v, heads, kv_heads, n_queries, n_keys, scale, window } = *attention;
        let mut y = Vec::new();
        for query in 0..n_queries {
            for head in 0..heads {
                let (kv_head, own) = (head / (heads / kv_heads), n_keys - n_queries + query);
                let keys = (own + 1).saturating_sub(window)..own + 1;
                let score = |key: usize| {
                    let products = q.row(head, query).iter().zip(k.rows(kv_head, key).data);
                    products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(scale)
                };
                let weights: Vec<f64> = keys.clone().map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                y.extend((0..v.width()).map(|at| {
                    let values = keys.clone().map(|key| f64::from(v.rows(kv_head, key).data[at]));
                    weights.iter().zip(values).map(|(weight, value)| weight / total * value).sum::<f64>()
                }));
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_level_equals_the_definition(
            (kv_heads, group) in (1usize..4, prop_oneof![3 => 1usize..4, 1 => 7usize..18]), width in 1usize..40,
            value_width in prop_oneof![1usize..40, TILE..2 * TILE + 20],
            n_queries in prop_oneof![2 => Just(1usize), 3 => 2usize..80],
            before in prop_oneof![2 => 0usize..150, 1 => 300usize..900],
            window in prop_oneof![Just(usize::MAX), 1usize..100], threads in 1usize..4,
            (k_page, v_page) in prop_oneof![Just((230, 230)), (1usize..100, 1usize..100)],
        ) {
            let (heads, n_keys) = (kv_heads * group, before + n_queries);
            let q = wave(n_queries * heads * width, 0.7);
            let k = wave(n_keys.next_multiple_of(k_page) * kv_heads * width, 0.3);
            let v = wave(n_keys.next_multiple_of(v_page) * kv_heads * value_width, 0.11);
            let (k, v) = (pages(&k, kv_heads, width, k_page), pages(&v, kv_heads, value_width, v_page));
            let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
            let attention = Attention {
                q, k: Pages { pages: &k, page: k_page }, v: Pages { pages: &v, page: v_page },
                heads, kv_heads, n_queries, n_keys, scale: 0.3, window,
            };
            let want = exact(&attention);
            let pool = pool::Pool::new(threads).unwrap();
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; want.len()];
                pool.install(|| attention.run(isa, &mut y));
                for (got, want) in y.iter().zip(&want) {
                    prop_assert!((f64::from(*got) - want).abs() < 2e-5, "{isa:?}: {got} for {want}");
                }
                if n_queries == 1 {
                    let matrix = matrix(WeightType::F32, 40, y.len());
                    let residual = Some(Residual { x: &[0.5; 40], factor: 1.0 });
                    let product = Product { residual, ..Product::plain(&matrix, Precision::Fast) };
                    let got = pool.install(|| attention.decode_into(isa, Tail { product, then: None }));
                    let want = matrix.times(isa, &y, Precision::Fast);
                    prop_assert!(got.iter().zip(&want).all(|(got, want)| (got - 0.5 - want).abs() < 1e-5), "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn many_keys_are_split_among_threads_whatever_their_pages() {
        let (n_keys, width) = (30_000, 16);
        let (q, k, v) = (wave(36 * width, 0.7), wave(2 * 30_208 * width, 0.3), wave(2 * 30_208 * width, 0.11));
        for (heads, k_page, v_page, window) in [
            (4, n_keys, n_keys, usize::MAX),
            (4, 256, 256, 20_001),
            (4, 256, 100, usize::MAX),
            (2 * MANY, 256, 100, usize::MAX),
            (36, 256, 256, 20_001),
        ] {
            let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
            let (k, v) = (pages(&k, 2, width, k_page), pages(&v, 2, width, v_page));
            let (k, v) = (Pages { pages: &k, page: k_page }, Pages { pages: &v, page: v_page });
            let attention = Attention { q, k, v, heads, kv_heads: 2, n_queries: 1, n_keys, scale: 0.3, window };
            let mut y = vec![0.0; heads * width];
            pool::Pool::new(2).unwrap().install(|| {
                assert!(attention.splits(n_keys.min(window)) > 8);
                attention.run(Isa::best(), &mut y);
            });
            for (got, want) in y.iter().zip(exact(&attention)) {
                assert!((f64::from(*got) - want).abs() < 2e-5, "{got} for {want}: pages of {k_page} and {v_page}");
            }
        }
    }
}
