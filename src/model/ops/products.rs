//! Products with weights, and how weights are held for them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::row::each;
use super::{Lent, cuda, no_kernels, row};
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{self, Matrix, Precision, WeightType};
use crate::kernels::row::Product;
use crate::kernels::rows;
use crate::model::input::{Input, Residual};
use crate::model::linear::Weight;
use crate::model::packing::{StoredRows, held_as};
use crate::model::vector::Vector;

/// At most this many weights are widened to f32 at a time when many rows meet 16-bit weights: 4 MiB of scratch.
const PANEL: usize = 1 << 20;

/// The same where they meet blocks on a GPU: 256 MiB, or 128 MiB of bf16.
const PANEL_OF_BLOCKS: usize = 1 << 26;

/// `x` [rows, in] times the transpose of `w` [out, in]: [rows, out].
pub fn linear(x: &Tensor, w: &Weight, precision: Precision) -> Result<Tensor> {
    match w {
        Weight::Packed(matrix) => {
            let x = x.contiguous()?;
            let y = matrix.times(Isa::best(), Lent::of(&x)?.slice()?, precision);
            Ok(Tensor::from_vec(y, (x.dim(0)?, matrix.n_out()), x.device())?)
        }
        Weight::Blocks(w) => in_panels((w.n_out(), w.n_in()), PANEL_OF_BLOCKS, |rows| {
            times_tensor(x, &w.widened(rows, precision)?, precision)
        }),
        Weight::Tensor(w) => times_tensor(x, w, precision),
    }
}

pub(super) fn times_tensor(x: &Tensor, w: &Tensor, precision: Precision) -> Result<Tensor> {
    let on_gpu = cuda::linear(x, w, precision)?;
    on_gpu.map_or_else(|| linear_composed(x, w), Ok)
}

/// Whether `x` [rows, width] has one row, whose products take along what comes before and after them.
pub(in crate::model) fn is_one_row(x: &Tensor) -> Result<bool> {
    Ok(x.dim(0)? == 1)
}

/// One row [1, in] times the transpose of `w` [out, in], with its norm, a bias and a residual, in one parallel region or launch:
/// [1, out]. None for several rows, and where the kernels of the device don't take `w`.
pub(in crate::model) fn row_times(
    input: &Input<'_>,
    w: &Weight,
    precision: Precision,
    bias: Option<&Vector>,
    residual: Option<Residual<'_>>,
) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    match w {
        Weight::Packed(w) => {
            let product = Product { bias: bias.map(Vector::numbers), ..Product::plain(w, precision) };
            row::times(input, product, residual).map(Some)
        }
        w => cuda::row_times(input, w, bias.map(Vector::tensor), residual),
    }
}

/// `silu(gate(x) · factor) · up(x)` of one row [1, in] with its norm, in one launch: [1, out]. None for several rows, and where
/// the kernels of a GPU don't take both matrices.
pub(in crate::model) fn gated_row(
    input: &Input<'_>,
    gate: &Weight,
    factor: f64,
    up: &Weight,
) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    cuda::gated_row(input, gate, factor as f32, up)
}

/// Each of several products on the CPU, which have as many inputs and one precision. One row meets all in one parallel region.
pub(in crate::model) fn all_products<const N: usize>(
    input: &Input<'_>,
    products: [Product<'_>; N],
) -> Result<[Tensor; N]> {
    if is_one_row(&input.rows)? {
        return row::times_all(input, products);
    }
    let (x, precision) = (input.rows()?.contiguous()?, products.first().map_or(Precision::Exact, |own| own.precision));
    let matrices = products.each_ref().map(|own| own.matrix);
    let ys = matrix::times_all(matrices, Isa::best(), Lent::of(&x)?.slice()?, precision);
    let (rows, mut biases) = (x.dim(0)?, products.iter().map(|own| own.bias));
    each(ys, |mut y| {
        if let Some(bias) = biases.next().flatten() {
            rows::each_row(&mut y, bias.len(), |_, y| rows::add_to_scaled_row(Isa::best(), bias, 1.0, y));
        }
        on_cpu(y, rows)
    })
}

/// Numbers as a tensor [rows, width].
pub(in crate::model) fn on_cpu(y: Vec<f32>, rows: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(y, (rows, ()), &Device::Cpu)?)
}

fn linear_composed(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if w.dtype() == DType::F32 {
        return Ok(x.matmul(&w.t()?)?);
    }
    in_panels(w.dims2()?, PANEL, |rows| {
        let rows = w.narrow(0, rows.start, rows.len())?;
        Ok(x.matmul(&rows.to_dtype(DType::F32)?.t()?)?)
    })
}

/// The products [rows, n_out] with rows of a matrix [n_out, n_in], as many at a time as have no more than `most` weights.
fn in_panels(
    (n_out, n_in): (usize, usize),
    most: usize,
    product: impl Fn(Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let panel = (most / n_in.max(1)).max(1);
    if n_out <= panel {
        return product(0..n_out);
    }
    let products = (0..n_out).step_by(panel).map(|start| product(start..n_out.min(start + panel)));
    Ok(Tensor::cat(&products.collect::<Result<Vec<_>>>()?, 1)?)
}

/// The rows of `w` [vocab, hidden] for `tokens`, f32 [tokens, hidden].
pub fn embed(tokens: &[u32], w: &Weight) -> Result<Tensor> {
    match w {
        Weight::Packed(matrix) => {
            let width = matrix.n_in();
            let mut x = vec![0.0; tokens.len() * width];
            for (token, x) in tokens.iter().zip(x.chunks_exact_mut(width.max(1))) {
                matrix.row(*token as usize, x);
            }
            Ok(Tensor::from_vec(x, (tokens.len(), width), &Device::Cpu)?)
        }
        Weight::Blocks(w) => w.embed(tokens),
        Weight::Tensor(w) => Ok(w.index_select(&Tensor::new(tokens, w.device())?, 0)?.to_dtype(DType::F32)?),
    }
}

/// `tensor` [out, in] on the CPU as a matrix for the kernels of `device`, in the type `wanted` or as stored.
pub fn hold(tensor: &Tensor, wanted: Option<WeightType>, device: &Device) -> Result<Weight> {
    let held = held_as(weight_type(tensor.dtype()), wanted, tensor.dim(1)?);
    if device.is_cpu() || held.is_blocks() {
        return place(pack(tensor, wanted)?, device);
    }
    let plain = match held {
        WeightType::F16 => DType::F16,
        WeightType::Bf16 => DType::BF16,
        _ => DType::F32,
    };
    Ok(Weight::Tensor(tensor.to_dtype(plain)?.to_device(device)?))
}

/// A packed matrix, of blocks if `device` is a GPU, where the device's kernels want it.
pub fn place(matrix: Matrix, device: &Device) -> Result<Weight> {
    match device {
        Device::Cpu => Ok(Weight::Packed(Arc::new(matrix))),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::Blocks::new(matrix, device).map(Weight::Blocks),
        device => Err(no_kernels(device)),
    }
}

/// The type of weights in a tensor of this type.
pub fn weight_type(dtype: DType) -> WeightType {
    match dtype {
        DType::F16 => WeightType::F16,
        DType::BF16 => WeightType::Bf16,
        _ => WeightType::F32,
    }
}

/// `tensor` [out, in] on the CPU as a matrix for its kernels, in the type `wanted` or as stored.
pub fn pack(tensor: &Tensor, wanted: Option<WeightType>) -> Result<Matrix> {
    let tensor = tensor.contiguous()?;
    let (n_out, n_in) = tensor.dims2()?;
    let lent = Lent::of(&tensor)?;
    let (dtype, bytes) = match tensor.dtype() {
        DType::F32 => (WeightType::F32, bytemuck::cast_slice(lent.slice::<f32>()?)),
        DType::F16 => (WeightType::F16, bytemuck::cast_slice(lent.slice::<f16>()?)),
        _ => (WeightType::Bf16, bytemuck::cast_slice::<_, u8>(lent.slice::<bf16>()?)),
    };
    let width = bytes.len() / n_out.max(1);
    let row = |row: usize| bytes.get(row * width..(row + 1) * width).unwrap_or_default().into();
    StoredRows { dtype, n_out, n_in, row: &row, done: &|_| {} }.pack(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, values, wave};
    use super::*;
    use crate::kernels::pool;
    use crate::model::input::RmsNorm;

    #[test]
    fn packed_weights_and_tensors_give_the_same_products() {
        let (n_in, n_out) = (1024, 2500); // more weights than a panel holds
        let x = wave((3, n_in), 0.37);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let w = wave((n_out, n_in), 0.011).to_dtype(dtype).unwrap();
            let composed = linear(&x, &Weight::Tensor(w.clone()), Precision::Exact).unwrap();
            let packed = Weight::Packed(Arc::new(pack(&w, None).unwrap()));
            assert_close(&linear(&x, &packed, Precision::Exact).unwrap(), &composed, 1e-3);
            let tokens = [0, 17, 2499];
            assert_close(&embed(&tokens, &packed).unwrap(), &embed(&tokens, &Weight::Tensor(w)).unwrap(), 0.0);
        }
    }

    #[test]
    fn a_row_takes_along_what_is_done_one_after_the_other_to_several() {
        let (n_in, n_out, precision) = (70, 600, Precision::Fast);
        let weight =
            |k| Weight::Packed(Arc::new(pack(&wave((n_out, n_in), k).to_dtype(DType::BF16).unwrap(), None).unwrap()));
        let w = weight(0.011);
        let (row, norm, bias) = (wave((1, n_in), 0.37), wave(n_in, 0.5), wave(n_out, 0.9));
        let numbers = values(&norm);
        let input = Input { rows: row, norm: Some(RmsNorm { weight: &norm, numbers: &numbers, eps: 1e-5 }) };
        let residual = Residual { x: &wave((1, n_out), 0.2), factor: 0.7 };
        let plain = |w| linear(&input.rows().unwrap(), w, precision).unwrap();

        let pool = pool::Pool::new(3).unwrap(); // each of whose threads has a part of the outputs
        let own_bias = Vector::new(bias.clone()).unwrap();
        let got = pool.install(|| row_times(&input, &w, precision, Some(&own_bias), Some(residual)).unwrap().unwrap());
        assert_close(&got, &residual.add(&plain(&w).broadcast_add(&bias).unwrap()).unwrap(), 1e-6);
        let two = Input::from(&wave((2, n_in), 0.37));
        assert!(row_times(&two, &w, precision, None, None).unwrap().is_none());
    }
}
