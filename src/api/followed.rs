//! A request from its arrival to the last byte of its answer: counted once, and logged in one line without any of its
//! text.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

use crate::metrics::HTTP_REQUESTS;
use crate::traces;

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What stands for the status where the client had gone before there was one, as proxies have it.
const GONE: u16 = 499;

/// One request. It is logged when it is dropped, which is when its answer is over or nobody waits for it.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) span: Span,
    began: Instant,
    method: &'static str,
    route: String,
    status: Option<u16>,
    /// Whether the client was told everything.
    is_whole: bool,
}

impl Followed {
    pub(super) fn new(request: &Request, id: &HeaderValue) -> Self {
        let parent = request.headers().get(TRACE_PARENT).and_then(|value| value.to_str().ok());
        let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default(), traceparent = parent);
        if let Some(parent) = parent {
            traces::join(&span, parent);
        }
        Self {
            span,
            began: Instant::now(),
            method: known(request.method()),
            route: request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned(),
            status: None,
            is_whole: false,
        }
    }

    /// Its answer begins.
    pub(super) fn answer(&mut self, status: u16) {
        self.status = Some(status);
        self.count(status);
    }

    fn count(&self, status: u16) {
        let labels =
            vec![("route", self.route.clone()), ("method", self.method.into()), ("status", status.to_string())];
        HTTP_REQUESTS.add(1, labels);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.count(GONE);
        }
        let (method, route, status) = (self.method, &self.route, self.status.unwrap_or(GONE));
        let (seconds, end) =
            (self.began.elapsed().as_secs_f64(), if self.is_whole { "answered" } else { "broken off" });
        traces::describe(&self.span, method, route, status);
        self.span.in_scope(|| tracing::info!(method, route, status, seconds, "{end}"));
    }
}

/// The method as a label: callers can make up any number of others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// An answer's body, with the request that it belongs to.
pub(super) struct Told {
    pub(super) body: Body,
    pub(super) followed: Followed,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.followed.is_whole |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.followed.is_whole |= self.body.is_end_stream();
    }
}
