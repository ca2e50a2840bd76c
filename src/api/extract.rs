//! A request's body: JSON of a known shape, within a bound of bytes and time.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::app::App;
use super::aside::aside;
use super::error::ApiError;
use super::types::Object;
use crate::metrics::IGNORED_FIELDS;

/// So many fields that are not known are named in the log, each once, and so many characters of each.
const MOST_NAMED: usize = 256;
const LONGEST_NAME: usize = 64;

/// A larger body is read on a thread of its own, so that those that serve connections go on.
const MOST_BYTES_AT_ONCE: usize = 64 << 10;

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

/// The body of a request, read as JSON. Fields that it does not know are ignored, counted and named in the log once.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        check_type(request.headers())?;
        let limit = app.settings().body_limit;
        let read = timeout(BODY_TIMEOUT, read(request.into_body(), limit)).await;
        let bytes = read.unwrap_or_else(|_| Err(too_slow()))?;
        let (value, ignored) = aside(bytes.len(), MOST_BYTES_AT_ONCE, move || parse(&bytes)).await??;
        if !ignored.is_empty() {
            IGNORED_FIELDS.add(ignored.len() as u64, Vec::new());
            app.named().name(&ignored);
        }
        Ok(Self(value))
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

async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, limit).collect().await;
    collected.map(Collected::to_bytes).map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            let message = format!("the body is larger than the {limit} bytes that --body-limit allows");
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large"), message);
        }
        ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body broke off: {error}"))
    })
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
    let Object(value) = parsed.map_err(|error: serde_json::Error| {
        let path = track.path().to_string();
        let message = format!("the body is not what is expected here: {error}");
        match error.classify() {
            serde_json::error::Category::Data if path != "." => {
                ApiError::invalid(root(&path), format!("{path}: {error}"))
            }
            _ => ApiError::new(StatusCode::BAD_REQUEST, None, message),
        }
    })?;
    json.end().map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body goes on behind its JSON: {error}"))
    })?;
    Ok((value, ignored))
}

/// The parameter that a path such as `messages[0].role` begins with.
fn root(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}
