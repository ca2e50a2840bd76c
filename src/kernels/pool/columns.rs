//! Columns of rows of numbers, which take the place of rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::rows::{Rows, SharedMut};
use super::run;

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
            rows: blocks.items.len() / stride.max(1),
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
            rows: self.items.len() / self.stride.max(1),
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

    /// All rows, from `first` on and around.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = &[T]> {
        (first..first + self.rows).map(|row| {
            #[allow(unsafe_code)]
            // SAFETY: as above.
            unsafe {
                std::slice::from_raw_parts(self.start.wrapping_add(row % self.rows * self.stride), self.width)
            }
        })
    }
}
