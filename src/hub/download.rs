//! One file, from the Hub into the cache, however often the connection breaks.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::cache::{Place, create_parent, disk};
use super::client::{Client, Failure, Listed, Reply};
use super::{Told, Watch};
use crate::error::Result;

/// So often in a row a server may fail without a byte gained.
const ATTEMPTS: u32 = 5;

/// How long is waited after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// So many bytes are moved at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Asks until there is an answer, or the failure lasts. What is asked says how many bytes it has reached: one that gets
/// further each time is asked without end.
pub(super) fn patiently<T>(mut ask: impl FnMut(&mut u64) -> Result<T, Failure>) -> Result<T> {
    let (mut failures, mut reached) = (0, 0);
    loop {
        let before = reached;
        match ask(&mut reached) {
            Ok(answer) => return Ok(answer),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error)) => {
                failures = if reached > before { 1 } else { failures + 1 };
                if failures == ATTEMPTS {
                    return Err(error);
                }
                tracing::warn!("{error}; trying again");
                thread::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1));
            }
        }
    }
}

/// The way of one file of a commit.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) place: &'a Place,
    pub(super) commit: &'a str,
    pub(super) watch: Watch<'a>,
    /// Another file can't be had.
    pub(super) is_stopped: &'a AtomicBool,
}

impl Download<'_> {
    /// Brings a file into the cache, unless all of it is there.
    pub(super) fn fetch(&self, file: &Listed) -> Result<()> {
        let link = self.place.snapshot(self.commit).join(&file.name);
        if has_size(&link, file.size) {
            (self.watch)(Told::Gained(file.size.unwrap_or(0)));
            return Ok(());
        }
        patiently(|reached| self.attempt(file, reached))
    }

    /// Tries once, from where the attempts before have `reached`.
    fn attempt(&self, file: &Listed, reached: &mut u64) -> Result<(), Failure> {
        let reply = self.client.open(self.commit, &file.name, *reached)?;
        let size = self.size(file, &reply)?;
        let etag = reply.etag.clone();
        let _lock = self.place.lock(&etag)?;
        let blob = self.place.blob(&etag);
        if has_size(&blob, size) {
            (self.watch)(Told::Gained(size.unwrap_or(0)));
        } else {
            self.complete(file, reply, size, &blob, reached)?;
        }
        Ok(self.place.link(&etag, self.commit, &file.name)?)
    }

    /// How many bytes the file has, if anybody says: whoever does must agree.
    fn size(&self, file: &Listed, reply: &Reply) -> Result<Option<u64>> {
        match (file.size, reply.size) {
            (Some(listed), Some(size)) if listed != size => {
                let message = format!("{}: the Hub lists {listed} bytes, but {size} are to come", file.name);
                Err(self.client.error(message))
            }
            (listed, size) => Ok(listed.or(size)),
        }
    }

    /// Adds to what there is of a file until it is whole, and gives it its name.
    fn complete(
        &self,
        file: &Listed,
        reply: Reply,
        size: Option<u64>,
        blob: &Path,
        reached: &mut u64,
    ) -> Result<(), Failure> {
        let part = part_of(blob);
        create_parent(&part)?;
        let failed = |error| disk(&part, error);
        let mut out = File::options().create(true).append(true).open(&part).map_err(failed)?;
        let have = out.metadata().map_err(failed)?.len();
        if have == 0 || size != Some(have) {
            if let (None, Some(size)) = (file.size, size) {
                (self.watch)(Told::Needed(&file.name, size));
            }
            (self.watch)(Told::Begun(&file.name, size.unwrap_or(0)));
            let reply = self.at(file, reply, have)?;
            if reply.start != have {
                out.set_len(0).map_err(failed)?;
            }
            (self.watch)(Told::Gained(reply.start));
            // One byte more than the rest shows that there is more than there should be.
            let rest = size.map_or(u64::MAX, |size| size.saturating_sub(reply.start).saturating_add(1));
            let broken = self.pour(&mut reply.body.take(rest), &mut out, &part)?;
            let found = out.metadata().map_err(failed)?.len();
            *reached = found.max(*reached);
            self.check(file, size, found, broken).inspect_err(|_| (self.watch)(Told::Lost(found)))?;
        }
        fs::rename(&part, blob).map_err(failed)?;
        Ok(())
    }

    /// The same reply, or another, so that it begins where what there is ends, or else at the beginning.
    fn at(&self, file: &Listed, reply: Reply, have: u64) -> Result<Reply, Failure> {
        if reply.start == have {
            return Ok(reply);
        }
        let etag = reply.etag;
        let reply = self.client.open(self.commit, &file.name, have)?;
        if reply.etag == etag && (reply.start == have || reply.start == 0) {
            return Ok(reply);
        }
        let message = format!("{}: asked for the bytes from {have} on, got those from {} on", file.name, reply.start);
        Err(Failure::Lasting(self.client.error(message)))
    }

    /// Moves what comes into the file, up to its end or to where the connection breaks, which is said.
    fn pour(&self, from: &mut dyn Read, to: &mut File, part: &Path) -> Result<Option<std::io::Error>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.is_stopped.load(Ordering::Relaxed) {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(error) => return Ok(Some(error)),
            };
            to.write_all(buffer.get(..count).unwrap_or_default()).map_err(|error| disk(part, error))?;
            (self.watch)(Told::Gained(count as u64));
        }
        Err(self.client.error("the download of another file failed"))
    }

    /// Whether so many bytes are all of a file, whose connection may have broken.
    fn check(
        &self,
        file: &Listed,
        size: Option<u64>,
        found: u64,
        broken: Option<std::io::Error>,
    ) -> Result<(), Failure> {
        let is_whole = size.map_or(broken.is_none(), |size| found == size);
        if is_whole {
            return Ok(());
        }
        let expected = size.map_or("more".to_owned(), |size| format!("{size} in all"));
        let reason = broken.map(|error| format!(": {error}")).unwrap_or_default();
        let name = &file.name;
        Err(Failure::Passing(self.client.error(format!("{name}: {found} bytes came, expected {expected}{reason}"))))
    }
}

/// Where the bytes of a file are that is not whole. Other tools may write theirs in another order than from the first to the
/// last, so that the name is blazr's own.
fn part_of(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".blazr.incomplete");
    name.into()
}

fn has_size(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}
