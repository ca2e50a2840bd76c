//! What the parts of a parallel region share out among themselves.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

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

/// A slice that is shared by parts that write different items of it.
#[derive(Debug)]
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    items: PhantomData<&'a mut [T]>,
}

#[allow(unsafe_code)]
// SAFETY: parts that have it write different items.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn new(items: &'a mut [T]) -> Self {
        Self { start: items.as_mut_ptr(), len: items.len(), items: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn at(&self, index: usize) -> *mut T {
        self.start.wrapping_add(index)
    }

    /// Rows of `width` items, as far as there are such. Every part of a region has rows of its own.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn rows(&self, rows: &Range<usize>, width: usize) -> &mut [T] {
        let (start, end) = (self.len.min(rows.start * width), self.len.min(rows.end * width));
        #[allow(unsafe_code)]
        // SAFETY: the range lies within the items, and is asked for once, since parts don't overlap.
        unsafe {
            std::slice::from_raw_parts_mut(self.at(start), end.saturating_sub(start))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pool, fill};
    use super::*;

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
    fn rows_that_nobody_touches_are_zeros() {
        Pool::new(2).unwrap().install(|| assert_eq!(fill((Fresh::new(1000, 7), 2), |_| {}), vec![0.0; 1000]));
    }
}
