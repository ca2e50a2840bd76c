//! The directory of downloaded models, laid out as [huggingface_hub](https://huggingface.co/docs/huggingface_hub/guides/manage-cache)
//! has it, so that all tools share what one of them downloaded: files by their hash in `blobs`, linked from the
//! `snapshots` of commits, and the commits that branches stand for in `refs`.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::id::ModelId;
use crate::error::{Error, Result};

/// What all models' directories begin with.
const MODELS: &str = "models--";

/// One model's place in the cache.
pub(super) struct Place {
    root: PathBuf,
    folder: String,
    revision: String,
    layout: CacheRepo,
}

impl Place {
    pub(super) fn new(cache: &Path, id: &ModelId) -> Self {
        let repo = Repo::with_revision(id.repo.clone(), RepoType::Model, id.revision.clone());
        let (folder, layout) = (repo.folder_name(), hf_hub::Cache::new(cache.to_owned()).repo(repo));
        Self { root: cache.to_owned(), folder, revision: id.revision.clone(), layout }
    }

    /// Where the files of a commit are linked.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// Where the bytes of a file are.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join(&self.folder).join("blobs").join(etag)
    }

    /// The snapshot that the revision stood for when it was last downloaded, if it was.
    pub(super) fn known_snapshot(&self) -> Option<PathBuf> {
        let named = fs::read_to_string(self.reference());
        let commit = named.map_or_else(|_| self.revision.clone(), |commit| commit.trim().to_owned());
        let snapshot = self.snapshot(&commit);
        (super::id::is_path(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Notes which commit the revision stands for, unless that is known or it is the commit.
    pub(super) fn note_commit(&self, commit: &str) -> Result<()> {
        let path = self.reference();
        if commit == self.revision || fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        replace(&path, |path| fs::write(path, commit))
    }

    /// The file that says which commit the revision stands for.
    fn reference(&self) -> PathBuf {
        self.root.join(&self.folder).join("refs").join(&self.revision)
    }

    /// Waits until nobody else downloads the file with this hash.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        let path = self.root.join(".locks").join(&self.folder).join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(|error| disk(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::info!("waiting for another process that downloads a file of this model");
                file.lock().map_err(|error| disk(&path, error))?;
            }
            Err(TryLockError::Error(error)) => return Err(disk(&path, error)),
        }
        Ok(file)
    }

    /// Makes the file with this hash the commit's `name`, unless it is.
    pub(super) fn link(&self, etag: &str, commit: &str, name: &str) -> Result<()> {
        let (blob, link) = (self.blob(etag), self.snapshot(commit).join(name));
        let up = "../".repeat(2 + name.matches('/').count());
        let target = Path::new(&up).join("blobs").join(etag);
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        replace(&link, |link| symlink(&target, link).or_else(|_| fs::copy(&blob, link).map(|_| ())))
    }
}

/// Puts what `make` makes at a path beside it to `path`, in one step: whoever looks finds the old or the new.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    create_parent(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", uuid::Uuid::new_v4()));
    let made = PathBuf::from(name);
    make(&made).and_then(|()| fs::rename(&made, path)).map_err(|error| {
        let _ = fs::remove_file(&made);
        disk(path, error)
    })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Makes the directory that `path` is to lie in.
pub(super) fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(|error| disk(parent, error)))
}

/// A failure to keep something in the cache, with what to do where the disk is full.
pub(super) fn disk(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::io(
            path,
            io::Error::new(
                error.kind(),
                format!("{error}: make room, or set HF_HOME to a larger disk, and ask again: what is there is kept"),
            ),
        ),
        _ => Error::io(path, error),
    }
}

/// A commit of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// `OWNER/NAME`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// The branches and tags that stood for it.
    pub revisions: Vec<String>,
    /// The bytes of its files.
    pub bytes: u64,
    /// Where they are.
    pub path: PathBuf,
}

/// All commits of all models in the cache, by name.
///
/// # Errors
/// The directory can't be read; one that is not there has no models.
pub fn snapshots(cache: &Path) -> Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    for folder in entries(cache)? {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(repo) = name.strip_prefix(MODELS).map(|name| name.replace("--", "/")) else { continue };
        let revisions = revisions(&folder.join("refs"), "").unwrap_or_default();
        let snapshots = entries(&folder.join("snapshots")).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Vec::new()
        });
        for path in snapshots.into_iter().filter(|path| is_directory(path)) {
            let commit = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let named = revisions.iter().filter(|(_, of)| **of == commit).map(|(name, _)| name.clone()).collect();
            found.push(Snapshot {
                repo: repo.clone(),
                revisions: named,
                bytes: size(&path).unwrap_or(0),
                commit,
                path,
            });
        }
    }
    found.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
    Ok(found)
}

/// What is in a directory; nothing if it isn't there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        read => {
            let paths = read.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            paths.map_err(|error| Error::io(directory, error))
        }
    }
}

/// The commits that revisions stand for, by their names, which may have slashes.
fn revisions(directory: &Path, before: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for path in entries(directory)? {
        let name = format!("{before}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if is_directory(&path) {
            found.extend(revisions(&path, &format!("{name}/"))?);
        } else if let Ok(commit) = fs::read_to_string(&path) {
            found.insert(name, commit.trim().to_owned());
        }
    }
    Ok(found)
}

/// The bytes of all files under `path`, those that links lead to included.
fn size(path: &Path) -> Result<u64> {
    if is_directory(path) {
        return entries(path)?.iter().map(|entry| size(entry)).sum();
    }
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file); // a link may lead to a file that was removed
    Ok(found.map_or(0, |file| file.len()))
}

/// Whether it is a directory itself, and not a link to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}
