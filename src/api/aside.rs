//! Work that takes its time, off the threads that serve connections.

use super::app::{App, Served};
use super::error::ApiError;
use crate::error::Error;

/// Runs `work` on a thread of its own if its `size` is above `limit`, else at once.
pub(super) async fn aside<T: Send + 'static>(
    size: usize,
    limit: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if size <= limit {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Internal("a task that reads or writes JSON panicked".into()).into())
}

/// Runs `work` with what is served, always on a thread of its own.
pub(super) async fn with_served<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Served) -> Result<T, Error> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let done = tokio::task::spawn_blocking(move || work(app.served()?).map_err(ApiError::from)).await;
    done.unwrap_or_else(|_| Err(Error::Internal("a task that reads a prompt panicked".into()).into()))
}
