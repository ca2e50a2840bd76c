//! The OpenAI-compatible HTTP API.
//!
//! In reading order: [`types`] is the JSON, [`error`] every failure as an answer, [`app`] what handlers share,
//! `extract` a request's body, `generate` what both kinds of generation have in common, `completions` and `chat` what
//! they have not, the other endpoints by name, `middleware` what happens around all of them, where `followed` is what is
//! logged and counted, and [`serve`] the connections. `openapi` describes it all, and `aside` is where slow work is done.
//!
//! Absent on purpose: HTTP/2 and TLS, which belong to the proxy in front.

pub mod app;
mod aside;
mod chat;
mod completions;
pub mod error;
mod extract;
mod followed;
mod generate;
mod middleware;
mod models;
mod openapi;
mod owed;
mod probes;
pub mod serve;
mod sse;
mod tokens;
pub mod types;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};

use app::App;
use error::ApiError;

/// Every route; `/metrics` only where it has no port of its own.
fn router(app: App) -> Router {
    let generating = Router::new()
        .route("/v1/completions", post(completions::complete))
        .route("/v1/chat/completions", post(chat::complete));
    let routes = middleware::refusing(generating)
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/health", get(probes::health))
        .route("/health/live", get(probes::live))
        .route("/health/ready", get(probes::ready))
        .route("/openapi.json", get(openapi::show));
    let routes = if app.settings().has_metrics_port { routes } else { routes.merge(metrics()) };
    middleware::around(with_fallbacks(routes), &app).with_state(app)
}

/// The routes of the port for metrics, which asks for no key.
fn metrics_router(app: App) -> Router {
    middleware::observed(with_fallbacks(metrics())).with_state(app)
}

fn metrics() -> Router<App> {
    Router::new().route("/metrics", get(probes::metrics))
}

fn with_fallbacks(routes: Router<App>) -> Router<App> {
    routes.fallback(unknown_route).method_not_allowed_fallback(wrong_method)
}

async fn unknown_route() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        Some("not_found"),
        "there is no such route: see the README for those there are",
    )
}

async fn wrong_method() -> ApiError {
    let message = "this route takes another method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), message)
}
