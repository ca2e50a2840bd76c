//! What a token is chosen from.

use super::softmax::maximum;
use crate::kernels::shortlist::Shortlist;

/// Logits of one position, or what bias and penalties made of them.
#[derive(Clone, Copy, Debug)]
pub enum Scores<'a> {
    /// That of every token, `[vocab_size]`.
    All(&'a [f32]),
    /// Those that [`super::Sampler::need`] asks for.
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

    /// How many of them are here.
    pub(super) fn n_here(self) -> usize {
        match self {
            Self::All(scores) => scores.len(),
            Self::Best(shortlist) => shortlist.best.len(),
        }
    }

    pub(super) fn has_nan(self) -> bool {
        match self {
            // No early exit: without one the pass is vectorized.
            Self::All(scores) => scores.iter().fold(false, |found, score| found | score.is_nan()),
            Self::Best(shortlist) => shortlist.has_nan,
        }
    }

    /// The largest, −∞ if none is possible.
    pub(super) fn max(self) -> f32 {
        match self {
            Self::All(scores) => maximum(scores),
            Self::Best(shortlist) => shortlist.max,
        }
    }

    /// The lowest token id with this score.
    pub(super) fn first(self, score: f32) -> Option<u32> {
        match self {
            Self::All(scores) => scores.iter().position(|&other| other == score).map(|token| token as u32),
            Self::Best(shortlist) => shortlist.best.iter().find(|(_, other)| *other == score).map(|(token, _)| *token),
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
