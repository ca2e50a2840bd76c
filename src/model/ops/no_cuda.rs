//! What a build without GPUs has in place of what is faster there: nothing.
#![allow(clippy::unnecessary_wraps, missing_docs)]

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::kernels::draw::{Draw, Drawn};
use crate::kernels::matrix::{Precision, WeightType};
use crate::kernels::shortlist::Shortlist;
use crate::model::input::{Input, Residual};
use crate::model::linear::Weight;
use crate::model::mlp::Mlp;
use crate::model::moe::Routing;

pub fn draw(_: &Tensor, _: Draw) -> Result<Option<Drawn>> {
    Ok(None)
}

pub fn shortlist(_: &Tensor, _: usize) -> Result<Option<Shortlist>> {
    Ok(None)
}

pub(super) fn linear(_: &Tensor, _: &Tensor, _: Precision) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn row_times(
    _: &Input<'_>,
    _: &Weight,
    _: Option<&Tensor>,
    _: Option<Residual<'_>>,
) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn gated_row(_: &Input<'_>, _: &Weight, _: f32, _: &Weight) -> Result<Option<Tensor>> {
    Ok(None)
}

#[derive(Debug)]
pub enum Experts {}

impl Experts {
    pub(in crate::model) fn new(_: &[Mlp], _: &Routing, _: &[f32], _: (&Device, Precision)) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(in crate::model) fn forward(&self, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub enum Blocks {}

impl Blocks {
    pub fn dtype(&self) -> WeightType {
        match *self {}
    }

    pub fn n_out(&self) -> usize {
        match *self {}
    }

    pub fn n_in(&self) -> usize {
        match *self {}
    }

    pub fn bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn widened(&self, _: Range<usize>, _: Precision) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn embed(&self, _: &[u32]) -> Result<Tensor> {
        match *self {}
    }
}
