//! The seam to the `tokenizers` library, which panics on some files.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`], where a panic is an answer and no news.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` of the `tokenizers` library, its failure or panic as one line.
///
/// The library panics where a file is broken inside its decoder or a precompiled normalizer, where a template names
/// an unknown special token, where a `Strip` is longer than its token, and where a regular expression gives up. None of
/// its state outlives the panic in a way that matters: its caches are filled in one step, and a poisoned one is passed
/// by.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence_inside);
    INSIDE.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(false);
    let reason = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            format!("the tokenizers library panicked: {message}")
        }
    };
    Err(reason.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Keeps the panics of [`guarded`] work out of standard error: they come back as errors.
fn silence_inside() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !INSIDE.get() {
            usual(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_failures_come_back_as_one_line() {
        assert_eq!(guarded(|| Ok(3)), Ok(3));
        assert_eq!(guarded::<()>(|| Err("two\nlines".into())), Err("two lines".into()));
        let panicked = guarded::<()>(|| panic!("number {}", 7));
        assert_eq!(panicked, Err("the tokenizers library panicked: number 7".into()));
    }
}
