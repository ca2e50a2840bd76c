//! Numbers that live for a moment, in memory that their thread keeps for the next ones: an allocator looks long for more
//! than a kilobyte.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A thread keeps the memory of so many.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that live for a moment.
#[derive(Debug)]
pub struct Scratch {
    memory: Vec<f32>,
    count: usize,
}

impl Scratch {
    /// So many numbers, which are yet to be written.
    pub fn new(count: usize) -> Self {
        let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < count {
            memory.resize(count, 0.0);
        }
        let mut scratch = Self { memory, count };
        if cfg!(debug_assertions) {
            // What nobody writes shows in tests.
            scratch.fill(f32::NAN);
        }
        scratch
    }

    /// So many zeros.
    pub fn zeros(count: usize) -> Self {
        let mut scratch = Self::new(count);
        scratch.fill(0.0);
        scratch
    }

    /// The same numbers as `x`.
    pub fn copy(x: &[f32]) -> Self {
        let mut scratch = Self::new(x.len());
        scratch.copy_from_slice(x);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.memory.get(..self.count).unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.memory.get_mut(..self.count).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // A thread that ends keeps nothing any more.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(memory);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_serves_again_and_nothing_of_it_is_seen() {
        let (first, second) = (Scratch::copy(&[1.0; 100]), Scratch::zeros(3));
        let place = first.as_ptr();
        drop(first);
        let zeros = Scratch::zeros(50);
        assert_eq!((zeros.as_ptr(), &*zeros), (place, &[0.0; 50][..]));
        assert_eq!((&*Scratch::copy(&[2.0; 200]), &*second), (&[2.0; 200][..], &[0.0; 3][..]));
    }

    #[test]
    fn a_thread_keeps_the_memory_of_few() {
        drop((0..3 * KEPT).map(|_| Scratch::zeros(5)).collect::<Vec<_>>());
        assert_eq!(FREE.with_borrow(Vec::len), KEPT);
        let others = Scratch::zeros(5);
        std::thread::spawn(|| drop(others)).join().unwrap();
        assert_eq!(FREE.with_borrow(Vec::len), KEPT - 1);
    }
}
