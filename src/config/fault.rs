//! Faults that tests ask a debug build for, with the variable `FAULT`: a release build has none.

/// What goes wrong in the inference loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first request panics.
    Panic,
    /// The loop dies at the first request.
    Death,
    /// A step of the first request never ends.
    Stall,
}

impl Fault {
    /// The one that is asked for.
    pub fn asked() -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        match std::env::var("FAULT").ok()?.as_str() {
            "panic" => Some(Self::Panic),
            "death" => Some(Self::Death),
            "stall" => Some(Self::Stall),
            _ => None,
        }
    }
}
