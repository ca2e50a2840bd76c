//! A checkpoint's tokenizer: `tokenizer.json`, and the ids that end a text from the files beside it.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;

use super::chat::Rendered;
use super::configured::configure;
use super::control::ControlTokens;
use super::decode::Decoder;
use super::guard::guarded;
use super::spelling::Spelling;
use crate::error::{Error, Result};
use crate::files::{Files, strict_json};

/// The largest file that is read. The largest tokenizers in use (256 Ki tokens) have about 35 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The longest string that a `tokenizer.json` may have, in bytes. The library keeps a Unigram vocabulary in a tree as
/// deep as its longest token and frees it by recursion: a hundred thousand levels overflow the stack, which can't be
/// caught. The longest in use are the patterns of pre-tokenizers (about 1 KiB); [`CHARSMAP`] alone may be longer.
const MAX_STRING_BYTES: usize = 8 << 10;

/// The key of a normalizer's table: hundreds of KiB in one string.
const CHARSMAP: &[u8] = b"\"precompiled_charsmap\"";

const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What ends a text in the tokenizers of well-known models, for checkpoints that don't say.
const END_OF_TEXT_TOKENS: [&str; 7] =
    ["<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<|eos|>"];

/// A file that says what ends a text.
#[derive(Debug, Clone)]
pub struct Companion {
    /// Where it lies, for error messages.
    pub path: PathBuf,
    /// What it holds.
    pub json: Cow<'static, [u8]>,
}

/// The files that say what ends a text; none of them has to be there.
#[derive(Debug, Default, Clone)]
pub struct Companions {
    /// `generation_config.json`, for its `eos_token_id`.
    pub generation_config: Option<Companion>,
    /// `config.json`, for its `eos_token_id`.
    pub config: Option<Companion>,
    /// `tokenizer_config.json`, for its `eos_token` and what it says of other special tokens.
    pub tokenizer_config: Option<Companion>,
}

impl Companions {
    /// Reads those among the checkpoint's `files`, the last from beside the `tokenizer`.
    fn read(files: &Files, tokenizer: &Path) -> Result<Self> {
        let read = |name: &Path| -> Result<Option<Companion>> {
            let json = files.read_if_present(name, MAX_FILE_BYTES)?;
            Ok(json.map(|json| Companion { path: files.path(name), json }))
        };
        Ok(Self {
            generation_config: read(GENERATION_CONFIG.as_ref())?,
            config: read(CONFIG.as_ref())?,
            tokenizer_config: read(&tokenizer.with_file_name(TOKENIZER_CONFIG))?,
        })
    }
}

/// Turns text into the token ids of a model, and back.
///
/// Every id that it gives is below the `vocab_size` that it was made for.
pub struct Tokenizer {
    library: Arc<tokenizers::Tokenizer>,
    spelling: Spelling,
    end_of_text: Vec<u32>,
    eos_token: Option<u32>,
    control: Arc<ControlTokens>,
    vocab_size: usize,
    /// What is added before every prompt.
    leading: Vec<u32>,
    /// The most bytes that one token takes in the file, and so at most in a text.
    longest_token: usize,
    origin: PathBuf,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` that is called `name` among a checkpoint's `files`, and its [`Companions`] there, for
    /// a model with `vocab_size` rows.
    ///
    /// A file that is missing is [`Error::NotFound`], one that is broken, too large or doesn't fit the model
    /// [`Error::Checkpoint`].
    pub fn open(files: &Files, name: &Path, vocab_size: usize) -> Result<Self> {
        let path = files.path(name);
        let bytes = files.read_if_present(name, MAX_FILE_BYTES)?.ok_or_else(|| {
            Error::not_found(&path, "the tokenizer is expected here, as tokenizer.json beside the checkpoint's weights")
        })?;
        Self::from_bytes(&bytes, &Companions::read(files, name)?, &path, vocab_size)
    }

    /// The tokenizer whose `tokenizer.json` is `bytes`. Errors name `origin` and the
    /// companions' paths.
    pub fn from_bytes(bytes: &[u8], companions: &Companions, origin: &Path, vocab_size: usize) -> Result<Self> {
        let mut library = guarded(|| load(bytes))
            .map_err(|reason| Error::checkpoint(origin, format!("not a tokenizer that can be read: {reason}")))?;
        let last = last_id(&library, origin, vocab_size)?;
        if let Some(companion) = &companions.tokenizer_config {
            let config = companion.object("special tokens")?;
            guarded(|| configure(&mut library, &config, last, vocab_size))
                .map_err(|reason| Error::checkpoint(&companion.path, reason))?;
        }
        let last = last_id(&library, origin, vocab_size)?;
        let finder = EndOfText { library: &library, origin, vocab_size };
        let (end_of_text, eos_token) = (finder.ids(companions)?, finder.named(companions.tokenizer_config.as_ref())?);
        let longest_token = library.get_vocab(true).keys().map(String::len).max().unwrap_or(1).max(1);
        let control = ControlTokens::new(&library, &end_of_text)
            .map_err(|reason| Error::checkpoint(origin, format!("its added tokens can't be used: {reason}")))?;
        let (library, control) = (Arc::new(library), Arc::new(control));
        let spelling = Spelling::new(&library, last).map_err(|reason| Error::checkpoint(origin, reason))?;
        let origin = origin.to_owned();
        let this = Self {
            leading: Vec::new(),
            library,
            spelling,
            end_of_text,
            eos_token,
            control,
            vocab_size,
            longest_token,
            origin,
        };
        // What is added to every prompt comes from a list of its own in the file: this looks at all of it.
        let leading = this.encode("", true)?;
        Ok(Self { leading, ..this })
    }

    /// The ids of `text`, between the tokens that the model expects around a prompt if `add_special_tokens`.
    ///
    /// Special tokens that are written out in `text` become the control tokens that they name.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.library.encode_fast(text, add_special_tokens));
        self.checked(encoding.map_err(|reason| self.cannot_encode(&reason))?.get_ids().to_vec())
    }

    /// The ids of `text` as a prompt for a model that takes `max_seq_len` tokens. A text that can't be so few tokens is
    /// refused before it is encoded, which takes more than a hundred times its memory.
    pub fn encode_prompt(&self, text: &str, max_seq_len: usize) -> Result<Vec<u32>> {
        self.check_length("prompt", text, max_seq_len)?;
        self.encode(text, true)
    }

    /// The ids of a rendered `chat` for a model that takes `max_seq_len` tokens; one that can't be so few is refused as
    /// in [`encode_prompt`](Self::encode_prompt). Nothing is added around it: that is the template's to write.
    ///
    /// Control tokens that are written out in the messages are text, and only the template's own are what they name.
    pub fn encode_chat(&self, chat: &Rendered, max_seq_len: usize) -> Result<Vec<u32>> {
        self.check_length("messages", &chat.text(), max_seq_len)?;
        let pieces = guarded(|| self.control.encode(&self.library, chat.marked()));
        self.checked(self.control.ids(&pieces.map_err(|reason| self.cannot_encode(&reason))?)?)
    }

    fn check_length(&self, param: &'static str, text: &str, max_seq_len: usize) -> Result<()> {
        let least = text.len() / self.longest_token;
        if least > max_seq_len {
            return Err(Error::ContextLength { param, prompt_tokens: least, is_least: true, max_seq_len });
        }
        Ok(())
    }

    /// `ids`, if all of them are below the model's vocabulary size.
    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => Err(beyond_vocabulary(&self.origin, "it encodes to", u64::from(*id), self.vocab_size)),
            None => Ok(ids),
        }
    }

    fn cannot_encode(&self, reason: &str) -> Error {
        Error::checkpoint(&self.origin, format!("a text can't be encoded: {reason}"))
    }

    /// The text of `ids`: that of a [`Decoder`] to which all of them are pushed.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for id in ids {
            decoder.push(*id, &mut text);
        }
        decoder.finish(&mut text);
        text
    }

    /// How a token is written where it stands for itself: the text of its bytes, `bytes:\\x…` where they are no text by
    /// themselves, and the name of a special token. Beside it the bytes that it adds to a text: none for the latter.
    pub fn spelling_of(&self, id: u32) -> (String, Vec<u8>) {
        let bytes = match &self.spelling {
            Spelling::Bytes(table) => table.get(id).to_vec(),
            Spelling::Window(_) => self.decode(&[id]).into_bytes(),
        };
        let written = match std::str::from_utf8(&bytes) {
            Ok("") => self.library.id_to_token(id).unwrap_or_default(),
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
        };
        (written, bytes)
    }

    /// How a special token is written that stands in a prompt at position `at`; none for other tokens, and for those that
    /// were added before the prompt.
    pub fn written_special(&self, id: u32, at: usize) -> Option<String> {
        let written = self.library.id_to_token(id)?;
        let is_special = self.library.get_added_vocabulary().is_special_token(&written);
        (is_special && self.leading.get(at) != Some(&id)).then_some(written)
    }

    /// A decoder at the start of a text.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(&self.spelling)
    }

    /// The text of `ids` with the special tokens written out.
    ///
    /// # Errors
    /// The tokenizer's own decoder fails on them.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        let failed = |reason| Error::checkpoint(&self.origin, format!("tokens can't be decoded: {reason}"));
        guarded(|| self.library.decode(ids, false)).map_err(failed)
    }

    /// The `eos_token` of `tokenizer_config.json`, else the first of those that end a text.
    pub fn eos_token(&self) -> Option<u32> {
        self.eos_token.or_else(|| self.end_of_text.first().copied())
    }

    /// The ids that end a text, ascending. Empty if the checkpoint has none.
    pub fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    /// The tokens that no text may become.
    pub(super) fn control_tokens(&self) -> Arc<ControlTokens> {
        self.control.clone()
    }
}

/// The library's tokenizer, without what would make a prompt depend on more than its text: truncation, padding, and
/// the random dropout of merges, which is for training.
fn load(bytes: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    check_strings(bytes)?;
    let mut library = tokenizers::Tokenizer::from_bytes(bytes)?;
    library.with_padding(None).with_truncation(None)?;
    if let ModelWrapper::BPE(bpe) = library.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        library.with_model(bpe);
    }
    Ok(library)
}

/// Refuses strings above [`MAX_STRING_BYTES`] before anything is made of them.
fn check_strings(json: &[u8]) -> tokenizers::Result<()> {
    let mut is_escaped = false;
    let mut quotes = json.iter().zip(0..).filter_map(|(&byte, at)| {
        let is_quote = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_quote.then_some(at)
    });
    while let (Some(start), Some(end)) = (quotes.next(), quotes.next()) {
        let n_bytes: usize = end - start - 1;
        if n_bytes > MAX_STRING_BYTES && !is_charsmap(json.get(..start).unwrap_or_default()) {
            return Err(format!("a string of {n_bytes} bytes, where at most {MAX_STRING_BYTES} are possible").into());
        }
    }
    Ok(())
}

/// Whether what comes behind `before` is the value of [`CHARSMAP`].
fn is_charsmap(before: &[u8]) -> bool {
    before.trim_ascii_end().strip_suffix(b":").is_some_and(|key| key.trim_ascii_end().ends_with(CHARSMAP))
}

/// The largest id of the vocabulary.
fn last_id(library: &tokenizers::Tokenizer, origin: &Path, vocab_size: usize) -> Result<u32> {
    let last = library.get_vocab(true).into_values().max();
    let last = last.ok_or_else(|| Error::checkpoint(origin, "the vocabulary has no tokens"))?;
    if last as usize >= vocab_size {
        return Err(beyond_vocabulary(origin, "its largest is", u64::from(last), vocab_size));
    }
    Ok(last)
}

fn beyond_vocabulary(path: &Path, what: &str, id: u64, vocab_size: usize) -> Error {
    Error::checkpoint(path, format!("token ids must be below the model's vocab_size {vocab_size}, {what} {id}"))
}

/// Finds the ids that end a text.
struct EndOfText<'a> {
    library: &'a tokenizers::Tokenizer,
    origin: &'a Path,
    vocab_size: usize,
}

impl EndOfText<'_> {
    /// All that the companions name; if they name none, those with a well-known name.
    fn ids(&self, companions: &Companions) -> Result<Vec<u32>> {
        let mut ids = self.configured(companions.generation_config.as_ref())?;
        ids.extend(self.configured(companions.config.as_ref())?);
        ids.extend(self.named(companions.tokenizer_config.as_ref())?);
        if ids.is_empty() {
            ids.extend(self.well_known());
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// `eos_token_id` in a companion: an id or a list of them.
    fn configured(&self, companion: Option<&Companion>) -> Result<Vec<u32>> {
        let Some(companion) = companion else { return Ok(vec![]) };
        match companion.value("eos_token_id")? {
            Value::Null => Ok(vec![]),
            Value::Array(values) => values.iter().map(|value| self.id(&companion.path, value)).collect(),
            value => Ok(vec![self.id(&companion.path, &value)?]),
        }
    }

    fn id(&self, path: &Path, value: &Value) -> Result<u32> {
        let id = value.as_u64().ok_or_else(|| {
            Error::checkpoint(path, format!("eos_token_id: expected a token id or a list of them, found {value}"))
        })?;
        let small = u32::try_from(id).ok().filter(|small| (*small as usize) < self.vocab_size);
        small.ok_or_else(|| beyond_vocabulary(path, "eos_token_id is", id, self.vocab_size))
    }

    /// The id of `eos_token` in `tokenizer_config.json`: a token, or an object with one as its `content`.
    fn named(&self, companion: Option<&Companion>) -> Result<Option<u32>> {
        let Some(companion) = companion else { return Ok(None) };
        let value = companion.value("eos_token")?;
        if value.is_null() {
            return Ok(None);
        }
        let token = value.as_str().or_else(|| value.get("content")?.as_str()).ok_or_else(|| {
            let message = format!("eos_token: expected a string or an object with a content, found {value}");
            Error::checkpoint(&companion.path, message)
        })?;
        let id = self.library.token_to_id(token).ok_or_else(|| {
            let message = format!("eos_token: {token:?} is not in the vocabulary of {}", self.origin.display());
            Error::checkpoint(&companion.path, message)
        })?;
        Ok(Some(id))
    }

    fn well_known(&self) -> impl Iterator<Item = u32> {
        let is_special = |token: &str| self.library.get_added_vocabulary().is_special_token(token);
        END_OF_TEXT_TOKENS
            .into_iter()
            .filter(move |token| is_special(token))
            .filter_map(|t| self.library.token_to_id(t))
    }
}

impl Companion {
    /// The value of `key`; null if there is none.
    fn value(&self, key: &str) -> Result<Value> {
        Ok(self.object(key)?.remove(key).unwrap_or(Value::Null))
    }

    /// All that it says, for `what` it is read.
    fn object(&self, what: &str) -> Result<Map<String, Value>> {
        serde_json::from_slice(&strict_json(&self.json))
            .map_err(|error| Error::checkpoint(&self.path, format!("can't be read for its {what}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::text::fixtures;

    const VOCAB_SIZE: usize = 300;

    fn from_value(file: &Value) -> Result<Tokenizer> {
        let bytes = file.to_string();
        Tokenizer::from_bytes(bytes.as_bytes(), &Companions::default(), Path::new("m/tokenizer.json"), VOCAB_SIZE)
    }

    /// A checkpoint's directory with the byte-level tokenizer and these files beside it.
    fn checkpoint(companions: &[(&str, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("tokenizer.json"), fixtures::byte_level().to_string()).unwrap();
        for (name, contents) in companions {
            fs::write(dir.path().join(name), contents).unwrap();
        }
        dir
    }

    fn open(dir: &Path, name: &str) -> Result<Tokenizer> {
        Tokenizer::open(&Files::Directory(dir.to_owned()), Path::new(name), VOCAB_SIZE)
    }

    fn message<T>(result: Result<T>) -> String {
        let error = result.err().unwrap();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn any_text_survives_a_byte_level_round_trip() {
        let tokenizer = from_value(&fixtures::byte_level()).unwrap();
        let library = fixtures::library(&fixtures::byte_level());
        let text = prop_oneof![any::<String>(), "[he a b🙂\u{301}日本\n]{0,20}"];
        proptest!(|(text in text)| {
            let ids = tokenizer.encode(&text, false).unwrap();
            let with_offsets = library.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(with_offsets.get_ids(), &*ids);
            prop_assert_eq!(tokenizer.decode(&ids), text);
        });
    }

    #[test]
    fn special_tokens_are_encoded_and_not_decoded() {
        let tokenizer = from_value(&fixtures::byte_level()).unwrap();
        let ids = tokenizer.encode("he<|endoftext|>llo", false).unwrap();
        assert_eq!(ids[0], 256, "merged");
        assert_eq!(ids[1], 259, "the token right behind the vocabulary of 256 bytes and three merges");
        assert_eq!(tokenizer.decode(&ids), "hello");
    }

    #[test]
    fn what_is_not_in_the_vocabulary_decodes_to_nothing() {
        let tokenizer = from_value(&fixtures::byte_level()).unwrap();
        assert_eq!(tokenizer.decode(&[299, 256, u32::MAX, 256]), "hehe");
    }

    #[test]
    fn truncation_padding_and_dropout_change_no_prompt() {
        let mut file = fixtures::byte_level();
        let plain = from_value(&file).unwrap().encode("hehehehe", true).unwrap();
        assert_eq!(plain, [256; 4]);
        file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        file["model"]["dropout"] = json!(1.0);
        assert_ne!(fixtures::library(&file).encode("hehehehe", true).unwrap().get_ids(), plain, "the file works");
        assert_eq!(from_value(&file).unwrap().encode("hehehehe", true).unwrap(), plain);
    }

    #[test]
    fn threads_can_share_a_tokenizer_and_own_a_decoder() {
        fn shared<T: Send + Sync + 'static>(_: &T) {}
        let tokenizer = from_value(&fixtures::byte_level()).unwrap();
        shared(&tokenizer);
        shared(&tokenizer.decoder());
    }

    #[test]
    fn a_missing_tokenizer_says_what_is_expected_where() {
        let error = open(Path::new("/no/such"), "tokenizer.json").err().unwrap();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        let expected = "/no/such/tokenizer.json: the tokenizer is expected here, as tokenizer.json beside the \
                        checkpoint's weights";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_directory_and_a_file_too_large_are_refused_by_name_unread() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tokenizer.json");
        // Sparse: it takes no room on the disk.
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let expected = format!("{}: expected at most 268435456 bytes, found 268435457", path.display());
        assert_eq!(message(open(dir.path(), "tokenizer.json")), expected);
        assert!(message(open(dir.path(), "")).ends_with("expected a file, found something else"));
    }

    #[test]
    fn a_vocabulary_larger_than_the_models_is_refused_with_both_numbers() {
        let bytes = fixtures::byte_level().to_string();
        let of_size = |n| Tokenizer::from_bytes(bytes.as_bytes(), &Companions::default(), Path::new("t.json"), n);
        let expected = "t.json: token ids must be below the model's vocab_size 262, its largest is 262";
        assert_eq!(message(of_size(262)), expected);
        assert!(of_size(263).is_ok());
    }

    #[test]
    fn hostile_tokenizers_end_as_errors_that_name_the_file() {
        let strip = json!({"type": "Strip", "content": "b", "start": 0, "stop": 2});
        let template = |special: Value| {
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [],
                   "special_tokens": special})
        };
        let far = json!({"x": {"id": "x", "ids": [4_000_000_000_u32], "tokens": ["x"]}});
        let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
        let cases = [
            ("decoder", strip, "token 6 can't be decoded: the tokenizers library panicked: "),
            ("decoder", json!({"type": "No such"}), "not a tokenizer that can be read: "),
            ("post_processor", template(json!({})), "a text can't be encoded: the tokenizers library panicked: "),
            ("post_processor", template(far), "below the model's vocab_size 300, it encodes to 4000000000"),
            ("normalizer", precompiled, "not a tokenizer that can be read: the tokenizers library panicked: "),
            (
                "model",
                json!({"type": "WordPiece", "vocab": {}, "unk_token": "u"}),
                "not a tokenizer that can be read: ",
            ),
            ("version", json!("2.0"), "not a tokenizer that can be read: Unknown tokenizer version '2.0'"),
        ];
        for (key, value, expected) in cases {
            let mut file = fixtures::byte_fallback();
            file[key] = value;
            let found = message(from_value(&file));
            assert!(found.starts_with("m/tokenizer.json: ") && found.contains(expected), "{key}: {found}");
        }
    }

    #[test]
    fn a_token_that_would_overflow_the_stack_is_refused() {
        let of_length = |n| json!({"type": "Unigram", "unk_id": 0, "vocab": [["u", 0.0], ["\"".repeat(n), 0.0]]});
        let mut file = json!({"version": "1.0", "model": of_length(1 << 20)});
        let expected = "not a tokenizer that can be read: a string of 2097152 bytes, where at most 8192 are possible";
        assert_eq!(message(from_value(&file)), format!("m/tokenizer.json: {expected}"));
        // In JSON a quote takes two bytes. This one is made and freed within the stack of a thread.
        file["model"] = of_length(MAX_STRING_BYTES / 2);
        assert!(from_value(&file).is_ok());
        file["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a".repeat(MAX_STRING_BYTES), 0.0]]});
        assert!(from_value(&file).is_ok());
    }

    #[test]
    fn the_table_of_a_normalizer_may_be_long() {
        let mut file = fixtures::byte_fallback();
        file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "A".repeat(MAX_STRING_BYTES + 4)});
        assert!(from_value(&file).is_ok());
        let spaced = |key: &str| check_strings(format!("{{\"{key}\" :\n \"{}\"}}", "A".repeat(9000)).as_bytes());
        assert!(spaced("precompiled_charsmap").is_ok());
        assert!(spaced("pattern").is_err());
    }

    #[test]
    fn a_pattern_that_gives_up_on_a_text_fails_that_text_alone() {
        let mut file = fixtures::byte_level();
        let give_up = json!({"Regex": "(?:(?:a|a)+)+$"});
        file["pre_tokenizer"] = json!({"type": "Split", "pattern": give_up, "behavior": "Isolated", "invert": false});
        let tokenizer = from_value(&file).unwrap();
        let found = message(tokenizer.encode(&format!("{}b", "a".repeat(64)), false));
        assert!(found.contains("a text can't be encoded: the tokenizers library panicked: Onig"), "{found}");
        assert!(tokenizer.encode("aab", false).is_ok());
    }

    #[test]
    fn a_file_that_ends_anywhere_is_an_error() {
        let file = fixtures::byte_fallback().to_string();
        for n in (0..file.len()).step_by(7) {
            let cut = &file.as_bytes()[..n];
            let opened = Tokenizer::from_bytes(cut, &Companions::default(), Path::new("t.json"), VOCAB_SIZE);
            assert!(message(opened).starts_with("t.json: not a tokenizer that can be read: "), "the first {n} bytes");
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_is_an_error_or_works() {
        let mut files = vec![fixtures::byte_level(), fixtures::byte_fallback(), fixtures::byte_fallback_metaspace()];
        files.extend(fixtures::of_whole_tokens().into_iter().map(|(_, file)| file));
        let file = prop::sample::select(files.iter().map(Value::to_string).collect::<Vec<_>>());
        let byte = prop::sample::select(b"0129\"{}[],:a <".to_vec());
        proptest!(|(file in file, at in any::<prop::sample::Index>(), byte in byte)| {
            let mut bytes = file.into_bytes();
            *at.get_mut(&mut bytes) = byte;
            let opened = Tokenizer::from_bytes(&bytes, &Companions::default(), Path::new("t.json"), VOCAB_SIZE);
            if let Ok(tokenizer) = opened {
                let _ = tokenizer.encode("he a b é🙂", true);
                tokenizer.decode(&(0..VOCAB_SIZE as u32).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn the_end_of_text_comes_from_all_the_files_beside_or_from_well_known_names() {
        let generation = |json| ("generation_config.json", json);
        let config = |json| ("config.json", json);
        let tokenizer = |json| ("tokenizer_config.json", json);
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u32]);
        let cases: [Case<'_>; 9] = [
            (&[], &[259, 260]),
            (&[config(r#"{"eos_token_id": null, "vocab_size": 300}"#), tokenizer("{}")], &[259, 260]),
            (&[config(r#"{"eos_token_id": 7}"#)], &[7]),
            (&[generation(r#"{"eos_token_id": [299, 0]}"#)], &[0, 299]),
            (&[generation(r#"{"eos_token_id": []}"#), config(r#"{"eos_token_id": []}"#)], &[259, 260]),
            (&[tokenizer(r#"{"eos_token": "he"}"#)], &[256]),
            (&[tokenizer(r#"{"eos_token": {"content": "<|im_end|>", "special": true}}"#)], &[260]),
            (&[tokenizer(r#"{"eos_token": null}"#)], &[259, 260]),
            (
                &[
                    generation(r#"{"eos_token_id": [9, 5]}"#),
                    config(r#"{"eos_token_id": 9}"#),
                    tokenizer(r#"{"eos_token": "<|im_end|>"}"#),
                ],
                &[5, 9, 260],
            ),
        ];
        for (companions, expected) in cases {
            assert_eq!(
                open(checkpoint(companions).path(), "tokenizer.json").unwrap().end_of_text(),
                expected,
                "{companions:?}"
            );
        }
    }

    #[test]
    fn a_well_known_name_that_is_no_special_token_ends_no_text() {
        let mut file = fixtures::byte_level();
        file["added_tokens"][0]["special"] = false.into();
        assert_eq!(from_value(&file).unwrap().end_of_text(), [260]);
    }

    #[test]
    fn what_can_not_end_a_text_is_an_error_that_names_file_and_key() {
        let wanted = "eos_token_id: expected a token id or a list of them, found";
        let cases = [
            ("config.json", r#"{"eos_token_id": "7"}"#, format!("{wanted} \"7\"")),
            ("config.json", r#"{"eos_token_id": -1}"#, format!("{wanted} -1")),
            ("generation_config.json", r#"{"eos_token_id": [1, 2.5]}"#, format!("{wanted} 2.5")),
            ("config.json", r#"{"eos_token_id": 300}"#, "vocab_size 300, eos_token_id is 300".into()),
            ("config.json", r#"{"eos_token_id": 4294967296}"#, "vocab_size 300, eos_token_id is 4294967296".into()),
            ("config.json", "{", "can't be read for its eos_token_id: EOF".into()),
            ("generation_config.json", "[]", "can't be read for its eos_token_id: invalid type".into()),
            ("tokenizer_config.json", "", "can't be read for its special tokens: EOF".into()),
            ("tokenizer_config.json", r#"{"eos_token": 2}"#, "eos_token: expected a string".into()),
            ("tokenizer_config.json", r#"{"eos_token": {"id": 2}}"#, "eos_token: expected a string".into()),
            ("tokenizer_config.json", r#"{"eos_token": "zz"}"#, "eos_token: \"zz\" is not in the vocabulary".into()),
        ];
        for (name, contents, expected) in cases {
            let dir = checkpoint(&[(name, contents)]);
            let found = message(open(dir.path(), "tokenizer.json"));
            let path = dir.path().join(name);
            assert!(found.starts_with(&format!("{}: ", path.display())) && found.contains(&expected), "{found}");
        }
    }
}
