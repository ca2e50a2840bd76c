//! What Mamba2 does between its two projections: no tensor is made but the last.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::products::on_cpu;
use super::{Lent, no_kernels, with_slice_mut};
use crate::error::Result;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::{Convolution, Inputs, Sizing, State, Steps, Token, scan, step};
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
    /// inner]; advances `conv` [kernel - 1, conv_dim] and, in place, `ssm` [heads, head_dim, state_size].
    pub fn run(&self, projected: &Tensor, conv: &mut Tensor, ssm: &Tensor) -> Result<Input<'_>> {
        match self {
            Self::Cpu(mixing) => Ok(Input::from(&mixing.run(projected, conv, ssm)?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(mixing) => mixing.run(projected, conv, ssm),
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

    fn run(&self, projected: &Tensor, conv: &Tensor, ssm: &Tensor) -> Result<Tensor> {
        let (tokens, inner) = (projected.dim(0)?, self.sizing.inner());
        let lent = Lent::of(projected)?;
        let projected = Projected { rows: lent.slice()?, sizing: self.sizing };
        let mut y = vec![0.0; tokens * inner];
        let mut advanced = Ok(());
        with_slice_mut(conv, |conv| {
            advanced = with_slice_mut(ssm, |ssm| match tokens {
                1 => self.step(projected, State { conv, ssm }, &mut y),
                _ => self.scan(projected, State { conv, ssm }, &mut y),
            });
        })?;
        advanced?;
        on_cpu(y, tokens)
    }

    /// The gate is within the pass over the state, unless the norm comes before it.
    fn step(&self, projected: Projected<'_>, state: State<'_>, y: &mut [f32]) {
        let (norm, z) = (self.norm(), Some(projected.z(0)));
        let is_gated_later = norm.is_some_and(|norm| norm.is_before_gate);
        let (z, later) = if is_gated_later { (None, z) } else { (z, None) };
        let inputs = self.inputs(projected, projected.xbc(0));
        step(Isa::best(), self.sizing, state, Token { inputs, convolution: self.convolution(), z }, y);
        gate_row(Isa::best(), later, norm, y);
    }

    fn scan(&self, projected: Projected<'_>, State { conv, ssm }: State<'_>, y: &mut [f32]) {
        let (isa, norm, inner, channels) = (Isa::best(), self.norm(), self.sizing.inner(), self.sizing.conv_dim());
        let mut xbc = vec![0.0; y.len() / inner * channels];
        self.convolution().run(isa, projected.from(inner), conv, channels, &mut xbc);
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

    fn xbc(self, token: usize) -> &'a [f32] {
        let inner = self.sizing.inner();
        self.columns(token, inner..inner + self.sizing.conv_dim())
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
