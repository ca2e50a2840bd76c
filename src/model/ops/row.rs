//! Products of one row on the CPU, from tensors to tensors. They take along what comes before and after them: the norm of the
//! row, biases, gates and residuals.

use candle_core::Tensor;

use super::{Lent, on_cpu};
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::row::{self, Mlp, Product};
use crate::model::input::{Input, Residual, RmsNorm};

/// One row [1, in] with its norm times a matrix, added to a residual: [1, out].
pub(super) fn times(input: &Input<'_>, product: Product<'_>, residual: Option<Residual<'_>>) -> Result<Tensor> {
    let [y] =
        with_row(input, residual, |x, residual| row::times_all([Product { residual, ..product }], Isa::best(), x))?;
    on_cpu(y, 1)
}

/// Each of several products of one row [1, in] with its norm: of each [1, out].
pub(super) fn times_all<const N: usize>(input: &Input<'_>, products: [Product<'_>; N]) -> Result<[Tensor; N]> {
    each(with_row(input, None, |x, _| row::times_all(products, Isa::best(), x))?, |y| on_cpu(y, 1))
}

/// What a feed-forward layer makes of one row [1, in] with its norm, added to a residual: [1, out].
pub(in crate::model) fn mlp_row(input: &Input<'_>, mlp: Mlp<'_>, residual: Option<Residual<'_>>) -> Result<Tensor> {
    let y = with_row(input, residual, |x, residual| {
        row::mlp(Mlp { down: Product { residual, ..mlp.down }, ..mlp }, Isa::best(), x)
    })?;
    on_cpu(y, 1)
}

/// What `make` makes of one row and its norm, and of what that is added to.
fn with_row<T>(
    input: &Input<'_>,
    residual: Option<Residual<'_>>,
    make: impl FnOnce(row::Input<'_>, Option<row::Residual<'_>>) -> T,
) -> Result<T> {
    let rows = input.rows.contiguous()?;
    let (lent, onto) = (Lent::of(&rows)?, residual.map(|own| Lent::of(own.x)).transpose()?);
    let onto = onto.as_ref().map(Lent::slice).transpose()?;
    let residual = onto.zip(residual).map(|(x, own)| row::Residual { x, factor: own.factor as f32 });
    Ok(make(row::Input { x: lent.slice()?, norm: input.norm.map(RmsNorm::of_row) }, residual))
}

/// What `make` makes of each.
pub(in crate::model) fn each<T, U, const N: usize>(all: [T; N], make: impl FnMut(T) -> Result<U>) -> Result<[U; N]> {
    let made = all.into_iter().map(make).collect::<Result<Vec<_>>>()?;
    made.try_into().map_err(|_| Error::Internal(format!("{N} things become as many")))
}
