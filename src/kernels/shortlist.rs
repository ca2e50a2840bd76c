//! The largest of many logits, where the others stay on a GPU.

/// The logits of one position, as far as log-probabilities need them.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortlist {
    /// How many logits there are in all.
    pub n_logits: usize,
    /// The largest; −∞ where none is possible.
    pub max: f32,
    /// The sum of e^(logit − `max`) over all of them but NaN.
    pub total: f64,
    /// Tokens and their logits in the order of the tokens: all those down to a floor, but for −∞, and others that are told.
    pub best: Vec<(u32, f32)>,
}

impl Shortlist {
    /// With the logit of a token that is told.
    #[must_use]
    pub fn with(mut self, token: u32, logit: f32) -> Self {
        if let Err(place) = self.best.binary_search_by_key(&token, |(token, _)| *token) {
            self.best.insert(place, (token, logit));
        }
        self
    }
}
