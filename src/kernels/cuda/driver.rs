//! Launches on a device, in the order of its one stream.

use std::sync::{Arc, OnceLock};

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{self, sys as blas};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUresult};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, DriverError, result,
};

use super::{Address, Kernel, Launch, MODULES};
use crate::error::{Error, Result};

/// Devices have numbers below this.
const MOST_DEVICES: usize = 64;

/// The kernels as the driver has them on each device, by their numbers.
static LOADED: [OnceLock<Vec<CudaFunction>>; MOST_DEVICES] = [const { OnceLock::new() }; MOST_DEVICES];

/// All kernels on one device.
#[derive(Debug)]
pub struct Kernels<'a> {
    device: &'a CudaDevice,
    stream: Arc<CudaStream>,
    functions: &'static [CudaFunction],
}

impl<'a> Kernels<'a> {
    /// The kernels of a device: the driver compiles them when they are first asked for.
    ///
    /// # Errors
    /// The driver does not take them.
    pub fn of(device: &'a CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let ordinal = stream.context().ordinal();
        let too_high = || Error::Unsupported(format!("CUDA device {ordinal}: expected a number below {MOST_DEVICES}"));
        let place = LOADED.get(ordinal).ok_or_else(too_high)?;
        let functions = match place.get() {
            Some(functions) => functions,
            None => {
                let functions = load(&stream)?;
                place.get_or_init(|| functions)
            }
        };
        Ok(Self { device, stream, functions })
    }

    /// Hands launches to the device, which works on them in this order, and after all that it was handed before.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&self, launches: &[Launch]) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(failed)?;
        launches.iter().try_for_each(|launch| self.launch(launch))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let Kernel { name, number } = launch.kernel;
        let not_there = || Error::Internal(format!("there is no kernel {name}"));
        let function = self.functions.get(number).ok_or_else(not_there)?;
        let ([x, y, z], mut arguments) = (launch.grid, launch.arguments());
        #[allow(unsafe_code)]
        // SAFETY: the emulator's tests hold the arguments to what the kernel takes, and whoever made the launch gave
        // addresses of tensors that are as large as it says. They outlive the kernel: memory is freed on the same stream.
        let launched = unsafe {
            let (function, stream) = (function.cu_function(), self.stream.cu_stream());
            result::launch_kernel(function, (x, y, z), (launch.block, 1, 1), launch.shared, stream, &mut arguments)
        };
        launched.map_err(|error| Error::Internal(format!("kernel {name}: {error}")))
    }

    /// `x` `[rows, n_in]` times the transpose of `w` `[n_out, n_in]`, both bf16: `y` `[rows, n_out]`, f32.
    ///
    /// # Errors
    /// The library's.
    pub fn multiply_bf16(&self, (x, w, y): (Address, Address, Address), [rows, n_in, n_out]: [usize; 3]) -> Result<()> {
        let dtype = blas::cudaDataType::CUDA_R_16BF;
        let [rows, n_in, n_out] = [rows, n_in, n_out].map(|size| i32::try_from(size).unwrap_or(i32::MAX));
        let (one, zero) = (1.0f32, 0.0f32);
        self.stream.context().bind_to_thread().map_err(failed)?;
        #[allow(unsafe_code)]
        // SAFETY: the addresses are of tensors of these sizes. The library's matrices go column by column: to it, w is
        // [n_in, n_out], x is [n_in, rows] and y is [n_out, rows].
        let multiplied = unsafe {
            cublas::result::gemm_ex(
                *self.device.cublas_handle().handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                n_out,
                rows,
                n_in,
                std::ptr::from_ref(&one).cast(),
                w as *const _,
                dtype,
                n_in,
                x as *const _,
                dtype,
                n_in,
                std::ptr::from_ref(&zero).cast(),
                y as *mut _,
                blas::cudaDataType::CUDA_R_32F,
                n_out,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        multiplied.map_err(|error| Error::Internal(format!("a product on the device: {error}")))
    }
}

/// In the order of [`MODULES`], which numbers them.
fn load(stream: &CudaStream) -> Result<Vec<CudaFunction>> {
    let mut functions = Vec::new();
    for (module, ptx) in MODULES.iter().zip(SOURCES) {
        let loaded = stream.context().load_module(ptx.into()).map_err(unusable)?;
        for name in module.names() {
            functions.push(loaded.load_function(&name).map_err(failed)?);
        }
    }
    Ok(functions)
}

/// What `build.rs` has made of [`MODULES`].
const SOURCES: [&str; MODULES.len()] = [
    include_str!(concat!(env!("OUT_DIR"), "/products.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/blocks.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/mamba2.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/moe.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/sampling.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/draws.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/visits.ptx")),
];

/// Memory for so many numbers, with whatever is in it: for what a kernel writes before anybody reads it.
///
/// # Errors
/// The device has no more memory.
pub fn uninitialized<T: DeviceRepr>(device: &CudaDevice, count: usize) -> candle_core::Result<CudaSlice<T>> {
    #[allow(unsafe_code)]
    // SAFETY: any bits are a number.
    unsafe {
        device.alloc::<T>(count)
    }
}

/// The device of this number, with one stream for all that is done on it, in order, from whichever thread: nothing needs to
/// be told when something else has finished. Memory that is let go of stays with the process, for the next that asks.
///
/// # Errors
/// There is no such device, or no driver, or it doesn't take the kernels: it may be older than they are.
pub fn open(ordinal: usize) -> Result<CudaDevice> {
    let context = CudaContext::new(ordinal).map_err(unusable)?;
    let device = CudaDevice::new_with_stream(ordinal).map_err(|error| with_remedy(&error, LOOK))?;
    context.bind_to_thread().map_err(failed)?;
    let mut all = u64::MAX;
    #[allow(unsafe_code)]
    // SAFETY: no tensor is there yet, and there is one stream. The attribute is a number of 64 bits.
    unsafe {
        device.disable_event_tracking();
        // Some virtual devices have no such pool.
        if let Ok(pool) = result::device::get_default_mem_pool(context.cu_device()) {
            let kept = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, kept, (&raw mut all).cast()).map_err(failed)?;
        }
    }
    Kernels::of(&device)?;
    Ok(device)
}

/// Whether the driver has a device of this number; none where it does not say.
pub fn has(ordinal: usize) -> Option<bool> {
    match CudaContext::device_count() {
        Ok(count) => Some(usize::try_from(count).is_ok_and(|count| ordinal < count)),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_STUB_LIBRARY)) => Some(false),
        Err(_) => None,
    }
}

/// How many bytes of its memory are free.
///
/// # Errors
/// The driver's.
pub fn free_bytes(device: &CudaDevice) -> Result<usize> {
    Ok(device.cuda_stream().context().mem_get_info().map_err(failed)?.0)
}

/// What there is to do about errors that have no remedy of their own.
const LOOK: &str = "nvidia-smi tells how it is, and who has its memory";

/// The error of a device that can't be opened, with what there is to do.
fn unusable(error: DriverError) -> Error {
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another process has it to itself: end that one, or let several have it with nvidia-smi --compute-mode=0"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_PTX => {
            "build blazr with the CUDA_COMPUTE_CAP of this GPU, or a lower one"
        }
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "install a newer driver: nvidia-smi tells up to which CUDA it goes"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "restart the machine, or load the driver's module anew",
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => "nvidia-smi tells which there are",
        _ => LOOK,
    };
    with_remedy(&error, remedy)
}

fn with_remedy(error: &impl std::fmt::Display, remedy: &str) -> Error {
    Error::Unsupported(format!("{error}; {remedy}"))
}

fn failed(error: DriverError) -> Error {
    Error::Internal(format!("CUDA: {error}"))
}
