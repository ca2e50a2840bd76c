//! The inner loops of decoding, over plain slices: safe to call, no tensors, no allocation but that of
//! [`blocks::Activations`].
//!
//! [`matvec`] multiplies one row of activations with a weight matrix of any storage type, [`blocks`] with one of
//! quantized blocks, [`mamba2`] advances the recurrent state by one token. Products of many rows are candle's; see
//! `model::ops` for which is used when.

pub mod blocks;
pub mod mamba2;
pub mod matvec;

/// Below this many multiply-adds a loop stays on the calling thread: handing work over costs microseconds.
const PARALLEL_WORK: usize = 1 << 16;

/// How many independent sums an inner product keeps, so that additions overlap and fill vector registers.
const LANES: usize = 16;
