//! The SwiGLU feed-forward layer (<https://arxiv.org/abs/2002.05202>).

use candle_core::Tensor;

use super::{linear::Linear, weights::Weights};
use crate::error::Result;

/// `down(silu(gate(x)) · up(x))`.
#[derive(Debug)]
pub struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    /// Loads `{gate,up,down}_proj` with `intermediate_size` inner values.
    pub fn load(weights: &Weights<'_>, hidden_size: usize, intermediate_size: usize) -> Result<Self> {
        Ok(Self {
            gate: Linear::load(&weights.part("gate_proj"), hidden_size, intermediate_size)?,
            up: Linear::load(&weights.part("up_proj"), hidden_size, intermediate_size)?,
            down: Linear::load(&weights.part("down_proj"), intermediate_size, hidden_size)?,
        })
    }

    /// `x` [tokens, hidden] -> [tokens, hidden].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = (self.gate.forward(x)?.silu()? * self.up.forward(x)?)?;
        self.down.forward(&inner)
    }
}
