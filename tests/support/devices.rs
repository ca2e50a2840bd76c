//! Where models are tested.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::sync::OnceLock;

use blazr::model::device::{Place, choose};
use candle_core::Device;

static GPU: OnceLock<Option<Device>> = OnceLock::new();

/// The first GPU, where this build and this machine have one; else a line on standard error says why not, and with
/// `BLAZR_TEST_GPU=1` tests fail.
pub fn gpu() -> Option<Device> {
    let find = || match choose(Some(Place::Cuda(0))) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("BLAZR_TEST_GPU").is_some() => panic!("{error}"),
        Err(error) => {
            writeln!(std::io::stderr(), "NOT TESTED ON A GPU: {error}").unwrap(); // which no test's output hides
            None
        }
    };
    GPU.get_or_init(find).clone()
}
