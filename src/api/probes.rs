//! Health and metrics: what supervisors, balancers and Prometheus ask. None of them waits for the loop.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::app::{App, Status};

/// Whether requests are answered.
pub(super) async fn health(State(app): State<App>) -> Response {
    let status = app.status();
    // A queue that is full now says nothing against the server.
    answer(status, matches!(status, Status::Ready | Status::Busy))
}

/// Whether a new request would be taken in.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let status = app.status();
    answer(status, status == Status::Ready)
}

/// Whether the process turns.
pub(super) async fn live() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// All metrics as Prometheus text.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut response = app.exposition().render().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn answer(status: Status, is_good: bool) -> Response {
    let name = match status {
        Status::Ready => "ok",
        Status::Busy if is_good => "ok",
        Status::Busy => "busy",
        Status::Loading => "loading",
        Status::Draining => "draining",
        Status::Stalled => "stalled",
    };
    let code = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({"status": name}))).into_response()
}
