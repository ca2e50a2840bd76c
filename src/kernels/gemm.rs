//! f32 matrix products whose right factor and result have rows of any distance, and whose left factor may be transposed.

use super::isa::{Isa, vectorized};

/// The sums of one row in registers.
const LANES: usize = 16;

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
    let whole = sizes.columns - sizes.columns % LANES;
    match isa.min(Isa::best()) {
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Isa::Avx512 | Isa::Bf16 | Isa::Amx => {
            for column in (0..whole).step_by(2 * LANES) {
                let at = (column, (whole - column) / LANES);
                // SAFETY: the level has AVX-512, and the sizes have been checked.
                unsafe { avx512::columns(sizes, at, a, b, c) };
            }
        }
        isa => {
            for column in (0..whole).step_by(LANES) {
                vector_of_columns(isa, sizes, column, a, b, c);
            }
        }
    }
    for column in whole..sizes.columns {
        single_column(sizes, column, a, b, c);
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512 {
    //! The same in registers: of arrays, the compiler keeps a copy in memory that it writes at every step.

    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{LANES, Rows, RowsMut, Sizes, Strided};

    /// The rows whose sums are in registers: with two vectors of columns 24 of the 32.
    const TOGETHER: usize = 12;

    /// Two vectors of columns, or the last one.
    ///
    /// # Safety
    /// All factors are as large as `sizes` say.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn columns(
        sizes: Sizes,
        (column, vectors): (usize, usize),
        a: Strided<'_>,
        b: Rows<'_>,
        c: &mut RowsMut<'_>,
    ) {
        let mut row = 0;
        while row < sizes.rows {
            let rows = match sizes.rows - row {
                TOGETHER.. => TOGETHER,
                4.. => 4,
                _ => 1,
            };
            // SAFETY: as for this function.
            unsafe {
                match (rows, vectors) {
                    (TOGETHER, 1) => block::<TOGETHER, 1>(sizes.inner, (row, column), a, b, c),
                    (TOGETHER, _) => block::<TOGETHER, 2>(sizes.inner, (row, column), a, b, c),
                    (4, 1) => block::<4, 1>(sizes.inner, (row, column), a, b, c),
                    (4, _) => block::<4, 2>(sizes.inner, (row, column), a, b, c),
                    (_, 1) => block::<1, 1>(sizes.inner, (row, column), a, b, c),
                    _ => block::<1, 2>(sizes.inner, (row, column), a, b, c),
                }
            }
            row += rows;
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn block<const R: usize, const C: usize>(
        inner: usize,
        (row, column): (usize, usize),
        a: Strided<'_>,
        b: Rows<'_>,
        c: &mut RowsMut<'_>,
    ) {
        let (a_start, b_start) =
            (a.data.as_ptr().wrapping_add(row * a.row_stride), b.data.as_ptr().wrapping_add(column));
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for k in 0..inner {
            let (a_k, b_k) = (a_start.wrapping_add(k * a.column_stride), b_start.wrapping_add(k * b.stride));
            // SAFETY: `R` rows, `C` vectors of columns and `inner` of both factors are there.
            let weights: [_; C] = std::array::from_fn(|at| unsafe { _mm512_loadu_ps(b_k.wrapping_add(at * LANES)) });
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = _mm512_set1_ps(unsafe { *a_k.wrapping_add(r * a.row_stride) });
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(x, weights, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (at, sum) in sums.into_iter().enumerate() {
                let own = c.data.as_mut_ptr().wrapping_add((row + r) * c.stride + column + at * LANES);
                // SAFETY: the result has these rows and columns.
                unsafe { _mm512_storeu_ps(own, _mm512_add_ps(sum, _mm512_loadu_ps(own))) };
            }
        }
    }
}

vectorized! {
    fn vector_of_columns(isa: Isa, sizes: Sizes, column: usize, a: Strided<'_>, b: Rows<'_>, c: &mut RowsMut<'_>) {
        let mut row = 0;
        while row + 4 <= sizes.rows {
            block::<4>(isa, sizes.inner, (row, column), a, b, c);
            row += 4;
        }
        while row < sizes.rows {
            block::<1>(isa, sizes.inner, (row, column), a, b, c);
            row += 1;
        }
    }
}

#[inline(always)]
fn block<const R: usize>(
    isa: Isa,
    inner: usize,
    (row, column): (usize, usize),
    a: Strided<'_>,
    b: Rows<'_>,
    c: &mut RowsMut<'_>,
) {
    let mut sums = [[0.0; LANES]; R];
    for k in 0..inner {
        let weights: [f32; LANES] = *numbers(b.data, k * b.stride + column);
        for (r, sums) in sums.iter_mut().enumerate() {
            let [x] = *numbers(a.data, (row + r) * a.row_stride + k * a.column_stride);
            for (sum, weight) in sums.iter_mut().zip(&weights) {
                *sum = isa.mul_add(x, *weight, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let own = c.data.iter_mut().skip((row + r) * c.stride + column);
        for (c, sum) in own.zip(sums) {
            *c += sum;
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
