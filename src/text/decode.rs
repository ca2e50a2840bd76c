//! Token ids to text, one id at a time.
//!
//! Two ways, chosen once at load by the tokenizer's decoder:
//!
//! - *Bytes*: in byte-level and byte-fallback tokenizers each id stands for bytes, whatever its neighbours. A table
//!   has them all, and the text is the UTF-8 of the joined bytes. It is the library's own text, but for one thing:
//!   where a run of `<0xXX>` tokens is broken anywhere, the library gives U+FFFD for each of its bytes, and this
//!   decoder only for those that are no UTF-8. (What has been streamed can't be taken back.)
//! - *Window*: other decoders work on strings and look at the neighbours of a token. Each new token is decoded
//!   together with those before it, by the library, and what this adds is its text. That is exact wherever a token's
//!   text depends only on whether it is the first and on the one before: for `WordPiece`, `Metaspace`, `CTC`, no
//!   decoder at all, and `BPEDecoder` if its suffix only ends tokens. It is exact for a `ByteFallback` before a
//!   `Metaspace` where the bytes are valid and none of them spell U+FFFD. It can't be for those that rewrite a whole
//!   text (`Replace` or `Metaspace` behind a `Fuse`) or drop tokens that others count (`CTC` before `Metaspace`).

use std::{str, sync::Arc};

use super::guard::guarded;
use super::spelling::{ByteTable, Spelling, text_token};

/// The longest character of UTF-8, in bytes and so in `<0xXX>` tokens.
const MAX_CHAR_LEN: usize = 4;

/// Turns token ids into text as they come.
///
/// The joined text of all pushes and of [`finish`](Self::finish) is that of all the ids at once. A character is held
/// back until its last byte has come, and nothing else is; bytes that can't become a character give U+FFFD, as in
/// [`String::from_utf8_lossy`]. Special tokens and ids without a token give no text.
#[derive(Clone)]
pub struct Decoder(Mode);

#[derive(Clone)]
enum Mode {
    Bytes(Bytes),
    Window(Window),
}

impl Decoder {
    pub(super) fn new(spelling: &Spelling) -> Self {
        Self(match spelling {
            Spelling::Bytes(table) => Mode::Bytes(Bytes::new(table.clone())),
            Spelling::Window(library) => Mode::Window(Window::new(library.clone())),
        })
    }

    /// Appends to `out` the text that `id` completes.
    pub fn push(&mut self, id: u32, out: &mut String) {
        match &mut self.0 {
            Mode::Bytes(bytes) => bytes.push(id, out),
            Mode::Window(window) => window.push(id, out),
        }
    }

    /// Whether a character lacks bytes.
    pub fn holds_back(&self) -> bool {
        match &self.0 {
            Mode::Bytes(bytes) => !bytes.held.is_empty(),
            Mode::Window(window) => window.ids.len() > window.n_context,
        }
    }

    /// The ids have ended: appends what was held back to `out`.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.0 {
            Mode::Bytes(bytes) => bytes.finish(out),
            Mode::Window(window) => window.finish(out),
        }
    }
}

/// Decoding by the table.
#[derive(Clone)]
struct Bytes {
    table: Arc<ByteTable>,
    /// The beginning of a character whose other bytes have not come: at most three bytes.
    held: Vec<u8>,
    /// What may still be taken from the start of the text.
    n_lead: usize,
}

impl Bytes {
    fn new(table: Arc<ByteTable>) -> Self {
        Self { held: vec![], n_lead: table.lead.n, table }
    }

    fn push(&mut self, id: u32, out: &mut String) {
        let from = out.len();
        self.held.extend_from_slice(self.table.get(id));
        let n_free = self.held.len() - append_lossy(&self.held, out);
        self.held.drain(..n_free);
        self.strip_lead(out, from);
    }

    fn finish(&mut self, out: &mut String) {
        let from = out.len();
        if !self.held.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.held.clear();
        self.strip_lead(out, from);
    }

    /// Takes from the text behind `from` what the tokenizer strips at the start of a text.
    fn strip_lead(&mut self, out: &mut String, from: usize) {
        let content = self.table.lead.content;
        let added = out.get(from..).unwrap_or_default();
        let n = added.chars().take(self.n_lead).take_while(|&char| char == content).count();
        self.n_lead = if added.chars().nth(n).is_some() { 0 } else { self.n_lead - n };
        out.drain(from..from + n * content.len_utf8());
    }
}

/// Appends `bytes` to `out` as text, U+FFFD for what is none; returns how many bytes at the end are the beginning of a
/// character, which are left out.
fn append_lossy(bytes: &[u8], out: &mut String) -> usize {
    let mut broken: &[u8] = &[];
    for chunk in bytes.utf8_chunks() {
        if !broken.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        out.push_str(chunk.valid());
        broken = chunk.invalid();
    }
    if str::from_utf8(broken).is_err_and(|error| error.error_len().is_none()) {
        return broken.len();
    }
    if !broken.is_empty() {
        out.push(char::REPLACEMENT_CHARACTER);
    }
    0
}

/// Decoding by the library, each token behind those before it that it may depend on.
#[derive(Clone)]
struct Window {
    library: Arc<tokenizers::Tokenizer>,
    /// First the `n_anchor` ids that gave text last: without them the next token would count as the first of the text.
    /// Then the newest id that gave none, if it came after them. Behind these `n_context`, the ids that are held back.
    ids: Vec<u32>,
    n_anchor: usize,
    n_context: usize,
    /// The text of the context alone.
    shown: String,
}

impl Window {
    fn new(library: Arc<tokenizers::Tokenizer>) -> Self {
        Self { library, ids: vec![], n_anchor: 0, n_context: 0, shown: String::new() }
    }

    fn push(&mut self, id: u32, out: &mut String) {
        if text_token(&self.library, id).is_none() {
            return;
        }
        self.ids.push(id);
        let text = self.decode(0);
        // An incomplete run of byte tokens decodes to U+FFFD; the next ones may still complete its character.
        let is_broken = text.ends_with(char::REPLACEMENT_CHARACTER);
        if !is_broken || self.ids.len() - self.n_context >= MAX_CHAR_LEN {
            self.release(&text, out);
        }
    }

    fn finish(&mut self, out: &mut String) {
        if self.ids.len() > self.n_context {
            self.release(&self.decode(0), out);
        }
    }

    /// Appends what `text`, that of all the ids, has more than the context.
    fn release(&mut self, text: &str, out: &mut String) {
        let from = out.len();
        match text.strip_prefix(&self.shown) {
            Some(new) => out.push_str(new),
            // The library has rewritten what was shown; then at least the new ids' own text has to come.
            None => out.push_str(&self.decode(self.n_context)),
        }
        if out.len() > from {
            self.ids.drain(..self.n_context);
            self.n_anchor = self.ids.len();
        } else {
            self.ids.drain(self.n_anchor..self.ids.len() - 1);
        }
        self.n_context = self.ids.len();
        self.shown = self.decode(0);
    }

    /// The library's text of the ids from the index `from` on.
    fn decode(&self, from: usize) -> String {
        let ids = self.ids.get(from..).unwrap_or_default();
        guarded(|| self.library.decode(ids, true)).unwrap_or_else(|reason| {
            // Each token decoded by itself at load, so no known decoder comes here.
            tracing::warn!(?ids, reason, "tokens that can't be decoded give no text");
            String::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;
    use crate::text::{Companions, Tokenizer, fixtures};

    /// More than any fixture has.
    const VOCAB_SIZE: usize = 300;

    fn open(file: &Value) -> Tokenizer {
        let bytes = file.to_string();
        Tokenizer::from_bytes(bytes.as_bytes(), &Companions::default(), Path::new("tokenizer.json"), VOCAB_SIZE)
            .unwrap()
    }

    /// What each push and then `finish` gave, each into a string of its own.
    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut decoder = tokenizer.decoder();
        let piece = |work: &mut dyn FnMut(&mut String)| {
            let mut out = String::new();
            work(&mut out);
            out
        };
        let mut pieces: Vec<_> = ids.iter().map(|id| piece(&mut |out| decoder.push(*id, out))).collect();
        pieces.push(piece(&mut |out| decoder.finish(out)));
        pieces
    }

    /// The library's text, which for some decoders is an underflow if there is no token to decode.
    fn reference(library: &tokenizers::Tokenizer, ids: &[u32]) -> String {
        let has_text = ids.iter().any(|id| text_token(library, *id).is_some());
        if has_text { library.decode(ids, true).unwrap() } else { String::new() }
    }

    /// The bytes at the end of `bytes` that begin a character: the ends of at most three are tried.
    fn incomplete_end(bytes: &[u8]) -> usize {
        let begins = |error: str::Utf8Error| error.error_len().is_none() && error.valid_up_to() == 0;
        let is_beginning = |end: &[u8]| str::from_utf8(end).is_err_and(begins);
        (1..=3.min(bytes.len())).find(|n| is_beginning(&bytes[bytes.len() - n..])).unwrap_or(0)
    }

    /// The ids that [`fixtures::byte_fallback`] has for the bytes of `char`.
    fn byte_ids(char: char) -> Vec<u32> {
        char.to_string().bytes().map(|byte| fixtures::N_WORDS + u32::from(byte)).collect()
    }

    /// The bytes of an id of [`fixtures::byte_fallback`], from its vocabulary.
    fn fallback_bytes(library: &tokenizers::Tokenizer, id: u32) -> Vec<u8> {
        match id.checked_sub(fixtures::N_WORDS) {
            Some(byte) if byte < 256 => vec![byte as u8],
            _ => text_token(library, id).unwrap_or_default().replace('▁', " ").into(),
        }
    }

    /// Ids of words and of whole characters in bytes.
    fn whole_characters() -> impl Strategy<Value = Vec<u32>> {
        let message = "a window takes it for a broken run";
        let word = (0..fixtures::N_WORDS).prop_filter(message, |id| *id != 9);
        let char = any::<char>().prop_filter(message, |char| *char != char::REPLACEMENT_CHARACTER);
        let unit = prop_oneof![word.prop_map(|id| vec![id]), char.prop_map(byte_ids), Just(byte_ids('é'))];
        vec(unit, 0..12).prop_map(|units| units.concat())
    }

    #[test]
    fn byte_level_text_is_the_librarys_for_any_ids() {
        let (tokenizer, library) = (open(&fixtures::byte_level()), fixtures::library(&fixtures::byte_level()));
        assert!(matches!(tokenizer.decoder().0, Mode::Bytes(_)));
        proptest!(|(ids in vec(0..VOCAB_SIZE as u32, 0..40))| {
            let expected = reference(&library, &ids);
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), expected.clone());
            prop_assert_eq!(tokenizer.decode(&ids), expected);
        });
    }

    #[test]
    fn byte_fallback_text_is_the_utf8_of_the_joined_bytes_for_any_ids() {
        let (tokenizer, library) = (open(&fixtures::byte_fallback()), fixtures::library(&fixtures::byte_fallback()));
        assert!(matches!(tokenizer.decoder().0, Mode::Bytes(_)));
        // Words, and the bytes of 🙂 more often than chance would have them.
        let id = || prop_oneof![0..fixtures::N_WORDS, 0..VOCAB_SIZE as u32, prop::sample::select(byte_ids('🙂'))];
        proptest!(|(ids in vec(id(), 0..40))| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| fallback_bytes(&library, *id)).collect();
            let text = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), text.strip_prefix(' ').unwrap_or(&text));
        });
    }

    #[test]
    fn byte_fallback_text_is_the_librarys_where_its_bytes_are_valid() {
        for file in [fixtures::byte_fallback(), fixtures::byte_fallback_metaspace()] {
            let (tokenizer, library) = (open(&file), fixtures::library(&file));
            proptest!(|(ids in whole_characters())| {
                prop_assert_eq!(pieces(&tokenizer, &ids).concat(), reference(&library, &ids), "{}", file["decoder"]);
            });
        }
    }

    #[test]
    fn a_broken_run_of_bytes_keeps_its_valid_characters_unlike_the_librarys() {
        let file = fixtures::byte_fallback();
        let ids = [&[fixtures::N_WORDS + 0xff], &*byte_ids('é')].concat();
        assert_eq!(fixtures::library(&file).decode(&ids, true).unwrap(), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(open(&file).decode(&ids), "\u{fffd}é");
    }

    #[test]
    fn just_the_beginning_of_a_character_is_held_back() {
        let (tokenizer, library) = (open(&fixtures::byte_fallback()), fixtures::library(&fixtures::byte_fallback()));
        let id = || prop_oneof![1..fixtures::N_WORDS, prop::sample::select(byte_ids('🙂')), 200..VOCAB_SIZE as u32];
        proptest!(|(ids in vec(id(), 1..20))| {
            // A word that starts with no space, so that nothing is stripped.
            let ids = [&[6], &*ids].concat();
            let pieces = pieces(&tokenizer, &ids);
            for n in 0..=ids.len() {
                let bytes: Vec<u8> = ids[..n].iter().flat_map(|id| fallback_bytes(&library, *id)).collect();
                let complete = &bytes[..bytes.len() - incomplete_end(&bytes)];
                prop_assert_eq!(pieces[..n].concat(), String::from_utf8_lossy(complete), "after {:?}", &ids[..n]);
            }
        });
    }

    #[test]
    fn a_window_gives_the_librarys_text_and_holds_no_character_back() {
        for (name, file) in fixtures::of_whole_tokens() {
            let (tokenizer, library) = (open(&file), fixtures::library(&file));
            assert!(matches!(tokenizer.decoder().0, Mode::Window(_)), "{name}");
            proptest!(|(ids in vec(0u32..20, 0..30))| {
                let pieces = pieces(&tokenizer, &ids);
                prop_assert_eq!(pieces.concat(), reference(&library, &ids), "{}", name);
                prop_assert!(pieces.last().unwrap().chars().all(|char| " \u{fffd}".contains(char)), "{}", name);
            });
        }
    }

    #[test]
    fn a_window_gives_whole_characters_as_soon_as_their_last_byte_has_come() {
        let tokenizer = open(&fixtures::byte_fallback_metaspace());
        let ids = [vec![5], byte_ids('🙂'), byte_ids('é'), vec![5]].concat();
        assert_eq!(pieces(&tokenizer, &ids), ["a", "", "", "", "🙂", "", "é", " a", ""]);
    }

    #[test]
    fn a_window_whose_run_of_bytes_breaks_still_gives_what_follows() {
        let tokenizer = open(&fixtures::byte_fallback_metaspace());
        let ids = [byte_ids('é'), vec![fixtures::N_WORDS + 0xff, 6, 6]].concat();
        assert_eq!(pieces(&tokenizer, &ids), ["", "é", "", "\u{fffd}b", "b", ""]);
    }

    #[test]
    fn a_window_stays_small_however_many_tokens_give_no_text() {
        let (_, file) = fixtures::of_whole_tokens().pop().unwrap();
        let library = Arc::new(fixtures::library(&file));
        let [a, pad] = ["|", "<pad>"].map(|token| library.token_to_id(token).unwrap());
        let mut window = Window::new(library);
        let mut out = String::new();
        for id in [a].into_iter().chain([pad; 100]).chain([a]) {
            window.push(id, &mut out);
            assert!(window.ids.len() <= 2, "{:?}", window.ids);
        }
        assert_eq!(out, "  ");
    }

    #[test]
    fn as_many_characters_as_the_decoder_says_are_stripped_across_tokens() {
        let mut file = fixtures::byte_fallback();
        file["decoder"]["decoders"][3]["start"] = 3.into();
        let (tokenizer, library) = (open(&file), fixtures::library(&file));
        proptest!(|(ids in vec(3u32..8, 0..8))| {
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), reference(&library, &ids));
        });
    }
}
