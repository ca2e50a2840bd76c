//! f32 matrix products whose right factor and result have rows of any distance, and whose left factor may be transposed.

use super::isa::{Isa, vectorized};

/// The sums of one row in registers.
const LANES: usize = 16;

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
        rows == 0 || columns == 0 || self.data.len() > (rows - 1) * self.row_stride + (columns - 1) * self.column_stride
    }
}

impl Sizes {
    fn check(&self, a: &Strided<'_>, b: &Rows<'_>, c: &RowsMut<'_>) {
        let has = |len: usize, stride: usize, rows: usize| rows == 0 || len >= (rows - 1) * stride + self.columns;
        assert!(a.has(self.rows, self.inner), "the left factor is too small");
        assert!(has(b.data.len(), b.stride, self.inner), "the right factor is too small");
        assert!(has(c.data.len(), c.stride, self.rows), "the result is too small");
    }
}

vectorized! {
    /// Adds `a · b` to `c`.
    pub fn add_product(isa: Isa, sizes: Sizes, a: Strided<'_>, b: Rows<'_>, c: RowsMut<'_>) {
        sizes.check(&a, &b, &c);
        if isa >= Isa::Avx512 { each_block::<8>(isa, sizes, a, b, c) } else { each_block::<4>(isa, sizes, a, b, c) }
    }
}

#[inline(always)]
fn each_block<const R: usize>(isa: Isa, sizes: Sizes, a: Strided<'_>, b: Rows<'_>, c: RowsMut<'_>) {
    for column in (0..sizes.columns).step_by(LANES) {
        let width = LANES.min(sizes.columns - column);
        let mut row = 0;
        while row + R <= sizes.rows {
            block::<R>(isa, sizes.inner, (row, column, width), a, b, c.data, c.stride);
            row += R;
        }
        while row < sizes.rows {
            block::<1>(isa, sizes.inner, (row, column, width), a, b, c.data, c.stride);
            row += 1;
        }
    }
}

/// `R` rows of up to 16 columns.
#[inline(always)]
fn block<const R: usize>(
    isa: Isa,
    inner: usize,
    (row, column, width): (usize, usize, usize),
    a: Strided<'_>,
    b: Rows<'_>,
    c: &mut [f32],
    c_stride: usize,
) {
    let mut sums = [[0.0; LANES]; R];
    if width == LANES {
        for k in 0..inner {
            let weights: [f32; LANES] = *at(b.data, k * b.stride + column);
            add_outer(isa, &mut sums, &weights, a, row, k);
        }
    } else {
        for k in 0..inner {
            let mut weights = [0.0; LANES];
            let own = b.data.iter().skip(k * b.stride + column);
            weights.iter_mut().take(width).zip(own).for_each(|(weight, own)| *weight = *own);
            add_outer(isa, &mut sums, &weights, a, row, k);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let own = c.iter_mut().skip((row + r) * c_stride + column).take(width);
        own.zip(sums).for_each(|(c, sum)| *c += sum);
    }
}

#[inline(always)]
fn add_outer<const R: usize>(
    isa: Isa,
    sums: &mut [[f32; LANES]; R],
    weights: &[f32; LANES],
    a: Strided<'_>,
    row: usize,
    k: usize,
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        let [x] = *at(a.data, (row + r) * a.row_stride + k * a.column_stride);
        sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum = isa.mul_add(x, *weight, *sum));
    }
}

/// `N` numbers from `start` on, which [`Sizes::check`] has found to be there.
#[inline(always)]
#[allow(unsafe_code)]
fn at<const N: usize>(data: &[f32], start: usize) -> &[f32; N] {
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
            rows in 0usize..20, inner in 0usize..40, columns in 0usize..40, transposed: bool, gap in 0usize..3,
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
                    prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?} at {row}, {column}: {got} for {want}");
                }
            }
        }
    }
}
