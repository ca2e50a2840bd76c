//! What is timed.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Error, Result};

/// One thing to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// Taking in a prompt.
    Prefill { tokens: usize },
    /// Decoding after `position` tokens.
    Decode { tokens: usize, position: usize },
}

impl Case {
    /// How many tokens the sequence has before what is timed.
    pub(super) fn position(self) -> usize {
        match self {
            Self::Prefill { .. } => 0,
            Self::Decode { position, .. } => position,
        }
    }

    /// How long a prompt it needs or is.
    pub(super) fn prompt_tokens(self) -> usize {
        match self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { position, .. } => position,
        }
    }

    /// How many tokens are timed.
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Prefill { tokens } | Self::Decode { tokens, .. } => tokens,
        }
    }

    /// How many tokens the sequence has after it.
    pub(super) fn end(self) -> usize {
        self.position().saturating_add(self.tokens())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Self::Decode { tokens, position } => write!(f, "decode {tokens} at {position}"),
        }
    }
}

/// The cases that a model has room for, and the others.
#[derive(Debug, PartialEq)]
pub(super) struct Cases {
    /// Those to time, at least one.
    pub(super) cases: Vec<Case>,
    /// A line about each of the others.
    pub(super) skipped: Vec<String>,
}

impl Cases {
    /// Each length and each position once, by size.
    ///
    /// # Errors
    /// The model has room for none of them.
    pub(super) fn new(prefill: &[u32], decode: u32, at: &[u32], max_seq_len: usize) -> Result<Self> {
        let prefill = distinct(prefill).map(|tokens| Case::Prefill { tokens });
        let decode = distinct(at).map(|position| Case::Decode { tokens: decode as usize, position });
        let (cases, others): (Vec<_>, Vec<_>) = prefill.chain(decode).partition(|case| case.end() <= max_seq_len);
        let line = |case: &Case| format!("{case}: {} tokens are more than max_seq_len {max_seq_len}", case.end());
        let skipped: Vec<_> = others.iter().map(line).collect();
        if cases.is_empty() {
            let why = skipped.join("; ");
            return Err(Error::Unsupported(format!("nothing to time has room in the model: {why}")));
        }
        Ok(Self { cases, skipped })
    }
}

fn distinct(lengths: &[u32]) -> impl Iterator<Item = usize> {
    let lengths: BTreeSet<usize> = lengths.iter().map(|length| *length as usize).collect();
    lengths.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_model_has_no_room_for_is_skipped_and_told() {
        let found = Cases::new(&[4096, 512, 512], 128, &[4096, 0], 4200).unwrap();
        let timed: Vec<String> = found.cases.iter().map(ToString::to_string).collect();
        assert_eq!(timed, ["prefill 512", "prefill 4096", "decode 128 at 0"]);
        assert_eq!(found.skipped, ["decode 128 at 4096: 4224 tokens are more than max_seq_len 4200"]);
        assert_eq!(Cases::new(&[512], 128, &[4096], 4224).unwrap().skipped, [] as [&str; 0], "it just fits");
    }

    #[test]
    fn nothing_to_time_is_an_error() {
        let error = Cases::new(&[512], 8, &[1000], 100).unwrap_err().to_string();
        let expected = "nothing to time has room in the model: prefill 512: 512 tokens are more than max_seq_len 100; \
                        decode 8 at 1000: 1008 tokens are more than max_seq_len 100";
        assert_eq!(error, expected);
    }
}
