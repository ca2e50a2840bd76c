//! One query for each head: its keys are read once, by all threads.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::{Rows, RowsMut, Sizes, Strided, add_product};
use super::super::isa::{Isa, prefetch, vectorized};
use super::super::lanes::{Job, Lanes, dispatch};
use super::super::math::exp;
use super::super::pool::{self, Filling, Fresh, Slice};
use super::super::row::{Input, Tail};
use super::super::rows::{self, add_scaled_row, exp_row};
use super::super::scratch::Scratch;
use super::{Attention, KEYS};

/// Up to so many queries that share a key meet it in dot products. More do in products of matrices.
const FEW: usize = 7;

/// So many of few queries meet a key at once: as many as have room for their sums in registers.
const TOGETHER: usize = 4;

/// So many bytes before keys and values are met their memory is asked for.
const SOON: usize = 4 << 10;

/// So many keys meet many queries at once: the rows whose sums products have in registers. Before them memory is asked
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

    /// Few queries that share a key head over some of its keys: adds to their `softmaxes` and `sums` `[group, value width]`.
    fn decode_few(&self, isa: Isa, kv_head: usize, keys: Range<usize>, softmaxes: &mut [Softmax], sums: &mut [f32]) {
        let queries = self.side_by_side(kv_head);
        let width = self.v.width().max(1);
        for block in self.blocks(keys) {
            let [k, v] = [self.k, self.v].map(|own| own.rows(kv_head, block.start));
            let several = softmaxes.chunks_mut(TOGETHER).zip(sums.chunks_mut(TOGETHER * width));
            for ((softmaxes, sums), q) in several.zip(queries.chunks(TOGETHER * self.k.width().next_multiple_of(LANES)))
            {
                let keys = Keys { k, width: self.k.width(), scale: self.scale, v, count: block.len() };
                dispatch(isa, AddBlock { isa, q, keys, softmaxes, sums });
            }
        }
    }

    /// The queries of a key head, of each [`TOGETHER`] vectors of [`LANES`] numbers in turn; behind each there are zeros.
    fn side_by_side(&self, kv_head: usize) -> Scratch {
        let (group, width) = (self.group(), self.k.width());
        let padded = width.next_multiple_of(LANES);
        let mut numbers = Scratch::zeros(group * padded);
        for (first, own) in (0..).step_by(TOGETHER).zip(numbers.chunks_mut(TOGETHER * padded)) {
            let together = own.len() / padded.max(1);
            for query in 0..together {
                let q = self.q.row(kv_head * group + first + query, 0);
                let places = own.chunks_mut(LANES).skip(query).step_by(together);
                places
                    .zip(q.chunks(LANES))
                    .for_each(|(place, q)| place.iter_mut().zip(q).for_each(|(own, q)| *own = *q));
            }
        }
        numbers
    }

    /// The same of many queries.
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
        let turned = (attention.group() > FEW).then(|| Turned::new(attention));
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
                    Some(turned) => attention.decode_many(isa, turned.of(kv_head), kv_head, keys, softmaxes, sums),
                    None => attention.decode_few(isa, kv_head, keys, softmaxes, sums),
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
}

/// A block of keys and their values.
#[derive(Clone, Copy)]
struct Keys<'a> {
    k: Rows<'a>,
    /// The numbers of a key.
    width: usize,
    scale: f32,
    v: Rows<'a>,
    /// How many there are, up to [`KEYS`].
    count: usize,
}

/// Adds what [`TOGETHER`] queries or fewer have of some keys.
struct AddBlock<'a> {
    isa: Isa,
    /// As [`Attention::side_by_side`] has them.
    q: &'a [f32],
    keys: Keys<'a>,
    softmaxes: &'a mut [Softmax],
    sums: &'a mut [f32],
}

impl Job for AddBlock<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.softmaxes.len() {
            1 => self.of::<L, 1>(lanes),
            2 => self.of::<L, 2>(lanes),
            3 => self.of::<L, 3>(lanes),
            _ => self.of::<L, TOGETHER>(lanes),
        }
    }
}

impl AddBlock<'_> {
    #[inline(always)]
    fn of<L: Lanes, const N: usize>(self, lanes: L) {
        let Self { isa, q, keys, softmaxes, sums } = self;
        let (mut weights, width) = ([[0.0; KEYS]; N], sums.len() / N);
        keys.score(lanes, q.as_chunks::<LANES>().0.as_chunks::<N>().0, &mut weights);
        for ((weights, softmax), sums) in weights.iter_mut().zip(softmaxes).zip(sums.chunks_exact_mut(width.max(1))) {
            weigh_all(isa, weights.get_mut(..keys.count).unwrap_or_default(), Partial { softmax, sums });
        }
        let mut first = 0;
        while L::HAVE_ROOM && first + 4 * LANES <= width {
            keys.add_values::<L, N, 4>(lanes, &weights, first, sums);
            first += 4 * LANES;
        }
        while first + LANES <= width {
            keys.add_values::<L, N, 1>(lanes, &weights, first, sums);
            first += LANES;
        }
        if first < width {
            keys.add_last_values(&weights, first, sums);
        }
    }
}

impl Keys<'_> {
    /// The products of queries with the keys.
    #[inline(always)]
    fn score<L: Lanes, const N: usize>(&self, lanes: L, q: &[[[f32; LANES]; N]], scores: &mut [[f32; KEYS]; N]) {
        for (at, key) in self.k.data.chunks(self.k.stride).take(self.count).enumerate() {
            let (mut sums, mut sums_of_rest) = ([lanes.splat(0.0); N], [0.0; N]);
            let (key, rest) = key.get(..self.width).unwrap_or_default().as_chunks::<LANES>();
            for (key, q) in key.iter().zip(q) {
                prefetch::<SOON, _>(key);
                let key = lanes.load(key);
                for (sum, q) in sums.iter_mut().zip(q) {
                    *sum = lanes.mul_add(lanes.load(q), key, *sum);
                }
            }
            for (sum, q) in sums_of_rest.iter_mut().zip(q.get(key.len()).into_iter().flatten()) {
                for (q, key) in q.iter().zip(rest) {
                    *sum += q * key;
                }
            }
            for (scores, (sum, rest)) in scores.iter_mut().zip(sums.into_iter().zip(sums_of_rest)) {
                if let Some(score) = scores.get_mut(at) {
                    *score = (lanes.total(sum) + rest) * self.scale;
                }
            }
        }
    }

    /// Adds `C` vectors of columns of weighed values, from `first` on, to the rows `sums`; what is added is summed up in
    /// registers.
    #[inline(always)]
    fn add_values<L: Lanes, const N: usize, const C: usize>(
        &self,
        lanes: L,
        weights: &[[f32; KEYS]; N],
        first: usize,
        sums: &mut [f32],
    ) {
        let mut added = [[lanes.splat(0.0); C]; N];
        for (at, value) in self.v.data.chunks(self.v.stride).take(self.count.min(KEYS)).enumerate() {
            let values = value.get(first..).unwrap_or_default().as_chunks::<LANES>().0;
            let Some(values) = values.first_chunk::<C>() else { break };
            prefetch::<SOON, _>(values);
            let values = lanes.load_all(values);
            for (added, weights) in added.iter_mut().zip(weights) {
                let weight = lanes.splat(weights.get(at).copied().unwrap_or_default());
                for (added, value) in added.iter_mut().zip(values) {
                    *added = lanes.mul_add(weight, value, *added);
                }
            }
        }
        let width = sums.len() / N;
        for (sums, added) in sums.chunks_exact_mut(width.max(1)).zip(added) {
            let sums = sums.get_mut(first..).unwrap_or_default().as_chunks_mut::<LANES>().0;
            for (sums, added) in sums.iter_mut().zip(added) {
                lanes.store(lanes.add(lanes.load(sums), added), sums);
            }
        }
    }

    /// The same of the columns from `first` on that are no vector.
    #[inline(always)]
    fn add_last_values<const N: usize>(&self, weights: &[[f32; KEYS]; N], first: usize, sums: &mut [f32]) {
        let width = sums.len() / N;
        for (sums, weights) in sums.chunks_exact_mut(width.max(1)).zip(weights) {
            let sums = sums.get_mut(first..).unwrap_or_default();
            for (value, weight) in self.v.data.chunks(self.v.stride).take(self.count).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(value.get(first..).unwrap_or_default()) {
                    *sum += weight * value;
                }
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
