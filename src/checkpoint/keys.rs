//! Typed reading of config.json: every wrong value is an error that names the key.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CONFIG, LARGEST_JSON, first_few, parse_json};
use crate::error::{Error, Result};
use crate::files::{Files, strict_json};

/// Counts and sizes may be this large.
const LARGEST_INT: u64 = 1 << 30;

/// The keys of a config.json, or of an object in it; none where there is no such file.
#[derive(Clone, Debug)]
pub struct Keys {
    path: PathBuf,
    /// The key of the object, and a dot.
    within: String,
    map: Map<String, Value>,
}

impl Keys {
    /// Reads config.json if it is among `files`.
    pub fn open(files: &Files) -> Result<Self> {
        let bytes = files.read_if_present(CONFIG, LARGEST_JSON)?;
        Self::parse(&files.path(CONFIG), bytes.as_deref().unwrap_or(b"{}"))
    }

    /// The keys in `json`, which was read from `path`.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        Ok(Self { path: path.to_owned(), within: String::new(), map: parse_json(path, &strict_json(json))? })
    }

    /// An error about the value of `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::checkpoint(&self.path, format!("{}{key}: {message}", self.within))
    }

    /// A count or size of at least 1.
    pub fn int(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "an integer from 1 to 1073741824", |value| {
            whole(value).filter(|n| (1..=LARGEST_INT).contains(n)).map(|n| n as usize)
        })
    }

    /// A count or size that may be 0.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "an integer from 0 to 1073741824", |value| {
            whole(value).filter(|n| *n <= LARGEST_INT).map(|n| n as usize)
        })
    }

    /// A number in `range`.
    pub fn float(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let expected = format!("a number from {:e} to {:e}", range.start(), range.end());
        self.read(key, &expected, |value| number(value).filter(|number| range.contains(number)))
    }

    /// So many numbers in `range`.
    pub fn floats<const N: usize>(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<[f64; N]>> {
        let wrong = |found: Vec<f64>| self.error(key, format!("expected {N} numbers, found {}", found.len()));
        self.numbers(key, range)?.map(|numbers| numbers.try_into().map_err(wrong)).transpose()
    }

    /// Numbers in `range`.
    pub fn numbers(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<Vec<f64>>> {
        let expected = format!("a list of numbers from {:e} to {:e}", range.start(), range.end());
        self.read(key, &expected, |value| {
            let numbers = value.as_array()?.iter().map(|value| number(value).filter(|number| range.contains(number)));
            numbers.collect()
        })
    }

    /// Two numbers in `range`, the smaller first.
    pub fn interval(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<(f64, f64)>> {
        let expected = format!("[low, high] with {:e} <= low <= high <= {:e}", range.start(), range.end());
        self.read(key, &expected, |value| {
            let numbers = value.as_array()?.iter().map(number).collect::<Option<Vec<_>>>()?;
            let [low, high] = numbers.try_into().ok()?;
            (range.contains(&low) && range.contains(&high) && low <= high).then_some((low, high))
        })
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a string", Value::as_str)
    }

    /// A list of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.read(key, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A list of indices.
    pub fn indices(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.read(key, "a list of layer indices", |value| {
            let indices = value.as_array()?.iter().map(Value::as_u64);
            indices.map(|index| usize::try_from(index?).ok()).collect()
        })
    }

    /// An object, unless it is empty.
    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        let map = self.read(key, "an object", Value::as_object)?.filter(|map| !map.is_empty());
        let within = format!("{}{key}.", self.within);
        Ok(map.map(|map| Self { path: self.path.clone(), within, map: map.clone() }))
    }

    /// The keys of objects, by name.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.map.iter().filter(|(_, value)| value.is_object()).map(|(key, _)| key.as_str())
    }

    /// The value as it stands in the file.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The keys that are in the file and not in `known`, for a message; none if there are none.
    pub fn unknown(&self, known: &[&str]) -> Option<String> {
        let given = self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str());
        let unknown: Vec<&str> = given.filter(|key| !known.contains(key)).collect();
        (!unknown.is_empty()).then(|| first_few(&unknown))
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.error(key, format!("expected {expected}, found {}", shortened(value)))),
        }
    }
}

/// A whole number, which may be written as 128.0.
fn whole(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=LARGEST_INT as f64).contains(float));
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

/// A number, which may be one that JSON has no word for.
fn number(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some(name) => name.parse().ok(),
        None => value.as_f64(),
    }
}

/// A value's JSON, cut where it is long.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
