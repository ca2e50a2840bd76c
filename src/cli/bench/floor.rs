//! What a decoded token needs of the memory: no machine decodes it faster than it reads and writes these bytes.

use crate::model::Model;
use crate::model::config::ModelConfig;

/// The bytes that a decoded token moves.
pub(super) struct Needs {
    config: ModelConfig,
    weight_bytes: usize,
}

impl Needs {
    pub(super) fn new(model: &Model) -> Self {
        Self { weight_bytes: model.weight_bytes().read, config: model.config().clone() }
    }

    /// Of the weights.
    pub(super) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Of the caches at a position.
    pub(super) fn cache_bytes(&self, position: usize) -> usize {
        self.config.cache_bytes(position)
    }

    /// Of everything at a position: weights and caches are read, the state is read and written.
    pub(super) fn bytes_per_token(&self, position: usize) -> usize {
        self.weight_bytes + 2 * self.config.state_bytes() + self.cache_bytes(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{config, gqa, mamba2, mlp};

    #[test]
    fn the_state_counts_twice_and_the_cache_grows() {
        let config = config([(mamba2(1, 4), mlp()), (gqa(2), mlp())]);
        let needs = Needs { weight_bytes: 1_000_000, config };
        let state = (4 * 6 * 5 + 3 * (24 + 10)) * 4;
        let per_position = 2 * 2 * 6 * 4;
        assert_eq!(needs.bytes_per_token(0), 1_000_000 + 2 * state);
        assert_eq!(needs.bytes_per_token(100), 1_000_000 + 2 * state + 100 * per_position);
    }
}
