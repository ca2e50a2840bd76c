//! Kernels for NVIDIA GPUs, written in CUDA C++ beside this file, as launches: which kernel, on which grid, with what.
//!
//! A launch is plain data. On a device `model::ops` hands it to the driver; the tests hand it to an emulator
//! (`emulator.h`, feature `cuda-emulator`), which runs the same sources on the host, so that what a kernel computes, and
//! how it is launched, is held to the kernels of the CPU where there is no device.
//!
//! Beside each source (`mamba2.cu`) is the file that launches what is in it (`mamba2.rs`). Addresses are those of the device's
//! memory: a launch is as safe as they are true.

mod attention;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) mod emulator;
mod launch;
mod mamba2;
mod moe;
mod products;
mod rows;
mod sampling;
#[cfg(all(test, feature = "cuda-emulator"))]
mod tests;
mod visits;

pub use self::attention::{Attend, Heads, causal_softmax};
pub use self::launch::{Address, Launch};
pub use self::mamba2::{Mamba2, Mamba2Run};
pub use self::moe::{Experts, ExpertsRun, Routing, Table};
pub use self::products::{After, Norm, Weights, gated};
pub use self::rows::{add_to_scaled, rms_norm, rotate, swiglu};
pub use self::sampling::Best;

/// The sources, each with the functions that it exports.
pub const MODULES: [Module; 7] = [
    Module {
        name: "products",
        functions: &[
            "row_times_float",
            "row_times_f16",
            "row_times_bf16",
            "columns_times_float",
            "columns_times_f16",
            "columns_times_bf16",
            "gated_float",
            "gated_f16",
            "gated_bf16",
        ],
    },
    Module { name: "rows", functions: &["rms_norm", "gate", "swiglu", "add_to_scaled", "rotate"] },
    Module {
        name: "mamba2",
        functions: &["convolve", "step", "scan_times", "scan_scores", "scan_gains", "scan_states", "scan_outputs"],
    },
    Module { name: "attention", functions: &["attend", "join", "causal_softmax"] },
    Module {
        name: "moe",
        functions: &[
            "choose",
            "chosen_row_times_float",
            "chosen_row_times_f16",
            "chosen_row_times_bf16",
            "chosen_gated_float",
            "chosen_gated_f16",
            "chosen_gated_bf16",
            "squared_relu",
            "weigh",
        ],
    },
    Module { name: "sampling", functions: &["survey", "set_floor", "list_best"] },
    Module {
        name: "visits",
        functions: &[
            "gather",
            "visits_gated_float",
            "visits_gated_f16",
            "visits_gated_bf16",
            "visits_gated_rounded",
            "visits_squared_float",
            "visits_squared_f16",
            "visits_squared_bf16",
            "visits_squared_rounded",
            "visits_times_float",
            "visits_times_f16",
            "visits_times_bf16",
            "visits_times_rounded",
        ],
    },
];

/// One source file.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// The kernels in it.
    pub functions: &'static [&'static str],
}
