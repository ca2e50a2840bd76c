//! Where models are tested.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::sync::OnceLock;

use blazr::model::device::{Place, choose};
use candle_core::Device;

static GPU: OnceLock<Option<Device>> = OnceLock::new();

/// The first GPU, where this build and this machine have one; else a line on standard error says why not, and with
/// `TEST_ON_GPU=1` tests fail.
#[allow(clippy::explicit_write)] // what eprintln! writes is hidden where a test passes
pub fn gpu() -> Option<Device> {
    let find = || match choose(Some(Place::Cuda(0))) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("TEST_ON_GPU").is_some() => panic!("{error}"),
        Err(error) => {
            writeln!(std::io::stderr(), "NOT TESTED ON A GPU: {error}").unwrap();
            None
        }
    };
    GPU.get_or_init(find).clone()
}
