//! The resolved configuration as `blazr info` prints it: every key, and where its value came from.

use serde::Serialize;
use serde_json::{Map, Value};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// config.json.
    File,
    /// The tensors' names and shapes.
    Tensors,
    /// The format's default.
    Default,
}

/// Every key of the format with its value, or null where it means nothing for this model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The values, as config.json would have them.
    #[serde(flatten)]
    pub values: Map<String, Value>,
    /// The source of each value; null for a null.
    pub sources: Map<String, Value>,
}

impl Report {
    /// Notes a value and its source; the first note of a key stands.
    pub fn record(&mut self, key: &str, value: impl Into<Value>, source: Source) {
        self.note(key, value.into(), serde_json::json!(source));
    }

    /// Whether a key was noted.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes that a key means nothing for this model.
    pub fn record_absent(&mut self, key: &str) {
        self.note(key, Value::Null, Value::Null);
    }

    /// Puts the keys in the order of `keys`.
    pub fn sort_by(&mut self, keys: &[&str]) {
        for map in [&mut self.values, &mut self.sources] {
            *map = keys.iter().filter_map(|key| map.remove_entry(*key)).collect();
        }
    }

    fn note(&mut self, key: &str, value: Value, source: Value) {
        if !self.has(key) {
            self.values.insert(key.to_owned(), value);
            self.sources.insert(key.to_owned(), source);
        }
    }
}
