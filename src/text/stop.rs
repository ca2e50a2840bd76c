//! Stop strings: a text ends before the first of them, wherever the pieces of the text were cut.
//!
//! One Knuth–Morris–Pratt automaton per stop string reads the text byte by byte. Its state is the length of the
//! longest prefix of the stop string that ends the text so far, which is just what has to be held back; and no text,
//! however repetitive, makes it read a byte twice. Bytes are enough: a stop string starts with the first byte of a
//! character, so wherever it fits, the match begins and ends between characters.

use crate::error::{Error, Result};

/// The most stop strings that a request may have.
const MAX_STOPS: usize = 16;

/// Looks for stop strings in a text that comes in pieces.
///
/// The match that is completed first ends the text; among those completed by the same character, the longest.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// The longest end of the text that could begin a stop string: shorter than the longest of them.
    held: String,
    matched: bool,
}

impl StopMatcher {
    /// A matcher for `stops`, none of which may be empty; without any, text passes through unchanged.
    pub fn new(stops: &[String]) -> Result<Self> {
        if stops.len() > MAX_STOPS {
            return Err(Error::invalid("stop", format!("at most {MAX_STOPS} are possible, found {}", stops.len())));
        }
        if stops.iter().any(String::is_empty) {
            return Err(Error::invalid("stop", "a stop string must not be empty: it would end every text at once"));
        }
        Ok(Self { stops: stops.iter().map(|stop| Stop::new(stop)).collect(), held: String::new(), matched: false })
    }

    /// Reads the next piece and appends to `out` what can't be part of a stop string any more.
    ///
    /// True means that a stop string has matched: `out` has got the text before it, and nothing ever follows.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.matched {
            return true;
        }
        let n_before = self.held.len();
        self.held.push_str(text);
        let found = text.bytes().enumerate().find_map(|(i, byte)| self.step(byte).map(|n| n_before + i + 1 - n));
        let n_free = found.unwrap_or_else(|| self.held.len() - self.n_held());
        out.extend(self.held.drain(..n_free));
        self.matched = found.is_some();
        self.matched
    }

    /// The text has ended: appends what was held back to `out`, unless a stop string has matched.
    pub fn finish(&mut self, out: &mut String) {
        if !self.matched {
            out.push_str(&self.held);
        }
        self.held.clear();
    }

    /// Reads one byte; the length of the longest stop string that it completes.
    fn step(&mut self, byte: u8) -> Option<usize> {
        // Each automaton has to see the byte, so none is skipped once another has matched.
        self.stops.iter_mut().filter_map(|stop| stop.step(byte).then_some(stop.bytes.len())).max()
    }

    /// The bytes at the end of the text that could begin a stop string.
    fn n_held(&self) -> usize {
        self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0)
    }
}

/// The automaton of one stop string.
#[derive(Debug, Clone)]
struct Stop {
    bytes: Vec<u8>,
    /// For each prefix of `bytes` (the shortest first), the longest shorter one that it ends with.
    shorter: Vec<usize>,
    /// The longest prefix of `bytes` that the text so far ends with.
    n_matched: usize,
}

impl Stop {
    fn new(stop: &str) -> Self {
        let mut this = Self { bytes: stop.into(), shorter: vec![0], n_matched: 0 };
        // Reading itself from its second byte on, the automaton is in the very state the table asks for, and needs
        // only the part of the table that it has filled.
        for byte in stop.bytes().skip(1) {
            this.step(byte);
            this.shorter.push(this.n_matched);
        }
        this.n_matched = 0;
        this
    }

    /// Reads one byte; true if it completes the stop string. Nothing may be read after that.
    fn step(&mut self, byte: u8) -> bool {
        while self.n_matched > 0 && self.next() != Some(byte) {
            self.n_matched = self.shorter.get(self.n_matched - 1).copied().unwrap_or(0);
        }
        if self.next() == Some(byte) {
            self.n_matched += 1;
        }
        self.n_matched == self.bytes.len()
    }

    /// The byte that would lengthen the match.
    fn next(&self) -> Option<u8> {
        self.bytes.get(self.n_matched).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(ToString::to_string).collect()
    }

    /// What each piece released, whether a stop string matched, and what `finish` added.
    fn run(stops: &[String], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut matched = false;
        let released = pieces.iter().map(|piece| {
            let mut out = String::new();
            matched = matcher.push(piece, &mut out);
            out
        });
        let released = released.collect();
        let mut rest = String::new();
        matcher.finish(&mut rest);
        (released, matched, rest)
    }

    /// The text before the match that the first possible character completes, the longest if it completes several.
    fn specification(stops: &[String], text: &str) -> Option<String> {
        (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
            let read = &text[..end];
            let longest = stops.iter().filter(|stop| read.ends_with(*stop)).map(String::len).max()?;
            Some(read[..end - longest].to_owned())
        })
    }

    /// The longest end of `text` that some stop string starts with, in bytes.
    fn longest_beginning(stops: &[String], text: &str) -> usize {
        let ends = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).map(|at| &text[at..]);
        ends.filter(|end| stops.iter().any(|stop| stop.starts_with(end))).map(str::len).max().unwrap_or(0)
    }

    /// `text` cut at each of its characters whose entry in `cuts` is true.
    fn cut<'a>(text: &'a str, cuts: &[bool]) -> Vec<&'a str> {
        let mut pieces = vec![];
        let mut from = 0;
        for (at, _) in text.char_indices().zip(cuts).filter(|(_, is_cut)| **is_cut).map(|(at, _)| at) {
            pieces.push(&text[from..at]);
            from = at;
        }
        pieces.push(&text[from..]);
        pieces
    }

    // Characters of one, two and four bytes, the latter two sharing bytes with their neighbours.
    const TEXT: &str = "[abé🙂🙃]{0,24}";
    const STOP: &str = "[abé🙂🙃]{1,5}";

    proptest! {
        #[test]
        fn any_split_gives_what_the_specification_says(
            text in TEXT, stops in vec(STOP, 0..5), cuts in vec(any::<bool>(), 24)
        ) {
            let (released, matched, rest) = run(&stops, &cut(&text, &cuts));
            let expected = specification(&stops, &text);
            prop_assert_eq!(matched, expected.is_some());
            prop_assert_eq!(released.concat() + &rest, expected.unwrap_or(text));
        }

        #[test]
        fn exactly_the_longest_possible_beginning_is_held_back(text in TEXT, stops in vec(STOP, 0..5)) {
            let pieces = cut(&text, &[true; 24]);
            let (released, _, _) = run(&stops, &pieces);
            let unmatched = (0..=pieces.len()).take_while(|&n| specification(&stops, &pieces[..n].concat()).is_none());
            for n in unmatched {
                let read = pieces[..n].concat();
                let n_held = read.len() - released[..n].concat().len();
                prop_assert_eq!(n_held, longest_beginning(&stops, &read), "after {:?}", read);
            }
        }
    }

    #[test]
    fn the_longest_of_those_completed_together_wins_and_nothing_follows() {
        let stops = strings(&["cd", "bcd", "bcdef"]);
        assert_eq!(run(&stops, &["ab", "c", "def", "g"]), (strings(&["a", "", "", ""]), true, String::new()));
    }

    #[test]
    fn without_stop_strings_text_passes_unchanged() {
        assert_eq!(run(&[], &["a", "", "é"]), (strings(&["a", "", "é"]), false, String::new()));
    }

    #[test]
    fn a_repetitive_text_takes_linear_time() {
        // A search that starts anew for each held suffix would need about 10^12 steps.
        let stops = [format!("{}b", "a".repeat(1 << 20))];
        let mut matcher = StopMatcher::new(&stops).unwrap();
        let mut out = String::new();
        for _ in 0..1 << 10 {
            assert!(!matcher.push(&"a".repeat(1 << 11), &mut out));
        }
        assert_eq!((out.len(), matcher.held.len()), (1 << 20, 1 << 20));
    }

    #[test]
    fn an_empty_stop_string_and_a_seventeenth_are_refused() {
        let message = |stops: &[String]| StopMatcher::new(stops).unwrap_err().to_string();
        assert!(message(&strings(&["a", ""])).starts_with("stop: a stop string must not be empty"));
        assert_eq!(message(&strings(&["a"; 17])), "stop: at most 16 are possible, found 17");
        assert!(StopMatcher::new(&strings(&["a"; 16])).is_ok());
    }
}
