//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>), pairing element j with j + d/2.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// What decides the angles: the rotated width and the base of the frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// How many elements of a head are rotated; even.
    pub width: usize,
    /// The base: element j turns by position · theta^(−2j / width).
    pub theta: f64,
}

/// The cosines and sines of the positions that one forward pass covers.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor, // [tokens, width / 2]
    sin: Tensor,
}

impl Rope {
    /// The angles of `tokens` positions from `start` on, computed in f64: at position 100,000 an f32 angle is off by
    /// 0.004 radians.
    pub fn at(spec: RopeSpec, start: usize, tokens: usize, device: &Device) -> Result<Self> {
        let half = spec.width / 2;
        let frequencies: Vec<f64> = (0..half).map(|j| spec.theta.powf(-(j as f64) / half as f64)).collect();
        let angles = (start..start + tokens).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        let tensor = |values| Tensor::from_vec(values, (tokens, half), device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)? })
    }

    /// Rotates `x` [heads, tokens, width].
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?.unsqueeze(0)?;
        Ok(candle_nn::rotary_emb::rope(&x, &self.cos, &self.sin)?.squeeze(0)?)
    }
}

/// The positions that one forward pass covers, with the angles of each kind of rotation in the model.
#[derive(Debug)]
pub struct Positions {
    start: usize,
    ropes: Vec<(RopeSpec, Rope)>,
}

impl Positions {
    /// `tokens` positions from `start` on, for a model that rotates by `specs`.
    pub fn new(specs: &[RopeSpec], start: usize, tokens: usize, device: &Device) -> Result<Self> {
        let rope = |spec: &RopeSpec| Ok((*spec, Rope::at(*spec, start, tokens, device)?));
        Ok(Self { start, ropes: specs.iter().map(rope).collect::<Result<_>>()? })
    }

    /// The position of the first token.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The angles for `spec`.
    pub fn rope(&self, spec: RopeSpec) -> Result<&Rope> {
        let rope = self.ropes.iter().find(|(known, _)| *known == spec).map(|(_, rope)| rope);
        rope.ok_or_else(|| Error::Internal(format!("no angles were computed for {spec:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_j_turns_with_element_j_plus_half_by_position_times_frequency() -> Result<()> {
        let spec = RopeSpec { width: 4, theta: 100.0 };
        let x = Tensor::from_vec(vec![1f32, 2., 3., 4.], (1, 1, 4), &Device::Cpu)?;
        let turned = Rope::at(spec, 7, 1, &Device::Cpu)?.rotate(&x)?.flatten_all()?.to_vec1::<f32>()?;
        let (slow, fast) = (7f64 * 100f64.powf(-0.5), 7f64);
        let want = [
            fast.cos() - 3. * fast.sin(),
            2. * slow.cos() - 4. * slow.sin(),
            3. * fast.cos() + fast.sin(),
            4. * slow.cos() + 2. * slow.sin(),
        ];
        for (got, want) in turned.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{turned:?}");
        }
        Ok(())
    }
}
