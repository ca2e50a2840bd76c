//! What a caller asks for, and the only place that judges whether it can be done.

use std::fmt::Display;

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::sampling::{Params, Sampler};
use crate::text::StopMatcher;

/// At most this many tokens of a prompt are taken in at a time, so that a cancellation is seen soon.
pub(super) const PREFILL_CHUNK: usize = 256;

/// A longer stop string is refused, in characters: each answer keeps a table of it.
const LONGEST_STOP: usize = 1024;

/// More answers to one prompt are refused.
const MOST_ANSWERS: usize = 16;

/// More of the most probable tokens are not told beside one.
pub const MOST_TOP_LOGPROBS: usize = 20;

/// What a caller may choose besides the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How many answers are generated. With a seed, each has its own: the seed, and its index added.
    pub n: usize,
    /// At most this many tokens are generated. None at all only with `echo`.
    pub max_tokens: usize,
    /// So many tokens are generated before the model may end the text: with `max_tokens` or more, it can't.
    pub min_tokens: usize,
    /// The model can't end the text: its end-of-text tokens are tokens like others.
    pub ignore_eos: bool,
    /// The events begin with the prompt's tokens.
    pub echo: bool,
    /// How many of the most probable tokens are told beside each one; none: not even its own log-probability is of
    /// interest.
    pub top_logprobs: Option<usize>,
    /// How tokens are drawn.
    pub sampling: Params,
    /// Generation ends before the first of these texts.
    pub stop: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            n: 1,
            max_tokens: 100,
            min_tokens: 0,
            ignore_eos: false,
            echo: false,
            top_logprobs: None,
            sampling: Params::default(),
            stop: Vec::new(),
        }
    }
}

/// A request that can be done: its prompt fits the model, its options are in range.
#[derive(Debug)]
pub struct GenerateRequest {
    pub(super) prompt: Vec<u32>,
    pub(super) n: usize,
    pub(super) max_tokens: usize,
    pub(super) min_tokens: usize,
    pub(super) ignore_eos: bool,
    pub(super) echo: bool,
    pub(super) top_logprobs: Option<usize>,
    pub(super) stops: StopMatcher,
    sampling: Params,
    vocab_size: usize,
}

impl GenerateRequest {
    /// Judges a prompt and options for a model. Where prompt and `max_tokens` together exceed `max_seq_len`, fewer
    /// tokens are generated.
    ///
    /// # Errors
    /// The prompt is empty, too long or has a token that the model doesn't know; an option is out of range.
    pub fn new(prompt: Vec<u32>, options: &Options, model: &ModelConfig) -> Result<Self> {
        let Options { n, max_tokens, min_tokens, ignore_eos, echo, top_logprobs, ref sampling, ref stop } = *options;
        let ModelConfig { vocab_size, max_seq_len, .. } = *model;
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "expected at least one token, found none"));
        }
        let room = max_seq_len.saturating_sub(prompt.len());
        if room == 0 && max_tokens > 0 || prompt.len() > max_seq_len {
            return Err(Error::ContextLength { prompt_tokens: prompt.len(), max_seq_len });
        }
        if let Some(token) = prompt.iter().find(|token| **token as usize >= vocab_size) {
            return Err(Error::invalid("prompt", format!("token id {token} is not below vocab_size {vocab_size}")));
        }
        if max_tokens == 0 && !echo {
            return Err(Error::invalid("max_tokens", "expected at least 1, found 0"));
        }
        if !(1..=MOST_ANSWERS).contains(&n) {
            return Err(Error::invalid("n", format!("expected 1 to {MOST_ANSWERS}, found {n}")));
        }
        let longest_stop = stop.iter().map(|stop| stop.chars().count()).max().unwrap_or(0);
        ensure_at_most("stop", longest_stop, "this many characters long:", LONGEST_STOP)?;
        sampling.validate(vocab_size)?;
        ensure_at_most("top_logprobs", top_logprobs.unwrap_or(0), "the most that are told,", MOST_TOP_LOGPROBS)?;
        Ok(Self {
            n,
            max_tokens: max_tokens.min(room),
            min_tokens,
            ignore_eos,
            echo,
            top_logprobs,
            stops: StopMatcher::new(stop)?,
            sampling: sampling.clone(),
            vocab_size,
            prompt,
        })
    }

    /// How many tokens the prompt has.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// How many answers it has.
    pub fn n_answers(&self) -> usize {
        self.n
    }

    /// What draws the tokens of the answer with this index.
    pub(super) fn sampler(&self, index: usize) -> Result<Sampler> {
        let seed = self.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        Sampler::new(&Params { seed, ..self.sampling.clone() }, self.vocab_size, &self.prompt)
    }

    /// The most events that it will make.
    pub(super) fn most_events(&self) -> usize {
        self.prompt.len().div_ceil(PREFILL_CHUNK) + self.n * (self.max_tokens + 2)
    }
}

fn ensure_at_most(param: &'static str, found: usize, what: impl Display, most: usize) -> Result<()> {
    let message = || format!("must be at most {what} {most}, but is {found}");
    if found <= most { Ok(()) } else { Err(Error::invalid(param, message())) }
}
