//! What a caller asks for, and the only place that judges whether it can be done.

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::sampling::{Params, Sampler};
use crate::text::StopMatcher;

/// What a caller may choose besides the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// At most this many tokens are generated.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Params,
    /// Generation ends before the first of these texts.
    pub stop: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_tokens: 100, sampling: Params::default(), stop: Vec::new() }
    }
}

/// A request that can be done: its prompt fits the model, its options are in range.
#[derive(Debug)]
pub struct GenerateRequest {
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) sampler: Sampler,
    pub(super) stops: StopMatcher,
}

impl GenerateRequest {
    /// Judges a prompt and options for a model. Where prompt and `max_tokens` together exceed `max_seq_len`, fewer
    /// tokens are generated.
    ///
    /// # Errors
    /// The prompt is empty, too long or has a token that the model doesn't know; an option is out of range.
    pub fn new(prompt: Vec<u32>, options: &Options, model: &ModelConfig) -> Result<Self> {
        let Options { max_tokens, sampling, stop } = options;
        let ModelConfig { vocab_size, max_seq_len, .. } = *model;
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "expected at least one token, found none"));
        }
        if prompt.len() >= max_seq_len {
            let found = prompt.len();
            let message =
                format!("{found} tokens leave no room in the model's max_seq_len of {max_seq_len}: shorten it");
            return Err(Error::invalid("prompt", message));
        }
        if let Some(token) = prompt.iter().find(|token| **token as usize >= vocab_size) {
            return Err(Error::invalid("prompt", format!("token id {token} is not below vocab_size {vocab_size}")));
        }
        if *max_tokens == 0 {
            return Err(Error::invalid("max_tokens", "expected at least 1, found 0"));
        }
        Ok(Self {
            max_tokens: (*max_tokens).min(max_seq_len - prompt.len()),
            sampler: Sampler::new(sampling, vocab_size, &prompt)?,
            stops: StopMatcher::new(stop)?,
            prompt,
        })
    }
}
