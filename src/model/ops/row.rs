//! Products of one row on the CPU. They take along what comes before and after them: the norm of the row, biases, gates and
//! residuals.

use candle_core::Tensor;

use super::Lent;
use super::products::{is_one_row, on_cpu};
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, Precision};
use crate::kernels::row;
use crate::model::input::{Input, Residual, RmsNorm};

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

/// A feed-forward layer: `down(silu(gate(x) · factor) · up(x))`, or `down(relu(up(x))²)` without a gate.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Mlp<'a> {
    pub(in crate::model) gate: Option<(Product<'a>, f64)>,
    pub(in crate::model) up: Product<'a>,
    pub(in crate::model) down: Product<'a>,
}

/// A feed-forward layer behind another one, on what that adds to the residual stream: `x + mlp(norm(x)) · factor`.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Then<'a> {
    pub(in crate::model) norm: RmsNorm<'a>,
    pub(in crate::model) mlp: Mlp<'a>,
    pub(in crate::model) factor: f64,
}

/// A layer's last product, and what comes after it in the same parallel region.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Tail<'a> {
    pub(in crate::model) product: Product<'a>,
    pub(in crate::model) then: Option<Then<'a>>,
}

/// The memory of what outputs meet.
pub(super) struct LentProduct<'a> {
    wanted: Product<'a>,
    bias: Option<Lent<'a>>,
    multipliers: Option<Lent<'a>>,
    residual: Option<Lent<'a>>,
}

/// The same of a feed-forward layer.
struct LentMlp<'a> {
    gate: Option<(LentProduct<'a>, f32)>,
    up: LentProduct<'a>,
    down: LentProduct<'a>,
}

/// The same of a layer's tail.
pub(super) struct LentTail<'a> {
    product: LentProduct<'a>,
    then: Option<(row::Norm<'a>, LentMlp<'a>, f32)>,
}

impl<'a> Mlp<'a> {
    fn lent(self) -> Result<LentMlp<'a>> {
        let gate = |(gate, factor): (Product<'a>, f64)| Ok::<_, Error>((gate.lent()?, factor as f32));
        Ok(LentMlp { gate: self.gate.map(gate).transpose()?, up: self.up.lent()?, down: self.down.lent()? })
    }
}

impl LentMlp<'_> {
    fn mlp(&self) -> Result<row::Mlp<'_>> {
        let gate = self.gate.as_ref().map(|(gate, factor)| Ok::<_, Error>((gate.product()?, *factor)));
        Ok(row::Mlp { gate: gate.transpose()?, up: self.up.product()?, down: self.down.product()? })
    }
}

impl<'a> Tail<'a> {
    pub(super) fn lent(self) -> Result<LentTail<'a>> {
        let then = |Then { norm, mlp, factor }: Then<'a>| Ok::<_, Error>((norm.of_row(), mlp.lent()?, factor as f32));
        Ok(LentTail { product: self.product.lent()?, then: self.then.map(then).transpose()? })
    }
}

impl LentTail<'_> {
    pub(super) fn tail(&self) -> Result<row::Tail<'_>> {
        let then = self
            .then
            .as_ref()
            .map(|(norm, mlp, factor)| Ok::<_, Error>(row::Then { norm: *norm, mlp: mlp.mlp()?, factor: *factor }));
        Ok(row::Tail { product: self.product.product()?, then: then.transpose()? })
    }
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
    make(row::Input { x: lent.slice()?, norm: input.norm.map(RmsNorm::of_row) })
}

/// Each of several products of one row [1, in] with its norm: of each [1, out].
pub(super) fn times_all<const N: usize>(input: &Input<'_>, products: [Product<'_>; N]) -> Result<[Tensor; N]> {
    let lent = each(products, Product::lent)?;
    let products = each(lent.each_ref(), LentProduct::product)?;
    each(of_row(input, |x| Ok(row::times_all(products, Isa::best(), x)))?, |y| on_cpu(y, 1))
}

/// What a feed-forward layer makes of one row [1, in] with its norm: [1, out]. None for several rows.
pub(in crate::model) fn mlp_row(input: &Input<'_>, mlp: Mlp<'_>) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    let mlp = mlp.lent()?;
    let mlp = mlp.mlp()?;
    on_cpu(of_row(input, |x| Ok(row::mlp(mlp, Isa::best(), x)))?, 1).map(Some)
}

impl<'a> RmsNorm<'a> {
    /// Where its weight is in memory.
    fn of_row(self) -> row::Norm<'a> {
        row::Norm { weight: self.numbers, eps: self.eps }
    }
}

fn numbers<'a>(lent: Option<&'a Lent<'_>>) -> Result<Option<&'a [f32]>> {
    lent.map(Lent::slice).transpose()
}

/// What `make` makes of each.
pub(in crate::model) fn each<T, U, const N: usize>(all: [T; N], make: impl FnMut(T) -> Result<U>) -> Result<[U; N]> {
    let made = all.into_iter().map(make).collect::<Result<Vec<_>>>()?;
    made.try_into().map_err(|_| Error::Internal(format!("{N} things become as many")))
}
