//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, as vLLM has them.

use axum::Json as Answer;
use axum::extract::State;
use serde_json::{Value, json};

use super::app::{App, Served};
use super::error::ApiError;
use super::extract::Json;
use super::types::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized};
use crate::error::Error;

pub(super) async fn tokenize(
    State(app): State<App>,
    Json(request): Json<TokenizeRequest>,
) -> Result<Answer<Tokenized>, ApiError> {
    let TokenizeRequest { prompt, add_special_tokens, model } = request;
    app.served()?.check_model(model.as_deref())?;
    let (tokens, max_model_len) = with_served(&app, move |served| {
        let tokens = served.tokenizer.encode(&prompt, add_special_tokens.unwrap_or(true))?;
        Ok((tokens, served.config.max_seq_len))
    })
    .await?;
    Ok(Answer(Tokenized { count: tokens.len(), tokens, max_model_len }))
}

pub(super) async fn detokenize(
    State(app): State<App>,
    Json(request): Json<DetokenizeRequest>,
) -> Result<Answer<Detokenized>, ApiError> {
    let DetokenizeRequest { tokens, model } = request;
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token.0).collect();
    let served = app.served()?;
    served.check_model(model.as_deref())?;
    if let Some(token) = tokens.iter().find(|token| **token as usize >= served.config.vocab_size) {
        let size = served.config.vocab_size;
        return Err(ApiError::invalid("tokens", format!("tokens: {token} is not below the vocabulary's size {size}")));
    }
    let prompt = with_served(&app, move |served| Ok(served.tokenizer.decode(&tokens))).await?;
    Ok(Answer(Detokenized { prompt }))
}

pub(super) async fn info(State(app): State<App>) -> Result<Answer<Value>, ApiError> {
    let served = app.served()?;
    let end = served.tokenizer.end_of_text();
    let spelled = |id: &u32| served.tokenizer.spelling_of(*id).0;
    Ok(Answer(json!({
        "eos_token": end.first().map(spelled),
        "eos_token_ids": end,
        "vocab_size": served.config.vocab_size,
        "max_model_len": served.config.max_seq_len,
    })))
}

/// Runs `work` where it may take its time: off the threads that answer.
pub(super) async fn with_served<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Served) -> Result<T, Error> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let done = tokio::task::spawn_blocking(move || work(app.served()?).map_err(ApiError::from)).await;
    done.unwrap_or_else(|_| Err(Error::Internal("a task that reads a prompt panicked".into()).into()))
}
