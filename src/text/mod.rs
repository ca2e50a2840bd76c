//! Text at the two ends of the model: prompts to token ids, token ids back to text. In reading order:
//!
//! - [`Tokenizer`]: a checkpoint's `tokenizer.json` and the ids that end a text.
//! - [`Decoder`]: ids to text one at a time, such that the joined pieces are the text of all the ids.
//! - [`ChatTemplate`]: a conversation to the text that the model was trained on; what its messages say stays text.
//! - [`StopMatcher`]: ends a text at the first stop string, however the text was split.
//!
//! Everything here is synchronous, and no file or prompt is trusted: the `tokenizers` library panics on some, which
//! ends as an error that names the file.

mod chat;
mod configured;
mod control;
mod decode;
mod guard;
mod spelling;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Rendered};
pub use decode::Decoder;
pub use stop::StopMatcher;
pub use tokenizer::{Companion, Companions, Tokenizer};

/// Small tokenizers of every kind, written out as their `tokenizer.json`.
#[cfg(test)]
mod fixtures {
    use serde_json::{Map, Value, json};

    /// The `tokenizer.json` of `model` and `decoder`; `special` and `plain` tokens are added behind its vocabulary.
    pub(super) fn file(model: &Value, decoder: &Value, special: &[&str], plain: &[&str]) -> Value {
        let added = |is_special: bool| move |content: &&str| added_token(content, is_special);
        let tokens = special.iter().map(added(true)).chain(plain.iter().map(added(false)));
        json!({"version": "1.0", "added_tokens": tokens.collect::<Vec<_>>(), "model": model, "decoder": decoder})
    }

    fn added_token(content: &str, special: bool) -> Value {
        json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    }

    /// Tokens to ids, in order.
    fn vocabulary(tokens: impl IntoIterator<Item = String>) -> Value {
        Value::Object(tokens.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect::<Map<_, _>>())
    }

    fn bpe(tokens: impl IntoIterator<Item = String>, merges: &[[&str; 2]]) -> Value {
        json!({"type": "BPE", "vocab": vocabulary(tokens), "merges": merges, "byte_fallback": true})
    }

    fn strings(tokens: &[&str]) -> Vec<String> {
        tokens.iter().map(ToString::to_string).collect()
    }

    /// GPT-2's kind: 256 bytes, three merges, two special tokens and two others, one outside the byte alphabet.
    pub(super) fn byte_level() -> Value {
        let mut tokens: Vec<_> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().iter().map(ToString::to_string).collect();
        tokens.sort();
        tokens.extend(strings(&["he", "ðŁ", "ðŁĻ"]));
        let merges = [["h", "e"], ["ð", "Ł"], ["ðŁ", "Ļ"]];
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let mut file = file(&bpe(tokens, &merges), &level, &["<|endoftext|>", "<|im_end|>"], &["a b", "日本"]);
        file["pre_tokenizer"] = level.clone();
        file["post_processor"] = level;
        file
    }

    /// Llama 2's kind: words with `▁` for a space, and a token for each byte.
    pub(super) fn byte_fallback() -> Value {
        let words = ["<unk>", "<s>", "</s>", "▁", "▁▁", "▁a", "b", "▁the", "é", "\u{fffd}", "<0xZZ>", "▁c▁d"];
        let tokens = strings(&words).into_iter().chain((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        file(&bpe(tokens, &[]), &decoder, &["<s>", "</s>"], &[])
    }

    /// The number of tokens in [`byte_fallback`] that are no bytes.
    pub(super) const N_WORDS: u32 = 12;

    /// The same vocabulary under a decoder that only the library knows how to run.
    pub(super) fn byte_fallback_metaspace() -> Value {
        let mut file = byte_fallback();
        file["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}]});
        file
    }

    /// Every kind of decoder that looks at whole tokens, by name.
    pub(super) fn of_whole_tokens() -> Vec<(&'static str, Value)> {
        let words = ["▁a", "▁", "b", "", "##c", "do not", "d</w>", "e</w>", ".", "n't", "|", "<pad>", "é", "\u{fffd}"];
        let model = json!({"type": "WordLevel", "vocab": vocabulary(strings(&words)), "unk_token": "b"});
        let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme});
        let decoders = [
            ("none", Value::Null),
            ("WordPiece", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
            ("WordPiece, raw", json!({"type": "WordPiece", "prefix": "##", "cleanup": false})),
            ("Metaspace", metaspace("always")),
            ("Metaspace, never", metaspace("never")),
            ("BPEDecoder", json!({"type": "BPEDecoder", "suffix": "</w>"})),
            ("CTC", json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true})),
        ];
        decoders.map(|(name, decoder)| (name, file(&model, &decoder, &["<s>"], &["f g"]))).into()
    }

    /// The library's own tokenizer of `file`.
    pub(super) fn library(file: &Value) -> tokenizers::Tokenizer {
        tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap()
    }
}
