//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, as vLLM has them.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::aside::with_served;
use super::error::ApiError;
use super::extract::Json;
use super::openapi::{Common, Refused};
use super::types::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized, TokenizerInfo};

/// Turns text into token ids.
#[utoipa::path(
    post,
    path = "/tokenize",
    request_body = TokenizeRequest,
    responses((status = 200, body = Tokenized), Refused)
)]
pub(super) async fn tokenize(
    State(app): State<App>,
    Json(request, in_flight): Json<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let TokenizeRequest { prompt, add_special_tokens, model } = request;
    app.served()?.check_model(model.as_deref())?;
    let (_turn, _in_flight) = (app.tokenizing().lock().await, in_flight);
    with_served(&app, move |served| {
        let tokens = served.tokenizer.encode(&prompt, add_special_tokens.unwrap_or(true))?;
        let (count, max_model_len) = (tokens.len(), served.config.max_seq_len);
        Ok(Answer(Tokenized { tokens, count, max_model_len }).into_response()) // written here: it may be large
    })
    .await
}

/// Turns token ids into text.
#[utoipa::path(
    post,
    path = "/detokenize",
    request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized), Refused)
)]
pub(super) async fn detokenize(
    State(app): State<App>,
    Json(request, in_flight): Json<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let DetokenizeRequest { tokens, model } = request;
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token.0).collect();
    let served = app.served()?;
    served.check_model(model.as_deref())?;
    if let Some(token) = tokens.iter().find(|token| **token as usize >= served.config.vocab_size) {
        let size = served.config.vocab_size;
        return Err(ApiError::invalid("tokens", format!("tokens: {token} is not below the vocabulary's size {size}")));
    }
    let (_turn, _in_flight) = (app.tokenizing().lock().await, in_flight);
    with_served(&app, move |served| {
        let prompt = served.tokenizer.decode_with_special(&tokens)?;
        Ok(Answer(Detokenized { prompt }).into_response())
    })
    .await
}

/// What the tokenizer has.
#[utoipa::path(get, path = "/tokenizer_info", operation_id = "tokenizer_info", responses((status = 200, body = TokenizerInfo), Common))]
pub(super) async fn info(State(app): State<App>) -> Result<Answer<TokenizerInfo>, ApiError> {
    let served = app.served()?;
    Ok(Answer(TokenizerInfo {
        eos_token: served.tokenizer.eos_token().map(|id| served.tokenizer.spelling_of(id).0),
        eos_token_ids: served.tokenizer.end_of_text().to_vec(),
        vocab_size: served.config.vocab_size,
        max_model_len: served.config.max_seq_len,
    }))
}
