//! A request's body: JSON of a known shape, within a bound of bytes and time.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::app::{App, InFlight};
use super::aside::aside;
use super::error::{ApiError, Stage};
use super::types::Object;
use crate::metrics::IGNORED_FIELDS;

/// So many fields that are not known are named in the log, each once, and so many characters of each.
const MOST_NAMED: usize = 256;
const LONGEST_NAME: usize = 64;

/// A larger body is read on a thread of its own, so that those that serve connections go on.
const MOST_BYTES_AT_ONCE: usize = 64 << 10;

/// Fields of OpenAI's and vLLM's APIs that would change the answer, but for those of the request types.
const UNSUPPORTED: [&str; 27] = [
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "include_stop_str_in_output",
    "length_penalty",
    "logits_processors",
    "mm_processor_kwargs",
    "prediction",
    "prompt_embeds",
    "prompt_logprobs",
    "reasoning_effort",
    "response_format",
    "return_token_ids",
    "stop_token_ids",
    "structured_outputs",
    "thinking",
    "truncate_prompt_tokens",
    "use_beam_search",
    "web_search_options",
];

/// A body has to be there in this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Which unknown fields were named in the log.
#[derive(Debug, Default)]
pub(super) struct Named(Mutex<HashSet<String>>);

impl Named {
    /// Names those that were not named before.
    fn name(&self, fields: &[String]) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for field in fields {
            let field: String = field.chars().take(LONGEST_NAME).collect();
            if named.len() < MOST_NAMED && named.insert(field.clone()) {
                tracing::info!(field, "requests have a field that is not known: it is ignored");
            }
        }
    }
}

/// The body of a request, read as JSON, whose bytes count as long as the second part is held. Fields that it does not
/// know are ignored, counted and named in the log once.
pub(super) struct Json<T>(pub(super) T, pub(super) InFlight);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        check_type(request.headers())?;
        let (limit, mut in_flight) = (app.settings().body_limit, app.body_in_flight());
        let read = timeout(BODY_TIMEOUT, read(request.into_body(), limit, &mut in_flight)).await;
        let bytes = read.unwrap_or_else(|_| Err(too_slow())).map_err(|error| error.at(Stage::Arriving))?;
        let (value, ignored) = aside(bytes.len(), MOST_BYTES_AT_ONCE, move || {
            let (value, ignored) = parse(&bytes)?;
            refuse_unsupported(&bytes, &ignored)?;
            Ok::<_, ApiError>((value, ignored))
        })
        .await??;
        if !ignored.is_empty() {
            IGNORED_FIELDS.add(ignored.len() as u64, Vec::new());
            app.named().name(&ignored);
        }
        Ok(Self(value, in_flight))
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    let message = format!("expected a body of Content-Type application/json, found {found}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_media_type"), message))
}

async fn read(mut body: Body, limit: usize, in_flight: &mut InFlight) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let broke_off = |error| ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body broke off: {error}"));
        let Ok(data) = frame.map_err(broke_off)?.into_data() else { continue }; // trailers
        if data.len() > limit - bytes.len() {
            let message = format!("the body is larger than the {limit} bytes that --body-limit allows");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large"), message));
        }
        in_flight.grow(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_slow() -> ApiError {
    let message = format!("the body was not there after {} s", BODY_TIMEOUT.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, Some("request_timeout"), message)
}

/// The value in `bytes`, and the fields that it does not know. An error names the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), ApiError> {
    let mut ignored = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| ignored.push(path.to_string()));
    let Object(value) = parsed.map_err(|error| misread(&track.path().to_string(), &error))?;
    json.end().map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body goes on behind its JSON: {error}"))
    })?;
    Ok((value, ignored))
}

/// Refuses fields among the `ignored` ones that would change the answer, unless they ask for nothing.
fn refuse_unsupported(json: &[u8], ignored: &[String]) -> Result<(), ApiError> {
    if !ignored.iter().any(|field| UNSUPPORTED.contains(&field.as_str())) {
        return Ok(());
    }
    let fields: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
    let asks = UNSUPPORTED.into_iter().find(|field| fields.get(*field).is_some_and(asks_for_something));
    match asks {
        Some(param) => Err(ApiError::invalid(param, format!("{param}: this is not supported: leave it out"))),
        None => Ok(()),
    }
}

fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The error of a value at `path` that can't be read, which names the parameter where there is one.
fn misread(path: &str, error: &serde_json::Error) -> ApiError {
    let reason = error.to_string();
    let is_of_value = error.is_data() || reason.starts_with("number out of range");
    if is_of_value && path != "." {
        return ApiError::invalid(root(path), format!("{path}: {reason}"));
    }
    let message = format!("the body is not what is expected here: {reason}");
    ApiError { param: field(&reason), ..ApiError::new(StatusCode::BAD_REQUEST, None, message) }
}

/// The parameter that a path such as `messages[0].role` begins with.
fn root(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

/// The field that is missing or there twice, in serde's words.
fn field(reason: &str) -> Option<String> {
    let rest = ["missing field `", "duplicate field `"].iter().find_map(|start| reason.strip_prefix(start))?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use futures_util::stream;

    use super::super::app::Settings;
    use super::*;
    use crate::metrics::Exposition;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let settings = Settings {
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            has_metrics_port: false,
            logs_prompts: false,
            body_limit: 100,
            queue_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
        };
        let app = App::new(settings, Exposition::install().unwrap());
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::builder().header("content-type", "application/json").body(silent).unwrap();
        let Err(error) = Json::<Object<Value>>::from_request(request, &app).await else { panic!("it was read") };
        assert_eq!((error.status, error.code), (StatusCode::REQUEST_TIMEOUT, Some("request_timeout")));
    }
}
