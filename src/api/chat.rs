//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::app::{App, Served};
use super::error::ApiError;
use super::extract::Json;
use super::generate::{Delivery, Head, Part, Shape, answer, max_tokens, options};
use super::openapi::{Overloaded, Refused};
use super::types::{
    Answer, AssistantMessage, ChatChoice, ChatLogprob, ChatLogprobs, ChatRequest, Delta, Message, ServerSentEvent,
    TokenLogprob, UsageField, Whole,
};
use crate::engine::event::Told;
use crate::engine::request::GenerateRequest;
use crate::error::Error;
use crate::text::Tokenizer;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "create_chat_completion",
    request_body = ChatRequest,
    responses(
        (
            status = 200,
            description = "The answer; with `stream`, chunks as server-sent events",
            content((Answer<ChatChoice> = "application/json"), (ServerSentEvent = "text/event-stream"))
        ),
        Refused,
        Overloaded
    )
)]
pub(super) async fn complete(
    State(app): State<App>,
    Json(request, in_flight): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let served = app.served()?;
    served.check_model(request.model.as_deref())?;
    let shared = request.shared();
    let delivery = Delivery::new(&shared)?;
    refuse_unsupported(&request)?;
    let mut options = options(&shared, &served.sampling)?;
    options.max_tokens = max_tokens(max_completion_tokens(&request)?);
    options.top_logprobs = top_logprobs(&request)?;
    let shape = Turn::new(served, options.top_logprobs);
    let messages = request.messages;
    if app.settings().logs_prompts {
        tracing::info!(?messages, "asked");
    }
    let read = move |served: &Served| {
        let request = GenerateRequest::new(encode(&messages, served)?, &options, &served.config);
        Ok(vec![request.map_err(|error| error.of_prompt("messages"))?])
    };
    answer(&app, read, in_flight, delivery, shape).await
}

/// Parameters that are known and can't be honoured.
fn refuse_unsupported(request: &ChatRequest) -> Result<(), ApiError> {
    let is_set = |value: &Option<Value>, harmless: &[Value]| {
        value.as_ref().is_some_and(|value| !value.is_null() && !harmless.contains(value))
    };
    let nothing = Value::Array(Vec::new());
    let text_format = serde_json::json!({"type": "text"});
    let text_only = serde_json::json!(["text"]);
    let unsupported = [
        ("tools", is_set(&request.tools, std::slice::from_ref(&nothing))),
        ("tool_choice", is_set(&request.tool_choice, &["none".into(), "auto".into()])),
        ("functions", is_set(&request.functions, &[nothing])),
        ("function_call", is_set(&request.function_call, &["none".into(), "auto".into()])),
        ("response_format", is_set(&request.response_format, &[text_format])),
        ("modalities", is_set(&request.modalities, &[text_only])),
        ("audio", is_set(&request.audio, &[])),
    ];
    match unsupported.into_iter().find(|(_, is_set)| *is_set) {
        Some((param, _)) => Err(ApiError::invalid(param, format!("{param}: this is not supported: leave it out"))),
        None => Ok(()),
    }
}

/// The newer of the two names comes first.
fn max_completion_tokens(request: &ChatRequest) -> Result<Option<Whole<usize>>, ApiError> {
    let both = [("max_completion_tokens", request.max_completion_tokens), ("max_tokens", request.max_tokens)];
    match both.iter().find(|(_, asked)| *asked == Some(Whole(0))) {
        Some((param, _)) => Err(ApiError::invalid(*param, format!("{param}: expected at least 1, found 0"))),
        None => Ok(request.max_completion_tokens.or(request.max_tokens)),
    }
}

fn top_logprobs(request: &ChatRequest) -> Result<Option<usize>, ApiError> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "top_logprobs: only possible with logprobs: true")),
        (false, None) => Ok(None),
        (true, asked) => Ok(Some(asked.map_or(0, |asked| asked.0))),
    }
}

/// The conversation as the model's template writes it, as token ids.
fn encode(messages: &[Message], served: &Served) -> Result<Vec<u32>, Error> {
    let (param, max_seq_len) = ("messages", served.config.max_seq_len);
    let template = served.template.as_ref().ok_or_else(|| {
        let message = "the model has no chat template: use /v1/completions, or start blazr with --chat-template FILE";
        Error::invalid(param, message)
    })?;
    if messages.len() > max_seq_len {
        // Each is a token or more, and to write so many down takes its time.
        return Err(Error::ContextLength { param, prompt_tokens: messages.len(), is_least: true, max_seq_len });
    }
    let to_value = |message| serde_json::to_value(message).map_err(|error| Error::Internal(error.to_string()));
    let messages: Vec<Value> = messages.iter().map(to_value).collect::<Result<_, _>>()?;
    let rendered = template.render(&messages, true, &Map::new())?;
    served.tokenizer.encode_chat(&rendered, max_seq_len)
}

/// Answers as an assistant's turn.
struct Turn {
    head: Head,
    tokenizer: Arc<Tokenizer>,
    top_logprobs: Option<usize>,
}

impl Turn {
    fn new(served: &Served, top_logprobs: Option<usize>) -> Self {
        Self { head: Head::new("chatcmpl", served), tokenizer: Arc::clone(&served.tokenizer), top_logprobs }
    }

    fn logprobs(&self, told: Vec<Told>) -> Option<ChatLogprobs> {
        self.top_logprobs?;
        let content = told.into_iter().filter(|told| self.tells(told)).map(|told| self.logprob(told)).collect();
        Some(ChatLogprobs { content, refusal: None })
    }

    fn logprob(&self, told: Told) -> ChatLogprob {
        let spelled = |token: u32, logprob: f32| {
            let (token, bytes) = self.tokenizer.spelling_of(token);
            TokenLogprob { token, logprob, bytes }
        };
        let top_logprobs = told.top.iter().map(|(token, logprob)| spelled(*token, *logprob)).collect();
        let chosen = spelled(told.token, told.logprob.unwrap_or_default());
        ChatLogprob { chosen: TokenLogprob { bytes: told.bytes, ..chosen }, top_logprobs }
    }
}

impl Shape for Turn {
    type Choice = ChatChoice;

    fn opening(&self, index: usize) -> Option<ChatChoice> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(ChatChoice { index, message: None, delta: Some(delta), logprobs: None, finish_reason: None })
    }

    fn delta(&self, index: usize, Part { piece, finish_reason }: Part) -> ChatChoice {
        let logprobs = if piece.told.is_empty() { None } else { self.logprobs(piece.told) };
        let delta = Delta { role: None, content: finish_reason.is_none().then_some(piece.text) };
        ChatChoice { index, message: None, delta: Some(delta), logprobs, finish_reason }
    }

    fn whole(&self, index: usize, Part { piece, finish_reason }: Part) -> ChatChoice {
        let message = AssistantMessage { role: "assistant", content: piece.text, refusal: None };
        let logprobs = self.logprobs(piece.told);
        ChatChoice { index, message: Some(message), delta: None, logprobs, finish_reason }
    }

    fn body(&self, is_chunk: bool, choices: Vec<ChatChoice>, usage: UsageField) -> impl Serialize {
        let object = if is_chunk { "chat.completion.chunk" } else { "chat.completion" };
        self.head.body(object, choices, usage)
    }

    /// What ends a text is no part of it.
    fn tells(&self, told: &Told) -> bool {
        self.top_logprobs.is_some() && !self.tokenizer.end_of_text().contains(&told.token)
    }
}
