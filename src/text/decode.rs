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

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    slice, str,
    sync::Arc,
};

use tokenizers::{DecoderWrapper as Stage, decoders::strip::Strip, normalizers::Replace};

/// The longest character of UTF-8, in bytes and so in `<0xXX>` tokens.
const MAX_CHAR_LEN: usize = 4;

/// Runs `work` of the `tokenizers` library, its failure or panic as one line.
///
/// The library panics where a file is broken inside its decoder or a precompiled normalizer, where a template names
/// an unknown special token, where a `Strip` is longer than its token, and where a regular expression gives up. None of
/// its state outlives the panic in a way that matters: its caches are filled in one step, and a poisoned one is passed
/// by.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
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

/// How the ids of one tokenizer become text: made at load, shared by all its decoders.
#[derive(Clone)]
pub(super) enum Spelling {
    Bytes(Arc<ByteTable>),
    Window(Arc<tokenizers::Tokenizer>),
}

impl Spelling {
    /// The spelling of the ids up to `last`; an error is the library's reason for which one can't be decoded.
    pub(super) fn new(library: &Arc<tokenizers::Tokenizer>, last: u32) -> Result<Self, String> {
        if let Some(recipe) = library.get_decoder().and_then(Recipe::new) {
            return ByteTable::new(library, &recipe, last).map(|table| Self::Bytes(Arc::new(table)));
        }
        // A decoder that panics does so on some token by itself (a `Strip` longer than it), so each is tried once.
        for id in (0..=last).filter(|id| text_token(library, *id).is_some()) {
            guarded(|| library.decode(&[id], true))
                .map_err(|reason| format!("token {id} can't be decoded: {reason}"))?;
        }
        Ok(Self::Window(library.clone()))
    }
}

/// Turns token ids into text as they come.
///
/// The joined text of all pushes and of [`finish`](Self::finish) is that of all the ids at once. A character is held
/// back until its last byte has come, and nothing else is; bytes that can't become a character give U+FFFD, as in
/// [`String::from_utf8_lossy`]. Special tokens and ids without a token give no text.
pub struct Decoder(Mode);

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

    /// The ids have ended: appends what was held back to `out`.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.0 {
            Mode::Bytes(bytes) => bytes.finish(out),
            Mode::Window(window) => window.finish(out),
        }
    }
}

/// What a tokenizer's decoder does, as far as it can be done token by token.
struct Recipe {
    /// Pattern and content.
    replacements: Vec<(String, String)>,
    alphabet: Alphabet,
    lead: Lead,
}

/// What the characters of a token stand for.
#[derive(Clone, Copy)]
enum Alphabet {
    /// Themselves.
    Text,
    /// Themselves, or one byte if the token is `<0xXX>`.
    ByteFallback,
    /// One byte each, in GPT-2's alphabet.
    ByteLevel,
}

/// Characters taken from the start of a text: at most `n` of `content`.
#[derive(Clone, Copy)]
struct Lead {
    content: char,
    n: usize,
}

impl Recipe {
    /// The recipe of `decoder`, or none if it is not one of: replacements of strings, then an alphabet, then a strip
    /// at the start of the joined text.
    fn new(decoder: &Stage) -> Option<Self> {
        let stages = match decoder {
            Stage::Sequence(sequence) => sequence.get_decoders(),
            single => slice::from_ref(single),
        };
        let n_replacements = stages.iter().take_while(|stage| matches!(stage, Stage::Replace(_))).count();
        let (replacements, stages) = stages.split_at(n_replacements);
        let (alphabet, stages) = match stages {
            [] => (Alphabet::Text, stages),
            [Stage::Fuse(_), rest @ ..] => (Alphabet::Text, rest),
            [Stage::ByteFallback(_)] => (Alphabet::ByteFallback, Default::default()),
            [Stage::ByteFallback(_), Stage::Fuse(_), rest @ ..] => (Alphabet::ByteFallback, rest),
            [Stage::ByteLevel(_), Stage::Fuse(_), rest @ ..] | [Stage::ByteLevel(_), rest @ ..] => {
                (Alphabet::ByteLevel, rest)
            }
            _ => return None,
        };
        let lead = match stages {
            [] => Lead { content: ' ', n: 0 },
            [Stage::Strip(Strip { content, start, stop: 0, .. })] => Lead { content: *content, n: *start },
            _ => return None,
        };
        let replacements = replacements.iter().map(replacement).collect::<Option<_>>()?;
        Some(Self { replacements, alphabet, lead })
    }

    /// Appends to `bytes` those that `token` stands for.
    fn spell(&self, token: String, bytes: &mut Vec<u8>) {
        let token = self.replacements.iter().fold(token, |token, (pattern, content)| token.replace(pattern, content));
        match self.alphabet {
            Alphabet::Text => bytes.extend(token.bytes()),
            Alphabet::ByteFallback => match fallback_byte(&token) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend(token.bytes()),
            },
            // The library's rule: one character outside the alphabet, and the token stands for itself.
            Alphabet::ByteLevel => match token.chars().map(level_byte).collect::<Option<Vec<_>>>() {
                Some(spelled) => bytes.extend(spelled),
                None => bytes.extend(token.bytes()),
            },
        }
    }
}

/// Pattern and content of a replacement, if it is of a string by one no longer: then the table is no larger than
/// the file that it comes from.
fn replacement(stage: &Stage) -> Option<(String, String)> {
    let Stage::Replace(replace) = stage else { return None };
    let pattern = literal(replace)?;
    let fits = !pattern.is_empty() && replace.content.len() <= pattern.len();
    fits.then(|| (pattern, replace.content.clone()))
}

/// The string that `replace` looks for, unless it is a regular expression. The field is private: its JSON is not.
fn literal(replace: &Replace) -> Option<String> {
    let json = serde_json::to_value(replace).ok()?;
    json.get("pattern")?.get("String")?.as_str().map(str::to_owned)
}

/// The byte of a token `<0xXX>`, by the library's own rule.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte of a character in GPT-2's alphabet (`bytes_to_unicode` in its `encoder.py`): the printable ones of Latin-1
/// stand for themselves, those from U+0100 on for the other bytes in their order.
fn level_byte(char: char) -> Option<u8> {
    let code = u32::from(char);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The token of `id`, if the library gives it to its decoder at all.
fn text_token(library: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    library.id_to_token(id).filter(|token| !library.get_added_vocabulary().is_special_token(token))
}

/// The bytes of each id, one after another.
pub(super) struct ByteTable {
    bytes: Vec<u8>,
    /// Those of id i are at `starts[i]..starts[i + 1]`.
    starts: Vec<u32>,
    lead: Lead,
}

impl ByteTable {
    fn new(library: &tokenizers::Tokenizer, recipe: &Recipe, last: u32) -> Result<Self, String> {
        let mut table = Self { bytes: vec![], starts: vec![0], lead: recipe.lead };
        for id in 0..=last {
            if let Some(token) = text_token(library, id) {
                recipe.spell(token, &mut table.bytes);
            }
            let end = u32::try_from(table.bytes.len()).map_err(|_| "its tokens have 4 GiB or more together")?;
            table.starts.push(end);
        }
        Ok(table)
    }

    fn get(&self, id: u32) -> &[u8] {
        let start = |id: usize| self.starts.get(id).map(|start| *start as usize);
        let id = id as usize;
        let range = start(id).zip(start(id + 1));
        range.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }
}

/// Decoding by the table.
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
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;
    use tokenizers::{Decoder as _, pre_tokenizers::byte_level::ByteLevel};

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
    fn decoders_that_the_table_does_not_know_go_to_the_library() {
        let (replace, fuse, bytes) = (
            r#"{"type":"Replace","pattern":{"String":"ab"},"content":"c"}"#,
            r#"{"type":"Fuse"}"#,
            r#"{"type":"ByteFallback"}"#,
        );
        let strip = r#"{"type":"Strip","content":" ","start":2,"stop":0}"#;
        let strip_end = r#"{"type":"Strip","content":" ","start":0,"stop":1}"#;
        let cases = [
            (vec![replace, replace], true),
            (vec![replace, bytes], true),
            (vec![fuse, strip], true),
            (vec![fuse, strip_end], false),
            (vec![bytes, strip], false),
            (vec![bytes, replace], false),
            (vec![fuse, replace], false),
            (vec![r#"{"type":"Replace","pattern":{"Regex":"a+"},"content":"c"}"#], false),
            (vec![r#"{"type":"Replace","pattern":{"String":""},"content":""}"#], false),
            (vec![r#"{"type":"Replace","pattern":{"String":"a"},"content":"bb"}"#], false),
        ];
        for (stages, is_known) in cases {
            let json = format!(r#"{{"type":"Sequence","decoders":[{}]}}"#, stages.join(","));
            assert_eq!(Recipe::new(&serde_json::from_str(&json).unwrap()).is_some(), is_known, "{json}");
        }
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

    #[test]
    fn the_byte_alphabet_is_the_librarys() {
        let spelled = |char| level_byte(char).map(|byte| String::from_utf8_lossy(&[byte]).into_owned());
        for char in '\0'..'\u{200}' {
            let expected = ByteLevel::default().decode_chain(vec![char.to_string()]).unwrap().concat();
            assert_eq!(spelled(char).is_some(), ByteLevel::alphabet().contains(&char), "{char:?}");
            assert_eq!(spelled(char).unwrap_or(char.to_string()), expected, "{char:?}");
        }
    }

    #[test]
    fn a_panic_of_the_library_is_a_reason_in_one_line() {
        #[allow(clippy::panic, reason = "the library's, for this test")]
        let reason = guarded(|| -> tokenizers::Result<()> { panic!("two\nlines {}", 1) }).unwrap_err();
        assert_eq!(reason, "the tokenizers library panicked: two lines 1");
        assert_eq!(guarded(|| -> tokenizers::Result<()> { Err("two\nlines".into()) }), Err("two lines".to_owned()));
    }
}
