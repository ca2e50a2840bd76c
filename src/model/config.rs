//! What a model is made of, whatever file said so.

use super::gqa::GqaSpec;
use super::mamba2::Mamba2Spec;
use super::mla::MlaSpec;
use super::mlp::MlpSpec;
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
    /// What embeddings are multiplied by.
    pub embedding_multiplier: f64,
    /// What logits are multiplied by.
    pub logits_multiplier: f64,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One layer: `x + mixer_multiplier · mixer(norm(x))` where tokens are mixed, then `x + ffn_multiplier · ffn(norm(x))` where
/// there is a feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The constant of the layer's norms.
    pub norm_eps: f64,
    /// What mixes tokens.
    pub mixer: MixerSpec,
    /// What its output is multiplied by.
    pub mixer_multiplier: f64,
    /// What works on each token alone.
    pub ffn: FfnSpec,
    /// What its output is multiplied by.
    pub ffn_multiplier: f64,
}

/// The kinds of token mixers.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    /// Tokens are not mixed.
    None,
    /// A state-space layer.
    Mamba2(Mamba2Spec),
    /// Latent attention.
    Mla(MlaSpec),
    /// Grouped-query attention.
    Gqa(GqaSpec),
    /// A state-space layer and attention side by side.
    Parallel(ParallelSpec),
}

/// A state-space layer and grouped-query attention that read the same input, and whose outputs are added.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelSpec {
    /// The state-space layer.
    pub mamba2: Mamba2Spec,
    /// What its input and its output are multiplied by.
    pub mamba2_multipliers: (f64, f64),
    /// The attention.
    pub gqa: GqaSpec,
    /// What its input and its output are multiplied by.
    pub gqa_multipliers: (f64, f64),
}

/// The kinds of feed-forward parts.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// No such part.
    None,
    /// One layer for all tokens.
    Mlp(MlpSpec),
    /// A mixture of experts.
    Moe(MoeSpec),
}

impl ModelConfig {
    /// The bytes of one sequence's recurrent state, however long it is.
    pub fn state_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.mixer.state_bytes()).sum()
    }

    /// The bytes of a sequence's caches after so many tokens.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        self.layers.iter().fold(0, |sum: usize, layer| sum.saturating_add(layer.mixer.cache_bytes(tokens)))
    }
}
