//! The container: what a file says of itself, and where its tensors lie
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! candle has a parser too, which makes 32 bytes of every byte of an array and does not hold tensors to the file's size.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use super::super::shard::LONGEST_NAME;
use super::super::storage::Storage;

/// Metadata and tensor descriptions lie within so many bytes; those of the largest models have some 20 MiB.
const LARGEST_HEADER: usize = 128 << 20;

/// ggml's own limit on dimensions.
const MOST_DIMENSIONS: u32 = 4;

/// Where the file does not say, tensors start at multiples of this.
const USUAL_ALIGNMENT: u64 = 32;

/// A file's metadata by key, and its tensors.
#[derive(Debug)]
pub struct Container<'a> {
    /// Each key once.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// In the file's order.
    pub tensors: Vec<TensorInfo<'a>>,
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its storage type.
    pub storage: Storage,
    /// Its shape, the outermost dimension first; every dimension is at least 1.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
}

/// A value of the metadata. Texts and lists are still the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer that is not negative.
    Natural(u64),
    /// A negative integer.
    Negative(i64),
    /// A number with the fewest digits that tell it from its neighbours in the file's precision.
    Float(f64),
    /// true or false.
    Flag(bool),
    /// What should be UTF-8.
    Text(&'a [u8]),
    /// Values of one type.
    List(List<'a>),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        match self {
            Self::Natural(value) => write!(f, "{value}"),
            Self::Negative(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:e}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{:?}", String::from_utf8_lossy(text.get(..LONGEST).unwrap_or(text))),
            Self::List(list) => write!(f, "a list of {} values", list.count),
        }
    }
}

/// Values of one type, one after another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct List<'a> {
    kind: u32,
    count: u64,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// The values.
    pub fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor { rest: self.bytes };
        (0..self.count).map_while(move |_| cursor.scalar(self.kind).ok())
    }
}

/// Reads the header of a whole GGUF file.
///
/// # Errors
/// What is wrong, naming the key or the tensor where one is at fault.
pub fn parse(file: &[u8]) -> Result<Container<'_>, String> {
    let header = file.get(..LARGEST_HEADER).unwrap_or(file);
    let mut cursor = Cursor { rest: header };
    cursor.magic_and_version()?;
    let (n_tensors, n_values) = (cursor.u64()?, cursor.u64()?);
    let metadata = cursor.metadata(n_values)?;
    let described = (0..n_tensors).map(|_| cursor.described()).collect::<Result<Vec<_>, _>>()?;
    let alignment = alignment(&metadata)?;
    let data_start = ((header.len() - cursor.rest.len()) as u64).next_multiple_of(alignment);
    let locate = |tensor| locate(tensor, alignment, data_start, file.len());
    let tensors = described.into_iter().map(locate).collect::<Result<Vec<_>, _>>()?;
    check_apart(&tensors)?;
    Ok(Container { metadata, tensors })
}

/// No byte belongs to two tensors.
fn check_apart(tensors: &[TensorInfo<'_>]) -> Result<(), String> {
    let mut sorted: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.bytes.start);
    let overlap = sorted.windows(2).find_map(|pair| match pair {
        [a, b] if b.bytes.start < a.bytes.end => Some((a.name, b.name)),
        _ => None,
    });
    overlap.map_or(Ok(()), |(a, b)| Err(format!("tensors {a} and {b} overlap")))
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(USUAL_ALIGNMENT),
        Some(Value::Natural(alignment @ 8..=65_536)) if alignment.is_power_of_two() => Ok(*alignment),
        Some(other) => Err(format!("general.alignment: expected a power of two from 8 to 65536, found {other}")),
    }
}

/// A tensor's description as it stands in the file.
struct Described<'a> {
    name: &'a str,
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn locate(tensor: Described<'_>, alignment: u64, data_start: u64, file_len: usize) -> Result<TensorInfo<'_>, String> {
    let Described { name, shape, kind, offset } = tensor;
    let wrong = |message: String| format!("tensor {name}: {message}");
    let storage = storage(kind).map_err(wrong)?;
    let too_large = || wrong(format!("shape {shape:?} is larger than any memory"));
    let dims = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>().ok_or_else(too_large)?;
    if dims.contains(&0) {
        return Err(wrong(format!("shape {shape:?} has no elements")));
    }
    let row = dims.last().copied().unwrap_or(1);
    let row_bytes = storage.bytes_of(row);
    let row_bytes =
        row_bytes.ok_or_else(|| wrong(format!("rows of {row} are no whole blocks of {}", storage.name())))?;
    let rows = dims.iter().rev().skip(1).try_fold(1usize, |rows, dim| rows.checked_mul(*dim));
    let n_bytes = rows.and_then(|rows| rows.checked_mul(row_bytes)).ok_or_else(too_large)?;
    if !offset.is_multiple_of(alignment) {
        return Err(wrong(format!("its offset {offset} is no multiple of the alignment {alignment}")));
    }
    let start = offset.checked_add(data_start).and_then(|start| usize::try_from(start).ok());
    let bytes = start.and_then(|start| Some(start..start.checked_add(n_bytes)?)).ok_or_else(too_large)?;
    if bytes.end > file_len {
        let message = format!("its last byte is at {}, behind the file's {file_len}: it is truncated", bytes.end);
        return Err(wrong(message));
    }
    Ok(TensorInfo { name, storage, shape: dims, bytes })
}

/// The storage types of ggml by their numbers.
fn storage(kind: u32) -> Result<Storage, String> {
    Ok(match kind {
        0 => Storage::F32,
        1 => Storage::F16,
        30 => Storage::BF16,
        2 => Storage::Blocks(GgmlDType::Q4_0),
        3 => Storage::Blocks(GgmlDType::Q4_1),
        6 => Storage::Blocks(GgmlDType::Q5_0),
        7 => Storage::Blocks(GgmlDType::Q5_1),
        8 => Storage::Blocks(GgmlDType::Q8_0),
        10 => Storage::Blocks(GgmlDType::Q2K),
        11 => Storage::Blocks(GgmlDType::Q3K),
        12 => Storage::Blocks(GgmlDType::Q4K),
        13 => Storage::Blocks(GgmlDType::Q5K),
        14 => Storage::Blocks(GgmlDType::Q6K),
        other => {
            let name = OTHER_TYPES.iter().find(|(kind, _)| *kind == other).map_or("unknown", |(_, name)| name);
            let known = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";
            return Err(format!("type {other} ({name}) is not supported: expected {known}"));
        }
    })
}

/// Types that nothing is computed from here, for messages.
const OTHER_TYPES: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// What is left to read.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or_else(|| {
            format!("the header is truncated, or longer than {LARGEST_HEADER} bytes: {count} bytes are missing")
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.u64()?;
        self.take(length)
    }

    /// A key of the metadata, or a tensor's name.
    fn name(&mut self) -> Result<&'a str, String> {
        let name = self.text()?;
        if name.len() > LONGEST_NAME {
            return Err(format!("a name has {} bytes, more than {LONGEST_NAME}", name.len()));
        }
        std::str::from_utf8(name).map_err(|error| format!("a name is not UTF-8: {error}"))
    }

    fn magic_and_version(&mut self) -> Result<(), String> {
        if !self.rest.starts_with(b"GGUF") {
            return Err("not a GGUF file: it does not start with GGUF".into());
        }
        self.take(4)?;
        match self.u32()? {
            2 | 3 => Ok(()),
            version if (1..=3).contains(&version.swap_bytes()) => Err("big-endian GGUF files are not supported".into()),
            version => Err(format!("version {version} of GGUF is not supported: expected 2 or 3")),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<&'a str, Value<'a>>, String> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.name()?;
            let value = self.value().map_err(|reason| format!("{key}: {reason}"))?;
            if metadata.insert(key, value).is_some() {
                return Err(format!("{key}: this key is there twice"));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self) -> Result<Value<'a>, String> {
        const LIST: u32 = 9;
        match self.u32()? {
            LIST => self.list().map(Value::List),
            kind => self.scalar(kind),
        }
    }

    fn list(&mut self) -> Result<List<'a>, String> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let bytes = self.rest;
        for _ in 0..count {
            self.scalar(kind)?;
        }
        let length = bytes.len() - self.rest.len();
        Ok(List { kind, count, bytes: bytes.get(..length).unwrap_or_default() })
    }

    fn scalar(&mut self, kind: u32) -> Result<Value<'a>, String> {
        let signed = |value: i64| u64::try_from(value).map_or(Value::Negative(value), Value::Natural);
        Ok(match kind {
            0 => Value::Natural(u8::from_le_bytes(self.array()?).into()),
            1 => signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Natural(u16::from_le_bytes(self.array()?).into()),
            3 => signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Natural(self.u32()?.into()),
            5 => signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(in_decimal(f32::from_le_bytes(self.array()?))),
            7 => Value::Flag(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Natural(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of type {other}, which is none of GGUF's or a list within a list")),
        })
    }

    fn described(&mut self) -> Result<Described<'a>, String> {
        let name = self.name()?;
        let n_dims = self.u32()?;
        if n_dims > MOST_DIMENSIONS {
            return Err(format!("tensor {name}: {n_dims} dimensions, more than {MOST_DIMENSIONS}"));
        }
        let mut shape = (0..n_dims).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse(); // the file has the innermost first
        Ok(Described { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}

/// A number that was written in decimal before it was rounded: 1e-5 is that again.
fn in_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
