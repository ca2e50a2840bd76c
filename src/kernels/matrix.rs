//! A matrix of weights as the kernels want it, and what it is multiplied with.

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::blocks::{self, ActivationRows, Format};
use super::gemm::{self, Rows, RowsMut, Sizes, Strided};
use super::isa::Isa;
use super::left::{self, Left};
use super::memory::{self, Line, Memory};
use super::panels::{self, PANEL};
use super::pool::{self, Columns};
use super::row::{self, Product};

/// How exactly activations meet weights. Sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Where several rows meet weights of bf16 or blocks, activations become bf16, and so do the values of blocks, on
    /// processors that have such products. Else activations that meet blocks have 16 bits with AVX2, and those of one row
    /// always. All others stay f32.
    #[default]
    Fast,
    /// All activations are f32, and weights are what is stored.
    Exact,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of few bits for each number and scales that they share.
    Blocks(Format),
}

/// A matrix `[n_out, n_in]` in panels of 16 outputs.
pub struct Matrix {
    dtype: WeightType,
    n_out: usize,
    n_in: usize,
    memory: Memory,
}

/// What several rows and a matrix become before they are multiplied.
enum Way {
    /// Each activation a sum of so many bf16, weights bf16.
    Bf16 { terms: usize },
    /// Both integers.
    Integers(Format),
    /// Both f32.
    Widened,
}

/// At most so many bytes are loaded by one thread at a time.
const LOADED_TOGETHER: usize = 1 << 20;

/// Each thread has at least so many turns in loading a matrix, if it has the panels: quantizing takes long.
const TURNS: usize = 8;

impl WeightType {
    /// All types.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Blocks(Format::Q8_0),
        Self::Blocks(Format::Q4K),
        Self::Blocks(Format::Q5K),
        Self::Blocks(Format::Q6K),
    ];

    /// The name that people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Blocks(Format::Q8_0) => "q8_0",
            Self::Blocks(Format::Q4K) => "q4_k",
            Self::Blocks(Format::Q5K) => "q5_k",
            Self::Blocks(Format::Q6K) => "q6_k",
        }
    }

    /// Whether it has blocks.
    pub fn is_blocks(self) -> bool {
        matches!(self, Self::Blocks(_))
    }

    /// The bytes of a panel for so many inputs.
    pub fn panel_bytes(self, n_in: usize) -> usize {
        match self {
            Self::F32 => 4 * panels::panel_len::<f32>(n_in),
            Self::F16 => 2 * panels::panel_len::<f16>(n_in),
            Self::Bf16 => 2 * panels::panel_len::<bf16>(n_in),
            Self::Blocks(format) => format.panel_bytes(n_in),
        }
    }

    /// The bytes of a matrix `[n_out, n_in]` in panels; none where that is beyond all memory.
    pub fn packed_bytes(self, n_out: usize, n_in: usize) -> Option<usize> {
        n_out.div_ceil(PANEL).checked_mul(self.panel_bytes(n_in))
    }

    /// The bytes of a row of `n_in` numbers, stored one after the other; none where that is no whole number of blocks.
    pub fn row_bytes(self, n_in: usize) -> Option<usize> {
        match self {
            Self::F32 => n_in.checked_mul(4),
            Self::F16 | Self::Bf16 => n_in.checked_mul(2),
            Self::Blocks(format) => n_in.is_multiple_of(format.block_len()).then(|| format.ggml_row_bytes(n_in)),
        }
    }

    /// Lays up to 16 rows of `n_in` numbers, stored one after the other as this type, as a panel.
    pub fn pack(self, isa: Isa, rows: &[u8], n_in: usize, panel: &mut [u8]) {
        match self {
            Self::F32 => panels::pack::<f32>(isa, &numbers(rows), n_in, bytemuck::cast_slice_mut(panel)),
            Self::F16 => panels::pack::<f16>(isa, &numbers(rows), n_in, bytemuck::cast_slice_mut(panel)),
            Self::Bf16 => panels::pack::<bf16>(isa, &numbers(rows), n_in, bytemuck::cast_slice_mut(panel)),
            Self::Blocks(format) => blocks::pack_panel(format, rows, n_in, panel),
        }
    }
}

/// Stored numbers, which may lie anywhere.
fn numbers<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(bytes: &[u8]) -> Cow<'_, [T]> {
    bytemuck::try_cast_slice(bytes).map_or_else(|_| bytemuck::pod_collect_to_vec(bytes).into(), Cow::Borrowed)
}

impl Matrix {
    /// A matrix whose panels `fill` writes, some of them at a time, told of the number of the first; none where there is no
    /// memory for it.
    pub fn new(dtype: WeightType, n_out: usize, n_in: usize, fill: impl Fn(usize, &mut [u8]) + Sync) -> Option<Self> {
        let panel = dtype.panel_bytes(n_in);
        let mut memory = Memory::zeroed(dtype.packed_bytes(n_out, n_in)?)?;
        let share = n_out.div_ceil(PANEL).div_ceil(TURNS * pool::threads()).max(1);
        let together = LOADED_TOGETHER.div_ceil(panel.max(1)).min(share);
        pool::chunks(&mut memory, (together * panel).max(1), |at, panels| fill(at * together, panels));
        Some(Self { dtype, n_out, n_in, memory })
    }

    /// How many outputs there are.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// How many inputs there are.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// The bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// The memory of a matrix of blocks, laid out as the kernels of GPUs read it.
    #[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
    pub fn into_planes(mut self) -> Memory {
        let panel = self.panel_bytes().max(1);
        if let WeightType::Blocks(format) = self.dtype {
            pool::chunks(&mut self.memory, panel, |_, panel| blocks::arrange_panel(format, panel));
        }
        self.memory
    }

    /// The weights of one output, `[n_in]`.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        let (panel, output) = (self.panels(output / PANEL, 1), output % PANEL);
        match self.dtype {
            WeightType::F32 => panels::unpack_row::<f32>(bytemuck::cast_slice(panel), output, row),
            WeightType::F16 => panels::unpack_row::<f16>(bytemuck::cast_slice(panel), output, row),
            WeightType::Bf16 => panels::unpack_row::<bf16>(bytemuck::cast_slice(panel), output, row),
            WeightType::Blocks(format) => blocks::unpack_row(Isa::best(), format, panel, output, row),
        }
    }

    /// Each row of `x` `[rows, n_in]` times the transpose of the matrix: `[rows, n_out]`.
    pub fn times(&self, isa: Isa, x: &[f32], precision: Precision) -> Vec<f32> {
        let [y] = times_all([self], isa, x, precision);
        y
    }

    /// How several rows meet this matrix.
    fn way(&self, isa: Isa, precision: Precision) -> Way {
        match (self.dtype, precision) {
            (WeightType::Bf16 | WeightType::Blocks(_), Precision::Fast) if isa >= Isa::Bf16 => Way::Bf16 { terms: 1 },
            (WeightType::Bf16, Precision::Exact) if isa >= Isa::Amx => Way::Bf16 { terms: 3 },
            (WeightType::Blocks(format), Precision::Fast) if isa >= Isa::Avx2 => Way::Integers(format),
            _ => Way::Widened,
        }
    }

    /// By integer products of all rows with as many panels at a time as registers have room for.
    fn times_integers(&self, isa: Isa, format: Format, x: &ActivationRows, Sums { room, stride }: Sums<'_>) {
        let together = if isa >= Isa::Avx512 { 2 } else { 1 };
        pool::columns((room, stride), self.n_out, together * PANEL, |at, mut y| {
            let mut sums = vec![[[0.0; PANEL]; 2]; y.rows()];
            let panels = self.panels(together * at, y.width().div_ceil(PANEL));
            blocks::panels_times_rows(isa, format, panels, x, &mut sums);
            store::<{ 2 * PANEL }>(bytemuck::cast_slice(&sums), 0, 0, &mut y);
        });
    }

    /// By bf16 products of all rows with two panels at a time.
    fn times_bf16(&self, isa: Isa, left: &Left, Sums { room, stride }: Sums<'_>) {
        pool::columns((room, stride), self.n_out, 2 * PANEL, |at, mut y| {
            let panels = self.panels(2 * at, y.width().div_ceil(PANEL));
            let (first, second) = panels.split_at(self.panel_bytes());
            let second = if second.is_empty() { first } else { second };
            let (mut room, mut other_room) = (Vec::new(), Vec::new());
            let panels = [self.as_bf16(isa, first, &mut room), self.as_bf16(isa, second, &mut other_room)];
            bf16_product(isa, left, panels, &mut y);
        });
    }

    /// A panel of bf16 as it is, or one of blocks rounded into `room`.
    fn as_bf16<'a>(&self, isa: Isa, panel: &'a [u8], room: &'a mut Vec<Line>) -> &'a [u16] {
        let WeightType::Blocks(format) = self.dtype else { return bytemuck::cast_slice(panel) };
        *room = memory::lines(2 * self.n_in * PANEL);
        blocks::widen_panel_bf16_pairs(isa, format, panel, 0..self.n_in, bytemuck::cast_slice_mut(room));
        bytemuck::cast_slice(room)
    }

    /// By f32 products of all rows with two panels at a time.
    fn times_widened(&self, isa: Isa, x: &[f32], Sums { room, stride }: Sums<'_>) {
        const BOTH: usize = 2 * PANEL;
        let n_in = self.n_in;
        pool::columns((room, stride), self.n_out, BOTH, |at, mut y| {
            let mut one = vec![0.0; n_in.next_multiple_of(left::COLUMNS) * PANEL];
            let mut wide = vec![0.0; 2 * one.len()];
            for own in 0..y.width().div_ceil(PANEL) {
                self.widen(isa, self.panels(2 * at + own, 1), &mut one);
                for (wide, one) in wide.chunks_exact_mut(PANEL).skip(own).step_by(2).zip(one.chunks_exact(PANEL)) {
                    wide.copy_from_slice(one);
                }
            }
            let sizes = Sizes { rows: x.len() / n_in, inner: n_in, columns: y.width().next_multiple_of(PANEL) };
            let mut sums = vec![[0.0; BOTH]; sizes.rows];
            let a = Strided { data: x, row_stride: n_in, column_stride: 1 };
            let b = Rows { data: &wide, stride: BOTH };
            gemm::add_product(isa, sizes, a, b, RowsMut { data: sums.as_flattened_mut(), stride: BOTH });
            store(&sums, 0, 0, &mut y);
        });
    }

    fn widen(&self, isa: Isa, panel: &[u8], wide: &mut [f32]) {
        match self.dtype {
            WeightType::F32 => panels::widen::<f32>(isa, bytemuck::cast_slice(panel), wide),
            WeightType::F16 => panels::widen::<f16>(isa, bytemuck::cast_slice(panel), wide),
            WeightType::Bf16 => panels::widen::<bf16>(isa, bytemuck::cast_slice(panel), wide),
            WeightType::Blocks(format) => blocks::widen_panel(isa, format, panel, 0..self.n_in, wide),
        }
    }

    /// The bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.dtype.panel_bytes(self.n_in)
    }

    /// So many panels from one on.
    pub(super) fn panels(&self, first: usize, count: usize) -> &[u8] {
        let panel = self.panel_bytes();
        self.memory.get(first * panel..(first + count) * panel).unwrap_or_default()
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({:?}, [{}, {}])", self.dtype, self.n_out, self.n_in)
    }
}

/// Each row of `x` `[rows, n_in]` times the transpose of each of the matrices, which have as many inputs: of each
/// `[rows, n_out]`. One row meets all of them in one parallel region.
pub fn times_all<const N: usize>(matrices: [&Matrix; N], isa: Isa, x: &[f32], precision: Precision) -> [Vec<f32>; N] {
    let isa = isa.min(Isa::best());
    let n_in = matrices.first().map_or(0, |matrix| matrix.n_in);
    debug_assert!(matrices.iter().all(|matrix| matrix.n_in == n_in), "matrices of as many inputs");
    match x.len() / n_in.max(1) {
        0 => matrices.map(|_| Vec::new()),
        1 => row::times_all(matrices.map(|matrix| Product::plain(matrix, precision)), isa, x.into()),
        rows => rows_times_all(matrices, isa, x, rows, precision),
    }
}

/// The products cost more than the weights' way from memory.
fn rows_times_all<const N: usize>(
    matrices: [&Matrix; N],
    isa: Isa,
    x: &[f32],
    rows: usize,
    precision: Precision,
) -> [Vec<f32>; N] {
    let mut several = Several::new(isa, x, rows, precision);
    matrices.map(|matrix| {
        #[allow(unsafe_code)]
        // SAFETY: a sum is stored for every row and output.
        unsafe {
            written(rows * matrix.n_out, |room| several.times(matrix, Sums { room, stride: matrix.n_out }))
        }
    })
}

/// Several rows on their way to matrices. What they become, they become once: at one level and precision there is one
/// number of terms.
pub(super) struct Several<'a> {
    isa: Isa,
    x: &'a [f32],
    rows: usize,
    precision: Precision,
    left: Option<Left>,
    quantized: Option<ActivationRows>,
}

/// Where the products with several rows go.
pub(super) struct Sums<'a> {
    /// As many rows as are multiplied.
    pub(super) room: &'a mut [MaybeUninit<f32>],
    /// How far they are apart: what is behind the products is left as it is.
    pub(super) stride: usize,
}

impl<'a> Several<'a> {
    pub(super) fn new(isa: Isa, x: &'a [f32], rows: usize, precision: Precision) -> Self {
        Self { isa: isa.min(Isa::best()), x, rows, precision, left: None, quantized: None }
    }

    /// Stores the sum of every row and output.
    pub(super) fn times(&mut self, matrix: &Matrix, y: Sums<'_>) {
        let (n_in, n_out, rows) = (matrix.n_in, matrix.n_out, self.rows);
        assert!(
            self.x.len() == rows * n_in && y.stride >= n_out && y.room.len() == rows * y.stride,
            "{rows} of {n_in}"
        );
        match matrix.way(self.isa, self.precision) {
            Way::Bf16 { terms } => {
                let left = self.left.get_or_insert_with(|| Left::new(self.isa, self.x, n_in, terms));
                matrix.times_bf16(self.isa, left, y);
            }
            Way::Integers(format) => {
                let x = self.quantized.get_or_insert_with(|| ActivationRows::quantize(self.isa, self.x, n_in));
                matrix.times_integers(self.isa, format, x, y);
            }
            Way::Widened => matrix.times_widened(self.isa, self.x, y),
        }
    }
}

/// What `write` stores, in memory that nobody zeroed before: for a prompt's products that took a tenth of their time.
///
/// # Safety
/// `write` stores a number in all of it.
#[allow(unsafe_code)]
pub(super) unsafe fn written(count: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut room = Box::new_uninit_slice(count);
    if cfg!(debug_assertions) {
        room.fill(MaybeUninit::new(f32::NAN)); // what is not stored shows in tests
    }
    write(&mut room);
    // SAFETY: the caller promises it.
    unsafe { room.assume_init() }.into_vec()
}

/// So many tiles of two panels, 24 KiB, stay in the nearest cache while all rows pass by.
const TILES: usize = 12;

/// All rows times two panels.
#[cfg(target_arch = "x86_64")]
fn bf16_product(isa: Isa, left: &Left, panels: [&[u16]; 2], y: &mut Columns<'_, MaybeUninit<f32>>) {
    let blocks: Vec<&[u16]> = left.blocks().collect();
    let mut sums = vec![amx::Sums([[0.0; left::ROWS * PANEL]; 4]); blocks.len().div_ceil(2)];
    let tiles = (isa >= Isa::Amx).then(amx::Tiles::new).flatten();
    let panel = panels[0].len();
    for start in (0..panel).step_by(TILES * left::TILE) {
        let end = panel.min(start + TILES * left::TILE);
        let panels = panels.map(|panel| part(panel, start, end));
        for (pair, sums) in blocks.chunks(2).zip(&mut sums) {
            for term in 0..left.terms() {
                let rows = [pair.first(), pair.last()];
                let rows = rows
                    .map(|block| block.map_or(&[][..], |block| part(block, term * panel + start, term * panel + end)));
                match &tiles {
                    Some(tiles) => tiles.add_products(rows, panels, sums),
                    None => super::dot::add_products(rows, panels, sums),
                }
            }
        }
    }
    for (at, (pair, sums)) in blocks.chunks(2).zip(&sums).enumerate() {
        for (which, sums) in sums.0.iter().enumerate().take(2 * pair.len()) {
            let (sums, _) = sums.as_chunks::<PANEL>();
            store(sums, (2 * at + which / 2) * left::ROWS, which % 2 * PANEL, y);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn part(numbers: &[u16], start: usize, end: usize) -> &[u16] {
    numbers.get(start..end).unwrap_or_default()
}

/// No other processor is found to have such products.
#[cfg(not(target_arch = "x86_64"))]
fn bf16_product(_: Isa, _: &Left, _: [&[u16]; 2], y: &mut Columns<'_, MaybeUninit<f32>>) {
    (0..y.rows()).for_each(|row| y.row(row).fill(MaybeUninit::new(f32::NAN)));
}

/// Puts rows of sums where they belong, as far as there is such a place.
fn store<const N: usize>(
    sums: &[[f32; N]],
    first_row: usize,
    first_column: usize,
    y: &mut Columns<'_, MaybeUninit<f32>>,
) {
    for (row, sums) in (first_row..y.rows()).zip(sums) {
        let own = y.row(row).get_mut(first_column..).unwrap_or_default();
        match own.first_chunk_mut::<N>() {
            Some(own) => own.write_copy_of_slice(sums),
            None => own.write_copy_of_slice(sums.get(..own.len()).unwrap_or_default()),
        };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks are tested where they are packed.
    const TYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];

    pub(in crate::kernels) fn wave(count: usize, k: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * k).sin()).collect()
    }

    fn narrow(dtype: WeightType, numbers: &[f32]) -> Vec<u8> {
        match dtype {
            WeightType::F32 => bytemuck::pod_collect_to_vec(numbers),
            WeightType::F16 => numbers.iter().flat_map(|number| f16::from_f32(*number).to_le_bytes()).collect(),
            _ => numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect(),
        }
    }

    pub(in crate::kernels) fn matrix(dtype: WeightType, n_out: usize, n_in: usize) -> Matrix {
        let bytes = narrow(dtype, &wave(n_out * n_in, 0.37));
        let width = bytes.len() / n_out;
        let fill = |first: usize, panels: &mut [u8]| {
            for (at, panel) in (first..).zip(panels.chunks_mut(dtype.panel_bytes(n_in))) {
                let rows = at * PANEL * width..bytes.len().min((at + 1) * PANEL * width);
                dtype.pack(Isa::best(), &bytes[rows], n_in, panel);
            }
        };
        Matrix::new(dtype, n_out, n_in, fill).unwrap()
    }

    /// The products in f64, with the magnitude that their sums have: a bound on the error is a share of it.
    fn exact(matrix: &Matrix, x: &[f32]) -> Vec<(f64, f64)> {
        let mut row = vec![0.0; matrix.n_in()];
        let mut sums = vec![(0.0, 0.0); x.len() / matrix.n_in() * matrix.n_out()];
        for output in 0..matrix.n_out() {
            matrix.row(output, &mut row);
            for (at, x) in x.chunks(matrix.n_in()).enumerate() {
                let products = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let sum = &mut sums[at * matrix.n_out() + output];
                products.for_each(|product| *sum = (sum.0 + product, sum.1 + product.abs()));
            }
        }
        sums
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_type_level_and_precision_equals_the_exact_product(
            rows in 0usize..40, n_in in 1usize..90, n_out in 1usize..60, which in 0..TYPES.len(),
        ) {
            let matrix = matrix(TYPES[which], n_out, n_in);
            let x = wave(rows * n_in, 0.73);
            let want = exact(&matrix, &x);
            for isa in Isa::available() {
                for precision in [Precision::Exact, Precision::Fast] {
                    let y = matrix.times(isa, &x, precision);
                    prop_assert_eq!(y.len(), rows * n_out);
                    // f32 sums lose up to a 2^-24 of their magnitude for each term; activations of bf16 a 2^-8.
                    let share = if precision == Precision::Fast { 2f64.powi(-8) } else { n_in as f64 * 2f64.powi(-24) };
                    for (got, (want, magnitude)) in y.iter().zip(&want) {
                        let bound = 1.01 * share.max(n_in as f64 * 2f64.powi(-24)) * magnitude + 1e-9;
                        prop_assert!((f64::from(*got) - want).abs() <= bound, "{isa:?} {precision:?}: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_matrix_is_filled_in_as_many_pieces_as_threads_share() {
        let filled = std::sync::Mutex::new(Vec::new());
        let dtype = WeightType::Bf16;
        let count = |panels: &[u8]| panels.len() / dtype.panel_bytes(37);
        let fill = |first: usize, panels: &mut [u8]| filled.lock().unwrap().push((first, count(panels)));
        let new = || Matrix::new(dtype, 40 * PANEL, 37, fill);
        pool::Pool::new(2).unwrap().install(new).unwrap();
        let mut filled = filled.into_inner().unwrap();
        filled.sort_unstable();
        assert_eq!(filled, (0..40).step_by(3).map(|first| (first, 3.min(40 - first))).collect::<Vec<_>>());
    }

    #[test]
    fn several_matrices_at_once_give_what_each_gives() {
        let matrices = [(WeightType::Bf16, 21), (WeightType::F32, 40), (WeightType::F16, 16)];
        let matrices = matrices.map(|(dtype, n_out)| matrix(dtype, n_out, 37));
        for rows in [1, 3] {
            let x = wave(rows * 37, 0.73);
            let together = pool::Pool::new(2)
                .unwrap()
                .install(|| times_all(matrices.each_ref(), Isa::best(), &x, Precision::Fast));
            assert_eq!(together, matrices.each_ref().map(|matrix| matrix.times(Isa::best(), &x, Precision::Fast)));
        }
    }

    #[test]
    fn several_rows_that_meet_blocks_give_bit_for_bit_what_each_gives() {
        let n_in = 512;
        // One part of two panels, a whole one, and three of which the last is a part of a panel.
        for (format, n_out) in Format::ALL.into_iter().flat_map(|format| [21, 32, 70].map(|n_out| (format, n_out))) {
            // Small numbers whatever they stand for: no scale of them is infinite.
            let fill = |first: usize, panel: &mut [u8]| {
                (5 * first..).zip(panel).for_each(|(at, byte)| *byte = (at * 37 % 61) as u8);
            };
            let matrix = Matrix::new(WeightType::Blocks(format), n_out, n_in, fill).unwrap();
            for isa in Isa::available().filter(|isa| [Isa::Avx2, Isa::Avx512].contains(isa)) {
                assert!(matches!(matrix.way(isa, Precision::Fast), Way::Integers(_)));
                for rows in 2..14 {
                    let x = wave(rows * n_in, 0.73);
                    let together = matrix.times(isa, &x, Precision::Fast);
                    let alone: Vec<f32> = x.chunks(n_in).flat_map(|x| matrix.times(isa, x, Precision::Fast)).collect();
                    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&together), bits(&alone), "{format:?} {isa:?}, {rows} rows, {n_out} outputs");
                }
            }
        }
    }

    #[test]
    fn rows_are_what_was_packed() {
        for dtype in TYPES {
            let (n_out, n_in) = (21, 37);
            let numbers = wave(n_out * n_in, 0.37);
            let (matrix, mut row) = (matrix(dtype, n_out, n_in), vec![0.0; n_in]);
            for (output, numbers) in numbers.chunks(n_in).enumerate() {
                matrix.row(output, &mut row);
                assert_eq!(narrow(dtype, &row), narrow(dtype, numbers));
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let matrix = matrix(WeightType::Bf16, 3000, 64);
        let x = wave(5 * 64, 0.7);
        let with = |threads| {
            let times = |x| matrix.times(Isa::best(), x, Precision::Fast);
            pool::Pool::new(threads).unwrap().install(|| [times(&x), times(&x[..64])])
        };
        assert!(with(1) == with(4));
    }

    #[test]
    fn a_matrix_beyond_all_memory_is_none() {
        assert!(Matrix::new(WeightType::F32, usize::MAX / 64, 64, |_, _| {}).is_none());
    }
}
