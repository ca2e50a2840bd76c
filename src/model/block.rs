//! One layer of the residual stream, and the only place that tells layer kinds apart.

use candle_core::{Device, Tensor};

use super::config::{FfnSpec, LayerSpec, MixerSpec, ParallelSpec};
use super::gqa::{Gqa, GqaCache};
use super::input::{Input, Residual};
use super::linear::WeightBytes;
use super::mamba2::Mamba2;
use super::mla::{Mla, MlaCache};
use super::mlp::Mlp;
use super::moe::Moe;
use super::norm::Norm;
use super::ops::{Mamba2State, scaled};
use super::rope::{Positions, RopeSpec};
use super::{ops, weights::Weights};
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::{row, rows};

/// One layer, as its [`LayerSpec`] says.
#[derive(Debug)]
pub struct Block {
    mixer: Option<(Norm, Mixer)>,
    mixer_multiplier: f64,
    ffn: Option<(Norm, Ffn)>,
    ffn_multiplier: f64,
}

#[derive(Debug)]
enum Mixer {
    Mamba2(Mamba2),
    Mla(Box<Mla>),
    Gqa(Gqa),
    Parallel(Box<(Mamba2, Gqa)>, ParallelSpec),
}

#[derive(Debug)]
enum Ffn {
    Mlp(Box<Mlp>),
    Moe(Box<Moe>),
}

/// What one layer keeps of a sequence.
#[derive(Debug)]
pub(super) enum LayerState {
    None,
    Mamba2(Mamba2State),
    Mla(MlaCache),
    Gqa(GqaCache),
    Parallel(Mamba2State, GqaCache),
}

impl LayerSpec {
    /// What the layer is made of, for people.
    pub fn kind(&self) -> String {
        let mixer = match self.mixer {
            MixerSpec::None => None,
            MixerSpec::Mamba2(_) => Some("Mamba2"),
            MixerSpec::Mla(_) => Some("MLA"),
            MixerSpec::Gqa(_) => Some("GQA"),
            MixerSpec::Parallel(_) => Some("Mamba2 beside GQA"),
        };
        let ffn = match self.ffn {
            FfnSpec::None => None,
            FfnSpec::Mlp(_) => Some("MLP"),
            FfnSpec::Moe(_) => Some("MoE"),
        };
        [mixer, ffn].into_iter().flatten().collect::<Vec<_>>().join(" + ")
    }
}

impl MixerSpec {
    /// The bytes of one sequence's recurrent state.
    pub fn state_bytes(&self) -> usize {
        match self {
            Self::Mamba2(mamba2) | Self::Parallel(ParallelSpec { mamba2, .. }) => mamba2.state_bytes(),
            Self::None | Self::Mla(_) | Self::Gqa(_) => 0,
        }
    }

    /// The bytes of a sequence's cache after so many tokens.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        match self {
            Self::None | Self::Mamba2(_) => 0,
            Self::Mla(spec) => spec.cache_bytes(tokens),
            Self::Gqa(gqa) | Self::Parallel(ParallelSpec { gqa, .. }) => gqa.cache_bytes(tokens),
        }
    }

    /// How positions turn this mixer's queries and keys, where they do.
    pub(super) fn rope(&self) -> Option<RopeSpec> {
        match self {
            Self::None | Self::Mamba2(_) => None,
            Self::Mla(spec) => Some(spec.rope.clone()),
            Self::Gqa(gqa) | Self::Parallel(ParallelSpec { gqa, .. }) => gqa.rope.clone(),
        }
    }
}

impl LayerState {
    /// What the layer keeps before the first token.
    pub(super) fn new(spec: &MixerSpec, device: &Device) -> Result<Self> {
        Ok(match spec {
            MixerSpec::None => Self::None,
            MixerSpec::Mamba2(spec) => Self::Mamba2(spec.state(device)?),
            MixerSpec::Mla(spec) => Self::Mla(MlaCache::new(spec, device)),
            MixerSpec::Gqa(spec) => Self::Gqa(GqaCache::new(spec, device)),
            MixerSpec::Parallel(ParallelSpec { mamba2, gqa, .. }) => {
                Self::Parallel(mamba2.state(device)?, GqaCache::new(gqa, device))
            }
        })
    }

    /// A copy that goes on by itself.
    pub(super) fn copy_to(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::None => Self::None,
            Self::Mamba2(state) => Self::Mamba2(state.copy_to(device)?),
            Self::Mla(cache) => Self::Mla(cache.copy_to(device)?),
            Self::Gqa(cache) => Self::Gqa(cache.copy_to(device)?),
            Self::Parallel(state, cache) => Self::Parallel(state.copy_to(device)?, cache.copy_to(device)?),
        })
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Mamba2(state) => state.bytes(),
            Self::Mla(cache) => cache.bytes(),
            Self::Gqa(cache) => cache.bytes(),
            Self::Parallel(state, cache) => state.bytes() + cache.bytes(),
        }
    }

    /// All that is kept, without the room that caches have in reserve.
    #[cfg(test)]
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match self {
            Self::None => Vec::new(),
            Self::Mamba2(state) => state.tensors().unwrap(),
            Self::Mla(cache) => cache.tensors(),
            Self::Gqa(cache) => cache.tensors(),
            Self::Parallel(state, cache) => [state.tensors().unwrap(), cache.tensors()].concat(),
        }
    }
}

impl Block {
    /// Loads the tensors of one layer.
    pub fn load(weights: &Weights<'_>, spec: &LayerSpec, hidden_size: usize) -> Result<Self> {
        let ffn_norm = || Norm::load_rms(&weights.part("post_attention_layernorm"), hidden_size, spec.norm_eps);
        let ffn = Ffn::load(weights, &spec.ffn, hidden_size)?;
        Ok(Self {
            mixer: Mixer::load(weights, spec, hidden_size)?,
            mixer_multiplier: spec.mixer_multiplier,
            ffn: ffn.map(|ffn| Ok::<_, Error>((ffn_norm()?, ffn))).transpose()?,
            ffn_multiplier: spec.ffn_multiplier,
        })
    }

    /// The bytes of the matrices.
    pub(super) fn bytes(&self) -> WeightBytes {
        let mixer = self.mixer.as_ref().map(|(_, mixer)| mixer.bytes());
        let ffn = self.ffn.as_ref().map(|(_, ffn)| match ffn {
            Ffn::Mlp(mlp) => mlp.bytes(),
            Ffn::Moe(moe) => moe.bytes(),
        });
        mixer.into_iter().chain(ffn).sum()
    }

    /// `x` [tokens, hidden] -> [tokens, hidden], advancing `state` by those tokens.
    pub(super) fn forward(&self, x: &Tensor, positions: &Positions, state: &mut LayerState) -> Result<Tensor> {
        let mut x = x.clone();
        if let Some((norm, mixer)) = &self.mixer {
            let residual = Residual { x: &x, factor: self.mixer_multiplier };
            x = mixer.forward(&norm.before(&x)?, positions, state, residual)?;
        }
        if let Some((norm, ffn)) = &self.ffn {
            x = ffn.forward(&norm.before(&x)?, Residual { x: &x, factor: self.ffn_multiplier })?;
        }
        Ok(x)
    }

    /// One row `x` `[hidden]` on the CPU -> `[hidden]`, advancing `state` by that token. A feed-forward layer that is none of
    /// experts goes along with the mixer.
    pub(super) fn step(&self, x: &[f32], positions: &Positions, state: &mut LayerState) -> Result<Vec<f32>> {
        let then = self.then()?;
        let x = match &self.mixer {
            Some((norm, mixer)) => {
                let (x_in, left) = norm.before_row(x)?;
                let residual = row::Residual { x, factor: self.mixer_multiplier as f32 };
                mixer.step(row::Input { x: &x_in, norm: left }, positions, state, residual, then)?
            }
            None => gone_on(x.to_vec(), then),
        };
        match &self.ffn {
            Some((norm, Ffn::Moe(ffn))) => {
                let x = ops::on_cpu(x, 1)?;
                ops::into_vec(&ffn.forward(&norm.forward(&x)?, Residual { x: &x, factor: self.ffn_multiplier })?)
            }
            _ => Ok(x),
        }
    }

    /// What a row's mixer goes on with.
    fn then(&self) -> Result<Option<row::Then<'_>>> {
        let Some((norm, Ffn::Mlp(ffn))) = &self.ffn else { return Ok(None) };
        Ok(Some(row::Then { norm: norm.of_row()?, mlp: ffn.of_row()?, factor: self.ffn_multiplier as f32 }))
    }
}

/// What a feed-forward layer makes of `x`, where one comes after it.
fn gone_on(x: Vec<f32>, then: Option<row::Then<'_>>) -> Vec<f32> {
    match then {
        Some(then) => then.after(Isa::best(), &x),
        None => x,
    }
}

impl Mixer {
    /// The mixer with the norm before it.
    fn load(weights: &Weights<'_>, spec: &LayerSpec, hidden_size: usize) -> Result<Option<(Norm, Self)>> {
        let (attention, mamba2) = (weights.part("self_attn"), weights.part("mamba2.mixer"));
        let mixer = match &spec.mixer {
            MixerSpec::None => return Ok(None),
            MixerSpec::Mamba2(spec) => Self::Mamba2(Mamba2::load(&mamba2, spec, hidden_size)?),
            MixerSpec::Mla(spec) => Self::Mla(Box::new(Mla::load(&attention, spec, hidden_size)?)),
            MixerSpec::Gqa(spec) => Self::Gqa(Gqa::load(&attention, spec, hidden_size)?),
            MixerSpec::Parallel(spec) => {
                let mamba2 = Mamba2::load(&mamba2, &spec.mamba2, hidden_size)?;
                Self::Parallel(Box::new((mamba2, Gqa::load(&attention, &spec.gqa, hidden_size)?)), spec.clone())
            }
        };
        let norm = match &mixer {
            Self::Mamba2(_) => Norm::load(&weights.part("mamba2.norm"), hidden_size, spec.norm_eps)?,
            _ => Norm::load_rms(&weights.part("input_layernorm"), hidden_size, spec.norm_eps)?,
        };
        Ok(Some((norm, mixer)))
    }

    fn bytes(&self) -> WeightBytes {
        match self {
            Self::Mamba2(mixer) => mixer.bytes(),
            Self::Mla(mixer) => mixer.bytes(),
            Self::Gqa(mixer) => mixer.bytes(),
            Self::Parallel(mixers, _) => mixers.0.bytes() + mixers.1.bytes(),
        }
    }

    fn forward(
        &self,
        input: &Input<'_>,
        positions: &Positions,
        state: &mut LayerState,
        residual: Residual<'_>,
    ) -> Result<Tensor> {
        match (self, state) {
            (Self::Mamba2(mixer), LayerState::Mamba2(state)) => mixer.forward(input, state, residual),
            (Self::Mla(mixer), LayerState::Mla(cache)) => mixer.forward(input, positions, cache, residual),
            (Self::Gqa(mixer), LayerState::Gqa(cache)) => mixer.forward(input, positions, cache, residual),
            (Self::Parallel(mixers, spec), LayerState::Parallel(state, cache)) => {
                let ((mamba2_in, mamba2_out), (gqa_in, gqa_out)) = (spec.mamba2_multipliers, spec.gqa_multipliers);
                let ((mamba2, gqa), rows, Residual { x, factor }) = (&**mixers, input.rows()?, residual);
                let residual = Residual { x, factor: factor * mamba2_out };
                let x = mamba2.forward(&Input::from(&scaled(&rows, mamba2_in)?), state, residual)?;
                let residual = Residual { x: &x, factor: factor * gqa_out };
                gqa.forward(&Input::from(&scaled(&rows, gqa_in)?), positions, cache, residual)
            }
            _ => Err(of_another_model()),
        }
    }

    fn step(
        &self,
        input: row::Input<'_>,
        positions: &Positions,
        state: &mut LayerState,
        residual: row::Residual<'_>,
        then: Option<row::Then<'_>>,
    ) -> Result<Vec<f32>> {
        match (self, state) {
            (Self::Mamba2(mixer), LayerState::Mamba2(state)) => mixer.step(input, state, residual, then),
            (Self::Gqa(mixer), LayerState::Gqa(cache)) => mixer.step(input, positions, cache, residual, then),
            (Self::Mla(mixer), LayerState::Mla(cache)) => {
                let input = ops::on_cpu(input.to_normed(Isa::best()), 1)?;
                let x = ops::on_cpu(residual.x.to_vec(), 1)?;
                let residual = Residual { x: &x, factor: residual.factor.into() };
                let y = mixer.forward(&Input::from(&input), positions, cache, residual)?;
                Ok(gone_on(ops::into_vec(&y)?, then))
            }
            (Self::Parallel(mixers, spec), LayerState::Parallel(state, cache)) => {
                let ((mamba2_in, mamba2_out), (gqa_in, gqa_out)) = (spec.mamba2_multipliers, spec.gqa_multipliers);
                let ((mamba2, gqa), rows) = (&**mixers, input.to_normed(Isa::best()));
                let scaled = |factor: f64| {
                    let mut x = rows.to_vec();
                    rows::scale(factor as f32, &mut x);
                    x
                };
                let onto = |x, factor: f64| row::Residual { x, factor: residual.factor * factor as f32 };
                let x = mamba2.step((&*scaled(mamba2_in)).into(), state, onto(residual.x, mamba2_out), None)?;
                gqa.step((&*scaled(gqa_in)).into(), positions, cache, onto(&x, gqa_out), then)
            }
            _ => Err(of_another_model()),
        }
    }
}

fn of_another_model() -> Error {
    Error::Internal("a state was given to a model that it was not made for".into())
}

impl Ffn {
    fn load(weights: &Weights<'_>, spec: &FfnSpec, hidden_size: usize) -> Result<Option<Self>> {
        Ok(match spec {
            FfnSpec::None => None,
            FfnSpec::Mlp(spec) => Some(Self::Mlp(Box::new(Mlp::load(&weights.part("mlp"), *spec, hidden_size)?))),
            FfnSpec::Moe(spec) => Some(Self::Moe(Box::new(Moe::load(&weights.part("moe"), spec, hidden_size)?))),
        })
    }

    fn forward(&self, input: &Input<'_>, residual: Residual<'_>) -> Result<Tensor> {
        match self {
            Self::Mlp(ffn) => ffn.onto(residual, input),
            Self::Moe(ffn) => ffn.forward(&input.rows()?, residual),
        }
    }
}
