//! One answer to a prompt, token by token.

use candle_core::Tensor;

use super::event::{Event, FinishReason, Usage};
use super::logits::{Asked, Logits};
use super::request::GenerateRequest;
use super::transcript::Transcript;
use crate::error::Result;
use crate::model::Model;
use crate::model::state::State;
use crate::sampling::{Ranked, Sampler, rank};
use crate::text::Tokenizer;

/// An answer that is being generated.
pub(super) struct Answer<'a> {
    model: &'a Model,
    request: &'a GenerateRequest,
    /// What ends the text, unless the request says otherwise.
    end_of_text: &'a [u32],
    transcript: Transcript<'a>,
    state: State,
    sampler: Sampler,
    /// Those after the prompt, before a token was drawn from them. [vocab]
    logits: Option<Tensor>,
    /// How many tokens were generated, and the last of them.
    generated: usize,
    last: u32,
    finish: Option<FinishReason>,
}

impl<'a> Answer<'a> {
    /// An answer before its first token, which is drawn from `logits`. [vocab]
    pub(super) fn new(
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        request: &'a GenerateRequest,
        transcript: Transcript<'a>,
        state: State,
        logits: Tensor,
        sampler: Sampler,
    ) -> Self {
        Self {
            model,
            request,
            end_of_text: if request.ignore_eos { &[] } else { tokenizer.end_of_text() },
            transcript,
            state,
            sampler,
            logits: Some(logits),
            generated: 0,
            last: 0,
            finish: (request.max_tokens == 0).then_some(FinishReason::Length),
        }
    }

    /// Generates a token. The event after the last one is [`Event::Done`].
    pub(super) fn advance(&mut self) -> Result<Event> {
        if let Some(reason) = self.finish {
            return Ok(self.done(reason));
        }
        let asked = self.asked();
        let logits = match self.logits.take() {
            Some(logits) => Logits::of(&logits, asked)?,
            None => Logits::after(self.model, &mut self.state, self.last, asked)?,
        };
        self.sample(&logits)
    }

    /// Bytes that the state has in use.
    pub(super) fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// The last event of an answer that is given up.
    pub(super) fn cancel(&mut self) -> Event {
        self.done(FinishReason::Cancelled)
    }

    /// What is asked of the next logits; none where the host takes all of them.
    fn asked(&self) -> Option<Asked> {
        let draw = self.sampler.draw().filter(|_| !self.is_too_early())?;
        Some(Asked { draw, n_top: self.request.top_logprobs })
    }

    /// Whether the text can't end yet.
    fn is_too_early(&self) -> bool {
        self.generated < self.request.min_tokens
    }

    fn sample(&mut self, logits: &Logits) -> Result<Event> {
        let (token, ranked) = self.choose(logits)?;
        self.last = token;
        self.generated += 1;
        let is_end = self.end_of_text.contains(&token);
        let (piece, is_stopped) = if is_end {
            self.transcript.end(token, ranked);
            Default::default()
        } else {
            self.transcript.push(token, ranked)
        };
        self.finish = if is_end || is_stopped {
            Some(FinishReason::Stop)
        } else if self.generated == self.request.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        Ok(Event::Token(piece))
    }

    /// The next token, with what is told of its log-probability.
    fn choose(&mut self, logits: &Logits) -> Result<(u32, Option<Ranked>)> {
        match logits {
            Logits::All(all) => self.draw(all),
            Logits::Drawn(drawn, shortlist) => {
                self.sampler.take(*drawn);
                let n_top = self.request.top_logprobs.unwrap_or(0);
                Ok((drawn.token, shortlist.as_ref().map(|shortlist| rank(shortlist, drawn.token, n_top))))
            }
        }
    }

    /// Draws the next token on the host.
    fn draw(&mut self, logits: &[f32]) -> Result<(u32, Option<Ranked>)> {
        let token = if self.is_too_early() {
            self.sampler.next(&without(logits, self.end_of_text))?
        } else {
            self.sampler.next(logits)?
        };
        let ranked = self.request.top_logprobs.map(|n_top| rank(logits, token, n_top));
        Ok((token, ranked))
    }

    fn done(&mut self, reason: FinishReason) -> Event {
        let (rest, is_stopped) = self.transcript.finish();
        let usage = Usage::new(self.request.prompt.len(), self.generated);
        Event::Done { reason: if is_stopped { FinishReason::Stop } else { reason }, rest, usage }
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
