//! Where the model runs.

use std::str::FromStr;

use candle_core::Device;

use crate::error::{Error, Result};

/// A device by its name: `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(u16),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = |number: &str| number.parse().ok();
        match name.split_once(':') {
            None if name == "cpu" => Some(Self::Cpu),
            None if name == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", ordinal)) => number(ordinal).map(Self::Cuda),
            _ => None,
        }
        .ok_or_else(|| "expected cpu, cuda or cuda:N".into())
    }
}

/// The device that is asked for; else the first CUDA device where this build has CUDA support and the machine has a
/// device that can be used, and the CPU where not. Logs the choice, as a warning where the CPU is taken and a device is there,
/// or may be.
///
/// # Errors
/// The device that is asked for is not there, or can't be used.
pub fn choose(asked: Option<Place>) -> Result<Device> {
    match asked {
        Some(Place::Cpu) => tracing::info!("Using CPU (as asked for)"),
        Some(Place::Cuda(ordinal)) => {
            let error = |lack: Lack| format!("{}; leave --device out to run on what there is", lack.of(ordinal));
            return cuda(ordinal).map_err(|lack| Error::Unsupported(error(lack)));
        }
        None if !cfg!(feature = "cuda") => tracing::info!("Using CPU (CUDA feature not enabled)"),
        None => match cuda(0) {
            Ok(device) => return Ok(device),
            Err(Lack { is_there: Some(false), reason }) => tracing::info!("Using CPU (no CUDA device: {reason})"),
            Err(lack) => tracing::warn!("Using CPU: {}", lack.of(0)),
        },
    }
    Ok(Device::Cpu)
}

/// Why a CUDA device is not to be had.
struct Lack {
    /// Whether the machine has it; none where its driver does not say.
    is_there: Option<bool>,
    reason: String,
}

impl Lack {
    /// The same of the device of this number.
    fn of(&self, ordinal: u16) -> String {
        let Self { is_there, reason } = self;
        match is_there {
            Some(true) => format!("CUDA device {ordinal} is there and can't be used: {reason}"),
            Some(false) => format!("there is no CUDA device {ordinal}: {reason}"),
            None => format!("CUDA device {ordinal} can't be used: {reason}"),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: u16) -> Result<Device, Lack> {
    use crate::kernels::cuda::driver;

    let lack = |error: Error| Lack { is_there: driver::has(ordinal.into()), reason: error.to_string() };
    let device = driver::open(ordinal.into()).map_err(lack)?;
    tracing::info!("Using CUDA device {ordinal}");
    Ok(Device::Cuda(device))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: u16) -> Result<Device, Lack> {
    Err(Lack { is_there: Some(false), reason: "this build has no CUDA support, which --features cuda adds".into() })
}

/// How many bytes are free on a device that has memory of its own.
///
/// # Errors
/// The driver's.
pub fn free_bytes(device: &Device) -> Result<Option<usize>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::kernels::cuda::driver::free_bytes(device).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let named = [("cpu", Place::Cpu), ("cuda", Place::Cuda(0)), ("cuda:3", Place::Cuda(3))];
        assert!(named.iter().all(|(name, place)| name.parse() == Ok(*place)));
        assert!(
            ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CUDA", "cuda:4294967296"]
                .iter()
                .all(|name| name.parse::<Place>().is_err())
        );
    }

    #[test]
    fn a_device_that_is_asked_for_and_is_not_there_is_an_error() {
        assert!(choose(Some(Place::Cpu)).is_ok_and(|device| device.is_cpu()));
        let told = choose(Some(Place::Cuda(97))).unwrap_err().to_string();
        assert!(told.starts_with("there is no CUDA device 97: "), "{told}");
    }

    #[test]
    fn a_device_that_is_there_and_fails_is_not_called_missing() {
        let of = |is_there| Lack { is_there, reason: "out of memory; free some".into() }.of(1);
        assert_eq!(of(Some(true)), "CUDA device 1 is there and can't be used: out of memory; free some");
        assert_eq!(of(None), "CUDA device 1 can't be used: out of memory; free some");
    }
}
