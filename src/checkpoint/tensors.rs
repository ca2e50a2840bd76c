//! All tensors of a checkpoint under their native names, whichever files they lie in.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::index::Index;
use super::names::{Names, Place};
use super::shard::{Shard, StoredTensor};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::model::weights::TensorSource;

/// So much of each tensor goes into the fingerprint.
const SAMPLE_BYTES: usize = 256;

/// What all names of a file may begin with.
const PREFIXES: [&str; 2] = ["model.", "backbone."];

/// Where the weights usually are.
const USUAL: &str = "model.safetensors";

/// The tensors of one or several safetensors files.
#[derive(Debug)]
pub struct Tensors {
    shards: Vec<Shard>,
    /// By name without the optional `model.` or `backbone.` before all of them.
    by_name: BTreeMap<String, Entry>,
    /// Where the native format's tensors are among them.
    names: Names,
    /// What a loader has asked for.
    asked: RefCell<BTreeSet<String>>,
    origin: PathBuf,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    tensor: StoredTensor,
}

/// What the tensors add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// How many numbers.
    pub parameters: usize,
    /// How many bytes they take as stored.
    pub bytes: usize,
}

impl Tensors {
    /// Opens the weights among `files`: `model.safetensors`, the shards of an index (`*.safetensors.index.json`) or a
    /// single `*.safetensors`, looked for in this order.
    ///
    /// # Errors
    /// There are no weights or several candidates, a shard is missing, a file is broken, or a tensor is there twice.
    pub fn open(files: &Files) -> Result<Self> {
        if files.has(USUAL) {
            return Self::of(files, &[USUAL]);
        }
        if let Some(name) = only(files, ".safetensors.index.json")? {
            let index = Index::open(files, &name)?;
            let tensors = Self::of(files, &index.present_shards(files)?)?;
            return tensors.check_index(&index).map(|()| tensors);
        }
        match only(files, ".safetensors")? {
            Some(name) => Self::of(files, &[name]),
            None => Err(Error::not_found(
                files.root(),
                "no *.safetensors file here: expected model.safetensors, an index of shards, or one other",
            )),
        }
    }

    /// Opens the weights in the files of these names.
    ///
    /// # Errors
    /// A file is missing or broken, or a tensor is there twice.
    pub fn of(files: &Files, names: &[impl AsRef<Path>]) -> Result<Self> {
        let shards = names.iter().map(|name| Shard::open(files, name.as_ref())).collect::<Result<Vec<_>>>()?;
        let origin = match shards.as_slice() {
            [shard] => shard.path(),
            _ => files.root(),
        };
        let origin = origin.to_owned();
        Ok(Self { by_name: by_name(&shards)?, names: Names::default(), shards, asked: RefCell::default(), origin })
    }

    /// From now on the native format's tensors are looked for under these names.
    pub fn rename(&mut self, names: Names) {
        self.names = names;
    }

    /// The file, or the directory of several files.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// A tensor's shape, where there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.by_name.get(name).map(|entry| entry.tensor.shape.as_slice())
    }

    /// How many layers have tensors.
    pub fn count_layers(&self) -> usize {
        let indices = self.names().filter_map(|name| Some(name.strip_prefix("layers.")?.split_once('.')?.0));
        indices.collect::<BTreeSet<_>>().len()
    }

    /// The file that holds a tensor, or the origin for a tensor that is not there.
    pub fn file_of(&self, name: &str) -> &Path {
        let shard = self.by_name.get(name).and_then(|entry| self.shards.get(entry.shard));
        shard.map_or(&self.origin, Shard::path)
    }

    /// The names that no loader has asked for, sorted.
    pub fn not_asked_for(&self) -> Vec<&str> {
        let asked = self.asked.borrow();
        self.names().filter(|name| !asked.contains(*name)).collect()
    }

    /// What the tensors add up to that a loader has asked for.
    pub fn size_asked_for(&self) -> Size {
        let asked = self.asked.borrow();
        let entries = self.by_name.iter().filter(|(name, _)| asked.contains(*name));
        entries.fold(Size::default(), |sum, (_, entry)| Size {
            parameters: sum.parameters + entry.tensor.shape.iter().product::<usize>(),
            bytes: sum.bytes + entry.tensor.bytes.len(),
        })
    }

    /// A number that other weights don't have: made of every tensor's name, type and shape, and a sample of its values.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, entry) in &self.by_name {
            let StoredTensor { dtype, shape, bytes, .. } = &entry.tensor;
            (name, format!("{dtype:?}"), shape).hash(&mut hasher);
            let middle = bytes.start + bytes.len() / 2;
            let sample = StoredTensor { bytes: middle..bytes.end.min(middle + SAMPLE_BYTES), ..entry.tensor.clone() };
            if let Some(shard) = self.shards.get(entry.shard) {
                shard.read(&sample, |bytes| bytes.hash(&mut hasher));
            }
        }
        hasher.finish()
    }

    /// The same tensors by shape alone: a model loaded from it checks every name, shape and type without reading or
    /// holding any weights.
    pub fn shapes(&self) -> Shapes<'_> {
        Shapes(self)
    }

    /// The same tensors, with `loaded` told the stored bytes of each one that is read.
    pub fn telling<'a>(&'a self, loaded: &'a dyn Fn(usize)) -> Telling<'a> {
        Telling { tensors: self, loaded }
    }

    fn check_index(&self, index: &Index) -> Result<()> {
        for (name, file) in &index.weight_map {
            let entry = self.by_name.get(native_name(name));
            let shard = entry.and_then(|entry| self.shards.get(entry.shard));
            if shard.is_none_or(|shard| shard.name() != Path::new(file)) {
                return Err(Error::checkpoint(
                    &index.path,
                    format!("tensor {name} is not in {file}, where the index has it"),
                ));
            }
        }
        Ok(())
    }

    /// The tensor of a native name, once its shape and type have been found as expected.
    fn find(&self, native: &str, shape: &[usize]) -> Result<Option<Found<'_>>> {
        for place in self.names.places(native) {
            if let Some(entry) = self.by_name.get(&place.name) {
                self.asked.borrow_mut().insert(place.name.clone());
                return Found::new(self, entry, &place, shape).map(Some);
            }
        }
        Ok(None)
    }
}

/// A tensor in its file, or the rows of it that are wanted.
struct Found<'a> {
    entry: &'a Entry,
    dtype: DType,
    /// The bytes of a row.
    row: usize,
    /// The first row of the matrix that the rows are from.
    first: usize,
    /// The rows of a block, and which of them are wanted.
    lanes: (usize, usize, usize),
    /// How many blocks there are.
    blocks: usize,
}

impl<'a> Found<'a> {
    fn new(tensors: &Tensors, entry: &'a Entry, place: &Place, shape: &[usize]) -> Result<Self> {
        let stored = &entry.tensor;
        let wrong = |expected: String, found: String| {
            let (file, name) = (tensors.file_of(&place.name), &stored.name);
            Error::checkpoint(file, format!("tensor {name}: expected {expected}, found {found}"))
        };
        let (rows, rest) = shape.split_first().map_or((1, shape), |(rows, rest)| (*rows, rest));
        let lanes @ (block, from, to) = place.part.lanes(rows);
        let blocks = rows.checked_div(to - from).unwrap_or(0);
        let whole = |stack: &[usize]| {
            let own = if shape.is_empty() { Vec::new() } else { vec![blocks * block] };
            [stack, &own, rest].concat()
        };
        let matrices = place.index.and(stored.shape.first()).copied();
        let expected = whole(matrices.as_slice());
        if stored.shape != expected || place.index.is_some_and(|index| matrices.is_none_or(|count| index >= count)) {
            return Err(wrong(format!("shape {expected:?}"), format!("{:?}", stored.shape)));
        }
        let dtype = match stored.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(wrong("type F32, F16 or BF16".into(), format!("{other:?}"))),
        };
        let row = rest.iter().product::<usize>() * dtype.size_in_bytes();
        Ok(Self { entry, dtype, row, first: place.index.unwrap_or(0) * blocks * block, lanes, blocks })
    }

    /// The bytes that are wanted of all that the tensor has.
    fn select<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let (block, from, to) = self.lanes;
        let rows =
            |first: usize, count: usize| bytes.get(first * self.row..(first + count) * self.row).unwrap_or_default();
        if from == 0 && to == block {
            return Cow::Borrowed(rows(self.first, self.blocks * block));
        }
        let starts = (0..self.blocks).map(|at| self.first + at * block + from);
        Cow::Owned(starts.flat_map(|start| rows(start, to - from)).copied().collect())
    }
}

impl TensorSource for Tensors {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let Some(found) = self.find(name, shape)? else { return Ok(None) };
        let shard = self.shards.get(found.entry.shard).ok_or_else(|| self.missing(name, shape))?;
        let tensor = shard.read(&found.entry.tensor, |bytes| {
            let bytes = &found.select(bytes);
            match found.dtype {
                DType::F16 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f16>(bytes), shape, device),
                DType::BF16 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, bf16>(bytes), shape, device),
                _ => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f32>(bytes), shape, device),
            }
        });
        Ok(Some(tensor?))
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        let name = self.names.places(name).first().map_or_else(|| name.to_owned(), |place| place.name.clone());
        Error::checkpoint(&self.origin, format!("tensor {name} is missing; expected it with shape {shape:?}"))
    }
}

/// A source that tells of every tensor that it gives.
pub struct Telling<'a> {
    tensors: &'a Tensors,
    loaded: &'a dyn Fn(usize),
}

impl TensorSource for Telling<'_> {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let tensor = self.tensors.tensor(name, shape, device)?;
        if let Some(tensor) = &tensor {
            (self.loaded)(tensor.elem_count() * tensor.dtype().size_in_bytes());
        }
        Ok(tensor)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.tensors.missing(name, shape)
    }
}

/// A source whose tensors have the right name, shape and type, and no memory: one zero stands for all values.
#[derive(Debug)]
pub struct Shapes<'a>(&'a Tensors);

impl TensorSource for Shapes<'_> {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let Some(found) = self.0.find(name, shape)? else { return Ok(None) };
        Ok(Some(Tensor::zeros((), found.dtype, device)?.broadcast_as(shape)?))
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.0.missing(name, shape)
    }
}

fn native_name(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

fn by_name(shards: &[Shard]) -> Result<BTreeMap<String, Entry>> {
    let mut by_name: BTreeMap<String, Entry> = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        for tensor in shard.tensors() {
            let entry = Entry { shard: index, tensor: tensor.clone() };
            if let Some(first) = by_name.insert(native_name(&tensor.name).to_owned(), entry) {
                let other = shards.get(first.shard).map_or(shard.path(), Shard::path);
                let (name, first) = (&tensor.name, &first.tensor.name);
                let message = format!("tensor {name} is there twice: the other is {first} in {}", other.display());
                return Err(Error::checkpoint(shard.path(), message));
            }
        }
    }
    Ok(by_name)
}

/// The one name that ends in `ending`, if there is any.
fn only(files: &Files, ending: &str) -> Result<Option<OsString>> {
    let mut found = files.names()?;
    found.retain(|name| name.to_string_lossy().ends_with(ending));
    if let [first, second, ..] = found.as_slice() {
        let message = format!(
            "{} files end in {ending} ({}, {}, …): name one of them, or add the index that lists them",
            found.len(),
            files.path(first).display(),
            files.path(second).display()
        );
        return Err(Error::checkpoint(files.root(), message));
    }
    Ok(found.pop())
}
