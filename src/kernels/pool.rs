//! Parallel regions that cost less than a microsecond to enter: decoding a token enters hundreds.
//!
//! The thread that calls takes part in the work. Helpers wait on one word, first busily and then asleep, and everybody
//! takes the next part from that word; a helper that is late costs nothing, because the others take its parts. rayon's
//! regions cost several microseconds here, since its threads sleep between them.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// How many times a helper looks for work before it sleeps: some hundred microseconds, more than lies between two regions.
const PATIENCE: u32 = 20_000;

thread_local! {
    /// The pool that the regions of this thread use.
    static CURRENT: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// Threads that wait for parallel regions.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// How many parts of the region nobody has taken yet, and above them the number of the region.
    parts: Padded<AtomicU64>,
    /// How many parts of the region are done.
    done: Padded<AtomicUsize>,
    /// What a part does.
    work: AtomicPtr<Work<'static>>,
    /// Whether a region is being worked on: another one that begins meanwhile runs on its own thread alone.
    is_busy: AtomicBool,
    /// What the first part that panicked said.
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    sleepers: Mutex<Vec<Thread>>,
    /// Whether there are any: looked at without the lock.
    are_asleep: AtomicBool,
    is_over: AtomicBool,
    threads: usize,
}

/// Alone in its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// A region's work, by the number of the part, and how many parts there are.
struct Work<'a>(&'a (dyn Fn(usize) + Sync), usize);

impl Pool {
    /// A pool of so many threads, the calling one among them.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            parts: Padded::default(),
            done: Padded::default(),
            work: AtomicPtr::new(std::ptr::null_mut()),
            is_busy: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: Mutex::default(),
            are_asleep: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            threads: threads.max(1),
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for _ in 1..threads {
            let shared = Arc::clone(&pool.shared);
            pool.helpers.push(thread::Builder::new().name("compute".into()).spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// Runs `work`, whose parallel regions use this pool.
    pub fn install<R>(&self, work: impl FnOnce() -> R) -> R {
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(&self.shared))));
        work()
    }
}

/// Puts a thread's pool back, also after a panic.
struct Restore(Option<Arc<Shared>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.replace(self.0.take());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.shared.wake();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its parts: there is nothing to learn from it.
            let _ = helper.join();
        }
    }
}

/// How many threads share the regions of this thread.
pub fn threads() -> usize {
    CURRENT.with_borrow(|pool| pool.as_ref().map_or(1, |pool| pool.threads))
}

/// Calls `work` with each number below `parts`, on all threads of the pool that is installed here, and waits.
pub fn run(parts: usize, work: impl Fn(usize) + Sync) {
    if parts < 2 || threads() < 2 {
        return (0..parts).for_each(work);
    }
    // A region inside a part of this one runs on its thread alone.
    let pool = Restore(CURRENT.take());
    if let Some(shared) = &pool.0 {
        shared.run(parts, &work);
    }
}

/// Splits `0..count` into ranges of at least `least`, and calls `work` with each.
fn split(count: usize, least: usize, work: impl Fn(Range<usize>) + Sync) {
    let least = least.max(count.div_ceil(u32::MAX as usize)).max(1);
    if count <= least || threads() < 2 {
        return work(0..count);
    }
    let runs = Runs::new(count.div_ceil(least));
    run(runs.0.len(), |own| {
        while let Some(range) = runs.next(own) {
            work(range.start * least..count.min(range.end * least));
        }
    });
}

/// Splits `rows` of `width` numbers each into ranges of at least `least`, and calls `work` with the number of the first row and the
/// rows. A last row may have fewer numbers.
pub fn split_rows<T: Send + Sync>(rows: &mut [T], width: usize, least: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let rows = SharedMut::new(rows);
    split(rows.len.div_ceil(width.max(1)), least, |range| work(range.start, rows.rows(&range, width)));
}

/// As [`split_rows`] with the rows of several slices one after the other; `work` is told of which slice its rows are, too.
pub fn split_rows_of_all<T: Send + Sync>(
    all: &mut [&mut [T]],
    width: usize,
    least: usize,
    work: impl Fn(usize, usize, &mut [T]) + Sync,
) {
    let mut count = 0;
    let with_start = |rows| {
        let rows = SharedMut::new(rows);
        let start = count;
        count += rows.len.div_ceil(width.max(1));
        (rows, start..count)
    };
    let all: Vec<_> = all.iter_mut().map(|rows| &mut **rows).map(with_start).collect();
    split(count, least, |range| {
        for (which, (rows, own)) in all.iter().enumerate() {
            let (start, end) = (range.start.max(own.start), range.end.min(own.end));
            if start < end {
                let range = start - own.start..end - own.start;
                work(which, range.start, rows.rows(&range, width));
            }
        }
    });
}

/// As [`split_rows`] with rows of two slices, of which there are equally many.
pub fn split_rows_of_two<T: Send + Sync>(
    (first, first_width): (&mut [T], usize),
    (second, second_width): (&mut [T], usize),
    least: usize,
    work: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    let (first, second) = (SharedMut::new(first), SharedMut::new(second));
    split(first.len.div_ceil(first_width.max(1)), least, |range| {
        work(range.start, first.rows(&range, first_width), second.rows(&range, second_width));
    });
}

/// A run of pieces for each thread: what is left of it. A thread takes from the start of its own, so that it reads memory in
/// one stream and what it asks for ahead is its own; when that is done, from the end of another's.
struct Runs(Vec<Padded<AtomicU64>>);

/// Where pieces are taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

impl Runs {
    fn new(pieces: usize) -> Self {
        let runs = threads().min(pieces);
        let border = |run: usize| run * pieces / runs;
        Self((0..runs).map(|run| Padded(AtomicU64::new(packed(&(border(run)..border(run + 1)))))).collect())
    }

    /// What the thread that has the run `own` is to do next.
    fn next(&self, own: usize) -> Option<Range<usize>> {
        let first = self.0.get(own).and_then(|run| take(&run.0, Side::Start));
        first.or_else(|| self.0.iter().find_map(|run| take(&run.0, Side::End)))
    }
}

/// Takes half of what is left of a run: pieces get shorter, so that threads end together.
fn take(run: &AtomicU64, side: Side) -> Option<Range<usize>> {
    let mut taken = 0..0;
    let rest = |left: u64| {
        let left = unpacked(left);
        let half = left.len().div_ceil(2);
        let rest = match side {
            Side::Start => left.start + half..left.end,
            Side::End => left.start..left.end - half,
        };
        taken = if side == Side::Start { left.start..rest.start } else { rest.end..left.end };
        (!left.is_empty()).then(|| packed(&rest))
    };
    run.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok().map(|_| taken)
}

/// A range of numbers below 2³² in one word.
fn packed(range: &Range<usize>) -> u64 {
    (range.start as u64) << 32 | range.end as u64
}

fn unpacked(word: u64) -> Range<usize> {
    (word >> 32) as usize..word as u32 as usize
}

/// Calls `work` with each chunk of `size` items, the last may have fewer, and its number.
pub fn chunks<T: Send + Sync>(items: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let items = SharedMut::new(items);
    run(items.len.div_ceil(size), |part| work(part, items.rows(&(part..part + 1), size)));
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

/// Calls `work` with so many columns after the other of `rows` of `width` numbers each, and their number in this order.
pub fn columns<T: Send + Sync>(rows: &mut [T], width: usize, size: usize, work: impl Fn(usize, Columns<'_, T>) + Sync) {
    let (count, rows) = (rows.len() / width.max(1), SharedMut::new(rows));
    run(width.div_ceil(size), |part| {
        let (first, end) = (part * size, width.min((part + 1) * size));
        let start = rows.at(first);
        work(part, Columns { start, stride: width, width: end - first, rows: count, items: PhantomData });
    });
}

/// Some columns of rows of numbers, which nobody else reads or writes.
#[derive(Debug)]
pub struct Columns<'a, T> {
    start: *mut T,
    stride: usize,
    width: usize,
    rows: usize,
    items: PhantomData<&'a mut T>,
}

impl<T> Columns<'_, T> {
    /// How many columns there are.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns of one row.
    ///
    /// # Panics
    /// There are not as many rows.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        #[allow(unsafe_code)]
        // SAFETY: `columns` has made this of rows that have these columns, and of every column once.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride), self.width)
        }
    }
}

/// A slice that is shared by parts that write different items of it.
struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    items: PhantomData<&'a mut [T]>,
}

#[allow(unsafe_code)]
// SAFETY: parts that have it write different items.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    fn new(items: &'a mut [T]) -> Self {
        Self { start: items.as_mut_ptr(), len: items.len(), items: PhantomData }
    }

    fn at(&self, index: usize) -> *mut T {
        self.start.wrapping_add(index)
    }

    /// Rows of `width` items, as far as there are such. Every part of a region has rows of its own.
    #[allow(clippy::mut_from_ref)]
    fn rows(&self, rows: &Range<usize>, width: usize) -> &mut [T] {
        let (start, end) = (self.len.min(rows.start * width), self.len.min(rows.end * width));
        #[allow(unsafe_code)]
        // SAFETY: the range lies within the items, and is asked for once, since parts don't overlap.
        unsafe {
            std::slice::from_raw_parts_mut(self.at(start), end.saturating_sub(start))
        }
    }
}

impl Shared {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        if parts > u32::MAX as usize || self.is_busy.swap(true, Ordering::Acquire) {
            return (0..parts).for_each(work);
        }
        let mut work = Work(work, parts);
        self.done.0.store(0, Ordering::Relaxed);
        self.work.store((&raw mut work).cast(), Ordering::Relaxed);
        let number = (self.parts.0.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.parts.0.store((number << 32) | parts as u64, Ordering::SeqCst);
        if self.are_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        while self.take_part() {}
        let mut spins = 0;
        while self.done.0.load(Ordering::Acquire) < parts {
            wait_a_little(&mut spins);
        }
        self.is_busy.store(false, Ordering::Release);
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Takes a part and does it; tells whether there was one.
    fn take_part(&self) -> bool {
        let take = |parts: u64| (parts as u32 > 0).then(|| parts - 1);
        let Ok(parts) = self.parts.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return false };
        let work = self.work.load(Ordering::Relaxed);
        #[allow(unsafe_code)]
        // SAFETY: a part was taken and is not done yet: the region's thread waits until it is, so its work is there.
        let work = unsafe { &*work };
        let result = catch_unwind(AssertUnwindSafe(|| (work.0)(work.1 - parts as u32 as usize)));
        if let Err(panic) = result {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        self.done.0.fetch_add(1, Ordering::Release);
        true
    }

    fn help(&self) {
        let mut spins = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            if self.take_part() {
                spins = 0;
            } else if spins < PATIENCE {
                wait_a_little(&mut spins);
            } else {
                self.sleep();
                spins = 0;
            }
        }
    }

    /// Sleeps until there may be work.
    fn sleep(&self) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_asleep.store(true, Ordering::SeqCst);
        let has_work = self.parts.0.load(Ordering::SeqCst) as u32 > 0 || self.is_over.load(Ordering::SeqCst);
        if !has_work {
            sleepers.push(thread::current());
            drop(sleepers);
            thread::park();
        }
    }

    fn wake(&self) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_asleep.store(false, Ordering::SeqCst);
        sleepers.drain(..).for_each(|sleeper| sleeper.unpark());
    }
}

/// Lets others run now and then: there may be more threads than cores.
fn wait_a_little(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(1024) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once_region_after_region() {
        let pool = Pool::new(4).unwrap();
        pool.install(|| {
            for count in (0..300).chain([10_000]) {
                let mut hits = vec![0u8; count];
                chunks(&mut hits, 3, |_, hits| hits.iter_mut().for_each(|hit| *hit += 1));
                assert!(hits.iter().all(|hit| *hit == 1), "{count}");
            }
        });
    }

    #[test]
    fn helpers_that_sleep_wake_up() {
        let pool = Pool::new(3).unwrap();
        let started = std::sync::Barrier::new(3);
        pool.install(|| {
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_millis(100));
                run(3, |_| {
                    started.wait(); // passes only if three threads are here at once
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            let panic = || pool.install(|| run(8, |part| assert!(part != 5, "part five")));
            assert!(catch_unwind(AssertUnwindSafe(panic)).is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.install(|| {
            run(10, |part| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn regions_may_be_nested_and_there_need_be_no_pool() {
        let sum = AtomicUsize::new(0);
        let nested = || {
            run(4, |_| {
                run(4, |part| {
                    sum.fetch_add(part, Ordering::Relaxed);
                });
            });
        };
        nested();
        Pool::new(2).unwrap().install(nested);
        assert_eq!(sum.into_inner(), 2 * 24);
    }

    #[test]
    fn regions_of_several_threads_and_within_parts_leave_each_other_alone() {
        let pool = Pool::new(2).unwrap();
        let region = || {
            pool.install(|| {
                let mut hits = [0u8; 64];
                chunks(&mut hits, 4, |_, hits| hits.iter_mut().for_each(|hit| *hit += 1));
                assert_eq!(hits, [1; 64]);
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2000).for_each(|_| region()));
            }
        });
        pool.install(|| run(8, |_| region()));
    }

    #[test]
    fn rows_of_several_slices_are_split_as_one_list() {
        let pool = Pool::new(2).unwrap();
        let (mut first, mut second, mut third) = ([0; 5 * 3], [0; 0], [0; 4 * 3 + 1]);
        pool.install(|| {
            split_rows_of_all(&mut [&mut first, &mut second, &mut third], 3, 2, |which, first, rows| {
                rows.chunks_mut(3).enumerate().for_each(|(row, items)| items.fill(10 * (which + 1) + first + row));
            });
        });
        let rows = |which: usize, count: usize| (0..count).flat_map(move |row| [10 * (which + 1) + row; 3]);
        assert!(first.into_iter().eq(rows(0, 5)));
        assert!(third.into_iter().eq(rows(2, 5).take(13)));
    }

    #[test]
    fn threads_take_from_the_start_of_their_runs_and_then_from_the_ends_of_others() {
        Pool::new(2).unwrap().install(|| {
            let runs = Runs::new(11);
            let taken = [0, 1, 0, 0, 0, 1].map(|thread| runs.next(thread));
            assert_eq!(taken, [0..3, 5..8, 3..4, 4..5, 9..11, 8..9].map(Some));
            assert_eq!((runs.next(0), runs.next(1), Runs::new(0).next(0)), (None, None, None));
        });
    }

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
