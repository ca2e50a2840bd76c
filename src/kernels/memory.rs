//! Memory of weights: aligned for vectors, in huge pages where it is large.

use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// From here on memory is mapped by itself. An allocator has pages of its own for each size, and a model has many sizes.
const MAPPED: usize = 64 << 10;

/// From here on it is asked for in huge pages: reading weights in pages of 4 KiB is slower by a tenth.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes, aligned to 64.
#[derive(Debug)]
pub enum Memory {
    /// Of the allocator.
    Lines(Vec<Line>, usize),
    /// Of the system.
    Mapped(MmapMut),
}

/// What a vector register holds.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

#[allow(unsafe_code)]
// SAFETY: bytes without padding, of which any are valid.
unsafe impl bytemuck::Zeroable for Line {}

#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Vectors with at least so many bytes, all zero: of plain numbers, `bytemuck` makes them.
pub fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(size_of::<Line>())]
}

impl Memory {
    /// So many zeros; none where the machine can't have as many.
    pub fn zeroed(len: usize) -> Option<Self> {
        if len < MAPPED {
            let mut lines = Vec::new();
            lines.try_reserve_exact(len.div_ceil(size_of::<Line>())).ok()?;
            lines.resize(len.div_ceil(size_of::<Line>()), Line([0; 64]));
            return Some(Self::Lines(lines, len));
        }
        let mapped = MmapMut::map_anon(len).ok()?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE
            && let Err(error) = mapped.advise(Advice::HugePage)
        {
            tracing::debug!("no huge pages: {error}");
        }
        Some(Self::Mapped(mapped))
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lines(lines, len) => bytemuck::cast_slice(lines).get(..*len).unwrap_or_default(),
            Self::Mapped(mapped) => mapped,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Lines(lines, len) => bytemuck::cast_slice_mut(lines).get_mut(..*len).unwrap_or_default(),
            Self::Mapped(mapped) => mapped,
        }
    }
}
