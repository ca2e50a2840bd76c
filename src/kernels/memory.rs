//! Memory of weights: aligned for vectors, in huge pages.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{Advice, MmapMut, MmapRaw};

/// What a processor maps at once where it can. Reading weights in pages of 4 KiB is slower by a tenth.
const HUGE_PAGE: usize = 2 << 20;

/// So much is mapped at a time and given out piece by piece: a matrix is often smaller than a huge page. What nobody has
/// asked for yet takes addresses alone. Larger pieces than half of it are mapped by themselves.
const CHUNK: usize = 32 * HUGE_PAGE;

/// The chunk that pieces are taken from, as long as anybody has one, and how much of it is given out.
static CURRENT: Mutex<(Weak<MmapRaw>, usize)> = Mutex::new((Weak::new(), 0));

/// Zeroed bytes, aligned to 64. They go back to the system with the others of their chunk.
#[derive(Debug)]
pub struct Memory {
    chunk: Arc<MmapRaw>,
    /// Which bytes of the chunk: nobody else has them.
    range: Range<usize>,
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
        let room = len.checked_next_multiple_of(size_of::<Line>())?;
        if room > CHUNK / 2 {
            return Some(Self { chunk: Arc::new(mapped(room)?), range: 0..len });
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, given) = &mut *current;
        let fitting = chunk.upgrade().filter(|chunk| chunk.len() - *given >= room);
        let own = match fitting {
            Some(chunk) => chunk,
            None => {
                let fresh = Arc::new(mapped(CHUNK).or_else(|| mapped(room))?);
                (*chunk, *given) = (Arc::downgrade(&fresh), 0);
                fresh
            }
        };
        let start = *given;
        *given += room;
        Some(Self { chunk: own, range: start..start + len })
    }
}

/// Zeros of the system.
fn mapped(len: usize) -> Option<MmapRaw> {
    let mapped = MmapMut::map_anon(len.checked_next_multiple_of(HUGE_PAGE)?).ok()?;
    #[cfg(target_os = "linux")]
    if let Err(error) = mapped.advise(Advice::HugePage) {
        tracing::debug!("no huge pages: {error}");
    }
    Some(mapped.into())
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        #[allow(unsafe_code)]
        // SAFETY: the bytes lie in the chunk, which lives as long, and are this one's alone.
        unsafe {
            std::slice::from_raw_parts(self.chunk.as_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        #[allow(unsafe_code)]
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_mut_ptr().add(self.range.start), self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeros_that_share_nothing() {
        let lens = [0, 1, 63, 64, 65, 5000, CHUNK / 2, CHUNK + 1, CHUNK / 2 - 4096, 7];
        let mut pieces: Vec<Memory> = lens.iter().map(|len| Memory::zeroed(*len).unwrap()).collect();
        for (at, (piece, len)) in (1..).zip(pieces.iter_mut().zip(lens)) {
            assert_eq!((piece.len(), piece.as_ptr().align_offset(align_of::<Line>())), (len, 0));
            assert!(piece.iter().all(|byte| *byte == 0), "{len} bytes");
            piece.fill(at);
        }
        assert!((1..).zip(&pieces).all(|(at, piece)| piece.iter().all(|byte| *byte == at)));
    }

    #[test]
    fn memory_that_no_machine_has_is_none() {
        assert!(Memory::zeroed(usize::MAX).is_none() && Memory::zeroed(usize::MAX / 2).is_none());
    }
}
