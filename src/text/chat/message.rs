//! What a request brings, as a template expects it.

use minijinja::Value as Variable;
use serde_json::{Map, Number, Value, json};

use crate::error::{Error, Result};
use crate::text::control::ControlTokens;

/// The deepest nesting of what a request brings; JSON of more is refused when it is read.
const MAX_DEPTH: usize = 128;

/// The names under which the thoughts of a model are known; templates read the first or the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A text that no template has.
const NEEDLE: &str = "blazr0needle";

/// What a template takes as a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Text; parts are joined by line ends.
    Text,
    /// Text, or the list of its parts.
    Either,
    /// The list of its parts.
    Parts,
}

impl Content {
    /// Which it is, by what `render` makes of a message. A template that takes one kind alone loses the other, prints
    /// it as it is written in Python, or fails.
    pub(super) fn probe(render: impl Fn(&Value) -> Result<String>) -> Self {
        let render = |content: Value| render(&json!({"role": "user", "content": content})).ok();
        let found = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(NEEDLE));
        let text = render(json!(NEEDLE));
        let parts = render(json!([{"type": "text", "text": NEEDLE}]));
        match (found(&text), found(&parts)) {
            (false, true) => Self::Parts,
            (true, true) if text == parts => Self::Either,
            _ => Self::Text,
        }
    }

    /// `content` as the template takes it.
    fn fit(self, content: Value) -> Result<Value> {
        match (self, content) {
            (Self::Either | Self::Parts, Value::Array(parts)) => {
                parts.iter().try_for_each(|part| text_of(part).map(drop))?;
                Ok(parts.into())
            }
            (Self::Text, Value::Array(parts)) => {
                let texts: Vec<&str> = parts.iter().map(text_of).collect::<Result<_>>()?;
                Ok(texts.join("\n").into())
            }
            (Self::Parts, Value::String(text)) => Ok(json!([{"type": "text", "text": text}])),
            (_, content @ (Value::String(_) | Value::Null)) => Ok(content),
            (_, found) => {
                let found = kind(&found);
                let message = format!("content: expected a string, null or a list of text parts, found {found}");
                Err(Error::invalid("messages", message))
            }
        }
    }
}

/// The text of a part of a message's content.
fn text_of(part: &Value) -> Result<&str> {
    let is_text = part.get("type").is_some_and(|kind| kind == "text");
    let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
    text.ok_or_else(|| {
        let found = part.get("type").and_then(Value::as_str).unwrap_or(kind(part));
        let message = format!("content: expected parts with the type \"text\" and a text, found {found:.40}");
        Error::invalid("messages", message)
    })
}

/// What `value` is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A request's message as the template takes it: without keys that are null, as transformers has it, and with control
/// tokens marked as text.
pub(super) fn prepare(message: &Value, takes: Content, control: &ControlTokens) -> Result<Variable> {
    let Some(message) = message.as_object() else {
        let message = format!("expected objects with a role and a content, found {}", kind(message));
        return Err(Error::invalid("messages", message));
    };
    let mut message: Map<String, Value> =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(content) = message.get_mut("content") {
        *content = takes.fit(content.take())?;
    }
    name_reasoning(&mut message);
    if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(parse_arguments);
    }
    Marking { control, param: "messages" }.value(&message.into())
}

/// Gives a message's thoughts all the names that templates read.
fn name_reasoning(message: &mut Map<String, Value>) {
    if let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name)).cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
}

/// Clients have the arguments of a call as JSON in a string, templates as the object that it is.
fn parse_arguments(call: &mut Value) {
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(Ok(object)) = arguments.as_str().map(serde_json::from_str::<Map<String, Value>>)
    {
        *arguments = object.into();
    }
}

/// Turns what a request brings into a template's values, with control tokens marked as text in all keys and strings.
pub(super) struct Marking<'a> {
    pub(super) control: &'a ControlTokens,
    /// What errors name.
    pub(super) param: &'static str,
}

impl Marking<'_> {
    /// The template's value of `value`.
    pub(super) fn value(&self, value: &Value) -> Result<Variable> {
        self.nested(value, MAX_DEPTH)
    }

    /// `value`, which may be nested `depth` deep.
    fn nested(&self, value: &Value, depth: usize) -> Result<Variable> {
        let depth = depth.checked_sub(1).ok_or_else(|| {
            let message = format!("expected values nested at most {MAX_DEPTH} deep, found deeper ones");
            Error::invalid(self.param, message)
        })?;
        Ok(match value {
            Value::Null => ().into(),
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => self::number(number),
            Value::String(text) => self.control.mark(text).into(),
            Value::Array(values) => {
                let values = values.iter().map(|value| self.nested(value, depth));
                values.collect::<Result<Vec<Variable>>>()?.into()
            }
            Value::Object(object) => {
                let pair = |(key, value): (&String, &Value)| Ok((self.control.mark(key), self.nested(value, depth)?));
                Variable::from_pairs(object.iter().map(pair).collect::<Result<Vec<_>>>()?)
            }
        })
    }
}

fn number(number: &Number) -> Variable {
    let integer = number.as_i64().map(Variable::from).or_else(|| number.as_u64().map(Variable::from));
    integer.unwrap_or_else(|| number.as_f64().into())
}
