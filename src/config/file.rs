//! The configuration file: one `key = value` a line, in [TOML](https://toml.io/en/v1.0.0).

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// The file that is read where none is named.
pub(super) const DEFAULT: &str = "config/blazr.toml";

/// A key of the file with its values, as text.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What stands behind a key.
#[derive(Debug)]
pub(super) enum Value {
    Truth(bool),
    /// Texts and numbers, one or a list of them.
    Texts(Vec<String>),
}

/// A file's entries.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<Entry>,
}

impl File {
    /// # Errors
    /// The file can't be read, is no TOML, or has values that no setting has.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let line = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let refuse = |at: usize, message: &str| Error::setting(format!("{}:{}", path.display(), line(at)), message);
        let table = DeTable::parse(&text)
            .map_err(|error| refuse(error.span().map_or(0, |span| span.start), error.message()))?;
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            let at = value.span().start;
            let expected =
                || refuse(at, &format!("{key}: expected a text, a number, true or false, or a list of texts"));
            Ok(Entry { key: key.to_string(), line: line(at), value: Value::of(value.get_ref()).ok_or_else(expected)? })
        };
        let entries = table.get_ref().iter().map(entry).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Where an entry stands.
    pub(super) fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.path.display(), entry.line)
    }

    /// An error about an entry.
    pub(super) fn refuse(&self, entry: &Entry, message: &str) -> Error {
        Error::setting(self.place(entry), format!("{}: {message}", entry.key))
    }
}

impl Value {
    fn of(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Boolean(truth) => Some(Self::Truth(*truth)),
            DeValue::Array(all) => all.iter().map(|one| text(one.get_ref())).collect::<Option<_>>().map(Self::Texts),
            one => Some(Self::Texts(vec![text(one)?])),
        }
    }
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        // What is too large is the setting's parser's to refuse.
        DeValue::Integer(number) => Some(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        ),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}
