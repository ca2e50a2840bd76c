//! One generation in progress.

use candle_core::Tensor;

use super::request::GenerateRequest;
use crate::error::{Error, Result};
use crate::model::state::State;
use crate::model::{Model, Step, Wanted};
use crate::text::{Decoder, Tokenizer};

/// At most this many tokens of a prompt are taken in at a time, so that a cancellation is seen soon.
const PREFILL_CHUNK: usize = 256;

/// What a generation tells as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was generated.
    Token {
        /// Its id.
        token: u32,
        /// The logarithm of its probability under the model, before temperature and filters.
        logprob: f32,
        /// The text that became certain with it: none while a character or a stop string is incomplete.
        text: String,
    },
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
    end_of_text: &'a [u32],
    request: GenerateRequest,
    decoder: Decoder,
    state: State,
    /// How many tokens of the prompt were taken in.
    prefilled: usize,
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
            end_of_text: tokenizer.end_of_text(),
            decoder: tokenizer.decoder(),
            state: model.new_state()?,
            request,
            prefilled: 0,
            generated: 0,
            last: 0,
            finish: None,
        })
    }

    /// Does the next piece of work: takes in a chunk of the prompt, which tells nothing, or generates a token. The
    /// event after the last token is [`Event::Done`].
    pub fn advance(&mut self) -> Result<Option<Event>> {
        if let Some(reason) = self.finish {
            return self.done(reason).map(Some);
        }
        let logits = if self.prefilled < self.request.prompt.len() { self.prefill()? } else { Some(self.decode()?) };
        logits.map(|logits| self.sample(&logits)).transpose()
    }

    /// The last event of a generation that is given up.
    pub fn cancel(&mut self) -> Result<Event> {
        self.done(FinishReason::Cancelled)
    }

    /// Takes in the next chunk of the prompt; the last one gives logits.
    fn prefill(&mut self) -> Result<Option<Tensor>> {
        let rest = self.request.prompt.get(self.prefilled..).unwrap_or_default();
        let tokens = rest.get(..PREFILL_CHUNK).unwrap_or(rest);
        let is_last = tokens.len() == rest.len();
        let wanted = if is_last { Wanted::Last } else { Wanted::None };
        let logits = self.model.forward(&mut [Step { tokens, state: &mut self.state, wanted }])?;
        self.prefilled += tokens.len();
        Ok(if is_last { logits.into_iter().next() } else { None })
    }

    fn decode(&mut self) -> Result<Tensor> {
        let step = Step { tokens: &[self.last], state: &mut self.state, wanted: Wanted::Last };
        let logits = self.model.forward(&mut [step])?;
        logits.into_iter().next().ok_or_else(|| Error::Internal("a forward pass gave no logits".into()))
    }

    fn sample(&mut self, logits: &Tensor) -> Result<Event> {
        let sampled = self.request.sampler.next(&logits.flatten_all()?.to_vec1::<f32>()?)?;
        self.last = sampled.token;
        self.generated += 1;
        let mut text = String::new();
        let is_over = self.end_of_text.contains(&sampled.token) || self.reveal(sampled.token, &mut text);
        self.finish = if is_over {
            Some(FinishReason::Stop)
        } else if self.generated == self.request.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        Ok(Event::Token { token: sampled.token, logprob: sampled.logprob, text })
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
