//! Weights of two bytes in panels, and one row times them.
//!
//! A panel holds 16 outputs: for each pair of inputs, the pair of weights of each output, `[pairs, 16, 2]`. A pair of
//! each of 16 outputs fills one vector, so that a product needs no sum across a vector, and this is also the order that
//! `vdpbf16ps` and the AMX tiles want.

use std::ops::Range;

use half::bf16;

use super::isa::Isa;

/// How many outputs a panel has.
pub const PANEL: usize = 16;
