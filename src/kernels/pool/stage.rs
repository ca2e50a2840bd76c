//! The stages of a parallel region, and what they fill.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::rows::Rows;
use super::{Shared, wait_a_little};

/// A stage of a region.
///
/// # Safety
/// Where the plan is that of a [`Filling`], each piece that a call of `work` takes is asked for as a part of its rows before the
/// call is over, also by a panic.
#[allow(unsafe_code)]
pub unsafe trait Stage: Sync {
    /// What there is to do.
    fn plan(&self) -> &Plan;

    /// Is called by each thread that has a piece, and takes more until there are none.
    fn work(&self, pieces: &mut Pieces<'_>);
}

/// How many things a stage has, in what pieces, and how far it is.
#[derive(Debug)]
#[repr(align(128))]
pub struct Plan {
    /// How many there are.
    count: usize,
    /// At least so many are a piece.
    least: usize,
    pub(super) bite: Bite,
    is_begun: AtomicBool,
    /// How many pieces are done, alone in its cache lines.
    done: Count,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// What is never done.
const FAILED: usize = usize::MAX;

/// How much of a run is taken at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bite {
    /// A piece.
    One,
    /// Half of what is left: pieces get shorter, so that threads end together.
    Half,
}

/// The pieces of a stage that a thread takes: ranges of what the stage has.
#[derive(Debug)]
pub struct Pieces<'a> {
    plan: &'a Plan,
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

impl Plan {
    pub(super) fn new(count: usize, least: usize, bite: Bite) -> Self {
        let least = least.max(count.div_ceil(u32::MAX as usize)).max(1);
        Self { count, least, bite, is_begun: AtomicBool::new(false), done: Count::default() }
    }

    pub(super) fn pieces(&self) -> usize {
        self.count.div_ceil(self.least)
    }

    /// # Panics
    /// It was begun before.
    pub(super) fn begin(&self) {
        assert!(!self.is_begun.swap(true, Ordering::Relaxed), "a stage is gone through once");
    }

    /// Waits until all pieces are done, of which this thread did some.
    pub(super) fn wait(&self, own: usize) {
        if own > 0 {
            self.done.0.fetch_add(own, Ordering::AcqRel);
        }
        let mut spins = 0;
        while !self.is_done() {
            wait_a_little(&mut spins);
        }
    }

    /// Nothing is left to do, and nobody does anything.
    pub(super) fn end(&self) {
        self.done.0.store(self.pieces(), Ordering::Release);
    }

    /// A piece has panicked, and nobody does anything any more.
    pub(super) fn fail(&self) {
        self.done.0.store(FAILED, Ordering::Release);
    }

    fn is_done(&self) -> bool {
        self.done.0.load(Ordering::Acquire) == self.pieces()
    }
}

impl<'a> Pieces<'a> {
    /// All at once.
    pub(super) fn alone(plan: &'a Plan) -> Self {
        let all = 0..plan.pieces();
        Self { plan, source: Source::Alone, next: (!all.is_empty()).then_some(all), taken: 0 }
    }

    /// Those that the thread of a seat takes.
    pub(super) fn of_seat(plan: &'a Plan, shared: &'a Shared, stage: usize, own: usize) -> Self {
        let mut pieces = Self { plan, source: Source::Runs { shared, stage, own }, next: None, taken: 0 };
        pieces.next = pieces.take_some();
        pieces
    }

    /// Whether there is none: who comes late prepares nothing.
    pub(super) fn are_none(&self) -> bool {
        self.next.is_none()
    }

    /// How many were taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    fn take_some(&mut self) -> Option<Range<usize>> {
        let Source::Runs { shared, stage, own } = self.source else { return None };
        let pieces = shared.next(own, stage, self.plan.bite)?;
        self.taken += pieces.len();
        Some(pieces)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let pieces = self.next.take().or_else(|| self.take_some())?;
        let Plan { count, least, .. } = *self.plan;
        Some(pieces.start * least..count.min(pieces.end * least))
    }
}

/// Rows that a stage fills, and that stages behind it read.
#[derive(Debug)]
pub struct Filling<R> {
    rows: R,
    plan: Plan,
}

impl<R: Rows> Filling<R> {
    /// Rows of which at least `least` are a part.
    pub fn new((rows, least): (R, usize)) -> Self {
        Self { plan: Plan::new(rows.count(), least, Bite::Half), rows }
    }

    /// The stage in which `work` fills them. Each thread that takes part is given all its parts at once.
    pub fn by<F: Fn(&mut Parts<'_, '_, R>) + Sync>(&self, work: F) -> Filler<'_, R, F> {
        Filler { filling: self, work }
    }

    /// All rows.
    ///
    /// # Panics
    /// The stage that fills them is not over, or a piece of its region has panicked.
    pub fn whole(&self) -> R::Whole<'_> {
        assert!(self.plan.is_done(), "the stage is over");
        #[allow(unsafe_code)]
        // SAFETY: it is over, and all its pieces were asked for.
        unsafe {
            self.rows.whole()
        }
    }

    /// The same for good.
    ///
    /// # Panics
    /// As [`Self::whole`].
    pub fn filled(self) -> R::Filled {
        assert!(self.plan.is_done(), "the stage is over");
        #[allow(unsafe_code)]
        // SAFETY: it is over, and all its pieces were asked for.
        unsafe {
            self.rows.filled()
        }
    }
}

/// The stage that fills rows.
pub struct Filler<'a, R, F> {
    filling: &'a Filling<R>,
    work: F,
}

#[allow(unsafe_code)]
// SAFETY: pieces are taken as parts, and what is left of them is when the parts are dropped.
unsafe impl<R: Rows, F: Fn(&mut Parts<'_, '_, R>) + Sync> Stage for Filler<'_, R, F> {
    fn plan(&self) -> &Plan {
        &self.filling.plan
    }

    fn work(&self, pieces: &mut Pieces<'_>) {
        (self.work)(&mut Parts { pieces, rows: &self.filling.rows });
    }
}

/// The parts of a stage that a thread takes: the number of the first row, and the rows.
#[derive(Debug)]
pub struct Parts<'p, 's, R: Rows> {
    pieces: &'p mut Pieces<'s>,
    rows: &'p R,
}

impl<'p, R: Rows> Iterator for Parts<'p, '_, R> {
    type Item = (usize, R::Part<'p>);

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.next()?;
        #[allow(unsafe_code)]
        // SAFETY: a stage is gone through once, and has each piece once.
        let rows = unsafe { self.rows.part(piece.clone()) };
        Some((piece.start, rows))
    }
}

impl<R: Rows> Drop for Parts<'_, '_, R> {
    /// Asks for all that is left, also after a panic.
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// Calls a function with the number of each thing.
pub(super) struct Calls<F> {
    plan: Plan,
    work: F,
}

impl<F: Fn(usize) + Sync> Calls<F> {
    pub(super) fn new(count: usize, work: F) -> Self {
        Self { plan: Plan::new(count, 1, Bite::One), work }
    }
}

#[allow(unsafe_code)]
// SAFETY: there are no rows.
unsafe impl<F: Fn(usize) + Sync> Stage for Calls<F> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn work(&self, pieces: &mut Pieces<'_>) {
        pieces.for_each(|things| things.for_each(&self.work));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::super::{Fresh, Pool, Slice, region, run};
    use super::*;

    #[test]
    fn a_stage_has_what_all_threads_did_before() {
        let pool = Pool::new(4).unwrap();
        let sum = |numbers: &[f32]| numbers.iter().sum::<f32>();
        pool.install(|| {
            for count in (1..100).chain([1000; 200]) {
                let first = Filling::new((Fresh::new(count, 3), 2));
                let second = Filling::new(([Fresh::new(count, 1), Fresh::new(5, 1)], 1));
                let mut third = vec![0.0; 7];
                let last = Filling::new((Slice::new(&mut third, 1), 1));
                region(&[
                    &first.by(|parts| parts.flat_map(|(_, numbers)| numbers).for_each(|number| *number += 1.0)),
                    &second.by(|parts| {
                        let before = sum(first.whole());
                        for ((_, numbers), (_, others)) in parts.map(|(_, [one, other])| (one, other)) {
                            numbers.iter_mut().chain(others).for_each(|number| *number += before);
                        }
                    }),
                    &last.by(|parts| {
                        let (first, [second, others]) = (first.whole(), second.whole());
                        let before = sum(first) + sum(second) + sum(others);
                        parts.for_each(|(_, numbers)| numbers.fill(before));
                    }),
                ]);
                last.filled();
                let (first, second, count) = (first.filled(), second.filled(), count as f32);
                assert_eq!((sum(&first), sum(&second[0]), sum(&second[1])), (count, count * count, 5.0 * count));
                assert_eq!(third, [count + count * count + 5.0 * count; 7]);
            }
        });
    }

    #[test]
    fn no_stage_comes_after_a_panic() {
        let pool = Pool::new(3).unwrap();
        for at in 0..64 {
            let (is_second_begun, fail) = (AtomicBool::new(false), |first| assert!(first != at, "piece {at}"));
            let [first, second] = [(); 2].map(|()| Filling::new((Fresh::new(64, 1), 1)));
            let go = || {
                region(&[
                    &first.by(|parts| parts.for_each(|(first, rows)| (first..first + rows.len()).for_each(fail))),
                    &second.by(|_| is_second_begun.store(true, Ordering::Relaxed)),
                ]);
            };
            assert!(catch_unwind(AssertUnwindSafe(|| pool.install(go))).is_err());
            assert!(!is_second_begun.into_inner());
            for filling in [first, second] {
                assert!(catch_unwind(AssertUnwindSafe(|| filling.filled())).is_err());
            }
        }
    }

    #[test]
    fn rows_that_are_not_there_are_not_given() {
        let fails = |work: &dyn Fn()| catch_unwind(AssertUnwindSafe(work)).is_err();
        let look_at = |filling: &Filling<Fresh>| assert_eq!(filling.whole().len(), 64);
        for threads in [1, 3] {
            Pool::new(threads).unwrap().install(|| {
                let filling = Filling::new((Fresh::new(64, 1), 1));
                assert!(fails(&|| look_at(&filling)));
                let early = filling.by(|_| look_at(&filling));
                assert!(fails(&|| region(&[&early])));
                assert!(fails(&|| look_at(&filling)));
                let filling = Filling::new((Fresh::new(64, 1), 1));
                region(&[&filling.by(|_| {})]);
                assert!(fails(&|| region(&[&filling.by(|_| {})])), "twice");
                assert_eq!(filling.filled(), [0.0; 64]);
            });
        }
    }

    #[test]
    fn what_a_panic_leaves_is_nobody_s_later() {
        let pool = Pool::new(4).unwrap();
        let go = |count: usize, is_failing: bool| {
            let [first, second, sums] = [(); 3].map(|()| Filling::new((Fresh::new(count, 1), 1)));
            region(&[
                &first.by(|parts| parts.for_each(|(_, _)| assert!(!is_failing, "a piece"))),
                &second.by(|parts| {
                    parts.for_each(|(_, numbers)| {
                        thread::sleep(std::time::Duration::from_millis(1));
                        numbers.fill(1.0);
                    });
                }),
                &sums.by(|parts| parts.for_each(|(_, numbers)| numbers.fill(second.whole().iter().sum()))),
            ]);
            sums.filled()
        };
        for _ in 0..20 {
            assert!(catch_unwind(AssertUnwindSafe(|| pool.install(|| go(64, true)))).is_err());
            assert_eq!(pool.install(|| go(2, false)), [2.0; 2]);
        }
    }

    #[test]
    fn a_region_of_stages_within_a_piece_or_beside_another_runs_on_its_thread() {
        let pool = Pool::new(3).unwrap();
        let go = || {
            let (ones, none) = (Filling::new((Fresh::new(9, 2), 1)), Filling::new((Fresh::new(0, 1), 1)));
            let sum = Filling::new((Fresh::new(1, 1), 1));
            region(&[
                &ones.by(|parts| parts.for_each(|(_, numbers)| numbers.fill(1.0))),
                &none.by(|_| {}),
                &sum.by(|parts| parts.for_each(|(_, numbers)| numbers.fill(ones.whole().iter().sum()))),
            ]);
            assert_eq!(sum.filled(), [9.0]);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..500).for_each(|_| pool.install(go)));
            }
        });
        pool.install(|| run(8, |_| go()));
    }
}
