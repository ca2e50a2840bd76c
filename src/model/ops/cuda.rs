//! Ops on NVIDIA GPUs: our kernels over the tensors' own memory. Nothing waits for the device before its results are asked
//! for.

use std::ops::Range;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Shape, Storage, Tensor};
use half::bf16;

use super::lent::contiguous;
use super::mamba2::Constants;
use super::{Attention, weight_type};
use crate::error::{Error, Result};
use crate::kernels::cuda::driver::{Kernels, uninitialized};
use crate::kernels::cuda::{
    self, Address, After, Attend, Best, Drawing, ExpertsRun, Heads, Launch, Mamba2, Mamba2Run, Norm, Table, Weights,
};
use crate::kernels::draw::{Draw, Drawn};
use crate::kernels::matrix::{Matrix, Precision, WeightType};
use crate::kernels::shortlist::Shortlist;
use crate::model::input::{Input, Residual, RmsNorm};
use crate::model::linear::Weight;
use crate::model::mlp::{Matrices, Mlp};
use crate::model::moe::Routing;
use crate::model::rope::Pairing;

/// As [`super::row_times`], of one row.
pub(super) fn row_times(
    input: &Input<'_>,
    w: &Weight,
    bias: Option<&Tensor>,
    residual: Option<Residual<'_>>,
) -> Result<Option<Tensor>> {
    let Some(w) = one_matrix(w)? else { return Ok(None) };
    let norm = norm(input)?;
    let after = After {
        bias: bias.map_or(Ok(0), address)?,
        residual: residual.map_or(Ok(0), |residual| address(residual.x))?,
        factor: residual.map_or(1.0, |residual| residual.factor as f32),
    };
    with_output(&input.rows, (1, w.n_out), |x, y| vec![w.row_times(x, norm, after, y)]).map(Some)
}

/// As [`super::gated_row`], of one row. None where the types or sizes of the matrices differ.
pub(super) fn gated_row(input: &Input<'_>, gate: &Weight, factor: f32, up: &Weight) -> Result<Option<Tensor>> {
    let (Some(gate), Some(up)) = (one_matrix(gate)?, one_matrix(up)?) else { return Ok(None) };
    if (gate.dtype, gate.n_out) != (up.dtype, up.n_out) {
        return Ok(None);
    }
    let norm = norm(input)?;
    let launch = |x, y| vec![cuda::gated(&gate, &up, factor, x, norm, y)];
    with_output(&input.rows, (1, gate.n_out), launch).map(Some)
}

fn norm(input: &Input<'_>) -> Result<Norm> {
    match input.norm {
        Some(RmsNorm { weight, eps, .. }) => Ok(Norm { weight: address(weight)?, eps }),
        None => Ok(Norm::default()),
    }
}

/// `x` [rows, in] times the transpose of `w` [out, in], rounded to bf16 and with f32 results [rows, out]; none where
/// candle's product of f32 is meant.
pub(super) fn linear(x: &Tensor, w: &Tensor, precision: Precision) -> Result<Option<Tensor>> {
    // Activations may be larger than f16 has numbers for.
    if !x.device().is_cuda() || w.dtype() != DType::BF16 || precision == Precision::Exact {
        return Ok(None);
    }
    let (rows, (n_out, n_in)) = (x.dim(0)?, w.dims2()?);
    let (x, y) = (x.to_dtype(w.dtype())?.contiguous()?, empty(x, (rows, n_out))?);
    let places = (address(&x)?, address(w)?, address(&y)?);
    kernels(&x)?.multiply_bf16(places, [rows, n_in, n_out])?;
    Ok(Some(y))
}

/// A matrix as kernels take it; none where it is on the CPU.
fn one_matrix(w: &Weight) -> Result<Option<Weights>> {
    let (at, (n_out, n_in)) = match w {
        Weight::Packed(_) => return Ok(None),
        Weight::Blocks(w) => return w.weights().map(Some),
        Weight::Tensor(w) if w.device().is_cpu() => return Ok(None),
        Weight::Tensor(w) => (address(w)?, w.dims2()?),
    };
    Ok(Some(Weights { at, dtype: w.dtype(), count: 1, n_out, n_in }))
}

/// A matrix [out, in] of blocks in the device's memory, as its kernels read it.
#[derive(Clone, Debug)]
pub struct Blocks {
    dtype: WeightType,
    n_out: usize,
    n_in: usize,
    memory: Tensor, // bytes
}

impl Blocks {
    pub(super) fn new(matrix: Matrix, device: &Device) -> Result<Self> {
        let (dtype, n_out, n_in) = (matrix.dtype(), matrix.n_out(), matrix.n_in());
        let memory = matrix.into_planes();
        Ok(Self { dtype, n_out, n_in, memory: Tensor::from_slice(&memory, memory.len(), device)? })
    }

    /// The type of the blocks.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// How many outputs there are.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// How many inputs there are.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// The bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.memory.elem_count()
    }

    fn weights(&self) -> Result<Weights> {
        let Self { dtype, n_out, n_in, .. } = *self;
        Ok(Weights { at: address(&self.memory)?, dtype, count: 1, n_out, n_in })
    }

    /// Some rows [rows, in] as what products of this precision take: bf16 or f32.
    pub(super) fn widened(&self, rows: Range<usize>, precision: Precision) -> Result<Tensor> {
        let (w, shape) = (self.weights()?, (rows.len(), self.n_in));
        let (y, launch): (_, fn(&Weights, _, _) -> _) = match precision {
            Precision::Fast => (empty_of::<bf16>(&self.memory, shape)?, Weights::widen_to_bf16),
            Precision::Exact => (empty(&self.memory, shape)?, Weights::widen_to_f32),
        };
        run(&y, &[launch(&w, rows, address(&y)?)])?;
        Ok(y)
    }

    /// As [`super::embed`].
    pub(super) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let (w, ids) = (self.weights()?, Tensor::new(tokens, self.memory.device())?);
        with_output(&ids, (tokens.len(), self.n_in), |ids, y| vec![w.embed(ids, tokens.len(), y)])
    }
}

/// Per head, one row of `x` times the transpose of `w` [heads, out, in].
pub(super) fn one_row_per_head(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (count, n_out, n_in) = w.dims3()?;
    let weights = Weights { at: address(w)?, dtype: weight_type(w.dtype()), count, n_out, n_in };
    with_output(x, (count, 1, n_out), |x, y| vec![weights.row_times(x, Norm::default(), After::default(), y)])
}

/// As [`super::rms_norm`].
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let (size, weight) = (weight.elem_count(), address(weight)?);
    let sizes = [x.elem_count() / size.max(1), size];
    with_output(x, x.shape(), |x, y| vec![cuda::rms_norm(x, weight, y, sizes, eps)])
}

/// `silu(gate · factor) · up`, in the memory of `up`.
pub(super) fn swiglu(gate: &Tensor, factor: f32, up: &Tensor) -> Result<()> {
    run(up, &[cuda::swiglu(address(gate)?, factor, address(up)?, up.elem_count())])
}

/// `x + y · factor`, in the memory of `y`.
pub(super) fn add_to_scaled(x: &Tensor, factor: f32, y: &Tensor) -> Result<()> {
    run(y, &[cuda::add_to_scaled(address(x)?, factor, address(y)?, y.elem_count())])
}

/// As [`super::rotate`].
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, pairing: Pairing) -> Result<Tensor> {
    let (tokens, heads, width) = x.dims3()?;
    let y = x.force_contiguous()?; // written in place
    let (angles, pairs) = ((address(cos)?, address(sin)?), cos.dim(1)?);
    run(&y, &[cuda::rotate(address(&y)?, [tokens, heads, width], angles, pairs, pairing == Pairing::Neighbours)])?;
    Ok(y)
}

/// As [`super::causal_attention`] for one query a head; none for several, and where rows are wider than the kernel takes.
pub(super) fn attend_one(q: &Tensor, k: &Tensor, v: &Tensor, how: Attention) -> Result<Option<Tensor>> {
    let ((n_queries, heads, _), (kv_heads, all, _)) = (q.dims3()?, k.dims3()?);
    if n_queries != 1 {
        return Ok(None);
    }
    let n_keys = all.min(how.window.unwrap_or(usize::MAX));
    let (k, v) = (k.narrow(1, all - n_keys, n_keys)?, v.narrow(1, all - n_keys, n_keys)?);
    let (k, v) = (super::attention::with_whole_rows(&k)?, super::attention::with_whole_rows(&v)?);
    let attend = Attend { heads, kv_heads, n_keys, k: rows(&k)?, v: rows(&v)?, scale: how.scale as f32 };
    if !attend.fits() {
        return Ok(None);
    }
    let room = empty(q, attend.room() / size_of::<f32>())?;
    let room = address(&room)?;
    with_output(q, (1, heads, v.dim(2)?), |q, y| attend.launches(q, room, y).into()).map(Some)
}

fn rows(x: &Tensor) -> Result<Heads> {
    let (head_stride, stride) = match x.stride() {
        [head_stride, stride, _] => (*head_stride, *stride),
        other => return Err(Error::Internal(format!("attention takes three dimensions, found strides {other:?}"))),
    };
    Ok(Heads { at: start(x)?, head_stride, stride, width: x.dim(2)? })
}

/// Softmax over the keys that each token sees, in the memory of `scores` [heads, tokens, keys].
pub(super) fn causal_softmax(scores: &Tensor, window: usize) -> Result<()> {
    run(scores, &[cuda::causal_softmax(address(scores)?, scores.dims3()?.into(), window)])
}

/// The token that `draw` draws from `logits` `[vocab]`; none where they lie on the CPU, and where the CPU has to take all.
///
/// # Errors
/// The device's.
pub fn draw(logits: &Tensor, draw: Draw) -> Result<Option<Drawn>> {
    let drawing = Drawing { n_logits: logits.elem_count(), draw };
    if !logits.device().is_cuda() || !drawing.fits() {
        return Ok(None);
    }
    let launches = |logits, room, answer| drawing.launches(logits, room, answer);
    Ok(Drawing::read(&answer(logits, drawing.room(), Drawing::ANSWER, launches)?))
}

/// The `count` best of `logits` `[vocab]`, and what log-probabilities need of the others; none where they lie on the CPU, and
/// where so many are equal that too many are the best.
///
/// # Errors
/// The device's.
pub fn shortlist(logits: &Tensor, count: usize) -> Result<Option<Shortlist>> {
    let best = Best { n_logits: logits.elem_count(), count };
    if !logits.device().is_cuda() || !best.fits() {
        return Ok(None);
    }
    let launches = |logits, room, answer| best.launches(logits, room, answer).into();
    Ok(best.read(&answer(logits, best.room(), Best::ANSWER, launches)?))
}

/// So many numbers of 32 bits, which these launches make of logits with so many bytes of room.
fn answer(
    logits: &Tensor,
    room: usize,
    count: usize,
    launches: impl FnOnce(Address, Address, Address) -> Vec<Launch>,
) -> Result<Vec<f32>> {
    let room = empty(logits, room.div_ceil(size_of::<f32>()))?;
    let room = address(&room)?;
    Ok(with_output(logits, count, |logits, answer| launches(logits, room, answer))?.to_vec1()?)
}

/// What Mamba2 does between its two projections, with its weights on the device.
#[derive(Debug)]
pub struct Mixing {
    layer: Mamba2,
    /// What the addresses in `layer` are of.
    weights: Constants,
}

impl Mixing {
    pub(super) fn new(weights: &Constants) -> Result<Self> {
        let norm = weights.norm.as_ref();
        let layer = Mamba2 {
            sizing: weights.sizing,
            kept: weights.taps.dim(0)? - 1,
            taps: address(&weights.taps)?,
            conv_bias: weights.conv_bias.as_ref().map_or(Ok(0), address)?,
            dt_bias: address(&weights.dt_bias)?,
            dt_limit: weights.dt_limit,
            a: address(&weights.a)?,
            d: address(&weights.d)?,
            norm: norm.map_or(Ok(0), |norm| address(&norm.weight))?,
            eps: norm.map_or(0.0, |norm| norm.eps),
            is_norm_first: norm.is_some_and(|norm| norm.is_before_gate),
        };
        Ok(Self { layer, weights: weights.clone() })
    }

    /// As [`super::Mixing::run`], with the two tensors of a state.
    pub(super) fn run(&self, projected: &Tensor, conv: &mut Tensor, ssm: &Tensor) -> Result<Input<'_>> {
        let (tokens, inner) = (projected.dim(0)?, self.layer.sizing.inner());
        // There is no memory of no bytes: one token takes no room, and a convolution of one token keeps none.
        let room = match self.layer.room(tokens) {
            0 => None,
            bytes => Some(empty(projected, bytes / size_of::<f32>())?),
        };
        let keeps = self.layer.kept > 0;
        let next = if keeps { empty(projected, conv.shape())? } else { conv.clone() };
        let [old_conv, next_conv] = if keeps { [address(conv)?, address(&next)?] } else { [0; 2] };
        let (ssm, room) = (address(ssm)?, room.as_ref().map_or(Ok(0), address)?);
        let rows = with_output(projected, (tokens, inner), |projected, y| {
            self.layer.launches(Mamba2Run { tokens, projected, conv: old_conv, next_conv, ssm, y, room })
        })?;
        *conv = next;
        let norm = self.weights.norm.as_ref().filter(|_| self.layer.leaves_norm(tokens));
        Ok(Input { rows, norm: norm.map(|norm| RmsNorm { weight: &norm.weight, numbers: &[], eps: norm.eps }) })
    }
}

/// The experts of a layer, which tokens reach without the CPU.
#[derive(Debug)]
pub struct Experts {
    launches: cuda::Experts,
    /// What the addresses in `launches` are of: the tables and the correction.
    _tensors: Vec<Tensor>,
}

impl Experts {
    /// None on the CPU, and where experts have biases or matrices of one role are of several types.
    pub(in crate::model) fn new(
        experts: &[Mlp],
        routing: &Routing,
        correction: &[f32],
        (device, precision): (&Device, Precision),
    ) -> Result<Option<Self>> {
        let Some(matrices) = experts.iter().map(Mlp::matrices).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let (true, Some(first)) = (device.is_cuda() && have_types_of_roles(&matrices), matrices.first()) else {
            return Ok(None);
        };
        let correction = Tensor::new(correction, device)?;
        let mut tensors = vec![correction.clone()];
        let mut table = |role: Role| table(&matrices, role, device, &mut tensors);
        let gate = match first.gate {
            Some((_, factor)) => Some((table(|expert| Some(expert.gate?.0))?, factor as f32)),
            None => None,
        };
        let (up, down) = (table(|expert| Some(expert.up))?, table(|expert| Some(expert.down))?);
        let (routing, correction) = (routing.on_gpu(experts.len()), address(&correction)?);
        let launches = cuda::Experts { routing, correction, gate, up, down, precision };
        Ok(Some(Self { launches, _tensors: tensors }))
    }

    /// The weighed answers to `x` [tokens, width], from the router's `logits` [tokens, experts]: [tokens, width]. None where
    /// several tokens meet blocks.
    pub(in crate::model) fn forward(&self, x: &Tensor, logits: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, experts) = (x.dim(0)?, &self.launches);
        if !experts.take(tokens) {
            return Ok(None);
        }
        let x = if experts.rounds(tokens) { x.to_dtype(DType::BF16)? } else { x.clone() };
        let (logits, room) = (logits.contiguous()?, empty(&x, experts.room(tokens) / size_of::<f32>())?);
        let (logits, room) = (address(&logits)?, address(&room)?);
        let launches = |x, y| experts.launches(ExpertsRun { tokens, logits, x, room, y });
        with_output(&x, (tokens, experts.down.n_out), launches).map(Some)
    }
}

/// One of an expert's matrices.
type Role = for<'a> fn(&Matrices<'a>) -> Option<&'a Weight>;

/// Whether these experts are of the same types, and their gates of the type that multiplies them, as kernels take them.
fn have_types_of_roles(experts: &[Matrices<'_>]) -> bool {
    let types =
        |expert: &Matrices<'_>| (expert.gate.map(|(gate, _)| gate.dtype()), expert.up.dtype(), expert.down.dtype());
    let mut types = experts.iter().map(types);
    let first = types.next().filter(|(gate, up, _)| gate.is_none_or(|gate| gate == *up));
    first.is_some_and(|first| types.all(|other| other == first))
}

/// A table of the addresses of one role's matrices, all of one shape and type, which is kept among `tensors`.
fn table(experts: &[Matrices<'_>], role: Role, device: &Device, tensors: &mut Vec<Tensor>) -> Result<Table> {
    let not_there = || Error::Internal("a GPU's experts have the same matrices, in its memory".into());
    let matrices = experts.iter().map(|expert| role(expert).map_or(Ok(None), one_matrix));
    let matrices = matrices.collect::<Result<Option<Vec<_>>>>()?.ok_or_else(not_there)?;
    let Weights { dtype, n_out, n_in, .. } = *matrices.first().ok_or_else(not_there)?;
    let addresses: Vec<i64> = matrices.iter().map(|matrix| matrix.at.cast_signed()).collect();
    let at = Tensor::new(addresses, device)?;
    let table = Table { at: address(&at)?, dtype, n_out, n_in };
    tensors.push(at);
    Ok(table)
}

/// Runs what `launches` makes of the addresses of `x` and of an output of this shape.
fn with_output(
    x: &Tensor,
    shape: impl Into<Shape>,
    launches: impl FnOnce(Address, Address) -> Vec<Launch>,
) -> Result<Tensor> {
    let (x, y) = (x.contiguous()?, empty(x, shape)?);
    run(&x, &launches(address(&x)?, address(&y)?))?;
    Ok(y)
}

fn run(x: &Tensor, launches: &[Launch]) -> Result<()> {
    kernels(x)?.run(launches)
}

fn kernels(x: &Tensor) -> Result<Kernels<'_>> {
    Kernels::of(device(x)?)
}

fn device(x: &Tensor) -> Result<&CudaDevice> {
    Ok(x.device().as_cuda_device()?)
}

/// Room for an f32 tensor beside `x`, with whatever is in it.
fn empty(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    empty_of::<f32>(x, shape)
}

fn empty_of<T: CudaDType + DeviceRepr>(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    let (device, shape) = (device(x)?, shape.into());
    if shape.elem_count() == 0 {
        return Err(Error::Internal("there is no memory of no bytes on a device".into()));
    }
    let storage = CudaStorage::wrap_cuda_slice(uninitialized::<T>(device, shape.elem_count())?, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Where a contiguous tensor begins.
fn address(x: &Tensor) -> Result<Address> {
    contiguous(x.layout())?;
    start(x)
}

/// Where a tensor begins: where its rows lie apart, there is more than it between them.
fn start(x: &Tensor) -> Result<Address> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Internal("a kernel of the device was given a tensor that is not there".into()));
    };
    let stream = storage.device.cuda_stream();
    let at = match &storage.slice {
        CudaStorageSlice::U8(slice) => begin(slice, &stream),
        CudaStorageSlice::U32(slice) => begin(slice, &stream),
        CudaStorageSlice::F32(slice) => begin(slice, &stream),
        CudaStorageSlice::F64(slice) => begin(slice, &stream),
        CudaStorageSlice::F16(slice) => begin(slice, &stream),
        CudaStorageSlice::BF16(slice) => begin(slice, &stream),
        CudaStorageSlice::I64(slice) => begin(slice, &stream),
        _ => return Err(Error::Internal(format!("no kernel of the device takes {:?}", x.dtype()))),
    };
    Ok(at + (layout.start_offset() * x.dtype().size_in_bytes()) as Address)
}

fn begin<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> Address {
    slice.device_ptr(stream).0
}
