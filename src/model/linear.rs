//! One linear layer for every storage type.

use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;

use candle_core::Tensor;

use super::{ops, weights::Weights};
use crate::error::Result;
use crate::kernels::matrix::{Matrix, Precision};

/// A matrix of weights [out, in], where the device wants it.
#[derive(Clone, Debug)]
pub enum Weight {
    /// In panels for the CPU's kernels.
    Packed(Arc<Matrix>),
    /// A tensor in its storage type.
    Tensor(Tensor),
}

impl Weight {
    /// The bytes that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Tensor(tensor) => tensor_bytes(tensor),
        }
    }
}

/// The bytes that a tensor takes.
pub(super) fn tensor_bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

/// The bytes of a model's matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// All that are held.
    pub held: usize,
    /// Those that one token reads: of experts, only the ones that it visits.
    pub read: usize,
}

impl WeightBytes {
    /// Of matrices that every token reads.
    pub(super) fn whole(bytes: usize) -> Self {
        Self { held: bytes, read: bytes }
    }
}

impl Add for WeightBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { held: self.held + other.held, read: self.read + other.read }
    }
}

impl Sum for WeightBytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// `y = x · Wᵀ + b`, with a bias where the checkpoint has one.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>, // [out], f32
    precision: Precision,
}

impl Linear {
    /// Loads `weight` [n_out, n_in] and, where it is there, `bias` `[n_out]`.
    pub fn load(weights: &Weights<'_>, n_in: usize, n_out: usize) -> Result<Self> {
        let weight = weights.matrix("weight", n_out, n_in)?;
        Ok(Self { bias: weights.get_f32_if_present("bias", &[n_out])?, ..Self::new(weight, weights.precision()) })
    }

    /// A layer without a bias on a weight [out, in] that is already loaded.
    pub fn new(weight: Weight, precision: Precision) -> Self {
        Self { weight, bias: None, precision }
    }

    /// The bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `x` [tokens, in] -> [tokens, out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_as(x, self.precision)
    }

    /// The same, where several rows are multiplied exactly: one row is rounded to 16 bits at most.
    pub fn forward_exactly(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_as(x, if x.dim(0)? == 1 { self.precision } else { Precision::Exact })
    }

    fn forward_as(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, precision)?;
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}
