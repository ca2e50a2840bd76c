//! The model: weights that never change and the forward pass over them.
//!
//! In reading order: [`config`] says what a model is made of, [`weights`] how its tensors are asked for, [`block`] how
//! a layer is put together from [`mamba2`], [`mla`] or [`gqa`] and [`mlp`] or [`moe`], which share [`input`],
//! [`linear`], [`norm`], [`vector`], [`rope`] and the attention [`cache`]; [`state`] is what one sequence keeps between calls,
//! [`ops`] the only bridge from tensors to kernels, and [`device`] chooses where all of it runs.
//!
//! A layer has two ways through it: `forward` for tensors, and `step` for one token on a CPU, whose numbers go to the kernels
//! as they are.
//!
//! Absent on purpose: batches of several sequences in one product. [`Model::forward`] takes several steps so that they
//! can come without a change for callers; until then it takes them one after the other.

pub mod block;
pub mod cache;
pub mod config;
pub mod device;
pub mod gqa;
pub mod input;
pub mod linear;
pub mod mamba2;
pub mod mla;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod ops;
pub mod packing;
pub mod rope;
pub mod state;
pub mod vector;
pub mod weights;

#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use block::Block;
use config::ModelConfig;
use linear::{Linear, Weight, WeightBytes};
use norm::Norm;
use rope::{Positions, RopeSpec};
use state::State;
use weights::Weights;

/// So many tokens of a prompt are best taken in at a time on a CPU: a cancellation is seen soon.
pub const CHUNK_OF_CPU: usize = 256;

/// The same on a GPU, which has little to do with fewer.
const CHUNK_OF_GPU: usize = 2048;

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    embedding: Weight, // [vocab, hidden]
    device: Device,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
    is_tied: bool,
    ropes: Vec<RopeSpec>, // each kind of rotation once
}

/// Which rows of logits a forward pass is to compute: each costs a product with the whole vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: the state alone is of interest.
    None,
    /// Those after the last token.
    Last,
    /// Those after every token.
    All,
}

/// One sequence's part of a forward pass.
#[derive(Debug)]
pub struct Step<'a> {
    /// The tokens to take in, at least one.
    pub tokens: &'a [u32],
    /// What the sequence keeps; advanced by those tokens. After an error it is of no more use.
    pub state: &'a mut State,
    /// Which logits to compute.
    pub wanted: Wanted,
}

impl Model {
    /// Loads the tensors that `config` asks for.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape or an unsupported type: the error names it.
    pub fn load(config: &ModelConfig, weights: &Weights<'_>) -> Result<Self> {
        let ModelConfig { vocab_size, hidden_size, norm_eps, .. } = *config;
        let finer = weights.finer();
        let embedding = finer.matrix("embed_tokens.weight", vocab_size, hidden_size)?;
        let head = finer.matrix_if_present("lm_head.weight", vocab_size, hidden_size)?;
        let layer = |(i, spec)| Block::load(&weights.part("layers").part(i), spec, hidden_size);
        let mut ropes: Vec<RopeSpec> = Vec::new();
        for rope in config.layers.iter().filter_map(|layer| layer.mixer.rope()) {
            if !ropes.contains(&rope) {
                ropes.push(rope);
            }
        }
        Ok(Self {
            blocks: config.layers.iter().enumerate().map(layer).collect::<Result<_>>()?,
            norm: Norm::load_rms(&weights.part("norm"), hidden_size, norm_eps)?,
            is_tied: head.is_none(),
            head: Linear::new(head.unwrap_or_else(|| embedding.clone()), weights.precision()),
            embedding,
            device: weights.device().clone(),
            ropes,
            config: config.clone(),
        })
    }

    /// What the model is made of.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many tokens of a prompt are best taken in at a time.
    pub fn prefill_chunk(&self) -> usize {
        if self.device.is_cpu() { CHUNK_OF_CPU } else { CHUNK_OF_GPU }
    }

    /// The bytes of the matrices in memory. Of an embedding apart from the head a token reads one row, which is nothing
    /// beside them.
    pub fn weight_bytes(&self) -> WeightBytes {
        let embedding = if self.is_tied { WeightBytes::default() } else { self.embedding.bytes().reading(0) };
        embedding + self.head.bytes() + self.blocks.iter().map(Block::bytes).sum()
    }

    /// The state of a sequence before its first token.
    pub fn new_state(&self) -> Result<State> {
        State::new(&self.config, &self.device)
    }

    /// Takes in each step's tokens and returns its logits, f32 [rows, vocab] with as many rows as were wanted.
    ///
    /// Any split of a prompt into steps gives the same logits and the same state, up to rounding.
    ///
    /// # Errors
    /// A step without tokens, a token outside the vocabulary, or more tokens than `max_seq_len` in a sequence.
    pub fn forward(&self, steps: &mut [Step<'_>]) -> Result<Vec<Tensor>> {
        steps.iter_mut().map(|step| self.forward_one(step)).collect()
    }

    fn forward_one(&self, step: &mut Step<'_>) -> Result<Tensor> {
        self.check(step)?;
        let count = step.tokens.len();
        let positions = Positions::new(&self.ropes, step.state.position, count, &self.device)?;
        let embedded = ops::embed(step.tokens, &self.embedding)?; // [tokens, hidden]
        let x = ops::scale_in_place(embedded, self.config.embedding_multiplier)?;
        let mut layers = self.blocks.iter().zip(&mut step.state.layers);
        let x = if count == 1 && self.device.is_cpu() {
            // A tensor's numbers are several cache misses away.
            let row = ops::into_vec(&x)?;
            ops::on_cpu(layers.try_fold(row, |row, (block, state)| block.step(&row, &positions, state))?, 1)?
        } else {
            layers.try_fold(x, |x, (block, state)| block.forward(&x, &positions, state))?
        };
        step.state.position += count;
        self.logits(&x, step.wanted)
    }

    fn logits(&self, x: &Tensor, wanted: Wanted) -> Result<Tensor> {
        let x = match wanted {
            Wanted::None => return Ok(Tensor::zeros((0, self.config.vocab_size), DType::F32, &Device::Cpu)?),
            Wanted::Last => x.narrow(0, x.dim(0)? - 1, 1)?,
            Wanted::All => x.clone(),
        };
        ops::scale_in_place(self.head.exactly_of(&self.norm.before(&x)?)?, self.config.logits_multiplier)
    }

    fn check(&self, step: &Step<'_>) -> Result<()> {
        let ModelConfig { vocab_size, max_seq_len, .. } = self.config;
        if step.tokens.is_empty() {
            return Err(Error::Internal("a forward pass needs at least one token".into()));
        }
        if let Some(token) = step.tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(Error::invalid("prompt", format!("token id {token} is not below vocab_size {vocab_size}")));
        }
        let end = step.state.position + step.tokens.len();
        if end > max_seq_len {
            return Err(Error::invalid("prompt", format!("{end} tokens are more than max_seq_len {max_seq_len}")));
        }
        Ok(())
    }
}
