//! What both kinds of generation have in common: from a request's fields to options, from options to a place in the
//! queue, and from events to an answer, whole or piece by piece.
//!
//! Headers go out only after validation, admission and the first token, so that bad input, overload and timeouts keep
//! their status. The [`Generation`] is held by the answer's body: a client that goes away drops it, and with it the
//! request.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::app::{App, InFlight, Served, Settings, now};
use super::aside::{aside, with_served};
use super::error::{ApiError, Stage};
use super::sse;
use super::types::{Answer, Object, OneOrMany, Real, Shared, StreamOptions, Usage, UsageField, Whole};
use crate::engine::event::{Event, FinishReason, Piece, Told};
use crate::engine::request::{GenerateRequest, Options};
use crate::engine::{Generation, GivenUp, Update};
use crate::error::{Error, Timeout, Unavailable};
use crate::sampling::Params;

/// A larger answer is written on a thread of its own, so that those that serve connections go on.
const MOST_TOLD_AT_ONCE: usize = 256;

/// How the answer is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    /// Piece by piece, or whole.
    stream: bool,
    /// A last chunk has the usage.
    include_usage: bool,
    /// Every chunk has the usage so far.
    continuous_usage: bool,
}

impl Delivery {
    pub(super) fn new(shared: &Shared) -> Result<Self, ApiError> {
        let stream = shared.stream.unwrap_or(false);
        if shared.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "stream_options: only possible with stream: true"));
        }
        let Object(StreamOptions { include_usage, continuous_usage_stats }) =
            shared.stream_options.clone().unwrap_or_default();
        let (include_usage, continuous_usage) = (include_usage == Some(true), continuous_usage_stats == Some(true));
        Ok(Self { stream, include_usage, continuous_usage: include_usage && continuous_usage })
    }
}

/// The options that the fields ask for, but for those that differ between the endpoints; `defaults` are for those left
/// out.
pub(super) fn options(shared: &Shared, defaults: &Params) -> Result<Options, ApiError> {
    let Shared {
        model: _,
        user: _,
        temperature,
        top_p,
        top_k,
        min_p,
        seed,
        n,
        best_of,
        stop,
        frequency_penalty,
        presence_penalty,
        repetition_penalty,
        logit_bias,
        ignore_eos,
        min_tokens,
        stream: _,
        stream_options: _,
    } = shared.clone();
    let usual = Options::default();
    let n = n.map_or(usual.n, |n| n.0);
    if best_of.is_some_and(|best_of| best_of.0 != n) {
        return Err(ApiError::invalid("best_of", "best_of: only as many as n are possible"));
    }
    let sampling = Params {
        temperature: temperature.map_or(defaults.temperature, |temperature| temperature.0),
        top_k: top_k.map_or(defaults.top_k, |top_k| top_k.0),
        top_p: top_p.map_or(defaults.top_p, |top_p| top_p.0),
        min_p: min_p.map_or(defaults.min_p, |min_p| min_p.0),
        repetition_penalty: repetition_penalty
            .map_or(defaults.repetition_penalty, |repetition_penalty| repetition_penalty.0),
        frequency_penalty: frequency_penalty
            .map_or(defaults.frequency_penalty, |frequency_penalty| frequency_penalty.0),
        presence_penalty: presence_penalty.map_or(defaults.presence_penalty, |presence_penalty| presence_penalty.0),
        logit_bias: bias(logit_bias.unwrap_or_default())?,
        seed: seed.map(|seed| seed.0 as u64), // negative ones wrap around: each number is its own seed
    };
    Ok(Options {
        n,
        min_tokens: min_tokens.map_or(usual.min_tokens, |min_tokens| min_tokens.0),
        ignore_eos: ignore_eos.unwrap_or(usual.ignore_eos),
        stop: stop.map(OneOrMany::into_vec).unwrap_or_default(),
        sampling,
        ..usual
    })
}

fn bias(biases: impl IntoIterator<Item = (String, Real)>) -> Result<Vec<(u32, f32)>, ApiError> {
    let parse = |(token, Real(bias)): (String, Real)| match token.parse::<u32>() {
        Ok(id) if id.to_string() == token => Ok((id, bias)),
        _ => Err(ApiError::invalid("logit_bias", format!("logit_bias: {token:?} is not a token id"))),
    };
    biases.into_iter().map(parse).collect()
}

/// How many tokens are asked for, where `max_tokens` may be left out.
pub(super) fn max_tokens(asked: Option<Whole<usize>>) -> usize {
    asked.map_or(Options::default().max_tokens, |asked| asked.0)
}

/// What was added to one answer.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) piece: Piece,
    pub(super) finish_reason: Option<&'static str>,
}

impl Part {
    fn of(event: Event) -> Self {
        match event {
            Event::Prompt(piece) | Event::Token(piece) => Self { piece, finish_reason: None },
            Event::Done { reason, rest, .. } => Self { piece: rest, finish_reason: Some(spelled(reason)) },
        }
    }

    fn join(&mut self, other: Self) {
        self.piece.text.push_str(&other.piece.text);
        self.piece.told.extend(other.piece.told);
        self.finish_reason = other.finish_reason;
    }
}

/// As the API has it: a request that is given up has nobody who reads its reason.
fn spelled(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Cancelled => FinishReason::Length.name(),
        reason => reason.name(),
    }
}

/// What every body of one answer begins with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

impl Head {
    /// That of a new answer, whose id begins with `kind`.
    pub(super) fn new(kind: &str, served: &Served) -> Self {
        Self {
            id: format!("{kind}-{}", Uuid::new_v4().simple()),
            created: now(),
            model: served.id.clone(),
            fingerprint: served.fingerprint.clone(),
        }
    }

    pub(super) fn body<C>(&self, object: &'static str, choices: Vec<C>, usage: UsageField) -> Answer<C> {
        let Self { id, created, model, fingerprint } = self.clone();
        Answer { id, object, created, model, system_fingerprint: fingerprint, choices, usage }
    }
}

/// How one endpoint writes its answers.
pub(super) trait Shape: Send + 'static {
    type Choice: Serialize + Send;

    /// What a streamed answer begins with.
    fn opening(&self, index: usize) -> Option<Self::Choice>;

    /// What a chunk adds. Its reason, where it has one, comes after its text, in a chunk of its own.
    fn delta(&self, index: usize, part: Part) -> Self::Choice;

    /// A whole answer.
    fn whole(&self, index: usize, part: Part) -> Self::Choice;

    /// A body around choices.
    fn body(&self, is_chunk: bool, choices: Vec<Self::Choice>, usage: UsageField) -> impl Serialize;

    /// Whether something is said of a token besides its text.
    fn tells(&self, told: &Told) -> bool;
}

/// Takes the requests in that `read` makes of a body, and answers with what comes of them.
pub(super) async fn answer<S: Shape>(
    app: &App,
    read: impl FnOnce(&Served) -> Result<Vec<GenerateRequest>, Error> + Send + 'static,
    in_flight: InFlight,
    delivery: Delivery,
    shape: S,
) -> Result<Response, ApiError> {
    let bounds = Bounds::new(app.settings());
    let (answers, generation) =
        timeout_at(bounds.first().0, admit(app, read)).await.map_err(|_| Error::Timeout(bounds.first().1))??;
    drop(in_flight);
    let mut source = Source { generation, bounds, cut_off: app.watch_cut_off(), has_begun: false };
    let opening = source.opening().await?;
    if delivery.stream {
        let chunks = Chunks { shape, source, delivery, answers, ready: VecDeque::new(), is_over: false };
        Ok(chunks.respond(opening))
    } else {
        collect(shape, source, opening, answers).await
    }
}

/// Puts the requests into the queue, in the order in which their bodies came.
async fn admit(
    app: &App,
    read: impl FnOnce(&Served) -> Result<Vec<GenerateRequest>, Error> + Send + 'static,
) -> Result<(Vec<Progress>, Generation), ApiError> {
    let _turn = app.admission().lock().await;
    let requests = with_served(app, read).await?;
    let answers = requests.iter().flat_map(Progress::of_all).collect();
    Ok((answers, app.served()?.engine.submit(requests)?))
}

/// How far one answer is.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Those that count for this answer: the first one to a prompt counts it.
    prompt_tokens: usize,
    has_begun: bool,
    generated: usize,
    is_over: bool,
}

impl Progress {
    fn of_all(request: &GenerateRequest) -> impl Iterator<Item = Self> {
        let prompt_tokens = request.prompt_tokens();
        (0..request.n_answers()).map(move |index| Self {
            prompt_tokens: if index == 0 { prompt_tokens } else { 0 },
            has_begun: false,
            generated: 0,
            is_over: false,
        })
    }

    fn note(&mut self, event: &Event) {
        self.has_begun = true;
        match event {
            Event::Prompt(_) => {}
            Event::Token(_) => self.generated += 1,
            Event::Done { .. } => self.is_over = true,
        }
    }
}

/// What the answers have taken up to now.
fn usage(answers: &[Progress]) -> Usage {
    let begun = answers.iter().filter(|answer| answer.has_begun);
    let (prompt_tokens, completion_tokens) =
        begun.fold((0, 0), |(prompt, generated), answer| (prompt + answer.prompt_tokens, generated + answer.generated));
    let total_tokens = prompt_tokens + completion_tokens;
    Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() }
}

fn note(answers: &mut [Progress], index: usize, event: &Event) {
    if let Some(answer) = answers.get_mut(index) {
        answer.note(event);
    }
}

/// How long a request may wait, and how long it may take, both from its arrival.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    queue: Instant,
    request: Instant,
}

impl Bounds {
    fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        let after = |limit: Duration| now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(1 << 30));
        Self { queue: after(settings.queue_timeout), request: after(settings.request_timeout) }
    }

    /// The one that comes first.
    fn first(&self) -> (Instant, Timeout) {
        if self.queue < self.request { (self.queue, Timeout::Queue) } else { (self.request, Timeout::Request) }
    }
}

/// A generation within its bounds of time.
struct Source {
    generation: Generation,
    bounds: Bounds,
    cut_off: watch::Receiver<bool>,
    /// Whether its time in the queue is over.
    has_begun: bool,
}

impl Source {
    /// The events up to the first token, or to the end of an answer without any.
    async fn opening(&mut self) -> Result<Vec<(usize, Event)>, ApiError> {
        let mut events = vec![self.next().await?];
        while let Some((_, Event::Prompt(_))) = events.last() {
            events.push(self.next().await?);
        }
        Ok(events)
    }

    /// The next event.
    async fn next(&mut self) -> Result<(usize, Event), ApiError> {
        loop {
            match self.update().await {
                Update::Started => self.has_begun = true,
                Update::Event(index, event) => return Ok((index, event)),
                Update::Failed(error) if self.has_begun => return Err(ApiError::from(error).at(Stage::Begun)),
                Update::Failed(error) => return Err(error.into()),
            }
        }
    }

    async fn update(&mut self) -> Update {
        let (deadline, timeout) =
            if self.has_begun { (self.bounds.request, Timeout::Request) } else { self.bounds.first() };
        let (reason, error) = tokio::select! {
            update = timeout_at(deadline, self.generation.next()) => match update {
                Ok(update) => return update,
                Err(_) => (GivenUp::TimedOut(timeout), Error::Timeout(timeout)),
            },
            _ = self.cut_off.wait_for(|is_over| *is_over) => {
                (GivenUp::CutOff, Error::Unavailable(Unavailable::Draining))
            }
        };
        self.generation.give_up(reason);
        Update::Failed(error)
    }
}

async fn collect<S: Shape>(
    shape: S,
    mut source: Source,
    opening: Vec<(usize, Event)>,
    mut answers: Vec<Progress>,
) -> Result<Response, ApiError> {
    let mut parts: Vec<Part> = answers.iter().map(|_| Part::default()).collect();
    let mut opening = opening.into_iter();
    while !answers.iter().all(|answer| answer.is_over) {
        let (index, event) = match opening.next() {
            Some(first) => first,
            None => source.next().await?,
        };
        note(&mut answers, index, &event);
        if let Some(whole) = parts.get_mut(index) {
            whole.join(Part::of(event));
        }
    }
    let n_told = parts.iter().map(|part| part.piece.told.len()).sum();
    let write = move || {
        let choices = parts.into_iter().enumerate().map(|(index, part)| shape.whole(index, part)).collect();
        Json(shape.body(false, choices, UsageField::There(usage(&answers)))).into_response()
    };
    aside(n_told, MOST_TOLD_AT_ONCE, write).await
}

/// A streamed answer in the making.
struct Chunks<S: Shape> {
    shape: S,
    source: Source,
    delivery: Delivery,
    answers: Vec<Progress>,
    /// Events to be sent.
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl<S: Shape> Chunks<S> {
    fn respond(mut self, opening: Vec<(usize, Event)>) -> Response {
        opening.into_iter().for_each(|(index, event)| self.take(index, event));
        sse::response(stream::unfold(self, |mut chunks| async { Some((chunks.next().await?, chunks)) }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.is_over {
                return None;
            }
            match self.source.next().await {
                Ok((index, event)) => self.take(index, event),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        let has_begun = self.answers.get(index).is_some_and(|answer| answer.has_begun);
        note(&mut self.answers, index, &event);
        if !has_begun && let Some(choice) = self.shape.opening(index) {
            self.push(choice);
        }
        let Part { mut piece, finish_reason } = Part::of(event);
        piece.told.retain(|told| self.shape.tells(told));
        if !piece.text.is_empty() || !piece.told.is_empty() {
            let choice = self.shape.delta(index, Part { piece, finish_reason: None });
            self.push(choice);
        }
        if finish_reason.is_some() {
            let choice = self.shape.delta(index, Part { piece: Piece::default(), finish_reason });
            self.push(choice);
        }
        if self.answers.iter().all(|answer| answer.is_over) {
            self.finish();
        }
    }

    fn push(&mut self, choice: S::Choice) {
        let usage = match (self.delivery.include_usage, self.delivery.continuous_usage) {
            (true, true) => UsageField::There(usage(&self.answers)),
            (true, false) => UsageField::Null(None),
            (false, _) => UsageField::Absent,
        };
        let event = sse::event(&self.shape.body(true, vec![choice], usage));
        self.ready.push_back(event);
    }

    fn finish(&mut self) {
        if self.delivery.include_usage {
            let usage = UsageField::There(usage(&self.answers));
            let event = sse::event(&self.shape.body(true, Vec::new(), usage));
            self.ready.push_back(event);
        }
        self.end();
    }

    fn fail(&mut self, error: &ApiError) {
        let event = sse::event(&error.envelope());
        self.ready.push_back(event);
        self.end();
    }

    fn end(&mut self) {
        self.ready.push_back(sse::DONE);
        self.is_over = true;
    }
}
