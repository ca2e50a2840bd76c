//! One token: in one pass over the state, and from a layer's input to its output in one parallel region.

use std::ops::Range;

use super::super::LANES;
use super::super::gemm::Rows;
use super::super::isa::{FAR, Isa, prefetch, vectorized};
use super::super::math::silu;
use super::super::pool::{self, ColumnBlocks, Columns, Filling, Fresh, Slice};
use super::super::row::{Input, Product, Tail};
use super::super::rows::{GatedNorm, gate_row};
use super::super::scratch::Scratch;
use super::{Convolution, Inputs, Sizing, Steps, decay};

/// So many numbers of a state, 8 KiB, are worth a part of a parallel region: a microsecond.
const PART: usize = 1 << 11;

/// One token on its way through a layer.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Its x, B, C and Δ.
    pub inputs: Inputs<'a>,
    /// What x, B and C go through first.
    pub convolution: Convolution<'a>,
    /// Its gate `[heads · head_dim]`, where the output takes it at once.
    pub z: Option<&'a [f32]>,
}

/// What a layer keeps of the tokens before.
#[derive(Debug)]
pub struct State<'a> {
    /// The last inputs of the convolution.
    pub conv: &'a mut ConvState,
    /// `[heads, head_dim, state_size]`.
    pub ssm: &'a mut [f32],
}

/// The last inputs of a convolution `[kernel − 1, conv_dim]`, a ring: a token takes the place of the oldest.
#[derive(Clone, Debug)]
pub struct ConvState {
    numbers: Vec<f32>,
    channels: usize,
    oldest: usize,
}

impl ConvState {
    /// Inputs of so many channels, the oldest first.
    pub fn new(numbers: Vec<f32>, channels: usize) -> Self {
        Self { numbers, channels, oldest: 0 }
    }

    /// All numbers, the oldest input first.
    pub fn in_order(&mut self) -> &mut [f32] {
        self.numbers.rotate_left(self.oldest * self.channels);
        self.oldest = 0;
        &mut self.numbers
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// The oldest input has been replaced.
    fn turn(&mut self) {
        self.oldest = (self.oldest + 1).checked_rem(self.numbers.len() / self.channels.max(1)).unwrap_or_default();
    }
}

/// The weights of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Its sizes.
    pub sizing: Sizing,
    /// Gives z, x, B, C and Δ side by side.
    pub in_proj: Product<'a>,
    /// What x, B and C go through.
    pub convolution: Convolution<'a>,
    /// What is added to Δ, `[heads]`.
    pub dt_bias: &'a [f64],
    /// The bounds that Δ is clipped to.
    pub dt_limit: (f64, f64),
    /// A, `[heads]`, negative.
    pub a: &'a [f64],
    /// D, `[heads]`.
    pub d: &'a [f32],
    /// The norm beside the gate, where there is one.
    pub norm: Option<GatedNorm<'a>>,
    /// Takes the gated output.
    pub out_proj: Tail<'a>,
}

/// Advances `state` by one token and writes `y` `[heads · head_dim]`, times silu(z) where there is a gate.
pub fn step(isa: Isa, sizing: Sizing, state: State<'_>, token: Token<'_>, y: &mut [f32]) {
    let State { conv, ssm } = state;
    let (own, mut kept) = by_channel(sizing, conv, ssm);
    pool::fill(((own, Slice::new(y, 1)), least(sizing)), |parts| advance(isa, sizing, &kept, token, parts));
    kept.replace(token.shared(sizing));
    conv.turn();
}

/// What a layer makes of one token, advancing `state`: in one parallel region, in which the threads wait for each other behind
/// the first projection, behind the state, and where the tail goes on behind each of its products. The gate is within the pass
/// over the state, unless the norm comes before it.
pub fn whole_step(isa: Isa, layer: Layer<'_>, state: State<'_>, input: Input<'_>) -> Vec<f32> {
    let Layer { sizing, in_proj, out_proj, norm, .. } = layer;
    let is_gated_later = norm.is_some_and(|norm| norm.is_before_gate);
    let State { conv, ssm } = state;
    let (own, mut kept) = by_channel(sizing, conv, ssm);
    let projected = Filling::new(in_proj.outputs());
    let channels = Filling::new(((own, Fresh::new(sizing.inner(), 1)), least(sizing)));
    let project = projected.by(|parts| in_proj.fill(isa, input, parts));
    let mix = channels.by(|parts| {
        advance(isa, sizing, &kept, layer.token(projected.whole(), !is_gated_later), parts);
    });
    let output = out_proj.behind(isa, &[&project, &mix], |parts| {
        let y = channels.whole().1;
        let gated = norm.map(|norm| {
            let mut y = Scratch::copy(y);
            gate_row(isa, layer.token(projected.whole(), is_gated_later).z, Some(norm), &mut y);
            y
        });
        out_proj.product.fill(isa, gated.as_deref().unwrap_or(y).into(), parts);
    });
    kept.replace(layer.token(projected.whole(), false).shared(sizing));
    conv.turn();
    output
}

/// So many channels of x are worth a part: as many as vectors and cache lines have, of which threads share few.
fn least(sizing: Sizing) -> usize {
    PART.div_ceil(sizing.state_size.max(1)).next_multiple_of(LANES)
}

/// Some channels: the number of the first, their states and their outputs. Each thread convolves B and C for itself, of which
/// `others` has the tokens before.
fn advance<'p>(
    isa: Isa,
    sizing: Sizing,
    others: &Kept<'_>,
    token: Token<'_>,
    parts: impl Iterator<Item = (usize, ((Columns<'p, f32>, &'p mut [f32]), &'p mut [f32]))>,
) {
    let (channels, x) = (sizing.conv_dim(), token.inputs.xbc);
    let mut shared = Scratch::zeros(2 * sizing.shared());
    let rows = others.rows().chain([token.shared(sizing)]);
    token.convolution.token(isa, channels, sizing.inner(), rows, &mut shared);
    for (first, ((kept, mut ssm), mut y)) in parts {
        let x = x.get(first..first + y.len()).unwrap_or_default();
        let mut kept = Kept { rows: kept, oldest: others.oldest };
        token.convolution.token(isa, channels, first, kept.rows().chain([x]), y);
        kept.replace(x);
        let mut channel = first;
        while let Some(Head { own, count }) = sizing.head_from(channel, y.len()) {
            let rows = ssm.split_off_mut(..count * sizing.state_size).zip(y.split_off_mut(..count));
            if let (Some((ssm, y)), Some(meets)) = (rows, token.meets(sizing, &shared, own, channel..channel + count)) {
                step_rows(isa, ssm, meets, y);
            }
            channel += count;
        }
    }
}

impl<'a> Layer<'a> {
    /// The token of what the first projection gives.
    fn token(&self, projected: &'a [f32], is_gated: bool) -> Token<'a> {
        let (z, rest) = projected.split_at_checked(self.sizing.inner()).unwrap_or_default();
        let (xbc, dt) = rest.split_at_checked(self.sizing.conv_dim()).unwrap_or_default();
        let dt =
            Steps { projected: Rows { data: dt, stride: self.sizing.heads }, bias: self.dt_bias, limit: self.dt_limit };
        let inputs = Inputs { xbc, dt, a: self.a, d: self.d };
        Token { inputs, convolution: self.convolution, z: is_gated.then_some(z) }
    }
}

/// For each channel of x what it was in the tokens before, and its row of the state.
type Channels<'a> = (ColumnBlocks<'a, f32>, Slice<'a, f32>);

/// Some channels of a [`ConvState`].
struct Kept<'a> {
    rows: Columns<'a, f32>,
    oldest: usize,
}

impl Kept<'_> {
    /// The oldest first.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.iter_from(self.oldest)
    }

    fn replace(&mut self, last: &[f32]) {
        if self.rows.rows() > 0 {
            self.rows.row(self.oldest).copy_from_slice(last);
        }
    }
}

/// What there is of each channel of x, and what B and C were.
fn by_channel<'a>(sizing: Sizing, conv: &'a mut ConvState, ssm: &'a mut [f32]) -> (Channels<'a>, Kept<'a>) {
    let (kept, rows) = ColumnBlocks::and_rest((&mut conv.numbers, sizing.conv_dim()), sizing.inner(), 1);
    ((kept, Slice::new(ssm, sizing.state_size)), Kept { rows, oldest: conv.oldest })
}

/// Some channels of a head.
struct Head {
    own: usize,
    count: usize,
}

impl Sizing {
    /// The head that a channel is of, and how many of `left` channels from it on; none where none is left.
    fn head_from(&self, channel: usize, left: usize) -> Option<Head> {
        let own = channel.checked_div(self.head_dim)?;
        (left > 0).then(|| Head { own, count: left.min((own + 1) * self.head_dim - channel) })
    }
}

impl<'a> Token<'a> {
    /// B and C side by side, before the convolution.
    fn shared(&self, sizing: Sizing) -> &'a [f32] {
        self.inputs.xbc.get(sizing.inner()..).unwrap_or_default()
    }

    /// What some channels of a head meet; `shared` has B and C side by side.
    fn meets(&self, sizing: Sizing, shared: &'a [f32], head: usize, channels: Range<usize>) -> Option<Meets<'a>> {
        let Inputs { dt, a, d, .. } = self.inputs;
        let (b, c) = sizing.b_and_c(head);
        let of_shared = |start: usize| shared.get(start - sizing.inner()..)?.get(..sizing.state_size);
        let dt = dt.of(0, head)?;
        Some(Meets {
            b: of_shared(b)?,
            c: of_shared(c)?,
            dt: dt as f32,
            decay: decay(dt * a.get(head)?),
            d: *d.get(head)?,
            z: self.z.and_then(|z| z.get(channels)),
        })
    }
}

/// What channels of one head meet in a token, but for x.
#[derive(Clone, Copy)]
struct Meets<'a> {
    b: &'a [f32],
    c: &'a [f32],
    dt: f32,
    decay: f32,
    d: f32,
    /// Their gates.
    z: Option<&'a [f32]>,
}

/// `row ← decay · row + input · b`; returns `row · c` of the new row. All are `[state_size]`.
#[inline(always)]
fn advance_row(isa: Isa, row: &mut [f32], decay: f32, input: f32, b: &[f32], c: &[f32]) -> f32 {
    let (row_lanes, row_rest) = row.as_chunks_mut::<LANES>();
    let ((b_lanes, b_rest), (c_lanes, c_rest)) = (b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for ((row, b), c) in row_lanes.iter_mut().zip(b_lanes).zip(c_lanes) {
        prefetch::<FAR, _>(row);
        for (((sum, s), b), c) in sums.iter_mut().zip(row).zip(b).zip(c) {
            *s = isa.mul_add(input, *b, decay * *s);
            *sum = isa.mul_add(*s, *c, *sum);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for ((s, b), c) in row_rest.iter_mut().zip(b_rest).zip(c_rest) {
        *s = isa.mul_add(input, *b, decay * *s);
        total += *s * c;
    }
    total
}

vectorized! {
    /// `S ← decay · S + Δ · x ⊗ B`, `y = (S · C + D · x) · silu(z)` for channels of one head, whose x is in `y`.
    fn step_rows(isa: Isa, state: &mut [f32], meets: Meets<'_>, y: &mut [f32]) {
        for (row, y) in state.chunks_exact_mut(meets.b.len().max(1)).zip(&mut *y) {
            let x = *y;
            *y = advance_row(isa, row, meets.decay, meets.dt * x, meets.b, meets.c) + meets.d * x;
        }
        for (y, z) in y.iter_mut().zip(meets.z.unwrap_or_default()) {
            *y *= silu(isa, *z);
        }
    }
}
