//! What Mamba2 does between its two projections: no tensor is made but the last.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::products::{is_one_row, on_cpu};
use super::row::{Product, of_row};
use super::{Lent, no_kernels, with_slice_mut};
use crate::error::Result;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::{self, Convolution, Inputs, Layer, Sizing, State, Steps, scan};
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

    /// What the whole layer makes of one row [1, hidden] with its norm, on the CPU: [1, hidden]; advances `conv` and `ssm` in
    /// place. None for several rows, and on a GPU.
    pub(in crate::model) fn step(
        &self,
        input: &Input<'_>,
        in_proj: Product<'_>,
        out_proj: Product<'_>,
        (conv, ssm): (&Tensor, &Tensor),
    ) -> Result<Option<Tensor>> {
        match self {
            Self::Cpu(mixing) if is_one_row(&input.rows)? => {
                let [in_proj, out_proj] = [in_proj.lent()?, out_proj.lent()?];
                let layer = mixing.layer(in_proj.product()?, out_proj.product()?);
                let y =
                    of_row(input, |x| with_state(conv, ssm, |state| mamba2::whole_step(Isa::best(), layer, state, x)))?;
                on_cpu(y, 1).map(Some)
            }
            _ => Ok(None),
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
        with_state(conv, ssm, |state| self.scan(projected, state, &mut y))?;
        on_cpu(y, tokens)
    }

    fn layer<'a>(&'a self, in_proj: row::Product<'a>, out_proj: row::Product<'a>) -> Layer<'a> {
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

/// Lends the memory of a layer's state.
fn with_state<T>(conv: &Tensor, ssm: &Tensor, advance: impl FnOnce(State<'_>) -> T) -> Result<T> {
    with_slice_mut(conv, |conv| with_slice_mut(ssm, |ssm| advance(State { conv, ssm })))?
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
