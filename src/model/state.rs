//! Everything that changes while a sequence is generated. Weights are shared, a state belongs to one sequence.

use candle_core::Device;

use super::block::LayerState;
use super::config::ModelConfig;
use crate::error::Result;

/// One sequence's recurrent states, convolution states and attention caches.
#[derive(Debug)]
pub struct State {
    pub(super) layers: Vec<LayerState>,
    pub(super) position: usize,
    device: Device,
}

impl State {
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Result<Self> {
        let layers = config.layers.iter().map(|layer| LayerState::new(&layer.mixer, device));
        Ok(Self { layers: layers.collect::<Result<_>>()?, position: 0, device: device.clone() })
    }

    /// How many tokens the state has seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes in use: fixed for state-space layers, growing with each token for attention.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }

    /// A copy that goes on by itself. Continuing from it gives, bit for bit, what this one gives.
    pub fn snapshot(&self) -> Result<Self> {
        self.copy_to(&self.device)
    }

    /// The same copy on any device, where the same model continues from it.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        let layers = self.layers.iter().map(|layer| layer.copy_to(device));
        Ok(Self { layers: layers.collect::<Result<_>>()?, position: self.position, device: device.clone() })
    }

    /// Every number of the state, by layer and part.
    #[cfg(test)]
    pub(super) fn values(&self) -> Vec<Vec<f32>> {
        let tensors = self.layers.iter().flat_map(LayerState::tensors);
        tensors.map(|tensor| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }
}
