//! One answer to a prompt, token by token.

use super::event::{Event, FinishReason, Usage};
use super::logits::Logits;
use super::request::GenerateRequest;
use super::transcript::Transcript;
use crate::error::Result;
use crate::kernels::shortlist::Need;
use crate::model::Model;
use crate::model::state::State;
use crate::sampling::{Ranked, Sampled, Sampler, Scores, rank};
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
    logits: Option<Vec<f32>>,
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
        logits: Vec<f32>,
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
        let need = self.need();
        let logits = match self.logits.take() {
            Some(logits) => Logits::All(logits),
            None => Logits::after(self.model, &mut self.state, self.last, need)?,
        };
        self.sample(logits.scores())
    }

    /// Bytes that the state has in use.
    pub(super) fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// The last event of an answer that is given up.
    pub(super) fn cancel(&mut self) -> Event {
        self.done(FinishReason::Cancelled)
    }

    /// Which logits suffice for the next token; none where it takes all of them.
    fn need(&self) -> Option<Need> {
        let need = self.sampler.need().filter(|_| !self.is_too_early())?;
        Some(Need { best: need.best.max(self.n_top()), ..need })
    }

    /// How many of the most probable tokens are told beside each one.
    fn n_top(&self) -> usize {
        self.request.top_logprobs.unwrap_or(0)
    }

    /// Whether the text can't end yet.
    fn is_too_early(&self) -> bool {
        self.generated < self.request.min_tokens
    }

    fn sample(&mut self, logits: Scores<'_>) -> Result<Event> {
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

    /// Draws the next token.
    fn choose(&mut self, logits: Scores<'_>) -> Result<(u32, Ranked)> {
        let (n_top, is_too_early) = (self.n_top(), self.is_too_early());
        let Sampled { token, logprob } = match logits {
            Scores::All(all) if is_too_early => self.sampler.next(&without(all, self.end_of_text))?,
            _ => self.sampler.next(logits)?,
        };
        if !is_too_early && n_top == 0 {
            return Ok((token, Ranked { logprob, top: Vec::new() }));
        }
        Ok((token, rank(logits, token, n_top)))
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
