//! Products with a matrix for each head, all of one size.

use std::mem::MaybeUninit;

use super::isa::Isa;
use super::matrix::{Matrix, Precision, Several, Sums, written};
use super::{pool, row};

/// So many numbers are worth a part of a parallel region.
const PART: usize = 1 << 12;

/// Rows that all heads meet.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// `[rows, n_in]`.
    pub x: &'a [f32],
    /// How many rows there are.
    pub rows: usize,
    /// What stands behind each row's products, of every head: `[rows, width]`, or nothing.
    pub behind: &'a [f32],
}

/// All rows times the transpose of each matrix: `[heads, rows, n_out + width]`.
pub fn times_shared(matrices: &[Matrix], isa: Isa, shared: Shared<'_>, precision: Precision) -> Vec<f32> {
    let Shared { x, rows, behind } = shared;
    let (n_out, width) = (n_out(matrices), behind.len() / rows.max(1));
    let stride = n_out + width;
    assert_eq!(behind.len(), rows * width, "as much behind each of {rows} rows");
    let mut several = Several::new(isa, x, rows, precision);
    let fill = |y: &mut [MaybeUninit<f32>]| {
        for (matrix, room) in matrices.iter().zip(y.chunks_mut((rows * stride).max(1))) {
            several.times(matrix, Sums { room, stride });
        }
        if width > 0 {
            pool::split_rows(y, stride, PART.div_ceil(stride), |first, y| {
                for (at, y) in (first..).zip(y.chunks_exact_mut(stride)) {
                    let behind = behind.iter().skip(at % rows * width);
                    y.iter_mut().skip(n_out).zip(behind).for_each(|(y, x)| *y = MaybeUninit::new(*x));
                }
            });
        }
    };
    #[allow(unsafe_code)]
    // SAFETY: a sum is stored for every row and output of each head, and what is behind them.
    unsafe {
        written(matrices.len() * rows * stride, fill)
    }
}

/// Rows of each head's own, `x` `[heads, rows, n_in]`, times the transpose of its matrix: `[heads, rows, n_out]`.
pub fn times_own(matrices: &[Matrix], isa: Isa, x: &[f32], rows: usize, precision: Precision) -> Vec<f32> {
    let (n_out, of_head) = (n_out(matrices), x.len() / matrices.len().max(1));
    let own = |head: usize| x.get(head * of_head..(head + 1) * of_head).unwrap_or_default();
    if rows == 1 {
        let mut y = vec![0.0; matrices.len() * n_out];
        pool::chunks(&mut y, n_out.max(1), |head, y| {
            if let Some(matrix) = matrices.get(head) {
                row::times_here(matrix, isa, own(head), precision, y);
            }
        });
        return y;
    }
    let fill = |y: &mut [MaybeUninit<f32>]| {
        for (head, (matrix, room)) in matrices.iter().zip(y.chunks_mut((rows * n_out).max(1))).enumerate() {
            Several::new(isa, own(head), rows, precision).times(matrix, Sums { room, stride: n_out });
        }
    };
    #[allow(unsafe_code)]
    // SAFETY: a sum is stored for every row and output of each head.
    unsafe {
        written(matrices.len() * rows * n_out, fill)
    }
}

/// The number of outputs of each matrix.
///
/// # Panics
/// They differ.
fn n_out(matrices: &[Matrix]) -> usize {
    let n_out = matrices.first().map_or(0, Matrix::n_out);
    assert!(matrices.iter().all(|matrix| matrix.n_out() == n_out), "matrices of one size");
    n_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::blocks::Format;
    use crate::kernels::matrix::WeightType;
    use crate::kernels::matrix::tests::{matrix, wave};

    fn check(matrices: &[Matrix; 3], isa: Isa, precision: Precision) {
        let (n_in, n_out, rows, width) = (matrices[0].n_in(), matrices[0].n_out(), 5, 3);
        let (x, behind) = (wave(3 * rows * n_in, 0.73), wave(rows * width, 0.9));
        let times = |head: usize, x: &[f32]| matrices[head].times(isa, x, precision);
        let own = x.chunks(rows * n_in).enumerate().flat_map(|(head, x)| times(head, x));
        assert_eq!(times_own(matrices, isa, &x, rows, precision), own.collect::<Vec<_>>());
        let one = x.chunks(n_in).take(3).enumerate().flat_map(|(head, x)| times(head, x));
        assert_eq!(times_own(matrices, isa, &x[..3 * n_in], 1, precision), one.collect::<Vec<_>>());

        let shared = Shared { x: &x[..rows * n_in], rows, behind: &behind };
        let got = times_shared(matrices, isa, shared, precision);
        let products: Vec<f32> = (0..3).flat_map(|head| times(head, shared.x)).collect();
        let rows = products.chunks(n_out).zip(behind.chunks(width).cycle());
        assert_eq!(got, rows.flat_map(|(y, behind)| [y, behind].concat()).collect::<Vec<_>>());
    }

    #[test]
    fn each_head_gives_what_its_matrix_gives() {
        let blocks = WeightType::Blocks(Format::Q8_0);
        let fill = |_: usize, panel: &mut [u8]| (0..).zip(panel).for_each(|(at, byte)| *byte = (at * 37 % 61) as u8);
        let mut all = vec![[21; 3].map(|n_out| Matrix::new(blocks, n_out, 64, fill).unwrap())];
        all.extend(
            [WeightType::F32, WeightType::F16, WeightType::Bf16].map(|dtype| [21; 3].map(|n| matrix(dtype, n, 37))),
        );
        let pool = pool::Pool::new(3).unwrap();
        for (matrices, isa) in all.iter().flat_map(|matrices| Isa::available().map(move |isa| (matrices, isa))) {
            for precision in [Precision::Fast, Precision::Exact] {
                pool.install(|| check(matrices, isa, precision));
            }
        }
    }
}
