//! One linear layer for every storage type.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;

use candle_core::Tensor;

use super::input::{Input, Residual};
use super::vector::Vector;
use super::{ops, weights::Weights};
use crate::error::{Error, Result};
use crate::kernels::matrix::{Matrix, Precision, WeightType};
use crate::kernels::row::Product;

/// A matrix of weights [out, in], where the device wants it.
#[derive(Clone, Debug)]
pub enum Weight {
    /// In panels for the CPU's kernels.
    Packed(Arc<Matrix>),
    /// Blocks in a GPU's memory.
    Blocks(ops::Blocks),
    /// A tensor in its storage type.
    Tensor(Tensor),
}

impl Weight {
    /// The matrix, where it is in panels.
    pub(super) fn packed(&self) -> Option<&Matrix> {
        match self {
            Self::Packed(matrix) => Some(matrix),
            Self::Blocks(_) | Self::Tensor(_) => None,
        }
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> WeightType {
        match self {
            Self::Packed(matrix) => matrix.dtype(),
            Self::Blocks(blocks) => blocks.dtype(),
            Self::Tensor(tensor) => ops::weight_type(tensor.dtype()),
        }
    }

    /// The bytes that it takes, all of which a token reads.
    pub fn bytes(&self) -> WeightBytes {
        match self {
            Self::Packed(matrix) => WeightBytes::of_matrix(matrix),
            Self::Blocks(blocks) => WeightBytes::of(blocks.dtype().name(), blocks.bytes()),
            Self::Tensor(tensor) => WeightBytes::of_tensor(tensor),
        }
    }
}

/// The bytes of a model's matrices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// All that are held, of each type.
    pub held: BTreeMap<&'static str, usize>,
    /// Those that one token reads: of experts, only the ones that it visits.
    pub read: usize,
}

impl WeightBytes {
    fn of(dtype: &'static str, bytes: usize) -> Self {
        Self { held: BTreeMap::from([(dtype, bytes)]), read: bytes }
    }

    /// Of a tensor that every token reads.
    pub(super) fn of_tensor(tensor: &Tensor) -> Self {
        Self::of(tensor.dtype().as_str(), tensor.elem_count() * tensor.dtype().size_in_bytes())
    }

    /// Of a matrix that every token reads.
    pub(super) fn of_matrix(matrix: &Matrix) -> Self {
        Self::of(matrix.dtype().name(), matrix.bytes())
    }

    /// The same where a token reads so many of them.
    pub(super) fn reading(self, read: usize) -> Self {
        Self { read, ..self }
    }

    /// All that are held.
    pub fn total(&self) -> usize {
        self.held.values().sum()
    }

    /// The type that most of them have.
    pub fn most(&self) -> Option<&'static str> {
        self.held.iter().max_by_key(|(_, bytes)| **bytes).map(|(dtype, _)| *dtype)
    }
}

impl Add for WeightBytes {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (dtype, bytes) in other.held {
            *self.held.entry(dtype).or_default() += bytes;
        }
        Self { read: self.read + other.read, ..self }
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
    bias: Option<Vector>, // [out]
    precision: Precision,
}

impl Linear {
    /// Loads `weight` [n_out, n_in] and, where it is there, `bias` `[n_out]`.
    pub fn load(weights: &Weights<'_>, n_in: usize, n_out: usize) -> Result<Self> {
        let weight = weights.matrix("weight", n_out, n_in)?;
        let bias = weights.get_f32_if_present("bias", &[n_out])?.map(Vector::new).transpose()?;
        Ok(Self { bias, ..Self::new(weight, weights.precision()) })
    }

    /// A layer without a bias on a weight [out, in] that is already loaded.
    pub fn new(weight: Weight, precision: Precision) -> Self {
        Self { weight, bias: None, precision }
    }

    /// The bytes that the weights take.
    pub fn bytes(&self) -> WeightBytes {
        self.weight.bytes()
    }

    /// The weight, where there is no bias.
    #[cfg(feature = "cuda")]
    pub(super) fn only_weight(&self) -> Option<&Weight> {
        self.bias.is_none().then_some(&self.weight)
    }

    /// `x` [tokens, in] -> [tokens, out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.of(&x.into())
    }

    /// The same of what may have a norm before it.
    pub fn of(&self, input: &Input<'_>) -> Result<Tensor> {
        self.product(input, self.precision, None)
    }

    /// The same, where several rows are multiplied exactly: one row is rounded to 16 bits at most.
    pub fn exactly_of(&self, input: &Input<'_>) -> Result<Tensor> {
        let precision = if input.rows.dim(0)? == 1 { self.precision } else { Precision::Exact };
        self.product(input, precision, None)
    }

    /// The same, added to a residual.
    pub fn onto(&self, residual: Residual<'_>, input: &Input<'_>) -> Result<Tensor> {
        self.product(input, self.precision, Some(residual))
    }

    /// The product for the CPU's kernels of one row.
    pub(super) fn of_row(&self) -> Result<Product<'_>> {
        let other = || Error::Internal("a row on the CPU met weights that its kernels don't take".into());
        let matrix = self.weight.packed().ok_or_else(other)?;
        Ok(Product { bias: self.bias.as_ref().map(Vector::numbers), ..Product::plain(matrix, self.precision) })
    }

    /// What [`Linear::of`] of each of `layers` gives for the same input.
    pub fn all_of<const N: usize>(layers: [&Self; N], input: &Input<'_>) -> Result<[Tensor; N]> {
        if input.rows.device().is_cpu() {
            return ops::all_products(input, ops::each(layers, Self::of_row)?);
        }
        ops::each(layers, |layer| layer.of(input))
    }

    /// `silu(gate(x) · factor) · up(x)`.
    pub fn gated(gate: &Self, factor: f64, up: &Self, input: &Input<'_>) -> Result<Tensor> {
        if gate.bias.is_none()
            && up.bias.is_none()
            && let Some(y) = ops::gated_row(input, &gate.weight, factor, &up.weight)?
        {
            return Ok(y);
        }
        let [gate, up] = Self::all_of([gate, up], input)?;
        ops::swiglu(&gate, factor, &up)
    }

    fn product(&self, input: &Input<'_>, precision: Precision, residual: Option<Residual<'_>>) -> Result<Tensor> {
        if let Some(y) = ops::row_times(input, &self.weight, precision, self.bias.as_ref(), residual)? {
            return Ok(y);
        }
        let y = ops::linear(&input.rows()?, &self.weight, precision)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias.tensor())?,
            None => y,
        };
        match residual {
            Some(residual) => residual.add(&y),
            None => Ok(y),
        }
    }
}
