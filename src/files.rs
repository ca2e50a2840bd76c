//! Reading small files whole, without trusting what stands at their paths.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Refuses what is not a file: opening a pipe would wait for a writer, and a device has no end.
///
/// Its size in bytes.
///
/// # Errors
/// There is nothing at `path`, a link there leads nowhere, or what is there is not a file.
pub fn expect_file(path: &Path) -> Result<u64> {
    let found = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if found.is_file() {
        Ok(found.len())
    } else {
        Err(Error::checkpoint(path, "expected a file, found something else"))
    }
}

/// The bytes of the file at `path`; none if nothing is there. A link that leads nowhere is an error.
///
/// # Errors
/// What is there is not a file, can't be read, or is larger than `limit` bytes.
pub fn read_if_present(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_the_limit_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        assert_eq!(read_if_present(&path("file"), 5).unwrap(), Some(b"12345".to_vec()));
        assert!(
            read_if_present(&path("file"), 4).unwrap_err().to_string().contains("expected at most 4 bytes, found 5")
        );
        assert_eq!(read_if_present(&path("nothing"), 5).unwrap(), None);
        let of_folder = read_if_present(directory.path(), 5).unwrap_err().to_string();
        assert!(of_folder.contains("found something else"), "{of_folder}");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_and_devices_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = |target: &str, name: &str| {
            let path = directory.path().join(name);
            std::os::unix::fs::symlink(target, &path).unwrap();
            read_if_present(&path, 5).unwrap_err().to_string()
        };
        assert!(link("/no/such/file", "dangling").contains("dangling"));
        assert!(link("/dev/zero", "endless").contains("found something else"));
    }
}
