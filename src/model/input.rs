//! What goes into a layer, and what its answer is added to.

use candle_core::Tensor;

use super::ops;
use crate::error::Result;
use crate::kernels::row;

/// Rows [tokens, width] that a layer takes in, with the norm that is left to the product that they meet first.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub(super) rows: Tensor,
    pub(super) norm: Option<RmsNorm<'a>>,
}

/// `x` over the root of its mean square, times a weight.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[width]`, f32.
    pub weight: &'a Tensor,
    /// The same where it is in memory, without a tensor's way to it; on a GPU nothing.
    pub numbers: &'a [f32],
    /// What is added to the mean of the squares.
    pub eps: f32,
}

impl Input<'_> {
    /// The rows as they are meant, with their norm.
    pub fn rows(&self) -> Result<Tensor> {
        match self.norm {
            Some(RmsNorm { weight, eps, .. }) => ops::rms_norm(&self.rows, weight, eps),
            None => Ok(self.rows.clone()),
        }
    }

    /// The same for several products: on a CPU, where each of them would do the norm again, it is done.
    pub fn for_several(&self) -> Result<Self> {
        Ok(if self.rows.device().is_cpu() { Self::from(&self.rows()?) } else { self.clone() })
    }
}

impl<'a> RmsNorm<'a> {
    /// The same for the CPU's kernels of one row.
    pub(super) fn of_row(self) -> row::Norm<'a> {
        row::Norm { weight: self.numbers, eps: self.eps }
    }
}

impl From<&Tensor> for Input<'_> {
    fn from(rows: &Tensor) -> Self {
        Self { rows: rows.clone(), norm: None }
    }
}

/// What a layer's answer is added to: `x + answer · factor`.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// [tokens, hidden].
    pub x: &'a Tensor,
    /// What answers are multiplied by.
    pub factor: f64,
}

impl Residual<'_> {
    /// The sum with an answer, in the answer's memory, which nothing else may use.
    pub fn add(&self, answer: &Tensor) -> Result<Tensor> {
        ops::add_scaled(self.x, answer, self.factor)
    }
}
