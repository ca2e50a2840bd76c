//! The index of a checkpoint in several files: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{LARGEST_JSON, parse_json};
use crate::error::{Error, Result};
use crate::files::Files;

/// A `*.safetensors.index.json`.
#[derive(Debug)]
pub struct Index {
    /// Where it is, for messages.
    pub path: PathBuf,
    /// The shard of each tensor.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the index `name` among `files`.
    ///
    /// # Errors
    /// It is not there or broken.
    pub fn open(files: &Files, name: impl AsRef<OsStr>) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Contents {
            weight_map: BTreeMap<String, String>,
        }
        let name = Path::new(name.as_ref());
        let path = files.path(name);
        let missing = || Error::not_found(&path, "no such index of shards");
        let json = files.read_if_present(name, LARGEST_JSON)?.ok_or_else(missing)?;
        let Contents { weight_map } = parse_json(&path, &json)?;
        Ok(Self { path, weight_map })
    }

    /// The shards' names, each once. They must be plain, so that an index can't reach out of its directory.
    ///
    /// # Errors
    /// A name is not plain, or there are none.
    pub fn shards(&self) -> Result<Vec<&str>> {
        let names: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        if names.is_empty() {
            return Err(Error::checkpoint(&self.path, "weight_map names no shards"));
        }
        match names.iter().find(|name| Path::new(name).file_name().is_none_or(|plain| plain != **name)) {
            Some(name) => {
                Err(Error::checkpoint(&self.path, format!("expected plain file names of shards, found {name:?}")))
            }
            None => Ok(names.into_iter().collect()),
        }
    }

    /// The shards' names, once all of them have been found among `files`.
    ///
    /// # Errors
    /// A shard is missing, or those of [`Index::shards`].
    pub fn present_shards(&self, files: &Files) -> Result<Vec<&str>> {
        let shards = self.shards()?;
        match shards.iter().find(|name| !files.has(name)) {
            Some(name) => {
                let message = format!("shard {name} is missing: no file {}", files.path(name).display());
                Err(Error::checkpoint(&self.path, message))
            }
            None => Ok(shards),
        }
    }
}
