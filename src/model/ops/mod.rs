//! The only bridge from tensors to kernels (plain numbers of one row go to them as they are): an op runs our kernel over the tensors' own memory, or is candle's own on a GPU
//! where that is as fast. Activations are f32 between ops.

mod attention;
#[cfg(any(feature = "cuda", test))]
mod composed;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod lent;
mod mamba2;
mod per_head;
mod products;
mod row;

use candle_core::{DType, Device, Shape, Tensor};

pub(super) use self::attention::attention_into;
pub use self::attention::{Attention, causal_attention};
pub use self::cuda::{Blocks, Experts, draw, shortlist};
use self::lent::{Lent, with_slice_mut};
pub use self::lent::{into_vec, with_slice};
pub use self::mamba2::{Constants, GatedNorm, Mamba2State, Mixing};
pub use self::per_head::{Orientation, PerHead};
pub(super) use self::products::{all_products, gated_row, is_one_row, on_cpu, row_times};
pub use self::products::{embed, hold, linear, pack, place, weight_type};
pub(super) use self::row::{each, mlp_row};
use super::rope::Pairing;
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::{rope, rows};

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

/// Turns the first pairs of each vector of one token on the CPU, of `width` numbers each, by `cos` and `sin` [1, pairs].
pub fn rotate_row(x: &mut [f32], width: usize, cos: &Tensor, sin: &Tensor, pairing: Pairing) -> Result<()> {
    let (cos, sin) = (Lent::of(cos)?, Lent::of(sin)?);
    let (cos, sin) = (cos.slice()?, sin.slice()?);
    let vectors = x.chunks_exact_mut(width.max(1));
    vectors.for_each(|x| rope::rotate(Isa::best(), x, cos, sin, pairing == Pairing::Neighbours));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn wave(shape: impl Into<candle_core::Shape>, k: f32) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|i| (i as f32 * k).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub(super) fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(super) fn assert_close(a: &Tensor, b: &Tensor, bound: f32) {
        assert_eq!(a.shape(), b.shape());
        for (a, b) in values(a).iter().zip(values(b)) {
            assert!((a - b).abs() <= bound, "{a} for {b}");
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
}
