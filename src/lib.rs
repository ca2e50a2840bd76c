//! blazr serves hybrid language models.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod checkpoint;
pub mod error;
pub mod kernels;
pub mod model;
