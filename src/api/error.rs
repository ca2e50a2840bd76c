//! Every failure as the API has it: a status and an envelope, from one place.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, Timeout, Unavailable};

/// A request whose repetition can't help is marked so for the SDKs.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// When a client is told to come back while the model is loading or the server is being replaced.
const SOON_SECONDS: u64 = 1;

/// What a request is answered that can't be done.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong and what to do.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// What went wrong, for programs.
    pub code: Option<&'static str>,
    /// When to come back.
    pub retry_after_seconds: Option<u64>,
    /// How far the request had come.
    pub stage: Stage,
}

/// How far a request had come when it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its body was not read to the end: what follows on the connection can't be told from it.
    Arriving,
    /// Nothing was generated yet.
    #[default]
    Waiting,
    /// The loop worked on it.
    Begun,
}

/// Why a request was not begun, beside the answer to it, for whoever counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal(pub(super) &'static str);

/// The body: `{"error": {…}}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Envelope {
    error: ErrorBody,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    message: String,
    r#type: &'static str,
    #[schema(required)]
    param: Option<String>,
    #[schema(required)]
    code: Option<&'static str>,
}

impl ApiError {
    /// A failure without a parameter.
    pub fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code, retry_after_seconds: None, stage: Stage::default() }
    }

    /// A value of `param` that can't be honoured.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    /// A model that is not served here.
    pub fn unknown_model(asked: &str, served: &str) -> Self {
        let message = format!("the model {asked:?} is not served here: ask for {served:?}");
        Self { param: Some("model".into()), ..Self::new(StatusCode::NOT_FOUND, Some("model_not_found"), message) }
    }

    /// The same of a request that had come so far.
    pub fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// Why the request was not begun, where that is the server's fault.
    fn refusal(&self) -> Option<Refusal> {
        let reason = match (self.status, self.code) {
            (StatusCode::TOO_MANY_REQUESTS, _) => "queue_full",
            (StatusCode::GATEWAY_TIMEOUT, _) | (_, Some("queue_timeout")) => "queue_timeout",
            (StatusCode::SERVICE_UNAVAILABLE, _) => "unavailable",
            _ => return None,
        };
        (self.stage != Stage::Begun).then_some(Refusal(reason))
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body.
    pub fn envelope(&self) -> Envelope {
        let Self { message, param, code, .. } = self.clone();
        Envelope { error: ErrorBody { message, r#type: self.kind(), param, code } }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid { param, .. } => Self::invalid(param, message),
            Error::ContextLength { param, .. } => Self {
                param: Some(param.into()),
                ..Self::new(StatusCode::BAD_REQUEST, Some("context_length_exceeded"), message)
            },
            Error::Overloaded { retry_after_seconds, .. } => Self {
                retry_after_seconds: Some(retry_after_seconds),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, Some("queue_full"), message)
            },
            Error::Timeout(Timeout::Queue) => Self::come_back("queue_timeout", message),
            Error::Timeout(Timeout::Request) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, Some("request_timeout"), message)
            }
            Error::Timeout(Timeout::Reader) => Self::new(StatusCode::GATEWAY_TIMEOUT, Some("slow_reader"), message),
            Error::Unavailable(Unavailable::Loading) => Self::come_back("model_loading", message),
            Error::Unavailable(Unavailable::Draining | Unavailable::Stalled | Unavailable::Dead) => {
                Self::come_back("shutting_down", message)
            }
            Error::NotFound { .. }
            | Error::Setting { .. }
            | Error::Checkpoint { .. }
            | Error::Hub { .. }
            | Error::Io { .. }
            | Error::Unsupported(_)
            | Error::Internal(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, message),
        }
    }
}

impl ApiError {
    fn come_back(code: &'static str, message: String) -> Self {
        Self {
            retry_after_seconds: Some(SOON_SECONDS),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some(code), message)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.envelope())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.stage == Stage::Arriving {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(refusal) = self.refusal() {
            response.extensions_mut().insert(refusal);
        }
        response
    }
}
