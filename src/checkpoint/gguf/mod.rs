//! GGUF files, the format of llama.cpp, read as the published checkpoints that they were made from.
//!
//! In reading order: [`container`] is the file's structure, [`metadata`] the typed values in it; [`keys`] makes a
//! config.json of them and [`tokenizer`] the tokenizer's files, and [`names`] says which published tensors the file's are.
//! Everything behind that is what safetensors take too.
//!
//! Where the converter wrote less than the checkpoint had, the file is taken as llama.cpp takes it.

pub mod container;
pub mod keys;
pub mod metadata;
pub mod names;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::CONFIG;
use super::shard::{Shard, StoredTensor};
use super::storage::Storage;
use super::tensors::{Tensors, only};
use crate::error::{Error, Result};
use crate::files::{Bytes, Files, Made};
use container::{Container, TensorInfo};
use keys::Config;
use metadata::Metadata;

/// How such files end.
pub const ENDING: &str = ".gguf";

/// What the name of the first of several files has behind its stem.
const FIRST_PART: &str = "-00001-of-";

/// No model is split into more files.
const MOST_PARTS: u64 = 1000;

/// The matrix with a row for each token.
const EMBEDDING: &str = "token_embd.weight";

/// What the first file of a model says of it, and the tensors of all of its files.
pub struct Gguf<'a> {
    /// What the first file says.
    pub metadata: Metadata<'a>,
    /// Each with its file.
    tensors: BTreeMap<&'a str, (&'a [u8], &'a TensorInfo<'a>)>,
}

impl<'a> Gguf<'a> {
    /// The model in `files`, the first of which is at `path`.
    fn new(path: &'a Path, files: &'a [(&'a [u8], Container<'a>)]) -> Result<Self> {
        let Some((_, first)) = files.first() else { return Err(Error::not_found(path, "no GGUF file")) };
        let of_file = |(bytes, file): &'a (&'a [u8], Container<'a>)| {
            file.tensors.iter().map(|tensor| (tensor.name, (*bytes, tensor)))
        };
        Ok(Self { metadata: Metadata::new(path, &first.metadata)?, tensors: files.iter().flat_map(of_file).collect() })
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Whether some layer has a tensor of this name.
    pub fn is_in_layers(&self, tensor: &str) -> bool {
        let within =
            |name: &str| name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, end)| end == tensor);
        self.tensors.keys().any(|name| within(name) == Some(true))
    }

    /// Refuses more layers than there are tensors, before anything is made for each.
    fn check_layers(&self, count: usize) -> Result<()> {
        if count <= self.tensors.len() {
            return Ok(());
        }
        let message = format!("{count} layers, but there are {} tensors", self.tensors.len());
        Err(self.metadata.error(keys::LAYERS, message))
    }

    /// How many rows a matrix has.
    fn rows(&self, tensor: &str) -> Result<usize> {
        let rows = self.tensors.get(tensor).and_then(|(_, info)| info.shape.first());
        rows.copied().ok_or_else(|| self.metadata.broken(format!("tensor {tensor} is missing")))
    }

    /// The values of an f32 tensor, if it is there.
    fn numbers(&self, tensor: &str) -> Result<Option<Vec<f32>>> {
        let Some((file, info)) = self.tensors.get(tensor) else { return Ok(None) };
        if info.storage != Storage::F32 {
            let message = format!("tensor {tensor}: expected type F32, found {}", info.storage.name());
            return Err(self.metadata.broken(message));
        }
        let bytes = file.get(info.bytes.clone()).unwrap_or_default();
        Ok(Some(bytemuck::pod_collect_to_vec(bytes)))
    }
}

/// The GGUF file of a directory that has no safetensors, or the first of those that one was split into.
///
/// # Errors
/// There are several, or the directory can't be read.
pub fn only_in(directory: &Files) -> Result<Option<OsString>> {
    let names = directory.names()?;
    let texts: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    if texts.iter().any(|name| name.ends_with(".safetensors")) {
        return Ok(None);
    }
    let mut firsts = texts.iter().filter(|name| name.contains(FIRST_PART) && name.ends_with(ENDING));
    match (firsts.next(), firsts.next()) {
        (Some(first), None) => Ok(Some(first.as_ref().into())),
        _ => only(directory, ENDING),
    }
}

/// Opens the model in the GGUF file at `path`, or in that and the others that it was split into: the files of the
/// published checkpoint but for the weights, and the tensors.
///
/// # Errors
/// A file is missing or broken, or has what is not supported: the error names the key or the tensor.
pub fn open(path: &Path) -> Result<(Files, Tensors)> {
    let (directory, names) = parts(path)?;
    let maps = names.iter().map(|name| directory.map(name)).collect::<Result<Vec<Bytes>>>()?;
    let parsed = names.iter().zip(&maps).map(|(name, map)| Ok((&**map, parse(&directory.path(name), map)?)));
    let files = parsed.collect::<Result<Vec<_>>>()?;
    let gguf = Gguf::new(path, &files)?;
    let config = Config::new(&gguf)?;
    let tensors = files.iter().map(|(_, file)| known(&gguf, file, &config)).collect::<Result<Vec<_>>>()?;
    let made = Files::Made(Arc::new(Made { path: path.to_owned(), files: made(&gguf, &config)? }));
    let shards = names.into_iter().zip(maps).zip(tensors).map(|((name, map), tensors)| {
        let path = directory.path(&name);
        Shard::new(name, path, map, tensors)
    });
    Ok((made, Tensors::new(shards.collect(), path.to_owned(), Some(names::in_file))?))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Container<'a>> {
    container::parse(bytes).map_err(|reason| Error::checkpoint(path, reason))
}

/// The file's directory, and the names of all the files that its model is split into.
fn parts(path: &Path) -> Result<(Files, Vec<PathBuf>)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::not_found(path, "no such GGUF file"));
    };
    let directory = Files::Directory(directory.to_owned());
    let count = count_parts(&parse(path, &directory.map(name)?)?);
    if count == 1 {
        return Ok((directory, vec![name.into()]));
    }
    let name = name.to_string_lossy();
    let ending = format!("{FIRST_PART}{count:05}{ENDING}");
    let stem = name.strip_suffix(&ending).filter(|_| count <= MOST_PARTS).ok_or_else(|| {
        let message = "part of a model that is split: name the first part, which ends in -00001-of-0000N.gguf";
        Error::checkpoint(path, message)
    })?;
    Ok((directory, (1..=count).map(|at| format!("{stem}-{at:05}-of-{count:05}{ENDING}").into()).collect()))
}

/// How many files the model has that this one is of. Only the first needs to say anything else of it.
fn count_parts(file: &Container<'_>) -> u64 {
    match file.metadata.get("split.count") {
        Some(container::Value::Natural(count)) => *count,
        _ => 1,
    }
}

fn known(gguf: &Gguf<'_>, file: &Container<'_>, config: &Config<'_>) -> Result<Vec<StoredTensor>> {
    let known = |info| names::known(gguf, info, config.num_layers, config.heads);
    let tensors = file.tensors.iter().map(known).collect::<Result<Vec<_>, _>>();
    Ok(tensors.map_err(|reason| gguf.metadata.broken(reason))?.concat())
}

/// The files of the published checkpoint but for the weights.
fn made(gguf: &Gguf<'_>, config: &Config<'_>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let config = (CONFIG, Value::Object(config.keys.clone()));
    let tokenizer = tokenizer::files(&gguf.metadata, gguf.rows(EMBEDDING)?)?;
    let files = [config].into_iter().chain(tokenizer);
    Ok(files.map(|(name, json)| (name, json.to_string().into_bytes())).collect())
}
