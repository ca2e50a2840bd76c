//! Where models are tested.
#![allow(unreachable_pub, clippy::unwrap_used)]

use blazr::model::device::{Place, choose};
use candle_core::Device;

/// The first GPU, where this build and this machine have one; else it is told that there is none.
pub fn gpu() -> Option<Device> {
    choose(Some(Place::Cuda(0))).inspect_err(|error| println!("NOT TESTED ON A GPU: {error}")).ok()
}
