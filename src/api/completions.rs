//! `POST /v1/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::app::{App, Served};
use super::error::ApiError;
use super::extract::Json;
use super::generate::{Delivery, Head, Piece, Shape, answer, max_tokens, options, requests};
use super::tokens::with_served;
use super::types::{CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt, Ranking, UsageField, Whole};
use crate::engine::sequence::Told;
use crate::error::Error;
use crate::text::Tokenizer;

/// More of the most probable tokens are not told by this endpoint.
const MOST_LOGPROBS: usize = 5;

pub(super) async fn complete(
    State(app): State<App>,
    Json(request): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = app.served()?;
    served.check_model(request.model.as_deref())?;
    let shared = request.shared();
    let delivery = Delivery::new(&shared)?;
    refuse_unsupported(&request, delivery.n)?;
    let mut options = options(&shared)?;
    options.max_tokens = max_tokens(request.max_tokens);
    options.echo = request.echo.unwrap_or(false);
    options.top_logprobs = top_logprobs(request.logprobs)?;
    let shape = Text::new(served, options.top_logprobs.is_some(), delivery.n);
    let prompt = request.prompt;
    let requests =
        with_served(&app, move |served| requests(encode(prompt, served)?, delivery.n, &options, &served.config));
    answer(&app, requests.await?, delivery, shape).await
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
    let encode = |text: &String| served.tokenizer.encode_prompt(text, served.config.max_seq_len);
    let prompts = match prompt {
        Prompt::Text(text) => vec![encode(&text)?],
        Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Prompt::Tokens(tokens) => vec![ids(tokens)],
        Prompt::TokenLists(lists) => lists.into_iter().map(ids).collect(),
    };
    if prompts.is_empty() {
        return Err(Error::invalid("prompt", "expected at least one, found an empty list"));
    }
    Ok(prompts)
}

fn ids(tokens: Vec<Whole<u32>>) -> Vec<u32> {
    tokens.into_iter().map(|token| token.0).collect()
}

/// Answers as plain text.
struct Text {
    head: Head,
    tokenizer: Arc<Tokenizer>,
    tells_logprobs: bool,
    /// How many characters of each answer came before.
    offsets: Vec<usize>,
}

impl Text {
    fn new(served: &Served, tells_logprobs: bool, n_answers: usize) -> Self {
        Self {
            head: Head::new("cmpl", served),
            tokenizer: Arc::clone(&served.tokenizer),
            tells_logprobs,
            offsets: vec![0; n_answers],
        }
    }

    fn choice(&mut self, index: usize, piece: Piece) -> CompletionChoice {
        let Piece { text, told, finish_reason } = piece;
        let logprobs = (self.tells_logprobs && !told.is_empty()).then(|| self.logprobs(index, told));
        CompletionChoice { index, text, logprobs, finish_reason }
    }

    fn logprobs(&mut self, index: usize, told: Vec<Told>) -> CompletionLogprobs {
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        let mut logprobs = CompletionLogprobs::default();
        for Told { token, logprob, top, .. } in told {
            let (spelled, bytes) = self.tokenizer.spelling_of(token);
            logprobs.tokens.push(spelled);
            logprobs.token_logprobs.push(logprob);
            logprobs.top_logprobs.push(logprob.map(|_| self.ranked(&top)));
            if let Some(offset) = self.offsets.get_mut(index) {
                logprobs.text_offset.push(*offset);
                *offset += n_characters(&bytes);
            }
        }
        logprobs
    }

    fn ranked(&self, top: &[(u32, f32)]) -> Ranking {
        Ranking(top.iter().map(|(token, logprob)| (self.tokenizer.spelling_of(*token).0, *logprob)).collect())
    }
}

/// How many characters begin in these bytes.
fn n_characters(bytes: &[u8]) -> usize {
    const CONTINUATION: u8 = 0b1000_0000;
    bytes.iter().filter(|byte| *byte & 0b1100_0000 != CONTINUATION).count()
}

impl Shape for Text {
    type Choice = CompletionChoice;

    fn opening(&mut self, _: usize) -> Option<CompletionChoice> {
        None
    }

    fn delta(&mut self, index: usize, piece: Piece) -> CompletionChoice {
        self.choice(index, piece)
    }

    fn whole(&mut self, index: usize, piece: Piece) -> CompletionChoice {
        self.choice(index, piece)
    }

    fn body(&self, _: bool, choices: Vec<CompletionChoice>, usage: UsageField) -> impl Serialize {
        self.head.body("text_completion", choices, usage)
    }

    fn tells_tokens(&self) -> bool {
        self.tells_logprobs
    }
}
