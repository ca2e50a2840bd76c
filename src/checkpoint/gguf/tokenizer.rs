//! The tokenizer: `tokenizer.ggml.*` as the files that transformers would have written
//! (<https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp>).

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::container::Value::Negative;
use super::metadata::Metadata;
use super::object;
use crate::error::Result;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// SentencePiece's word for a space.
const SPACE: &str = "▁";

/// The longest token that merges are sought for, in bytes. The longest in use has 93, and the work grows by its square.
const LONGEST_PIECE: usize = 256;

/// The largest vocabularies have some hundred thousand.
const MOST_MERGES: usize = 1_000_000;

/// What ends an answer in the chats of well-known models, beside the end of a text.
const END_OF_TURN: [&str; 14] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
];

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    /// One that no text has, unless it is written out.
    Control,
    /// A text that is always one token.
    UserDefined,
    /// Padding of the vocabulary.
    Unused,
}

/// The vocabulary.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    /// The ids of special tokens where the file does not say.
    usual: &'static [(&'static str, usize)],
}

/// Those of SentencePiece.
const OF_PIECES: &[(&str, usize)] = &[("unknown", 0), ("bos", 1), ("eos", 2)];

impl Vocabulary {
    fn read(metadata: &Metadata<'_>, vocab_size: usize, usual: &'static [(&'static str, usize)]) -> Result<Self> {
        let tokens = metadata.texts(TOKENS)?.ok_or_else(|| metadata.error(TOKENS, "this key is missing"))?;
        if tokens.len() > vocab_size {
            let message = format!("{} tokens, but the model has rows for {vocab_size}", tokens.len());
            return Err(metadata.error(TOKENS, message));
        }
        let types = metadata.counts(TYPES)?.unwrap_or_else(|| vec![1; tokens.len()]);
        if types.len() != tokens.len() {
            let message = format!("expected one for each of {} tokens, found {}", tokens.len(), types.len());
            return Err(metadata.error(TYPES, message));
        }
        let kind = |kind| match kind {
            2 | 3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            _ => Kind::Text,
        };
        Ok(Self { tokens, kinds: types.into_iter().map(kind).collect(), usual })
    }

    fn each(&self) -> impl Iterator<Item = (usize, &str, Kind)> {
        self.tokens.iter().zip(&self.kinds).enumerate().map(|(id, (token, kind))| (id, token.as_str(), *kind))
    }

    /// The tokens with their ids. Padding has no text and stays out.
    fn vocab(&self) -> Map<String, Value> {
        let used = self.each().filter(|(_, _, kind)| *kind != Kind::Unused);
        used.map(|(id, token, _)| (token.to_owned(), id.into())).collect()
    }

    fn added_tokens(&self) -> Vec<Value> {
        let added = self.each().filter(|(_, _, kind)| matches!(kind, Kind::Control | Kind::UserDefined));
        let token = |(id, content, kind)| {
            json!({"id": id, "content": content, "special": kind == Kind::Control, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        };
        added.map(token).collect()
    }

    /// The special token `name`, such as `bos`: its id and its text.
    fn named(&self, metadata: &Metadata<'_>, name: &str) -> Result<Option<(usize, &str)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let usual = self.usual.iter().find(|(known, _)| *known == name).map(|(_, id)| *id);
        let given = match metadata.value(&key) {
            None => None,
            Some(Negative(_)) => Some(usize::MAX), // -1 is none
            Some(_) => metadata.count(&key)?,
        };
        if given.is_some_and(|id| id >= self.tokens.len()) {
            tracing::warn!("{key} is no token's id, and left out");
        }
        let id = given.filter(|id| *id < self.tokens.len()).or(usual);
        Ok(id.and_then(|id| Some((id, self.tokens.get(id)?.as_str()))))
    }
}

/// The files of the tokenizer by name, for a model with `vocab_size` rows: none where the file has no tokenizer.
///
/// # Errors
/// It is broken, or of a kind that is not supported.
pub fn files(metadata: &Metadata<'_>, vocab_size: usize) -> Result<Vec<(&'static str, Value)>> {
    let Some(model) = metadata.text(MODEL)?.filter(|model| model != "none" && model != "no_vocab") else {
        return Ok(Vec::new());
    };
    let has_pieces = match model.as_str() {
        "gpt2" => false,
        "llama" => true,
        other => return Err(metadata.error(MODEL, format!("{other:?} is not supported: expected gpt2 or llama"))),
    };
    let vocabulary = Vocabulary::read(metadata, vocab_size, if has_pieces { OF_PIECES } else { &[] })?;
    let (mut tokenizer, adds_bos) =
        if has_pieces { (sentence_pieces(metadata, &vocabulary)?, true) } else { byte_level(metadata, &vocabulary)? };
    let processor = post_processor(metadata, &vocabulary, adds_bos)?;
    tokenizer.insert("version".into(), "1.0".into());
    tokenizer.insert("added_tokens".into(), vocabulary.added_tokens().into());
    tokenizer.insert("post_processor".into(), processor);
    Ok(vec![
        ("tokenizer.json", Value::Object(tokenizer)),
        ("tokenizer_config.json", tokenizer_config(metadata, &vocabulary)?),
        ("generation_config.json", json!({"eos_token_id": end_of_text(metadata, &vocabulary)?})),
    ])
}

/// Merges of bytes within the pieces that a pattern cuts, and whether a text begins with a token of its own.
fn byte_level(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<(Map<String, Value>, bool)> {
    let merges = metadata.texts(MERGES)?.ok_or_else(|| metadata.error(MERGES, "this key is missing"))?;
    let pre = metadata.text(PRE)?.unwrap_or_else(|| "default".into());
    let Some(Pre { patterns, ignores_merges, adds_bos, is_composed, .. }) =
        PRE_TOKENIZERS.iter().find(|known| known.names.contains(&pre.as_str()))
    else {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|known| known.names).copied().collect();
        return Err(metadata.error(PRE, format!("{pre:?} is not supported: expected one of {}", known.join(", "))));
    };
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let pre_tokenizers: Vec<Value> = patterns.iter().map(split).chain([level.clone()]).collect();
    let tokenizer = json!({
        "normalizer": if *is_composed { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary.vocab(), "merges": merges, "ignore_merges": ignores_merges,
                  "fuse_unk": false, "byte_fallback": false},
    });
    Ok((object(tokenizer), *adds_bos))
}

/// SentencePiece's merges: the pair whose token has the highest score is joined first.
fn sentence_pieces(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<Map<String, Value>> {
    let scores = metadata.floats(SCORES)?.unwrap_or_default();
    if scores.len() != vocabulary.tokens.len() {
        let message = format!("expected one for each of {} tokens, found {}", vocabulary.tokens.len(), scores.len());
        return Err(metadata.error(SCORES, message));
    }
    let merges = merges(vocabulary, &scores).ok_or_else(|| {
        metadata.error(TOKENS, format!("more than {MOST_MERGES} pairs of tokens are a token together"))
    })?;
    let unknown = vocabulary.named(metadata, "unknown")?.map(|(_, token)| token);
    let has_prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if has_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(object(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "vocab": vocabulary.vocab(), "merges": merges, "unk_token": unknown,
                  "fuse_unk": true, "byte_fallback": true},
    })))
}

/// All pairs of tokens that are a token together, the ones with the highest scores first and among equals the longest
/// first parts. None where there are more than [`MOST_MERGES`].
fn merges(vocabulary: &Vocabulary, scores: &[f64]) -> Option<Vec<[String; 2]>> {
    let is_text = |(_, token, kind): &(usize, &str, Kind)| *kind == Kind::Text && token.len() <= LONGEST_PIECE;
    let ids: HashMap<&str, usize> = vocabulary.each().filter(is_text).map(|(id, token, _)| (token, id)).collect();
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for (token, id) in &ids {
        let score = scores.get(*id).copied().unwrap_or(f64::NEG_INFINITY);
        let cuts = token.char_indices().skip(1).filter_map(|(at, _)| token.split_at_checked(at));
        let pairs = cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(pairs.map(|(left, right)| (score, left, right)));
        if merges.len() > MOST_MERGES {
            return None;
        }
    }
    let length = |text: &str| text.chars().count();
    let key = |merge: &(f64, &str, &str)| (length(merge.1), length(merge.2));
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(key(b).cmp(&key(a))).then((a.1, a.2).cmp(&(b.1, b.2))));
    Some(merges.into_iter().map(|(_, left, right)| [left.to_owned(), right.to_owned()]).collect())
}

/// What stands before and behind a text.
fn post_processor(metadata: &Metadata<'_>, vocabulary: &Vocabulary, adds_bos: bool) -> Result<Value> {
    let added = |name: &str, default: bool| -> Result<_> {
        let is_added = metadata.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default);
        Ok(vocabulary.named(metadata, name)?.filter(|_| is_added))
    };
    let (bos, eos) = (added("bos", adds_bos)?, added("eos", false)?);
    let special = |(_, token): &(usize, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let around = |name| bos.iter().map(special).chain([text(name)]).chain(eos.iter().map(special)).collect::<Vec<_>>();
    let tokens = bos
        .iter()
        .chain(&eos)
        .map(|(id, token)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let pair = [around("A"), around("B")].concat();
    Ok(json!({"type": "TemplateProcessing", "single": around("A"), "pair": pair,
              "special_tokens": tokens.collect::<Map<_, _>>()}))
}

/// The names of special tokens, and the templates of chats.
fn tokenizer_config(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<Value> {
    let mut config = Map::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some((_, token)) = vocabulary.named(metadata, key)? {
            config.insert(format!("{name}_token"), token.into());
        }
    }
    let mut templates = Vec::new();
    for name in metadata.texts("tokenizer.chat_templates")?.unwrap_or_default() {
        let template = metadata.text(&format!("tokenizer.chat_template.{name}"))?;
        templates.push(json!({"name": name, "template": template}));
    }
    match metadata.text("tokenizer.chat_template")? {
        Some(template) if templates.is_empty() => drop(config.insert("chat_template".into(), template.into())),
        Some(template) => templates.push(json!({"name": "default", "template": template})),
        None => {}
    }
    if !templates.is_empty() {
        config.insert("chat_template".into(), templates.into());
    }
    Ok(Value::Object(config))
}

/// The ids that end a text: those that the file names, and those of tokens that end a turn by their names, whatever the file
/// says that they are.
fn end_of_text(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<Vec<usize>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(vocabulary.named(metadata, name)?.map(|(id, _)| id));
    }
    let ends_turn = |(_, token, _): &(usize, &str, Kind)| END_OF_TURN.contains(token);
    ids.extend(vocabulary.each().filter(ends_turn).map(|(id, _, _)| id));
    Ok(ids)
}

/// How a text is cut before its bytes are merged.
struct Pre {
    /// What `tokenizer.ggml.pre` calls it.
    names: &'static [&'static str],
    /// Each cuts what the ones before it left.
    patterns: &'static [&'static str],
    /// Whether a piece that is a token is not merged.
    ignores_merges: bool,
    /// Whether a text begins with a token of its own where the file does not say.
    adds_bos: bool,
    /// Whether characters are composed first.
    is_composed: bool,
}

impl Pre {
    const fn new(names: &'static [&'static str], patterns: &'static [&'static str]) -> Self {
        Self { names, patterns, ignores_merges: false, adds_bos: false, is_composed: false }
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT4: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Letters with two cases. Those that Unicode replaces by others where it composes are written by number.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// The ones of the families that are read, and the few that others share with them.
static PRE_TOKENIZERS: [Pre; 13] = [
    Pre::new(&["gpt-2", "phi-2", "gigachat", "mellum", "mpt", "olmo", "granite-docling"], &[GPT2]),
    Pre::new(&["starcoder", "refact", "command-r", "smollm", "codeshell"], &[r"\p{N}", GPT2]),
    Pre {
        ignores_merges: true,
        adds_bos: true,
        ..Pre::new(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[GPT4])
    },
    Pre::new(&["dbrx", "smaug-bpe"], &[GPT4]),
    Pre { is_composed: true, ..Pre::new(&["qwen2"], &[QWEN2]) },
    Pre::new(&["deepseek-r1-qwen", "megrez", "kormo", "stablelm2", "hunyuan", "solar-open"], &[QWEN2]),
    Pre { ignores_merges: true, adds_bos: true, ..Pre::new(&["tekken"], &[TEKKEN]) },
    Pre::new(&["gpt-4o", "llama4", "kanana2"], &[GPT4O]),
    Pre::new(&["deepseek-v3", "joyai-llm", "hunyuan-dense"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3]),
    Pre::new(
        &["deepseek-llm"],
        &[r"[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    ),
    Pre::new(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    Pre::new(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    Pre::new(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_one_and_every_name_is_there_once() {
        use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
        let mut names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for pattern in PRE_TOKENIZERS.iter().flat_map(|pre| pre.patterns) {
            let regex = SplitPattern::Regex((*pattern).into());
            assert!(Split::new(regex, tokenizers::SplitDelimiterBehavior::Isolated, false).is_ok(), "{pattern}");
        }
    }
}
