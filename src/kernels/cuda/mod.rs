//! Kernels for NVIDIA GPUs, written in CUDA C++ beside this file, as launches: which kernel, on which grid, with what.
//!
//! A launch is plain data. On a device `model::ops` hands it to the driver; the tests hand it to an emulator
//! (`emulator.h`, feature `cuda-emulator`), which runs the same sources on the host, so that what a kernel computes, and
//! how it is launched, is held to the kernels of the CPU where there is no device.
//!
//! Beside each source (`mamba2.cu`) is the file that launches what is in it (`mamba2.rs`). Addresses are those of the device's
//! memory: a launch is as safe as they are true.

mod attention;
mod blocks;
mod draws;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) mod emulator;
mod kernel;
mod launch;
mod mamba2;
mod moe;
mod products;
mod rows;
mod sampling;
#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) mod tests;
mod visits;

pub use self::attention::{Attend, Heads, causal_softmax};
pub use self::draws::Drawing;
pub use self::kernel::Kernel;
pub use self::launch::{Address, Launch};
pub use self::mamba2::{Mamba2, Mamba2Run};
pub use self::moe::{Experts, ExpertsRun, Routing, Table};
pub use self::products::{After, Norm, Weights, gated};
pub use self::rows::{add_to_scaled, rms_norm, rotate, swiglu};
pub use self::sampling::Best;

/// Types of weights, as kernels are named after them.
const BLOCKS: &[&str] = &["q8_0", "q4_k", "q5_k", "q6_k"];
const ALL: &[&str] = &["float", "f16", "bf16", "q8_0", "q4_k", "q5_k", "q6_k"];
const VISITED: &[&str] = &["float", "f16", "bf16", "rounded"];

/// The sources, each with the functions that it exports.
pub const MODULES: [Module; 9] = [
    Module { name: "products", functions: &[], families: &[("row_times", ALL), ("gated", ALL)] },
    Module { name: "blocks", functions: &[], families: &[("widen_to_float", BLOCKS), ("widen_to_bf16", BLOCKS)] },
    Module { name: "rows", functions: &["rms_norm", "gate", "swiglu", "add_to_scaled", "rotate"], families: &[] },
    Module {
        name: "mamba2",
        functions: &["convolve", "step", "scan_times", "scan_scores", "scan_gains", "scan_states", "scan_outputs"],
        families: &[],
    },
    Module { name: "attention", functions: &["attend", "join", "causal_softmax"], families: &[] },
    Module {
        name: "moe",
        functions: &["choose", "squared_relu", "weigh"],
        families: &[("chosen_row_times", ALL), ("chosen_gated", ALL)],
    },
    Module { name: "sampling", functions: &["survey", "set_floor", "list_best"], families: &[] },
    Module {
        name: "draws",
        functions: &["weigh_stretches", "draw_from_all", "draw_from_best", "draw_from_nucleus"],
        families: &[],
    },
    Module {
        name: "visits",
        functions: &["gather"],
        families: &[("visits_gated", VISITED), ("visits_squared", VISITED), ("visits_times", VISITED)],
    },
];

/// One source file.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// The kernels in it.
    pub functions: &'static [&'static str],
    /// Those that are there for several types of weights.
    pub families: &'static [(&'static str, &'static [&'static str])],
}

impl Module {
    /// The names of all kernels in it, in the order of their numbers.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let typed = |(family, types): &(&'static str, &'static [&'static str])| {
            let family = *family;
            types.iter().map(move |dtype| format!("{family}_{dtype}"))
        };
        self.functions.iter().map(ToString::to_string).chain(self.families.iter().flat_map(typed))
    }
}
