//! How stored weights become matrices for the kernels: as they are, or in another type.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
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
    /// The matrix, in the type `wanted` or as stored.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn pack(&self, wanted: Option<WeightType>) -> Result<Matrix> {
        let (isa, dtype) = (Isa::best(), wanted.unwrap_or(self.dtype));
        let fill = |panel: usize, packed: &mut [u8]| {
            let rows = panel * PANEL..self.n_out.min((panel + 1) * PANEL);
            let stored: Vec<u8> = rows.flat_map(|row| (self.row)(row)).copied().collect();
            let bytes = if dtype == self.dtype { stored } else { narrow(&widen(&stored, self.dtype), dtype) };
            dtype.pack(isa, &bytes, self.n_in, packed);
        };
        let (n_out, n_in) = (self.n_out, self.n_in);
        let no_memory = || Error::Unsupported(format!("no memory for weights [{n_out}, {n_in}] in {dtype:?}"));
        Matrix::new(dtype, n_out, n_in, fill).ok_or_else(no_memory)
    }
}

/// The numbers that are stored as `dtype` in `bytes`.
fn widen(bytes: &[u8], dtype: WeightType) -> Vec<f32> {
    match dtype {
        WeightType::F32 => bytemuck::pod_collect_to_vec(bytes),
        WeightType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).to_f32_vec(),
        WeightType::Bf16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).to_f32_vec(),
    }
}

/// The bytes of `numbers` as `dtype`, to the nearest.
fn narrow(numbers: &[f32], dtype: WeightType) -> Vec<u8> {
    match dtype {
        WeightType::F32 => bytemuck::pod_collect_to_vec(numbers),
        WeightType::F16 => {
            let narrow: Vec<f16> = numbers.iter().map(|number| f16::from_f32(*number)).collect();
            bytemuck::pod_collect_to_vec(&narrow)
        }
        WeightType::Bf16 => {
            let narrow: Vec<bf16> = numbers.iter().map(|number| bf16::from_f32(*number)).collect();
            bytemuck::pod_collect_to_vec(&narrow)
        }
    }
}
