//! Weights on their way into the caches while threads wait. What one thread does alone between two products, and the end
//! of a region, would leave the memory idle.
//!
//! A token meets the matrices in the order in which the token before it met them: what comes after one is what came
//! after it the last time. A wrong guess costs what was fetched.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::isa::{LINE, prefetch_line};

/// At most so many bytes are fetched of what comes next: two cores' own caches hold about as many.
const MOST: usize = 1 << 20;

/// So many bytes are fetched before a thread looks for work again: some hundred nanoseconds.
const STEP: usize = 4 << 10;

/// What is read next, as addresses that nobody reads from: memory that is gone meanwhile does no harm.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Ahead {
    start: AtomicUsize,
    end: AtomicUsize,
    order: Mutex<Order>,
}

#[derive(Debug, Default)]
struct Order {
    last: usize,
    after: HashMap<usize, Range<usize>>,
}

impl Ahead {
    /// All of `memory` is about to be read.
    pub(super) fn reads(&self, memory: &[u8]) {
        let start = memory.as_ptr().addr();
        let next =
            self.order.lock().unwrap_or_else(PoisonError::into_inner).then(start..start + memory.len().min(MOST));
        self.start.store(next.start, Ordering::Relaxed);
        self.end.store(next.end, Ordering::Relaxed);
    }

    /// Fetches a little of what is read next; tells whether there was something left.
    pub(super) fn fetch_some(&self) -> bool {
        let end = self.end.load(Ordering::Relaxed);
        if self.start.load(Ordering::Relaxed) >= end {
            return false;
        }
        let start = self.start.fetch_add(STEP, Ordering::Relaxed);
        for line in (start..end.min(start + STEP)).step_by(LINE) {
            prefetch_line(line);
        }
        true
    }
}

impl Order {
    /// Notes that `memory` comes now; returns what came after it the last time.
    fn then(&mut self, memory: Range<usize>) -> Range<usize> {
        let now = memory.start;
        self.after.insert(std::mem::replace(&mut self.last, now), memory);
        self.after.get(&now).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_next_is_fetched_once_and_no_more_than_the_caches_hold() {
        let (ahead, memory) = (Ahead::default(), vec![0; 4 * MOST]);
        let (small, large) = memory.split_at(3 * STEP + 1);
        ahead.reads(small);
        assert!(!ahead.fetch_some(), "nothing is known yet");
        ahead.reads(large);
        ahead.reads(small);
        assert_eq!((0..).take_while(|_| ahead.fetch_some()).count(), MOST / STEP);
        ahead.reads(large);
        assert_eq!((0..).take_while(|_| ahead.fetch_some()).count(), 4);
    }
}
