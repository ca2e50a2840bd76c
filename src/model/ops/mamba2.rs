//! What Mamba2 does between its two projections, where no tensor is made but the last; and all of it for one row on the CPU,
//! where none is.

use std::ops::Range;

use candle_core::{Device, Tensor};

#[cfg(feature = "cuda")]
use super::copy_to;
use super::products::on_cpu;
use super::{Lent, into_vec, no_kernels, zeros_if_they_fit};
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::{self, ConvState, Convolution, Inputs, Layer, Sizing, Steps, scan};
use crate::kernels::row;
use crate::kernels::rows::{self, each_row, gate_row};
use crate::model::input::Input;

/// The weights of one layer but for its projections.
#[derive(Clone, Debug)]
pub struct Constants {
    /// The sizes.
    pub sizing: Sizing,
    /// [kernel, conv_dim], f32; the last multiplies the current token.
    pub taps: Tensor,
    /// `[conv_dim]`, f32.
    pub conv_bias: Option<Tensor>,
    /// `[heads]`, f64.
    pub dt_bias: Tensor,
    /// The bounds that Δ is clipped to.
    pub dt_limit: (f64, f64),
    /// A, `[heads]`, f64, negative.
    pub a: Tensor,
    /// D, `[heads]`, f32.
    pub d: Tensor,
    /// The norm beside the gate, where there is one.
    pub norm: Option<GatedNorm>,
}

/// An RMSNorm over each group of the gated output.
#[derive(Clone, Debug)]
pub struct GatedNorm {
    /// `[inner]`, f32.
    pub weight: Tensor,
    /// What is added to the mean of the squares.
    pub eps: f32,
    /// Whether it comes before the gate.
    pub is_before_gate: bool,
}

/// The recurrent state of one layer and sequence, where its kernels want it: the last inputs of the convolution `[kept,
/// conv_dim]`, and the state `[heads, head_dim, state_size]`.
#[derive(Debug)]
pub struct Mamba2State {
    sizing: Sizing,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    Cpu {
        conv: ConvState,
        ssm: Vec<f32>,
    },
    #[cfg(feature = "cuda")]
    Cuda {
        conv: Tensor,
        ssm: Tensor,
    },
}

impl Mamba2State {
    /// The state before the first token, zeros.
    pub fn new(sizing: Sizing, kept: usize, device: &Device) -> Result<Self> {
        // Grows as the product of two widths of the checkpoint: a small file may ask for more than any memory.
        let ssm = zeros_if_they_fit((sizing.heads, sizing.head_dim, sizing.state_size), device)?;
        let conv = vec![0.0; kept * sizing.conv_dim()];
        let numbers = match device {
            Device::Cpu => Numbers::Cpu { conv: ConvState::new(conv, sizing.conv_dim()), ssm: into_vec(&ssm)? },
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Numbers::Cuda { conv: conv_on(sizing, conv, device)?, ssm },
            _ => return Err(no_kernels(device)),
        };
        Ok(Self { sizing, numbers })
    }

    /// A copy that shares no memory with this state.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        let numbers = match (&self.numbers, device) {
            (Numbers::Cpu { conv, ssm }, Device::Cpu) => Numbers::Cpu { conv: conv.clone(), ssm: ssm.clone() },
            #[cfg(feature = "cuda")]
            (Numbers::Cpu { conv, ssm }, _) => {
                let Sizing { heads, head_dim, state_size, .. } = self.sizing;
                let ssm = Tensor::from_slice(ssm, (heads, head_dim, state_size), device)?;
                let conv = conv_on(self.sizing, conv.clone().in_order().to_vec(), device)?;
                device.synchronize()?;
                Numbers::Cuda { conv, ssm }
            }
            #[cfg(feature = "cuda")]
            (Numbers::Cuda { conv, ssm }, Device::Cpu) => {
                let to_vec = |x: &Tensor| x.flatten_all()?.to_vec1();
                Numbers::Cpu { conv: ConvState::new(to_vec(conv)?, self.sizing.conv_dim()), ssm: to_vec(ssm)? }
            }
            #[cfg(feature = "cuda")]
            (Numbers::Cuda { conv, ssm }, _) => {
                let is_there = conv.elem_count() > 0;
                let conv = if is_there { copy_to(conv, device)? } else { conv.clone() };
                Numbers::Cuda { conv, ssm: copy_to(ssm, device)? }
            }
            #[cfg(not(feature = "cuda"))]
            (Numbers::Cpu { .. }, device) => return Err(no_kernels(device)),
        };
        Ok(Self { sizing: self.sizing, numbers })
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        let count = match &self.numbers {
            Numbers::Cpu { conv, ssm } => conv.count() + ssm.len(),
            #[cfg(feature = "cuda")]
            Numbers::Cuda { conv, ssm } => conv.elem_count() + ssm.elem_count(),
        };
        count * size_of::<f32>()
    }

    /// The numbers of both.
    #[cfg(test)]
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut copy = self.copy_to(&Device::Cpu)?;
        let mamba2::State { conv, ssm } = copy.lent()?;
        let tensor = |numbers: &mut [f32]| Ok(Tensor::from_slice(numbers, ((), 1), &Device::Cpu)?);
        [conv.in_order(), ssm].map(tensor).into_iter().collect()
    }

    /// Lends the memory, which is on the CPU.
    fn lent(&mut self) -> Result<mamba2::State<'_>> {
        match &mut self.numbers {
            Numbers::Cpu { conv, ssm } => Ok(mamba2::State { conv, ssm }),
            #[cfg(feature = "cuda")]
            Numbers::Cuda { .. } => Err(misplaced()),
        }
    }
}

/// There is no memory of no bytes on a GPU.
#[cfg(feature = "cuda")]
fn conv_on(sizing: Sizing, numbers: Vec<f32>, device: &Device) -> Result<Tensor> {
    let (width, count) = (sizing.conv_dim(), numbers.len());
    let device = if count == 0 { &Device::Cpu } else { device };
    Ok(Tensor::from_vec(numbers, (count / width.max(1), width), device)?)
}

#[cfg(feature = "cuda")]
fn misplaced() -> Error {
    Error::Internal("a state was given to the kernels of another device".into())
}

/// [`Constants`] where the kernels want them.
#[derive(Debug)]
pub enum Mixing {
    /// In memory.
    Cpu(OnCpu),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Mixing),
}

impl Mixing {
    /// Constants that are on `device`, for its kernels.
    pub fn new(constants: &Constants, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => OnCpu::new(constants).map(Self::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => super::cuda::Mixing::new(constants).map(Self::Cuda),
            _ => Err(no_kernels(device)),
        }
    }

    /// From z, x, B, C and Δ side by side, `projected` [tokens, inner + conv_dim + heads], to the gated output [tokens,
    /// inner]; advances `state`.
    pub fn run(&self, projected: &Tensor, state: &mut Mamba2State) -> Result<Input<'_>> {
        match self {
            Self::Cpu(mixing) => Ok(Input::from(&mixing.run(projected, state)?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(mixing) => match &mut state.numbers {
                Numbers::Cuda { conv, ssm } => mixing.run(projected, conv, ssm),
                Numbers::Cpu { .. } => Err(misplaced()),
            },
        }
    }

    /// What the whole layer and its tail make of one row on the CPU; advances `state`.
    pub(in crate::model) fn step(
        &self,
        input: row::Input<'_>,
        in_proj: row::Product<'_>,
        out_proj: row::Tail<'_>,
        state: &mut Mamba2State,
    ) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(mixing) => {
                let layer = mixing.layer(in_proj, out_proj);
                Ok(mamba2::whole_step(Isa::best(), layer, state.lent()?, input))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(misplaced()),
        }
    }
}

/// The weights for the CPU's kernels.
#[derive(Debug)]
pub struct OnCpu {
    sizing: Sizing,
    taps: Vec<f32>,
    conv_bias: Option<Vec<f32>>,
    dt_bias: Vec<f64>,
    dt_limit: (f64, f64),
    a: Vec<f64>,
    d: Vec<f32>,
    /// The norm's weight, its constant, and whether it comes before the gate.
    norm: Option<(Vec<f32>, f32, bool)>,
}

impl OnCpu {
    fn new(constants: &Constants) -> Result<Self> {
        let norm = |norm: &GatedNorm| candle_core::Result::Ok((norm.weight.to_vec1()?, norm.eps, norm.is_before_gate));
        Ok(Self {
            sizing: constants.sizing,
            taps: constants.taps.flatten_all()?.to_vec1()?,
            conv_bias: constants.conv_bias.as_ref().map(Tensor::to_vec1).transpose()?,
            dt_bias: constants.dt_bias.to_vec1()?,
            dt_limit: constants.dt_limit,
            a: constants.a.to_vec1()?,
            d: constants.d.to_vec1()?,
            norm: constants.norm.as_ref().map(norm).transpose()?,
        })
    }

    fn run(&self, projected: &Tensor, state: &mut Mamba2State) -> Result<Tensor> {
        let (tokens, inner) = (projected.dim(0)?, self.sizing.inner());
        let lent = Lent::of(projected)?;
        let projected = Projected { rows: lent.slice()?, sizing: self.sizing };
        let mut y = vec![0.0; tokens * inner];
        self.scan(projected, state.lent()?, &mut y);
        on_cpu(y, tokens)
    }

    fn layer<'a>(&'a self, in_proj: row::Product<'a>, out_proj: row::Tail<'a>) -> Layer<'a> {
        Layer {
            sizing: self.sizing,
            in_proj,
            convolution: self.convolution(),
            dt_bias: &self.dt_bias,
            dt_limit: self.dt_limit,
            a: &self.a,
            d: &self.d,
            norm: self.norm(),
            out_proj,
        }
    }

    fn scan(&self, projected: Projected<'_>, mamba2::State { conv, ssm }: mamba2::State<'_>, y: &mut [f32]) {
        let (isa, norm, inner, channels) = (Isa::best(), self.norm(), self.sizing.inner(), self.sizing.conv_dim());
        let mut xbc = vec![0.0; y.len() / inner * channels];
        self.convolution().run(isa, projected.from(inner), conv.in_order(), channels, &mut xbc);
        scan(isa, self.sizing, ssm, self.inputs(projected, &xbc), y);
        each_row(y, inner, |token, y| gate_row(isa, Some(projected.z(token)), norm, y));
    }

    fn convolution(&self) -> Convolution<'_> {
        Convolution { taps: &self.taps, bias: self.conv_bias.as_deref() }
    }

    fn inputs<'a>(&'a self, projected: Projected<'a>, xbc: &'a [f32]) -> Inputs<'a> {
        let dt = projected.from(self.sizing.inner() + self.sizing.conv_dim());
        let dt = Steps { projected: dt, bias: &self.dt_bias, limit: self.dt_limit };
        Inputs { xbc, dt, a: &self.a, d: &self.d }
    }

    fn norm(&self) -> Option<rows::GatedNorm<'_>> {
        let group = self.sizing.inner() / self.sizing.groups;
        let (weight, eps, is_before_gate) = self.norm.as_ref()?;
        Some(rows::GatedNorm { weight, group, eps: *eps, is_before_gate: *is_before_gate })
    }
}

/// z, x, B, C and Δ side by side, `[tokens, inner + conv_dim + heads]`.
#[derive(Clone, Copy)]
struct Projected<'a> {
    rows: &'a [f32],
    sizing: Sizing,
}

impl<'a> Projected<'a> {
    fn z(self, token: usize) -> &'a [f32] {
        self.columns(token, 0..self.sizing.inner())
    }

    fn columns(self, token: usize, columns: Range<usize>) -> &'a [f32] {
        let Rows { data, stride } = self.from(columns.start);
        data.get(token * stride..token * stride + columns.len()).unwrap_or_default()
    }

    /// All columns of all tokens from one on.
    fn from(self, column: usize) -> Rows<'a> {
        let stride = self.sizing.inner() + self.sizing.conv_dim() + self.sizing.heads;
        Rows { data: self.rows.get(column..).unwrap_or_default(), stride }
    }
}
