//! How stored weights become matrices for the kernels: as they are, or in another type.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, Once, PoisonError};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::kernels::blocks::Format;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, WeightType};
use crate::kernels::panels::PANEL;

/// Rows of a matrix `[n_out, n_in]` in memory, and how their numbers are stored.
pub struct StoredRows<'a> {
    /// How the numbers are stored.
    pub dtype: WeightType,
    /// How many rows there are.
    pub n_out: usize,
    /// How many numbers a row has.
    pub n_in: usize,
    /// The bytes of a row.
    pub row: &'a (dyn Fn(usize) -> Cow<'a, [u8]> + Sync),
    /// Told of the rows that have been read.
    pub done: &'a (dyn Fn(Range<usize>) + Sync),
}

impl StoredRows<'_> {
    /// The matrix, in the type `wanted` or as stored. Where rows are no whole number of the wanted type's blocks, they are
    /// stored in smaller blocks, or as they were, which is warned of once.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn pack(&self, wanted: Option<WeightType>) -> Result<Matrix> {
        let dtype = held_as(self.dtype, wanted, self.n_in);
        let failure = Mutex::new(None);
        let fill = |first: usize, panels: &mut [u8]| {
            if let Err(error) = self.fill(first, dtype, panels) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        };
        let (n_out, n_in) = (self.n_out, self.n_in);
        let no_memory = || Error::Unsupported(format!("no memory for weights [{n_out}, {n_in}] in {}", dtype.name()));
        let matrix = Matrix::new(dtype, n_out, n_in, fill).ok_or_else(no_memory)?;
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(matrix),
        }
    }

    /// Some panels, the first of which has this number.
    fn fill(&self, first: usize, dtype: WeightType, panels: &mut [u8]) -> Result<()> {
        let panel_bytes = dtype.panel_bytes(self.n_in).max(1);
        let rows = first * PANEL..self.n_out.min((first + panels.len() / panel_bytes) * PANEL);
        let mut stored = Vec::with_capacity(PANEL * self.dtype.row_bytes(self.n_in).unwrap_or(0));
        for (panel, start) in panels.chunks_exact_mut(panel_bytes).zip(rows.clone().step_by(PANEL)) {
            stored.clear();
            (start..rows.end.min(start + PANEL)).for_each(|row| stored.extend_from_slice(&(self.row)(row)));
            dtype.pack(Isa::best(), &convert(&stored, self.dtype, dtype)?, self.n_in, panel);
        }
        (self.done)(rows);
        Ok(())
    }
}

/// The type in which rows of `n_in` numbers that are `stored` as one type are held where another is `wanted`.
pub fn held_as(stored: WeightType, wanted: Option<WeightType>, n_in: usize) -> WeightType {
    static WARN: Once = Once::new();
    let Some(wanted) = wanted else { return stored };
    let mut candidates = [wanted, WeightType::Blocks(Format::Q8_0)].into_iter();
    let found = candidates.find(|dtype| dtype.row_bytes(n_in).is_some()).unwrap_or(stored);
    if found != wanted {
        let (wanted, found) = (wanted.name(), found.name());
        WARN.call_once(|| tracing::warn!("rows of {n_in} are no whole number of {wanted} blocks: held as {found}"));
    }
    found
}

/// Whole rows that are stored as one type, as another, to the nearest.
fn convert(bytes: &[u8], from: WeightType, to: WeightType) -> Result<Cow<'_, [u8]>> {
    if from == to { Ok(bytes.into()) } else { Ok(narrow(widen(bytes, from)?, to)?.into()) }
}

fn widen(bytes: &[u8], dtype: WeightType) -> Result<Vec<f32>> {
    Ok(match dtype {
        WeightType::F32 => bytemuck::pod_collect_to_vec(bytes),
        WeightType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).to_f32_vec(),
        WeightType::Bf16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).to_f32_vec(),
        WeightType::Blocks(format) => dequantize(ggml(format), bytes)?.to_vec1()?,
    })
}

fn narrow(numbers: Vec<f32>, dtype: WeightType) -> Result<Vec<u8>> {
    Ok(match dtype {
        WeightType::F32 => bytemuck::pod_collect_to_vec(&numbers),
        WeightType::F16 => bytemuck::pod_collect_to_vec(&Vec::<f16>::from_f32_slice(&numbers)),
        WeightType::Bf16 => bytemuck::pod_collect_to_vec(&Vec::<bf16>::from_f32_slice(&numbers)),
        WeightType::Blocks(format) => {
            warn_if_not_finite(&numbers);
            let count = numbers.len();
            let numbers = Tensor::from_vec(numbers, count, &Device::Cpu)?;
            QTensor::quantize(&numbers, ggml(format))?.data()?.into_owned()
        }
    })
}

/// Blocks have no such numbers: what is wrong with the checkpoint would not show.
fn warn_if_not_finite(numbers: &[f32]) {
    static WARN: Once = Once::new();
    if !numbers.iter().all(|number| number.is_finite()) {
        WARN.call_once(|| tracing::warn!("weights that are no finite numbers become others in blocks"));
    }
}

/// All numbers of ggml's blocks, in one row. Whole blocks are copied first, because candle wants them aligned.
pub fn dequantize(blocks: GgmlDType, bytes: &[u8]) -> Result<Tensor> {
    let count = bytes.len() / blocks.type_size();
    let aligned = bytemuck::pod_collect_to_vec::<u8, u32>(bytes);
    let whole = bytemuck::cast_slice(&aligned).get(..count * blocks.type_size()).unwrap_or_default();
    let storage = QStorage::from_data(Cow::Borrowed(whole), &Device::Cpu, blocks)?;
    Ok(QTensor::new(storage, (count * blocks.block_size(),))?.dequantize(&Device::Cpu)?)
}

/// The name that candle has for blocks.
fn ggml(format: Format) -> GgmlDType {
    match format {
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
    }
}

/// Makes bytes of others that say the same.
pub type Rewrite = fn(&[u8]) -> Vec<u8>;

/// Blocks of 32 numbers with a scale, as blocks of q8_0 that say exactly the same: the numbers of those of q4_0 and q5_0
/// are bytes too. None of other blocks.
pub fn to_q8_0(blocks: GgmlDType) -> Option<Rewrite> {
    match blocks {
        GgmlDType::Q4_0 => Some(|row| row.as_chunks::<18>().0.iter().flat_map(q4_0_to_q8_0).collect()),
        GgmlDType::Q5_0 => Some(|row| row.as_chunks::<22>().0.iter().flat_map(q5_0_to_q8_0).collect()),
        _ => None,
    }
}

/// The scale, and 16 bytes whose low halves are the first 16 numbers plus 8, and whose high halves are the others.
fn q4_0_to_q8_0([low, high, nibbles @ ..]: &[u8; 18]) -> impl Iterator<Item = u8> {
    let numbers = nibbles.iter().map(|byte| byte & 15).chain(nibbles.iter().map(|byte| byte >> 4));
    [*low, *high].into_iter().chain(numbers.map(|number| number.wrapping_sub(8)))
}

/// The scale, the fifth bits of 32 numbers plus 16, and their lower bits as in q4_0.
fn q5_0_to_q8_0([low, high, a, b, c, d, nibbles @ ..]: &[u8; 22]) -> impl Iterator<Item = u8> {
    let fifth = u32::from_le_bytes([*a, *b, *c, *d]);
    let lower = nibbles.iter().map(|byte| byte & 15).chain(nibbles.iter().map(|byte| byte >> 4));
    let numbers = lower.enumerate().map(move |(at, lower)| lower | (((fifth >> at) & 1) as u8) << 4);
    [*low, *high].into_iter().chain(numbers.map(|number| number.wrapping_sub(16)))
}

/// The blocks that kernels are there for, by candle's name.
pub fn format(blocks: GgmlDType) -> Option<Format> {
    Format::ALL.into_iter().find(|format| ggml(*format) == blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_four_and_five_bits_become_blocks_of_bytes_that_say_the_same() {
        let numbers: Vec<f32> = (0..256).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let numbers = Tensor::from_vec(numbers, 256, &Device::Cpu).unwrap();
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q5_0] {
            let blocks = QTensor::quantize(&numbers, dtype).unwrap();
            let bytes = to_q8_0(dtype).unwrap()(&blocks.data().unwrap());
            let values = |tensor: Tensor| tensor.to_vec1::<f32>().unwrap();
            let stored = values(blocks.dequantize(&Device::Cpu).unwrap());
            assert_eq!(values(dequantize(GgmlDType::Q8_0, &bytes).unwrap()), stored);
        }
        assert!(to_q8_0(GgmlDType::Q4_1).is_none());
    }

    #[test]
    fn every_type_is_made_of_every_other_and_odd_rows_fall_back() {
        let numbers: Vec<f32> = (0..20 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        for from in WeightType::ALL {
            let bytes = narrow(numbers.clone(), from).unwrap();
            let width = bytes.len() / 20;
            let row = |row: usize| Cow::Borrowed(&bytes[row * width..(row + 1) * width]);
            let rows = StoredRows { dtype: from, n_out: 20, n_in: 256, row: &row, done: &|_| {} };
            for wanted in WeightType::ALL {
                let matrix = rows.pack(Some(wanted)).unwrap();
                let mut found = vec![0.0; 256];
                matrix.row(19, &mut found);
                let off = found.iter().zip(&numbers[19 * 256..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(matrix.dtype() == wanted && off < 0.15, "{from:?} to {wanted:?}: {off}");
            }
        }
        let bytes = narrow(vec![0.5; 3 * 96], WeightType::F32).unwrap();
        let held = |n_in: usize| {
            let row = |row: usize| Cow::Borrowed(&bytes[row * n_in * 4..(row + 1) * n_in * 4]);
            let rows = StoredRows { dtype: WeightType::F32, n_out: 3, n_in, row: &row, done: &|_| {} };
            rows.pack(Some(WeightType::Blocks(Format::Q4K))).unwrap().dtype()
        };
        assert_eq!((held(96), held(31)), (WeightType::Blocks(Format::Q8_0), WeightType::F32));
    }
}
