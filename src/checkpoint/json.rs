//! Small JSON files.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A larger JSON file is not a checkpoint's.
const LARGEST_JSON: u64 = 64 << 20;

/// Reads a file, unless it is larger than any JSON file of a checkpoint.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if size > LARGEST_JSON {
        return Err(Error::checkpoint(path, format!("{size} bytes are too many for a JSON file of a checkpoint")));
    }
    std::fs::read(path).map_err(|error| Error::io(path, error))
}

/// The value in `json`, which was read from `path`.
pub(super) fn parse_json<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::checkpoint(path, format!("broken JSON: {error}")))
}
