//! One generation in progress.

use super::request::{GenerateRequest, PREFILL_CHUNK};
use crate::error::{Error, Result};
use crate::model::state::State;
use crate::model::{Model, Step, Wanted};
use crate::sampling::{Ranked, Sampled, rank};
use crate::text::{Decoder, Tokenizer};

/// So many logits are taken at once at most where a prompt's log-probabilities are asked for: 32 MiB.
const MOST_LOGITS: usize = 8 << 20;

/// What a generation tells as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Tokens of the prompt, for requests with `echo`: all of them before the first [`Event::Token`].
    Prompt(Vec<Told>),
    /// A token was generated.
    Token(Told),
    /// The generation is over.
    Done {
        /// Why.
        reason: FinishReason,
        /// The text that was held back.
        text: String,
        /// What was counted.
        usage: Usage,
    },
}

/// A token, its text and how probable it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its id.
    pub token: u32,
    /// The logarithm of its probability under the model, before temperature and filters. None for the first token of a
    /// prompt, and for all of the prompt where `top_logprobs` is none.
    pub logprob: Option<f32>,
    /// The most probable tokens in its place, with theirs, as [`rank`] gives them.
    pub top: Vec<(u32, f32)>,
    /// The text that became certain with it: none while a character or a stop string is incomplete.
    pub text: String,
}

/// Why a generation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended the text, or a stop string came.
    Stop,
    /// As many tokens as were asked for, or as the model has room for, were generated.
    Length,
    /// Nobody waits for the rest.
    Cancelled,
}

impl FinishReason {
    /// As it is spelled in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many tokens went in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The prompt's tokens.
    pub prompt_tokens: usize,
    /// The generated tokens, an end-of-text token included.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
}

/// A request that is being worked on.
pub struct Sequence<'a> {
    model: &'a Model,
    /// What ends the text, unless the request says otherwise.
    end_of_text: &'a [u32],
    request: GenerateRequest,
    decoder: Decoder,
    state: State,
    /// How many tokens of the prompt were taken in.
    prefilled: usize,
    /// Those after the whole prompt, before a token was drawn from them. [vocab]
    logits: Option<Vec<f32>>,
    /// How many tokens were generated, and the last of them.
    generated: usize,
    last: u32,
    finish: Option<FinishReason>,
}

impl<'a> Sequence<'a> {
    /// A request before its first step.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, request: GenerateRequest) -> Result<Self> {
        Ok(Self {
            model,
            end_of_text: if request.ignore_eos { &[] } else { tokenizer.end_of_text() },
            decoder: tokenizer.decoder(),
            state: model.new_state()?,
            request,
            prefilled: 0,
            logits: None,
            generated: 0,
            last: 0,
            finish: None,
        })
    }

    /// Does the next piece of work: takes in a chunk of the prompt, which tells something only with `echo`, or
    /// generates a token. The event after the last token is [`Event::Done`].
    pub fn advance(&mut self) -> Result<Option<Event>> {
        if let Some(reason) = self.finish {
            return self.done(reason).map(Some);
        }
        if self.prefilled < self.request.prompt.len() {
            return self.prefill();
        }
        let logits = match self.logits.take() {
            Some(logits) => logits,
            None => self.decode()?,
        };
        self.sample(&logits).map(Some)
    }

    /// Bytes that the state has in use.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// The last event of a generation that is given up.
    pub fn cancel(&mut self) -> Result<Event> {
        self.done(FinishReason::Cancelled)
    }

    /// Takes in the next chunk of the prompt.
    fn prefill(&mut self) -> Result<Option<Event>> {
        let is_scored = self.request.echo && self.request.top_logprobs.is_some();
        let longest = if is_scored { self.scored_chunk() } else { PREFILL_CHUNK };
        let rest = self.request.prompt.get(self.prefilled..).unwrap_or_default();
        let tokens = rest.get(..longest).unwrap_or(rest);
        let (start, end, is_last) = (self.prefilled, self.prefilled + tokens.len(), tokens.len() == rest.len());
        let wanted = match (is_scored, is_last) {
            (true, _) => Wanted::All,
            (false, true) => Wanted::Last,
            (false, false) => Wanted::None,
        };
        let logits = self.model.forward(&mut [Step { tokens, state: &mut self.state, wanted }])?;
        let rows = logits.first().ok_or_else(no_logits)?.to_vec2::<f32>()?;
        self.prefilled = end;
        let event = self.request.echo.then(|| Event::Prompt(self.tell_prompt(start, end, &rows)));
        if is_last {
            self.logits = Some(rows.into_iter().next_back().ok_or_else(no_logits)?);
            self.finish = (self.request.max_tokens == 0).then_some(FinishReason::Length);
        }
        Ok(event)
    }

    /// How many tokens are taken in at once where each has logits.
    fn scored_chunk(&self) -> usize {
        (MOST_LOGITS / self.model.config().vocab_size).clamp(1, PREFILL_CHUNK)
    }

    /// Tells the prompt's tokens up to `end` that were not told with the chunk before: as each row of logits judges the
    /// next token, the chunk from `start` tells one more than it has, but for the last.
    fn tell_prompt(&mut self, start: usize, end: usize, rows: &[Vec<f32>]) -> Vec<Told> {
        let first = if start == 0 { self.request.prompt.first().map(|token| (*token, None)) } else { None };
        let judged = self.request.prompt.iter().copied().skip(start + 1).zip(rows.iter().map(Some));
        let unjudged = self.request.prompt.iter().copied().take(end).skip(start.max(1)).map(|token| (token, None));
        let told: Vec<_> = match self.request.top_logprobs {
            Some(_) => first.into_iter().chain(judged).collect(),
            None => first.into_iter().chain(unjudged).collect(),
        };
        told.into_iter().map(|(token, logits)| self.tell(token, logits.map(Vec::as_slice))).collect()
    }

    /// A token of the prompt, with its place in the logits before it.
    fn tell(&mut self, token: u32, logits: Option<&[f32]>) -> Told {
        let ranked = logits.map(|logits| rank(logits, token, self.request.top_logprobs.unwrap_or(0)));
        let mut text = String::new();
        self.decoder.push(token, &mut text);
        let (logprob, top) = ranked.map_or((None, Vec::new()), |ranked| (Some(ranked.logprob), ranked.top));
        Told { token, logprob, top, text }
    }

    fn decode(&mut self) -> Result<Vec<f32>> {
        let step = Step { tokens: &[self.last], state: &mut self.state, wanted: Wanted::Last };
        let logits = self.model.forward(&mut [step])?;
        Ok(logits.first().ok_or_else(no_logits)?.flatten_all()?.to_vec1()?)
    }

    fn sample(&mut self, logits: &[f32]) -> Result<Event> {
        let (token, Ranked { logprob, top }) = self.choose(logits)?;
        self.last = token;
        self.generated += 1;
        let mut text = String::new();
        let is_over = self.end_of_text.contains(&token) || self.reveal(token, &mut text);
        self.finish = if is_over {
            Some(FinishReason::Stop)
        } else if self.generated == self.request.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        Ok(Event::Token(Told { token, logprob: Some(logprob), top, text }))
    }

    /// Draws the next token.
    fn choose(&mut self, logits: &[f32]) -> Result<(u32, Ranked)> {
        let n_top = self.request.top_logprobs.unwrap_or(0);
        let is_too_early = self.generated < self.request.min_tokens;
        let Sampled { token, logprob } = if is_too_early {
            self.request.sampler.next(&without(logits, self.end_of_text))?
        } else {
            self.request.sampler.next(logits)?
        };
        if !is_too_early && n_top == 0 {
            return Ok((token, Ranked { logprob, top: Vec::new() }));
        }
        Ok((token, rank(logits, token, n_top)))
    }

    /// Adds the text that is certain with `token`; true where a stop string came.
    fn reveal(&mut self, token: u32, text: &mut String) -> bool {
        let mut decoded = String::new();
        self.decoder.push(token, &mut decoded);
        self.request.stops.push(&decoded, text)
    }

    fn done(&mut self, reason: FinishReason) -> Result<Event> {
        let (mut decoded, mut text) = (String::new(), String::new());
        self.decoder.finish(&mut decoded);
        let stopped = self.request.stops.push(&decoded, &mut text);
        self.request.stops.finish(&mut text);
        let (prompt_tokens, completion_tokens) = (self.request.prompt.len(), self.generated);
        let usage = Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
        Ok(Event::Done { reason: if stopped { FinishReason::Stop } else { reason }, text, usage })
    }
}

/// The same logits, with these tokens impossible.
fn without(logits: &[f32], tokens: &[u32]) -> Vec<f32> {
    let mut logits = logits.to_vec();
    for token in tokens {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    logits
}

fn no_logits() -> Error {
    Error::Internal("a forward pass gave no logits".into())
}
