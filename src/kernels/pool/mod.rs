//! Parallel regions that cost less than a microsecond to enter: decoding a token enters hundreds.
//!
//! The thread that calls takes part in the work. Each thread has a run of its pieces, in a seat of its own: cache lines that
//! go to a helper when a region begins and back when it ends. Helpers look at their seats, first busily and then asleep; one
//! that comes late costs nothing, because the others have taken its pieces. rayon's regions cost several microseconds here,
//! since its threads sleep between them.
//!
//! A region has one stage or more. A stage begins when all pieces of the one before are done, without a way back to the
//! thread that called.

mod slices;

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

pub use self::slices::{
    Chunks, ColumnBlocks, Columns, Done, Fresh, Parts, Rows, Slice, chunks, columns, fill, fill_five, fill_three,
    fill_two, split_rows,
};

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
    stages: &'a [Stage<'a>],
    /// How many pieces of each stage are done.
    done: [Count; STAGES],
    /// Whether a piece has panicked: stages that come after it are left out.
    has_failed: AtomicBool,
}

/// A count alone in its cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// What is done with each of many things.
struct Stage<'a> {
    /// How many there are.
    count: usize,
    /// At least so many are a piece.
    least: usize,
    bite: Bite,
    /// Is called by each thread that has a piece, and takes more until there are none.
    work: &'a (dyn Fn(&mut Pieces<'_>) + Sync),
}

/// The pieces of a stage that a thread takes: ranges of what the stage has.
#[derive(Debug)]
struct Pieces<'a> {
    stage: &'a Stage<'a>,
    source: Source<'a>,
    /// What was taken last, if it is yet to be done.
    next: Option<Range<usize>>,
    taken: usize,
}

/// Where a thread has its pieces from.
#[derive(Debug)]
enum Source<'a> {
    /// It does all of them at once.
    Alone,
    /// The runs of a stage, and the thread's own seat.
    Runs { shared: &'a Shared, stage: usize, own: usize },
}

/// How much of a run is taken at a time.
#[derive(Clone, Copy, Debug)]
enum Bite {
    /// A piece.
    One,
    /// A third of what is left: pieces get shorter, so that threads end together.
    Third,
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
    let work = |pieces: &mut Pieces<'_>| pieces.for_each(|parts| parts.for_each(&work));
    run_stages(&[Stage { bite: Bite::One, ..Stage::new(parts, 1, &work) }]);
}

/// Goes through stages on all threads of the pool that is installed here, and waits. Those at the end that have nothing are left
/// out.
fn run_stages(stages: &[Stage<'_>]) {
    let count = stages.iter().rposition(|stage| stage.count > 0).map_or(0, |last| last + 1);
    let stages = stages.get(..count).unwrap_or_default();
    if threads() < 2 || stages.iter().all(|stage| stage.pieces() < 2) {
        return stages.iter().for_each(Stage::run_here);
    }
    // A region inside a piece of this one runs on its thread alone.
    let pool = Restore(CURRENT.take());
    if let Some(shared) = &pool.0 {
        shared.run(stages);
    }
}

impl<'a> Stage<'a> {
    fn new(count: usize, least: usize, work: &'a (dyn Fn(&mut Pieces<'_>) + Sync)) -> Self {
        let least = least.max(count.div_ceil(u32::MAX as usize)).max(1);
        Self { count, least, bite: Bite::Third, work }
    }

    fn pieces(&self) -> usize {
        self.count.div_ceil(self.least)
    }

    fn run_here(&self) {
        if self.count > 0 {
            (self.work)(&mut Pieces { stage: self, source: Source::Alone, next: Some(0..self.pieces()), taken: 0 });
        }
    }
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("count", &self.count).field("least", &self.least).finish_non_exhaustive()
    }
}

impl Pieces<'_> {
    fn take_some(&mut self) -> Option<Range<usize>> {
        let Source::Runs { shared, stage, own } = self.source else { return None };
        let pieces = shared.next(own, stage, self.stage.bite)?;
        self.taken += pieces.len();
        Some(pieces)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let pieces = self.next.take().or_else(|| self.take_some())?;
        let Stage { count, least, .. } = *self.stage;
        Some(pieces.start * least..count.min(pieces.end * least))
    }
}

impl Work<'_> {
    /// Waits until all pieces of a stage are done, of which this thread did some. Returns whether none has panicked.
    fn pass(&self, stage: usize, own: usize) -> bool {
        if let (Some(Count(done)), Some(stage)) = (self.done.get(stage), self.stages.get(stage)) {
            if own > 0 {
                done.fetch_add(own, Ordering::AcqRel);
            }
            let mut spins = 0;
            while done.load(Ordering::Acquire) < stage.pieces() {
                wait_a_little(&mut spins);
            }
        }
        !self.has_failed.load(Ordering::Relaxed)
    }
}

/// Takes pieces of a run.
fn take(run: &AtomicU64, side: Side, bite: Bite) -> Option<Range<usize>> {
    let mut taken = 0..0;
    let rest = |left: u64| {
        let left = unpacked(left);
        let count = match bite {
            Bite::One => left.len().min(1),
            Bite::Third => (left.len() / 3).max(1).min(left.len()),
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

    fn run(&self, stages: &[Stage<'_>]) {
        if stages.len() > STAGES || self.is_busy.swap(true, Ordering::Acquire) {
            return stages.iter().for_each(Stage::run_here);
        }
        let work = Work { stages, done: Default::default(), has_failed: AtomicBool::new(false) };
        let helpers = self.call(&work);
        self.work_on(0, &work);
        helpers.iter().for_each(Seat::leave);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Shares the pieces of each stage among the seats, and calls the helpers of those that have some: only they may enter.
    fn call(&self, work: &Work<'_>) -> &[Seat] {
        let pieces = |stage: &Stage<'_>| self.seats.len().min(stage.pieces());
        let called = work.stages.iter().map(pieces).max().unwrap_or_default();
        // All seats: threads look for work at each of them, and after a panic what nobody did is left there.
        for (at, seat) in self.seats.iter().enumerate() {
            for (stage, run) in work.stages.iter().zip(&seat.runs) {
                let runs = pieces(stage).max(1);
                let border = |run: usize| run.min(runs) * stage.pieces() / runs;
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
            let source = Source::Runs { shared: self, stage: at, own };
            let mut pieces = Pieces { stage, source, next: None, taken: 0 };
            pieces.next = pieces.take_some();
            // Who comes late prepares nothing.
            let part = || {
                if pieces.next.is_some() {
                    (stage.work)(&mut pieces);
                }
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(part)) {
                self.keep(panic);
                work.has_failed.store(true, Ordering::Relaxed);
                pieces.by_ref().for_each(drop);
            }
            let is_last = at + 1 == work.stages.len();
            if is_last || !work.pass(at, pieces.taken) {
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
        let slices = [&mut first[..], &mut second, &mut third].map(|numbers| Slice::new(numbers, 3));
        pool.install(|| {
            fill((slices, 2), |parts| {
                for (which, (first, rows)) in parts.flat_map(|(_, rows)| rows.into_iter().enumerate()) {
                    rows.chunks_mut(3).enumerate().for_each(|(row, items)| items.fill(10 * (which + 1) + first + row));
                }
            });
        });
        let rows = |which: usize, count: usize| (0..count).flat_map(move |row| [10 * (which + 1) + row; 3]);
        assert!(first.into_iter().eq(rows(0, 5)));
        assert!(third.into_iter().eq(rows(2, 5).take(13)));
    }

    #[test]
    fn threads_take_from_the_start_of_their_runs_and_then_from_the_ends_of_others() {
        let pool = Pool { shared: Arc::new(Shared::new(2)), helpers: Vec::new() };
        let nothing = |_: &mut Pieces<'_>| {};
        let work = |stages| Work { stages, done: Default::default(), has_failed: AtomicBool::new(false) };
        let stages = [Stage::new(11, 1, &nothing), Stage { bite: Bite::One, ..Stage::new(5, 1, &nothing) }];
        assert_eq!(pool.shared.call(&work(&stages)).len(), 1);
        let taken = [0, 1, 0, 0, 0, 1, 0, 0, 1, 1].map(|own| pool.shared.next(own, 0, Bite::Third));
        assert_eq!(taken, [0..1, 5..7, 1..2, 2..3, 3..4, 7..8, 4..5, 10..11, 8..9, 9..10].map(Some));
        assert_eq!([0, 1].map(|own| pool.shared.next(own, 0, Bite::Third)), [None, None]);
        let taken = [0, 0, 1, 0, 0, 0].map(|own| pool.shared.next(own, 1, Bite::One));
        assert_eq!(taken, [Some(0..1), Some(1..2), Some(2..3), Some(4..5), Some(3..4), None]);
    }

    #[test]
    fn a_stage_has_what_all_threads_did_before() {
        let pool = Pool::new(4).unwrap();
        let sum = |numbers: &[f32]| numbers.iter().sum::<f32>();
        pool.install(|| {
            for count in (1..100).chain([1000; 200]) {
                let mut third = vec![0.0; 7];
                let (first, second, ()) = fill_three(
                    (Fresh::new(count, 3), 2),
                    |parts| parts.for_each(|(_, numbers)| numbers.iter_mut().for_each(|number| *number += 1.0)),
                    ([Fresh::new(count, 1), Fresh::new(5, 1)], 1),
                    |first, parts| {
                        let before = sum(first.whole());
                        for ((_, numbers), (_, others)) in parts.map(|(_, [one, other])| (one, other)) {
                            numbers.iter_mut().chain(others).for_each(|number| *number += before);
                        }
                    },
                    (Slice::new(&mut third, 1), 1),
                    |first, second, parts| {
                        let (first, [second, others]) = (first.whole(), second.whole());
                        let before = sum(first) + sum(second) + sum(others);
                        parts.for_each(|(_, numbers)| numbers.fill(before));
                    },
                );
                let count = count as f32;
                assert_eq!((sum(&first), sum(&second[0]), sum(&second[1])), (count, count * count, 5.0 * count));
                assert_eq!(third, [count + count * count + 5.0 * count; 7]);
            }
        });
    }

    #[test]
    fn rows_that_nobody_touches_are_zeros() {
        Pool::new(2).unwrap().install(|| assert_eq!(fill((Fresh::new(1000, 7), 2), |_| {}), vec![0.0; 1000]));
    }

    #[test]
    fn what_a_panic_leaves_is_nobody_s_later() {
        let pool = Pool::new(4).unwrap();
        let region = |count: usize, is_failing: bool| {
            fill_three(
                (Fresh::new(count, 1), 1),
                |parts| parts.for_each(|(_, _)| assert!(!is_failing, "a piece")),
                (Fresh::new(count, 1), 1),
                |_, parts| {
                    parts.for_each(|(_, numbers)| {
                        thread::sleep(std::time::Duration::from_millis(1));
                        numbers.fill(1.0);
                    });
                },
                (Fresh::new(count, 1), 1),
                |_, second, parts| parts.for_each(|(_, numbers)| numbers.fill(second.whole().iter().sum())),
            )
        };
        for _ in 0..20 {
            assert!(catch_unwind(AssertUnwindSafe(|| pool.install(|| region(64, true)))).is_err());
            let (_, _, sums) = pool.install(|| region(2, false));
            assert_eq!(sums, [2.0; 2]);
        }
    }

    #[test]
    fn a_region_of_stages_within_a_piece_or_beside_another_runs_on_its_thread() {
        let pool = Pool::new(3).unwrap();
        let region = || {
            let one = |parts: &mut Parts<'_, '_, Fresh>| parts.for_each(|(_, numbers)| numbers.fill(1.0));
            let nothing = |_: Done<'_, Fresh>, _: &mut Parts<'_, '_, [Fresh; 0]>| {};
            let (_, _, sums) =
                fill_three((Fresh::new(9, 2), 1), one, ([], 1), nothing, (Fresh::new(1, 1), 1), |first, _, parts| {
                    parts.for_each(|(_, numbers)| numbers.fill(first.whole().iter().sum()));
                });
            assert_eq!(sums, [9.0]);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..500).for_each(|_| pool.install(region)));
            }
        });
        pool.install(|| run(8, |_| region()));
    }

    #[test]
    fn no_stage_comes_after_a_panic() {
        let pool = Pool::new(3).unwrap();
        for at in 0..64 {
            let second = AtomicBool::new(false);
            let fail = |first: usize| assert!(first != at, "piece {at}");
            let region = || {
                fill_two(
                    (Fresh::new(64, 1), 1),
                    |parts| parts.for_each(|(first, numbers)| (first..).zip(numbers).for_each(|(at, _)| fail(at))),
                    (Fresh::new(64, 1), 1),
                    |_, _| second.store(true, Ordering::Relaxed),
                );
            };
            assert!(catch_unwind(AssertUnwindSafe(|| pool.install(region))).is_err());
            assert!(!second.into_inner());
        }
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
