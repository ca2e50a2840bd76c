//! Server-sent events: `data:` lines and nothing else.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::timeout;

/// Silence that is broken by a comment, so that nothing between here and the client hangs up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment, which clients skip.
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The last event.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event: JSON on one line.
pub(super) fn event(data: &impl Serialize) -> Bytes {
    // The types of the API have nothing that JSON can't hold.
    let json = serde_json::to_string(data).unwrap_or_default();
    format!("data: {json}\n\n").into()
}

/// A stream of events. Dropping it drops what it is made from.
pub(super) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Body::from_stream(kept_alive(events).map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold events back
    response
}

/// The events, with a comment wherever they are silent for long.
fn kept_alive(events: impl Stream<Item = Bytes> + Send + 'static) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(events.boxed(), |mut events| async {
        let next = timeout(KEEP_ALIVE, events.next()).await.unwrap_or(Some(COMMENT))?;
        Some((next, events))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_comment_breaks_silence_and_nothing_is_lost() {
        let events = stream::iter([14, 31, 0]).then(|seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            event(&seconds)
        });
        let sent: Vec<Bytes> = kept_alive(events).collect().await;
        assert_eq!(sent, [event(&14), COMMENT, COMMENT, event(&31), event(&0)]);
    }
}
