//! All tensors of a checkpoint under their native names, whichever files they lie in.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::index::Index;
use super::names::{Names, Place};
use super::shard::{Shard, StoredTensor, native_name};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::kernels::matrix::{Matrix, WeightType};
use crate::model::linear::Weight;
use crate::model::ops::{self, Orientation, PerHead};
use crate::model::packing::{StoredRows, held_as};
use crate::model::weights::{Settings, TensorSource};

/// So much of each tensor goes into the fingerprint.
const SAMPLE_BYTES: usize = 256;

/// Where the weights usually are.
pub const USUAL: &str = "model.safetensors";

/// Where the index of several files usually is.
pub const USUAL_INDEX: &str = "model.safetensors.index.json";

/// The tensors of one or several files.
#[derive(Debug)]
pub struct Tensors {
    shards: Vec<Shard>,
    /// By the name that they are known as.
    by_name: BTreeMap<String, Entry>,
    /// Where the native format's tensors are among them.
    names: Names,
    /// What a loader has asked for.
    asked: RefCell<BTreeSet<String>>,
    origin: PathBuf,
    /// What a file calls the tensor of a native name, where it has names of its own.
    name_in_file: Option<fn(&str) -> String>,
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

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { parameters: self.parameters + other.parameters, bytes: self.bytes + other.bytes }
    }
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
        let usual = || files.has(USUAL_INDEX).then(|| USUAL_INDEX.into());
        if let Some(name) = usual().map_or_else(|| only(files, ".safetensors.index.json"), |name| Ok(Some(name)))? {
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
        Self::new(shards, origin, None)
    }

    /// The tensors of these files. Where those have names of their own, `name_in_file` tells the one of a native name, and
    /// tensors may be known by the latter.
    ///
    /// # Errors
    /// A tensor is there twice.
    pub fn new(shards: Vec<Shard>, origin: PathBuf, name_in_file: Option<fn(&str) -> String>) -> Result<Self> {
        let (names, asked) = (Names::default(), RefCell::default());
        Ok(Self { by_name: by_name(&shards)?, names, shards, asked, origin, name_in_file })
    }

    /// From now on the native format's tensors are looked for under these names.
    pub fn rename(&mut self, names: Names) {
        self.names = if self.name_in_file.is_some() { names.or_native() } else { names };
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

    /// The name that a tensor has in its file.
    pub fn name_in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.by_name.get(name).map_or(name, |entry| &entry.tensor.name)
    }

    /// How many layers have tensors, but for those that predict further tokens than the next: they norm an embedding too.
    pub fn count_layers(&self) -> usize {
        let indices = self.names().filter_map(|name| Some(name.strip_prefix("layers.")?.split_once('.')?.0));
        let is_counted = |index: &&str| self.shape(&format!("layers.{index}.enorm.weight")).is_none();
        indices.collect::<BTreeSet<_>>().into_iter().filter(is_counted).count()
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

    /// What the tensors of each storage type add up to that a loader has asked for.
    pub fn sizes_asked_for(&self) -> BTreeMap<String, Size> {
        let asked = self.asked.borrow();
        let mut sizes: BTreeMap<String, Size> = BTreeMap::new();
        for (_, Entry { tensor, .. }) in self.by_name.iter().filter(|(name, _)| asked.contains(*name)) {
            let size = sizes.entry(tensor.storage.name()).or_default();
            *size = *size + Size { parameters: tensor.shape.iter().product(), bytes: tensor.bytes.len() };
        }
        sizes
    }

    /// A number that other weights don't have: made of every tensor's name, type and shape, and a sample of its values.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, entry) in &self.by_name {
            let StoredTensor { storage, shape, bytes, .. } = &entry.tensor;
            (name, storage.name(), shape).hash(&mut hasher);
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
        Shapes { tensors: self, are_for_gpu: false, held: Cell::new(0) }
    }

    /// The same for a GPU.
    pub fn shapes_on_gpu(&self) -> Shapes<'_> {
        Shapes { are_for_gpu: true, ..self.shapes() }
    }

    /// The same tensors, with `loaded` told the stored bytes of each one that is read.
    pub fn telling<'a>(&'a self, loaded: &'a dyn Fn(usize)) -> Telling<'a> {
        Telling { tensors: self, loaded }
    }

    /// Refuses files that were written to since they were opened.
    ///
    /// # Errors
    /// One was.
    pub fn check_unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(Shard::check_unchanged)
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
    /// Whether all of the tensor is wanted.
    is_whole: bool,
    /// The bytes of a row, where less is wanted.
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
        let dtype = stored.storage.dtype();
        let dtype = dtype.ok_or_else(|| wrong("type F32, F16 or BF16".into(), stored.storage.name()))?;
        let is_whole = place.index.is_none() && (from, to) == (0, block);
        let row = match stored.storage.bytes_of(rest.iter().product()) {
            Some(row) => row,
            None if is_whole => 0,
            None => {
                return Err(wrong("rows of whole blocks".into(), format!("{shape:?} in {}", stored.storage.name())));
            }
        };
        let first = place.index.unwrap_or(0) * blocks * block;
        Ok(Self { entry, dtype, is_whole, row, first, lanes, blocks })
    }

    /// The bytes that are wanted of all that the tensor has.
    fn select<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let (block, from, to) = self.lanes;
        let rows =
            |first: usize, count: usize| bytes.get(first * self.row..(first + count) * self.row).unwrap_or_default();
        if self.is_whole {
            return Cow::Borrowed(bytes);
        }
        if from == 0 && to == block {
            return Cow::Borrowed(rows(self.first, self.blocks * block));
        }
        if self.blocks == 1 {
            return Cow::Borrowed(rows(self.first + from, to - from));
        }
        let starts = (0..self.blocks).map(|at| self.first + at * block + from);
        Cow::Owned(starts.map(|start| rows(start, to - from)).collect::<Vec<_>>().concat())
    }

    /// A tensor that is the same but for its values.
    fn hollow(&self, shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(Tensor::zeros((), self.dtype, device)?.broadcast_as(shape)?)
    }

    /// The tensor on `device`, and how many bytes it has in its file.
    fn load(&self, shard: &Shard, shape: &[usize], device: &Device) -> Result<(Tensor, usize)> {
        let stored = &self.entry.tensor;
        let (tensor, n_bytes) = shard.read(stored, |bytes| {
            let bytes = &self.select(bytes);
            (stored.storage.tensor(bytes, shape, device), bytes.len())
        });
        Ok((stored.change.undo(tensor?)?, n_bytes))
    }

    /// The tensor as a matrix for the kernels of `device`, and how many bytes it has in its file.
    fn matrix(
        &self,
        shard: &Shard,
        sizes: (usize, usize),
        wanted: Option<WeightType>,
        device: &Device,
    ) -> Result<(Weight, usize)> {
        let (n_out, n_in) = sizes;
        if device.is_cpu() || held_as(self.stored_as(), wanted, n_in).is_blocks() {
            let (matrix, n_bytes) = self.pack(shard, sizes, wanted)?;
            return Ok((ops::place(matrix, device)?, n_bytes));
        }
        let (tensor, n_bytes) = self.load(shard, &[n_out, n_in], &Device::Cpu)?;
        Ok((ops::hold(&tensor, wanted, device)?, n_bytes))
    }

    /// The type of a matrix of what is read: rows that were changed otherwise than moved are no blocks any more.
    fn stored_as(&self) -> WeightType {
        let stored = &self.entry.tensor;
        let matrix = stored.change.row_origin().and_then(|_| stored.storage.matrix_dtype());
        matrix.map_or(ops::weight_type(self.dtype), |(dtype, _)| dtype)
    }

    /// The tensor as a matrix for the CPU's kernels, and how many bytes it has in its file.
    fn pack(&self, shard: &Shard, sizes: (usize, usize), wanted: Option<WeightType>) -> Result<(Matrix, usize)> {
        let (n_out, n_in) = sizes;
        let stored = &self.entry.tensor;
        let (Some((dtype, rewrite)), Some(origin)) = (stored.storage.matrix_dtype(), stored.change.row_origin()) else {
            let (tensor, n_bytes) = self.load(shard, &[n_out, n_in], &Device::Cpu)?;
            return Ok((ops::pack(&tensor, wanted)?, n_bytes));
        };
        shard.read(stored, |bytes| {
            let bytes = &*self.select(bytes);
            let width = bytes.len() / n_out.max(1);
            let row = |row: usize| {
                let start = origin(row) * width;
                let stored = bytes.get(start..start + width).unwrap_or_default();
                rewrite.map_or(Cow::Borrowed(stored), |rewrite| rewrite(stored).into())
            };
            // Where a part of a tensor is wanted, its bytes are let go of together.
            let done = |rows: Range<usize>| {
                if self.is_whole {
                    shard.release(stored, rows.start * width..rows.end * width);
                }
            };
            Ok((StoredRows { dtype, n_out, n_in, row: &row, done: &done }.pack(wanted)?, bytes.len()))
        })
    }
}

impl TensorSource for Tensors {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        self.telling(&|_| {}).tensor(name, shape, device)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        let published = || self.names.places(name).first().map_or_else(|| name.to_owned(), |place| place.name.clone());
        let name = self.name_in_file.map_or_else(published, |in_file| in_file(name));
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
        let Some(found) = self.tensors.find(name, shape)? else { return Ok(None) };
        let shard = self.tensors.shards.get(found.entry.shard).ok_or_else(|| self.missing(name, shape))?;
        shard.check_unchanged()?;
        let (tensor, n_bytes) = found.load(shard, shape, device)?;
        (self.loaded)(n_bytes);
        Ok(Some(tensor))
    }

    fn matrix(
        &self,
        name: &str,
        sizes: (usize, usize),
        wanted: Option<WeightType>,
        device: &Device,
    ) -> Result<Option<Weight>> {
        let shape = [sizes.0, sizes.1];
        let Some(found) = self.tensors.find(name, &shape)? else { return Ok(None) };
        let shard = self.tensors.shards.get(found.entry.shard).ok_or_else(|| self.missing(name, &shape))?;
        shard.check_unchanged()?;
        let (weight, n_bytes) = found.matrix(shard, sizes, wanted, device)?;
        (self.loaded)(n_bytes);
        Ok(Some(weight))
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.tensors.missing(name, shape)
    }
}

/// A source whose tensors have the right name, shape and type, and no memory: one zero stands for all values.
#[derive(Debug)]
pub struct Shapes<'a> {
    tensors: &'a Tensors,
    /// Whether they are for a GPU, where only blocks are packed.
    are_for_gpu: bool,
    held: Cell<usize>,
}

impl Shapes<'_> {
    /// The bytes that all that was asked for takes in memory.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    fn hold(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_add(bytes));
    }
}

impl TensorSource for Shapes<'_> {
    fn matrix(
        &self,
        name: &str,
        (n_out, n_in): (usize, usize),
        wanted: Option<WeightType>,
        _: &Device,
    ) -> Result<Option<Weight>> {
        let Some(found) = self.tensors.find(name, &[n_out, n_in])? else { return Ok(None) };
        let held = held_as(found.stored_as(), wanted, n_in);
        let bytes = if self.are_for_gpu && !held.is_blocks() {
            held.row_bytes(n_in).and_then(|row| row.checked_mul(n_out))
        } else {
            held.packed_bytes(n_out, n_in)
        };
        self.hold(bytes.unwrap_or(usize::MAX));
        Ok(Some(Weight::Tensor(found.hollow(&[n_out, n_in], &Device::Cpu)?)))
    }

    fn per_head(
        &self,
        name: &str,
        [heads, n_out, n_in]: [usize; 3],
        orientations: &[Orientation],
        settings: Settings,
        device: &Device,
    ) -> Result<Option<Vec<PerHead>>> {
        let Some(found) = self.tensors.find(name, &[heads * n_out, n_in])? else { return Ok(None) };
        let hollow = |orientation: &Orientation| {
            let [n_out, n_in] = orientation.sizes([n_out, n_in]);
            let stored = ops::weight_type(found.dtype);
            let bytes = if self.are_for_gpu {
                n_out.checked_mul(n_in).and_then(|count| count.checked_mul(found.dtype.size_in_bytes()))
            } else {
                held_as(stored, settings.dtype, n_in).packed_bytes(n_out, n_in)
            };
            self.hold(bytes.and_then(|bytes| bytes.checked_mul(heads)).unwrap_or(usize::MAX));
            Ok(PerHead::of_tensor(found.hollow(&[heads, n_out, n_in], device)?, settings.precision))
        };
        orientations.iter().map(hollow).collect::<Result<_>>().map(Some)
    }

    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let Some(found) = self.tensors.find(name, shape)? else { return Ok(None) };
        self.hold(shape.iter().product::<usize>().saturating_mul(found.dtype.size_in_bytes()));
        found.hollow(shape, device).map(Some)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.tensors.missing(name, shape)
    }
}

fn by_name(shards: &[Shard]) -> Result<BTreeMap<String, Entry>> {
    let mut by_name: BTreeMap<String, Entry> = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        for tensor in shard.tensors() {
            let entry = Entry { shard: index, tensor: tensor.clone() };
            if let Some(first) = by_name.insert(tensor.known_as.clone(), entry) {
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
pub fn only(files: &Files, ending: &str) -> Result<Option<OsString>> {
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
