//! How numbers are stored, and how they become tensors.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::error::{Error, Result};
use crate::kernels::blocks::Format;
use crate::kernels::matrix::WeightType;
use crate::model::packing::{self, Rewrite};

/// A storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Blocks of few bits for each number and scales that they share.
    Blocks(GgmlDType),
    /// One that nothing is computed from.
    Other(Dtype),
}

impl Storage {
    /// The name that the file's format has for it.
    pub fn name(self) -> String {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => format!("{self:?}"),
            Self::Other(dtype) => format!("{dtype:?}"),
            Self::Blocks(blocks) => {
                let name = format!("{blocks:?}");
                name.strip_suffix('K').map_or(name.clone(), |bits| format!("{bits}_K"))
            }
        }
    }

    /// The type that it has in memory; none for those that can't be loaded.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 | Self::Blocks(_) => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::Other(_) => None,
        }
    }

    /// The type of a matrix that holds the same numbers, and how a row's bytes become its; none where none does.
    pub fn matrix_dtype(self) -> Option<(WeightType, Option<Rewrite>)> {
        match self {
            Self::F32 => Some((WeightType::F32, None)),
            Self::F16 => Some((WeightType::F16, None)),
            Self::BF16 => Some((WeightType::Bf16, None)),
            Self::Blocks(blocks) => match packing::format(blocks) {
                Some(format) => Some((WeightType::Blocks(format), None)),
                None => Some((WeightType::Blocks(Format::Q8_0), Some(packing::to_q8_0(blocks)?))),
            },
            Self::Other(_) => None,
        }
    }

    /// The bytes of so many numbers; none where they are no whole number of blocks, or more than any memory.
    pub fn bytes_of(self, numbers: usize) -> Option<usize> {
        match self {
            Self::F32 => numbers.checked_mul(4),
            Self::F16 | Self::BF16 => numbers.checked_mul(2),
            Self::Other(dtype) => Some(numbers.checked_mul(dtype.bitsize())?.div_ceil(8)),
            Self::Blocks(blocks) if numbers.is_multiple_of(blocks.block_size()) => {
                (numbers / blocks.block_size()).checked_mul(blocks.type_size())
            }
            Self::Blocks(_) => None,
        }
    }

    /// The numbers in `bytes` as a tensor on `device`; blocks become f32 here.
    pub fn tensor(self, bytes: &[u8], shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(match self {
            Self::F16 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f16>(bytes), shape, device)?,
            Self::BF16 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, bf16>(bytes), shape, device)?,
            Self::Blocks(blocks) => packing::dequantize(blocks, bytes)?.to_device(device)?.reshape(shape)?,
            Self::F32 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f32>(bytes), shape, device)?,
            Self::Other(_) => return Err(Error::Internal(format!("weights of type {} were let through", self.name()))),
        })
    }
}

/// What a converter did to a tensor, which is taken back where it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    #[default]
    None,
    /// In each head's rows, the first of either half come first, then the second of either, and so on.
    Paired {
        /// The rows of a head.
        head_dim: usize,
    },
    /// Each head's matrix was transposed.
    Transposed {
        /// How many heads there are.
        heads: usize,
    },
    /// x became −exp(x).
    NegatedExp,
}

impl Change {
    /// Where each row of the tensor as it was lies now; none where more was done than to move rows.
    pub fn row_origin(self) -> Option<impl Fn(usize) -> usize + Sync> {
        let head_dim = match self {
            Self::None => 2, // of one pair, each half lies where it was
            Self::Paired { head_dim } if head_dim >= 2 && head_dim.is_multiple_of(2) => head_dim,
            Self::Paired { .. } | Self::Transposed { .. } | Self::NegatedExp => return None,
        };
        // The halves of a head lie as pairs: [head_dim / 2, 2].
        Some(move |row: usize| {
            let (head, own) = (row / head_dim, row % head_dim);
            head * head_dim + own % (head_dim / 2) * 2 + own / (head_dim / 2)
        })
    }

    /// The tensor as it was.
    pub fn undo(self, tensor: Tensor) -> Result<Tensor> {
        let (shape, rows) = (tensor.shape(), tensor.dims().first().copied().unwrap_or(1).max(1));
        let width = tensor.elem_count() / rows;
        Ok(match self {
            Self::None => tensor,
            Self::Paired { head_dim } => {
                let pairs = tensor.reshape((rows / head_dim.max(1), head_dim / 2, 2, width))?;
                pairs.transpose(1, 2)?.contiguous()?.reshape(shape)?
            }
            Self::Transposed { heads } => {
                let matrices = tensor.reshape((heads, width, rows / heads.max(1)))?;
                matrices.transpose(1, 2)?.contiguous()?.reshape(shape)?
            }
            Self::NegatedExp => tensor.to_dtype(DType::F32)?.neg()?.log()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_know_their_names_and_sizes() {
        let blocks = Storage::Blocks(GgmlDType::Q4K);
        assert_eq!((blocks.name().as_str(), Storage::BF16.name().as_str()), ("Q4_K", "BF16"));
        assert_eq!(Storage::Blocks(GgmlDType::Q8_0).name(), "Q8_0");
        assert_eq!((blocks.bytes_of(512), blocks.bytes_of(300)), (Some(288), None));
        assert_eq!((Storage::F16.bytes_of(3), Storage::F32.bytes_of(usize::MAX)), (Some(6), None));
    }

    #[test]
    fn changes_are_taken_back() {
        let rows = |values: &[f32]| Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap();
        let undone = |change: Change, values: &[f32]| {
            change.undo(rows(values)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(
            undone(Change::Paired { head_dim: 4 }, &[0., 2., 1., 3., 4., 6., 5., 7.]),
            [0., 1., 2., 3., 4., 5., 6., 7.]
        );
        assert_eq!(undone(Change::NegatedExp, &[-1.0]), [0.0]);
        // Two heads with three rows of two, which lie there as two rows of three.
        let stored =
            Tensor::from_slice(&[0f32, 2., 4., 1., 3., 5., 6., 8., 10., 7., 9., 11.], (6, 2), &Device::Cpu).unwrap();
        let undone =
            Change::Transposed { heads: 2 }.undo(stored).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(undone.is_sorted(), "{undone:?}");
    }
}
