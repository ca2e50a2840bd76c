//! What both kinds of generation have in common: from a request's fields to options, from options to a place in the
//! queue, and from events to an answer, whole or piece by piece.
//!
//! Headers go out only after validation, admission and the first token, so that bad input, overload and timeouts keep
//! their status. The [`Generation`] is held by the answer's body: a client that goes away drops it, and with it the
//! request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::app::{App, Served, now};
use super::error::ApiError;
use super::sse;
use super::types::{Answer, OneOrMany, Shared, StreamOptions, Usage, UsageField, Whole};
use crate::engine::request::{GenerateRequest, Options};
use crate::engine::sequence::{Event, FinishReason, Told, Usage as Counted};
use crate::engine::{Generation, Update};
use crate::error::{Error, Timeout, Unavailable};
use crate::sampling::Params;

/// More answers to one prompt are refused.
const MOST_ANSWERS: usize = 16;

/// More prompts and answers together are refused.
const MOST_CHOICES: usize = 128;

/// How the answer is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    /// How many answers to each prompt.
    pub(super) n: usize,
    /// Piece by piece, or whole.
    pub(super) stream: bool,
    /// A last chunk has the usage.
    include_usage: bool,
    /// Every chunk has the usage so far.
    continuous_usage: bool,
}

impl Delivery {
    pub(super) fn new(shared: &Shared) -> Result<Self, ApiError> {
        let n = shared.n.map_or(1, |n| n.0);
        if !(1..=MOST_ANSWERS).contains(&n) {
            return Err(ApiError::invalid("n", format!("n: expected 1 to {MOST_ANSWERS}, found {n}")));
        }
        let stream = shared.stream.unwrap_or(false);
        if shared.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "stream_options: only possible with stream: true"));
        }
        let StreamOptions { include_usage, continuous_usage_stats } = shared.stream_options.clone().unwrap_or_default();
        let (include_usage, continuous_usage) = (include_usage == Some(true), continuous_usage_stats == Some(true));
        Ok(Self { n, stream, include_usage, continuous_usage: include_usage && continuous_usage })
    }
}

/// The options that the fields ask for, but for those that differ between the endpoints.
pub(super) fn options(shared: &Shared) -> Result<Options, ApiError> {
    let Shared {
        model: _,
        temperature,
        top_p,
        top_k,
        min_p,
        seed,
        n: _,
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
    let (usual, defaults) = (Options::default(), Params::default());
    let sampling = Params {
        temperature: temperature.unwrap_or(defaults.temperature),
        top_k: top_k.map_or(defaults.top_k, |top_k| top_k.0),
        top_p: top_p.unwrap_or(defaults.top_p),
        min_p: min_p.unwrap_or(defaults.min_p),
        repetition_penalty: repetition_penalty.unwrap_or(defaults.repetition_penalty),
        frequency_penalty: frequency_penalty.unwrap_or(defaults.frequency_penalty),
        presence_penalty: presence_penalty.unwrap_or(defaults.presence_penalty),
        logit_bias: bias(logit_bias.unwrap_or_default())?,
        seed: seed.map(|seed| seed.0 as u64), // negative ones wrap around: each number is its own seed
    };
    Ok(Options {
        min_tokens: min_tokens.map_or(usual.min_tokens, |min_tokens| min_tokens.0),
        ignore_eos: ignore_eos.unwrap_or(usual.ignore_eos),
        stop: stop.map(OneOrMany::into_vec).unwrap_or_default(),
        sampling,
        ..usual
    })
}

fn bias(biases: impl IntoIterator<Item = (String, f32)>) -> Result<Vec<(u32, f32)>, ApiError> {
    let parse = |(token, bias): (String, f32)| match token.parse() {
        Ok(id) => Ok((id, bias)),
        Err(_) => Err(ApiError::invalid("logit_bias", format!("logit_bias: {token:?} is not a token id"))),
    };
    biases.into_iter().map(parse).collect()
}

/// How many tokens are asked for, where `max_tokens` may be left out.
pub(super) fn max_tokens(asked: Option<Whole<usize>>) -> usize {
    asked.map_or(Options::default().max_tokens, |asked| asked.0)
}

/// One request for each answer to each prompt, in the order of their index. With a seed, each has its own.
pub(super) fn requests(
    prompts: Vec<Vec<u32>>,
    n: usize,
    options: &Options,
    model: &crate::model::config::ModelConfig,
) -> crate::error::Result<Vec<GenerateRequest>> {
    let count = prompts.len().saturating_mul(n);
    if count > MOST_CHOICES {
        let message = format!("{count} answers are asked for at once, at most {MOST_CHOICES} are possible");
        return Err(Error::invalid("prompt", message));
    }
    let mut requests = Vec::with_capacity(count);
    for prompt in prompts {
        for answer in 0..n as u64 {
            let mut options = options.clone();
            options.sampling.seed = options.sampling.seed.map(|seed| seed.wrapping_add(answer));
            requests.push(GenerateRequest::new(prompt.clone(), &options, model)?);
        }
    }
    Ok(requests)
}

/// What was added to one answer.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) told: Vec<Told>,
    pub(super) finish_reason: Option<&'static str>,
}

impl Piece {
    fn of(event: Event) -> (Self, Option<Counted>) {
        match event {
            Event::Prompt(told) => (Self { text: joined(&told), told, finish_reason: None }, None),
            Event::Token(told) => (Self { text: told.text.clone(), told: vec![told], finish_reason: None }, None),
            Event::Done { reason, text, usage } => {
                (Self { text, told: Vec::new(), finish_reason: Some(spelled(reason)) }, Some(usage))
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.told.extend(other.told);
        self.finish_reason = other.finish_reason;
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.told.is_empty() && self.finish_reason.is_none()
    }
}

fn joined(told: &[Told]) -> String {
    told.iter().map(|told| told.text.as_str()).collect()
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
    fn opening(&mut self, index: usize) -> Option<Self::Choice>;

    /// What a chunk adds. Its reason, where it has one, comes after its text, in a chunk of its own.
    fn delta(&mut self, index: usize, piece: Piece) -> Self::Choice;

    /// A whole answer.
    fn whole(&mut self, index: usize, piece: Piece) -> Self::Choice;

    /// A body around choices.
    fn body(&self, is_chunk: bool, choices: Vec<Self::Choice>, usage: UsageField) -> impl Serialize;

    /// Whether a piece without text has something to say.
    fn tells_tokens(&self) -> bool;
}

/// Takes the requests in, and answers with what comes of them.
pub(super) async fn answer<S: Shape>(
    app: &App,
    requests: Vec<GenerateRequest>,
    delivery: Delivery,
    shape: S,
) -> Result<Response, ApiError> {
    let n_answers = requests.len();
    let prompt_tokens = requests.iter().step_by(delivery.n).map(GenerateRequest::prompt_tokens).collect();
    let generation = app.served()?.engine.submit(requests, delivery.n)?;
    let mut source = Source::new(generation, app);
    let first = source.first().await?;
    let usages = vec![None; n_answers];
    if delivery.stream {
        let chunks = Chunks {
            shape,
            source,
            delivery,
            usages,
            opened: vec![false; n_answers],
            prompt_tokens,
            generated: vec![0; n_answers],
            ready: VecDeque::new(),
            is_over: false,
        };
        Ok(chunks.respond(first))
    } else {
        collect(shape, source, first, usages, delivery.n).await
    }
}

/// A generation with its bounds of time.
struct Source {
    generation: Generation,
    queue_deadline: Instant,
    deadline: Instant,
    cut_off: watch::Receiver<bool>,
}

impl Source {
    fn new(generation: Generation, app: &App) -> Self {
        let settings = app.settings();
        let now = Instant::now();
        let after = |limit: Duration| now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(1 << 30));
        let (queue_deadline, deadline) = (after(settings.queue_timeout), after(settings.request_timeout));
        Self { generation, queue_deadline, deadline, cut_off: app.watch_cut_off() }
    }

    /// The first event, after its time in the queue.
    async fn first(&mut self) -> Result<(usize, Event), Error> {
        let is_queue_first = self.queue_deadline < self.deadline;
        let (deadline, timeout) =
            if is_queue_first { (self.queue_deadline, Timeout::Queue) } else { (self.deadline, Timeout::Request) };
        match self.update(deadline, timeout).await? {
            Update::Started => self.next().await,
            Update::Event(index, event) => Ok((index, event)),
            Update::Failed(error) => Err(error),
        }
    }

    /// The next event.
    async fn next(&mut self) -> Result<(usize, Event), Error> {
        loop {
            match self.update(self.deadline, Timeout::Request).await? {
                Update::Started => {}
                Update::Event(index, event) => return Ok((index, event)),
                Update::Failed(error) => return Err(error),
            }
        }
    }

    async fn update(&mut self, deadline: Instant, timeout: Timeout) -> Result<Update, Error> {
        tokio::select! {
            update = timeout_at(deadline, self.generation.next()) => match update {
                Ok(update) => update.ok_or(Error::Unavailable(Unavailable::Stalled)),
                Err(_) => Err(Error::Timeout(timeout)),
            },
            _ = self.cut_off.wait_for(|is_over| *is_over) => Err(Error::Unavailable(Unavailable::Draining)),
        }
    }
}

async fn collect<S: Shape>(
    mut shape: S,
    mut source: Source,
    first: (usize, Event),
    mut usages: Vec<Option<Counted>>,
    n: usize,
) -> Result<Response, ApiError> {
    let mut pieces: Vec<Piece> = usages.iter().map(|_| Piece::default()).collect();
    let mut next = first;
    loop {
        let (index, event) = next;
        let (piece, usage) = Piece::of(event);
        if let Some(whole) = pieces.get_mut(index) {
            whole.join(piece);
        }
        note(&mut usages, index, usage);
        if usages.iter().all(Option::is_some) {
            break;
        }
        next = source.next().await?;
    }
    let choices = pieces.into_iter().enumerate().map(|(index, piece)| shape.whole(index, piece)).collect();
    Ok(Json(shape.body(false, choices, UsageField::There(total(&usages, n)))).into_response())
}

fn note(usages: &mut [Option<Counted>], index: usize, usage: Option<Counted>) {
    if let (Some(place), Some(usage)) = (usages.get_mut(index), usage) {
        *place = Some(usage);
    }
}

/// What all answers took. A prompt that has `n` answers counts once.
fn total(usages: &[Option<Counted>], n: usize) -> Usage {
    let prompt_tokens = usages.iter().step_by(n).flatten().map(|usage| usage.prompt_tokens).sum();
    let completion_tokens = usages.iter().flatten().map(|usage| usage.completion_tokens).sum();
    let total_tokens = prompt_tokens + completion_tokens;
    Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() }
}

/// A streamed answer in the making.
struct Chunks<S: Shape> {
    shape: S,
    source: Source,
    delivery: Delivery,
    /// Of the answers that are complete.
    usages: Vec<Option<Counted>>,
    /// Which answers have begun.
    opened: Vec<bool>,
    /// How many tokens each prompt has, and each answer up to now.
    prompt_tokens: Vec<usize>,
    generated: Vec<usize>,
    /// Events to be sent.
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl<S: Shape> Chunks<S> {
    fn respond(mut self, (index, event): (usize, Event)) -> Response {
        self.take(index, event);
        sse::response(stream::unfold(self, |mut chunks| async move {
            let bytes = chunks.next().await?;
            Some((Ok::<_, Infallible>(bytes), chunks))
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.is_over {
                return None;
            }
            match tokio::time::timeout(sse::KEEP_ALIVE, self.source.next()).await {
                Err(_) => return Some(sse::COMMENT),
                Ok(Ok((index, event))) => self.take(index, event),
                Ok(Err(error)) => self.fail(error),
            }
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        let is_token = matches!(event, Event::Token(_));
        if let Some(opened) = self.opened.get_mut(index)
            && !std::mem::replace(opened, true)
            && let Some(choice) = self.shape.opening(index)
        {
            self.push(choice);
        }
        let (mut piece, usage) = Piece::of(event);
        if let Some(generated) = self.generated.get_mut(index) {
            *generated += piece.told.iter().filter(|_| is_token).count();
        }
        let finish_reason = piece.finish_reason.take();
        if !self.shape.tells_tokens() {
            piece.told.clear();
        }
        if !piece.is_empty() {
            let choice = self.shape.delta(index, piece);
            self.push(choice);
        }
        note(&mut self.usages, index, usage);
        if finish_reason.is_some() {
            let choice = self.shape.delta(index, Piece { finish_reason, ..Piece::default() });
            self.push(choice);
        }
        if self.usages.iter().all(Option::is_some) {
            self.finish();
        }
    }

    fn push(&mut self, choice: S::Choice) {
        let usage = match (self.delivery.include_usage, self.delivery.continuous_usage) {
            (true, true) => UsageField::There(self.so_far()),
            (true, false) => UsageField::Null(None),
            (false, _) => UsageField::Absent,
        };
        let event = sse::event(&self.shape.body(true, vec![choice], usage));
        self.ready.push_back(event);
    }

    /// What the answers have taken up to now.
    fn so_far(&self) -> Usage {
        let begun = self.opened.iter().step_by(self.delivery.n);
        let prompts = begun.zip(&self.prompt_tokens).filter(|(has_begun, _)| **has_begun).map(|(_, tokens)| tokens);
        let (prompt_tokens, completion_tokens) = (prompts.sum(), self.generated.iter().sum());
        let total_tokens = prompt_tokens + completion_tokens;
        Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() }
    }

    fn finish(&mut self) {
        if self.delivery.include_usage {
            let usage = UsageField::There(total(&self.usages, self.delivery.n));
            let event = sse::event(&self.shape.body(true, Vec::new(), usage));
            self.ready.push_back(event);
        }
        self.end();
    }

    fn fail(&mut self, error: Error) {
        let event = sse::event(&ApiError::from(error).envelope());
        self.ready.push_back(event);
        self.end();
    }

    fn end(&mut self) {
        self.ready.push_back(sse::DONE);
        self.is_over = true;
    }
}
