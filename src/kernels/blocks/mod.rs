//! Products with block-quantized weights, packed so that the CPU's dot-4 instructions read them in order.
//!
//! A matrix `[n_out, n_in]` is stored as panels of 16 output rows, the last filled up with rows of zeros. A panel has,
//! for each block of inputs, one packed block of its 16 rows: what ggml's 16 blocks have, in the order of `layout`.
//! `pack` makes it; `jobs` has the kernels and `several` those of several rows, written once in the vector operations of
//! `vectors`, which `scalar`, `avx2` and `avx512` implement; `planes` lays panels out for GPUs. Activations are
//! [`Activations`] of 16-bit integers or, where they must be exact, f32.
//!
//! Functions here stay on the calling thread: callers share panels among threads.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod jobs;
mod layout;
mod pack;
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
mod planes;
mod scalar;
mod several;
#[cfg(test)]
mod tests;
mod vectors;

use std::ops::Range;

use super::isa::Isa;

pub use self::activations::{ActivationRows, Activations};

use self::{
    jobs::{RowsTimes, RowsTimesF32, ToBf16Pairs, ToF32, ToRow, Widen},
    layout::{Q4K, Q5K, Q6K, Q8_0},
    pack::Pack,
    several::PanelsTimesRows,
    vectors::dispatch,
};

/// Output rows of a panel.
pub const ROWS: usize = 16;

/// Inputs that share a scale of the activations, and of most formats' weights.
pub const GROUP: usize = 32;

/// ggml's block types that can be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 integers of 8 bits with a scale.
    Q8_0,
    /// 256 integers of 4 bits with a scale and a minimum per 32.
    Q4K,
    /// 256 integers of 5 bits with a scale and a minimum per 32.
    Q5K,
    /// 256 integers of 6 bits with a scale per 16.
    Q6K,
}

/// Lengths of a format's blocks.
struct Lengths {
    block: usize,
    ggml_bytes: usize,
    packed_bytes: usize,
}

impl Lengths {
    const fn of<B: Pack>() -> Self {
        Self { block: B::GROUPS * GROUP, ggml_bytes: size_of::<B::Source>(), packed_bytes: size_of::<B>() }
    }
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    const fn lengths(self) -> Lengths {
        match self {
            Self::Q8_0 => Lengths::of::<Q8_0>(),
            Self::Q4K => Lengths::of::<Q4K>(),
            Self::Q5K => Lengths::of::<Q5K>(),
            Self::Q6K => Lengths::of::<Q6K>(),
        }
    }

    /// Inputs of a block; rows have a multiple of it.
    pub const fn block_len(self) -> usize {
        self.lengths().block
    }

    /// Bytes of ggml's block, of one row.
    pub const fn ggml_block_bytes(self) -> usize {
        self.lengths().ggml_bytes
    }

    /// Bytes of ggml's blocks of a row.
    pub const fn ggml_row_bytes(self, n_in: usize) -> usize {
        n_in / self.block_len() * self.ggml_block_bytes()
    }

    /// Bytes of a packed panel of 16 rows.
    pub const fn panel_bytes(self, n_in: usize) -> usize {
        n_in / self.block_len() * self.lengths().packed_bytes
    }

    /// Bytes of a packed matrix `[n_out, n_in]`.
    pub const fn packed_bytes(self, n_out: usize, n_in: usize) -> usize {
        n_out.div_ceil(ROWS) * self.panel_bytes(n_in)
    }
}

/// Packs ggml's blocks of up to 16 rows into `panel` of [`Format::panel_bytes`]; further rows become zeros.
pub fn pack_panel(format: Format, rows: &[u8], n_in: usize, panel: &mut [u8]) {
    debug_assert!(n_in.is_multiple_of(format.block_len()), "{n_in} inputs in blocks of {}", format.block_len());
    debug_assert_eq!(panel.len(), format.panel_bytes(n_in));
    let row_bytes = format.ggml_row_bytes(n_in);
    debug_assert!(rows.len() <= ROWS * row_bytes && rows.len().is_multiple_of(row_bytes.max(1)));
    match format {
        Format::Q8_0 => pack::panel::<Q8_0>(rows, row_bytes, panel),
        Format::Q4K => pack::panel::<Q4K>(rows, row_bytes, panel),
        Format::Q5K => pack::panel::<Q5K>(rows, row_bytes, panel),
        Format::Q6K => pack::panel::<Q6K>(rows, row_bytes, panel),
    }
}

/// Lays out a packed panel as the kernels of GPUs read it.
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
pub fn arrange_panel(format: Format, panel: &mut [u8]) {
    match format {
        Format::Q8_0 => planes::arrange::<Q8_0>(panel),
        Format::Q4K => planes::arrange::<Q4K>(panel),
        Format::Q5K => planes::arrange::<Q5K>(panel),
        Format::Q6K => planes::arrange::<Q6K>(panel),
    }
}

/// `y[o] = Σᵢ w[o, i] · x[i]` for consecutive whole `panels` and `y` with 16 values for each, the last with fewer where
/// the matrix ends. Sums over 32 inputs (16 for [`Format::Q6K`]) are exact, sums of those are rounded to f32.
pub fn rows_times(isa: Isa, format: Format, panels: &[u8], x: &Activations, y: &mut [f32]) {
    debug_assert_eq!(panels.len(), format.packed_bytes(y.len(), x.n_in()));
    dispatch(isa, format, RowsTimes { panels, x: x.groups(), y });
}

/// [`rows_times`] for activations `x` `[n_in]` that are not quantized.
pub fn rows_times_f32(isa: Isa, format: Format, panels: &[u8], x: &[f32], y: &mut [f32]) {
    debug_assert_eq!(panels.len(), format.packed_bytes(y.len(), x.len()));
    dispatch(isa, format, RowsTimesF32 { panels, x: bytemuck::cast_slice(x), y });
}

/// What [`rows_times`] gives of one panel or two for each row of `x`, bit for bit: `y` `[rows][2][16]`, as many rows as `x` has.
pub fn panels_times_rows(isa: Isa, format: Format, panels: &[u8], x: &ActivationRows, y: &mut [[[f32; ROWS]; 2]]) {
    debug_assert!([1, 2].map(|count| count * format.panel_bytes(x.n_in())).contains(&panels.len()));
    debug_assert_eq!(y.len().div_ceil(activations::TOGETHER), x.blocks().len());
    dispatch(isa, format, PanelsTimesRows { panels, x, y });
}

/// The weights of one row of a panel as f32 `[n_in]`.
pub fn unpack_row(isa: Isa, format: Format, panel: &[u8], row: usize, out: &mut [f32]) {
    debug_assert!(row < ROWS, "row {row} of a panel");
    debug_assert_eq!(panel.len(), format.panel_bytes(out.len()));
    let groups = 0..out.len() / GROUP;
    dispatch(isa, format, Widen { panel, groups, sink: ToRow { row, out: out.as_chunks_mut().0.iter_mut() } });
}

/// The weights of inputs `k` of a panel as f32 `[k][16 rows]`; both ends of `k` are multiples of 32.
pub fn widen_panel(isa: Isa, format: Format, panel: &[u8], k: Range<usize>, out: &mut [f32]) {
    debug_assert_eq!(out.len(), k.len() * ROWS);
    let sink = ToF32(bytemuck::cast_slice_mut(out).iter_mut());
    dispatch(isa, format, Widen { panel, groups: groups(k), sink });
}

/// The weights of inputs `k` of a panel as bf16 `[k / 2][16 rows][2]`, rounded to nearest even: a `u32` has the even
/// input in its low half. Both ends of `k` are multiples of 32.
pub fn widen_panel_bf16_pairs(isa: Isa, format: Format, panel: &[u8], k: Range<usize>, out: &mut [u32]) {
    debug_assert_eq!(out.len(), k.len() / 2 * ROWS);
    let sink = ToBf16Pairs(bytemuck::cast_slice_mut(out).iter_mut());
    dispatch(isa, format, Widen { panel, groups: groups(k), sink });
}

fn groups(k: Range<usize>) -> Range<usize> {
    debug_assert!(k.start.is_multiple_of(GROUP) && k.end.is_multiple_of(GROUP), "{k:?} in groups of {GROUP}");
    k.start / GROUP..k.end / GROUP
}
