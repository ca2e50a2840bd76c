//! f32 matrix products whose right factor and result have rows of any distance, and whose left factor may be transposed.

use super::LANES;
use super::isa::Isa;
use super::lanes::{Job, Lanes, dispatch};

/// So many rows have their sums in registers, in two vectors of columns each, where there is room for all of these.
pub const MANY_ROWS: usize = 12;

/// So many rows have in one vector.
const FEW_ROWS: usize = 4;

/// So many products are summed up before they are added to others: a sum of thousands in f32 loses twice as much. And of 32
/// columns, so many rows stay in the nearest cache.
const SUMMED: usize = 256;

/// A matrix in memory: element (row, column) lies at `row · row_stride + column · column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// Where the elements are.
    pub data: &'a [f32],
    /// The distance of rows.
    pub row_stride: usize,
    /// The distance of columns.
    pub column_stride: usize,
}

/// The sizes of a product: `[rows, inner]` times `[inner, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The rows of the left factor and the result.
    pub rows: usize,
    /// The columns of the left factor, and the rows of the right one.
    pub inner: usize,
    /// The columns of the right factor and the result.
    pub columns: usize,
}

/// Rows of numbers that lie side by side, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Where the elements are.
    pub data: &'a [f32],
    /// The distance of rows.
    pub stride: usize,
}

/// As [`Rows`], to be written.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// Where the elements are.
    pub data: &'a mut [f32],
    /// The distance of rows.
    pub stride: usize,
}

impl Strided<'_> {
    fn has(&self, rows: usize, columns: usize) -> bool {
        let last = |count: usize, stride: usize| (count - 1).checked_mul(stride);
        let at = || last(rows, self.row_stride)?.checked_add(last(columns, self.column_stride)?);
        rows == 0 || columns == 0 || at().is_some_and(|at| at < self.data.len())
    }
}

impl Sizes {
    fn check(&self, a: &Strided<'_>, b: &Rows<'_>, c: &RowsMut<'_>) {
        let whole = |data, stride| Strided { data, row_stride: stride, column_stride: 1 };
        assert!(a.has(self.rows, self.inner), "the left factor is too small");
        assert!(whole(b.data, b.stride).has(self.inner, self.columns), "the right factor is too small");
        assert!(whole(&*c.data, c.stride).has(self.rows, self.columns), "the result is too small");
    }
}

/// Adds `a · b` to `c`.
///
/// # Panics
/// A factor or the result is smaller than `sizes` say.
pub fn add_product(isa: Isa, sizes: Sizes, a: Strided<'_>, b: Rows<'_>, mut c: RowsMut<'_>) {
    sizes.check(&a, &b, &c);
    for first in (0..sizes.inner).step_by(SUMMED) {
        let sizes = Sizes { inner: SUMMED.min(sizes.inner - first), ..sizes };
        let a = Strided { data: a.data.get(first * a.column_stride..).unwrap_or_default(), ..a };
        let b = Rows { data: b.data.get(first * b.stride..).unwrap_or_default(), ..b };
        add_part(isa, sizes, a, b, &mut c);
    }
}

/// The same for as many inputs as are summed up at once.
fn add_part(isa: Isa, sizes: Sizes, a: Strided<'_>, b: Rows<'_>, c: &mut RowsMut<'_>) {
    dispatch(isa, Part { sizes, a, b, c: RowsMut { data: &mut *c.data, stride: c.stride } });
    for column in sizes.columns - sizes.columns % LANES..sizes.columns {
        single_column(sizes, column, a, b, c);
    }
}

/// The whole vectors of columns of a product.
struct Part<'a> {
    sizes: Sizes,
    a: Strided<'a>,
    b: Rows<'a>,
    c: RowsMut<'a>,
}

impl Job for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let (mut column, whole) = (0, self.sizes.columns - self.sizes.columns % LANES);
        while has_room::<L>() && column + 2 * LANES <= whole {
            self.columns::<L, 2>(lanes, column);
            column += 2 * LANES;
        }
        while column < whole {
            self.columns::<L, 1>(lanes, column);
            column += LANES;
        }
    }
}

/// Whether registers hold the sums of many rows in two vectors of columns.
const fn has_room<L: Lanes>() -> bool {
    2 * MANY_ROWS <= L::ROOM
}

impl Part<'_> {
    /// `C` vectors of columns: as many rows at once as have room for their sums in registers.
    #[inline(always)]
    fn columns<L: Lanes, const C: usize>(&mut self, lanes: L, column: usize) {
        let mut row = 0;
        while has_room::<L>() && row + MANY_ROWS <= self.sizes.rows {
            self.block::<L, MANY_ROWS, C>(lanes, row, column);
            row += MANY_ROWS;
        }
        while row + FEW_ROWS <= self.sizes.rows {
            self.block::<L, FEW_ROWS, C>(lanes, row, column);
            row += FEW_ROWS;
        }
        while row < self.sizes.rows {
            self.block::<L, 1, C>(lanes, row, column);
            row += 1;
        }
    }

    #[inline(always)]
    fn block<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, row: usize, column: usize) {
        let Self { sizes, a, b, .. } = *self;
        let mut sums = [[lanes.splat(0.0); C]; R];
        for k in 0..sizes.inner {
            let mut weights = [lanes.splat(0.0); C];
            for (at, weights) in weights.iter_mut().enumerate() {
                *weights = lanes.load(numbers(b.data, k * b.stride + column + at * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let [x] = *numbers(a.data, (row + r) * a.row_stride + k * a.column_stride);
                let x = lanes.splat(x);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = lanes.mul_add(x, weights, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let own = self.c.data.get_mut((row + r) * self.c.stride + column..).unwrap_or_default();
            for (own, sum) in own.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                lanes.store(lanes.add(sum, lanes.load(own)), own);
            }
        }
    }
}

#[inline(always)]
fn single_column(sizes: Sizes, column: usize, a: Strided<'_>, b: Rows<'_>, c: &mut RowsMut<'_>) {
    for row in 0..sizes.rows {
        let mut sum = 0.0;
        for k in 0..sizes.inner {
            let ([x], [weight]) =
                (*numbers(a.data, row * a.row_stride + k * a.column_stride), *numbers(b.data, k * b.stride + column));
            sum += x * weight;
        }
        if let Some(own) = c.data.get_mut(row * c.stride + column) {
            *own += sum;
        }
    }
}

/// `N` numbers from `start` on, which [`Sizes::check`] has found to be there.
#[inline(always)]
#[allow(unsafe_code)]
fn numbers<const N: usize>(data: &[f32], start: usize) -> &[f32; N] {
    debug_assert!(start + N <= data.len());
    // SAFETY: as above.
    unsafe { &*data.as_ptr().add(start).cast() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_level_equals_the_exact_product(
            rows in 0usize..20, inner in prop_oneof![3 => 0usize..40, 1 => SUMMED - 1..3 * SUMMED], columns in 0usize..40,
            transposed: bool, gap in 0usize..3,
        ) {
            let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
            let (row_stride, column_stride) = if transposed { (1, rows + gap) } else { (inner + gap, 1) };
            let data = wave((rows + gap + 1) * (inner + gap + 1), 0.7);
            let a = Strided { data: &data, row_stride, column_stride };
            let stride = columns + gap;
            let b = wave(inner * stride + gap, 0.3);
            let before = wave(rows * stride + gap, 0.11);
            for isa in Isa::available() {
                let mut c = before.clone();
                let sizes = Sizes { rows, inner, columns };
                add_product(isa, sizes, a, Rows { data: &b, stride }, RowsMut { data: &mut c, stride });
                for (at, (got, before)) in c.iter().zip(&before).enumerate() {
                    let (row, column) = (at / stride.max(1), at % stride.max(1));
                    let is_inside = row < rows && column < columns;
                    let product = |k: usize| f64::from(data[row * row_stride + k * column_stride]) * f64::from(b[k * stride + column]);
                    let sum: f64 = if is_inside { (0..inner).map(product).sum() } else { 0.0 };
                    let want = f64::from(*before) + sum;
                    // Rounding grows with the sums on the way, which are of up to `inner` terms of at most 1.
                    let bound = 1e-5f64.max(4e-7 * inner as f64);
                    prop_assert!((f64::from(*got) - want).abs() < bound, "{isa:?} at {row}, {column}: {got} for {want}");
                }
            }
        }
    }
}
