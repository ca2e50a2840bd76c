//! Matrices of blocks as plain numbers.

use std::ops::Range;

use super::kernel::Kernel;
use super::launch::{Address, BLOCK, Launch, arguments, typed};
use super::products::Weights;
use crate::kernels::blocks::Format;
use crate::kernels::matrix::WeightType;

impl Weights {
    /// Some rows of a matrix of blocks, as f32: `y` `[rows, n_in]`.
    pub fn widen_to_f32(&self, rows: Range<usize>, y: Address) -> Launch {
        self.widen(typed!(self.dtype, "widen_to_float"), 0, rows, y)
    }

    /// Some rows of a matrix of blocks, rounded to bf16: `y` `[rows, n_in]`.
    pub fn widen_to_bf16(&self, rows: Range<usize>, y: Address) -> Launch {
        self.widen(typed!(self.dtype, "widen_to_bf16"), 0, rows, y)
    }

    /// The rows of a matrix of blocks that `ids` `[count]` names, each an u32, as f32: `y` `[count, n_in]`.
    pub fn embed(&self, ids: Address, count: usize, y: Address) -> Launch {
        self.widen(typed!(self.dtype, "widen_to_float"), ids, 0..count, y)
    }

    fn widen(&self, kernel: Kernel, ids: Address, rows: Range<usize>, y: Address) -> Launch {
        let arguments = arguments![self.at, ids, rows.start, y, self.n_in];
        Launch::new(kernel, [rows.len(), 1, 1], BLOCK, 0, arguments)
    }
}
