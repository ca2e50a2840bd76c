//! Normalization before a layer: RMSNorm (<https://arxiv.org/abs/1910.07467>), or LayerNorm
//! (<https://arxiv.org/abs/1607.06450>) where the checkpoint has a bias; and the grouped RMSNorm inside Mamba2.

use candle_core::{DType, Tensor};

use super::weights::Weights;
use crate::error::Result;

/// A norm over the last dimension.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor, // [size], f32
    bias: Option<Tensor>,
    eps: f32,
}

impl Norm {
    /// A norm over `size` values whose kind the checkpoint shows: LayerNorm with a bias, RMSNorm without.
    pub fn load(weights: &Weights<'_>, size: usize, eps: f64) -> Result<Self> {
        let bias = weights.get_f32_if_present("bias", &[size])?;
        if let Some(bias) = &bias {
            weights.warn_if_not_finite("bias", bias)?;
        }
        Ok(Self { weight: load_weight(weights, size)?, bias, eps: eps as f32 })
    }

    /// `x` [.., size] normalized over its last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        Ok(match &self.bias {
            Some(bias) => candle_nn::ops::layer_norm(&x, &self.weight, bias, self.eps)?,
            None => candle_nn::ops::rms_norm(&x, &self.weight, self.eps)?,
        })
    }
}

/// An RMSNorm that takes the mean over each of several equal groups.
#[derive(Debug)]
pub struct GroupedRmsNorm {
    weight: Tensor, // [size], f32
    ones: Tensor,   // [size / groups], f32: the mean's norm has no weight of its own
    eps: f32,
}

impl GroupedRmsNorm {
    /// A norm over `size` values in `groups` groups.
    pub fn load(weights: &Weights<'_>, size: usize, groups: usize, eps: f64) -> Result<Self> {
        let ones = Tensor::ones(size / groups, DType::F32, weights.device())?;
        Ok(Self { weight: load_weight(weights, size)?, ones, eps: eps as f32 })
    }

    /// `x` [tokens, size] normalized within each group.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let groups = x.reshape(((), self.ones.dim(0)?))?;
        let scaled = candle_nn::ops::rms_norm(&groups, &self.ones, self.eps)?;
        Ok(scaled.reshape(x.shape())?.broadcast_mul(&self.weight)?)
    }
}

fn load_weight(weights: &Weights<'_>, size: usize) -> Result<Tensor> {
    let weight = weights.get_f32("weight", &[size])?;
    weights.warn_if_not_finite("weight", &weight)?;
    Ok(weight)
}
