//! From tokens to what can be told of them: the text that is certain, and the tokens that it is made of.
//!
//! A token is held back as long as the text that it begins with: while a character lacks bytes, and while the text could
//! begin a stop string. What a stop string cuts off is never told, so that the bytes of the tokens are those of the text.

use std::collections::VecDeque;

use super::event::{Piece, Told};
use crate::sampling::Ranked;
use crate::text::{Decoder, StopMatcher, Tokenizer};

/// The text of one answer, token by token.
#[derive(Clone)]
pub(super) struct Transcript<'a> {
    tokenizer: &'a Tokenizer,
    /// Whether the bytes of tokens are told.
    spells: bool,
    decoder: Decoder,
    stops: StopMatcher,
    /// How long the text of all tokens is, in bytes and in characters.
    decoded: usize,
    characters: usize,
    /// How many of its bytes are certain.
    certain: usize,
    /// Whether anything was generated: before that no stop string is looked for.
    is_answer: bool,
    held: VecDeque<Held>,
}

/// A token that is not told yet, and where its text begins and ends, in bytes.
#[derive(Clone)]
struct Held {
    told: Told,
    start: usize,
    end: usize,
}

impl<'a> Transcript<'a> {
    /// That of an answer that ends before the first of `stops`.
    pub(super) fn new(tokenizer: &'a Tokenizer, stops: StopMatcher, spells: bool) -> Self {
        let (decoder, held) = (tokenizer.decoder(), VecDeque::new());
        Self { tokenizer, spells, decoder, stops, decoded: 0, characters: 0, certain: 0, is_answer: false, held }
    }

    /// The token at position `at` of the prompt, in which no stop string is looked for and special tokens are written out.
    pub(super) fn echo(&mut self, at: usize, token: u32, ranked: Option<Ranked>, piece: &mut Piece) {
        let (held, text) = match self.tokenizer.written_special(token, at) {
            Some(written) => self.write(token, ranked, &written),
            None => self.read(token, ranked),
        };
        self.certain += text.len();
        piece.text.push_str(&text);
        self.held.push_back(held);
        self.release(&mut piece.told);
    }

    /// A generated token: what is certain with it, and whether a stop string came.
    pub(super) fn push(&mut self, token: u32, ranked: Option<Ranked>) -> (Piece, bool) {
        let (held, text) = self.read(token, ranked);
        self.held.push_back(held);
        self.is_answer = true;
        let mut piece = Piece::default();
        let is_stopped = self.stops.push(&text, &mut piece.text);
        self.certain += piece.text.len();
        if is_stopped {
            self.cut_off();
        }
        self.release(&mut piece.told);
        (piece, is_stopped)
    }

    /// A token that ends the text and is no part of it.
    pub(super) fn end(&mut self, token: u32, ranked: Option<Ranked>) {
        let told = self.told(token, ranked, Vec::new());
        self.held.push_back(Held { told, start: self.decoded, end: self.decoded });
    }

    /// There are no more tokens: the rest of the text, and whether it had a stop string.
    pub(super) fn finish(&mut self) -> (Piece, bool) {
        let (mut text, mut piece) = (String::new(), Piece::default());
        self.decoder.finish(&mut text);
        self.decoded += text.len();
        let is_stopped = if self.is_answer {
            self.stops.push(&text, &mut piece.text)
        } else {
            piece.text.push_str(&text);
            false
        };
        self.stops.finish(&mut piece.text);
        self.certain += piece.text.len();
        if is_stopped {
            self.cut_off();
        }
        piece.told.extend(self.held.drain(..).map(|held| held.told));
        (piece, is_stopped)
    }

    /// The token with its place in the text, and the text that is complete with it.
    fn read(&mut self, token: u32, ranked: Option<Ranked>) -> (Held, String) {
        let was_complete = !self.decoder.holds_back();
        let mut text = String::new();
        self.decoder.push(token, &mut text);
        let bytes = if self.spells { self.spell(token, &text, was_complete) } else { Vec::new() };
        // Bytes before it that became no character are not its own.
        let n_broken = usize::from(!was_complete && text.starts_with(char::REPLACEMENT_CHARACTER));
        let mut told = self.told(token, ranked, bytes);
        told.offset += n_broken;
        let start = self.decoded + n_broken * char::REPLACEMENT_CHARACTER.len_utf8();
        self.decoded += text.len();
        self.characters += text.chars().count();
        (Held { told, start, end: self.decoded }, text)
    }

    /// A token whose text is not the decoder's, as [`Transcript::read`] gives others.
    fn write(&mut self, token: u32, ranked: Option<Ranked>, written: &str) -> (Held, String) {
        let mut text = String::new();
        self.decoder.finish(&mut text);
        let n_before = text.chars().count();
        let mut told = self.told(token, ranked, if self.spells { written.as_bytes().to_vec() } else { Vec::new() });
        told.offset += n_before;
        let start = self.decoded + text.len();
        text.push_str(written);
        self.decoded += text.len();
        self.characters += text.chars().count();
        (Held { told, start, end: self.decoded }, text)
    }

    /// The bytes that a token adds: those of its text where it is whole characters, else its own.
    fn spell(&self, token: u32, text: &str, was_complete: bool) -> Vec<u8> {
        let (_, own) = self.tokenizer.spelling_of(token);
        if was_complete && std::str::from_utf8(&own).is_ok() { text.as_bytes().to_vec() } else { own }
    }

    fn told(&self, token: u32, ranked: Option<Ranked>, bytes: Vec<u8>) -> Told {
        let (logprob, top) = ranked.map_or((None, Vec::new()), |ranked| (Some(ranked.logprob), ranked.top));
        Told { token, logprob, top, offset: self.characters, bytes }
    }

    /// Takes away the tokens, and the parts of them, that are not in the text.
    fn cut_off(&mut self) {
        let length = self.certain;
        self.held.retain(|held| held.start < length);
        for Held { told, end, .. } in &mut self.held {
            told.bytes.truncate(told.bytes.len().saturating_sub(end.saturating_sub(length)));
        }
    }

    /// Tells the tokens whose text has begun to be certain.
    fn release(&mut self, told: &mut Vec<Told>) {
        let is_all_certain = self.certain == self.decoded && !self.decoder.holds_back();
        while let Some(held) = self.held.pop_front_if(|held| is_all_certain || held.start < self.certain) {
            told.push(held.told);
        }
    }
}
