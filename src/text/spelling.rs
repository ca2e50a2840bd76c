//! How the ids of one tokenizer become text: for byte-level and byte-fallback tokenizers a table of bytes, made at load.

use std::{slice, sync::Arc};

use tokenizers::{DecoderWrapper as Stage, decoders::strip::Strip, normalizers::Replace};

use super::guard::guarded;

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
pub(super) struct Lead {
    pub(super) content: char,
    pub(super) n: usize,
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
pub(super) fn text_token(library: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    library.id_to_token(id).filter(|token| !library.get_added_vocabulary().is_special_token(token))
}

/// The bytes of each id, one after another.
pub(super) struct ByteTable {
    bytes: Vec<u8>,
    /// Those of id i are at `starts[i]..starts[i + 1]`.
    starts: Vec<u32>,
    pub(super) lead: Lead,
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

    pub(super) fn get(&self, id: u32) -> &[u8] {
        let start = |id: usize| self.starts.get(id).map(|start| *start as usize);
        let id = id as usize;
        let range = start(id).zip(start(id + 1));
        range.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{Decoder as _, pre_tokenizers::byte_level::ByteLevel};

    use super::*;

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
    fn the_byte_alphabet_is_the_librarys() {
        let spelled = |char| level_byte(char).map(|byte| String::from_utf8_lossy(&[byte]).into_owned());
        for char in '\0'..'\u{200}' {
            let expected = ByteLevel::default().decode_chain(vec![char.to_string()]).unwrap().concat();
            assert_eq!(spelled(char).is_some(), ByteLevel::alphabet().contains(&char), "{char:?}");
            assert_eq!(spelled(char).unwrap_or(char.to_string()), expected, "{char:?}");
        }
    }
}
