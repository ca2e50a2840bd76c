//! Normalization before a layer: RMSNorm (<https://arxiv.org/abs/1910.07467>), or LayerNorm
//! (<https://arxiv.org/abs/1607.06450>) where the checkpoint has a bias.

use std::borrow::Cow;

use candle_core::{D, Tensor};

use super::input::{Input, RmsNorm};
use super::vector::Vector;
use super::{ops, weights::Weights};
use crate::error::{Error, Result};
use crate::kernels::row;

/// A norm over the last dimension.
#[derive(Debug)]
pub struct Norm {
    weight: Vector, // [size]
    bias: Option<Tensor>,
    eps: f32,
}

impl Norm {
    /// An RMSNorm over `size` values.
    pub fn load_rms(weights: &Weights<'_>, size: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: Vector::new(load_weight(weights, size)?)?, bias: None, eps: eps as f32 })
    }

    /// A norm over `size` values whose kind the checkpoint shows: LayerNorm with a bias, RMSNorm without.
    pub fn load(weights: &Weights<'_>, size: usize, eps: f64) -> Result<Self> {
        let bias = weights.get_f32_if_present("bias", &[size])?;
        if let Some(bias) = &bias {
            weights.warn_if_not_finite("bias", bias)?;
        }
        Ok(Self { bias, ..Self::load_rms(weights, size, eps)? })
    }

    /// `x` [.., size] normalized over its last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some(bias) = &self.bias else { return self.rms(x) };
        // A variance from sums of x and x² loses all digits where the mean is far from zero: centred first, it doesn't.
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        Ok(self.rms(&centred)?.broadcast_add(bias)?)
    }

    /// The same for a layer that begins with a product: where that takes a norm along, it is left to it.
    pub fn before(&self, x: &Tensor) -> Result<Input<'_>> {
        match self.as_rms() {
            Some(norm) if ops::is_one_row(x)? => Ok(Input { rows: x.clone(), norm: Some(norm) }),
            _ => Ok(Input::from(&self.forward(x)?)),
        }
    }

    /// The norm that products of one row take along, where it is such a one.
    fn as_rms(&self) -> Option<RmsNorm<'_>> {
        let Self { weight, eps, bias } = self;
        bias.is_none().then_some(RmsNorm { weight: weight.tensor(), numbers: weight.numbers(), eps: *eps })
    }

    /// The same for the CPU's kernels of one row.
    pub(super) fn of_row(&self) -> Result<row::Norm<'_>> {
        let other = || Error::Internal("a row on the CPU met a norm that its kernels don't take".into());
        self.as_rms().map(RmsNorm::of_row).ok_or_else(other)
    }

    /// One row on the CPU for a layer that begins with a product, and the norm that is left to it.
    pub(super) fn before_row<'a>(&'a self, x: &'a [f32]) -> Result<(Cow<'a, [f32]>, Option<row::Norm<'a>>)> {
        Ok(match self.as_rms() {
            Some(norm) => (Cow::Borrowed(x), Some(norm.of_row())),
            None => (Cow::Owned(ops::into_vec(&self.forward(&ops::on_cpu(x.to_vec(), 1)?)?)?), None),
        })
    }

    fn rms(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, self.weight.tensor(), self.eps)
    }
}

/// The weight of a norm over `size` values, f32.
pub(super) fn load_weight(weights: &Weights<'_>, size: usize) -> Result<Tensor> {
    let weight = weights.get_f32("weight", &[size])?;
    weights.warn_if_not_finite("weight", &weight)?;
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_mean_far_from_zero_does_not_spoil_layer_norm() {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() + 3000.0).collect();
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 64.0;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 64.0;
        let weight = Tensor::ones(64, DType::F32, &Device::Cpu).unwrap();
        let norm = Norm { bias: Some(weight.zeros_like().unwrap()), weight: Vector::new(weight).unwrap(), eps: 1e-6 };

        let x = Tensor::from_vec(values.clone(), (1, 64), &Device::Cpu).unwrap();
        let got: Vec<f32> = norm.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (got, value) in got.iter().zip(values) {
            let want = (f64::from(value) - mean) / (variance + 1e-6).sqrt();
            // The mean itself is rounded to f32: 3000 · 2^-24, over a deviation of 0.7.
            assert!((f64::from(*got) - want).abs() < 5e-4, "{got} for {want}");
        }
    }
}
