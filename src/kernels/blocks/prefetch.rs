//! Software prefetch for the kernels of x86.

#![allow(unsafe_code)]

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// How far ahead: more than the latency of memory at the bandwidth of a core, less than its share of L2.
const DISTANCE_BYTES: usize = 8 << 10;
const LINE_BYTES: usize = 64;

/// Asks for as many bytes as `now` has, [`DISTANCE_BYTES`] after it.
#[inline(always)]
pub(super) fn after<T>(now: &T) {
    let ahead = std::ptr::from_ref(now).wrapping_byte_add(DISTANCE_BYTES);
    for line in (0..size_of::<T>()).step_by(LINE_BYTES) {
        // SAFETY: prefetching is a hint that never faults, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_byte_add(line).cast()) }
    }
}
