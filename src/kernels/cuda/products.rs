//! One row of activations times matrices.

use super::launch::{Address, BLOCK, Launch, WARP, arguments, typed};
use crate::kernels::blocks::Format;
use crate::kernels::matrix::WeightType;

/// As in `product.cuh`.
pub(super) const ROWS_OF_A_WARP: usize = 2;

/// A matrix of weights, or several of one kind one after the other. One of blocks is by itself, in panels as
/// `Matrix::into_planes` makes them.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Where it begins.
    pub at: Address,
    /// Its type.
    pub dtype: WeightType,
    /// How many matrices there are.
    pub count: usize,
    /// How many outputs each has.
    pub n_out: usize,
    /// How many inputs each has.
    pub n_in: usize,
}

/// What a row goes through before a product, as in `product.cuh`: by default nothing.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Norm {
    /// `[n_in]`, or none; begins at a multiple of 16 bytes.
    pub weight: Address,
    /// What is added to the mean of the squares.
    pub eps: f32,
}

/// What comes out becomes `residual + (product + bias) · factor`: by default nothing else than what it is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct After {
    /// `[n_out]`, or none.
    pub bias: Address,
    /// `[n_out]`, or none: then there is no factor.
    pub residual: Address,
    /// The factor.
    pub factor: f32,
}

impl Weights {
    /// `x` `[count, n_in]`, each times the transpose of its matrix: `y` `[count, n_out]`, with what comes before and after,
    /// which all share. x begins at a multiple of 16 bytes.
    pub fn row_times(&self, x: Address, norm: Norm, after: After, y: Address) -> Launch {
        let kernel = typed!(self.dtype, "row_times");
        let blocks = self.n_out.div_ceil(ROWS_OF_A_WARP * BLOCK / WARP);
        let arguments = arguments![self.at, x, norm, after, y, self.n_in, self.n_out];
        Launch::new(kernel, [blocks, self.count, 1], BLOCK, 0, arguments)
    }
}

/// `silu(gate · x · factor) · (up · x)` of a row `x` `[n_in]` and two matrices of one kind: `y` `[n_out]`. As for
/// [`Weights::row_times`], x begins at a multiple of 16 bytes.
pub fn gated(gate: &Weights, up: &Weights, factor: f32, x: Address, norm: Norm, y: Address) -> Launch {
    let kernel = typed!(gate.dtype, "gated");
    let arguments = arguments![gate.at, up.at, x, norm, y, gate.n_in, gate.n_out, factor];
    Launch::new(kernel, [gate.n_out.div_ceil(BLOCK / WARP), 1, 1], BLOCK, 0, arguments)
}
