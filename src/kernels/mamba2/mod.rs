//! The recurrence of Mamba2 (<https://arxiv.org/abs/2405.21060>): one token in one pass over the state, or several in
//! chunks of matrix products (section 6, "SSD"); both leave the same state. And the convolution before it.
//!
//! Δ and the logarithms of the decays are f64: within a chunk the decay between two tokens is a difference of sums.

mod scan;
mod step;

pub use self::scan::scan;
pub use self::step::{ConvState, Layer, State, Token, step, whole_step};
use super::gemm::Rows;
use super::isa::{Isa, vectorized};
use super::math::{exp, silu};

/// Below e to this, about 2⁻⁸⁰, a decay is none: f32 can't hold what it leaves beside any other term. Its products would
/// have been subnormal, with which processors are a hundred times as slow: in granite-h-350m, half of a step's time.
const LOST: f64 = -55.0;

/// The sizes of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizing {
    /// How many heads there are.
    pub heads: usize,
    /// How many values of x one head takes.
    pub head_dim: usize,
    /// How many values of state there are for each value of x.
    pub state_size: usize,
    /// How many groups of heads share B and C.
    pub groups: usize,
}

impl Sizing {
    /// The width of x.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The width of x, B and C side by side.
    pub fn conv_dim(&self) -> usize {
        self.inner() + 2 * self.shared()
    }

    /// The width of B, and that of C.
    fn shared(&self) -> usize {
        self.groups * self.state_size
    }

    /// Where B and C of a head lie beside x.
    fn b_and_c(&self, head: usize) -> (usize, usize) {
        let b = self.inner() + head / (self.heads / self.groups) * self.state_size;
        (b, b + self.shared())
    }
}

/// Tokens' inputs to the recurrence.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// x, B and C side by side, `[tokens, conv_dim]`, convolved but for those of a [`Token`].
    pub xbc: &'a [f32],
    /// Δ of each token and head.
    pub dt: Steps<'a>,
    /// A, `[heads]`, negative.
    pub a: &'a [f64],
    /// D, `[heads]`.
    pub d: &'a [f32],
}

/// What Δ = clip(softplus(dt + bias)) is made of.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    /// dt as it was projected, `[tokens, heads]`.
    pub projected: Rows<'a>,
    /// `[heads]`.
    pub bias: &'a [f64],
    /// The bounds that Δ is clipped to.
    pub limit: (f64, f64),
}

impl Steps<'_> {
    /// Δ of a token and head.
    fn of(&self, token: usize, head: usize) -> Option<f64> {
        let Rows { data, stride } = self.projected;
        let dt = f64::from(*data.get(token * stride + head)?) + self.bias.get(head)?;
        let (low, high) = self.limit;
        Some((dt.max(0.0) + (-dt.abs()).exp().ln_1p()).clamp(low, high))
    }
}

/// e^log, what is left of a state after `log` = Δ · A.
fn decay(log: f64) -> f32 {
    if log < LOST { 0.0 } else { log.exp() as f32 }
}

/// The same within loops over tokens.
#[inline(always)]
fn decay_in_f32(isa: Isa, log: f32) -> f32 {
    if log < LOST as f32 { 0.0 } else { exp(isa, log) }
}

/// The causal depthwise convolution and its SiLU.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// `[kernel, channels]`; the last multiplies the current token.
    pub taps: &'a [f32],
    /// `[channels]`, where there is one.
    pub bias: Option<&'a [f32]>,
}

/// What is convolved: the tokens that a state keeps, then others.
struct Seen<'a> {
    kept: &'a [f32], // [kernel - 1, channels]
    x: Rows<'a>,
    channels: usize,
}

impl Seen<'_> {
    fn n_kept(&self) -> usize {
        self.kept.len() / self.channels.max(1)
    }

    /// All channels of a token; the first is the state's first.
    fn row(&self, at: usize) -> &[f32] {
        let n_kept = self.n_kept();
        let (data, start) =
            if at < n_kept { (self.kept, at * self.channels) } else { (self.x.data, (at - n_kept) * self.x.stride) };
        data.get(start..start + self.channels).unwrap_or_default()
    }
}

impl Convolution<'_> {
    /// Convolves `x` `[tokens, channels]`, rows `stride` apart, behind the tokens in `state` `[kernel − 1, channels]`,
    /// which becomes the last ones: `y` `[tokens, channels]`.
    pub fn run(&self, isa: Isa, x: Rows<'_>, state: &mut [f32], channels: usize, y: &mut [f32]) {
        let seen = Seen { kept: state, x, channels };
        super::rows::each_row(y, channels, |token, y| {
            self.token(isa, channels, 0, (token..).map(|at| seen.row(at)), y);
        });
        keep_last(state, x, channels, y.len() / channels.max(1));
    }

    /// Convolves one token's channels from `first` on: `rows` are theirs of each token that is seen, itself the last.
    fn token<'x>(&self, isa: Isa, channels: usize, first: usize, rows: impl Iterator<Item = &'x [f32]>, y: &mut [f32]) {
        let own = first..first + y.len();
        match self.bias.and_then(|bias| bias.get(own.clone())) {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(0.0),
        }
        for (weights, x) in self.taps.chunks_exact(channels.max(1)).zip(rows) {
            add_tap(isa, x, weights.get(own.clone()).unwrap_or_default(), y);
        }
        activate(isa, y);
    }
}

/// The last tokens of a convolution's `state` and `x` become its state.
fn keep_last(state: &mut [f32], x: Rows<'_>, channels: usize, tokens: usize) {
    let kept = state.len() / channels.max(1);
    // Rows only move forward: those that are read come after the one that is written.
    for at in 0..kept {
        let from = tokens + at;
        if from < kept {
            state.copy_within(from * channels..(from + 1) * channels, at * channels);
        } else if let (Some(own), Some(x)) = (
            state.get_mut(at * channels..(at + 1) * channels),
            x.data.get((from - kept) * x.stride..(from - kept) * x.stride + channels),
        ) {
            own.copy_from_slice(x);
        }
    }
}

vectorized! {
    fn add_tap(isa: Isa, x: &[f32], weights: &[f32], y: &mut [f32]) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weights) {
            *y = isa.mul_add(*x, *weight, *y);
        }
    }

    fn activate(isa: Isa, y: &mut [f32]) {
        for y in y.iter_mut() {
            *y = silu(isa, *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::matrix;
    use super::super::matrix::{Precision, WeightType};
    use super::super::pool;
    use super::super::row::{Input, Product, Tail};
    use super::super::rows::{GatedNorm, gate_row};
    use super::*;
    use proptest::prelude::*;

    /// The recurrence as the paper has it, in f64 and by index.
    fn exact(sizing: Sizing, state: &mut [f64], inputs: Inputs<'_>) -> Vec<f64> {
        let Sizing { heads, head_dim, state_size, .. } = sizing;
        let mut y = Vec::new();
        for (token, xbc) in inputs.xbc.chunks(sizing.conv_dim()).enumerate() {
            for h in 0..heads {
                let dt = inputs.dt.of(token, h).unwrap();
                let ((b, c), decay) = (sizing.b_and_c(h), (dt * inputs.a[h]).exp());
                for p in 0..head_dim {
                    let x = f64::from(xbc[h * head_dim + p]);
                    let mut sum = f64::from(inputs.d[h]) * x;
                    for n in 0..state_size {
                        let s = &mut state[(h * head_dim + p) * state_size + n];
                        *s = decay * *s + dt * x * f64::from(xbc[b + n]);
                        sum += *s * f64::from(xbc[c + n]);
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn steps_and_scans_equal_the_recurrence_in_f64(
            groups in 1usize..4, per_group in 1usize..4, head_dim in 1usize..20, state_size in 1usize..50,
            tokens in prop_oneof![1usize..5, Just(63), Just(64), Just(65), 100usize..200], seed in 0u32..1000,
        ) {
            let sizing = Sizing { heads: groups * per_group, head_dim, state_size, groups };
            let heads = sizing.heads;
            let wave = |n: usize, k: f32| (0..n).map(|i| ((i as f32 + seed as f32) * k).sin()).collect::<Vec<f32>>();
            let (channels, d) = (sizing.conv_dim(), wave(heads, 1.1));
            let (x, taps, mut xbc) = (wave(tokens * channels, 0.3), wave(3 * channels, 0.47), vec![0.0; tokens * channels]);
            let convolution = Convolution { taps: &taps, bias: None };
            let kept = wave(2 * channels, 0.53);
            convolution.run(Isa::best(), Rows { data: &x, stride: channels }, &mut kept.clone(), channels, &mut xbc);
            let (dt, bias) = (wave(tokens * heads, 0.9), vec![-0.3; heads]);
            let a: Vec<f64> = wave(heads, 1.3).iter().map(|v| -f64::from(v.abs())).collect();
            let steps = |dt| Steps { projected: Rows { data: dt, stride: heads }, bias: &bias, limit: (0.1, 1.5) };
            let inputs = Inputs { xbc: &xbc, dt: steps(&dt), a: &a, d: &d };
            let before = wave(heads * head_dim * state_size, 0.2);
            let mut exact_state: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
            let want = exact(sizing, &mut exact_state, inputs);
            let largest = exact_state.iter().chain(&want).fold(1.0, |max: f64, v| max.max(v.abs()));
            let bound = 1e-5 * largest * (state_size as f64).sqrt();
            for isa in Isa::available() {
                let (mut scanned, mut y) = (before.clone(), vec![f32::NAN; tokens * sizing.inner()]);
                scan(isa, sizing, &mut scanned, inputs, &mut y);
                let (mut ssm, mut by_step) = (before.clone(), vec![f32::NAN; y.len()]);
                let mut conv = ConvState::new(kept.clone(), channels);
                let by_token = x.chunks(channels).zip(dt.chunks(heads)).zip(by_step.chunks_mut(sizing.inner()));
                for ((xbc, dt), y) in by_token {
                    let token = Token { inputs: Inputs { xbc, dt: steps(dt), ..inputs }, convolution, z: None };
                    step(isa, sizing, State { conv: &mut conv, ssm: &mut ssm }, token, y);
                }
                let last = |token: usize| [&kept, &x].into_iter().flat_map(|rows| rows.chunks(channels)).nth(token).unwrap();
                prop_assert_eq!(conv.in_order(), [last(tokens), last(tokens + 1)].concat());
                for (got, state) in [(y, scanned), (by_step, ssm)] {
                    for (got, want) in got.iter().zip(&want).chain(state.iter().zip(&exact_state)) {
                        prop_assert!((f64::from(*got) - want).abs() <= bound, "{isa:?}: {got} for {want}");
                    }
                }
            }
        }

        #[test]
        fn a_convolution_sees_the_tokens_before(
            kept in 0usize..4, channels in 1usize..40, tokens in 1usize..9, gap in 0usize..3, has_bias: bool,
        ) {
            let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
            let (taps, bias) = (wave((kept + 1) * channels, 0.3), wave(channels, 0.9));
            let (state, stride) = (wave(kept * channels, 0.7), channels + gap);
            let x = wave(tokens * stride, 0.41);
            let convolution = Convolution { taps: &taps, bias: has_bias.then_some(&bias) };
            let seen: Vec<&[f32]> = state.chunks(channels).chain(x.chunks(stride).map(|row| &row[..channels])).collect();
            for isa in Isa::available() {
                let (mut after, mut y) = (state.clone(), vec![f32::NAN; tokens * channels]);
                convolution.run(isa, Rows { data: &x, stride }, &mut after, channels, &mut y);
                for (token, y) in y.chunks(channels).enumerate() {
                    for (channel, got) in y.iter().enumerate() {
                        let products = (0..=kept).map(|tap| f64::from(seen[token + tap][channel] * taps[tap * channels + channel]));
                        let sum = products.sum::<f64>() + if has_bias { f64::from(bias[channel]) } else { 0.0 };
                        let want = sum / (1.0 + (-sum).exp());
                        prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?}: {got} for {want}");
                    }
                }
                prop_assert_eq!(after, seen[tokens..].concat());
            }
        }
    }

    #[test]
    fn a_step_is_gated_within_its_pass_over_the_state() {
        let sizing = Sizing { heads: 6, head_dim: 37, state_size: 128, groups: 2 };
        let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
        let (xbc, z, state) = (wave(sizing.conv_dim(), 0.3), wave(6 * 37, 0.7), wave(6 * 37 * 128, 0.2));
        let steps = Steps { projected: Rows { data: &[0.3; 6], stride: 6 }, bias: &[0.1; 6], limit: (0.0, 9.0) };
        let inputs = Inputs { xbc: &xbc, dt: steps, a: &[-0.5; 6], d: &[0.7; 6] };
        let (taps, bias) = (wave(2 * sizing.conv_dim(), 0.4), wave(sizing.conv_dim(), 0.9));
        let convolution = Convolution { taps: &taps, bias: Some(&bias) };
        for isa in Isa::available() {
            let stepped = |z: Option<&[f32]>| {
                let mut conv = ConvState::new(wave(sizing.conv_dim(), 0.5), sizing.conv_dim());
                let (mut ssm, mut y) = (state.clone(), vec![f32::NAN; 6 * 37]);
                let (state, token) = (State { conv: &mut conv, ssm: &mut ssm }, Token { inputs, convolution, z });
                pool::Pool::new(3).unwrap().install(|| step(isa, sizing, state, token, &mut y));
                assert_eq!(conv.in_order(), xbc);
                (ssm, y)
            };
            let ((state, mut want), (gated_state, gated)) = (stepped(None), stepped(Some(&z)));
            gate_row(isa, Some(&z), None, &mut want);
            assert_eq!((state, want), (gated_state, gated), "{isa:?}");
        }
    }

    #[test]
    fn a_whole_step_is_its_parts_one_after_the_other() {
        let sizing = Sizing { heads: 6, head_dim: 37, state_size: 128, groups: 2 };
        let (inner, channels, hidden) = (sizing.inner(), sizing.conv_dim(), 70);
        let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
        let [taps, bias, kept] = [(3, 0.4), (1, 0.9), (2, 0.5)].map(|(rows, k)| wave(rows * channels, k));
        let [weight, state] = [wave(inner, 0.23), wave(inner * 128, 0.2)];
        let [to, from] = [(inner + channels + 6, hidden), (hidden, inner)]
            .map(|(n_out, n_in)| matrix(WeightType::Bf16, n_out, n_in));
        let [in_proj, product] = [&to, &from].map(|matrix| Product::plain(matrix, Precision::Fast));
        let out_proj = Tail { product, then: None };
        let convolution = Convolution { taps: &taps, bias: Some(&bias) };
        let norm = |is_before_gate| Some(GatedNorm { weight: &weight, group: inner / 2, eps: 1e-5, is_before_gate });
        let pool = pool::Pool::new(3).unwrap();
        for (isa, norm) in Isa::available().flat_map(|isa| [(isa, None), (isa, norm(true)), (isa, norm(false))]) {
            let (dt_bias, dt_limit, a, d) = (&[0.1; 6], (0.0, 9.0), &[-0.5; 6], &[0.7; 6]);
            let layer = Layer { sizing, in_proj, convolution, dt_bias, dt_limit, a, d, norm, out_proj };
            let (mut ssm, mut conv) = (state.clone(), ConvState::new(kept.clone(), channels));
            let (mut want_ssm, mut want_conv) = (ssm.clone(), conv.clone());
            for x in [0.7, 0.11, 0.83].map(|k| wave(hidden, k)) {
                let state = State { conv: &mut conv, ssm: &mut ssm };
                let got = pool.install(|| whole_step(isa, layer, state, Input::from(&*x)));

                let projected = to.times(isa, &x, Precision::Fast);
                let (z, (xbc, dt)) = (&projected[..inner], projected[inner..].split_at(channels));
                let dt = Steps { projected: Rows { data: dt, stride: 6 }, bias: dt_bias, limit: dt_limit };
                let token = Token { inputs: Inputs { xbc, dt, a, d }, convolution, z: None };
                let mut y = vec![f32::NAN; inner];
                step(isa, sizing, State { conv: &mut want_conv, ssm: &mut want_ssm }, token, &mut y);
                gate_row(isa, Some(z), norm, &mut y);
                assert_eq!(got, from.times(isa, &y, Precision::Fast), "{isa:?}");
            }
            assert_eq!((&*ssm, conv.in_order()), (&*want_ssm, want_conv.in_order()), "{isa:?}");
        }
    }

    #[test]
    fn no_state_becomes_subnormal_by_a_decay_that_f32_loses() {
        let sizing = Sizing { heads: 1, head_dim: 1, state_size: 1, groups: 1 };
        let x = [1e-3, 1.0, 1.0, 0.0, 1.0, 1.0]; // two tokens, the second without input
        let (convolution, mut xbc) = (Convolution { taps: &[1.0; 3], bias: None }, [0.0; 6]);
        convolution.run(Isa::best(), Rows { data: &x, stride: 3 }, &mut [], 3, &mut xbc);
        for log in [-50.0, -56.0, -80.0, -87.0, -95.0] {
            let steps = Steps { projected: Rows { data: &[0.0, 0.0], stride: 1 }, bias: &[0.0], limit: (1.0, 1.0) };
            let inputs = Inputs { xbc: &xbc, dt: steps, a: &[log], d: &[0.0] };
            let kept = if log < LOST { 0.0 } else { xbc[0] * xbc[1] * log.exp() as f32 };
            for isa in Isa::available() {
                let (mut stepped, mut scanned, mut y) = ([0.0f32], [0.0f32], [f32::NAN; 2]);
                for (xbc, y) in x.chunks(3).zip(y.chunks_mut(1)) {
                    let token = Token { inputs: Inputs { xbc, ..inputs }, convolution, z: None };
                    let mut conv = ConvState::new(Vec::new(), 3);
                    step(isa, sizing, State { conv: &mut conv, ssm: &mut stepped }, token, y);
                }
                scan(isa, sizing, &mut scanned, inputs, &mut y);
                for state in [stepped[0], scanned[0]] {
                    assert!((state - kept).abs() <= 1e-6 * kept && !state.is_subnormal(), "{isa:?} {log}: {state:e}");
                }
            }
        }
    }

    #[test]
    fn a_step_is_that_of_softplus_within_its_limits() {
        let delta = |dt: f32, bias: f64, limit| {
            Steps { projected: Rows { data: &[dt], stride: 1 }, bias: &[bias], limit }.of(0, 0).unwrap()
        };
        for (dt, bias) in [(0.3f32, 0.2), (-30.0, 1.0), (40.0, 0.5), (0.0, -3.0)] {
            let want = (1.0 + (f64::from(dt) + bias).exp()).ln();
            assert!((delta(dt, bias, (0.0, f64::INFINITY)) - want).abs() <= 1e-12 * want.max(1.0));
        }
        assert_eq!((delta(9.0, 0.0, (0.1, 0.5)), delta(-9.0, 0.0, (0.1, 0.5))), (0.5, 0.1));
    }
}
