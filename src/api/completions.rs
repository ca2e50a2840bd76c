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
    operation_id = "create_completion",
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
    Json(request, in_flight): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = app.served()?;
    served.check_model(request.model.as_deref())?;
    let shared = request.shared();
    let delivery = Delivery::new(&shared)?;
    refuse_unsupported(&request)?;
    let mut options = options(&shared, &served.sampling)?;
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
    answer(&app, read, in_flight, delivery, shape).await
}

fn refuse_unsupported(request: &CompletionRequest) -> Result<(), ApiError> {
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

    fn logprobs(&self, told: Vec<Told>) -> CompletionLogprobs {
        let spelled = |token| self.tokenizer.spelling_of(token).0;
        let mut logprobs = CompletionLogprobs::default();
        for Told { token, logprob, top, offset, .. } in told {
            logprobs.tokens.push(spelled(token));
            logprobs.token_logprobs.push(logprob);
            logprobs.top_logprobs.push(logprob.map(|logprob| ranked(top, (token, logprob), spelled)));
            logprobs.text_offset.push(offset);
        }
        logprobs
    }
}

/// The most probable tokens, the chosen one always among them. Of those that are spelled alike it is the one that is told,
/// else the most probable.
fn ranked(mut top: Vec<(u32, f32)>, chosen: (u32, f32), spelled: impl Fn(u32) -> String) -> Ranking {
    if !top.contains(&chosen) {
        top.push(chosen);
    }
    let own = spelled(chosen.0);
    let mut ranking = Ranking::default();
    for (token, logprob) in top {
        let name = spelled(token);
        let is_hidden = name == own && token != chosen.0;
        if !is_hidden && !ranking.0.iter().any(|(known, _)| *known == name) {
            ranking.0.push((name, logprob));
        }
    }
    ranking
}

impl Shape for Text {
    type Choice = CompletionChoice;

    fn opening(&self, _: usize) -> Option<CompletionChoice> {
        None
    }

    fn delta(&self, index: usize, part: Part) -> CompletionChoice {
        let is_silent = part.piece.told.is_empty();
        let whole = self.whole(index, part);
        CompletionChoice { logprobs: whole.logprobs.filter(|_| !is_silent), ..whole }
    }

    fn whole(&self, index: usize, Part { piece, finish_reason }: Part) -> CompletionChoice {
        let logprobs = self.tells_logprobs.then(|| self.logprobs(piece.told));
        CompletionChoice { index, text: piece.text, logprobs, finish_reason }
    }

    fn body(&self, _: bool, choices: Vec<CompletionChoice>, usage: UsageField) -> impl Serialize {
        self.head.body("text_completion", choices, usage)
    }

    fn tells(&self, _: &Told) -> bool {
        self.tells_logprobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_tokens_that_are_spelled_alike_the_chosen_one_is_told() {
        let spelled = |token: u32| ["a", "b", "a", "b"][token as usize].to_owned();
        let top = vec![(0, -0.1), (1, -1.0), (2, -2.0), (3, -3.0)];
        let entries =
            |entries: &[(&str, f32)]| entries.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect();
        assert_eq!(ranked(top.clone(), (2, -2.0), spelled), Ranking(entries(&[("b", -1.0), ("a", -2.0)])));
        assert_eq!(ranked(top, (1, -1.0), spelled), Ranking(entries(&[("a", -0.1), ("b", -1.0)])));
        assert_eq!(ranked(Vec::new(), (3, -3.0), spelled), Ranking(entries(&[("b", -3.0)])));
    }
}
