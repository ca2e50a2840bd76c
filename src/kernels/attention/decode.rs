//! One query for each head: its keys are read once, by all threads.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::super::isa::{FAR, Isa, prefetch, vectorized};
use super::super::math::exp;
use super::super::pool::{self, Filling, Fresh, Slice};
use super::super::row::{Input, Tail};
use super::super::rows::{self, add_scaled_row, exp_row};
use super::super::scratch::Scratch;
use super::{Attention, KEYS};

/// The columns of values that are summed up together.
pub(super) const TILE: usize = 4 * LANES;

/// So many keys meet several queries at once: the rows whose sums products have in registers. Before them memory is asked
/// for as many of the next block.
const AT_ONCE: usize = 12;

/// So many numbers of keys and values, 32 KiB, are worth a piece: two microseconds.
const LEAST_SPLIT: usize = 1 << 13;

/// So many pieces in all are enough for threads to end together. How many threads there are changes none: nor a bit.
const PIECES: usize = 128;

/// Pieces leave at most one number for so many multiply-adds.
const LEFT: usize = 32;

/// So many multiply-adds are worth a part of a parallel region: a microsecond.
const LEAST_WORK: usize = 1 << 14;

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
    /// How many pieces the keys of a head become.
    pub(super) fn splits(&self, seen: usize) -> usize {
        let wanted = PIECES / self.kv_heads().max(1);
        let of_query = seen.saturating_mul(self.k.width() + self.v.width());
        wanted.min(of_query / LEAST_SPLIT).min(of_query / (LEFT * self.v.width()).max(1)).max(1)
    }

    /// One query for each head.
    pub(super) fn decode(&self, isa: Isa, y: &mut [f32]) {
        let split = Split::new(self);
        let mut softmaxes = split.softmaxes();
        let partials = Filling::new(split.partials(&mut softmaxes));
        let answers = Filling::new((Slice::new(y, split.width()), split.least_merged()));
        pool::region(&[
            &partials.by(|parts| split.look(isa, parts)),
            &answers.by(|parts| split.merge(isa, partials.whole(), parts)),
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
                let mut answers = Scratch::new(numbers);
                split.merge(isa, partials.whole(), std::iter::once((0, &mut *answers)));
                product.fill(isa, Input::from(&*answers), parts);
            });
        }
        let answers = Filling::new((Fresh::new(numbers, width), split.least_merged()));
        let merge = answers.by(|parts| split.merge(isa, partials.whole(), parts));
        tail.behind(isa, &[&look, &merge], |parts| product.fill(isa, answers.whole().into(), parts))
    }

    /// The only query of a key head over some of its keys: adds to its `softmax` and `sums` `[value width]`.
    fn decode_one(&self, isa: Isa, head: usize, keys: Range<usize>, softmax: &mut Softmax, sums: &mut [f32]) {
        for block in self.blocks(keys) {
            let (k, v) = (self.k.rows(head, block.start), self.v.rows(head, block.start));
            let partial = Partial { softmax: &mut *softmax, sums: &mut *sums };
            add_block(isa, self.q.row(head, 0), k, v, self.scale, block.len(), partial);
        }
    }

    /// All queries that share a key head over some of its keys, by products of matrices: to add one query's products with
    /// a key up takes as long as those of several.
    fn decode_several(
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
            for (at, by_key) in block.clone().step_by(AT_ONCE).zip(by_key.chunks_mut(AT_ONCE * turned.stride)) {
                let count = AT_ONCE.min(block.end - at);
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
                weigh_all(isa, scores, Partial { softmax, sums });
            }
            let weights = Strided { data: &scores, row_stride: KEYS, column_stride: 1 };
            let sizes = Sizes { rows: group, inner: block.len(), columns: width };
            add_product(isa, sizes, weights, v, RowsMut { data: sums, stride: width });
        }
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
    /// The queries, where several share a key.
    turned: Option<Turned>,
}

/// What the queries of key heads have of pieces of their keys: `[kv_heads, splits, group]`, and sums for each.
type Partials<'a> = (Slice<'a, Softmax>, Fresh);

impl<'a> Split<'a> {
    fn new(attention: &'a Attention<'a>) -> Self {
        let first = attention.n_keys.saturating_sub(attention.window);
        let seen = attention.n_keys - first;
        let splits = attention.splits(seen);
        let turned = (attention.group() > 1).then(|| Turned::new(attention));
        Self { attention, first, splits, size: seen.div_ceil(splits), turned }
    }

    fn width(&self) -> usize {
        self.attention.v.width().max(1)
    }

    fn softmaxes(&self) -> Vec<Softmax> {
        vec![Softmax::NONE; self.attention.kv_heads() * self.splits * self.attention.group()]
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
                    Some(turned) => attention.decode_several(isa, turned.of(kv_head), kv_head, keys, softmaxes, sums),
                    None => {
                        let softmax = softmaxes.iter_mut();
                        softmax.for_each(|softmax| attention.decode_one(isa, kv_head, keys.clone(), softmax, sums));
                    }
                }
            }
        }
    }

    fn merge<'p>(
        &self,
        isa: Isa,
        (softmaxes, sums): (&[Softmax], &[f32]),
        parts: impl Iterator<Item = (usize, &'p mut [f32])>,
    ) {
        let (group, width, splits) = (self.attention.group(), self.width(), self.splits);
        for (first, y) in parts {
            for (head, y) in (first..).zip(y.chunks_exact_mut(width)) {
                let first = head / group * splits * group + head % group;
                merge(isa, softmaxes.iter().zip(sums.chunks_exact(width)).skip(first).step_by(group).take(splits), y);
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
        let mut numbers = vec![0.0; attention.kv_heads() * of_head];
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

vectorized! {
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
}

/// Asks for the memory of some rows, as far as they are there.
fn ask_for(rows: Rows<'_>, count: usize) {
    rows.data.iter().take(count * rows.stride).step_by(LANES).for_each(prefetch::<0, _>);
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

/// What several pieces of the keys give together.
fn merge<'a>(isa: Isa, pieces: impl ExactSizeIterator<Item = (&'a Softmax, &'a [f32])> + Clone, y: &mut [f32]) {
    // Whole vectors, of which the rest counts as nothing.
    let mut shares = Scratch::new(pieces.len().next_multiple_of(LANES));
    shares.fill(f32::NEG_INFINITY);
    shares.iter_mut().zip(pieces.clone()).for_each(|(share, (softmax, _))| *share = softmax.largest);
    let largest = rows::largest(isa, &shares, f32::NEG_INFINITY);
    exp_row(isa, largest, &mut shares);
    let total: f32 = shares.iter().zip(pieces.clone()).map(|(share, (softmax, _))| share * softmax.sum).sum();
    y.fill(0.0);
    for (share, (_, sums)) in shares.iter().zip(pieces) {
        add_scaled_row(isa, sums, share / total, y);
    }
}
