//! The only bridge from tensors to kernels: an op runs our kernel over the tensors' own memory, or is candle's own on a GPU
//! where that is as fast. Activations are f32 between ops.

mod attention;
#[cfg(any(feature = "cuda", test))]
mod composed;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod mamba2;
mod row;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor, WithDType};
use half::{bf16, f16};

pub use self::attention::{Attention, causal_attention};
pub use self::cuda::{Blocks, Experts, draw, shortlist};
pub use self::mamba2::{Constants, GatedNorm, Mixing};
use self::row::Added;
use super::input::{Input, Residual};
use super::linear::Weight;
use super::packing::{StoredRows, held_as};
use super::rope::Pairing;
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{self, Matrix, Precision, WeightType};
use crate::kernels::panels::Element;
use crate::kernels::{matvec, pool, rope, rows};

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

fn times_tensor(x: &Tensor, w: &Tensor, precision: Precision) -> Result<Tensor> {
    let on_gpu = cuda::linear(x, w, precision)?;
    on_gpu.map_or_else(|| linear_composed(x, w), Ok)
}

/// Whether `x` [rows, width] has one row, whose products take along what comes before and after them.
pub(super) fn is_one_row(x: &Tensor) -> Result<bool> {
    Ok(x.dim(0)? == 1)
}

/// One row [1, in] times the transpose of `w` [out, in], with its norm, a bias and a residual, in one parallel region or launch:
/// [1, out]. None for several rows, and where the kernels of the device don't take `w`.
pub(super) fn row_times(
    input: &Input<'_>,
    w: &Weight,
    precision: Precision,
    bias: Option<&Tensor>,
    residual: Option<Residual<'_>>,
) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    match w {
        Weight::Packed(w) => {
            let bias = bias.map(|x| Added { which: 0, x, factor: 1.0 });
            let residual = residual.map(|Residual { x, factor }| Added { which: 0, x, factor });
            let [y] = row::times_all(input, [w], precision, bias.into_iter().chain(residual))?;
            on_cpu(y, 1).map(Some)
        }
        w => cuda::row_times(input, w, bias, residual),
    }
}

/// `silu(gate(x) · factor) · up(x)` of one row [1, in] with its norm, in one parallel region or launch: [1, out]. None for
/// several rows, and where the kernels of the device don't take both matrices.
pub(super) fn gated_row(
    input: &Input<'_>,
    gate: &Weight,
    factor: f64,
    up: &Weight,
    precision: Precision,
) -> Result<Option<Tensor>> {
    if !is_one_row(&input.rows)? {
        return Ok(None);
    }
    match (gate, up) {
        (Weight::Packed(gate), Weight::Packed(up)) => {
            on_cpu(row::gated(input, gate, factor as f32, up, precision)?, 1).map(Some)
        }
        (gate, up) => cuda::gated_row(input, gate, factor as f32, up),
    }
}

/// [`linear`] of `input` with each of several matrices and biases `[out]`. One row meets all in one parallel region.
pub fn packed_linears<const N: usize>(
    input: &Input<'_>,
    matrices: [&Matrix; N],
    biases: [Option<&Tensor>; N],
    precision: Precision,
) -> Result<Vec<Tensor>> {
    if is_one_row(&input.rows)? {
        let added = biases.iter().enumerate().filter_map(|(which, x)| Some(Added { which, x: (*x)?, factor: 1.0 }));
        let ys = row::times_all(input, matrices, precision, added)?;
        return ys.into_iter().map(|y| on_cpu(y, 1)).collect();
    }
    let x = input.rows()?.contiguous()?;
    let ys = matrix::times_all(matrices, Isa::best(), Lent::of(&x)?.slice()?, precision);
    let rows = x.dim(0)?;
    ys.into_iter().zip(biases).map(|(y, bias)| with_bias(on_cpu(y, rows)?, bias)).collect()
}

/// Numbers as a tensor [rows, width].
fn on_cpu(y: Vec<f32>, rows: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(y, (rows, ()), &Device::Cpu)?)
}

/// `y` [rows, out] and a bias `[out]`, where there is one.
pub(super) fn with_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => Ok(y.broadcast_add(bias)?),
        None => Ok(y),
    }
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
        Device::Cuda(_) => Blocks::new(matrix, device).map(Weight::Blocks),
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

/// Per head: `x` [heads, tokens, in] times the transpose of `w` [heads, out, in]: [heads, tokens, out].
pub fn linear_per_head(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    times_per_head(x, w, Orientation::AsStored)
}

/// Per head: `x` [heads, tokens, out] times `w` [heads, out, in] as it is: [heads, tokens, in].
pub fn linear_transposed_per_head(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    times_per_head(x, w, Orientation::Transposed)
}

/// Whether outputs are a matrix's rows or its columns.
#[derive(Clone, Copy)]
enum Orientation {
    AsStored,
    Transposed,
}

fn times_per_head(x: &Tensor, w: &Tensor, how: Orientation) -> Result<Tensor> {
    match (x.dim(1)?, x.device(), how) {
        (1, Device::Cpu, _) => one_row_per_head(x, w, how),
        #[cfg(feature = "cuda")]
        (1, Device::Cuda(_), _) => cuda::one_row_per_head(x, w, how),
        (_, _, Orientation::AsStored) => Ok(x.contiguous()?.matmul(&w.to_dtype(DType::F32)?.transpose(1, 2)?)?),
        (_, _, Orientation::Transposed) => Ok(x.contiguous()?.matmul(&w.to_dtype(DType::F32)?)?),
    }
}

fn one_row_per_head(x: &Tensor, w: &Tensor, how: Orientation) -> Result<Tensor> {
    let width = match how {
        Orientation::AsStored => w.dim(1)?,
        Orientation::Transposed => w.dim(2)?,
    };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let (heads, _, n_in) = x.dims3()?;
    let mut y = vec![0.0; heads * width];
    let (x_lent, w_lent) = (Lent::of(&x)?, Lent::of(&w)?);
    let x_rows = x_lent.slice()?;
    match w.dtype() {
        DType::F32 => heads_times::<f32>(how, w_lent.slice()?, x_rows, n_in, &mut y, width),
        DType::F16 => heads_times::<f16>(how, w_lent.slice()?, x_rows, n_in, &mut y, width),
        _ => heads_times::<bf16>(how, w_lent.slice()?, x_rows, n_in, &mut y, width),
    }
    Ok(Tensor::from_vec(y, (heads, 1, width), x.device())?)
}

/// Heads are shared among threads.
fn heads_times<W: Element>(how: Orientation, w: &[W], x: &[f32], n_in: usize, y: &mut [f32], width: usize) {
    pool::chunks(y, width.max(1), |head, y| {
        let x = x.get(head * n_in..(head + 1) * n_in).unwrap_or_default();
        let w = w.get(head * n_in * width..(head + 1) * n_in * width).unwrap_or_default();
        match how {
            Orientation::AsStored => matvec::rows_times(Isa::best(), w, x, y),
            Orientation::Transposed => matvec::columns_times(Isa::best(), w, x, y),
        }
    });
}

/// `x` times a number, which is mostly 1.
pub fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(x.clone()) } else { Ok((x * factor)?) }
}

/// The same, on the CPU in the memory of `x`, which nothing else may use.
pub fn scale_in_place(x: Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 || !x.device().is_cpu() {
        return scaled(&x, factor);
    }
    with_slice_mut(&x, |x| rows::scale(factor as f32, x))?;
    Ok(x)
}

/// `x + y · factor`, in the memory of `y`, which nothing else may use.
pub fn add_scaled(x: &Tensor, y: &Tensor, factor: f64) -> Result<Tensor> {
    let factor = factor as f32;
    match x.device() {
        Device::Cpu => {
            let lent = Lent::of(x)?;
            let x = lent.slice()?;
            with_slice_mut(y, |y| rows::add_to_scaled(Isa::best(), x, factor, y))?;
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::add_to_scaled(x, factor, y)?,
        device => return Err(no_kernels(device)),
    }
    Ok(y.clone())
}

/// `sum` [rows, width] with `answers` [n, width] times their `shares` added to the rows `which`, on the CPU in the memory of
/// `sum`, which nothing else may use.
pub fn add_to_rows(sum: Tensor, which: &[u32], shares: &[f32], answers: &Tensor) -> Result<Tensor> {
    if !sum.device().is_cpu() {
        let shares = Tensor::from_slice(shares, (shares.len(), 1), sum.device())?;
        let which = Tensor::new(which, sum.device())?;
        return Ok(sum.index_add(&which, &answers.broadcast_mul(&shares)?, 0)?);
    }
    let width = sum.dim(1)?.max(1);
    let lent = Lent::of(answers)?;
    let answers = lent.slice::<f32>()?.chunks_exact(width);
    with_slice_mut(&sum, |sum| {
        for ((row, share), answer) in which.iter().zip(shares).zip(answers) {
            let own = sum.chunks_exact_mut(width).nth(*row as usize);
            own.into_iter().for_each(|own| rows::add_scaled_row(Isa::best(), answer, *share, own));
        }
    })?;
    Ok(sum)
}

/// `silu(gate · factor) · up`, in the memory of `up`, which nothing else may use.
pub fn swiglu(gate: &Tensor, factor: f64, up: &Tensor) -> Result<Tensor> {
    let factor = factor as f32;
    match up.device() {
        Device::Cpu => {
            let lent = Lent::of(gate)?;
            let gate = lent.slice()?;
            with_slice_mut(up, |up| rows::swiglu(Isa::best(), gate, factor, up))?;
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::swiglu(gate, factor, up)?,
        device => return Err(no_kernels(device)),
    }
    Ok(up.clone())
}

/// `x` [.., size] over the root of its mean square in the last dimension, times `weight` `[size]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.contiguous()?;
    match x.device() {
        Device::Cpu => {
            let y = normed(Lent::of(&x)?.slice()?, weight, eps)?;
            Ok(Tensor::from_vec(y, x.shape(), x.device())?)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::rms_norm(&x, weight, eps),
        device => Err(no_kernels(device)),
    }
}

fn normed(x: &[f32], weight: &Tensor, eps: f32) -> Result<Vec<f32>> {
    let mut y = vec![0.0; x.len()];
    rows::rms_norm(Isa::best(), x, Lent::of(weight)?.slice()?, eps, &mut y);
    Ok(y)
}

/// Turns the first pairs of each vector of `x` [tokens, heads, width] by `cos` and `sin` [tokens, pairs], on the CPU in
/// the memory of `x` where that is contiguous: nothing else may use it.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, pairing: Pairing) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => rotate_on_cpu(x, cos, sin, pairing),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::rotate(x, cos, sin, pairing),
        device => Err(no_kernels(device)),
    }
}

fn rotate_on_cpu(x: &Tensor, cos: &Tensor, sin: &Tensor, pairing: Pairing) -> Result<Tensor> {
    let (_, heads, width) = x.dims3()?;
    let y = x.contiguous()?;
    let (cos_lent, sin_lent, pairs) = (Lent::of(cos)?, Lent::of(sin)?, cos.dim(1)?);
    let (cos, sin) = (cos_lent.slice::<f32>()?, sin_lent.slice::<f32>()?);
    let rotate_row = |row: usize, x: &mut [f32]| {
        let angles = row / heads * pairs..(row / heads + 1) * pairs;
        if let (Some(cos), Some(sin)) = (cos.get(angles.clone()), sin.get(angles)) {
            rope::rotate(Isa::best(), x, cos, sin, pairing == Pairing::Neighbours);
        }
    };
    with_slice_mut(&y, |y| rows::each_row(y, width, rotate_row))?;
    Ok(y)
}

/// Writes `rows` [tokens, heads, width] into `page` [heads, tokens of the page, width] from its token `first` on.
pub fn set_rows(page: &Tensor, first: usize, rows: &Tensor) -> Result<()> {
    if !page.device().is_cpu() {
        return Ok(page.slice_set(&rows.transpose(0, 1)?.contiguous()?, 1, first)?);
    }
    let ((tokens, heads, width), (page_heads, page_len, page_width)) = (rows.dims3()?, page.dims3()?);
    if (heads, width) != (page_heads, page_width) || first + tokens > page_len {
        return Err(Error::Internal(format!(
            "no room in a page {:?} for {:?} from {first} on",
            page.dims(),
            rows.dims()
        )));
    }
    let rows = rows.contiguous()?;
    let lent = Lent::of(&rows)?;
    let vectors = lent.slice()?.chunks_exact(width.max(1)).enumerate();
    with_slice_mut(page, |page| {
        for (at, vector) in vectors {
            let (token, head) = (at / heads, at % heads);
            let own = page.chunks_exact_mut(width).nth(head * page_len + first + token);
            own.into_iter().for_each(|own| own.copy_from_slice(vector));
        }
    })
}

/// Zeros, f32, unless the machine can't have as many.
pub fn zeros_if_they_fit(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.dims().iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    let fits = count.is_some_and(|count| !device.is_cpu() || Vec::<f32>::new().try_reserve_exact(count).is_ok());
    if !fits {
        return Err(Error::Unsupported(format!("no memory for {shape:?} numbers of 4 bytes")));
    }
    Ok(Tensor::zeros(shape, DType::F32, device)?)
}

/// A copy on `device` that shares no memory with `x`. From one device to another, both are waited for: each has an order of
/// its own.
pub fn copy_to(x: &Tensor, device: &Device) -> Result<Tensor> {
    if x.device().same_device(device) {
        return Ok(x.copy()?);
    }
    x.device().synchronize()?;
    let copy = x.to_device(device)?;
    device.synchronize()?;
    Ok(copy)
}

fn no_kernels(device: &Device) -> Error {
    Error::Unsupported(format!("this build has no kernels for {device:?}"))
}

/// The memory of a contiguous tensor on the CPU, locked for reading.
pub(super) struct Lent<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Lent<'a> {
    pub(super) fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let (start, end) = contiguous(layout)?;
        Ok(Self { storage, range: start..end })
    }

    /// All memory from a tensor's start on: where its rows lie apart, this has what is between them too.
    pub(super) fn from_start(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        let end = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => data.len(),
            _ => 0,
        };
        Self { storage, range: layout.start_offset()..end }
    }

    pub(super) fn slice<T: WithDType>(&self) -> Result<&[T]> {
        let slice = match &*self.storage {
            Storage::Cpu(storage) => storage.as_slice::<T>()?.get(self.range.clone()),
            _ => None,
        };
        slice.ok_or_else(|| Error::Internal("a kernel was given a tensor that is not on the CPU".into()))
    }
}

/// Lends the memory of a contiguous f32 tensor on the CPU for writing.
pub(super) fn with_slice_mut(x: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(x.inplace_op1(&Write(Cell::new(Some(write))))?)
}

/// The numbers of `x`, which nothing else may use: no copy where they are alone in memory of the CPU.
pub fn into_vec(x: &Tensor) -> Result<Vec<f32>> {
    let taken = Take(Cell::default());
    if x.device().is_cpu() {
        x.inplace_op1(&taken)?;
    }
    match taken.0.into_inner() {
        Some(numbers) => Ok(numbers),
        None => Ok(x.flatten_all()?.to_vec1()?),
    }
}

struct Take(Cell<Option<Vec<f32>>>);

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        if let (CpuStorage::F32(data), Some((0, end))) = (storage, layout.contiguous_offsets())
            && data.len() == end
        {
            self.0.set(Some(std::mem::take(data)));
        }
        Ok(())
    }
}

struct Write<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (start, end) = contiguous(layout).map_err(candle_core::Error::wrap)?;
        let CpuStorage::F32(data) = storage else { candle_core::bail!("a kernel writes f32") };
        if let (Some(slice), Some(write)) = (data.get_mut(start..end), self.0.take()) {
            write(slice);
        }
        Ok(())
    }
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    let offsets = layout.contiguous_offsets();
    offsets.ok_or_else(|| Error::Internal(format!("a kernel needs contiguous memory, found {layout:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::RmsNorm;

    #[test]
    fn numbers_are_taken_out_of_a_tensor_whole_or_copied_from_a_part_of_one() {
        let whole = || scale_in_place(wave((2, 3, 4), 0.3), 2.0).unwrap();
        let numbers = values(&whole());
        assert_eq!(numbers, values(&(wave((2, 3, 4), 0.3) * 2.0).unwrap()));
        let kept = whole();
        assert_eq!(into_vec(&kept.narrow(0, 1, 1).unwrap()).unwrap(), numbers[12..]);
        assert_eq!(into_vec(&kept.narrow(0, 0, 1).unwrap()).unwrap(), numbers[..12]);
        let turned = kept.transpose(0, 1).unwrap();
        assert_eq!(into_vec(&turned).unwrap(), values(&turned.contiguous().unwrap()));
        assert_eq!(values(&kept), numbers);
        assert_eq!(into_vec(&kept).unwrap(), numbers);
    }

    pub(super) fn wave(shape: impl Into<candle_core::Shape>, k: f32) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|i| (i as f32 * k).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub(super) fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor, bound: f32) {
        assert_eq!(a.shape(), b.shape());
        for (a, b) in values(a).iter().zip(values(b)) {
            assert!((a - b).abs() <= bound, "{a} for {b}");
        }
    }

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
        let (w, up) = (weight(0.011), weight(0.017));
        let (row, norm, bias) = (wave((1, n_in), 0.37), wave(n_in, 0.5), wave(n_out, 0.9));
        let input = Input { rows: row, norm: Some(RmsNorm { weight: &norm, eps: 1e-5 }) };
        let residual = Residual { x: &wave((1, n_out), 0.2), factor: 0.7 };
        let plain = |w| linear(&input.rows().unwrap(), w, precision).unwrap();

        let pool = pool::Pool::new(3).unwrap(); // each of whose threads has a part of the outputs
        let got = pool.install(|| row_times(&input, &w, precision, Some(&bias), Some(residual)).unwrap().unwrap());
        assert_close(&got, &residual.add(&plain(&w).broadcast_add(&bias).unwrap()).unwrap(), 1e-6);
        let got = pool.install(|| gated_row(&input, &w, 0.3, &up, precision).unwrap().unwrap());
        assert_close(&got, &swiglu(&plain(&w), 0.3, &plain(&up)).unwrap(), 1e-5);
        let two = Input::from(&wave((2, n_in), 0.37));
        assert!(row_times(&two, &w, precision, None, None).unwrap().is_none());
        assert!(gated_row(&two, &w, 1.0, &up, precision).unwrap().is_none());
    }

    #[test]
    fn products_per_head_agree_for_one_and_many_tokens() {
        let w = wave((2, 5, 7), 0.3);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let w = w.to_dtype(dtype).unwrap();
            for (op, n_in) in [(linear_per_head as fn(&_, &_) -> _, 7), (linear_transposed_per_head, 5)] {
                let x = wave((2, 3, n_in), 0.7);
                let all: Tensor = op(&x, &w).unwrap();
                for token in 0..3 {
                    let one = op(&x.narrow(1, token, 1).unwrap(), &w).unwrap();
                    assert_close(&one, &all.narrow(1, token, 1).unwrap(), 1e-5);
                }
            }
        }
    }

    #[test]
    fn answers_are_added_to_their_rows() {
        let (sum, answers) = (wave((5, 33), 0.3), wave((3, 33), 0.7));
        let (which, shares) = ([4, 0, 3], [0.3, 0.5, 0.2]);
        let indices = Tensor::new(&which, &Device::Cpu).unwrap();
        let shared = answers.broadcast_mul(&Tensor::from_slice(&shares, (3, 1), &Device::Cpu).unwrap()).unwrap();
        let want = sum.index_add(&indices, &shared, 0).unwrap();
        assert_close(&add_to_rows(sum, &which, &shares, &answers).unwrap(), &want, 1e-6);
    }

    #[test]
    fn kernels_refuse_memory_that_is_not_contiguous() {
        let x = wave((2, 3), 1.0).t().unwrap();
        assert!(Lent::of(&x).err().unwrap().to_string().contains("contiguous"));
    }
}
