//! Taking in a prompt, chunk by chunk.

use candle_core::Tensor;

use super::answer::Answer;
use super::event::{Event, FinishReason, Piece, Usage};
use super::logits::take_in;
use super::request::GenerateRequest;
use super::transcript::Transcript;
use crate::error::{Error, Result};
use crate::model::state::State;
use crate::model::{Model, Wanted};
use crate::sampling::rank;
use crate::text::Tokenizer;

/// A prompt that is being taken in, once for all its answers.
pub(super) struct Prefill<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    request: &'a GenerateRequest,
    transcript: Transcript<'a>,
    state: State,
    /// How many tokens were taken in.
    n_done: usize,
    /// Those after the whole prompt. [vocab]
    logits: Option<Tensor>,
    /// The prompt as it is echoed.
    echoed: Piece,
}

impl<'a> Prefill<'a> {
    pub(super) fn new(model: &'a Model, tokenizer: &'a Tokenizer, request: &'a GenerateRequest) -> Result<Self> {
        let transcript = Transcript::new(tokenizer, request.stops.clone(), request.top_logprobs.is_some());
        let (state, echoed) = (model.new_state()?, Piece::default());
        Ok(Self { model, tokenizer, request, transcript, state, n_done: 0, logits: None, echoed })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.n_done == self.request.prompt.len()
    }

    /// Takes in the next chunk. With `echo`, it is told.
    pub(super) fn advance(&mut self) -> Result<Option<Event>> {
        let rest = self.request.prompt.get(self.n_done..).unwrap_or_default();
        let tokens = rest.get(..self.request.prefill_chunk(self.model.prefill_chunk())).unwrap_or(rest);
        let (start, end, is_last) = (self.n_done, self.n_done + tokens.len(), tokens.len() == rest.len());
        let wanted = match (self.request.is_scored(), is_last) {
            (true, _) => Wanted::All,
            (false, true) => Wanted::Last,
            (false, false) => Wanted::None,
        };
        let rows = take_in(self.model, &mut self.state, tokens, wanted)?;
        self.n_done = end;
        if is_last {
            self.logits = Some(rows.get(rows.dim(0)?.saturating_sub(1))?.force_contiguous()?);
        }
        let judging = if self.request.is_scored() { rows.to_vec2()? } else { Vec::new() };
        Ok(self.request.echo.then(|| Event::Prompt(self.echo(start, end, &judging))))
    }

    /// Tells the prompt's tokens up to `end` that were not told with the chunk before: as each row of logits judges the
    /// next token, the chunk from `start` tells one more than it has, but for the last.
    fn echo(&mut self, start: usize, end: usize, rows: &[Vec<f32>]) -> Piece {
        let prompt = &self.request.prompt;
        let first = if start == 0 { prompt.first().map(|token| (0, *token, None)) } else { None };
        let tokens = prompt.iter().copied().enumerate();
        let told: Vec<_> = match self.request.top_logprobs {
            Some(n_top) => {
                let judged = tokens.skip(start + 1).zip(rows);
                let judged = judged.map(|((at, token), logits)| (at, token, Some(rank(logits, token, n_top))));
                first.into_iter().chain(judged).collect()
            }
            None => {
                let unjudged = tokens.take(end).skip(start.max(1)).map(|(at, token)| (at, token, None));
                first.into_iter().chain(unjudged).collect()
            }
        };
        let mut piece = Piece::default();
        for (at, token, ranked) in told {
            self.transcript.echo(at, token, ranked, &mut piece);
        }
        if self.request.n > 1 {
            self.echoed.text.push_str(&piece.text);
            self.echoed.told.extend_from_slice(&piece.told);
        }
        piece
    }

    /// What an answer after the first begins with: the whole prompt, with `echo`.
    pub(super) fn echoed(&self) -> Option<Event> {
        self.request.echo.then(|| Event::Prompt(self.echoed.clone()))
    }

    /// The answer with this index, once the prompt is complete. The last one takes the state over.
    pub(super) fn answer(&mut self, index: usize) -> Result<Answer<'a>> {
        let is_last = index + 1 == self.request.n;
        let state = if is_last {
            std::mem::replace(&mut self.state, self.model.new_state()?)
        } else {
            self.state.snapshot()?
        };
        let sampler = self.request.sampler(index)?;
        let no_logits = || Error::Internal("there are no logits after the prompt".into());
        let logits = self.logits.as_ref().ok_or_else(no_logits)?.force_contiguous()?; // each answer has its own
        let transcript = self.transcript.clone();
        Ok(Answer::new(self.model, self.tokenizer, self.request, transcript, state, logits, sampler))
    }

    /// Bytes that the state has in use.
    pub(super) fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// The last event of a prompt that is given up.
    pub(super) fn cancel(&self) -> Event {
        let usage = Usage::new(self.request.prompt.len(), 0);
        Event::Done { reason: FinishReason::Cancelled, rest: Piece::default(), usage }
    }
}
