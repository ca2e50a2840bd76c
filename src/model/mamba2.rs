//! Mamba2, the state-space layer of "Transformers are SSMs" (<https://arxiv.org/abs/2405.21060>).
//!
//! One token advances a recurrence (section 3), several go through the same recurrence in chunks of matrix products
//! (section 6, "SSD"); both leave the same state.

use candle_core::{DType, Device, Tensor};

use super::input::{Input, Residual};
use super::linear::{Linear, WeightBytes};
use super::norm;
use super::ops::{Constants, GatedNorm, Mamba2State, Mixing};
use super::vector::Vector;
use super::weights::Weights;
use crate::error::Result;
use crate::kernels::mamba2::Sizing;
use crate::kernels::row;

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

    fn sizing(&self) -> Sizing {
        let Self { num_heads: heads, head_dim, state_size, n_groups: groups, .. } = *self;
        Sizing { heads, head_dim, state_size, groups }
    }

    fn load_norm(&self, weights: &Weights<'_>) -> Result<Option<GatedNorm>> {
        let (eps, is_before_gate) = match self.gating {
            Gating::ThenNorm(eps) => (eps, false),
            Gating::AfterNorm(eps) => (eps, true),
            Gating::Alone => return Ok(None),
        };
        let weight = norm::load_weight(weights, self.inner())?;
        Ok(Some(GatedNorm { weight, eps: eps as f32, is_before_gate }))
    }

    /// The multipliers of all that is projected, one beside the other.
    fn multipliers(&self, device: &Device) -> Result<Option<Vector>> {
        let Some(multipliers) = self.multipliers else { return Ok(None) };
        let (inner, shared) = (self.inner(), self.n_groups * self.state_size);
        let widths = [inner, inner, shared, shared, self.num_heads];
        let repeated =
            multipliers.iter().zip(widths).flat_map(|(factor, width)| std::iter::repeat_n(*factor as f32, width));
        let repeated: Vec<f32> = repeated.collect();
        Vector::new(Tensor::new(repeated, device)?).map(Some)
    }

    /// The state before the first token.
    pub fn state(&self, device: &Device) -> Result<Mamba2State> {
        Mamba2State::new(self.sizing(), self.conv_kernel - 1, device)
    }

    /// The bytes of one sequence's state, however long it is.
    pub fn state_bytes(&self) -> usize {
        (self.inner() * self.state_size + (self.conv_kernel - 1) * self.conv_dim()) * size_of::<f32>()
    }
}

/// One layer's weights.
#[derive(Debug)]
pub struct Mamba2 {
    in_proj: Linear,
    multipliers: Option<Vector>, // [inner + conv_dim + heads]
    mixing: Mixing,
    out_proj: Linear,
}

impl Mamba2 {
    /// Loads the tensors of a `mixer`.
    pub fn load(weights: &Weights<'_>, spec: &Mamba2Spec, hidden_size: usize) -> Result<Self> {
        let (inner, conv_dim, heads) = (spec.inner(), spec.conv_dim(), spec.num_heads);
        let conv1d = weights.get_f32("conv1d.weight", &[conv_dim, 1, spec.conv_kernel])?;
        let scalars = |name| -> Result<Tensor> { Ok(weights.get(name, &[heads])?.to_dtype(DType::F64)?) };
        let in_proj = Linear::load(&weights.part("in_proj"), hidden_size, inner + conv_dim + heads)?;
        let constants = Constants {
            sizing: spec.sizing(),
            taps: conv1d.squeeze(1)?.t()?.contiguous()?,
            conv_bias: weights.get_f32_if_present("conv1d.bias", &[conv_dim])?,
            dt_bias: scalars("dt_bias")?,
            dt_limit: spec.dt_limit,
            a: scalars("A_log")?.exp()?.neg()?,
            d: weights.get_f32("D", &[heads])?,
            norm: spec.load_norm(&weights.part("norm"))?,
        };
        Ok(Self {
            in_proj,
            multipliers: spec.multipliers(weights.device())?,
            mixing: Mixing::new(&constants, weights.device())?,
            out_proj: Linear::load(&weights.part("out_proj"), inner, hidden_size)?,
        })
    }

    /// The bytes of the projections.
    pub(super) fn bytes(&self) -> WeightBytes {
        self.in_proj.bytes() + self.out_proj.bytes()
    }

    /// `input` [tokens, hidden] -> [tokens, hidden], added to a residual, advancing `state` by those tokens.
    pub fn forward(&self, input: &Input<'_>, state: &mut Mamba2State, residual: Residual<'_>) -> Result<Tensor> {
        let projected = self.project(input)?;
        let mixed = self.mixing.run(&projected, state)?;
        self.out_proj.onto(residual, &mixed)
    }

    /// One row on the CPU goes through the whole layer, and what comes after it, at once.
    pub(super) fn step(
        &self,
        input: row::Input<'_>,
        state: &mut Mamba2State,
        residual: row::Residual<'_>,
        then: Option<row::Then<'_>>,
    ) -> Result<Vec<f32>> {
        let multipliers = self.multipliers.as_ref().map(Vector::numbers);
        let in_proj = row::Product { multipliers, ..self.in_proj.of_row()? };
        let out_proj =
            row::Tail { product: row::Product { residual: Some(residual), ..self.out_proj.of_row()? }, then };
        self.mixing.step(input, in_proj, out_proj, state)
    }

    /// z, x, B, C and Δ side by side.
    fn project(&self, input: &Input<'_>) -> Result<Tensor> {
        let projected = self.in_proj.of(input)?;
        match &self.multipliers {
            Some(multipliers) => Ok(projected.broadcast_mul(multipliers.tensor())?),
            None => Ok(projected),
        }
    }
}
