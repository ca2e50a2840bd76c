//! What a decoded token needs of the memory: no machine decodes it faster than it reads and writes these bytes.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::tensors::Size;
use crate::model::config::{FfnSpec, ModelConfig};
use crate::model::mlp::Activation;

/// The bytes that a decoded token moves.
pub(super) struct Needs {
    config: ModelConfig,
    weight_bytes: usize,
}

impl Needs {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config().clone();
        Self { weight_bytes: weight_bytes_per_token(checkpoint.size(), &config), config }
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

/// All weights but those of experts that a token does not visit, which are taken to be stored as the average parameter is.
/// An embedding apart from the head is counted as if it were read as a whole.
fn weight_bytes_per_token(size: Size, config: &ModelConfig) -> usize {
    let idle: usize = config.layers.iter().map(|layer| idle_parameters(&layer.ffn, config.hidden_size)).sum();
    let bytes_per_parameter = size.bytes as f64 / size.parameters.max(1) as f64;
    size.bytes.saturating_sub((idle as f64 * bytes_per_parameter) as usize)
}

/// The parameters of the experts that a token does not visit.
fn idle_parameters(ffn: &FfnSpec, hidden_size: usize) -> usize {
    let FfnSpec::Moe(moe) = ffn else { return 0 };
    let matrices = match moe.expert.activation {
        Activation::SwiGlu { .. } => 3,
        Activation::SquaredRelu => 2,
    };
    let expert = matrices * moe.latent_size.unwrap_or(hidden_size) * moe.expert.intermediate_size;
    moe.num_experts.saturating_sub(moe.routing.experts_per_tok) * expert
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{HIDDEN, config, gqa, mamba2, mlp, moe};

    #[test]
    fn a_token_reads_the_experts_that_it_visits_alone() {
        let size = Size { parameters: 100_000, bytes: 200_000 };
        let idle = 2 * (4 - 2) * 3 * HIDDEN * 24; // two layers, each with two of four experts idle
        let mixed = config([(gqa(2), moe(true)), (gqa(2), mlp()), (gqa(2), moe(false))]);
        assert_eq!(weight_bytes_per_token(size, &mixed), 200_000 - 2 * idle);
        assert_eq!(weight_bytes_per_token(size, &config([(gqa(2), mlp())])), 200_000);
    }

    #[test]
    fn the_state_counts_twice_and_the_cache_grows() {
        let config = config([(mamba2(1, 4, 64), mlp()), (gqa(2), mlp())]);
        let needs = Needs { weight_bytes: 1_000_000, config };
        let state = (4 * 6 * 5 + 3 * (24 + 10)) * 4;
        let per_position = 2 * 2 * 6 * 4;
        assert_eq!(needs.bytes_per_token(0), 1_000_000 + 2 * state);
        assert_eq!(needs.bytes_per_token(100), 1_000_000 + 2 * state + 100 * per_position);
    }
}
