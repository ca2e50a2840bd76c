//! What a model is made of, whatever file said so.

use super::gqa::GqaSpec;
use super::mamba2::Mamba2Spec;
use super::mla::MlaSpec;
use super::moe::MoeSpec;

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// How many tokens the embedding and the logits know.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// How many tokens a sequence may have, prompt and answer together.
    pub max_seq_len: usize,
    /// The constant of the final norm.
    pub norm_eps: f64,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One layer: `x + mixer(norm(x))`, then `x + ffn(norm(x))` where there is a feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The constant of the layer's norms.
    pub norm_eps: f64,
    /// What mixes tokens.
    pub mixer: MixerSpec,
    /// What works on each token alone.
    pub ffn: FfnSpec,
}

/// The kinds of token mixers.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    /// A state-space layer.
    Mamba2(Mamba2Spec),
    /// Latent attention.
    Mla(MlaSpec),
    /// Grouped-query attention.
    Gqa(GqaSpec),
}

/// The kinds of feed-forward parts.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// No such part.
    None,
    /// A SwiGLU layer with this many inner values.
    Mlp(usize),
    /// A mixture of experts.
    Moe(MoeSpec),
}

impl ModelConfig {
    /// The bytes of one sequence's recurrent state, however long it is.
    pub fn state_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.mixer.state_bytes()).sum()
    }

    /// The bytes that one token adds to a sequence's caches.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.layers.iter().map(|layer| layer.mixer.cache_bytes_per_token()).sum()
    }
}
