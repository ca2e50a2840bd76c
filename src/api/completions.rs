//! `POST /v1/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::app::{App, Served};
use super::error::ApiError;
use super::extract::Json;
use super::generate::{Delivery, Head, Part, Shape, answer, max_tokens, options};
use super::openapi::{Overloaded, Refused};
use super::types::{
    Answer, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt, Ranking, ServerSentEvent, UsageField,
    Whole,
};
use crate::engine::event::Told;
use crate::engine::request::GenerateRequest;
use crate::error::Error;
use crate::text::Tokenizer;

/// More of the most probable tokens are not told by this endpoint.
const MOST_LOGPROBS: usize = 5;

/// More prompts at once are refused.
pub(super) const MOST_PROMPTS: usize = 128;

/// Continues texts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses(
        (
            status = 200,
            description = "The answer; with `stream`, chunks as server-sent events",
            content((Answer<CompletionChoice> = "application/json"), (ServerSentEvent = "text/event-stream"))
        ),
        Refused,
        Overloaded
    )
)]
pub(super) async fn complete(
    State(app): State<App>,
    Json(request): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = app.served()?;
    served.check_model(request.model.as_deref())?;
    let shared = request.shared();
    let delivery = Delivery::new(&shared)?;
    let mut options = options(&shared)?;
    refuse_unsupported(&request, options.n)?;
    options.max_tokens = max_tokens(request.max_tokens);
    options.echo = request.echo.unwrap_or(false);
    options.top_logprobs = top_logprobs(request.logprobs)?;
    let shape = Text::new(served, options.top_logprobs.is_some());
    let prompt = request.prompt;
    if app.settings().logs_prompts {
        tracing::info!(?prompt, "asked");
    }
    let read = move |served: &Served| {
        let prompts = encode(prompt, served)?.into_iter();
        prompts.map(|prompt| GenerateRequest::new(prompt, &options, &served.config)).collect()
    };
    answer(&app, read, delivery, shape).await
}

fn refuse_unsupported(request: &CompletionRequest, n: usize) -> Result<(), ApiError> {
    if request.best_of.is_some_and(|best_of| best_of.0 != n) {
        return Err(ApiError::invalid("best_of", "best_of: only as many as n are possible"));
    }
    let has_suffix = request.suffix.as_ref().is_some_and(|suffix| !suffix.is_null() && suffix != "");
    if has_suffix {
        return Err(ApiError::invalid("suffix", "suffix: text can't be inserted, only continued"));
    }
    Ok(())
}

fn top_logprobs(asked: Option<Whole<usize>>) -> Result<Option<usize>, ApiError> {
    match asked {
        Some(Whole(asked)) if asked > MOST_LOGPROBS => {
            Err(ApiError::invalid("logprobs", format!("logprobs: expected 0 to {MOST_LOGPROBS}, found {asked}")))
        }
        asked => Ok(asked.map(|asked| asked.0)),
    }
}

/// The token ids of every prompt.
fn encode(prompt: Prompt, served: &Served) -> Result<Vec<Vec<u32>>, Error> {
    let n_prompts = match &prompt {
        Prompt::Text(_) | Prompt::Tokens(_) => 1,
        Prompt::Texts(texts) => texts.len(),
        Prompt::TokenLists(lists) => lists.len(),
    };
    if !(1..=MOST_PROMPTS).contains(&n_prompts) {
        return Err(Error::invalid("prompt", format!("expected 1 to {MOST_PROMPTS} of them, found {n_prompts}")));
    }
    let encode = |text: &String| served.tokenizer.encode_prompt(text, served.config.max_seq_len);
    Ok(match prompt {
        Prompt::Text(text) => vec![encode(&text)?],
        Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Prompt::Tokens(tokens) => vec![ids(tokens)],
        Prompt::TokenLists(lists) => lists.into_iter().map(ids).collect(),
    })
}

fn ids(tokens: Vec<Whole<u32>>) -> Vec<u32> {
    tokens.into_iter().map(|token| token.0).collect()
}

/// Answers as plain text.
struct Text {
    head: Head,
    tokenizer: Arc<Tokenizer>,
    tells_logprobs: bool,
}

impl Text {
    fn new(served: &Served, tells_logprobs: bool) -> Self {
        Self { head: Head::new("cmpl", served), tokenizer: Arc::clone(&served.tokenizer), tells_logprobs }
    }

    fn choice(&self, index: usize, Part { piece, finish_reason }: Part) -> CompletionChoice {
        let logprobs = (self.tells_logprobs && !piece.told.is_empty()).then(|| self.logprobs(piece.told));
        CompletionChoice { index, text: piece.text, logprobs, finish_reason }
    }

    fn logprobs(&self, told: Vec<Told>) -> CompletionLogprobs {
        let mut logprobs = CompletionLogprobs::default();
        for Told { token, logprob, top, offset, .. } in told {
            logprobs.tokens.push(self.tokenizer.spelling_of(token).0);
            logprobs.token_logprobs.push(logprob);
            logprobs.top_logprobs.push(logprob.map(|logprob| self.ranked(top, (token, logprob))));
            logprobs.text_offset.push(offset);
        }
        logprobs
    }

    /// The most probable tokens, the chosen one always among them.
    fn ranked(&self, mut top: Vec<(u32, f32)>, chosen: (u32, f32)) -> Ranking {
        if top.is_empty() {
            top.push(chosen);
        }
        Ranking(top.iter().map(|(token, logprob)| (self.tokenizer.spelling_of(*token).0, *logprob)).collect())
    }
}

impl Shape for Text {
    type Choice = CompletionChoice;

    fn opening(&self, _: usize) -> Option<CompletionChoice> {
        None
    }

    fn delta(&self, index: usize, part: Part) -> CompletionChoice {
        self.choice(index, part)
    }

    fn whole(&self, index: usize, part: Part) -> CompletionChoice {
        self.choice(index, part)
    }

    fn body(&self, _: bool, choices: Vec<CompletionChoice>, usage: UsageField) -> impl Serialize {
        self.head.body("text_completion", choices, usage)
    }

    fn tells_tokens(&self) -> bool {
        self.tells_logprobs
    }
}
