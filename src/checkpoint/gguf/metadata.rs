//! Typed reading of the metadata: every wrong value is an error that names its key.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::container::{List, Value};
use crate::error::{Error, Result};

/// The key of the architecture's name.
pub const ARCHITECTURE: &str = "general.architecture";

/// What keys begin with that belong to no architecture.
const SHARED: [&str; 3] = ["general.", "tokenizer.", "split."];

/// A file's metadata. Keys are the whole ones of the file where they are `general.`, `tokenizer.` or `split.`, and else those of the
/// architecture without its name.
#[derive(Debug)]
pub struct Metadata<'a> {
    path: &'a Path,
    architecture: String,
    values: &'a BTreeMap<&'a str, Value<'a>>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Metadata<'a> {
    /// The metadata of the file at `path`.
    ///
    /// # Errors
    /// The architecture's name is missing or no text.
    pub fn new(path: &'a Path, values: &'a BTreeMap<&'a str, Value<'a>>) -> Result<Self> {
        let metadata = Self { path, architecture: String::new(), values, read: RefCell::default() };
        let architecture = metadata.text(ARCHITECTURE)?.ok_or_else(|| metadata.missing(ARCHITECTURE))?;
        Ok(Self { architecture, ..metadata })
    }

    /// The architecture's name.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// An error about the value of `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::checkpoint(self.path, format!("metadata {}: {message}", self.whole(key)))
    }

    /// An error about what is not one key's fault.
    pub fn broken(&self, message: impl Into<String>) -> Error {
        Error::checkpoint(self.path, message)
    }

    fn missing(&self, key: &str) -> Error {
        self.error(key, "this key is missing")
    }

    fn whole(&self, key: &str) -> String {
        let is_shared = SHARED.iter().any(|shared| key.starts_with(shared));
        if is_shared { key.to_owned() } else { format!("{}.{key}", self.architecture) }
    }

    /// The value as it stands in the file.
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        let key = self.whole(key);
        let value = self.values.get(key.as_str()).copied();
        self.read.borrow_mut().insert(key);
        value
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl FnOnce(Value<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("expected {expected}, found {value}"));
        read(value).ok_or_else(wrong).map(Some)
    }

    /// A count that may be 0.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number", natural)
    }

    /// A count that must be there.
    pub fn needed(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// A count of each layer, where one number stands for all.
    pub fn of_layers(&self, key: &str, num_layers: usize) -> Result<Option<Vec<usize>>> {
        let expected = format!("a whole number, or one for each of {num_layers} layers");
        self.read(key, &expected, |value| match value {
            Value::List(list) => {
                let counts = list.values().take(num_layers.saturating_add(1)).map(natural).collect::<Option<Vec<_>>>();
                counts.filter(|counts| counts.len() == num_layers)
            }
            value => natural(value).map(|count| vec![count; num_layers]),
        })
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a finite number", |value| match value {
            Value::Float(value) => Some(value).filter(|value| value.is_finite()),
            value => natural(value).map(|value| value as f64),
        })
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| if let Value::Flag(value) = value { Some(value) } else { None })
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a text in UTF-8", text)
    }

    /// Texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "a list of texts in UTF-8", text)
    }

    /// Whole numbers.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.list(key, "a list of whole numbers", natural)
    }

    /// Numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "a list of numbers", |value| if let Value::Float(value) = value { Some(value) } else { None })
    }

    fn list<T>(&self, key: &str, expected: &str, read: fn(Value<'a>) -> Option<T>) -> Result<Option<Vec<T>>> {
        self.read(key, expected, |value| {
            let Value::List(list) = value else { return None };
            List::values(list).map(read).collect()
        })
    }

    /// Refuses keys of the architecture that nothing has read: they may change what the model says. Those that are
    /// `meaningless` don't, and those that are `neutral` don't with one value.
    pub fn refuse_unread(&self, meaningless: &[&str], neutral: &[(&str, f64)]) -> Result<()> {
        let read = self.read.borrow();
        let own = format!("{}.", self.architecture);
        let keys = self.values.keys().filter_map(|key| Some((*key, key.strip_prefix(&own)?)));
        let is_neutral = |whole: &str, key: &str| {
            let number = self.values.get(whole).and_then(|value| match value {
                Value::Float(value) => Some(*value),
                value => natural(*value).map(|value| value as f64),
            });
            neutral.iter().any(|(known, value)| *known == key && number == Some(*value))
        };
        let may_change = |(whole, key): &(&str, &str)| {
            !read.contains(*whole) && !meaningless.contains(key) && !is_neutral(whole, key)
        };
        match keys.into_iter().find(may_change) {
            None => Ok(()),
            Some((_, key)) => Err(self.error(key, "is not known here: leaving it out could change the model")),
        }
    }
}

fn natural(value: Value<'_>) -> Option<usize> {
    if let Value::Natural(value) = value { usize::try_from(value).ok() } else { None }
}

fn text(value: Value<'_>) -> Option<String> {
    if let Value::Text(text) = value { String::from_utf8(text.to_vec()).ok() } else { None }
}
