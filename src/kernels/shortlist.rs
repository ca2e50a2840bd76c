//! The largest of many logits, where the others stay on a GPU.

/// Which logits a [`Shortlist`] must have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// So many of the largest.
    pub best: usize,
    /// All that are at most so much below the largest.
    pub within: f64,
}

impl Need {
    /// Whether what satisfies this one satisfies `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.best >= other.best && self.within >= other.within
    }
}

/// The logits of one position, as far as they are needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortlist {
    /// What it satisfies.
    pub need: Need,
    /// How many logits there are in all.
    pub n_logits: usize,
    /// Whether any of them is NaN.
    pub has_nan: bool,
    /// The largest; −∞ where none is possible.
    pub max: f32,
    /// The sum of e^(logit − `max`) over all of them but NaN.
    pub total: f64,
    /// Tokens and their logits in the order of the tokens: all those down to a floor that `need` sets, but for −∞.
    pub best: Vec<(u32, f32)>,
}
