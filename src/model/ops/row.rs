//! Products of one row on the CPU. They take along what comes before and after them: the norm of the row, and within their
//! parallel region biases, a residual or the gate.

use std::borrow::Cow;

use candle_core::Tensor;

use super::{Lent, normed};
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, Precision};
use crate::kernels::row::{self, Outputs};
use crate::kernels::rows;
use crate::model::input::Input;

/// What the products `y` of one of several matrices are added to: they become `x + y · factor`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added<'a> {
    pub(super) which: usize,
    pub(super) x: &'a Tensor, // one number for each output
    pub(super) factor: f64,
}

/// One row [1, in] with its norm times the transpose of each of the matrices, and what is `added`: of each `[out]`.
pub(super) fn times_all<'a, const N: usize>(
    input: &Input<'_>,
    matrices: [&Matrix; N],
    precision: Precision,
    added: impl Iterator<Item = Added<'a>>,
) -> Result<[Vec<f32>; N]> {
    let lent =
        added.map(|added| Ok((added.which, Lent::of(added.x)?, added.factor as f32))).collect::<Result<Vec<_>>>()?;
    let numbers = lent.iter().map(|(which, x, factor)| Ok((*which, x.slice::<f32>()?, *factor)));
    let added = numbers.collect::<Result<Vec<_>>>()?;
    let add = |outputs: Outputs<'_>| {
        for (_, x, factor) in added.iter().filter(|(which, ..)| *which == outputs.which) {
            rows::add_to_scaled_row(Isa::best(), x.get(outputs.first..).unwrap_or_default(), *factor, outputs.y);
        }
    };
    with_norm(input, |x| row::times_all(matrices, Isa::best(), x, precision, add))
}

/// As [`super::gated_row`].
pub(super) fn gated(
    input: &Input<'_>,
    gate: &Matrix,
    factor: f32,
    up: &Matrix,
    precision: Precision,
) -> Result<Vec<f32>> {
    with_norm(input, |x| row::gated(gate, factor, up, Isa::best(), x, precision))
}

fn with_norm<T>(input: &Input<'_>, make: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let rows = input.rows.contiguous()?;
    let lent = Lent::of(&rows)?;
    let x = lent.slice()?;
    Ok(make(&match input.norm {
        Some(norm) => Cow::Owned(normed(x, norm.weight, norm.eps)?),
        None => Cow::Borrowed(x),
    }))
}
