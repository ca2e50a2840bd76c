//! What is counted of one request, from its arrival to its end.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tracing::Span;

use super::GivenUp;
use super::event::{Event, FinishReason, Usage};
use crate::error::Timeout;
use crate::metrics as m;

/// Measures one request. Where it is dropped before the end, the request was given up, and counts by the reason of that.
#[derive(Debug)]
pub(super) struct Meter {
    arrived: Instant,
    given_up: Arc<OnceLock<GivenUp>>,
    /// When it was begun, and whether anything was generated since.
    started: Option<Instant>,
    has_token: bool,
    phase: Phase,
    /// The span that the request came in, and the one of its phase.
    request: Span,
    span: Span,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Queued,
    /// Of one of its prompts.
    Prefill {
        since: Instant,
    },
    /// `last` is none where the next token is the first of another answer to the same prompt.
    Decode {
        since: Instant,
        last: Option<Instant>,
    },
    Over,
}

impl Meter {
    pub(super) fn new(given_up: Arc<OnceLock<GivenUp>>) -> Self {
        let request = Span::current();
        let (phase, span) = (Phase::Queued, Phase::Queued.span(&request));
        Self { arrived: Instant::now(), given_up, started: None, has_token: false, phase, request, span }
    }

    fn enter(&mut self, phase: Phase) {
        self.span = phase.span(&self.request);
        self.phase = phase;
    }

    /// The request was not taken in, or not begun, which whoever answers it counts.
    pub(super) fn refuse(&mut self) {
        self.enter(Phase::Over);
    }

    /// The request's first step.
    pub(super) fn start(&mut self) {
        let now = Instant::now();
        m::QUEUE_SECONDS.observe(seconds(self.arrived, now));
        self.started = Some(now);
        self.enter(Phase::Prefill { since: now });
    }

    /// All answers to a prompt are complete, and the next prompt's turn comes.
    pub(super) fn next_prompt(&mut self) {
        let now = Instant::now();
        self.end_phase(now);
        self.enter(Phase::Prefill { since: now });
    }

    /// Something was generated for the answer with this index to a prompt.
    pub(super) fn event(&mut self, index: usize, event: &Event) {
        match event {
            Event::Prompt(_) => {}
            Event::Token(_) => self.token(Instant::now()),
            Event::Done { reason, usage, .. } => {
                if let Phase::Decode { last, .. } = &mut self.phase {
                    *last = None;
                }
                count(*reason, *usage, index == 0);
            }
        }
    }

    fn token(&mut self, now: Instant) {
        if !self.has_token {
            m::FIRST_TOKEN_SECONDS.observe(seconds(self.arrived, now));
            self.has_token = true;
        }
        match &mut self.phase {
            Phase::Prefill { .. } => {
                self.end_phase(now);
                self.enter(Phase::Decode { since: now, last: Some(now) });
            }
            Phase::Decode { last, .. } => {
                if let Some(last) = last.replace(now) {
                    m::BETWEEN_TOKENS_SECONDS.observe(seconds(last, now));
                }
            }
            Phase::Queued | Phase::Over => {}
        }
    }

    fn end_phase(&self, now: Instant) {
        match self.phase {
            Phase::Prefill { since } => m::PREFILL_SECONDS.observe(seconds(since, now)),
            Phase::Decode { since, .. } => m::DECODE_SECONDS.observe(seconds(since, now)),
            Phase::Queued | Phase::Over => {}
        }
    }

    /// The request was answered to its end.
    pub(super) fn finish(&mut self) {
        let now = Instant::now();
        m::REQUEST_SECONDS.observe(seconds(self.arrived, now));
        self.end_phase(now);
        self.stop(now);
    }

    /// The request failed.
    pub(super) fn fail(&mut self, reason: &'static str) {
        m::FAILED.add(1, vec![("reason", reason.into())]);
        self.stop(Instant::now());
    }

    fn stop(&mut self, now: Instant) {
        if let Some(started) = self.started {
            m::LOOP_BUSY_SECONDS.observe(seconds(started, now));
        }
        self.enter(Phase::Over);
    }
}

impl Phase {
    /// Its span below the request's.
    fn span(self, request: &Span) -> Span {
        match self {
            Self::Queued => tracing::info_span!(parent: request, "queue"),
            Self::Prefill { .. } => tracing::info_span!(parent: request, "prefill"),
            Self::Decode { .. } => tracing::info_span!(parent: request, "decode"),
            Self::Over => Span::none(),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let phase = match self.phase {
            Phase::Queued => "queued",
            Phase::Prefill { .. } => "prefill",
            Phase::Decode { .. } => "decode",
            Phase::Over => return,
        };
        if std::thread::panicking() {
            return self.fail("panic");
        }
        match (self.given_up.get().unwrap_or(&GivenUp::Gone), self.phase) {
            (GivenUp::Gone, _) => m::CANCELLED.add(1, vec![("phase", phase.into())]),
            // Whoever answers counts what was not begun.
            (GivenUp::TimedOut(Timeout::Queue), _) | (_, Phase::Queued) => {}
            (GivenUp::TimedOut(Timeout::Request), _) => m::FAILED.add(1, vec![("reason", "request_timeout".into())]),
            (GivenUp::TimedOut(Timeout::Reader), _) => m::FAILED.add(1, vec![("reason", "slow_reader".into())]),
            (GivenUp::CutOff, _) => m::FAILED.add(1, vec![("reason", "drain_timeout".into())]),
        }
        self.stop(Instant::now());
    }
}

fn count(reason: FinishReason, usage: Usage, is_new_prompt: bool) {
    if reason != FinishReason::Cancelled {
        m::FINISHED.add(1, vec![("finish_reason", reason.name().into())]);
        if is_new_prompt {
            m::PROMPT_TOKENS.add(usage.prompt_tokens as u64, vec![("source", "computed".into())]);
            m::REQUEST_PROMPT_TOKENS.observe(usage.prompt_tokens as f64);
        }
        m::GENERATION_TOKENS.add(usage.completion_tokens as u64, Vec::new());
        m::REQUEST_GENERATION_TOKENS.observe(usage.completion_tokens as f64);
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
