//! `GET /openapi.json`: the API as [OpenAPI](https://spec.openapis.org/oas/v3.1.0), made from the types of [`super::types`].
//!
//! What a type can't say is added here: which fields depend on which others, and what depends on the model and the keys.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::app::App;
use super::error::{Envelope, ErrorBody};
use super::types::TextPart;
use super::{chat, completions, models, probes, tokens};

/// Marks the numbers that have to be below the vocabulary's size.
const TOKEN_ID: &str = "token-id";

#[derive(OpenApi)]
#[openapi(
    info(title = "blazr", description = "Hybrid language models behind the OpenAI API."),
    paths(
        completions::complete,
        chat::complete,
        models::list,
        models::show,
        tokens::tokenize,
        tokens::detokenize,
        tokens::info,
        probes::health,
        probes::live,
        probes::ready,
        probes::metrics,
        show
    ),
    components(schemas(Envelope, ErrorBody, TextPart))
)]
struct Routes;

/// The document itself.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", responses((status = 200, body = Value), Common))]
pub(super) async fn show(State(app): State<App>) -> Json<Value> {
    Json(document(&app))
}

fn document(app: &App) -> Value {
    let has_keys = !app.settings().api_keys.is_empty();
    let mut described = described(has_keys);
    if app.settings().has_metrics_port {
        described.paths.paths.shift_remove("/metrics");
    }
    let mut document = serde_json::to_value(described).unwrap_or_default();
    for (request, conditions) in conditions() {
        if let Some(schema) = document.pointer_mut(&format!("/components/schemas/{request}")) {
            schema["allOf"] = conditions;
        }
    }
    if let Ok(served) = app.served() {
        bound_token_ids(&mut document, served.config.vocab_size);
    }
    document
}

/// The document without what [`document`] adds. Where nobody needs a key, none is asked for.
fn described(has_keys: bool) -> Document {
    let mut document = Routes::openapi();
    for (path, item) in &mut document.paths.paths {
        let is_open = path == "/health" || path.starts_with("/health/");
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            if !has_keys || is_open {
                operation.responses.responses.remove("401");
            } else {
                operation.security = Some(vec![utoipa::openapi::SecurityRequirement::new("key", [""; 0])]);
            }
        }
    }
    if has_keys {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
    document
}

/// What has to hold between the fields of a request.
fn conditions() -> [(&'static str, Value); 2] {
    let stream_options = needs("stream_options", &json!({"type": "null"}), "stream");
    let top_logprobs = needs("top_logprobs", &json!({"type": "null"}), "logprobs");
    let max_tokens = needs("max_tokens", &json!({"type": ["integer", "null"], "minimum": 1}), "echo");
    let both = [stream_options, json!({"anyOf": best_of()})];
    let with = |own: Value| Value::Array(both.iter().cloned().chain([own]).collect());
    [("CompletionRequest", with(max_tokens)), ("ChatRequest", with(top_logprobs))]
}

/// A schema: where `field` is anything but `harmless`, `other` is true.
fn needs(field: &str, harmless: &Value, other: &str) -> Value {
    let is_true = json!({"required": [other], "properties": {other: {"const": true}}});
    json!({"anyOf": [{"properties": {field: harmless}}, is_true]})
}

/// Schemas: `best_of` is null, or 1 as `n` is. (That it may be any other `n` too, generators of cases can't make use of.)
fn best_of() -> Value {
    let is_null = json!({"properties": {"best_of": {"type": "null"}}});
    json!([is_null, {"properties": {"best_of": {"const": 1}, "n": {"enum": [1, null]}}}])
}

/// Bounds every token id, be it a number or the name of a key.
fn bound_token_ids(schema: &mut Value, vocab_size: usize) {
    let most = vocab_size.saturating_sub(1);
    match schema {
        Value::Object(keys) => {
            if keys.get("format").is_some_and(|format| format == TOKEN_ID) {
                if keys.get("type").is_some_and(|kind| kind == "string") {
                    keys.insert("pattern".into(), json!(at_most(most)));
                } else {
                    keys.insert("maximum".into(), json!(most));
                }
            }
            keys.values_mut().for_each(|value| bound_token_ids(value, vocab_size));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| bound_token_ids(value, vocab_size)),
        _ => {}
    }
}

/// A regular expression for the whole numbers from 0 to `most`.
fn at_most(most: usize) -> String {
    let digits = most.to_string();
    let smaller_at = |at: usize, digit: char| {
        let (least, smaller) = (u32::from(at == 0), digit.to_digit(10)?.checked_sub(1)?);
        (smaller >= least).then_some(())?;
        Some(format!("{}[{least}-{smaller}][0-9]{{{}}}", digits.get(..at)?, digits.len() - at - 1))
    };
    let same_length = digits.char_indices().filter_map(|(at, digit)| smaller_at(at, digit));
    let shorter = (digits.len() > 1).then(|| format!("0|[1-9][0-9]{{0,{}}}", digits.len() - 2));
    let all: Vec<String> = std::iter::once(digits.clone()).chain(shorter).chain(same_length).collect();
    format!("^({})$", all.join("|"))
}

// --------------------------------------------------------------------------- schemas by hand

fn text(min: usize, max: Option<usize>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(max)
}

/// A token id.
fn token_id() -> RefOr<Schema> {
    let id = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    RefOr::T(id.format(Some(SchemaFormat::Custom(TOKEN_ID.into()))).into())
}

fn several(items: impl Into<RefOr<Schema>>, max: usize) -> ArrayBuilder {
    ArrayBuilder::new().items(items.into()).min_items(Some(1)).max_items(Some(max))
}

/// A text as token ids.
pub(super) fn token_ids() -> Schema {
    ArrayBuilder::new().items(token_id()).into()
}

/// What a completion continues.
pub(super) fn prompt() -> Schema {
    let ids = || ArrayBuilder::new().items(token_id()).min_items(Some(1));
    let forms = AnyOfBuilder::new().item(text(1, None)).item(several(text(1, None), completions::MOST_PROMPTS));
    forms.item(ids()).item(several(Schema::from(ids()), completions::MOST_PROMPTS)).into()
}

/// What is said in a turn.
pub(super) fn content() -> Schema {
    let parts = ArrayBuilder::new().items(Ref::from_schema_name(TextPart::name()));
    AnyOfBuilder::new().item(text(0, None)).item(parts).item(null()).into()
}

/// Up to 16 texts before which an answer ends.
pub(super) fn stop() -> Schema {
    let one = || text(1, Some(1024));
    let many = ArrayBuilder::new().items(one()).max_items(Some(16));
    AnyOfBuilder::new().item(one()).item(many).item(null()).into()
}

/// Token ids and what to add to their logits.
pub(super) fn logit_bias() -> Schema {
    let bias = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let key = text(1, None).pattern(Some("^[0-9]+$")).format(Some(SchemaFormat::Custom(TOKEN_ID.into())));
    let object = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .property_names(Some(Schema::from(key)))
        .additional_properties(Some(RefOr::T(Schema::from(bias))));
    object.into()
}

/// Nothing at all.
pub(super) fn null() -> Schema {
    ObjectBuilder::new().schema_type(Type::Null).into()
}

// --------------------------------------------------------------------------- answers

/// What any request may be answered.
pub(super) struct Common;

/// What a request for a model may be answered besides.
pub(super) struct UnknownModel;

/// What a request with a body may be answered besides.
pub(super) struct Refused;

/// What a request for a generation may be answered besides.
pub(super) struct Overloaded;

impl IntoResponses for Common {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        failures(&[("401", "no key that the server knows"), ("500", "the server failed"), ("503", "loading or ending")])
    }
}

impl IntoResponses for UnknownModel {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        failures(&[("400", "the id is no text"), ("404", "no such model")])
    }
}

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut failures = failures(&[
            ("400", "something can't be honoured: `param` names it"),
            ("404", "no such model"),
            ("408", "the body took too long"),
            ("413", "the body is too large"),
            ("415", "the body is no JSON"),
        ]);
        failures.extend(Common::responses());
        failures
    }
}

impl IntoResponses for Overloaded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        failures(&[("429", "the queue is full: see `Retry-After`"), ("504", "longer than `--request-timeout`")])
    }
}

fn failures(statuses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let failure = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Envelope::name()))).build();
        RefOr::T(ResponseBuilder::new().description(description).content("application/json", content).build())
    };
    statuses.iter().map(|(status, description)| ((*status).to_owned(), failure(description))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_bounded_by_a_pattern() {
        assert_eq!(at_most(2047), "^(2047|0|[1-9][0-9]{0,2}|[1-1][0-9]{3}|20[0-3][0-9]{1}|204[0-6][0-9]{0})$");
        assert_eq!(at_most(0), "^(0)$");
        assert_eq!(at_most(100), "^(100|0|[1-9][0-9]{0,1})$");
    }
}
