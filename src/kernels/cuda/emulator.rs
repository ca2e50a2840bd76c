//! Launches on the host, for tests.

use std::ffi::{CString, c_char, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use super::{Address, Launch};

#[allow(unsafe_code)]
// SAFETY: `emulate.cpp` defines it so.
unsafe extern "C" {
    fn blazr_emulate(
        name: *const c_char,
        grid: *const c_uint,
        block: c_uint,
        shared: c_uint,
        arguments: *mut *mut c_void,
        count: usize,
    ) -> bool;
}

/// There is one emulator.
static EMULATOR: Mutex<()> = Mutex::new(());

/// Runs launches one after the other.
pub(crate) fn run(launches: impl IntoIterator<Item = Launch>) {
    let _alone = EMULATOR.lock().unwrap_or_else(PoisonError::into_inner);
    for launch in launches {
        let (name, mut arguments) = (CString::new(launch.kernel.name).unwrap(), launch.arguments());
        let (place, count) = (arguments.as_mut_ptr(), arguments.len());
        #[allow(unsafe_code)]
        // SAFETY: the tests give addresses of slices as large as the kernels expect.
        let is_known =
            unsafe { blazr_emulate(name.as_ptr(), launch.grid.as_ptr(), launch.block, launch.shared, place, count) };
        assert!(is_known, "a kernel {} with {count} arguments", launch.kernel.name);
    }
}

/// Where it begins, to be read.
pub(crate) fn at<T>(slice: &[T]) -> Address {
    slice.as_ptr().addr() as Address
}

/// Where it begins, to be written.
pub(crate) fn at_mut<T>(slice: &mut [T]) -> Address {
    slice.as_mut_ptr().expose_provenance() as Address
}

/// Memory that begins at a multiple of 16 bytes, as a device's does.
pub(crate) fn room(bytes: usize) -> Vec<u128> {
    vec![u128::MAX; bytes.div_ceil(16)]
}

/// The same numbers, beginning at a multiple of 16 bytes.
pub(crate) fn aligned(numbers: &[f32]) -> Vec<u128> {
    let mut all = room(size_of_val(numbers));
    bytemuck::cast_slice_mut::<_, f32>(&mut all)[..numbers.len()].copy_from_slice(numbers);
    all
}
