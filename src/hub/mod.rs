//! Models of the [Hugging Face Hub](https://huggingface.co/docs/hub): from `OWNER/NAME` to files in the cache that all
//! tools share.
//!
//! In reading order: [`id`] is how models are named, [`cache`] where their files are kept, `selection` which of them are
//! needed, `client` how they are asked for, and `download` how one of them comes in.

pub mod cache;
mod client;
mod download;
pub mod id;
mod selection;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::checkpoint::gguf::parts;
use crate::config::HubSettings;
use crate::error::{Error, Result};
use crate::files::Files;
use cache::Place;
use client::{Client, Failure, Listed, Listing};
use download::{Download, patiently};
use id::ModelId;
use selection::Selection;

/// So many files are downloaded at once.
const STREAMS: usize = 4;

/// What is told of a download.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A file of so many bytes is needed.
    Needed(&'a str, u64),
    /// A file of so many bytes is downloaded.
    Begun(&'a str, u64),
    /// So many bytes are there.
    Gained(u64),
    /// So many of them must be asked for again.
    Lost(u64),
}

/// Whoever is told.
pub type Watch<'a> = &'a (dyn Fn(Told<'_>) + Sync);

/// Finds the files of a model: those of the commit that the Hub names, downloaded unless they are in the cache; where it can't
/// be reached, those in the cache. The path is that of their directory, or of the one file that was named.
///
/// # Errors
/// There is no such model, it may not be read, its family is not supported, the connection breaks again and again, or the
/// disk is full. What came is kept, and is not asked for again.
pub fn find(settings: &HubSettings, id: &ModelId, watch: Watch<'_>) -> Result<PathBuf> {
    let place = Place::new(&settings.cache, id);
    let known = place.known_snapshot().filter(|snapshot| is_whole(snapshot, id));
    match known {
        Some(snapshot) if settings.is_offline => Ok(path_in(&snapshot, id)),
        None if settings.is_offline => {
            let message =
                format!("not in the cache {}, and HF_HUB_OFFLINE forbids to download it", settings.cache.display());
            Err(Error::hub(id, message))
        }
        known => Fetch { client: Client::new(settings, id)?, place: &place, id, watch }.newest(known),
    }
}

/// The model's directory, or the one file that was named.
fn path_in(snapshot: &Path, id: &ModelId) -> PathBuf {
    id.file.as_ref().map_or_else(|| snapshot.to_owned(), |file| snapshot.join(file))
}

/// Whether all weights of the model are there, which come last.
fn is_whole(snapshot: &Path, id: &ModelId) -> bool {
    if let Some(file) = &id.file {
        return parts::all(file).iter().all(|part| snapshot.join(part).is_file());
    }
    let files = Files::Directory(snapshot.to_owned());
    let names = files.names().unwrap_or_default().iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let weights = Selection::new(names, id).weights(&files);
    weights.is_ok_and(|weights| weights.iter().all(|name| snapshot.join(name).is_file()))
}

/// A model that is looked for at the Hub.
struct Fetch<'a> {
    client: Client,
    place: &'a Place,
    id: &'a ModelId,
    watch: Watch<'a>,
}

impl Fetch<'_> {
    /// The files of the commit that the revision stands for now; those that are `known` where the Hub can't be reached.
    fn newest(&self, known: Option<PathBuf>) -> Result<PathBuf> {
        let listing = match known {
            None => patiently(|_| self.client.list())?,
            Some(known) => match self.client.list() {
                Ok(listing) => listing,
                Err(Failure::Passing(error)) => {
                    tracing::warn!("{error}; taking what the cache has, which may not be the newest");
                    return Ok(path_in(&known, self.id));
                }
                Err(Failure::Lasting(error)) => return Err(error),
            },
        };
        self.download(&listing).map(|snapshot| path_in(&snapshot, self.id))
    }

    fn download(&self, listing: &Listing) -> Result<PathBuf> {
        let names: BTreeSet<&String> =
            listing.files.iter().map(|file| &file.name).filter(|name| id::is_path(name)).collect();
        let selection = Selection::new(names.into_iter().cloned().collect(), self.id);
        let snapshot = self.place.snapshot(&listing.commit);
        self.bring(listing, &selection.first())?;
        let rest = selection.rest(&snapshot).map_err(|error| Error::hub(self.id, error.to_string()))?;
        self.bring(listing, &rest.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.place.note_commit(&listing.commit)?;
        Ok(snapshot)
    }

    /// Downloads these files of a commit, several at once.
    fn bring(&self, listing: &Listing, names: &[&str]) -> Result<()> {
        let files = names.iter().map(|name| self.listed(listing, name)).collect::<Result<Vec<_>>>()?;
        for file in &files {
            (self.watch)(Told::Needed(&file.name, file.size.unwrap_or(0)));
        }
        let (waiting, failure, is_stopped) = (Mutex::new(files.iter()), Mutex::new(None), AtomicBool::new(false));
        let download = Download {
            client: &self.client,
            place: self.place,
            commit: &listing.commit,
            watch: self.watch,
            is_stopped: &is_stopped,
        };
        let work = || {
            while let Some(file) = next(&waiting).filter(|_| !is_stopped.load(Ordering::Relaxed)) {
                if let Err(error) = download.fetch(file) {
                    is_stopped.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| (0..STREAMS.min(files.len())).for_each(|_| drop(scope.spawn(work))));
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn listed(&self, listing: &Listing, name: &str) -> Result<Listed> {
        let file = listing.files.iter().find(|file| file.name == name).cloned();
        file.ok_or_else(|| self.client.error(format!("{name} is needed, but the model has no such file")))
    }
}

fn next<'a>(waiting: &Mutex<std::slice::Iter<'a, Listed>>) -> Option<&'a Listed> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}
