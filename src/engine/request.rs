//! What a caller asks for, and the only place that judges whether it can be done.

use std::fmt::Display;

use crate::error::{Error, Result};
use crate::model::CHUNK_OF_CPU;
use crate::model::config::ModelConfig;
use crate::sampling::{Params, Sampler};
use crate::text::StopMatcher;

/// So many logits are taken at once at most where a prompt's log-probabilities are asked for: 32 MiB.
const MOST_LOGITS: usize = 8 << 20;

/// So many log-probabilities are told at most of requests that belong together: some 100 bytes each as JSON.
const MOST_LOGPROBS: usize = 4 << 20;

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
            let (param, prompt_tokens) = ("prompt", prompt.len());
            return Err(Error::ContextLength { param, prompt_tokens, is_least: false, max_seq_len });
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

    /// Whether each token of the prompt needs logits.
    pub(super) fn is_scored(&self) -> bool {
        self.echo && self.top_logprobs.is_some()
    }

    /// How many tokens of the prompt are taken in at a time by a model that likes so many.
    pub(super) fn prefill_chunk(&self, liked: usize) -> usize {
        if self.is_scored() { (MOST_LOGITS / self.vocab_size).clamp(1, liked) } else { liked }
    }

    /// The most events that it will make.
    pub(super) fn most_events(&self) -> usize {
        self.prompt.len().div_ceil(self.prefill_chunk(CHUNK_OF_CPU)) + self.n * (self.max_tokens + 2)
    }

    /// The most log-probabilities that it will tell.
    fn most_logprobs(&self) -> usize {
        let echoed = if self.echo { self.prompt.len() } else { 0 };
        let per_token = self.top_logprobs.map_or(0, |n_top| n_top + 1);
        self.n.saturating_mul(echoed.saturating_add(self.max_tokens)).saturating_mul(per_token)
    }
}

/// Judges requests that belong together, whose answers are in memory together.
///
/// # Errors
/// They ask for too many log-probabilities.
pub(super) fn check_together(requests: &[GenerateRequest]) -> Result<()> {
    let asked = requests.iter().fold(0, |sum: usize, request| sum.saturating_add(request.most_logprobs()));
    if asked > MOST_LOGPROBS {
        let message = format!(
            "up to {asked} are asked for at once, more than {MOST_LOGPROBS}: ask for fewer tokens, prompts or answers"
        );
        return Err(Error::invalid("logprobs", message));
    }
    Ok(())
}

fn ensure_at_most(param: &'static str, found: usize, what: impl Display, most: usize) -> Result<()> {
    let message = || format!("must be at most {what} {most}, but is {found}");
    if found <= most { Ok(()) } else { Err(Error::invalid(param, message())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{config, gqa, mlp};

    fn request(options: &Options) -> GenerateRequest {
        let model = ModelConfig { vocab_size: 128_000, max_seq_len: 8192, ..config([(gqa(2), mlp())]) };
        GenerateRequest::new(vec![7; 4000], options, &model).unwrap()
    }

    #[test]
    fn there_is_room_for_the_events_of_a_prompt_in_small_chunks() {
        let options = Options { echo: true, top_logprobs: Some(0), max_tokens: 1, ..Options::default() };
        let request = request(&options);
        let chunk = request.prefill_chunk(CHUNK_OF_CPU);
        assert_eq!(chunk, MOST_LOGITS / 128_000);
        assert_eq!(request.most_events(), 4000usize.div_ceil(chunk) + 3);
    }

    #[test]
    fn log_probabilities_are_bounded_over_all_requests_together() {
        let options = Options { n: 16, echo: true, top_logprobs: Some(5), max_tokens: 1, ..Options::default() };
        let together = |count| check_together(&(0..count).map(|_| request(&options)).collect::<Vec<_>>());
        together(10).unwrap();
        let error = together(11).unwrap_err().to_string();
        assert!(error.starts_with("logprobs: ") && error.contains("4194304"), "{error}");
    }
}
