//! Health and metrics: what supervisors, balancers and Prometheus ask. None of them waits for the loop.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::app::{App, Status};
use super::openapi::Common;
use super::types::Health;

/// Whether requests are answered.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn health(State(app): State<App>) -> Response {
    let status = app.status();
    // A queue that is full now says nothing against the server.
    answer(status, matches!(status, Status::Ready | Status::Busy))
}

/// Whether a new request would be taken in.
#[utoipa::path(get, path = "/health/ready", responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let status = app.status();
    answer(status, status == Status::Ready)
}

/// Whether the process turns.
#[utoipa::path(get, path = "/health/live", responses((status = 200, body = Health)))]
pub(super) async fn live() -> Response {
    Json(Health { status: "ok" }).into_response()
}

/// All metrics as Prometheus text.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain"), Common))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut response = app.metrics().into_response();
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
    (code, Json(Health { status: name })).into_response()
}
