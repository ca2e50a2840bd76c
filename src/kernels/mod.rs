//! The inner loops, over plain slices: safe to call, no tensors.
//!
//! In reading order: [`isa`] says what the machine can do and compiles loops for each level of it, `lanes` are the
//! vectors of each level; [`pool`] shares work among threads; [`matrix`] holds weights in [`memory`], as [`panels`] or
//! [`blocks`], and multiplies them with activations: one row by [`row`], many laid out by [`left`] for `amx` or `dot`
//! (AVX-512 BF16), or in f32 by [`gemm`], those of heads with matrices of their own by [`per_head`]; [`mamba2`],
//! [`attention`] over [`pages`], [`rope`] and [`rows`] are what happens between those products, with the functions of
//! [`math`]; what lives for a moment is [`scratch`]. `cuda` has all of it that GPUs do; of their logits a token comes back
//! that they [`draw`], or a [`shortlist`].

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod blocks;
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
pub mod cuda;
#[cfg(target_arch = "x86_64")]
mod dot;
pub mod draw;
pub mod gemm;
pub mod isa;
mod lanes;
pub mod left;
pub mod mamba2;
pub mod math;
pub mod matrix;
pub mod memory;
pub mod pages;
pub mod panels;
pub mod per_head;
pub mod pool;
pub mod rope;
pub mod row;
pub mod rows;
pub mod scratch;
pub mod shortlist;

/// How many independent sums an inner product keeps, so that additions overlap and fill vector registers.
const LANES: usize = 16;
