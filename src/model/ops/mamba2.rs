//! What Mamba2 does between its two projections, on the CPU: no tensor is made but the last.

use candle_core::Tensor;

use super::{Lent, with_slice_mut};
use crate::error::Result;
use crate::kernels::gemm::Rows;
use crate::kernels::isa::Isa;
use crate::kernels::mamba2::{Convolution, Inputs, Sizing, discretize, scan, step};
use crate::kernels::pool;
use crate::kernels::rows::{GatedNorm, each_row, gate_row};

/// So many Δ are worth a part of a parallel region.
const LEAST_STEPS: usize = 256;

/// The weights of one layer but for its projections.
#[derive(Debug)]
pub struct Mixing {
    /// The sizes.
    pub sizing: Sizing,
    /// `[kernel, conv_dim]`; the last multiplies the current token.
    pub taps: Vec<f32>,
    /// `[conv_dim]`.
    pub conv_bias: Option<Vec<f32>>,
    /// `[heads]`.
    pub dt_bias: Vec<f64>,
    /// The bounds that Δ is clipped to.
    pub dt_limit: (f64, f64),
    /// A, `[heads]`, negative.
    pub a: Vec<f64>,
    /// D, `[heads]`.
    pub d: Vec<f32>,
    /// The gated norm's weight `[inner]`, its constant, and whether it comes before the gate.
    pub norm: Option<(Vec<f32>, f32, bool)>,
}

impl Mixing {
    /// From z, x, B, C and Δ side by side, `projected` [tokens, inner + conv_dim + heads], to the gated output [tokens,
    /// inner]; advances `conv` [kernel - 1, conv_dim] and `ssm` [heads, head_dim, state_size] in place.
    pub fn run(&self, projected: &Tensor, conv: &Tensor, ssm: &Tensor) -> Result<Tensor> {
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

        let dt = self.discretize(from(inner + conv_dim), width);
        let inputs = Inputs { xbc: &xbc, dt: &dt, a: &self.a, d: &self.d };
        let mut y = vec![0.0; tokens * inner];
        let advance = if tokens == 1 { step } else { scan };
        with_slice_mut(ssm, |ssm| advance(isa, sizing, ssm, inputs, &mut y))?;

        let norm = self.norm.as_ref().map(|(weight, eps, is_before_gate)| GatedNorm {
            weight,
            group: inner / sizing.groups,
            eps: *eps,
            is_before_gate: *is_before_gate,
        });
        each_row(&mut y, inner, |row, y| {
            let z = projected_rows.get(row * width..row * width + inner).unwrap_or_default();
            gate_row(isa, z, norm, y);
        });
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

    /// Δ of the tokens, `[tokens, heads]`, from rows that are `stride` apart.
    fn discretize(&self, rows: &[f32], stride: usize) -> Vec<f64> {
        let heads = self.sizing.heads;
        let mut all = vec![0.0; rows.len().div_ceil(stride.max(1)) * heads];
        pool::split_rows(&mut all, heads, LEAST_STEPS.div_ceil(heads), |first, all| {
            let rows = rows.chunks(stride.max(1)).skip(first);
            for (own, row) in all.chunks_exact_mut(heads.max(1)).zip(rows) {
                for ((own, dt), bias) in own.iter_mut().zip(row).zip(&self.dt_bias) {
                    *own = discretize(*dt, *bias, self.dt_limit);
                }
            }
        });
        all
    }
}
