//! What tokens are ranked by.

use super::softmax::{Softmax, maximum};
use crate::kernels::shortlist::Shortlist;

/// Logits of one position.
#[derive(Clone, Copy, Debug)]
pub enum Scores<'a> {
    /// That of every token, `[vocab_size]`.
    All(&'a [f32]),
    /// The best of those that lie on a GPU.
    Best(&'a Shortlist),
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Scores<'a> {
    fn from(scores: &'a T) -> Self {
        Self::All(scores.as_ref())
    }
}

impl<'a> From<&'a Shortlist> for Scores<'a> {
    fn from(shortlist: &'a Shortlist) -> Self {
        Self::Best(shortlist)
    }
}

impl Scores<'_> {
    pub(super) fn vocab_size(self) -> usize {
        match self {
            Self::All(scores) => scores.len(),
            Self::Best(shortlist) => shortlist.n_logits,
        }
    }

    /// The largest, −∞ if none is possible.
    pub(super) fn max(self) -> f32 {
        match self {
            Self::All(scores) => maximum(scores),
            Self::Best(shortlist) => shortlist.max,
        }
    }

    /// The sum of the weights of all tokens in `softmax`, which is that at temperature 1.
    pub(super) fn total(self, softmax: &Softmax) -> f64 {
        match self {
            Self::All(scores) => softmax.total(scores),
            Self::Best(shortlist) => shortlist.total,
        }
    }

    /// The score of a token, NaN where it isn't here.
    pub(super) fn of(self, token: u32) -> f32 {
        let score = match self {
            Self::All(scores) => scores.get(token as usize).copied(),
            Self::Best(shortlist) => shortlist.best.iter().find(|(other, _)| *other == token).map(|(_, score)| *score),
        };
        score.unwrap_or(f32::NAN)
    }
}
