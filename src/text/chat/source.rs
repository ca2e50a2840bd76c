//! Where a model's chat templates and the names of its special tokens come from.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::DEFAULT;
use crate::error::{Error, Result};
use crate::files::Files;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The largest `tokenizer_config.json` that is read: those that list every added token have a few hundred KiB.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

/// The longest template, in bytes. The longest in use have some 30 KiB. Each of its statements may nest a value once
/// more, so that this bounds a depth.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What ends a name of a special token in the configuration.
const TOKEN: &str = "_token";

/// What a chat needs of `tokenizer_config.json`.
pub(super) struct TokenizerConfig {
    path: PathBuf,
    chat_template: Value,
    /// `bos_token` and the like to their text.
    pub(super) special_tokens: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads the one beside the tokenizer that is called `name`; it is empty where there is none.
    pub(super) fn read(files: &Files, name: &Path) -> Result<Self> {
        let name = name.with_file_name(TOKENIZER_CONFIG);
        let path = files.path(&name);
        let mut config: Map<String, Value> = match files.read_if_present(&name, MAX_CONFIG_BYTES)? {
            None => Map::new(),
            Some(json) => serde_json::from_slice(&json)
                .map_err(|error| Error::checkpoint(&path, format!("can't be read for its chat_template: {error}")))?,
        };
        let chat_template = config.remove("chat_template").unwrap_or_default();
        Ok(Self { path, chat_template, special_tokens: special_tokens(&config) })
    }
}

/// The special tokens that have a name: a string, or an object with one as its `content`. A model may have others than
/// the usual ones, by themselves or in `extra_special_tokens`.
fn special_tokens(config: &Map<String, Value>) -> Vec<(String, String)> {
    let extra = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
    let named = config.iter().filter(|(name, _)| name.ends_with(TOKEN)).chain(extra);
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    named.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// Templates by name, and where they come from.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) templates: Vec<(String, String)>,
}

impl Source {
    /// One template for everything.
    pub(super) fn single(text: String, path: PathBuf) -> Self {
        Self { path, templates: vec![(DEFAULT.into(), text)] }
    }

    /// The file beside the tokenizer `name`, or else what the configuration has.
    pub(super) fn read(files: &Files, name: &Path, config: &TokenizerConfig) -> Result<Option<Self>> {
        let name = name.with_file_name(CHAT_TEMPLATE);
        let Some(bytes) = files.read_if_present(&name, MAX_TEMPLATE_BYTES as u64)? else {
            return Self::configured(config);
        };
        let path = files.path(&name);
        let text = String::from_utf8(bytes.into_owned())
            .map_err(|error| Error::checkpoint(&path, format!("expected a template in UTF-8: {error}")))?;
        Ok(Some(Self::single(text, path)))
    }

    fn configured(config: &TokenizerConfig) -> Result<Option<Self>> {
        let path = config.path.clone();
        let named = match &config.chat_template {
            Value::Null => return Ok(None),
            Value::String(text) => vec![Some((DEFAULT.into(), text.clone()))],
            Value::Array(entries) => entries.iter().map(named).collect(),
            _ => vec![None],
        };
        let templates = named.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| {
            let message = "chat_template: expected a string or a list of objects, each with a name and a template";
            Error::checkpoint(&path, message)
        })?;
        match templates.iter().find(|(_, text)| text.len() > MAX_TEMPLATE_BYTES) {
            None => Ok(Some(Self { path, templates })),
            Some((_, text)) => {
                let message =
                    format!("chat_template: expected at most {MAX_TEMPLATE_BYTES} bytes, found {}", text.len());
                Err(Error::checkpoint(&path, message))
            }
        }
    }
}

/// Name and text of an entry of a list of templates.
fn named(entry: &Value) -> Option<(String, String)> {
    let text = |key| entry.get(key)?.as_str().map(str::to_owned);
    Some((text("name")?, text("template")?))
}

/// `template` in plain Jinja: with `\n` for every end of a line, and without the statements of transformers around
/// what the model is to learn, which are scopes here.
pub(super) fn plain(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut parts = template.split("{%");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "{%" + &without_generation(part))
}

/// What comes behind a `{%`, with the same spaces and signs around it.
fn without_generation(part: &str) -> Cow<'_, str> {
    let replace = |name: &str, by: &str| {
        let inner = part.strip_prefix(['-', '+']).unwrap_or(part).trim_start();
        let behind = inner.strip_prefix(name)?;
        let end = behind.trim_start();
        let is_whole = end.strip_prefix(['-', '+']).unwrap_or(end).starts_with("%}");
        let before = part.get(..part.len() - inner.len()).unwrap_or_default();
        is_whole.then(|| Cow::Owned(format!("{before}{by}{behind}")))
    };
    replace("generation", "with").or_else(|| replace("endgeneration", "endwith")).unwrap_or(part.into())
}
