//! Products of one row on the CPU. They take along what comes before and after them: the norm of the row, biases, gates and
//! residuals.

use candle_core::Tensor;

use super::Lent;
use super::products::{is_one_row, on_cpu};
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, Precision};
use crate::kernels::row;
use crate::model::input::{Input, Residual};

/// A packed matrix, and what its outputs become after another.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Product<'a> {
    pub(in crate::model) matrix: &'a Matrix,
    pub(in crate::model) precision: Precision,
    /// What outputs are added to, `[out]`.
    pub(in crate::model) bias: Option<&'a Tensor>,
    /// What they are multiplied by, `[out]`.
    pub(in crate::model) multipliers: Option<&'a Tensor>,
    /// What they are added to at last.
    pub(in crate::model) residual: Option<Residual<'a>>,
}

/// The memory of what outputs meet.
pub(super) struct LentProduct<'a> {
    wanted: Product<'a>,
    bias: Option<Lent<'a>>,
    multipliers: Option<Lent<'a>>,
    residual: Option<Lent<'a>>,
}

impl<'a> Product<'a> {
    pub(super) fn lent(self) -> Result<LentProduct<'a>> {
        let lent = |x: Option<&'a Tensor>| x.map(Lent::of).transpose();
        Ok(LentProduct {
            wanted: self,
            bias: lent(self.bias)?,
            multipliers: lent(self.multipliers)?,
            residual: lent(self.residual.map(|residual| residual.x))?,
        })
    }
}

impl LentProduct<'_> {
    pub(super) fn product(&self) -> Result<row::Product<'_>> {
        let Product { matrix, precision, residual, .. } = self.wanted;
        Ok(row::Product {
            matrix,
            precision,
            bias: numbers(self.bias.as_ref())?,
            multipliers: numbers(self.multipliers.as_ref())?,
            residual: numbers(self.residual.as_ref())?.zip(residual.map(|residual| residual.factor as f32)),
        })
    }
}

/// What `make` makes of one row [1, in] and its norm: [1, out].
pub(super) fn of_row<T>(input: &Input<'_>, make: impl FnOnce(row::Input<'_>) -> Result<T>) -> Result<T> {
    let rows = input.rows.contiguous()?;
    let lent = Lent::of(&rows)?;
    let norm = input.norm.map(|norm| row::Norm { weight: norm.numbers, eps: norm.eps });
    make(row::Input { x: lent.slice()?, norm })
}

/// Each of several products of one row [1, in] with its norm: of each [1, out].
pub(super) fn times_all<const N: usize>(input: &Input<'_>, products: [Product<'_>; N]) -> Result<[Tensor; N]> {
    let lent = each(products, Product::lent)?;
    let products = each(lent.each_ref(), LentProduct::product)?;
    each(of_row(input, |x| Ok(row::times_all(products, Isa::best(), x)))?, |y| on_cpu(y, 1))
}

/// `down(silu(gate(x) · factor) · up(x))` of one row [1, in] with its norm, or `down(relu(up(x))²)` without a gate: [1, out].
/// None for several rows.
pub(in crate::model) fn mlp_row(
    input: &Input<'_>,
    gate: Option<(Product<'_>, f64)>,
    up: Product<'_>,
    down: Product<'_>,
) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    let gate = gate.map(|(gate, factor)| Ok::<_, Error>((gate.lent()?, factor as f32))).transpose()?;
    let gate = gate.as_ref().map(|(gate, factor)| Ok::<_, Error>((gate.product()?, *factor))).transpose()?;
    let [up, down] = [up.lent()?, down.lent()?];
    let mlp = row::Mlp { gate, up: up.product()?, down: down.product()? };
    on_cpu(of_row(input, |x| Ok(row::mlp(mlp, Isa::best(), x)))?, 1).map(Some)
}

fn numbers<'a>(lent: Option<&'a Lent<'_>>) -> Result<Option<&'a [f32]>> {
    lent.map(Lent::slice).transpose()
}

/// What `make` makes of each.
pub(in crate::model) fn each<T, U, const N: usize>(all: [T; N], make: impl FnMut(T) -> Result<U>) -> Result<[U; N]> {
    let made = all.into_iter().map(make).collect::<Result<Vec<_>>>()?;
    made.try_into().map_err(|_| Error::Internal(format!("{N} things become as many")))
}
