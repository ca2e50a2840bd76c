//! The only bridge from tensors to kernels: on the CPU an op runs our kernel over the tensors' own memory, elsewhere
//! (and for many rows at once) it is composed of candle's ops. Activations are f32 throughout.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor, WithDType};
use half::{bf16, f16};

use super::linear::Weight;
use super::packing::StoredRows;
use crate::error::{Error, Result};
use crate::kernels::isa::Isa;
use crate::kernels::matrix::{Matrix, Precision, WeightType};
use crate::kernels::{mamba2, matvec};

/// At most this many weights are widened to f32 at a time when many rows meet 16-bit weights: 4 MiB of scratch.
const PANEL: usize = 1 << 20;

/// At most this many attention scores are held at a time: 16 MiB.
const SCORES: usize = 1 << 22;

/// `x` [rows, in] times the transpose of `w` [out, in]: [rows, out].
pub fn linear(x: &Tensor, w: &Weight, precision: Precision) -> Result<Tensor> {
    match w {
        Weight::Packed(matrix) => {
            let x = x.contiguous()?;
            let rows = x.dim(0)?;
            let mut y = vec![0.0; rows * matrix.n_out()];
            matrix.times(Isa::best(), Lent::of(&x)?.slice()?, precision, &mut y);
            Ok(Tensor::from_vec(y, (rows, matrix.n_out()), x.device())?)
        }
        Weight::Tensor(w) => linear_composed(x, w),
    }
}

fn linear_composed(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = w.dims2()?;
    let panel = (PANEL / n_in.max(1)).max(1);
    if w.dtype() == DType::F32 || n_out <= panel {
        return Ok(x.matmul(&w.to_dtype(DType::F32)?.t()?)?);
    }
    let products = (0..n_out).step_by(panel).map(|start| {
        let rows = w.narrow(0, start, panel.min(n_out - start))?;
        x.matmul(&rows.to_dtype(DType::F32)?.t()?)
    });
    Ok(Tensor::cat(&products.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
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
        Weight::Tensor(w) => Ok(w.index_select(&Tensor::new(tokens, w.device())?, 0)?.to_dtype(DType::F32)?),
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
    let row = |row: usize| bytes.get(row * width..(row + 1) * width).unwrap_or_default();
    StoredRows { dtype, n_out, n_in, row: &row }.pack(wanted)
}

/// Per head: `x` [heads, tokens, in] times the transpose of `w` [heads, out, in]: [heads, tokens, out].
pub fn linear_per_head(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    per_head(x, w, w.dim(1)?, rows_times, |w| w.transpose(1, 2))
}

/// Per head: `x` [heads, tokens, out] times `w` [heads, out, in] as it is: [heads, tokens, in].
pub fn linear_transposed_per_head(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    per_head(x, w, w.dim(2)?, columns_times, |w| Ok(w.clone()))
}

fn per_head(
    x: &Tensor,
    w: &Tensor,
    width: usize,
    kernel: fn(&Tensor, &[f32], &mut [f32]) -> Result<()>,
    orient: fn(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    let (heads, tokens, n_in) = x.dims3()?;
    if tokens != 1 || !on_cpu(x) {
        return Ok(x.contiguous()?.matmul(&orient(&w.to_dtype(DType::F32)?)?)?);
    }
    let mut y = vec![0.0; heads * width];
    let x = x.contiguous()?;
    let lent = Lent::of(&x)?;
    let rows = lent.slice()?.chunks_exact(n_in.max(1)).zip(y.chunks_exact_mut(width.max(1)));
    for (head, (x, y)) in rows.enumerate() {
        kernel(&w.get(head)?, x, y)?;
    }
    Ok(Tensor::from_vec(y, (heads, 1, width), x.device())?)
}

fn rows_times(w: &Tensor, x: &[f32], y: &mut [f32]) -> Result<()> {
    let lent = Lent::of(w)?;
    match w.dtype() {
        DType::F32 => matvec::rows_times(lent.slice::<f32>()?, x, y),
        DType::F16 => matvec::rows_times(lent.slice::<f16>()?, x, y),
        _ => matvec::rows_times(lent.slice::<bf16>()?, x, y),
    }
    Ok(())
}

fn columns_times(w: &Tensor, x: &[f32], y: &mut [f32]) -> Result<()> {
    let lent = Lent::of(w)?;
    match w.dtype() {
        DType::F32 => matvec::columns_times(lent.slice::<f32>()?, x, y),
        DType::F16 => matvec::columns_times(lent.slice::<f16>()?, x, y),
        _ => matvec::columns_times(lent.slice::<bf16>()?, x, y),
    }
    Ok(())
}

/// What one token feeds into the Mamba2 recurrence; all f32.
#[derive(Debug)]
pub struct Mamba2Inputs<'a> {
    /// x, B and C side by side, [1, heads · head_dim + 2 · groups · state_size].
    pub xbc: &'a Tensor,
    /// Δ, [heads, 1, 1].
    pub dt: &'a Tensor,
    /// exp(Δ · A), [heads, 1, 1].
    pub decay: &'a Tensor,
    /// D, `[heads]`.
    pub d: &'a Tensor,
    /// How many groups of heads share B and C.
    pub groups: usize,
}

/// Advances `state` [heads, head_dim, state_size] in place by one token; the output is [1, heads · head_dim].
pub fn mamba2_step(state: &Tensor, inputs: &Mamba2Inputs<'_>) -> Result<Tensor> {
    if on_cpu(state) { mamba2_step_fused(state, inputs) } else { mamba2_step_composed(state, inputs) }
}

fn mamba2_step_fused(state: &Tensor, inputs: &Mamba2Inputs<'_>) -> Result<Tensor> {
    let (heads, head_dim, state_size) = state.dims3()?;
    let (inner, shared) = (heads * head_dim, inputs.groups * state_size);
    let mut y = vec![0.0; inner];
    let (xbc, dt, decay) = (Lent::of(inputs.xbc)?, Lent::of(inputs.dt)?, Lent::of(inputs.decay)?);
    let d = Lent::of(inputs.d)?;
    let (x, bc) = xbc.slice()?.split_at(inner);
    let (b, c) = bc.split_at(shared);
    let token =
        mamba2::Inputs { x, b, c, dt: dt.slice()?, decay: decay.slice()?, d: d.slice()?, groups: inputs.groups };
    with_slice_mut(state, |state| mamba2::step(state, token, &mut y))?;
    Ok(Tensor::from_vec(y, (1, inner), state.device())?)
}

fn mamba2_step_composed(state: &Tensor, inputs: &Mamba2Inputs<'_>) -> Result<Tensor> {
    let (heads, head_dim, state_size) = state.dims3()?;
    let (inner, shared, groups) = (heads * head_dim, inputs.groups * state_size, inputs.groups);
    let per_head = |start| -> candle_core::Result<Tensor> {
        let grouped = inputs.xbc.narrow(1, start, shared)?.reshape((groups, 1, state_size))?;
        grouped.broadcast_as((groups, heads / groups, state_size))?.reshape((heads, 1, state_size))
    };
    let x = inputs.xbc.narrow(1, 0, inner)?.reshape((heads, head_dim, 1))?;
    let (b, c) = (per_head(inner)?, per_head(inner + shared)?);
    let next = (state.broadcast_mul(inputs.decay)? + x.broadcast_mul(inputs.dt)?.broadcast_mul(&b)?)?;
    let read = next.broadcast_mul(&c)?.sum_keepdim(2)?; // [heads, head_dim, 1]
    state.slice_set(&next, 0, 0)?;
    let skip = x.broadcast_mul(&inputs.d.reshape((heads, 1, 1))?)?;
    Ok((read + skip)?.reshape((1, inner))?)
}

/// `x` times a number, which is mostly 1.
pub fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(x.clone()) } else { Ok((x * factor)?) }
}

/// Which scores attention takes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// A query sees so many of the last keys, its own token's among them; all where there is no window.
    pub window: Option<usize>,
}

/// Causal attention with shared key heads. `k` [kv_heads, positions, width] and `v` [kv_heads, positions, value_width] end
/// at the position of the last of the queries `q` [heads, tokens, width]. Head h reads key head `h / (heads / kv_heads)`.
/// The output is [heads, tokens, value_width].
///
/// Where the scores of all heads and queries are too many, key heads are taken one by one and queries in blocks, so
/// that the scores stay under a fixed size however long the prompt is.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor, how: Attention) -> Result<Tensor> {
    let (heads, tokens, _) = q.dims3()?;
    let (kv_heads, visible) = (k.dim(0)?, k.dim(1)?);
    let (group, start) = (heads / kv_heads, visible - tokens);
    if heads * tokens * visible <= SCORES {
        return attend_block(q, k, v, start, how);
    }
    let block = (SCORES / (group * visible)).clamp(1, tokens);
    let by_head = (0..kv_heads).map(|head| {
        let q = q.narrow(0, head * group, group)?;
        let (k, v) = (k.narrow(0, head, 1)?, v.narrow(0, head, 1)?);
        let blocks = (0..tokens).step_by(block).map(|first| {
            let q = q.narrow(1, first, block.min(tokens - first))?;
            attend_block(&q, &k, &v, start + first, how)
        });
        Ok(Tensor::cat(&blocks.collect::<Result<Vec<_>>>()?, 1)?)
    });
    Ok(Tensor::cat(&by_head.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Attention of queries that stand at the positions from `start` on.
fn attend_block(q: &Tensor, k: &Tensor, v: &Tensor, start: usize, how: Attention) -> Result<Tensor> {
    let (heads, tokens, width) = q.dims3()?;
    let kv_heads = k.dim(0)?;
    let window = how.window.unwrap_or(usize::MAX);
    let first = (start + 1).saturating_sub(window); // the first key that any of the queries sees
    let seen = start + tokens - first;
    let q = (q.contiguous()?.reshape((kv_heads, heads / kv_heads * tokens, width))? * how.scale)?;
    let scores = q.matmul(&k.narrow(1, first, seen)?.transpose(1, 2)?)?.reshape((heads, tokens, seen))?;
    let scores = if tokens == 1 { scores } else { scores.broadcast_add(&mask(tokens, seen, window, q.device())?)? };
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.reshape((kv_heads, (), seen))?;
    Ok(weights.matmul(&v.narrow(1, first, seen)?)?.reshape((heads, tokens, ()))?)
}

/// [tokens, keys], of queries at the last of these keys: zero where the key may be seen, −∞ where it lies in the future
/// or before the window.
fn mask(tokens: usize, keys: usize, window: usize, device: &Device) -> Result<Tensor> {
    let row = |token| {
        let own = keys - tokens + token;
        let is_seen = move |key| key <= own && own - key < window;
        (0..keys).map(move |key| if is_seen(key) { 0.0 } else { f32::NEG_INFINITY })
    };
    let mask: Vec<f32> = (0..tokens).flat_map(row).collect();
    Ok(Tensor::from_vec(mask, (tokens, keys), device)?)
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

fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu()
}

/// The memory of a contiguous tensor on the CPU, locked for reading.
struct Lent<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Lent<'a> {
    fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let (start, end) = contiguous(layout)?;
        Ok(Self { storage, range: start..end })
    }

    fn slice<T: WithDType>(&self) -> Result<&[T]> {
        let slice = match &*self.storage {
            Storage::Cpu(storage) => storage.as_slice::<T>()?.get(self.range.clone()),
            _ => None,
        };
        slice.ok_or_else(|| Error::Internal("a kernel was given a tensor that is not on the CPU".into()))
    }
}

/// Lends the memory of a contiguous f32 tensor on the CPU for writing.
fn with_slice_mut(x: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(x.inplace_op1(&Write(Cell::new(Some(write))))?)
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
    use std::sync::Arc;

    use super::*;

    fn wave(shape: impl Into<candle_core::Shape>, k: f32) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|i| (i as f32 * k).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
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
    fn the_fused_mamba2_step_equals_the_composed_one() {
        let (heads, head_dim, state_size, groups) = (4, 3, 5, 2);
        let xbc = wave((1, heads * head_dim + 2 * groups * state_size), 0.3);
        let (dt, decay) = (wave((heads, 1, 1), 0.9), wave((heads, 1, 1), 1.3).abs().unwrap());
        let d = wave(heads, 1.1);
        let inputs = Mamba2Inputs { xbc: &xbc, dt: &dt, decay: &decay, d: &d, groups };
        let fused_state = wave((heads, head_dim, state_size), 0.2);
        let composed_state = fused_state.copy().unwrap();

        let fused = mamba2_step_fused(&fused_state, &inputs).unwrap();
        let composed = mamba2_step_composed(&composed_state, &inputs).unwrap();
        assert_close(&fused, &composed, 1e-6);
        assert_close(&fused_state, &composed_state, 1e-6);
    }

    /// Attention by its definition, in f64, for one query.
    fn exact_attention(q: &[f32], k: &[f32], v: &[f32], width: usize, value_width: usize, scale: f64) -> Vec<f64> {
        let dot = |key: &[f32]| q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let weights: Vec<f64> = k.chunks(width).map(|key| (dot(key) * scale).exp()).collect();
        let total: f64 = weights.iter().sum();
        let value = |j: usize| -> f64 {
            let column = v.iter().skip(j).step_by(value_width);
            weights.iter().zip(column).map(|(w, v)| w / total * f64::from(*v)).sum()
        };
        (0..value_width).map(value).collect()
    }

    #[test]
    fn attention_equals_its_definition_also_where_queries_are_taken_in_blocks() {
        let (heads, kv_heads, width, value_width, scale) = (4, 2, 6, 3, 0.4);
        let cases = [(0, 1), (9, 1), (0, 40), (7, 5), (300, 1500)];
        for ((start, tokens), window) in
            cases.into_iter().flat_map(|case| [(case, None), (case, Some(1)), (case, Some(8))])
        {
            let positions = start + tokens;
            let q = wave((heads, tokens, width), 0.37);
            let (k, v) = (wave((kv_heads, positions, width), 0.23), wave((kv_heads, positions, value_width), 0.71));
            let got = causal_attention(&q, &k, &v, Attention { scale, window }).unwrap();
            for (head, token) in [(0, 0), (1, tokens / 2), (2, tokens - 1), (3, tokens - 1)] {
                let row = |x: &Tensor, head: usize, from, count| {
                    values(&x.get(head).unwrap().narrow(0, from, count).unwrap())
                };
                let seen = (start + token + 1).min(window.unwrap_or(usize::MAX));
                let first = start + token + 1 - seen;
                let (k, v) = (row(&k, head / 2, first, seen), row(&v, head / 2, first, seen));
                let want = exact_attention(&row(&q, head, token, 1), &k, &v, width, value_width, scale);
                for (got, want) in row(&got, head, token, 1).iter().zip(want) {
                    let case = (start, tokens, window, head);
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} for {want}: {case:?}");
                }
            }
        }
    }

    #[test]
    fn kernels_refuse_memory_that_is_not_contiguous() {
        let x = wave((2, 3), 1.0).t().unwrap();
        assert!(Lent::of(&x).err().unwrap().to_string().contains("contiguous"));
    }
}
