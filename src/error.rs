//! What can go wrong, in the terms of whoever has to mend it. Nothing here knows HTTP.

use std::path::{Path, PathBuf};

/// A result whose error is blazr's own.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of the crate. The message names the thing, what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request or a flag has a value that can't be honoured.
    #[error("{param}: {message}")]
    Invalid {
        /// The parameter at fault, spelled as in the API.
        param: &'static str,
        /// What was expected, what was found and what to do.
        message: String,
    },
    /// A file or directory that was asked for is not there.
    #[error("{}: {message}", path.display())]
    NotFound {
        /// The path as it was asked for.
        path: PathBuf,
        /// What was looked for and what to do.
        message: String,
    },
    /// A checkpoint's file is broken or does not fit together.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The file at fault.
        path: PathBuf,
        /// The key or tensor, what was expected and what was found.
        message: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file at fault.
        path: PathBuf,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// Something valid that this build or machine does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A fault of blazr itself.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A value of a request's or flag's `param` that can't be honoured.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { param, message: message.into() }
    }

    /// Something that was looked for at `path` and is not there.
    pub fn not_found(path: &Path, message: impl Into<String>) -> Self {
        Self::NotFound { path: path.to_owned(), message: message.into() }
    }

    /// A fault in the checkpoint file at `path`.
    pub fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), message: message.into() }
    }

    /// A failed read or write of the file at `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Internal(error.to_string())
    }
}
