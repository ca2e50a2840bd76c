//! Server-sent events: `data:` lines and nothing else.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Silence that is broken by a comment, so that nothing between here and the client hangs up.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment, which clients skip.
pub(super) const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The last event.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event: JSON on one line.
pub(super) fn event(data: &impl Serialize) -> Bytes {
    // The types of the API have nothing that JSON can't hold.
    let json = serde_json::to_string(data).unwrap_or_default();
    format!("data: {json}\n\n").into()
}

/// A stream of events. Dropping it drops what it is made from.
pub(super) fn response<S>(events: S) -> Response
where
    S: futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
{
    let mut response = axum::body::Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold events back
    response
}
