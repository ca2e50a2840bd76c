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
    /// A prompt leaves no room in the model's context.
    #[error(
        "prompt is too long: this model's maximum context length is {max_seq_len} tokens, and the prompt has {prompt_tokens}{}",
        if *is_least { " or more" } else { "" }
    )]
    ContextLength {
        /// The parameter that has the prompt.
        param: &'static str,
        /// The prompt's tokens.
        prompt_tokens: usize,
        /// Whether they were not counted, and may be more.
        is_least: bool,
        /// What the model has room for.
        max_seq_len: usize,
    },
    /// A setting that no flag could have.
    #[error("{origin}: {message}")]
    Setting {
        /// The file and line, or the variable.
        origin: String,
        /// The key, what was expected and what was found.
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
    /// A model of the Hub can't be had.
    #[error("{id}: {message}")]
    Hub {
        /// The model as it was asked for.
        id: String,
        /// What was asked, what the answer was and what to do.
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
    /// There is no room for another request.
    #[error("the queue is full: {message}; try again in {retry_after_seconds} s")]
    Overloaded {
        /// Which bound was met, and how full it is.
        message: String,
        /// When there is likely to be room, from how fast the queue empties.
        retry_after_seconds: u64,
    },
    /// A request can't be worked on in the time that it was given.
    #[error("{0}")]
    Timeout(Timeout),
    /// Nothing is taken in now, though it may be later or elsewhere.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// Something valid that this build or machine does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A fault of blazr itself.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Which bound on time was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Timeout {
    /// That on waiting for the requests before it.
    #[error("the request waited longer than --queue-timeout allows: the server is busy")]
    Queue,
    /// That on the whole request.
    #[error("the request took longer than --request-timeout allows: ask for fewer tokens")]
    Request,
    /// That on taking in an answer as it is generated.
    #[error("the answer was read too slowly: what was not read of it is lost")]
    Reader,
}

/// Why nothing is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The model is being loaded.
    #[error("the model is being loaded: try again soon")]
    Loading,
    /// The server is being stopped.
    #[error("the server is shutting down: send the request to another one")]
    Draining,
    /// The inference loop has taken no step for long.
    #[error("the inference loop hangs: send the request to another server")]
    Stalled,
    /// The inference loop has died.
    #[error("the inference loop has died, and the server ends: send the request to another one")]
    Dead,
}

impl Error {
    /// A value of a request's or flag's `param` that can't be honoured.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { param, message: message.into() }
    }

    /// The same error, blamed on `param` where it is the prompt's.
    pub fn of_prompt(self, prompt: &'static str) -> Self {
        match self {
            Self::Invalid { param: "prompt", message } => Self::Invalid { param: prompt, message },
            Self::ContextLength { prompt_tokens, is_least, max_seq_len, .. } => {
                Self::ContextLength { param: prompt, prompt_tokens, is_least, max_seq_len }
            }
            other => other,
        }
    }

    /// A setting at `origin` that no flag could have.
    pub fn setting(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { origin: origin.into(), message: message.into() }
    }

    /// Something that was looked for at `path` and is not there.
    pub fn not_found(path: &Path, message: impl Into<String>) -> Self {
        Self::NotFound { path: path.to_owned(), message: message.into() }
    }

    /// A fault in the checkpoint file at `path`.
    pub fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), message: message.into() }
    }

    /// A failure to get the model `id` from the Hub.
    pub fn hub(id: &impl std::fmt::Display, message: impl Into<String>) -> Self {
        let printable = |c: char| if c.is_control() { ' ' } else { c }; // what a server says may be meant for a terminal
        Self::Hub { id: id.to_string(), message: message.into().chars().map(printable).collect() }
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
