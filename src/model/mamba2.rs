//! Mamba2, the state-space layer of "Transformers are SSMs" (<https://arxiv.org/abs/2405.21060>).
//!
//! One token advances a recurrence (section 3), several go through the same recurrence in chunks of matrix products
//! (section 6, "SSD"); both leave the same state. Δ and the logarithms of the decays are f64: within a chunk the decay
//! between two tokens is a difference of long sums.

use candle_core::{D, DType, Device, Tensor};

use super::linear::{Linear, WeightBytes};
use super::norm::GroupedRmsNorm;
use super::ops::{self, Mixing};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::mamba2::Sizing;

/// At most this many decays between two tokens of a chunk are held at a time: 64 MiB in f64.
const DECAYS: usize = 1 << 23;

/// The sizes and constants of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Spec {
    /// How many heads the state has.
    pub num_heads: usize,
    /// How many values of x one head takes.
    pub head_dim: usize,
    /// How many values of state there are for each value of x.
    pub state_size: usize,
    /// How many groups of heads share B, C and the gated norm's scale.
    pub n_groups: usize,
    /// How many tokens the convolution sees, the current one included.
    pub conv_kernel: usize,
    /// How many tokens of a prompt are multiplied at once where the CPU's kernel, which has a number of its own, does not
    /// run; never changes the result.
    pub chunk_size: usize,
    /// The bounds that Δ is clipped to.
    pub dt_limit: (f64, f64),
    /// How the output is gated and normalized.
    pub gating: Gating,
    /// What the projected z, x, B, C and Δ are multiplied by, before the convolution and before Δ's bias.
    pub multipliers: Option<[f64; 5]>,
}

/// How the output is gated by silu(z) and normalized within each group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// The norm, with this constant, is over the gated output.
    ThenNorm(f64),
    /// The norm, with this constant, comes before the gate.
    AfterNorm(f64),
    /// There is no norm.
    Alone,
}

impl Mamba2Spec {
    /// The width of x: heads · head_dim.
    pub fn inner(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The width of what is convolved: x, B and C.
    pub fn conv_dim(&self) -> usize {
        self.inner() + 2 * self.n_groups * self.state_size
    }

    fn load_norm(&self, weights: &Weights<'_>) -> Result<Option<GroupedRmsNorm>> {
        match self.gating {
            Gating::ThenNorm(eps) | Gating::AfterNorm(eps) => {
                GroupedRmsNorm::load(weights, self.inner(), self.n_groups, eps).map(Some)
            }
            Gating::Alone => Ok(None),
        }
    }

    /// The multipliers of all that is projected, one beside the other.
    fn multipliers(&self, device: &Device) -> Result<Option<Tensor>> {
        let Some(multipliers) = self.multipliers else { return Ok(None) };
        let (inner, shared) = (self.inner(), self.n_groups * self.state_size);
        let widths = [inner, inner, shared, shared, self.num_heads];
        let repeated =
            multipliers.iter().zip(widths).flat_map(|(factor, width)| std::iter::repeat_n(*factor as f32, width));
        let repeated: Vec<f32> = repeated.collect();
        Ok(Some(Tensor::new(repeated, device)?))
    }

    /// The bytes of one sequence's state, however long it is.
    pub fn state_bytes(&self) -> usize {
        (self.inner() * self.state_size + (self.conv_kernel - 1) * self.conv_dim()) * size_of::<f32>()
    }
}

/// The recurrent state of one layer and sequence, all f32.
#[derive(Debug)]
pub struct Mamba2State {
    conv: Tensor, // [kernel - 1, conv_dim], the last inputs of the convolution
    ssm: Tensor,  // [heads, head_dim, state_size]
}

impl Mamba2State {
    /// The state before the first token.
    pub fn new(spec: &Mamba2Spec, device: &Device) -> Result<Self> {
        let conv = Tensor::zeros((spec.conv_kernel - 1, spec.conv_dim()), DType::F32, device)?;
        // Grows as the product of two widths of the checkpoint: a small file may ask for more than any memory.
        let ssm = ops::zeros_if_they_fit((spec.num_heads, spec.head_dim, spec.state_size), device)?;
        Ok(Self { conv, ssm })
    }

    /// A copy that shares no memory with this state, which is written in place.
    pub fn snapshot(&self) -> Result<Self> {
        Ok(Self { conv: self.conv.copy()?, ssm: self.ssm.copy()? })
    }

    /// All that is kept.
    pub fn tensors(&self) -> Vec<Tensor> {
        vec![self.conv.clone(), self.ssm.clone()]
    }
}

/// One layer's weights.
#[derive(Debug)]
pub struct Mamba2 {
    spec: Mamba2Spec,
    in_proj: Linear,
    taps: Tensor, // [kernel, conv_dim]; the last multiplies the current token
    conv_bias: Option<Tensor>,
    dt_bias: Tensor, // [heads], f64
    a: Tensor,       // [heads], f64, negative
    d: Tensor,       // [heads]
    norm: Option<GroupedRmsNorm>,
    multipliers: Option<Tensor>, // [inner + conv_dim + heads]
    out_proj: Linear,
    /// The same weights for the CPU's kernels.
    mixing: Option<Mixing>,
}

impl Mamba2 {
    /// Loads the tensors of a `mixer`.
    pub fn load(weights: &Weights<'_>, spec: &Mamba2Spec, hidden_size: usize) -> Result<Self> {
        let (inner, conv_dim, heads) = (spec.inner(), spec.conv_dim(), spec.num_heads);
        let conv1d = weights.get_f32("conv1d.weight", &[conv_dim, 1, spec.conv_kernel])?;
        let scalars = |name| -> Result<Tensor> { Ok(weights.get(name, &[heads])?.to_dtype(DType::F64)?) };
        let mut layer = Self {
            in_proj: Linear::load(&weights.part("in_proj"), hidden_size, inner + conv_dim + heads)?,
            taps: conv1d.squeeze(1)?.t()?.contiguous()?,
            conv_bias: weights.get_f32_if_present("conv1d.bias", &[conv_dim])?,
            dt_bias: scalars("dt_bias")?,
            a: scalars("A_log")?.exp()?.neg()?,
            d: weights.get_f32("D", &[heads])?,
            norm: spec.load_norm(&weights.part("norm"))?,
            multipliers: spec.multipliers(weights.device())?,
            out_proj: Linear::load(&weights.part("out_proj"), inner, hidden_size)?,
            spec: spec.clone(),
            mixing: None,
        };
        if weights.device().is_cpu() {
            layer.mixing = Some(layer.to_mixing()?);
        }
        Ok(layer)
    }

    /// The bytes of the projections.
    pub(super) fn bytes(&self) -> WeightBytes {
        self.in_proj.bytes() + self.out_proj.bytes()
    }

    fn to_mixing(&self) -> Result<Mixing> {
        let Mamba2Spec { num_heads: heads, head_dim, state_size, n_groups: groups, dt_limit, .. } = self.spec;
        let norm = |norm: &GroupedRmsNorm| {
            Ok::<_, Error>((norm.weight()?, norm.eps(), matches!(self.spec.gating, Gating::AfterNorm(_))))
        };
        Ok(Mixing {
            sizing: Sizing { heads, head_dim, state_size, groups },
            taps: self.taps.flatten_all()?.to_vec1()?,
            conv_bias: self.conv_bias.as_ref().map(Tensor::to_vec1).transpose()?,
            dt_bias: self.dt_bias.to_vec1()?,
            dt_limit,
            a: self.a.to_vec1()?,
            d: self.d.to_vec1()?,
            norm: self.norm.as_ref().map(norm).transpose()?,
        })
    }

    /// `x` [tokens, hidden] -> [tokens, hidden], advancing `state` by those tokens.
    pub fn forward(&self, x: &Tensor, state: &mut Mamba2State) -> Result<Tensor> {
        let projected = self.project(x)?;
        let mixed = match &self.mixing {
            Some(mixing) => mixing.run(&projected, &state.conv, &state.ssm)?,
            None => self.mix(&projected, state)?,
        };
        self.out_proj.forward(&mixed)
    }

    /// What [`Mixing::run`] does, composed of tensor ops.
    fn mix(&self, projected: &Tensor, state: &mut Mamba2State) -> Result<Tensor> {
        let (inner, conv_dim) = (self.spec.inner(), self.spec.conv_dim());
        let z = projected.narrow(1, 0, inner)?;
        let xbc = self.convolve(&projected.narrow(1, inner, conv_dim)?, &mut state.conv)?;
        let dt = self.discretize(&projected.narrow(1, inner + conv_dim, self.spec.num_heads)?)?;
        let y = if xbc.dim(0)? == 1 { self.step(&xbc, &dt, state)? } else { self.scan(&xbc, &dt, state)? };
        self.gate(&y, &z.silu()?)
    }

    /// z, x, B, C and Δ side by side.
    fn project(&self, x: &Tensor) -> Result<Tensor> {
        let projected = self.in_proj.forward(x)?;
        match &self.multipliers {
            Some(multipliers) => Ok(projected.broadcast_mul(multipliers)?),
            None => Ok(projected),
        }
    }

    fn gate(&self, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
        match (&self.norm, self.spec.gating) {
            (None, _) | (_, Gating::Alone) => Ok((y * gate)?),
            (Some(norm), Gating::ThenNorm(_)) => norm.forward(&(y * gate)?),
            (Some(norm), Gating::AfterNorm(_)) => Ok((norm.forward(y)? * gate)?),
        }
    }

    /// The causal depthwise convolution over x, B and C with its SiLU: [tokens, conv_dim] in and out.
    fn convolve(&self, xbc: &Tensor, state: &mut Tensor) -> Result<Tensor> {
        let tokens = xbc.dim(0)?;
        let kept = self.spec.conv_kernel - 1;
        let seen = if kept == 0 { xbc.contiguous()? } else { Tensor::cat(&[&*state, xbc], 0)? };
        let mut sum = seen.narrow(0, 0, tokens)?.broadcast_mul(&self.taps.get(0)?)?;
        for tap in 1..=kept {
            sum = (sum + seen.narrow(0, tap, tokens)?.broadcast_mul(&self.taps.get(tap)?)?)?;
        }
        if kept > 0 {
            *state = seen.narrow(0, tokens, kept)?.force_contiguous()?;
        }
        match &self.conv_bias {
            Some(bias) => Ok(sum.broadcast_add(bias)?.silu()?),
            None => Ok(sum.silu()?),
        }
    }

    /// Δ = clip(softplus(dt + dt_bias)), f64 [tokens, heads].
    fn discretize(&self, dt: &Tensor) -> Result<Tensor> {
        let dt = dt.to_dtype(DType::F64)?.broadcast_add(&self.dt_bias)?;
        let softplus = (dt.relu()? + (dt.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let (low, high) = self.spec.dt_limit;
        Ok(softplus.clamp(low, high)?)
    }

    /// One token by the recurrence: [1, inner].
    fn step(&self, xbc: &Tensor, dt: &Tensor, state: &mut Mamba2State) -> Result<Tensor> {
        let Mamba2Spec { num_heads: heads, head_dim, state_size, n_groups: groups, .. } = self.spec;
        let (inner, shared) = (self.spec.inner(), groups * state_size);
        let per_head = |start| -> candle_core::Result<Tensor> {
            let grouped = xbc.narrow(1, start, shared)?.reshape((groups, 1, state_size))?;
            grouped.broadcast_as((groups, heads / groups, state_size))?.reshape((heads, 1, state_size))
        };
        let scalars = |x: &Tensor| x.to_dtype(DType::F32)?.reshape((heads, 1, 1));
        let (dt, decay) = (scalars(dt)?, scalars(&dt.broadcast_mul(&self.a)?.exp()?)?);
        let x = xbc.narrow(1, 0, inner)?.reshape((heads, head_dim, 1))?;
        let (b, c) = (per_head(inner)?, per_head(inner + shared)?);
        state.ssm = (state.ssm.broadcast_mul(&decay)? + x.broadcast_mul(&dt)?.broadcast_mul(&b)?)?;
        let read = state.ssm.broadcast_mul(&c)?.sum_keepdim(2)?; // [heads, head_dim, 1]
        let skip = x.broadcast_mul(&self.d.reshape((heads, 1, 1))?)?;
        Ok((read + skip)?.reshape((1, inner))?)
    }

    /// Several tokens, chunk by chunk: [tokens, inner].
    fn scan(&self, xbc: &Tensor, dt: &Tensor, state: &mut Mamba2State) -> Result<Tensor> {
        let tokens = xbc.dim(0)?;
        let size = self.spec.chunk_size.min(tokens).min((DECAYS / self.spec.num_heads).isqrt()).max(1);
        let chunks = (0..tokens).step_by(size).map(|start| {
            let count = size.min(tokens - start);
            let (y, next) = self.chunk(&xbc.narrow(0, start, count)?, &dt.narrow(0, start, count)?, &state.ssm)?;
            state.ssm = next;
            Ok(y)
        });
        Ok(Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// One chunk as matrix products: its output [tokens, inner] and the state after it.
    fn chunk(&self, xbc: &Tensor, dt: &Tensor, state: &Tensor) -> Result<(Tensor, Tensor)> {
        let Mamba2Spec { num_heads: heads, head_dim, state_size, n_groups: groups, .. } = self.spec;
        let (tokens, inner, shared) = (xbc.dim(0)?, self.spec.inner(), groups * state_size);
        let grouped = |start, width: usize| -> candle_core::Result<Tensor> {
            xbc.narrow(1, start, width)?.reshape((tokens, groups, width / groups))?.transpose(0, 1)?.contiguous()
        };
        let per_head = |x: &Tensor| x.reshape((tokens, heads, head_dim))?.transpose(0, 1)?.contiguous();
        let x = per_head(&xbc.narrow(1, 0, inner)?)?; // [heads, tokens, head_dim]
        let b = grouped(inner, shared)?; // [groups, tokens, state_size]
        let c = grouped(inner + shared, shared)?;

        let log_decay = dt.broadcast_mul(&self.a)?.t()?.contiguous()?.cumsum(1)?; // [heads, tokens], from the chunk's start
        let decay = Decay::new(&log_decay)?;
        let input = x.broadcast_mul(&dt.to_dtype(DType::F32)?.t()?.unsqueeze(2)?)?; // Δ · x

        // Within the chunk: y_i = Σ_{j ≤ i} decay(j → i) · (C_i · B_j) · Δ_j x_j.
        let scores = c.matmul(&b.transpose(1, 2)?)?.unsqueeze(1)?; // [groups, 1, tokens, tokens]
        let between = decay.between.reshape((groups, heads / groups, tokens, tokens))?;
        let mixing = between.broadcast_mul(&scores)?.reshape((heads, tokens, tokens))?;
        let within = mixing.matmul(&input)?;

        // From before it: y_i = decay(start → i) · S · C_i.
        let width = heads / groups * head_dim;
        let read = c.matmul(&state.reshape((groups, width, state_size))?.transpose(1, 2)?)?; // [groups, tokens, width]
        let read = read.transpose(0, 1)?.reshape((tokens, heads, head_dim))?.transpose(0, 1)?;
        let before = read.broadcast_mul(&decay.from_start)?;

        // S ← decay(start → end) · S + Σ_j decay(j → end) · Δ_j x_j ⊗ B_j.
        let input = input.broadcast_mul(&decay.to_end)?.transpose(0, 1)?; // [tokens, heads, head_dim]
        let input = input.reshape((tokens, groups, width))?.permute((1, 2, 0))?.contiguous()?;
        let gained = input.matmul(&b)?.reshape((heads, head_dim, state_size))?;
        let next = (state.broadcast_mul(&decay.whole)? + gained)?;

        let skip = x.broadcast_mul(&self.d.reshape((heads, 1, 1))?)?;
        let y = ((within + before)? + skip)?.transpose(0, 1)?.reshape((tokens, inner))?;
        Ok((y, next))
    }
}

/// The decays of one chunk, f32.
struct Decay {
    from_start: Tensor, // [heads, tokens, 1]
    to_end: Tensor,     // [heads, tokens, 1]
    whole: Tensor,      // [heads, 1, 1]
    between: Tensor,    // [heads, tokens, tokens]: from column to row, zero where the column comes later
}

impl Decay {
    /// From the sums of Δ · A up to and with each token, f64 [heads, tokens].
    fn new(log_decay: &Tensor) -> Result<Self> {
        let tokens = log_decay.dim(1)?;
        let last = log_decay.narrow(1, tokens - 1, 1)?;
        let exp = |log: Tensor| log.to_dtype(DType::F32)?.exp();
        let differences = log_decay.unsqueeze(2)?.broadcast_sub(&log_decay.unsqueeze(1)?)?.to_dtype(DType::F32)?;
        let seen = Tensor::tril2(tokens, DType::U8, log_decay.device())?.broadcast_as(differences.shape())?;
        let never = Tensor::new(f32::NEG_INFINITY, log_decay.device())?.broadcast_as(differences.shape())?;
        Ok(Self {
            from_start: exp(log_decay.unsqueeze(2)?)?,
            to_end: exp(last.broadcast_sub(log_decay)?.unsqueeze(D::Minus1)?)?,
            whole: exp(last.unsqueeze(2)?)?,
            between: seen.where_cond(&differences, &never)?.exp()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::MixerSpec;
    use crate::model::weights::Settings;
    use crate::support::{HIDDEN, RandomWeights, mamba2};

    #[test]
    fn fused_and_composed_layers_agree_over_prompts_and_single_tokens() {
        for (gating, kernel) in [(Gating::ThenNorm(1e-5), 4), (Gating::AfterNorm(1e-5), 2), (Gating::Alone, 1)] {
            let MixerSpec::Mamba2(spec) = mamba2(2, kernel, 8) else { unreachable!() };
            let spec = Mamba2Spec { gating, multipliers: Some([0.7, 1.2, 0.9, 1.1, 0.8]), ..spec };
            let load = || {
                let source = RandomWeights::new(7);
                Mamba2::load(&Weights::new(&source, &Device::Cpu, Settings::EXACT), &spec, HIDDEN).unwrap()
            };
            let (fused, composed) = (load(), Mamba2 { mixing: None, ..load() });
            let state = || Mamba2State::new(&spec, &Device::Cpu).unwrap();
            let (mut fused_state, mut composed_state) = (state(), state());
            for tokens in [1, 70, 1, 1, 3] {
                let x = Tensor::randn(0f32, 1.0, (tokens, HIDDEN), &Device::Cpu).unwrap();
                let y = fused.forward(&x, &mut fused_state).unwrap();
                let z = composed.forward(&x, &mut composed_state).unwrap();
                let pairs = fused_state.tensors().into_iter().zip(composed_state.tensors()).chain([(y, z)]);
                for (a, b) in pairs.filter(|(a, _)| a.elem_count() > 0) {
                    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                    assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "{gating:?}: {difference}");
                }
            }
        }
    }
}
