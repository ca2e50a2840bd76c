//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>) over a head or its first elements, and the ways in
//! which its frequencies are stretched for contexts longer than those of the training.

use std::f64::consts::TAU;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::ops;
use crate::error::{Error, Result};

/// What decides the angles.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// How many elements of a head are rotated, the first ones; even.
    pub width: usize,
    /// The base: pair j turns by position · theta^(−2j / width).
    pub theta: f64,
    /// Which elements turn together.
    pub pairing: Pairing,
    /// What becomes of the frequencies.
    pub scaling: Scaling,
}

/// Which elements turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element j with element j + width / 2.
    Halves,
    /// Element 2j with element 2j + 1.
    Neighbours,
}

/// What becomes of the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Nothing.
    None,
    /// All are divided by `factor` (<https://arxiv.org/abs/2306.15595>).
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Those that turn seldom within `original` tokens are divided by `factor` (Llama 3.1,
    /// <https://arxiv.org/abs/2407.21783>).
    Llama3 {
        /// How many times longer the context is.
        factor: f64,
        /// Pairs with fewer turns than this within `original` are stretched in full.
        low_freq_factor: f64,
        /// Pairs with more turns stay as they are; between the two there is a ramp.
        high_freq_factor: f64,
        /// The context of the training, in tokens.
        original: f64,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>): a ramp over the pairs, and all that is turned grows by `amplitude`.
    Yarn {
        /// How many times longer the context is.
        factor: f64,
        /// Pairs with more turns than this within `original` stay as they are.
        beta_fast: f64,
        /// Pairs with fewer turns are stretched in full.
        beta_slow: f64,
        /// The context of the training, in tokens.
        original: f64,
        /// Whether the ramp's ends are whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
    /// Each is divided by a factor of its own: what GGUF files have for Llama 3.1's way.
    Factors(Arc<[f64]>),
}

impl Scaling {
    /// How many tokens YaRN stretches the context of the training to; 0 for the others.
    pub fn stretched_context(&self) -> usize {
        match self {
            Self::Yarn { factor, original, .. } => (factor * original) as usize,
            _ => 0,
        }
    }

    /// How many times longer the context is.
    pub fn factor(&self) -> f64 {
        match self {
            Self::None | Self::Factors(_) => 1.0,
            Self::Linear { factor } | Self::Llama3 { factor, .. } | Self::Yarn { factor, .. } => *factor,
        }
    }
}

impl RopeSpec {
    /// The plain rotation of halves.
    pub fn new(width: usize, theta: f64) -> Self {
        Self { width, theta, pairing: Pairing::Halves, scaling: Scaling::None }
    }

    /// By how much each pair turns from one position to the next.
    fn frequencies(&self) -> Vec<f64> {
        let half = self.width / 2;
        let plain = (0..half).map(|j| self.theta.powf(-(j as f64) / half as f64));
        match self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let kept = |frequency: f64| {
                    let turns = original * frequency / TAU;
                    ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0)
                };
                plain.map(|frequency| stretched(frequency, factor, 1.0 - kept(frequency))).collect()
            }
            Scaling::Factors(ref factors) => {
                plain.zip(&**factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                let (low, high) = self.ramp(beta_fast, beta_slow, original, truncate);
                let share = |j: usize| ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain.enumerate().map(|(j, frequency)| stretched(frequency, factor, share(j))).collect()
            }
        }
    }

    /// The pairs between which YaRN's ramp rises.
    fn ramp(&self, beta_fast: f64, beta_slow: f64, original: f64, truncate: bool) -> (f64, f64) {
        let width = self.width as f64;
        let pair = |turns: f64| width * (original / (turns * TAU)).ln() / (2.0 * self.theta.ln());
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }

    fn amplitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { amplitude, .. } => amplitude,
            _ => 1.0,
        }
    }
}

/// A frequency of which `share` is divided by `factor`.
fn stretched(frequency: f64, factor: f64, share: f64) -> f64 {
    frequency * (share / factor + 1.0 - share)
}

/// The cosines and sines of the positions that one forward pass covers.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor, // [tokens, width / 2]
    sin: Tensor,
    pairing: Pairing,
}

impl Rope {
    /// The angles of `tokens` positions from `start` on, computed in f64: at position 100,000 an f32 angle is off by
    /// 0.004 radians.
    pub fn at(spec: &RopeSpec, start: usize, tokens: usize, device: &Device) -> Result<Self> {
        let (frequencies, amplitude) = (spec.frequencies(), spec.amplitude());
        let angles = (start..start + tokens).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let turned = |angle: f64| ((amplitude * angle.sin()) as f32, (amplitude * angle.cos()) as f32);
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(turned).unzip();
        let tensor = |values| Tensor::from_vec(values, (tokens, spec.width / 2), device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)?, pairing: spec.pairing })
    }

    /// Rotates the first elements of each row of `x` [tokens, heads, head_dim].
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        ops::rotate(x, &self.cos, &self.sin, self.pairing)
    }

    /// The same of the vectors of one token on the CPU, each of `width` numbers.
    pub fn rotate_row(&self, x: &mut [f32], width: usize) -> Result<()> {
        ops::rotate_row(x, width, &self.cos, &self.sin, self.pairing)
    }
}

/// The positions that one forward pass covers, with the angles of each kind of rotation in the model.
#[derive(Debug)]
pub struct Positions {
    ropes: Vec<(RopeSpec, Rope)>,
}

impl Positions {
    /// `tokens` positions from `start` on, for a model that rotates by `specs`.
    pub fn new(specs: &[RopeSpec], start: usize, tokens: usize, device: &Device) -> Result<Self> {
        let rope = |spec: &RopeSpec| Ok((spec.clone(), Rope::at(spec, start, tokens, device)?));
        Ok(Self { ropes: specs.iter().map(rope).collect::<Result<_>>()? })
    }

    /// The angles for `spec`.
    pub fn rope(&self, spec: &RopeSpec) -> Result<&Rope> {
        let rope = self.ropes.iter().find(|(known, _)| known == spec).map(|(_, rope)| rope);
        rope.ok_or_else(|| Error::Internal(format!("no angles were computed for {spec:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(spec: &RopeSpec, x: &[f32]) -> Vec<f32> {
        let x = Tensor::from_slice(x, (1, 1, x.len()), &Device::Cpu).unwrap();
        Rope::at(spec, 7, 1, &Device::Cpu).unwrap().rotate(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(got: &[f32], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (a, b) in got.iter().zip(want) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{got:?} for {want:?}");
        }
    }

    #[test]
    fn pairs_turn_by_position_times_frequency_and_the_rest_of_a_head_stays() {
        let halves = RopeSpec::new(4, 100.0);
        let (slow, fast) = (7f64 * 100f64.powf(-0.5), 7f64);
        let want = [
            fast.cos() - 3. * fast.sin(),
            2. * slow.cos() - 4. * slow.sin(),
            3. * fast.cos() + fast.sin(),
            4. * slow.cos() + 2. * slow.sin(),
        ];
        assert_close(&turned(&halves, &[1., 2., 3., 4.]), &want);
        assert_close(&turned(&halves, &[1., 2., 3., 4., 5., 6.]), &[want.as_slice(), &[5., 6.]].concat());
        let neighbours = RopeSpec { pairing: Pairing::Neighbours, ..halves };
        assert_close(&turned(&neighbours, &[1., 3., 2., 4.]), &[want[0], want[2], want[1], want[3]]);
    }

    #[test]
    fn scaling_stretches_slow_pairs_and_leaves_fast_ones() {
        let with = |scaling| RopeSpec { scaling, ..RopeSpec::new(64, 10_000.0) }.frequencies();
        let plain = with(Scaling::None);
        let linear = with(Scaling::Linear { factor: 4.0 });
        assert!(plain.iter().zip(&linear).all(|(a, b)| (a / b - 4.0).abs() < 1e-12));
        let factors = with(Scaling::Factors((1..=32).map(f64::from).collect()));
        assert!(plain.iter().zip(&factors).zip(1..).all(|((a, b), factor)| (a / b - f64::from(factor)).abs() < 1e-12));
        let (factor, original) = (8.0, 1024.0);
        let llama3 = with(Scaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original });
        let yarn = Scaling::Yarn { factor, beta_fast: 32.0, beta_slow: 1.0, original, truncate: true, amplitude: 1.0 };
        for stretched in [llama3, with(yarn)] {
            let ratios: Vec<f64> = plain.iter().zip(&stretched).map(|(a, b)| a / b).collect();
            assert!(ratios.is_sorted() && ratios[0] == 1.0 && (ratios[31] - factor).abs() < 1e-9, "{ratios:?}");
        }
    }
}
