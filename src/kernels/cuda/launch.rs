//! A launch as plain data.

use super::draws::Weighing;
use super::kernel::Kernel;
use super::mamba2::Convolution;
use super::moe::Routing;
use super::products::{After, Norm};
use super::visits::Visits;

/// An address in the device's memory; zero is none.
pub type Address = u64;

pub(super) const WARP: usize = 32;
/// Threads of a block where each has one number, or each warp a row.
pub(super) const BLOCK: usize = 128;
/// Threads of a block that has a row to itself.
pub(super) const ROW_BLOCK: usize = 256;

/// A kernel with all that it takes.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The function.
    pub kernel: Kernel,
    /// How many blocks there are, in three directions.
    pub grid: [u32; 3],
    /// How many threads a block has.
    pub block: u32,
    /// The bytes of memory that a block's threads share.
    pub shared: u32,
    arguments: Vec<Argument>,
}

/// What kernels take, as it lies in memory.
macro_rules! kinds {
    ($($kind:ident($type:ty)),* $(,)?) => {
        #[derive(Clone, Debug)]
        pub(super) enum Argument {
            $($kind($type)),*
        }

        impl Argument {
            fn address(&self) -> *const std::ffi::c_void {
                match self {
                    $(Self::$kind(value) => std::ptr::from_ref(value).cast()),*
                }
            }
        }

        $(impl From<$type> for Argument {
            fn from(value: $type) -> Self {
                Self::$kind(value)
            }
        })*
    };
}

kinds! {
    U32(u32),
    U64(Address),
    F32(f32),
    F64(f64),
    Sizes([u32; 5]),
    Strides([u64; 2]),
    Routing(Routing),
    Norm(Norm),
    After(After),
    Convolution(Convolution),
    Visits(Visits),
    Weighing(Weighing),
}

macro_rules! arguments {
    ($($value:expr),* $(,)?) => { vec![$(crate::kernels::cuda::launch::Argument::from($value)),*] };
}

pub(super) use arguments;

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::U32(narrow(value))
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::U32(value.into())
    }
}

/// Sizes of tensors that are in memory are far below 2^32; one that were not would do nothing on the largest grid.
pub(super) fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Launch {
    pub(super) fn new(kernel: Kernel, grid: [usize; 3], block: usize, shared: usize, arguments: Vec<Argument>) -> Self {
        Self { kernel, grid: grid.map(narrow), block: narrow(block), shared: narrow(shared), arguments }
    }

    /// Where each argument lies, as the driver wants it: good as long as this launch.
    pub fn arguments(&self) -> Vec<*mut std::ffi::c_void> {
        self.arguments.iter().map(|argument| argument.address().cast_mut()).collect()
    }
}

/// The kernel of a family for weights of this type, which it need not have.
macro_rules! typed {
    ($dtype:expr, $family:literal) => {{
        use crate::kernels::cuda::kernel::{is_family, named};
        const { assert!(is_family($family), "there is no family of this name") };
        match $dtype {
            WeightType::F32 => named!(concat!($family, "_float")),
            WeightType::F16 => named!(concat!($family, "_f16")),
            WeightType::Bf16 => named!(concat!($family, "_bf16")),
            WeightType::Blocks(Format::Q8_0) => named!(concat!($family, "_q8_0")),
            WeightType::Blocks(Format::Q4K) => named!(concat!($family, "_q4_k")),
            WeightType::Blocks(Format::Q5K) => named!(concat!($family, "_q5_k")),
            WeightType::Blocks(Format::Q6K) => named!(concat!($family, "_q6_k")),
        }
    }};
}

pub(super) use typed;

/// A number for each warp of a row's block, in bytes.
pub(super) fn room_of_a_row() -> usize {
    ROW_BLOCK / WARP * size_of::<f32>()
}

/// Where parts of so many bytes lie, one after the other.
pub(super) fn places<const N: usize>(room: Address, bytes: [usize; N]) -> [Address; N] {
    let mut end = room;
    bytes.map(|bytes| {
        end += bytes as Address;
        end - bytes as Address
    })
}
