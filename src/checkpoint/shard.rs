//! One file of tensors, its data mapped; and safetensors, whose header is checked to the last byte.
//!
//! That header is parsed here rather than by the `safetensors` crate (whose types are used) because that crate merges
//! tensors of the same name and does not say which tensor is broken.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::storage::{Change, Storage};
use crate::error::{Error, Result};
use crate::files::{Bytes, Files};

/// The header's length comes first, as a little-endian u64.
const LENGTH_BYTES: usize = 8;

/// The format's own limit on headers.
const LARGEST_HEADER: usize = 100_000_000;

/// What messages may have to repeat stays short: no model's tensors have longer names or more dimensions.
pub const LONGEST_NAME: usize = 512;
const MOST_DIMENSIONS: usize = 8;

/// What all names of a file may begin with.
const PREFIXES: [&str; 2] = ["model.", "backbone."];

/// A file of tensors.
#[derive(Debug)]
pub struct Shard {
    name: PathBuf,
    path: PathBuf,
    bytes: Bytes,
    tensors: Vec<StoredTensor>,
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// The name that a published checkpoint or the native format has for it.
    pub known_as: String,
    /// The storage type.
    pub storage: Storage,
    /// The shape.
    pub shape: Vec<usize>,
    /// The bytes in the file.
    pub bytes: Range<usize>,
    /// What was done to it before it was written.
    pub change: Change,
}

impl Shard {
    /// A file whose tensors are known.
    pub fn new(name: PathBuf, path: PathBuf, bytes: Bytes, tensors: Vec<StoredTensor>) -> Self {
        Self { name, path, bytes, tensors }
    }

    /// Maps the safetensors file `name` and checks its header.
    ///
    /// # Errors
    /// The file can't be opened, is truncated, or has a header that is not exactly the format's.
    pub fn open(files: &Files, name: &Path) -> Result<Self> {
        let (name, path) = (name.to_owned(), files.path(name));
        let bytes = files.map(&name)?;
        let tensors = parse_header(&bytes).map_err(|reason| Error::checkpoint(&path, reason))?;
        Ok(Self::new(name, path, bytes, tensors))
    }

    /// Refuses a file that was written to since it was opened: what was read of it, and what is to be read, may be of two
    /// models.
    ///
    /// # Errors
    /// It was.
    pub fn check_unchanged(&self) -> Result<()> {
        let message = "changed while it was loaded: put new files beside the old and rename them, and start blazr anew";
        if self.bytes.have_changed() { Err(Error::checkpoint(&self.path, message)) } else { Ok(()) }
    }

    /// The file's name among those of its model.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors; those of safetensors in the order of their bytes.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Lends a tensor's bytes. Once they have been read they no longer count as this process's memory, so that a
    /// loaded model is not held twice.
    pub fn read<T>(&self, tensor: &StoredTensor, read: impl FnOnce(&[u8]) -> T) -> T {
        let result = read(self.bytes.get(tensor.bytes.clone()).unwrap_or_default());
        self.bytes.release(&tensor.bytes);
        result
    }

    /// Lets go of some bytes of a tensor that is being read, counted from its start; they may still be read again.
    pub fn release(&self, tensor: &StoredTensor, bytes: Range<usize>) {
        let (start, end) = (tensor.bytes.start + bytes.start, tensor.bytes.start + bytes.end);
        self.bytes.release(&(start.min(tensor.bytes.end)..end.min(tensor.bytes.end)));
    }
}

/// Reads the header of a whole safetensors file.
///
/// # Errors
/// What is wrong, naming the tensor where one is at fault.
pub fn parse_header(file: &[u8]) -> Result<Vec<StoredTensor>, String> {
    let header = header_bytes(file)?;
    let Header(entries) =
        serde_json::from_slice(header).map_err(|error| format!("broken safetensors header: {error}"))?;
    let data_start = LENGTH_BYTES + header.len();
    let data_len = file.len() - data_start;
    let mut tensors = entries
        .into_iter()
        .map(|(name, info)| locate(name, info, data_start, data_len))
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    check_tiling(&tensors, data_start, file.len())?;
    Ok(tensors)
}

fn header_bytes(file: &[u8]) -> Result<&[u8], String> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("truncated: a safetensors file starts with 8 bytes, found {}", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > LARGEST_HEADER as u64 {
        return Err(format!("not a safetensors file: a header of {length} bytes is over the format's 100,000,000"));
    }
    let found = rest.len();
    rest.get(..length as usize)
        .ok_or_else(|| format!("truncated: the header has {length} bytes, of which the file holds {found}"))
}

fn locate(name: String, info: TensorInfo, data_start: usize, data_len: usize) -> Result<StoredTensor, String> {
    let TensorInfo { dtype, shape, data_offsets: (start, end) } = info;
    if name.len() > LONGEST_NAME {
        return Err(format!("a tensor's name has {} bytes, more than {LONGEST_NAME}", name.len()));
    }
    if shape.len() > MOST_DIMENSIONS {
        return Err(format!("tensor {name}: {} dimensions, more than {MOST_DIMENSIONS}", shape.len()));
    }
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, dim| bits.checked_mul(*dim));
    let Some(bits) = bits else {
        return Err(format!("tensor {name}: shape {shape:?} is larger than any memory"));
    };
    if start > end || end - start != bits.div_ceil(8) {
        return Err(format!(
            "tensor {name}: {dtype:?} {shape:?} needs {} bytes, but its offsets are {start} to {end}",
            bits.div_ceil(8)
        ));
    }
    if end > data_len {
        return Err(format!(
            "tensor {name}: offsets {start} to {end} lie beyond the {data_len} bytes of data: the file is truncated or broken"
        ));
    }
    let (storage, bytes) = (storage(dtype), data_start + start..data_start + end);
    Ok(StoredTensor { known_as: native_name(&name).to_owned(), name, storage, shape, bytes, change: Change::None })
}

fn storage(dtype: Dtype) -> Storage {
    match dtype {
        Dtype::F32 => Storage::F32,
        Dtype::F16 => Storage::F16,
        Dtype::BF16 => Storage::BF16,
        other => Storage::Other(other),
    }
}

/// A name without the prefix that all names of a file may have.
pub fn native_name(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// The format wants every byte of the data to belong to exactly one tensor.
fn check_tiling(tensors: &[StoredTensor], data_start: usize, file_len: usize) -> Result<(), String> {
    let mut covered = data_start;
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && b.bytes.start < a.bytes.end
        {
            return Err(format!("tensors {} and {} overlap", a.name, b.name));
        }
    }
    for tensor in tensors {
        if tensor.bytes.start != covered {
            return Err(format!(
                "tensor {}: the {} bytes before it belong to no tensor",
                tensor.name,
                tensor.bytes.start - covered
            ));
        }
        covered = tensor.bytes.end;
    }
    match file_len - covered {
        0 => Ok(()),
        extra => Err(format!("the last {extra} bytes belong to no tensor")),
    }
}

/// The header's JSON: tensors by name, in the file's order, each name once.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            let info = map.next_value().map_err(|error| serde::de::Error::custom(format!("tensor {name}: {error}")))?;
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("tensor {name} is there twice")));
            }
            tensors.push((name, info));
        }
        Ok(Header(tensors))
    }
}
