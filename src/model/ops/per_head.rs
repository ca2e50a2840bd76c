//! Products with a matrix for each head.

use candle_core::{DType, Device, Tensor};

use super::Lent;
use super::products::{pack, times_tensor};
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, Precision};
use crate::kernels::per_head::{self, Shared};
use crate::model::linear::WeightBytes;
use crate::model::weights::Settings;

/// A matrix [out, in] for each of several heads.
#[derive(Debug)]
pub struct PerHead {
    held: Held,
    precision: Precision,
}

#[derive(Debug)]
enum Held {
    /// On the CPU, for its kernels.
    Packed(Vec<Matrix>),
    /// [heads, out, in].
    Tensor(Tensor),
}

/// How the matrices of a tensor [heads, out, in] are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// [out, in].
    AsStored,
    /// [in, out].
    Transposed,
}

impl Orientation {
    /// The sizes [out, in] of the matrices.
    pub fn sizes(self, [n_out, n_in]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::AsStored => [n_out, n_in],
            Self::Transposed => [n_in, n_out],
        }
    }
}

impl PerHead {
    /// The matrices of `w` [heads, out, in] for the kernels of the device that they are on, on the CPU in the type `wanted`
    /// or as stored.
    pub fn new(w: &Tensor, orientation: Orientation, Settings { dtype, precision }: Settings) -> Result<Self> {
        let w = if orientation == Orientation::Transposed { &w.transpose(1, 2)? } else { w };
        if !w.device().is_cpu() {
            return Ok(Self::of_tensor(w.contiguous()?, precision));
        }
        let heads = (0..w.dim(0)?).map(|head| pack(&w.get(head)?, dtype));
        Ok(Self { held: Held::Packed(heads.collect::<Result<_>>()?), precision })
    }

    /// The matrices `w` [heads, out, in] as they are.
    pub fn of_tensor(w: Tensor, precision: Precision) -> Self {
        Self { held: Held::Tensor(w), precision }
    }

    /// The bytes of all.
    pub fn bytes(&self) -> WeightBytes {
        match &self.held {
            Held::Packed(heads) => heads.iter().map(WeightBytes::of_matrix).sum(),
            Held::Tensor(w) => WeightBytes::of_tensor(w),
        }
    }

    /// Rows `x` [rows, in] that all heads meet, times the transpose of each matrix, and what stands `behind` [rows, width]
    /// the products of each row: [heads, rows, out + width].
    pub fn of_shared(&self, x: &Tensor, behind: Option<&Tensor>) -> Result<Tensor> {
        let rows = x.dim(0)?;
        match &self.held {
            Held::Packed(heads) => {
                let (x, behind) = (x.contiguous()?, behind.map(Tensor::contiguous).transpose()?);
                let (x, behind) = (Lent::of(&x)?, behind.as_ref().map(Lent::of).transpose()?);
                let behind = behind.as_ref().map(Lent::slice).transpose()?.unwrap_or_default();
                let shared = Shared { x: x.slice()?, rows, behind };
                let y = per_head::times_shared(heads, Isa::best(), shared, self.precision);
                Ok(Tensor::from_vec(y, (heads.len(), rows, ()), &Device::Cpu)?)
            }
            Held::Tensor(w) => {
                let (heads, n_out, _) = w.dims3()?;
                let all = times_tensor(x, &w.flatten(0, 1)?, self.precision)?;
                let y = all.reshape((rows, heads, n_out))?.transpose(0, 1)?;
                let Some(behind) = behind else { return Ok(y.contiguous()?) };
                let behind = behind.broadcast_as((heads, rows, behind.dim(1)?))?;
                Ok(Tensor::cat(&[&y, &behind], 2)?.contiguous()?)
            }
        }
    }

    /// Rows of each head's own, `x` [heads, rows, in], times the transpose of its matrix: [heads, rows, out].
    pub fn of_own(&self, x: &Tensor) -> Result<Tensor> {
        let (x, rows) = (x.contiguous()?, x.dim(1)?);
        match &self.held {
            Held::Packed(heads) => {
                let y = per_head::times_own(heads, Isa::best(), Lent::of(&x)?.slice()?, rows, self.precision);
                Ok(Tensor::from_vec(y, (heads.len(), rows, ()), &Device::Cpu)?)
            }
            #[cfg(feature = "cuda")]
            Held::Tensor(w) if rows == 1 && !w.device().is_cpu() => super::cuda::one_row_per_head(&x, w),
            Held::Tensor(w) => Ok(x.matmul(&w.to_dtype(DType::F32)?.transpose(1, 2)?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, wave};
    use super::*;

    #[test]
    fn packed_matrices_of_either_way_and_tensors_give_the_same_for_one_row_and_several() {
        let (heads, n_out, n_in, behind) = (3, 21, 38, wave((5, 4), 0.9));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let w = wave((heads, n_out, n_in), 0.3).to_dtype(dtype).unwrap();
            let packed = |w: &Tensor, orientation| PerHead::new(w, orientation, Settings::EXACT).unwrap();
            let packed =
                [packed(&w, Orientation::AsStored), packed(&w.transpose(1, 2).unwrap(), Orientation::Transposed)];
            let plain = PerHead::of_tensor(w, Precision::Exact);
            for (packed, rows) in packed.iter().flat_map(|packed| [(packed, 1), (packed, 5)]) {
                let (own, shared) =
                    (wave((heads, rows, n_in), 0.7), wave((rows, n_in + 3), 0.5).narrow(1, 0, n_in).unwrap());
                assert_close(&packed.of_own(&own).unwrap(), &plain.of_own(&own).unwrap(), 1e-5);
                for behind in [None, Some(&behind.narrow(0, 0, rows).unwrap())] {
                    let [got, want] = [packed, &plain].map(|w| w.of_shared(&shared, behind).unwrap());
                    assert_close(&got, &want, 1e-5);
                }
            }
        }
    }
}
