//! How stored weights become matrices for the kernels: as they are, or in another type.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

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
    pub row: &'a (dyn Fn(usize) -> &'a [u8] + Sync),
}

impl StoredRows<'_> {
    /// The matrix, in the type `wanted` or as stored. Where rows are no whole number of the wanted type's blocks, they are
    /// stored in smaller blocks, or as they were.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn pack(&self, wanted: Option<WeightType>) -> Result<Matrix> {
        let dtype = wanted.map_or(self.dtype, |wanted| self.nearest(wanted));
        let failure = Mutex::new(None);
        let fill = |panel: usize, packed: &mut [u8]| {
            let rows = panel * PANEL..self.n_out.min((panel + 1) * PANEL);
            let mut stored = Vec::new();
            rows.for_each(|row| stored.extend_from_slice((self.row)(row)));
            match convert(stored, self.dtype, dtype) {
                Ok(bytes) => dtype.pack(Isa::best(), &bytes, self.n_in, packed),
                Err(error) => *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
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

    fn nearest(&self, wanted: WeightType) -> WeightType {
        let candidates = [wanted, WeightType::Blocks(Format::Q8_0)];
        candidates.into_iter().find(|dtype| dtype.row_bytes(self.n_in).is_some()).unwrap_or(self.dtype)
    }
}

/// Whole rows that are stored as one type, as another, to the nearest.
fn convert(bytes: Vec<u8>, from: WeightType, to: WeightType) -> Result<Vec<u8>> {
    if from == to { Ok(bytes) } else { narrow(widen(&bytes, from)?, to) }
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
            let count = numbers.len();
            let numbers = Tensor::from_vec(numbers, count, &Device::Cpu)?;
            QTensor::quantize(&numbers, ggml(format))?.data()?.into_owned()
        }
    })
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

/// The blocks that kernels are there for, by candle's name.
pub fn format(blocks: GgmlDType) -> Option<Format> {
    Format::ALL.into_iter().find(|format| ggml(*format) == blocks)
}
