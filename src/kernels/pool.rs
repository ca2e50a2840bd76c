//! Parallel regions that cost less than a microsecond to enter: decoding a token enters hundreds.
//!
//! The thread that calls takes part in the work. Each thread has a run of its pieces, in a seat of its own: cache lines that
//! go to a helper when a region begins and back when it ends. Helpers look at their seats, first busily and then asleep; one
//! that comes late costs nothing, because the others have taken its pieces. rayon's regions cost several microseconds here,
//! since its threads sleep between them.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};
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
    /// One for each thread; that of the region's own comes first.
    seats: Box<[Seat]>,
    /// Whether a region is being worked on: another one that begins meanwhile runs on its own thread alone.
    is_busy: AtomicBool,
    /// What the first piece that panicked said.
    panic: Mutex<Option<Panic>>,
    sleepers: Mutex<Vec<Thread>>,
    /// Whether there are any: looked at without the lock.
    are_asleep: AtomicBool,
}

/// What a piece panicked with.
type Panic = Box<dyn std::any::Any + Send>;

/// Where a thread finds its work, alone in its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seat {
    /// [`FREE`], [`CALLED`], [`TAKEN`] or [`CLOSED`].
    phase: AtomicU8,
    /// What is left of the thread's run of pieces. A thread takes from the start of its own, so that it reads memory in one
    /// stream and what it asks for ahead is its own; when that is done, from the end of another's.
    run: AtomicU64,
    /// What the region does.
    work: AtomicPtr<Work<'static>>,
}

/// The helper has nothing to do with the region, or has done its part of it.
const FREE: u8 = 0;

/// The helper may enter the region.
const CALLED: u8 = 1;

/// The helper is in the region, which can't end without it.
const TAKEN: u8 = 2;

/// There will be no region any more.
const CLOSED: u8 = 3;

/// A region's work on some of its pieces, and how many are taken at a time.
struct Work<'a>(&'a (dyn Fn(Range<usize>) + Sync), Bite);

/// How much of a run is taken at a time.
#[derive(Clone, Copy)]
enum Bite {
    /// A piece.
    One,
    /// Half of what is left: pieces get shorter, so that threads end together.
    Half,
}

/// Where pieces are taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

impl Pool {
    /// A pool of so many threads, the calling one among them.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut pool = Self { shared: Arc::new(Shared::new(threads)), helpers: Vec::new() };
        for own in 1..threads {
            let shared = Arc::clone(&pool.shared);
            pool.helpers.push(thread::Builder::new().name("compute".into()).spawn(move || shared.help(own))?);
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
        self.shared.seats.iter().for_each(|seat| seat.phase.store(CLOSED, Ordering::Release));
        self.shared.wake();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its parts: there is nothing to learn from it.
            let _ = helper.join();
        }
    }
}

/// How many threads share the regions of this thread.
pub fn threads() -> usize {
    CURRENT.with_borrow(|pool| pool.as_ref().map_or(1, |pool| pool.seats.len()))
}

/// Calls `work` with each number below `parts`, on all threads of the pool that is installed here, and waits.
pub fn run(parts: usize, work: impl Fn(usize) + Sync) {
    share(parts, Bite::One, &|parts| parts.for_each(&work));
}

/// Splits `0..count` into ranges of at least `least`, and calls `work` with each.
fn split(count: usize, least: usize, work: impl Fn(Range<usize>) + Sync) {
    let least = least.max(count.div_ceil(u32::MAX as usize)).max(1);
    share(count.div_ceil(least), Bite::Half, &|pieces| work(pieces.start * least..count.min(pieces.end * least)));
}

/// Calls `work` with ranges of `0..pieces` on all threads of the pool that is installed here, and waits.
fn share(pieces: usize, bite: Bite, work: &(dyn Fn(Range<usize>) + Sync)) {
    if pieces < 2 || threads() < 2 {
        return work(0..pieces);
    }
    // A region inside a piece of this one runs on its thread alone.
    let pool = Restore(CURRENT.take());
    if let Some(shared) = &pool.0 {
        shared.run(pieces, bite, work);
    }
}

/// Splits `rows` of `width` numbers each into ranges of at least `least`, and calls `work` with the number of the first row and the
/// rows. A last row may have fewer numbers.
pub fn split_rows<T: Send + Sync>(rows: &mut [T], width: usize, least: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let rows = SharedMut::new(rows);
    split(rows.len.div_ceil(width.max(1)), least, |range| work(range.start, rows.rows(&range, width)));
}

/// As [`split_rows`] with the rows of several slices one after the other; `work` is told of which slice its rows are, too.
pub fn split_rows_of_all<T: Send + Sync, const N: usize>(
    all: [&mut [T]; N],
    width: usize,
    least: usize,
    work: impl Fn(usize, usize, &mut [T]) + Sync,
) {
    let mut count = 0;
    let all = all.map(|rows| {
        let rows = SharedMut::new(rows);
        let start = count;
        count += rows.len.div_ceil(width.max(1));
        (rows, start..count)
    });
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
pub fn split_rows_of_two<T: Send + Sync, U: Send + Sync>(
    (first, first_width): (&mut [T], usize),
    (second, second_width): (&mut [U], usize),
    least: usize,
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let (first, second) = (SharedMut::new(first), SharedMut::new(second));
    split(first.len.div_ceil(first_width.max(1)), least, |range| {
        work(range.start, first.rows(&range, first_width), second.rows(&range, second_width));
    });
}

/// Takes pieces of a run.
fn take(run: &AtomicU64, side: Side, bite: Bite) -> Option<Range<usize>> {
    let mut taken = 0..0;
    let rest = |left: u64| {
        let left = unpacked(left);
        let count = match bite {
            Bite::One => left.len().min(1),
            Bite::Half => left.len().div_ceil(2),
        };
        let rest = match side {
            Side::Start => left.start + count..left.end,
            Side::End => left.start..left.end - count,
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

/// Calls `work` with so many columns after the other of the first `width` of `rows` of `stride` numbers each, and their
/// number in this order.
pub fn columns<T: Send + Sync>(
    (rows, stride): (&mut [T], usize),
    width: usize,
    size: usize,
    work: impl Fn(usize, Columns<'_, T>) + Sync,
) {
    let (width, count, rows) = (width.min(stride), rows.len() / stride.max(1), SharedMut::new(rows));
    run(width.div_ceil(size), |part| {
        let (first, end) = (part * size, width.min((part + 1) * size));
        let start = rows.at(first);
        work(part, Columns { start, stride, width: end - first, rows: count, items: PhantomData });
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
    fn new(threads: usize) -> Self {
        Self {
            seats: (0..threads.max(1)).map(|_| Seat::default()).collect(),
            is_busy: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: Mutex::default(),
            are_asleep: AtomicBool::new(false),
        }
    }

    fn run(&self, pieces: usize, bite: Bite, work: &(dyn Fn(Range<usize>) + Sync)) {
        if pieces > u32::MAX as usize || self.is_busy.swap(true, Ordering::Acquire) {
            return work(0..pieces);
        }
        let mut work = Work(work, bite);
        let helpers = self.call(pieces, &raw mut work);
        self.work_on(0, &work);
        helpers.iter().for_each(Seat::leave);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Shares pieces among the seats, and calls the helpers of those that have some: only they may enter.
    fn call(&self, pieces: usize, work: *mut Work<'_>) -> &[Seat] {
        let runs = self.seats.len().min(pieces);
        let border = |run: usize| run * pieces / runs;
        for (at, seat) in self.seats.iter().enumerate().take(runs) {
            seat.run.store(packed(&(border(at)..border(at + 1))), Ordering::Relaxed);
        }
        let helpers = self.seats.get(1..runs).unwrap_or_default();
        for seat in helpers {
            seat.work.store(work.cast(), Ordering::Relaxed);
            seat.phase.store(CALLED, Ordering::Release);
        }
        helpers
    }

    /// Takes pieces and does them until there are none.
    fn work_on(&self, own: usize, work: &Work<'_>) {
        while let Some(pieces) = self.next(own, work.1) {
            // A helper that is falling asleep just now may be missed, until the next piece.
            if self.are_asleep.load(Ordering::Relaxed) {
                self.wake();
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (work.0)(pieces))) {
                self.keep(panic);
            }
        }
    }

    /// Keeps what a piece panicked with, for the caller. Of a second panic nobody hears, and to drop it might be a third.
    fn keep(&self, panic: Panic) {
        let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => *first = Some(panic),
            Some(_) => std::mem::forget(panic),
        }
    }

    /// What the thread of a seat is to do next.
    fn next(&self, own: usize, bite: Bite) -> Option<Range<usize>> {
        let (before, from_own) = self.seats.split_at_checked(own)?;
        let (own, behind) = from_own.split_first()?;
        let others = || behind.iter().chain(before).find_map(|seat| take(&seat.run, Side::End, bite));
        take(&own.run, Side::Start, bite).or_else(others)
    }

    fn help(&self, own: usize) {
        let Some(seat) = self.seats.get(own) else { return };
        let mut spins = 0;
        loop {
            match seat.phase.load(Ordering::Relaxed) {
                CLOSED => return,
                CALLED if seat.turn(CALLED, TAKEN) => {
                    #[allow(unsafe_code)]
                    // SAFETY: the region's thread waits for a seat that is taken, so its work is there until it is free.
                    let work = unsafe { &*seat.work.load(Ordering::Relaxed) };
                    self.work_on(own, work);
                    seat.phase.store(FREE, Ordering::Release);
                    spins = 0;
                }
                _ if spins < PATIENCE => wait_a_little(&mut spins),
                _ => {
                    self.sleep(seat);
                    spins = 0;
                }
            }
        }
    }

    /// Sleeps until there may be work.
    fn sleep(&self, seat: &Seat) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_asleep.store(true, Ordering::SeqCst);
        if seat.phase.load(Ordering::SeqCst) == FREE {
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

impl Seat {
    /// Ends the region for this seat: waits if its helper has entered, and keeps it from entering if not.
    fn leave(&self) {
        let mut spins = 0;
        while self.phase.load(Ordering::Acquire) != FREE && !self.turn(CALLED, FREE) {
            wait_a_little(&mut spins);
        }
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        self.phase.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
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
    use std::sync::atomic::AtomicUsize;

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
            split_rows_of_all([&mut first[..], &mut second, &mut third], 3, 2, |which, first, rows| {
                rows.chunks_mut(3).enumerate().for_each(|(row, items)| items.fill(10 * (which + 1) + first + row));
            });
        });
        let rows = |which: usize, count: usize| (0..count).flat_map(move |row| [10 * (which + 1) + row; 3]);
        assert!(first.into_iter().eq(rows(0, 5)));
        assert!(third.into_iter().eq(rows(2, 5).take(13)));
    }

    #[test]
    fn threads_take_from_the_start_of_their_runs_and_then_from_the_ends_of_others() {
        let pool = Pool { shared: Arc::new(Shared::new(2)), helpers: Vec::new() };
        let mut nothing = Work(&|_| {}, Bite::Half);
        assert_eq!(pool.shared.call(11, &raw mut nothing).len(), 1);
        let taken = [0, 1, 0, 0, 0, 1].map(|own| pool.shared.next(own, Bite::Half));
        assert_eq!(taken, [0..3, 5..8, 3..4, 4..5, 9..11, 8..9].map(Some));
        assert_eq!([0, 1].map(|own| pool.shared.next(own, Bite::Half)), [None, None]);
        pool.shared.call(5, &raw mut nothing);
        let taken = [0, 0, 1, 0, 0, 0].map(|own| pool.shared.next(own, Bite::One));
        assert_eq!(taken, [Some(0..1), Some(1..2), Some(2..3), Some(4..5), Some(3..4), None]);
    }

    #[test]
    fn a_helper_that_is_late_stays_out_and_one_that_has_entered_is_waited_for() {
        let seat = Seat::default();
        seat.phase.store(CALLED, Ordering::SeqCst);
        seat.leave();
        assert!(!seat.turn(CALLED, TAKEN));
        seat.phase.store(CALLED, Ordering::SeqCst);
        assert!(seat.turn(CALLED, TAKEN));
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(std::time::Duration::from_millis(50));
                is_done.store(true, Ordering::Relaxed);
                seat.phase.store(FREE, Ordering::Release);
            });
            seat.leave();
            assert!(is_done.load(Ordering::Relaxed));
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
