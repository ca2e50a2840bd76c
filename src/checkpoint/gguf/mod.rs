//! GGUF files, the format of llama.cpp, read as the published checkpoints that they were made from.
//!
//! In reading order: [`container`] is the file's structure, [`metadata`] the typed values in it; [`keys`] makes a
//! config.json of them, as `architectures` says, and [`tokenizer`] the tokenizer's files; [`names`] says which published
//! tensors the file's are, and [`parts`] what the files of a model are called that was split. Everything behind that is
//! what safetensors take too.
//!
//! Where the converter wrote less than the checkpoint had, the file is taken as llama.cpp takes it.

mod architectures;
pub mod container;
pub mod keys;
pub mod metadata;
pub mod names;
pub mod parts;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

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

    /// Whether a layer predicts further tokens than the next.
    fn predicts_further(&self, layer: usize) -> bool {
        let prefix = format!("blk.{layer}.nextn.");
        self.tensors.range(prefix.as_str()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
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
    let mut firsts = texts.iter().filter(|name| name.ends_with(ENDING) && !parts::is_further(name));
    match (firsts.next(), firsts.next()) {
        (Some(first), None) => Ok(Some(first.as_ref().into())),
        _ => only(directory, ENDING),
    }
}

/// Whether the file at `path` is one, by its name or by how it begins.
pub fn is_one(path: &Path) -> bool {
    let begins = |mut file: std::fs::File| {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map(|()| magic == *b"GGUF")
    };
    path.to_string_lossy().ends_with(ENDING) || std::fs::File::open(path).and_then(begins).unwrap_or(false)
}

/// Opens the model in the GGUF file at `path`, or in that and the others that it was split into: the files of the
/// published checkpoint but for the weights, and the tensors.
///
/// # Errors
/// A file is missing or broken, or has what is not supported: the error names the key or the tensor.
pub fn open(path: &Path) -> Result<(Files, Tensors)> {
    let (directory, names) = split(path)?;
    let maps = names.iter().map(|name| directory.map(name)).collect::<Result<Vec<Bytes>>>()?;
    let parsed = names.iter().zip(&maps).map(|(name, map)| Ok((&**map, parse(&directory.path(name), map)?)));
    let files = parsed.collect::<Result<Vec<_>>>()?;
    check_parts(path, &files)?;
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
fn split(path: &Path) -> Result<(Files, Vec<PathBuf>)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::not_found(path, "no such GGUF file"));
    };
    let directory = Files::Directory(directory.to_owned());
    let count = count_parts(&parse(path, &directory.map(name)?)?);
    if count == 1 {
        return Ok((directory, vec![name.into()]));
    }
    let names = parts::all(&name.to_string_lossy());
    if names.len() as u64 != count {
        let message = format!(
            "one of {count} files that a model is split into: name the first, which must end in -00001-of-{count:05}{ENDING}"
        );
        return Err(Error::checkpoint(path, message));
    }
    match names.iter().find(|name| !directory.has(name)) {
        Some(missing) => {
            Err(Error::not_found(&directory.path(missing), format!("this one of the model's {count} files is missing")))
        }
        None => Ok((directory, names.into_iter().map(PathBuf::from).collect())),
    }
}

/// Refuses files that are not those of one model, in their order.
fn check_parts(path: &Path, files: &[(&[u8], Container<'_>)]) -> Result<()> {
    let number = |file: &Container<'_>| match file.metadata.get("split.no") {
        Some(container::Value::Natural(number)) => Some(*number),
        _ => None,
    };
    let is_right = |(at, (_, file)): (usize, &(&[u8], Container<'_>))| {
        count_parts(file) == files.len() as u64 && number(file) == Some(at as u64)
    };
    if files.len() == 1 || files.iter().enumerate().all(is_right) {
        return Ok(());
    }
    Err(Error::checkpoint(
        path,
        "the files beside it are not the other parts of this model: split.no and split.count differ",
    ))
}

/// How many files the model has that this one is of. Only the first needs to say anything else of it.
fn count_parts(file: &Container<'_>) -> u64 {
    match file.metadata.get("split.count") {
        Some(container::Value::Natural(count)) => (*count).max(1), // 0 where the files were joined
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

/// The object that a JSON value is; an empty one for others.
fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}
