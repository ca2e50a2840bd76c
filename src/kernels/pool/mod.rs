//! Parallel regions that cost less than a microsecond to enter: decoding a token enters hundreds.
//!
//! The thread that calls takes part in the work. Each thread has a run of its pieces, in a seat of its own: cache lines that
//! go to a helper when a region begins and back when it ends. Helpers look at their seats, first busily and then asleep; one
//! that comes late costs nothing, because the others have taken its pieces. rayon's regions cost several microseconds here,
//! since its threads sleep between them.
//!
//! A region has one stage or more. A stage begins when all pieces of the one before are done, without a way back to the
//! thread that called.

mod columns;
mod rows;
mod share;
mod stage;

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

pub use self::columns::{ColumnBlocks, Columns, columns};
pub use self::rows::{Fresh, Rows, Slice};
pub use self::share::{Chunks, chunks, fill, split_rows};
pub use self::stage::{Filling, Parts, Stage};

use self::stage::{Bite, Calls, Pieces};

/// How many times a helper looks for work before it sleeps: some hundred microseconds, more than lies between two regions.
const PATIENCE: u32 = 20_000;

/// At most so many stages has a region.
const STAGES: usize = 5;

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
    /// What is left of the thread's run of pieces, of each stage. A thread takes from the start of its own, so that it reads
    /// memory in one stream and what it asks for ahead is its own; when that is done, from the end of another's.
    runs: [AtomicU64; STAGES],
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

/// What a region does.
struct Work<'a> {
    stages: &'a [&'a dyn Stage],
    /// Whether a piece has panicked: stages that come after it are left out.
    has_failed: AtomicBool,
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
    region(&[&Calls::new(parts, work)]);
}

/// Goes through stages on all threads of the pool that is installed here, and waits. Those at the end that have nothing are left
/// out.
///
/// # Panics
/// A stage was gone through before; or what panicked in one.
pub fn region(stages: &[&dyn Stage]) {
    debug_assert!(stages.len() <= STAGES, "{} stages: a seat has runs of {STAGES}", stages.len());
    stages.iter().for_each(|stage| stage.plan().begin());
    let count = stages.iter().rposition(|stage| stage.plan().pieces() > 0).map_or(0, |last| last + 1);
    let stages = stages.get(..count).unwrap_or_default();
    if threads() < 2 || stages.iter().all(|stage| stage.plan().pieces() < 2) {
        return run_here(stages);
    }
    // A region inside a piece of this one runs on its thread alone.
    let pool = Restore(CURRENT.take());
    if let Some(shared) = &pool.0 {
        shared.run(stages);
    }
}

fn run_here(stages: &[&dyn Stage]) {
    for stage in stages {
        let mut pieces = Pieces::alone(stage.plan());
        if !pieces.are_none() {
            stage.work(&mut pieces);
        }
        stage.plan().end();
    }
}

/// Takes pieces of a run.
fn take(run: &AtomicU64, side: Side, bite: Bite) -> Option<Range<usize>> {
    let mut taken = 0..0;
    let rest = |left: u64| {
        let left = unpacked(left);
        let count = match bite {
            Bite::One => left.len().min(1),
            Bite::Half => (left.len() / 2).max(1).min(left.len()),
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

    fn run(&self, stages: &[&dyn Stage]) {
        if stages.len() > STAGES || self.is_busy.swap(true, Ordering::Acquire) {
            return run_here(stages);
        }
        let work = Work { stages, has_failed: AtomicBool::new(false) };
        let helpers = self.call(&work);
        self.work_on(0, &work);
        helpers.iter().for_each(Seat::leave);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            stages.iter().for_each(|stage| stage.plan().fail());
            resume_unwind(panic);
        }
        stages.iter().for_each(|stage| stage.plan().end());
    }

    /// Shares the pieces of each stage among the seats, and calls the helpers of those that have some: only they may enter.
    fn call(&self, work: &Work<'_>) -> &[Seat] {
        let runs = |stage: &dyn Stage| self.seats.len().min(stage.plan().pieces());
        let called = work.stages.iter().map(|stage| runs(*stage)).max().unwrap_or_default();
        // All seats: threads look for work at each of them, and after a panic what nobody did is left there.
        for (at, seat) in self.seats.iter().enumerate() {
            for (stage, run) in work.stages.iter().zip(&seat.runs) {
                let runs = runs(*stage).max(1);
                let border = |run: usize| run.min(runs) * stage.plan().pieces() / runs;
                run.store(packed(&(border(at)..border(at + 1))), Ordering::Relaxed);
            }
        }
        let helpers = self.seats.get(1..called).unwrap_or_default();
        for seat in helpers {
            seat.work.store(std::ptr::from_ref(work).cast_mut().cast(), Ordering::Relaxed);
            seat.phase.store(CALLED, Ordering::Release);
        }
        helpers
    }

    /// Takes part in each stage, until there is nothing left of it.
    fn work_on(&self, own: usize, work: &Work<'_>) {
        for (at, stage) in work.stages.iter().enumerate() {
            let plan = stage.plan();
            let mut pieces = Pieces::of_seat(plan, self, at, own);
            if !pieces.are_none()
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| stage.work(&mut pieces)))
            {
                self.keep(panic);
                work.has_failed.store(true, Ordering::Relaxed);
                pieces.by_ref().for_each(drop);
            }
            if at + 1 == work.stages.len() {
                return;
            }
            plan.wait(pieces.taken());
            if work.has_failed.load(Ordering::Relaxed) {
                return;
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
    fn next(&self, own: usize, stage: usize, bite: Bite) -> Option<Range<usize>> {
        // A helper that is falling asleep just now may be missed, until the next piece.
        if self.are_asleep.load(Ordering::Relaxed) {
            self.wake();
        }
        let (before, from_own) = self.seats.split_at_checked(own)?;
        let (own, behind) = from_own.split_first()?;
        let others = || behind.iter().chain(before).find_map(|seat| take(seat.runs.get(stage)?, Side::End, bite));
        take(own.runs.get(stage)?, Side::Start, bite).or_else(others)
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
    fn threads_take_from_the_start_of_their_runs_and_then_from_the_ends_of_others() {
        let pool = Pool { shared: Arc::new(Shared::new(2)), helpers: Vec::new() };
        let (first, second) = (Filling::new((Fresh::new(11, 1), 1)), Calls::new(5, |_| {}));
        let first = first.by(|_| {});
        let work = Work { stages: &[&first, &second], has_failed: AtomicBool::new(false) };
        assert_eq!(pool.shared.call(&work).len(), 1);
        let taken = [0, 1, 0, 0, 0, 1, 0, 0].map(|own| pool.shared.next(own, 0, Bite::Half));
        assert_eq!(taken, [0..2, 5..8, 2..3, 3..4, 4..5, 8..9, 10..11, 9..10].map(Some));
        assert_eq!([0, 1].map(|own| pool.shared.next(own, 0, Bite::Half)), [None, None]);
        let taken = [0, 0, 1, 0, 0, 0].map(|own| pool.shared.next(own, 1, Bite::One));
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
}
