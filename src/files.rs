//! The files of a model, on the disk, in the program or made of another file: small ones are read whole, large ones are mapped. What stands at
//! a path on the disk is not trusted.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The files of one model, each under its name.
#[derive(Clone, Debug)]
pub enum Files {
    /// Those in a directory; a name may be any path from there.
    Directory(PathBuf),
    /// Those in the program itself.
    Embedded(&'static Embedded),
    /// Those that were made of another file.
    Made(Arc<Made>),
}

/// Files in the program itself.
pub struct Embedded {
    /// What they are together; messages have it in place of a directory.
    pub id: &'static str,
    /// The name and the bytes of each.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// Files that were made of another one.
#[derive(Debug)]
pub struct Made {
    /// The file that they were made of; messages have it in place of a directory.
    pub path: PathBuf,
    /// The name and the bytes of each.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Files {
    /// The directory, or what stands for it in messages.
    pub fn root(&self) -> &Path {
        match self {
            Self::Directory(directory) => directory,
            Self::Embedded(embedded) => Path::new(embedded.id),
            Self::Made(made) => &made.path,
        }
    }

    /// Where the file `name` is or would be, for messages: `nano:config.json` is embedded, and `model.gguf:config.json` was
    /// made of model.gguf.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(name),
            Self::Embedded(_) | Self::Made(_) => {
                format!("{}:{}", self.root().display(), name.as_ref().display()).into()
            }
        }
    }

    /// Whether there is anything under `name`.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        match self {
            Self::Directory(directory) => directory.join(name).exists(),
            Self::Embedded(embedded) => embedded.get(name.as_ref()).is_some(),
            Self::Made(made) => made.get(name.as_ref()).is_some(),
        }
    }

    /// Whether `name` is a directory with files of its own.
    pub fn has_directory(&self, name: impl AsRef<Path>) -> bool {
        match self {
            Self::Directory(directory) => directory.join(name).is_dir(),
            Self::Embedded(_) | Self::Made(_) => false,
        }
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let mut names: Vec<OsString> = match self {
            Self::Directory(directory) => {
                let names =
                    fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
                names.map_err(|error| Error::io(directory, error))?
            }
            Self::Embedded(embedded) => embedded.files.iter().map(|(name, _)| name.into()).collect(),
            Self::Made(made) => made.files.iter().map(|(name, _)| name.into()).collect(),
        };
        names.sort();
        Ok(names)
    }

    /// The bytes of the file `name`; none if nothing is there. A link that leads nowhere is an error.
    ///
    /// # Errors
    /// What is there is not a file, can't be read, or is larger than `limit` bytes, which only those in directories are
    /// asked.
    pub fn read_if_present(&self, name: impl AsRef<Path>, limit: u64) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Self::Directory(directory) => Ok(read_if_present(&directory.join(name), limit)?.map(Cow::Owned)),
            Self::Embedded(embedded) => Ok(embedded.get(name.as_ref()).map(Cow::Borrowed)),
            Self::Made(made) => Ok(made.get(name.as_ref()).map(|bytes| Cow::Owned(bytes.to_vec()))),
        }
    }

    /// The bytes of the file `name`, however large it is. Nothing large is made of other files.
    ///
    /// # Errors
    /// There is no such file, or it can't be read.
    pub fn map(&self, name: impl AsRef<Path>) -> Result<Bytes> {
        match self {
            Self::Directory(directory) => Ok(Bytes(Held::Mapped(map(&directory.join(name))?))),
            Self::Embedded(embedded) => {
                let bytes = embedded.get(name.as_ref());
                let missing = || Error::not_found(&self.path(&name), "no such file is embedded");
                Ok(Bytes(Held::Embedded(bytes.ok_or_else(missing)?)))
            }
            Self::Made(_) => Err(Error::not_found(&self.path(&name), "no such file was made")),
        }
    }
}

impl Embedded {
    fn get(&self, name: &Path) -> Option<&'static [u8]> {
        self.files.iter().find(|(known, _)| Path::new(known) == name).map(|(_, bytes)| *bytes)
    }
}

impl Made {
    fn get(&self, name: &Path) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| Path::new(known) == name).map(|(_, bytes)| bytes.as_slice())
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// The bytes of a large file, which come from the disk as they are looked at.
pub struct Bytes(Held);

enum Held {
    Mapped(Mapped),
    Embedded(&'static [u8]),
}

/// A file in memory, and what it was like when it was mapped.
struct Mapped {
    map: Mmap,
    file: File,
    stamp: Stamp,
}

/// A file's length, and when it was written last.
type Stamp = (u64, Option<SystemTime>);

impl Bytes {
    /// Whether the file was written to since it was mapped. One that was replaced under its name is still the old one here.
    pub fn have_changed(&self) -> bool {
        match &self.0 {
            Held::Mapped(mapped) => stamp(&mapped.file).ok() != Some(mapped.stamp),
            Held::Embedded(_) => false,
        }
    }

    /// Says that a range was read: its bytes no longer count as this process's memory until they are looked at again.
    pub fn release(&self, range: &Range<usize>) {
        match &self.0 {
            Held::Mapped(mapped) => release(&mapped.map, range),
            Held::Embedded(_) => {} // the program's own pages are the system's business
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(mapped) => &mapped.map,
            Held::Embedded(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Refuses what is not a file: opening a pipe would wait for a writer, and a device has no end. Its size in bytes.
fn expect_file(path: &Path) -> Result<u64> {
    let found = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if found.is_file() {
        Ok(found.len())
    } else {
        Err(Error::checkpoint(path, "expected a file, found something else"))
    }
}

fn read_if_present(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let size = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
        Ok(_) => expect_file(path)?,
    };
    if size > limit {
        return Err(Error::checkpoint(path, format!("expected at most {limit} bytes, found {size}")));
    }
    let mut bytes = Vec::new();
    // Some files tell no size or grow: they are cut, which what parses them will say.
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| Error::io(path, error))?;
    Ok(Some(bytes))
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mapped> {
    expect_file(path)?;
    let mapped = File::open(path).and_then(|file| {
        let stamp = stamp(&file)?;
        // SAFETY: the map is only read, and only while weights are copied out of it. If another process shortens the
        // file in that time the read faults, as it does for every program that maps files; whole-file writers rename.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Mapped { map, file, stamp })
    });
    mapped.map_err(|error| Error::io(path, error))
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let found = file.metadata()?;
    Ok((found.len(), found.modified().ok()))
}

/// Takes the pages of a range out of this process's memory; the system may keep them in its cache.
#[cfg(unix)]
#[allow(unsafe_code)]
fn release(map: &Mmap, range: &Range<usize>) {
    // SAFETY: a page of a read-only file map that is not there is read from the file again when it is touched.
    let released = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    if let Err(error) = released {
        tracing::debug!("the system keeps pages that are no longer needed: {error}");
    }
}

#[cfg(not(unix))]
fn release(_: &Mmap, _: &Range<usize>) {}

/// The numbers that Python writes and JSON has not.
const NO_JSON: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// JSON that Python wrote: its infinities and NaN, which are no JSON, as transformers 5 writes them,
/// `{"__float__": "Infinity"}`.
pub fn strict_json(json: &[u8]) -> Cow<'_, [u8]> {
    if !NO_JSON.iter().any(|name| json.windows(name.len()).any(|window| window == *name)) {
        return Cow::Borrowed(json);
    }
    let (mut strict, mut rest, mut is_text) = (Vec::with_capacity(json.len()), json, false);
    while let Some((byte, after)) = rest.split_first() {
        if let (false, Some(name)) = (is_text, NO_JSON.into_iter().find(|name| rest.starts_with(name))) {
            strict.extend([b"{\"__float__\": \"", name, b"\"}"].concat());
            rest = rest.get(name.len()..).unwrap_or_default();
            continue;
        }
        is_text ^= *byte == b'"';
        strict.push(*byte);
        rest = after;
        if let (true, b'\\', Some((escaped, after))) = (is_text, byte, rest.split_first()) {
            strict.push(*escaped);
            rest = after;
        }
    }
    Cow::Owned(strict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_become_json_and_texts_stay() {
        let json = br#"{"a": [0.0, Infinity], "b": -Infinity, "c": "Infinity \" NaN", "d": NaN}"#;
        let strict: serde_json::Value = serde_json::from_slice(&strict_json(json)).unwrap();
        let float = |name: &str| serde_json::json!({"__float__": name});
        assert_eq!(strict["a"][1], float("Infinity"));
        assert_eq!((&strict["b"], &strict["d"]), (&float("-Infinity"), &float("NaN")));
        assert_eq!(strict["c"], "Infinity \" NaN");
        assert!(matches!(strict_json(b"{}"), Cow::Borrowed(_)));
    }

    static EMBEDDED: Embedded = Embedded { id: "m", files: &[("b.json", b"{}"), ("a.bin", b"12345")] };

    /// The same files in a directory.
    fn written() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in EMBEDDED.files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let files = Files::Directory(directory.path().to_owned());
        (directory, files)
    }

    #[test]
    fn embedded_files_and_those_of_a_directory_are_read_alike() {
        let (_directory, written) = written();
        for files in [&written, &Files::Embedded(&EMBEDDED)] {
            assert_eq!(files.names().unwrap(), ["a.bin", "b.json"]);
            assert_eq!(files.read_if_present("a.bin", 5).unwrap().as_deref(), Some(&b"12345"[..]));
            assert_eq!(files.read_if_present("nothing", 5).unwrap(), None);
            assert_eq!(
                (files.has("b.json"), files.has("nothing"), files.has_directory("b.json")),
                (true, false, false)
            );
            let bytes = files.map("a.bin").unwrap();
            bytes.release(&(0..5));
            assert_eq!(*bytes, b"12345"[..]);
            let missing = files.map("nothing").unwrap_err().to_string();
            assert!(missing.starts_with(&format!("{}: ", files.path("nothing").display())), "{missing}");
        }
    }

    #[test]
    fn messages_tell_embedded_files_from_those_on_the_disk() {
        let files = Files::Embedded(&EMBEDDED);
        assert_eq!(files.root(), Path::new("m"));
        assert_eq!(files.path("b.json"), Path::new("m:b.json"));
        assert_eq!(Files::Directory("m".into()).path("b.json"), Path::new("m/b.json"));
        assert_eq!(format!("{files:?} {:?}", files.map("a.bin").unwrap()), "Embedded(m) 5 bytes");
    }

    #[test]
    fn files_are_read_up_to_the_limit_and_nothing_else_is() {
        let (_directory, files) = written();
        let message = |name: &str, limit| files.read_if_present(name, limit).unwrap_err().to_string();
        assert!(message("a.bin", 4).contains("expected at most 4 bytes, found 5"));
        assert!(message("", 5).contains("found something else"));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_and_devices_are_refused() {
        let (directory, files) = written();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, directory.path().join(name)).unwrap();
            files.read_if_present(name, 5).unwrap_err().to_string()
        };
        assert!(link("/no/such/file", "dangling").contains("dangling"));
        assert!(link("/dev/zero", "endless").contains("found something else"));
    }
}
