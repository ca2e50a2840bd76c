//! Slices shared out among all threads, in regions of one stage.

use std::sync::{Mutex, PoisonError};

use super::rows::{Rows, SharedMut, Slice};
use super::stage::{Filling, Parts};
use super::{region, run};

/// Has `work` fill rows, of which at least `least` are a part, on all threads of the pool that is installed here. Each thread
/// that takes part is given all its parts at once.
pub fn fill<R: Rows>(rows: (R, usize), work: impl Fn(&mut Parts<'_, '_, R>) + Sync) -> R::Filled {
    let rows = Filling::new(rows);
    region(&[&rows.by(work)]);
    rows.filled()
}

/// Splits `rows` of `width` numbers each into ranges of at least `least`, and calls `work` with the number of the first row and the
/// rows. A last row may have fewer numbers.
pub fn split_rows<T: Send + Sync>(rows: &mut [T], width: usize, least: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    fill((Slice::new(rows, width), least), |parts| parts.for_each(|(first, rows)| work(first, rows)));
}

/// Calls `work` with each chunk of `size` items, the last may have fewer, and its number.
pub fn chunks<T: Send + Sync>(items: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let items = SharedMut::new(items);
    run(items.len().div_ceil(size), |part| work(part, items.rows(&(part..part + 1), size)));
}

/// The chunks of a slice, each of which one part may take.
#[derive(Debug)]
pub struct Chunks<'a, T>(Vec<Mutex<Option<&'a mut [T]>>>);

impl<'a, T> Chunks<'a, T> {
    /// Chunks of `size` items; the last may have fewer.
    pub fn new(items: &'a mut [T], size: usize) -> Self {
        Self(items.chunks_mut(size.max(1)).map(|chunk| Mutex::new(Some(chunk))).collect())
    }

    /// The chunk of this number, for whoever asks first.
    pub fn take(&self, chunk: usize) -> Option<&'a mut [T]> {
        self.0.get(chunk)?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::super::Pool;
    use super::*;

    #[test]
    fn what_a_slow_thread_has_not_taken_others_do() {
        let pool = Pool::new(2).unwrap();
        let (mut hits, done) = (vec![0u8; 1000], AtomicUsize::new(0));
        pool.install(|| {
            split_rows(&mut hits, 1, 1, |first, hits| {
                let started = std::time::Instant::now();
                while first == 0 && done.load(Ordering::Relaxed) + hits.len() < 1000 {
                    assert!(started.elapsed().as_secs() < 60, "nobody does what the first thread has left");
                    thread::yield_now();
                }
                hits.iter_mut().for_each(|hit| *hit += 1);
                done.fetch_add(hits.len(), Ordering::Relaxed);
            });
        });
        assert!(hits.iter().all(|hit| *hit == 1));
    }

    #[test]
    fn rows_are_split_whole() {
        let pool = Pool::new(2).unwrap();
        let mut rows = vec![0; 7 * 5];
        pool.install(|| {
            split_rows(&mut rows, 5, 2, |first, rows| {
                rows.chunks_mut(5).enumerate().for_each(|(row, items)| items.fill(first + row));
            });
        });
        assert!(rows.chunks(5).enumerate().all(|(row, items)| items.iter().all(|item| *item == row)));
    }
}
