//! One linear layer for every storage type.

use candle_core::Tensor;

use super::{ops, weights::Weights};
use crate::error::Result;

/// `y = x · Wᵀ + b`, with a bias where the checkpoint has one.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,       // [out, in], in its storage type
    bias: Option<Tensor>, // [out], f32
}

impl Linear {
    /// Loads `weight` [n_out, n_in] and, where it is there, `bias` `[n_out]`.
    pub fn load(weights: &Weights<'_>, n_in: usize, n_out: usize) -> Result<Self> {
        let weight = weights.get("weight", &[n_out, n_in])?;
        Ok(Self { weight, bias: weights.get_f32_if_present("bias", &[n_out])? })
    }

    /// A layer without a bias on a weight [out, in] that is already loaded.
    pub fn new(weight: Tensor) -> Self {
        Self { weight, bias: None }
    }

    /// `x` [tokens, in] -> [tokens, out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight)?;
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}
