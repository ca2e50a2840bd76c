//! The feed-forward layer: SwiGLU (<https://arxiv.org/abs/2002.05202>), or a squared ReLU without a gate
//! (<https://arxiv.org/abs/2109.08668>).

use candle_core::Tensor;

use super::input::{Input, Residual};
#[cfg(feature = "cuda")]
use super::linear::Weight;
use super::linear::{Linear, WeightBytes};
use super::ops;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::row;

/// The size and kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlpSpec {
    /// How many inner values there are.
    pub intermediate_size: usize,
    /// What they are made by.
    pub activation: Activation,
}

/// What inner values are made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate(x) · gate_multiplier) · up(x)`.
    SwiGlu {
        /// What the gate is multiplied by.
        gate_multiplier: f64,
    },
    /// `relu(up(x))²`.
    SquaredRelu,
}

impl MlpSpec {
    /// A SwiGLU layer.
    pub fn swiglu(intermediate_size: usize) -> Self {
        Self { intermediate_size, activation: Activation::SwiGlu { gate_multiplier: 1.0 } }
    }
}

/// `down(inner(x))`.
#[derive(Debug)]
pub struct Mlp {
    gate: Option<(Linear, f64)>,
    up: Linear,
    down: Linear,
}

/// The matrices of a layer; the gate's with its multiplier.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy)]
pub(super) struct Matrices<'a> {
    pub(super) gate: Option<(&'a Weight, f64)>,
    pub(super) up: &'a Weight,
    pub(super) down: &'a Weight,
}

impl Mlp {
    /// Loads `{gate,up,down}_proj`, with biases where they are there.
    pub fn load(weights: &Weights<'_>, spec: MlpSpec, hidden_size: usize) -> Result<Self> {
        let inner = |name| Linear::load(&weights.part(name), hidden_size, spec.intermediate_size);
        Ok(Self {
            gate: match spec.activation {
                Activation::SwiGlu { gate_multiplier } => Some((inner("gate_proj")?, gate_multiplier)),
                Activation::SquaredRelu => None,
            },
            up: inner("up_proj")?,
            down: Linear::load(&weights.part("down_proj"), spec.intermediate_size, hidden_size)?,
        })
    }

    /// The matrices, where none of them has a bias.
    #[cfg(feature = "cuda")]
    pub(super) fn matrices(&self) -> Option<Matrices<'_>> {
        let gate = match &self.gate {
            Some((gate, multiplier)) => Some((gate.only_weight()?, *multiplier)),
            None => None,
        };
        Some(Matrices { gate, up: self.up.only_weight()?, down: self.down.only_weight()? })
    }

    /// The bytes of the projections.
    pub(super) fn bytes(&self) -> WeightBytes {
        let gate = self.gate.as_ref().map(|(gate, _)| gate);
        gate.into_iter().chain([&self.up, &self.down]).map(Linear::bytes).sum()
    }

    /// `x` [tokens, hidden] -> [tokens, hidden].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.of(&x.into(), None)
    }

    /// The same of what may have a norm before it, added to a residual.
    pub fn onto(&self, residual: Residual<'_>, input: &Input<'_>) -> Result<Tensor> {
        self.of(input, Some(residual))
    }

    fn of(&self, input: &Input<'_>, residual: Option<Residual<'_>>) -> Result<Tensor> {
        if input.rows.device().is_cpu() && ops::is_one_row(&input.rows)? {
            return ops::mlp_row(input, self.of_row()?, residual);
        }
        let inner = Input::from(&self.inner(input)?);
        residual.map_or_else(|| self.down.of(&inner), |residual| self.down.onto(residual, &inner))
    }

    /// The layer for the CPU's kernels of one row.
    pub(super) fn of_row(&self) -> Result<row::Mlp<'_>> {
        let gate = self.gate.as_ref().map(|(gate, multiplier)| Ok::<_, Error>((gate.of_row()?, *multiplier as f32)));
        Ok(row::Mlp { gate: gate.transpose()?, up: self.up.of_row()?, down: self.down.of_row()? })
    }

    fn inner(&self, input: &Input<'_>) -> Result<Tensor> {
        match &self.gate {
            Some((gate, multiplier)) => Linear::gated(gate, *multiplier, &self.up, input),
            None => Ok(self.up.of(input)?.relu()?.sqr()?),
        }
    }
}
