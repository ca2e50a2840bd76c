//! Where the model runs.

use candle_core::Device;

/// The first CUDA device where this build has CUDA support and the machine has a device, unless `force_cpu` is set;
/// else the CPU. Logs the choice.
pub fn choose(force_cpu: bool) -> Device {
    if !cfg!(feature = "cuda") {
        tracing::info!("Using CPU (CUDA feature not enabled)");
    } else if force_cpu {
        tracing::info!("Using CPU (--cpu)");
    } else {
        match Device::new_cuda(0) {
            Ok(device) => {
                tracing::info!("Using CUDA device 0");
                return device;
            }
            Err(error) => tracing::info!("Using CPU (no CUDA device: {error})"),
        }
    }
    Device::Cpu
}
