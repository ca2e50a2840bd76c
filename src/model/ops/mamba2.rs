//! What Mamba2 does between its two projections: no tensor is made but the last.

use candle_core::{Device, Tensor};

use super::{Lent, no_kernels, with_slice_mut};
use crate::error::Result;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::{Convolution, Inputs, Sizing, Steps, scan, step};
use crate::kernels::rows::{self, each_row, gate_row, norm_groups_row};
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
        let (isa, sizing, tokens) = (Isa::best(), self.sizing, projected.dim(0)?);
        let (inner, conv_dim) = (sizing.inner(), sizing.conv_dim());
        let width = inner + conv_dim + sizing.heads;
        let lent = Lent::of(projected)?;
        let projected_rows = lent.slice::<f32>()?;
        let from = |column: usize| projected_rows.get(column..).unwrap_or_default();

        let mut xbc = vec![0.0; tokens * conv_dim];
        let convolution = Convolution { taps: &self.taps, bias: self.conv_bias.as_deref() };
        let x = Rows { data: from(inner), stride: width };
        self.write_conv(conv, |conv| convolution.run(isa, x, conv, conv_dim, &mut xbc))?;

        let dt = Rows { data: from(inner + conv_dim), stride: width };
        let dt = Steps { projected: dt, bias: &self.dt_bias, limit: self.dt_limit };
        let inputs = Inputs { xbc: &xbc, dt, a: &self.a, d: &self.d };
        let norm = self.norm.as_ref().map(|(weight, eps, is_before_gate)| rows::GatedNorm {
            weight,
            group: inner / sizing.groups,
            eps: *eps,
            is_before_gate: *is_before_gate,
        });
        let z = |row: usize| projected_rows.get(row * width..row * width + inner).unwrap_or_default();
        let mut y = vec![0.0; tokens * inner];
        match norm {
            Some(rows::GatedNorm { is_before_gate: true, .. }) if tokens == 1 => {
                with_slice_mut(ssm, |ssm| step(isa, sizing, ssm, inputs, None, &mut y))?;
                gate_row(isa, z(0), norm, &mut y);
            }
            _ if tokens == 1 => {
                with_slice_mut(ssm, |ssm| step(isa, sizing, ssm, inputs, Some(z(0)), &mut y))?;
                norm_groups_row(isa, norm, &mut y);
            }
            _ => {
                with_slice_mut(ssm, |ssm| scan(isa, sizing, ssm, inputs, &mut y))?;
                each_row(&mut y, inner, |row, y| gate_row(isa, z(row), norm, y));
            }
        }
        Ok(Tensor::from_vec(y, (tokens, inner), projected.device())?)
    }

    /// A convolution of one token keeps none.
    fn write_conv(&self, conv: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
        if conv.elem_count() == 0 {
            write(&mut []);
            return Ok(());
        }
        with_slice_mut(conv, write)
    }
}
