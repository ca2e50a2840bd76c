//! One query for each head: its keys are read once, by all threads.

use super::super::LANES;
use super::super::isa::{Isa, vectorized};
use super::super::math::exp;
use super::super::pool::{self, Filling, Fresh, Slice};
use super::super::row::{Input, Tail};
use super::super::rows::{self, add_scaled_row, exp_row};
use super::super::scratch::Scratch;
use super::Attention;
use super::few::FEW;
use super::many::Turned;

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
pub(super) struct Softmax {
    /// The largest score.
    largest: f32,
    /// The sum of e^(score − largest), by which what is weighed so has yet to be divided.
    sum: f32,
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

vectorized! {
    /// Turns a query's scores into weights, and shrinks what it has of the keys before where one of them is larger: `softmax`
    /// and `sums` of values.
    pub(super) fn weigh(isa: Isa, scores: &mut [f32], softmax: &mut Softmax, sums: &mut [f32]) {
        let largest = rows::largest(isa, scores, softmax.largest);
        let shrunk = if softmax.sum == 0.0 { 0.0 } else { exp(isa, softmax.largest - largest) };
        for sum in sums.iter_mut() {
            *sum *= shrunk;
        }
        *softmax = Softmax { largest, sum: softmax.sum * shrunk + exp_row(isa, largest, scores) };
    }
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
