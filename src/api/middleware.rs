//! What happens around every handler. From the outside in: a request gets its id, is logged and counted; a panic becomes
//! a 500; pages from elsewhere are let in or not; and whoever has no key is turned away.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use super::app::{App, Settings};
use super::error::{ApiError, Refusal, SHOULD_RETRY};
use super::followed::{Followed, Told};
use super::owed::Connection;
use crate::metrics::REJECTED;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers that go out before the body is looked at: the connection can't be used again, and the client has to know.
const LEAVES_BODY: [u16; 4] = [401, 404, 405, 415];

/// A longer id of a caller's is not taken over.
const LONGEST_ID: usize = 128;

/// The routes with everything around them.
pub(super) fn around(routes: Router<App>, app: &App) -> Router<App> {
    let routes = caught(routes.layer(from_fn_with_state(app.clone(), authenticate)));
    let routes = match cors(app.settings()) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    observed(routes)
}

/// The routes with every request counted and logged.
pub(super) fn observed<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(from_fn(observe))
}

/// The routes with panics as answers.
fn caught<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(CatchPanicLayer::custom(panicked))
}

/// The routes with those requests counted that the server doesn't begin.
pub(super) fn refusing<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(map_response(async |response: Response| {
        if let Some(Refusal(reason)) = response.extensions().get() {
            REJECTED.add(1, vec![("reason", (*reason).into())]);
        }
        response
    }))
}

/// Gives the request an id, and follows it to the end of its answer.
async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let mut followed = Followed::new(&request, &id);
    let span = followed.span.clone();
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let owes = |is_owing| connection.iter().for_each(|connection| connection.set_owing(is_owing));
    let has_body = !request.body().is_end_stream();
    owes(false);
    let mut response = next.run(request).instrument(span).await;
    owes(true);
    let status = response.status().as_u16();
    followed.answer(status);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if has_body && LEAVES_BODY.contains(&status) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Told { body, followed }))
}

/// The caller's own id where it is printable, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let is_printable =
        |id: &&HeaderValue| (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let own = request.headers().get(REQUEST_ID).filter(is_printable).cloned();
    own.or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok())
        .unwrap_or_else(|| HeaderValue::from_static("unknown"))
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, None, "the server failed on this request").into_response()
}

fn cors(settings: &Settings) -> Option<CorsLayer> {
    let origins = settings.cors_origins.clone();
    if origins.is_empty() {
        return None;
    }
    let is_open = origins.iter().any(|origin| origin == "*");
    let origin = if is_open { AllowOrigin::any() } else { AllowOrigin::list(origins) };
    let headers = AllowHeaders::mirror_request(); // `*` would not cover Authorization
    let cors = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]).allow_headers(headers);
    Some(cors.expose_headers([REQUEST_ID, header::RETRY_AFTER, SHOULD_RETRY]))
}

/// Turns away whoever has no key. Health is nobody's secret.
async fn authenticate(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_open = request.uri().path() == "/health" || request.uri().path().starts_with("/health/");
    if is_open || has_key(app.settings(), &request) {
        return next.run(request).await;
    }
    let message = "expected the header Authorization: Bearer KEY with a key that the server knows";
    ApiError::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message).into_response()
}

fn has_key(settings: &Settings, request: &Request) -> bool {
    if settings.api_keys.is_empty() {
        return true;
    }
    let found = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    let Some((scheme, key)) = found.split_at_checked("bearer ".len()) else { return false };
    // Every key is looked at, so that the time does not tell which one was nearly right.
    scheme.eq_ignore_ascii_case(b"bearer ")
        && settings.api_keys.iter().fold(false, |found, known| found | known.is(key.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    async fn broken() -> &'static str {
        panic!("for this test")
    }

    #[tokio::test]
    async fn a_panic_is_a_500_that_is_not_to_be_repeated() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let routes = observed(caught(Router::new().route("/", get(broken))));
        tokio::spawn(async { axum::serve(listener, routes).await });
        for _ in 0..2 {
            let response = reqwest::get(&url).await.unwrap();
            assert_eq!(response.status().as_u16(), 500);
            assert_eq!(response.headers()[SHOULD_RETRY.as_str()], "false");
            assert!(response.headers().contains_key(REQUEST_ID.as_str()));
            let Value::Object(envelope) = response.json().await.unwrap() else { panic!("no envelope") };
            let error = &envelope["error"];
            let parts = (&error["type"], &error["param"], &error["code"]);
            assert_eq!(parts, (&json!("server_error"), &Value::Null, &Value::Null));
            assert!(error["message"].is_string());
        }
    }
}
