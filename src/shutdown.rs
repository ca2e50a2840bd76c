//! SIGINT and SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The exit code of a process that SIGINT ended, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// A flag that the first SIGINT or SIGTERM sets; a second one ends the process at once.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let handler = move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Error::Internal(format!("can't watch for signals: {error}")))?;
    Ok(flag)
}
