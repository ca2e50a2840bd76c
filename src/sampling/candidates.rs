//! Which tokens the filters leave, and the draw among them.

use std::cmp::Ordering;

use super::scores::Scores;
use super::softmax::{BLOCK, Scored, Softmax};

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) token: u32,
    pub(super) score: f32,
}

impl Scored for Candidate {
    fn score(&self) -> f32 {
        self.score
    }
}

impl Candidate {
    /// The more probable first, of equals the lower id.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal).then(self.token.cmp(&other.token))
    }
}

/// The tokens that the filters leave.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Whether `top_k` is on.
    pub(super) limited: bool,
    pub(super) limit: usize,
    pub(super) list: Vec<Candidate>,
}

impl Candidates {
    pub(super) fn new(top_k: usize, vocab_size: usize) -> Self {
        let limited = (1..vocab_size).contains(&top_k);
        let limit = if limited { top_k } else { vocab_size };
        Self { limited, limit, list: Vec::with_capacity(vocab_size.min(2 * limit)) }
    }

    /// Takes the `limit` best of the scores above `floor`. The list grows to twice the limit before the worse half is
    /// dropped and the floor rises to what is left: soon whole blocks are passed over with one comparison per logit,
    /// and even rising scores cost linear time.
    pub(super) fn gather(&mut self, scores: Scores<'_>, floor: f32) {
        self.list.clear();
        match scores {
            Scores::All(scores) => self.take_blocks(scores, floor),
            Scores::Best(shortlist) => {
                self.take(shortlist.best.iter().map(|&(token, score)| Candidate { token, score }), floor);
            }
        }
        self.keep_best();
    }

    fn take_blocks(&mut self, scores: &[f32], mut floor: f32) {
        for (block, start) in scores.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
            // No early exit: without one the comparisons are vectorized.
            if block.iter().fold(false, |above, &score| above | (score > floor)) {
                floor = self.take(block.iter().zip(start..).map(|(&score, token)| Candidate { token, score }), floor);
            }
        }
    }

    /// Adds those above `floor`, in the order of their ids, and returns the floor for later ones.
    fn take(&mut self, candidates: impl Iterator<Item = Candidate>, mut floor: f32) -> f32 {
        for candidate in candidates {
            if candidate.score > floor {
                self.list.push(candidate);
                if self.list.len() >= 2 * self.limit {
                    floor = self.keep_best();
                }
            }
        }
        floor
    }

    /// Drops all but the `limit` best, and returns the worst score that was kept: a later score has a higher id, so it
    /// must be above that to be better.
    fn keep_best(&mut self) -> f32 {
        if self.list.len() <= self.limit {
            return f32::NEG_INFINITY;
        }
        let (_, worst, _) = self.list.select_nth_unstable_by(self.limit - 1, Candidate::order);
        let floor = worst.score;
        self.list.truncate(self.limit);
        floor
    }

    pub(super) fn sort(&mut self) {
        self.list.sort_unstable_by(Candidate::order);
    }

    /// Keeps the fewest of the sorted candidates that together reach `top_p` of the weight of all.
    pub(super) fn truncate(&mut self, softmax: &Softmax, top_p: f64) {
        let last = softmax.place_at(top_p, &self.list);
        self.list.truncate(last + 1);
    }

    /// The worst of the fewest candidates that together weigh `target`. Leaves the list in no particular order.
    ///
    /// It is among the best quarter or among the others, and so on: linear time, and little if a few candidates suffice.
    pub(super) fn worst_of_nucleus(&mut self, softmax: &Softmax, mut target: f64) -> Option<Candidate> {
        let mut rest = self.list.as_mut_slice();
        while rest.len() > BLOCK {
            let n_best = rest.len() / 4;
            rest.select_nth_unstable_by(n_best, Candidate::order);
            let (best, others) = rest.split_at_mut(n_best);
            let mass = softmax.total(best);
            if mass >= target {
                rest = best;
            } else {
                target -= mass;
                rest = others;
            }
        }
        rest.sort_unstable_by(Candidate::order);
        rest.get(softmax.place(rest, target)).copied()
    }

    /// The token at `unit`, above 0 and at most 1, of the candidates' weights laid end to end; 0 if there are none.
    pub(super) fn draw(&self, softmax: &Softmax, unit: f64) -> u32 {
        self.list.get(softmax.place_at(unit, &self.list)).map_or(0, |candidate| candidate.token)
    }
}
