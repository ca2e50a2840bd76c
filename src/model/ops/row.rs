//! Products of one row on the CPU. They take along what comes before and after them: the norm of the row, and within their
//! parallel region a bias, a residual or the gate.

use std::borrow::Cow;

use candle_core::{Device, Tensor};

use super::Lent;
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{self, Matrix, Precision};
use crate::kernels::rows;
use crate::model::input::{Input, Residual, RmsNorm};

/// As [`super::row_times`].
pub(super) fn times(
    input: &Input<'_>,
    w: &Matrix,
    precision: Precision,
    bias: Option<&Tensor>,
    residual: Option<Residual<'_>>,
) -> Result<Tensor> {
    let isa = Isa::best();
    let (bias, to) = (bias.map(Lent::of).transpose()?, residual.map(|residual| Lent::of(residual.x)).transpose()?);
    let bias = bias.as_ref().map(Lent::slice::<f32>).transpose()?;
    let to = to.as_ref().map(Lent::slice::<f32>).transpose()?;
    let factor = residual.map_or(1.0, |residual| residual.factor as f32);
    row_of(input, |x| {
        w.row_times(isa, x, precision, |first, y| {
            if let Some(bias) = bias.and_then(|bias| bias.get(first..)) {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
            if let Some(to) = to.and_then(|to| to.get(first..)) {
                rows::add_to_scaled_row(isa, to, factor, y);
            }
        })
    })
}

/// As [`super::gated_row`].
pub(super) fn gated(
    input: &Input<'_>,
    gate: &Matrix,
    factor: f32,
    up: &Matrix,
    precision: Precision,
) -> Result<Tensor> {
    row_of(input, |x| matrix::gated_row(gate, factor, up, Isa::best(), x, precision))
}

/// A row that is made of a row with its norm.
fn row_of(input: &Input<'_>, make: impl FnOnce(&[f32]) -> Vec<f32>) -> Result<Tensor> {
    let rows = input.rows.contiguous()?;
    let lent = Lent::of(&rows)?;
    let x = lent.slice()?;
    let y = make(&match input.norm {
        Some(norm) => Cow::Owned(normed(x, norm)?),
        None => Cow::Borrowed(x),
    });
    let width = y.len();
    Ok(Tensor::from_vec(y, (1, width), &Device::Cpu)?)
}

fn normed(x: &[f32], RmsNorm { weight, eps }: RmsNorm<'_>) -> Result<Vec<f32>> {
    let mut y = vec![0.0; x.len()];
    rows::rms_norm(Isa::best(), x, Lent::of(weight)?.slice()?, eps, &mut y);
    Ok(y)
}
