//! Few queries that share keys meet them in dot products: each key and value is read from memory once.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::Rows;
use super::super::isa::{Isa, NEAR, prefetch};
use super::super::lanes::{Job, Lanes, dispatch};
use super::super::scratch::Scratch;
use super::decode::{Softmax, weigh};
use super::{Attention, KEYS};

/// Up to so many queries are few.
pub(super) const FEW: usize = 7;

/// So many queries meet a key at once: as many as have room for their sums in registers.
const TOGETHER: usize = 4;

/// So many vectors of values are summed up at once, where registers have room for the sums of all queries.
const WIDE: usize = 4;

impl Attention<'_> {
    /// Few queries that share a key head over some of its keys: adds to their `softmaxes` and `sums` `[group, value width]`.
    pub(super) fn decode_few(
        &self,
        isa: Isa,
        kv_head: usize,
        keys: Range<usize>,
        softmaxes: &mut [Softmax],
        sums: &mut [f32],
    ) {
        let (queries, padded, width) = (self.side_by_side(kv_head), self.padded(), self.v.width().max(1));
        for block in self.blocks(keys) {
            let [k, v] = [self.k, self.v].map(|own| own.rows(kv_head, block.start));
            let keys = KeyBlock { k, width: self.k.width(), scale: self.scale, v, count: block.len() };
            let several = softmaxes.chunks_mut(TOGETHER).zip(sums.chunks_mut(TOGETHER * width));
            for ((softmaxes, sums), q) in several.zip(queries.chunks(TOGETHER * padded)) {
                dispatch(isa, AddBlock { isa, q, keys, softmaxes, sums });
            }
        }
    }

    /// The queries of a key head, `[width / LANES, TOGETHER, LANES]` of each [`TOGETHER`] of them or what is left; the last
    /// vector of each is filled up with zeros.
    fn side_by_side(&self, kv_head: usize) -> Scratch {
        let (group, padded) = (self.group(), self.padded());
        let mut numbers = Scratch::zeros(group * padded);
        for (first, own) in (0..).step_by(TOGETHER).zip(numbers.chunks_mut(TOGETHER * padded)) {
            let together = own.len() / padded;
            for query in 0..together {
                let q = self.q.row(kv_head * group + first + query, 0);
                let places = own.chunks_mut(LANES).skip(query).step_by(together);
                for (place, q) in places.zip(q.chunks(LANES)) {
                    place.iter_mut().zip(q).for_each(|(own, q)| *own = *q);
                }
            }
        }
        numbers
    }

    /// The numbers of a query in whole vectors.
    fn padded(&self) -> usize {
        self.k.width().max(1).next_multiple_of(LANES)
    }
}

/// A block of keys and their values.
#[derive(Clone, Copy)]
struct KeyBlock<'a> {
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
    keys: KeyBlock<'a>,
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
            weigh(isa, weights.get_mut(..keys.count).unwrap_or_default(), softmax, sums);
        }
        let mut first = 0;
        while N * WIDE <= L::ROOM && first + WIDE * LANES <= width {
            keys.add_values::<L, N, WIDE>(lanes, &weights, first, sums);
            first += WIDE * LANES;
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

impl KeyBlock<'_> {
    /// The scaled products of queries with the keys.
    #[inline(always)]
    fn score<L: Lanes, const N: usize>(&self, lanes: L, q: &[[[f32; LANES]; N]], scores: &mut [[f32; KEYS]; N]) {
        for (at, key) in self.k.data.chunks(self.k.stride).take(self.count).enumerate() {
            let (mut sums, mut sums_of_rest) = ([lanes.splat(0.0); N], [0.0; N]);
            let (key, rest) = key.get(..self.width).unwrap_or_default().as_chunks::<LANES>();
            for (key, q) in key.iter().zip(q) {
                prefetch::<NEAR, _>(key);
                let key = lanes.load(key);
                for (sum, q) in sums.iter_mut().zip(q) {
                    *sum = lanes.mul_add(lanes.load(q), key, *sum);
                }
            }
            if let Some(q) = q.get(key.len()) {
                for (sum, q) in sums_of_rest.iter_mut().zip(q) {
                    for (q, key) in q.iter().zip(rest) {
                        *sum += q * key;
                    }
                }
            }
            for (scores, (sum, rest)) in scores.iter_mut().zip(sums.into_iter().zip(sums_of_rest)) {
                if let Some(score) = scores.get_mut(at) {
                    *score = (lanes.sum(sum) + rest) * self.scale;
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
        for (at, value) in self.v.data.chunks(self.v.stride).take(self.count).enumerate() {
            let values = value.get(first..).unwrap_or_default().as_chunks::<LANES>().0;
            let Some(values) = values.first_chunk::<C>() else { break };
            prefetch::<NEAR, _>(values);
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
