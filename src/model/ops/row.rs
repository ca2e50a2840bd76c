//! Products of one row on the CPU. They take along what comes before and after them: the norm of the row, and within their
//! parallel region a bias, a residual or the gate.

use std::borrow::Cow;

use candle_core::{Device, Tensor};

use super::{Lent, normed};
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{self, Matrix, Precision};
use crate::kernels::rows;
use crate::model::input::{Input, Residual};

/// As [`super::row_times`].
pub(super) fn times(
    input: &Input<'_>,
    w: &Matrix,
    precision: Precision,
    bias: Option<&Tensor>,
    residual: Option<Residual<'_>>,
) -> Result<Tensor> {
    let (bias, residual) = (bias.map(|bias| (bias, 1.0)), residual.map(|residual| (residual.x, residual.factor)));
    let (bias, residual) = (bias.map(Added::of).transpose()?, residual.map(Added::of).transpose()?);
    let (bias, residual) = (bias.as_ref().map(Added::numbers), residual.as_ref().map(Added::numbers));
    let added = [bias.transpose()?, residual.transpose()?];
    row_of(input, |x| {
        w.row_times(Isa::best(), x, precision, |first, y| {
            for (x, factor) in added.into_iter().flatten() {
                rows::add_to_scaled_row(Isa::best(), x.get(first..).unwrap_or_default(), factor, y);
            }
        })
    })
}

/// What a product `y` is added to: it becomes `x + y · factor`.
struct Added<'a> {
    x: Lent<'a>,
    factor: f32,
}

impl<'a> Added<'a> {
    fn of((x, factor): (&'a Tensor, f64)) -> Result<Self> {
        Ok(Self { x: Lent::of(x)?, factor: factor as f32 })
    }

    fn numbers(&self) -> Result<(&[f32], f32)> {
        Ok((self.x.slice()?, self.factor))
    }
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
        Some(norm) => Cow::Owned(normed(x, norm.weight, norm.eps)?),
        None => Cow::Borrowed(x),
    });
    let width = y.len();
    Ok(Tensor::from_vec(y, (1, width), &Device::Cpu)?)
}
