//! One row times matrices: every weight is read once, which is what the products cost. What comes after them is done to
//! each thread's outputs in the same parallel region.

use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::blocks::{self, Activations};
use super::isa::Isa;
use super::matrix::{Matrix, Precision, WeightType};
use super::panels::{self, Element, PANEL};
use super::pool;
use super::rows::swiglu_row;

/// So many bytes of weights are worth a part of a parallel region: half a microsecond.
const PART: usize = 8 << 10;

/// One row on its way to some matrices.
struct Row<'a> {
    isa: Isa,
    x: &'a [f32],
    /// The same row, where it meets blocks.
    quantized: Option<Activations>,
    /// So many panels are worth a part of a parallel region.
    least: usize,
}

impl<'a> Row<'a> {
    fn new(matrices: &[&Matrix], isa: Isa, x: &'a [f32], precision: Precision) -> Self {
        debug_assert!(matrices.iter().all(|matrix| matrix.n_in() == x.len()), "matrices of as many inputs");
        let has_blocks = matrices.iter().any(|matrix| matrix.dtype().is_blocks());
        let panel = matrices.iter().map(|matrix| matrix.panel_bytes()).max().unwrap_or_default();
        // Panels of blocks meet a row two by two.
        let together = if has_blocks { 2 } else { 1 };
        Self {
            isa: isa.min(Isa::best()),
            x,
            quantized: (has_blocks && precision == Precision::Fast).then(|| Activations::quantize(x)),
            least: PART.div_ceil(panel.max(1)).next_multiple_of(together),
        }
    }

    /// Some outputs of a matrix, from the panel `first` on.
    fn times(&self, matrix: &Matrix, first: usize, y: &mut [f32]) {
        let (isa, x, panels) = (self.isa, self.x, matrix.panels(first, y.len().div_ceil(PANEL)));
        match (matrix.dtype(), &self.quantized) {
            (WeightType::F32, _) => panels_times::<f32>(isa, bytemuck::cast_slice(panels), x, y),
            (WeightType::F16, _) => panels_times::<f16>(isa, bytemuck::cast_slice(panels), x, y),
            (WeightType::Bf16, _) => panels_times::<bf16>(isa, bytemuck::cast_slice(panels), x, y),
            (WeightType::Blocks(format), None) => blocks::rows_times_f32(isa, format, panels, x, y),
            (WeightType::Blocks(format), Some(x)) => blocks::rows_times(isa, format, panels, x, y),
        }
    }
}

/// One row times some panels of a plain type.
fn panels_times<T: Element>(isa: Isa, panels: &[T], x: &[f32], y: &mut [f32]) {
    for (panel, y) in panels.chunks_exact(panels::panel_len::<T>(x.len()).max(1)).zip(y.chunks_mut(PANEL)) {
        y.iter_mut().zip(panels::times(isa, panel, x)).for_each(|(y, sum)| *y = sum);
    }
}

/// Some outputs of one of several matrices.
#[derive(Debug)]
pub struct Outputs<'a> {
    /// Which matrix they are of.
    pub which: usize,
    /// The number of the first.
    pub first: usize,
    /// From the first on.
    pub y: &'a mut [f32],
}

/// `x` `[n_in]` times the transpose of each of the matrices, which have as many inputs: of each `[n_out]`. `after` is
/// called with some outputs at a time, until it was called with all.
pub fn times_all<const N: usize>(
    matrices: [&Matrix; N],
    isa: Isa,
    x: &[f32],
    precision: Precision,
    after: impl Fn(Outputs<'_>) + Sync,
) -> [Vec<f32>; N] {
    let row = Row::new(&matrices, isa, x, precision);
    let mut ys = matrices.map(|matrix| Box::new_uninit_slice(matrix.n_out()));
    pool::split_rows_of_all(ys.each_mut().map(|y| &mut **y), PANEL, row.least, |which, first, room| {
        let y = zeroed(room);
        if let Some(matrix) = matrices.get(which) {
            row.times(matrix, first, y);
            after(Outputs { which, first: first * PANEL, y });
        }
    });
    #[allow(unsafe_code)]
    // SAFETY: the parts are all of each, and zeroed.
    ys.map(|y| unsafe { y.assume_init() }.into_vec())
}

/// `x` `[n_in]` times the transpose of a matrix, on this thread: `y` `[n_out]`, which is zero before.
pub(super) fn times_here(matrix: &Matrix, isa: Isa, x: &[f32], precision: Precision, y: &mut [f32]) {
    Row::new(&[matrix], isa, x, precision).times(matrix, 0, y);
}

/// `silu(gate · factor) · up` of what `x` `[n_in]` gives with two matrices of one size.
///
/// # Panics
/// The matrices have different numbers of outputs.
pub fn gated(gate: &Matrix, factor: f32, up: &Matrix, isa: Isa, x: &[f32], precision: Precision) -> Vec<f32> {
    assert_eq!(gate.n_out(), up.n_out(), "matrices of one size");
    let row = Row::new(&[gate, up], isa, x, precision);
    let [mut gates, mut ups] = [gate, up].map(|matrix| Box::new_uninit_slice(matrix.n_out()));
    pool::split_rows_of_two((&mut gates, PANEL), (&mut ups, PANEL), row.least, |first, gates, ups| {
        let (gates, ups) = (zeroed(gates), zeroed(ups));
        row.times(gate, first, gates);
        row.times(up, first, ups);
        swiglu_row(row.isa, gates, factor, ups);
    });
    #[allow(unsafe_code)]
    // SAFETY: the parts are all of it, and zeroed.
    unsafe { ups.assume_init() }.into_vec()
}

/// Zeros where nothing was. Each part of a parallel region makes its own, in its thread's cache.
fn zeroed(room: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    room.fill(MaybeUninit::new(0.0));
    #[allow(unsafe_code)]
    // SAFETY: every number was just stored.
    unsafe {
        room.assume_init_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::kernels::blocks::Format;
    use crate::kernels::matrix::tests::{matrix, wave};
    use crate::kernels::{matrix, rows};

    #[test]
    fn what_follows_a_row_s_product_is_called_once_with_each_output() {
        let (gate, up) = (matrix(WeightType::Bf16, 1030, 37), matrix(WeightType::F16, 1030, 37));
        let x = wave(37, 0.73);
        let [gates, ups] = matrix::times_all([&gate, &up], Isa::best(), &x, Precision::Fast);
        let (counted, gated) = pool::Pool::new(3).unwrap().install(|| {
            let count = |Outputs { which, first, y }: Outputs<'_>| {
                (first..).zip(y).for_each(|(at, y)| *y += (at + 5000 * which) as f32);
            };
            let counted = times_all([&gate, &up], Isa::best(), &x, Precision::Fast, count);
            (counted, gated(&gate, 0.5, &up, Isa::best(), &x, Precision::Fast))
        });
        let plain = gates.iter().chain(&ups).zip((0..gates.len()).chain(5000..)).map(|(y, number)| y + number as f32);
        assert_eq!(counted.concat(), plain.collect::<Vec<_>>());
        let mut want = ups;
        rows::swiglu(Isa::best(), &gates, 0.5, &mut want);
        let far = gated.iter().zip(&want).find(|(got, want)| (**got - **want).abs() > 1e-6 * want.abs());
        assert_eq!((gated.len(), far), (want.len(), None));
    }

    #[test]
    fn a_row_meets_blocks_as_the_precision_says() {
        let (n_in, n_out, x) = (64, 100, wave(64, 0.73));
        let fill =
            |first: usize, panel: &mut [u8]| (first..).zip(panel).for_each(|(at, byte)| *byte = (at * 37 % 61) as u8);
        let matrix = Matrix::new(WeightType::Blocks(Format::Q8_0), n_out, n_in, fill).unwrap();
        for isa in Isa::available() {
            let (mut exact, mut fast) = (vec![0.0; n_out], vec![0.0; n_out]);
            let panels = matrix.panels(0, n_out.div_ceil(PANEL));
            blocks::rows_times_f32(isa, Format::Q8_0, panels, &x, &mut exact);
            blocks::rows_times(isa, Format::Q8_0, panels, &Activations::quantize(&x), &mut fast);
            assert_ne!(exact, fast);
            for (precision, want) in [(Precision::Exact, exact), (Precision::Fast, fast)] {
                assert_eq!(times_all([&matrix], isa, &x, precision, |_| {}), slice::from_ref(&want));
                let mut by_parts = want.clone();
                swiglu_row(isa, &want, 0.3, &mut by_parts);
                assert_eq!(gated(&matrix, 0.3, &matrix, isa, &x, precision), by_parts);
            }
        }
    }
}
