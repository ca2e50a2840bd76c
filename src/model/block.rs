//! One layer of the residual stream, and the only place that tells layer kinds apart.

use candle_core::{Device, Tensor};

use super::config::{FfnSpec, LayerSpec, MixerSpec};
use super::gqa::{Gqa, GqaCache};
use super::mamba2::{Mamba2, Mamba2State};
use super::mla::{Mla, MlaCache};
use super::mlp::Mlp;
use super::moe::Moe;
use super::norm::Norm;
use super::rope::{Positions, RopeSpec};
use super::weights::Weights;
use crate::error::{Error, Result};

/// One layer: `x + mixer(norm(x))`, then `x + ffn(norm(x))` where there is a feed-forward part.
#[derive(Debug)]
pub struct Block {
    norm: Norm,
    mixer: Mixer,
    ffn: Option<(Norm, Ffn)>,
}

#[derive(Debug)]
enum Mixer {
    Mamba2(Mamba2),
    Mla(Mla),
    Gqa(Gqa),
}

#[derive(Debug)]
enum Ffn {
    Mlp(Mlp),
    Moe(Moe),
}

/// What one layer keeps of a sequence.
#[derive(Debug)]
pub(super) enum LayerState {
    Mamba2(Mamba2State),
    Mla(MlaCache),
    Gqa(GqaCache),
}

impl MixerSpec {
    /// The bytes of one sequence's recurrent state.
    pub fn state_bytes(&self) -> usize {
        match self {
            Self::Mamba2(spec) => spec.state_bytes(),
            Self::Mla(_) | Self::Gqa(_) => 0,
        }
    }

    /// The bytes that one token adds to a sequence's cache.
    pub fn cache_bytes_per_token(&self) -> usize {
        match self {
            Self::Mamba2(_) => 0,
            Self::Mla(spec) => spec.cache_bytes_per_token(),
            Self::Gqa(spec) => spec.cache_bytes_per_token(),
        }
    }

    /// How positions turn this mixer's queries and keys, where they do.
    pub(super) fn rope(&self) -> Option<RopeSpec> {
        match self {
            Self::Mamba2(_) => None,
            Self::Mla(spec) => Some(spec.rope),
            Self::Gqa(spec) => Some(spec.rope),
        }
    }
}

impl LayerState {
    /// What the layer keeps before the first token.
    pub(super) fn new(spec: &MixerSpec, device: &Device) -> Result<Self> {
        Ok(match spec {
            MixerSpec::Mamba2(spec) => Self::Mamba2(Mamba2State::new(spec, device)?),
            MixerSpec::Mla(spec) => Self::Mla(MlaCache::new(spec, device)?),
            MixerSpec::Gqa(spec) => Self::Gqa(GqaCache::new(spec, device)?),
        })
    }

    /// A copy that shares no memory with this one.
    pub(super) fn snapshot(&self) -> Result<Self> {
        Ok(match self {
            Self::Mamba2(state) => Self::Mamba2(state.snapshot()?),
            Self::Mla(cache) => Self::Mla(cache.snapshot()?),
            Self::Gqa(cache) => Self::Gqa(cache.snapshot()?),
        })
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    /// All that is kept, without the room that caches have in reserve.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match self {
            Self::Mamba2(state) => state.tensors(),
            Self::Mla(cache) => cache.tensors(),
            Self::Gqa(cache) => cache.tensors(),
        }
    }
}

impl Block {
    /// Loads the tensors of one layer.
    pub fn load(weights: &Weights<'_>, spec: &LayerSpec, hidden_size: usize) -> Result<Self> {
        let rms_norm = |part: &str| Norm::load_rms(&weights.part(part), hidden_size, spec.norm_eps);
        let attention = weights.part("self_attn");
        let mixer = match &spec.mixer {
            MixerSpec::Mamba2(spec) => Mixer::Mamba2(Mamba2::load(&weights.part("mamba2.mixer"), spec, hidden_size)?),
            MixerSpec::Mla(spec) => Mixer::Mla(Mla::load(&attention, spec, hidden_size)?),
            MixerSpec::Gqa(spec) => Mixer::Gqa(Gqa::load(&attention, spec, hidden_size)?),
        };
        let norm = match &mixer {
            Mixer::Mamba2(_) => Norm::load(&weights.part("mamba2.norm"), hidden_size, spec.norm_eps)?,
            Mixer::Mla(_) | Mixer::Gqa(_) => rms_norm("input_layernorm")?,
        };
        let ffn = match &spec.ffn {
            FfnSpec::None => None,
            FfnSpec::Mlp(size) => Some(Ffn::Mlp(Mlp::load(&weights.part("mlp"), hidden_size, *size)?)),
            FfnSpec::Moe(spec) => Some(Ffn::Moe(Moe::load(&weights.part("moe"), spec, hidden_size)?)),
        };
        let ffn = ffn.map(|ffn| Ok::<_, Error>((rms_norm("post_attention_layernorm")?, ffn))).transpose()?;
        Ok(Self { norm, mixer, ffn })
    }

    /// `x` [tokens, hidden] -> [tokens, hidden], advancing `state` by those tokens.
    pub(super) fn forward(&self, x: &Tensor, positions: &Positions, state: &mut LayerState) -> Result<Tensor> {
        let x = (x + self.mixer.forward(&self.norm.forward(x)?, positions, state)?)?;
        match &self.ffn {
            Some((norm, ffn)) => Ok((&x + ffn.forward(&norm.forward(&x)?)?)?),
            None => Ok(x),
        }
    }
}

impl Mixer {
    fn forward(&self, x: &Tensor, positions: &Positions, state: &mut LayerState) -> Result<Tensor> {
        match (self, state) {
            (Self::Mamba2(mixer), LayerState::Mamba2(state)) => mixer.forward(x, state),
            (Self::Mla(mixer), LayerState::Mla(cache)) => mixer.forward(x, positions, cache),
            (Self::Gqa(mixer), LayerState::Gqa(cache)) => mixer.forward(x, positions, cache),
            _ => Err(Error::Internal("a state was given to a model that it was not made for".into())),
        }
    }
}

impl Ffn {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mlp(ffn) => ffn.forward(x),
            Self::Moe(ffn) => ffn.forward(x),
        }
    }
}
