//! Which connections still have to deliver an answer, so that the end of the server waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many connections are delivering an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Owed(Arc<AtomicUsize>);

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    owed: Owed,
    is_owing: AtomicBool,
}

impl Owed {
    /// Another connection, which owes nothing yet.
    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::new(Connection { owed: self.clone(), is_owing: AtomicBool::new(false) })
    }

    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Connection {
    /// Its client has an answer to come, or not: then it is asking for one.
    pub(super) fn set_owing(&self, is_owing: bool) {
        match (self.is_owing.swap(is_owing, Ordering::Relaxed), is_owing) {
            (false, true) => drop(self.owed.0.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.owed.0.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.set_owing(false);
    }
}
