//! A vector of weights beside matrices: a norm's, a bias, multipliers.

use candle_core::Tensor;

use crate::error::Result;

/// One number for each column of rows, f32.
#[derive(Clone, Debug)]
pub struct Vector {
    tensor: Tensor,
    numbers: Vec<f32>,
}

impl Vector {
    /// The numbers of a tensor `[width]`.
    pub fn new(tensor: Tensor) -> Result<Self> {
        let numbers = if tensor.device().is_cpu() { tensor.to_vec1()? } else { Vec::new() };
        Ok(Self { tensor, numbers })
    }

    /// Where the device has them.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The same in memory, without a tensor's way to it, which is several cache misses long; on a GPU nothing.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }
}
