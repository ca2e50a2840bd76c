//! Which of a model's files are needed.

use std::path::Path;

use super::id::ModelId;
use crate::checkpoint::families::Family;
use crate::checkpoint::gguf::{ENDING as GGUF, parts};
use crate::checkpoint::index::Index;
use crate::checkpoint::keys::Keys;
use crate::checkpoint::tensors::{USUAL, USUAL_INDEX};
use crate::error::{Error, Result};
use crate::files::Files;

/// What a model has beside its weights, each only if it is there.
const BESIDE: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

const SAFETENSORS: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";

/// What weights look like that can't be read.
const OTHERS: [&str; 5] = [".bin", ".pt", ".pth", ".msgpack", ".h5"];

/// The names of a model's files, and the one with weights that was asked for.
pub(super) struct Selection {
    names: Vec<String>,
    asked: Option<String>,
}

impl Selection {
    pub(super) fn new(names: Vec<String>, id: &ModelId) -> Self {
        Self { names, asked: id.file.clone() }
    }

    /// Those that say which others are needed, and are small: none where everything is in one GGUF file.
    pub(super) fn first(&self) -> Vec<&str> {
        if self.is_gguf() {
            return Vec::new();
        }
        let index = self.index().filter(|_| self.asked.is_none());
        let beside = self.names.iter().map(String::as_str).filter(|name| BESIDE.contains(name));
        beside.chain(index).collect()
    }

    /// The others, once the first are in `snapshot`.
    ///
    /// # Errors
    /// The model's family is not supported, or it is unclear which weights are meant.
    pub(super) fn rest(&self, snapshot: &Path) -> Result<Vec<String>> {
        let files = Files::Directory(snapshot.to_owned());
        let tokenizer = if self.is_gguf() { Vec::new() } else { self.tokenizer(&files)? };
        Ok([tokenizer, self.weights(&files)?].concat())
    }

    /// The tokenizer's files, where config.json names a place of their own. A family that is not supported is refused.
    fn tokenizer(&self, files: &Files) -> Result<Vec<String>> {
        let keys = Keys::open(files)?;
        Family::of(&keys)?;
        let Some(place) = keys.string("tokenizer")? else { return Ok(Vec::new()) };
        let is_there =
            |name: &&String| *name == place || name.rsplit_once('/').is_some_and(|(directory, _)| directory == place);
        Ok(self.names.iter().filter(is_there).cloned().collect())
    }

    /// The files with the weights, by their names and what the index among `files` says.
    ///
    /// # Errors
    /// There are none, or several that have no index.
    pub(super) fn weights(&self, files: &Files) -> Result<Vec<String>> {
        let error = |message: String| Err(Error::checkpoint(files.root(), message));
        match &self.asked {
            Some(asked) if self.names.contains(asked) => return Ok(parts::all(asked)),
            Some(asked) => return error(format!("there is no file {asked}")),
            None if self.has_one_file() => return Ok(vec![USUAL.to_owned()]),
            None => {}
        }
        if let Some(index) = self.index() {
            return Ok(Index::open(files, index)?.shards()?.into_iter().map(str::to_owned).collect());
        }
        let mut found = self.ending_in(if self.is_gguf() { GGUF } else { SAFETENSORS });
        found.retain(|name| !parts::is_further(name));
        match found.as_slice() {
            [one] if !one.contains('/') => Ok(parts::all(one)),
            [] => error(self.nothing()),
            several => error(format!(
                "expected one file with weights, or an index of several: name one of them behind the model's name and a \
                 slash: {}",
                several.join(", ")
            )),
        }
    }

    /// Whether the weights are in a GGUF file, which has everything else too.
    fn is_gguf(&self) -> bool {
        let has_gguf = || self.ending_in(SAFETENSORS).is_empty() && !self.ending_in(GGUF).is_empty();
        self.asked.as_ref().map_or_else(has_gguf, |asked| asked.ends_with(GGUF))
    }

    fn has_one_file(&self) -> bool {
        self.names.iter().any(|name| name == USUAL)
    }

    fn index(&self) -> Option<&str> {
        let found = self.ending_in(INDEX);
        let usual = found.iter().find(|name| **name == USUAL_INDEX).or(found.first().filter(|_| found.len() == 1));
        usual.copied().filter(|_| !self.has_one_file())
    }

    /// The files with this ending: those beside config.json, else those of other directories.
    fn ending_in(&self, ending: &str) -> Vec<&str> {
        let all = self.names.iter().map(String::as_str).filter(|name| name.ends_with(ending));
        let (nested, here): (Vec<&str>, Vec<&str>) = all.partition(|name| name.contains('/'));
        if here.is_empty() { nested } else { here }
    }

    fn nothing(&self) -> String {
        let other = self.names.iter().find(|name| OTHERS.iter().any(|end| name.ends_with(end)));
        let found = other.map_or("none".to_owned(), |name| format!("{name}: convert it to safetensors"));
        format!("expected weights in *.safetensors or *.gguf, found {found}")
    }
}
