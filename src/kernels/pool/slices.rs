//! Slices that the parts of a parallel region share out among themselves.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Pieces, Stage, run, run_stages};

/// What the parts of a stage write: rows, of which each part has its own.
///
/// # Safety
/// There are always as many rows, and the parts of ranges that don't overlap share no memory.
#[allow(unsafe_code)]
pub unsafe trait Rows: Sync {
    /// Some of the rows, for one part.
    type Part<'p>
    where
        Self: 'p;

    /// All of them, for later stages.
    type Whole<'w>
    where
        Self: 'w;

    /// What there is of them when the region is over.
    type Filled;

    /// How many rows there are.
    fn count(&self) -> usize;

    /// The rows of a range.
    ///
    /// # Safety
    /// No row is asked for twice.
    unsafe fn part(&self, rows: Range<usize>) -> Self::Part<'_>;

    /// All rows.
    ///
    /// # Safety
    /// Each row was once asked for as one of a part, and no part is left.
    unsafe fn whole(&self) -> Self::Whole<'_>;

    /// The same for good.
    ///
    /// # Safety
    /// As for all rows.
    unsafe fn filled(self) -> Self::Filled;
}

/// What an earlier stage has filled.
#[derive(Debug)]
pub struct Done<'w, R>(&'w R);

impl<'w, R: Rows> Done<'w, R> {
    /// All rows.
    pub fn whole(&self) -> R::Whole<'w> {
        #[allow(unsafe_code)]
        // SAFETY: it is made when the stage is over, with all its pieces.
        unsafe {
            self.0.whole()
        }
    }
}

/// The parts of a stage that a thread takes: the number of the first row, and the rows.
#[derive(Debug)]
pub struct Parts<'p, 's, R> {
    pieces: &'p mut Pieces<'s>,
    rows: &'p R,
}

impl<'p, R: Rows> Iterator for Parts<'p, '_, R> {
    type Item = (usize, R::Part<'p>);

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.next()?;
        #[allow(unsafe_code)]
        // SAFETY: a stage has each piece once.
        let rows = unsafe { self.rows.part(piece.clone()) };
        Some((piece.start, rows))
    }
}

/// Has `work` fill rows, of which at least `least` are a part, on all threads of the pool that is installed here. Each thread
/// that takes part is given all its parts at once.
pub fn fill<A: Rows>(rows: (A, usize), work: impl Fn(&mut Parts<'_, '_, A>) + Sync) -> A::Filled {
    fill_three(rows, work, ((), 1), |_, _| {}, ((), 1), |_, _, _| {}).0
}

/// The same in two stages: what the first has filled, the second is given.
pub fn fill_two<A: Rows, B: Rows>(
    first: (A, usize),
    fill_first: impl Fn(&mut Parts<'_, '_, A>) + Sync,
    second: (B, usize),
    fill_second: impl Fn(Done<'_, A>, &mut Parts<'_, '_, B>) + Sync,
) -> (A::Filled, B::Filled) {
    let (first, second, ()) = fill_three(first, fill_first, second, fill_second, ((), 1), |_, _, _| {});
    (first, second)
}

/// The same in three stages.
pub fn fill_three<A: Rows, B: Rows, C: Rows>(
    first: (A, usize),
    fill_first: impl Fn(&mut Parts<'_, '_, A>) + Sync,
    second: (B, usize),
    fill_second: impl Fn(Done<'_, A>, &mut Parts<'_, '_, B>) + Sync,
    third: (C, usize),
    fill_third: impl Fn(Done<'_, A>, Done<'_, B>, &mut Parts<'_, '_, C>) + Sync,
) -> (A::Filled, B::Filled, C::Filled) {
    let nothing = ((), 1);
    let (first, second, third, ..) = fill_five(
        (first, fill_first),
        (second, fill_second),
        (third, fill_third),
        (nothing, |_, _, _, _| {}),
        (nothing, |_, _, _, _, _| {}),
    );
    (first, second, third)
}

/// What five stages have filled.
type FiveFilled<A, B, C, D, E> =
    (<A as Rows>::Filled, <B as Rows>::Filled, <C as Rows>::Filled, <D as Rows>::Filled, <E as Rows>::Filled);

/// The same in five stages.
pub fn fill_five<A: Rows, B: Rows, C: Rows, D: Rows, E: Rows>(
    ((a, a_least), fill_a): ((A, usize), impl Fn(&mut Parts<'_, '_, A>) + Sync),
    ((b, b_least), fill_b): ((B, usize), impl Fn(Done<'_, A>, &mut Parts<'_, '_, B>) + Sync),
    ((c, c_least), fill_c): ((C, usize), impl Fn(Done<'_, A>, Done<'_, B>, &mut Parts<'_, '_, C>) + Sync),
    ((d, d_least), fill_d): ((D, usize), impl Fn(Done<'_, A>, Done<'_, B>, Done<'_, C>, &mut Parts<'_, '_, D>) + Sync),
    ((e, e_least), fill_e): (
        (E, usize),
        impl Fn(Done<'_, A>, Done<'_, B>, Done<'_, C>, Done<'_, D>, &mut Parts<'_, '_, E>) + Sync,
    ),
) -> FiveFilled<A, B, C, D, E> {
    let in_a = |pieces: &mut Pieces<'_>| take_all(pieces, &a, &fill_a);
    let in_b = |pieces: &mut Pieces<'_>| take_all(pieces, &b, |parts| fill_b(Done(&a), parts));
    let in_c = |pieces: &mut Pieces<'_>| take_all(pieces, &c, |parts| fill_c(Done(&a), Done(&b), parts));
    let in_d = |pieces: &mut Pieces<'_>| take_all(pieces, &d, |parts| fill_d(Done(&a), Done(&b), Done(&c), parts));
    let in_e = |pieces: &mut Pieces<'_>| {
        take_all(pieces, &e, |parts| fill_e(Done(&a), Done(&b), Done(&c), Done(&d), parts));
    };
    run_stages(&[
        Stage::new(a.count(), a_least, &in_a),
        Stage::new(b.count(), b_least, &in_b),
        Stage::new(c.count(), c_least, &in_c),
        Stage::new(d.count(), d_least, &in_d),
        Stage::new(e.count(), e_least, &in_e),
    ]);
    #[allow(unsafe_code)]
    // SAFETY: the region is over, with all pieces.
    unsafe {
        (a.filled(), b.filled(), c.filled(), d.filled(), e.filled())
    }
}

/// Also the pieces that `work` leaves are taken, so that all rows are asked for.
fn take_all<R: Rows>(pieces: &mut Pieces<'_>, rows: &R, work: impl FnOnce(&mut Parts<'_, '_, R>)) {
    let mut parts = Parts { pieces, rows };
    work(&mut parts);
    parts.for_each(drop);
}

/// Splits `rows` of `width` numbers each into ranges of at least `least`, and calls `work` with the number of the first row and the
/// rows. A last row may have fewer numbers.
pub fn split_rows<T: Send + Sync>(rows: &mut [T], width: usize, least: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    fill((Slice::new(rows, width), least), |parts| parts.for_each(|(first, rows)| work(first, rows)));
}

/// Rows of a slice, each of so many numbers; a last one may have fewer.
#[derive(Debug)]
pub struct Slice<'a, T> {
    items: SharedMut<'a, T>,
    width: usize,
}

impl<'a, T> Slice<'a, T> {
    /// Rows of `width` numbers.
    pub fn new(items: &'a mut [T], width: usize) -> Self {
        Self { items: SharedMut::new(items), width: width.max(1) }
    }
}

#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl<T: Send + Sync> Rows for Slice<'_, T> {
    type Part<'p>
        = &'p mut [T]
    where
        Self: 'p;
    type Whole<'w>
        = &'w [T]
    where
        Self: 'w;
    type Filled = ();

    fn count(&self) -> usize {
        self.items.len.div_ceil(self.width)
    }

    unsafe fn part(&self, rows: Range<usize>) -> &mut [T] {
        self.items.rows(&rows, self.width)
    }

    unsafe fn whole(&self) -> &[T] {
        // SAFETY: the memory is there, and the caller promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.items.start, self.items.len) }
    }

    unsafe fn filled(self) {}
}

/// Rows of new numbers, zeros for the part that asks for them: each clears its own, in its thread's cache.
#[derive(Debug)]
pub struct Fresh {
    numbers: Box<[UnsafeCell<MaybeUninit<f32>>]>,
    width: usize,
}

impl Fresh {
    /// So many numbers in rows of `width`; a last row may have fewer.
    pub fn new(count: usize, width: usize) -> Self {
        let numbers: Box<[MaybeUninit<UnsafeCell<MaybeUninit<f32>>>]> = Box::new_uninit_slice(count);
        #[allow(unsafe_code)]
        // SAFETY: what need not be initialized is.
        let mut numbers = unsafe { numbers.assume_init() };
        if cfg!(debug_assertions) {
            // What no part asks for shows in tests.
            numbers.iter_mut().for_each(|number| *number.get_mut() = MaybeUninit::new(f32::NAN));
        }
        Self { numbers, width: width.max(1) }
    }

    fn start(&self) -> *mut f32 {
        UnsafeCell::raw_get(self.numbers.as_ptr()).cast()
    }
}

#[allow(unsafe_code)]
// SAFETY: parts have different numbers.
unsafe impl Sync for Fresh {}

#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl Rows for Fresh {
    type Part<'p> = &'p mut [f32];
    type Whole<'w> = &'w [f32];
    type Filled = Vec<f32>;

    fn count(&self) -> usize {
        self.numbers.len().div_ceil(self.width)
    }

    unsafe fn part(&self, rows: Range<usize>) -> &mut [f32] {
        let [start, end] = [rows.start, rows.end].map(|row| self.numbers.len().min(row * self.width));
        let numbers = self.start().wrapping_add(start);
        // SAFETY: so many lie there, which nobody else is given; they are zeros before they are numbers.
        unsafe {
            numbers.write_bytes(0, end.saturating_sub(start));
            std::slice::from_raw_parts_mut(numbers, end.saturating_sub(start))
        }
    }

    unsafe fn whole(&self) -> &[f32] {
        // SAFETY: the caller promises that each was zero once, and that nobody writes.
        unsafe { std::slice::from_raw_parts(self.start(), self.numbers.len()) }
    }

    unsafe fn filled(self) -> Vec<f32> {
        let numbers = Box::into_raw(self.numbers);
        // SAFETY: the caller promises that each was zero once.
        unsafe { Box::from_raw(numbers as *mut [f32]) }.into_vec()
    }
}

/// Rows of two, of which there are equally many.
#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl<A: Rows, B: Rows> Rows for (A, B) {
    type Part<'p>
        = (A::Part<'p>, B::Part<'p>)
    where
        Self: 'p;
    type Whole<'w>
        = (A::Whole<'w>, B::Whole<'w>)
    where
        Self: 'w;
    type Filled = (A::Filled, B::Filled);

    fn count(&self) -> usize {
        assert_eq!(self.0.count(), self.1.count(), "equally many rows");
        self.0.count()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self::Part<'_> {
        // SAFETY: as the caller promises.
        unsafe { (self.0.part(rows.clone()), self.1.part(rows)) }
    }

    unsafe fn whole(&self) -> Self::Whole<'_> {
        // SAFETY: as the caller promises.
        unsafe { (self.0.whole(), self.1.whole()) }
    }

    unsafe fn filled(self) -> Self::Filled {
        // SAFETY: as the caller promises.
        unsafe { (self.0.filled(), self.1.filled()) }
    }
}

/// Rows of several one after the other: a part has of each the number of the first row and the rows, perhaps none.
#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl<R: Rows, const N: usize> Rows for [R; N] {
    type Part<'p>
        = [(usize, R::Part<'p>); N]
    where
        Self: 'p;
    type Whole<'w>
        = [R::Whole<'w>; N]
    where
        Self: 'w;
    type Filled = [R::Filled; N];

    fn count(&self) -> usize {
        self.iter().map(Rows::count).sum()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self::Part<'_> {
        let mut before = 0;
        self.each_ref().map(|own| {
            let count = own.count();
            let [start, end] = [rows.start, rows.end].map(|row| row.saturating_sub(before).min(count));
            before += count;
            // SAFETY: as the caller promises.
            (start, unsafe { own.part(start..end) })
        })
    }

    unsafe fn whole(&self) -> Self::Whole<'_> {
        // SAFETY: as the caller promises.
        self.each_ref().map(|own| unsafe { own.whole() })
    }

    unsafe fn filled(self) -> Self::Filled {
        // SAFETY: as the caller promises.
        self.map(|own| unsafe { own.filled() })
    }
}

/// No rows: a stage that there isn't.
#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl Rows for () {
    type Part<'p> = ();
    type Whole<'w> = ();
    type Filled = ();

    fn count(&self) -> usize {
        0
    }

    unsafe fn part(&self, _: Range<usize>) {}

    unsafe fn whole(&self) {}

    unsafe fn filled(self) {}
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
    let blocks = ColumnBlocks::new((rows, stride), width, size);
    run(blocks.count(), |part| {
        #[allow(unsafe_code)]
        // SAFETY: each part is there once.
        let own = unsafe { blocks.part(part..part + 1) };
        work(part, own);
    });
}

/// Blocks of the first columns of rows, which take the place of rows.
#[derive(Debug)]
pub struct ColumnBlocks<'a, T> {
    items: SharedMut<'a, T>,
    stride: usize,
    width: usize,
    size: usize,
}

impl<'a, T> ColumnBlocks<'a, T> {
    /// Blocks of `size` columns of the first `width` of rows of `stride` numbers each; a last block may have fewer.
    pub fn new((rows, stride): (&'a mut [T], usize), width: usize, size: usize) -> Self {
        Self { items: SharedMut::new(rows), stride, width: width.min(stride), size: size.max(1) }
    }

    /// The same, and the columns behind them.
    pub fn and_rest((rows, stride): (&'a mut [T], usize), width: usize, size: usize) -> (Self, Columns<'a, T>) {
        let blocks = Self::new((rows, stride), width, size);
        let rest = Columns {
            start: blocks.items.at(blocks.width),
            stride,
            width: stride - blocks.width,
            rows: blocks.items.len / stride.max(1),
            items: PhantomData,
        };
        (blocks, rest)
    }
}

#[allow(unsafe_code)]
// SAFETY: the lengths don't change, and parts are different ranges of them.
unsafe impl<T: Send + Sync> Rows for ColumnBlocks<'_, T> {
    type Part<'p>
        = Columns<'p, T>
    where
        Self: 'p;
    type Whole<'w>
        = ()
    where
        Self: 'w;
    type Filled = ();

    fn count(&self) -> usize {
        self.width.div_ceil(self.size)
    }

    unsafe fn part(&self, blocks: Range<usize>) -> Columns<'_, T> {
        let [first, end] = [blocks.start, blocks.end].map(|block| self.width.min(block * self.size));
        Columns {
            start: self.items.at(first),
            stride: self.stride,
            width: end.saturating_sub(first),
            rows: self.items.len / self.stride.max(1),
            items: PhantomData,
        }
    }

    unsafe fn whole(&self) {}

    unsafe fn filled(self) {}
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

#[allow(unsafe_code)]
// SAFETY: what is shared can only be read.
unsafe impl<T: Sync> Sync for Columns<'_, T> {}

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
        // SAFETY: this was made of rows that have these columns, and of every column once.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride), self.width)
        }
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        (0..self.rows).map(|row| {
            #[allow(unsafe_code)]
            // SAFETY: as above.
            unsafe {
                std::slice::from_raw_parts(self.start.wrapping_add(row * self.stride), self.width)
            }
        })
    }

    /// Each row takes the place of the one before it, and `last`, which has as many numbers, that of the last one.
    pub fn push(&mut self, last: &[T])
    where
        T: Copy,
    {
        for row in 1..self.rows {
            let from = self.start.wrapping_add(row * self.stride);
            #[allow(unsafe_code)]
            // SAFETY: both rows are there, and no row lies in another.
            unsafe {
                from.wrapping_sub(self.stride).copy_from_nonoverlapping(from, self.width);
            }
        }
        if let Some(row) = self.rows.checked_sub(1) {
            self.row(row).iter_mut().zip(last).for_each(|(own, last)| *own = *last);
        }
    }
}

/// A slice that is shared by parts that write different items of it.
#[derive(Debug)]
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
