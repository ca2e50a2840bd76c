//! SIGINT and SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// What shells add to a signal's number for the exit code of a process that it ended.
const SIGNALLED: u8 = 128;

/// Whether a signal has asked the process to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    asked: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Shutdown {
    /// From now on the first SIGINT or SIGTERM is noted instead of ending the process; a second one ends it at once.
    pub fn on_signals() -> Result<Self> {
        let shutdown = Self::default();
        shutdown.watch().map_err(|error| Error::Internal(format!("can't watch for signals: {error}")))?;
        Ok(shutdown)
    }

    fn watch(&self) -> std::io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal must find the flag that the first one has set.
            flag::register_conditional_shutdown(signal, i32::from(SIGNALLED) + signal, Arc::clone(&self.asked))?;
            flag::register(signal, Arc::clone(&self.asked))?;
        }
        flag::register(SIGTERM, Arc::clone(&self.terminated))?;
        Ok(())
    }

    /// Whether the first signal has come.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The exit code of a process that the signal ended.
    pub fn exit_code(&self) -> u8 {
        let signal = if self.terminated.load(Ordering::Relaxed) { SIGTERM } else { SIGINT };
        SIGNALLED + signal as u8
    }
}
