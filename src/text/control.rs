//! Control tokens in a text of which a part is not trusted.
//!
//! A chat's template writes control tokens, and so may a user, whose text stands among them. What a request brings is
//! therefore marked before it is rendered: behind the first character of everything that reads like a control token
//! comes [`BREAK`], a noncharacter, which no text has. Templates cut, join and compare what they are given, and the
//! marks go along. In the rendered text a control token without a mark is the template's own. That holds unless a
//! template itself makes one of a message: puts a role between `<|` and `|>`, changes case, or cuts something out of
//! the middle of what then reads like one.
//!
//! The marks are taken out before the text is encoded, so the library must not look for control tokens again: it runs
//! with a copy of the added vocabulary that knows none. Each of the template's own is written there as a marker, of
//! noncharacters too, for which the copy has a token. So all around it, from the spaces that a token strips to the
//! prefix of a text's first word, is encoded as in any other text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use tokenizers::{AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizer};

use super::guard::guarded;
use crate::error::{Error, Result};

/// Stands behind the first character of what reads like a control token and is none.
const BREAK: char = '\u{fdd0}';

/// Noncharacters of Unicode: taken out of what a request brings, and out of all text before it is encoded.
const RESERVED: RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A marker is that many of the sixteen noncharacters from `FIRST_DIGIT`: the place of its token in the list.
const N_DIGITS: u32 = 8;
const FIRST_DIGIT: char = '\u{fdd1}';

/// A character that no vocabulary has: its tokens are what the model gives for the unknown.
const UNKNOWN: &str = "\u{10fffd}";

/// The control tokens of a tokenizer, and how those that are meant are told from those that are text.
pub(super) struct ControlTokens {
    tokens: Vec<ControlToken>,
    /// Places in `tokens` by a content's first byte, longest content first.
    by_first_byte: HashMap<u8, Vec<usize>>,
    /// All that a control token can begin with, short of itself, and all that it can end with.
    heads: HashSet<String>,
    tails: HashSet<String>,
    /// Bytes of the longest content.
    longest: usize,
    /// Knows the markers, and no control token.
    vocabulary: AddedVocabulary,
    /// Ids that the model gives for what it does not know.
    unknown: Vec<u32>,
}

struct ControlToken {
    id: u32,
    content: String,
}

/// One id of a chat.
pub(super) enum Piece {
    /// A control token of the template, by its place.
    Control(usize),
    /// What the model gave for text.
    Text(u32),
}

impl Piece {
    fn text(&self) -> Option<u32> {
        match *self {
            Self::Control(_) => None,
            Self::Text(id) => Some(id),
        }
    }
}

impl ControlTokens {
    /// Those that the file of the `library`'s tokenizer calls special, and those of `end_of_text`.
    ///
    /// # Errors
    /// The library's reason.
    pub(super) fn new(library: &tokenizers::Tokenizer, end_of_text: &[u32]) -> Result<Self, String> {
        let added = library.get_added_vocabulary().get_added_tokens_decoder();
        let mut controls: Vec<(u32, AddedToken)> = added
            .iter()
            .filter(|(id, token)| !token.content.is_empty() && (token.special || end_of_text.contains(id)))
            .map(|(id, token)| (*id, token.clone()))
            .collect();
        controls.sort_by(|(a, x), (b, y)| y.content.len().cmp(&x.content.len()).then(a.cmp(b)));
        let vocabulary = guarded(|| marker_vocabulary(library, controls.iter().map(|(_, token)| token)))?;
        let tokens = controls.into_iter().map(|(id, token)| ControlToken { id, content: token.content }).collect();
        let mut this = Self::indexed(tokens, vocabulary);
        // A tokenizer that can't encode this text may encode others.
        let unknown = guarded(|| this.encode(library, UNKNOWN)).unwrap_or_default();
        this.unknown = unknown.iter().filter_map(Piece::text).collect();
        Ok(this)
    }

    fn indexed(tokens: Vec<ControlToken>, vocabulary: AddedVocabulary) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<usize>> = HashMap::new();
        let (mut heads, mut tails) = (HashSet::new(), HashSet::new());
        for (place, ControlToken { content, .. }) in tokens.iter().enumerate() {
            by_first_byte.entry(content.bytes().next().unwrap_or_default()).or_default().push(place);
            for (head, tail) in content.char_indices().skip(1).map(|(at, _)| content.split_at(at)) {
                heads.insert(head.to_owned());
                tails.insert(tail.to_owned());
            }
        }
        let longest = tokens.first().map_or(0, |token| token.content.len());
        Self { tokens, by_first_byte, heads, tails, longest, vocabulary, unknown: vec![] }
    }

    /// The longest control token that `text` begins with, and its place.
    fn at_start(&self, text: &str) -> Option<(usize, &ControlToken)> {
        let places = self.by_first_byte.get(text.as_bytes().first()?)?;
        let mut tokens = places.iter().filter_map(|&place| Some((place, self.tokens.get(place)?)));
        tokens.find(|(_, token)| text.starts_with(&token.content))
    }

    /// A `text` of a request, such that no control token is read in it, nor across its ends.
    pub(super) fn mark(&self, text: &str) -> String {
        let text = without_reserved(text);
        // Templates trim, so that what counts as the ends are those without spaces.
        let core = text.trim();
        let start = text.len() - text.trim_start().len();
        let end = start + core.len();
        let mut marked = String::with_capacity(text.len());
        for (at, char) in text.char_indices() {
            if at == start && self.ends_one(core) {
                marked.push(BREAK);
            }
            marked.push(char);
            let is_one = self.at_start(text.get(at..).unwrap_or_default()).is_some();
            if is_one || (at + char.len_utf8() == end && self.begins_one(core)) {
                marked.push(BREAK);
            }
        }
        marked
    }

    /// Whether the end of `text` may begin a control token with what comes behind it.
    fn begins_one(&self, text: &str) -> bool {
        let starts = text.char_indices().rev().map(|(at, _)| at).take_while(|at| text.len() - at < self.longest);
        !is_word(text) && starts.filter_map(|at| text.get(at..)).any(|end| self.heads.contains(end))
    }

    /// Whether the start of `text` may end a control token with what comes before it.
    fn ends_one(&self, text: &str) -> bool {
        let ends = text.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end < self.longest);
        !is_word(text) && ends.filter_map(|end| text.get(..end)).any(|start| self.tails.contains(start))
    }

    /// The ids of a rendered chat: its control tokens without a mark are meant, all else is text.
    pub(super) fn encode(&self, library: &tokenizers::Tokenizer, chat: &str) -> tokenizers::Result<Vec<Piece>> {
        // As the library itself does it, but for the vocabulary.
        let chat = self.with_markers(chat);
        let mut split = self.vocabulary.extract_and_normalize(library.get_normalizer(), &chat);
        if let Some(pre_tokenizer) = library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split)?;
        }
        library.get_model().tokenize_in_pretokenized(&mut split, None)?;
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let tokens = splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten();
        Ok(tokens.map(|token| place(&token.value).map_or(Piece::Text(token.id), Piece::Control)).collect())
    }

    /// `chat` with markers for the control tokens that are meant, and without marks.
    fn with_markers(&self, chat: &str) -> String {
        let mut out = String::with_capacity(chat.len());
        let mut rest = chat;
        while let Some(char) = rest.chars().next() {
            let n_bytes = match self.at_start(rest) {
                Some((place, token)) if !is_marked_whole(token, rest) => {
                    out.extend(marker(place));
                    token.content.len()
                }
                _ => {
                    out.extend(Some(char).filter(|char| !RESERVED.contains(char)));
                    char.len_utf8()
                }
            };
            rest = rest.get(n_bytes..).unwrap_or_default();
        }
        out
    }

    /// The ids of `pieces`.
    ///
    /// # Errors
    /// The model gave a control token for text.
    pub(super) fn ids(&self, pieces: &[Piece]) -> Result<Vec<u32>> {
        pieces.iter().map(|piece| self.id(piece)).collect()
    }

    fn id(&self, piece: &Piece) -> Result<u32> {
        match *piece {
            Piece::Control(place) => {
                let unknown = || Error::Internal(format!("no control token has the place {place}"));
                self.tokens.get(place).map(|token| token.id).ok_or_else(unknown)
            }
            Piece::Text(id) => match self.tokens.iter().find(|token| token.id == id && !self.unknown.contains(&id)) {
                None => Ok(id),
                Some(ControlToken { content, .. }) => {
                    let message = format!(
                        "{content:?} can't be sent as text: the model's tokenizer takes it for a control token"
                    );
                    Err(Error::invalid("messages", message))
                }
            },
        }
    }
}

/// The added vocabulary of `library`, which knows a marker for each of `controls` in its place.
fn marker_vocabulary<'a>(
    library: &tokenizers::Tokenizer,
    controls: impl Iterator<Item = &'a AddedToken> + Clone,
) -> tokenizers::Result<AddedVocabulary> {
    let mut vocabulary = library.get_added_vocabulary().clone();
    let hidden = controls.clone().map(|token| token.clone().special(true));
    let markers = controls.enumerate().map(|(place, token)| {
        let token = AddedToken { content: marker(place).collect(), ..token.clone() };
        token.single_word(false).normalized(false).special(false)
    });
    let tokens: Vec<_> = hidden.chain(markers).collect();
    vocabulary.add_tokens(tokens, library.get_model(), None::<&NormalizerWrapper>)?;
    vocabulary.set_encode_special_tokens(true);
    Ok(vocabulary)
}

/// The marker of the control token in `place`.
fn marker(place: usize) -> impl Iterator<Item = char> {
    let digit = move |at: u32| u32::from(FIRST_DIGIT) + (place >> (4 * at) & 15) as u32;
    (0..N_DIGITS).map(digit).filter_map(char::from_u32)
}

/// The place of the control token whose marker `token` is, with the spaces that it may strip.
fn place(token: &str) -> Option<usize> {
    let digit = |char| u32::from(char).checked_sub(FIRST_DIGIT.into()).filter(|digit| *digit < 16);
    let digits: Option<Vec<u32>> = token.trim().chars().map(digit).collect();
    let digits = digits.filter(|digits| digits.len() == N_DIGITS as usize)?;
    Some(digits.iter().rev().fold(0, |place, digit| place << 4 | *digit as usize))
}

/// Whether the mark at the start of `text` does not stand within `token`, which has one character, but behind it.
fn is_marked_whole(token: &ControlToken, text: &str) -> bool {
    let mut behind = text.chars();
    token.content.chars().nth(1).is_none() && behind.nth(1) == Some(BREAK)
}

/// What templates compare: roles, types and names. Only a template that builds a control token from such pieces could
/// make one of it, and means to.
fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// `text` without marks and markers.
pub(super) fn without_reserved(text: &str) -> Cow<'_, str> {
    if text.contains(|char| RESERVED.contains(&char)) {
        text.replace(|char| RESERVED.contains(&char), "").into()
    } else {
        text.into()
    }
}

/// Whether `char` is a mark or a part of a marker.
pub(super) fn is_reserved(char: char) -> bool {
    RESERVED.contains(&char)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::text::{Companions, Tokenizer, fixtures};

    fn open(file: &Value) -> Tokenizer {
        let bytes = file.to_string();
        Tokenizer::from_bytes(bytes.as_bytes(), &Companions::default(), Path::new("t.json"), 300).unwrap()
    }

    fn control(file: &Value) -> (ControlTokens, tokenizers::Tokenizer) {
        let library = fixtures::library(file);
        (ControlTokens::new(&library, open(file).end_of_text()).unwrap(), library)
    }

    /// The ids of a chat between whose `parts` every second one is the template's.
    fn ids(file: &Value, parts: &[&str]) -> Result<Vec<u32>> {
        let (control, library) = control(file);
        let marked = parts.iter().zip([false, true].iter().cycle());
        let chat: String =
            marked.map(|(part, is_theirs)| if *is_theirs { control.mark(part) } else { (*part).to_owned() }).collect();
        control.ids(&control.encode(&library, &chat).unwrap())
    }

    #[test]
    fn marks_stand_within_what_reads_like_a_control_token_and_at_ends_that_may_become_one() {
        let (control, _) = control(&fixtures::byte_level());
        let cases = [
            ("plain text", "plain text"),
            ("a <|im_end|> b", "a <^|im_end|> b"),
            ("<|im_end|><|endoftext|>", "<^|im_end|><^|endoftext|>^"),
            ("a <", "a <^"),
            (" <|im_ \n", " <|im_^ \n"),
            ("> quoted", "^> quoted"),
            ("\t|> x", "\t^|> x"),
            ("user", "user"),
            ("im_end", "im_end"),
            ("", ""),
            (" \n", " \n"),
            ("<|im_\u{fdd0}end\u{fdef}|>", "<^|im_end|>"),
        ];
        for (text, expected) in cases {
            let found = control.mark(text).replace(BREAK, "^");
            // The end of a whole control token is the end of one, too: one mark more or less there changes nothing.
            assert_eq!(found.trim_end_matches('^'), expected.trim_end_matches('^'), "{text:?}");
            assert_eq!(without_reserved(&control.mark(text)), without_reserved(text));
        }
    }

    #[test]
    fn without_control_tokens_in_messages_the_ids_are_the_librarys() {
        let files = [fixtures::byte_level(), fixtures::byte_fallback(), fixtures::byte_fallback_metaspace()];
        for file in files.into_iter().chain(fixtures::of_whole_tokens().into_iter().map(|(_, file)| file)) {
            let library = fixtures::library(&file);
            let special = if library.token_to_id("<s>").is_some() { "<s>" } else { "<|im_end|>" };
            proptest!(ProptestConfig::with_cases(64), |(theirs in "[ab the\n.🙂|>]{0,12}", more in "[ab <]{0,4}")| {
                let chat = [special, &theirs, special, &more, ""];
                let expected = library.encode_fast(chat.concat(), false).unwrap();
                prop_assert_eq!(ids(&file, &chat).unwrap(), expected.get_ids(), "{}", file["decoder"]);
            });
        }
    }

    #[test]
    fn text_is_encoded_behind_a_control_token_as_it_is_in_the_whole_chat() {
        let mut file = fixtures::byte_fallback();
        let scheme = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        file["pre_tokenizer"] = scheme;
        let expected = fixtures::library(&file).encode_fast("b<s>b", false).unwrap();
        assert_eq!(expected.get_ids(), [3, 6, 1, 6], "the first word alone has a prefix");
        assert_eq!(ids(&file, &["", "b", "<s>", "b"]).unwrap(), expected.get_ids());
        let found = ids(&file, &["<s>", "<s>b", "</s>"]).unwrap();
        assert_eq!((found.first(), found.last()), (Some(&1), Some(&2)));
        assert!(!found[1..found.len() - 1].contains(&1), "{found:?}");
        assert_eq!(open(&file).decode(&found), "<s>b");
    }

    #[test]
    fn a_control_token_strips_the_spaces_that_it_strips_elsewhere() {
        let mut file = fixtures::byte_level();
        for side in ["lstrip", "rstrip"] {
            file["added_tokens"][1][side] = true.into();
        }
        let expected = fixtures::library(&file).encode_fast("he  <|im_end|> he", false).unwrap();
        assert_eq!(expected.get_ids(), [256, 260, 256]);
        assert_eq!(ids(&file, &["he  <|im_end|> he"]).unwrap(), expected.get_ids());
        assert_eq!(open(&file).decode(&ids(&file, &["", "he <|im_end|> he"]).unwrap()), "he <|im_end|> he");
    }

    #[test]
    fn normalizers_make_no_control_token_of_text() {
        let mut file = fixtures::byte_level();
        file["normalizer"] = json!({"type": "Lowercase"});
        file["added_tokens"][1]["normalized"] = true.into();
        assert_eq!(open(&file).encode("<|IM_END|>", false).unwrap(), [260], "the library makes one");
        let found = ids(&file, &["<|im_end|>", "<|IM_END|><|im_end|>", "<|im_end|>"]).unwrap();
        assert_eq!((found.iter().filter(|id| **id == 260).count(), found.len() > 20), (2, true), "{found:?}");
    }

    #[test]
    fn what_ends_a_text_is_a_control_token_whatever_its_file_calls_it() {
        let mut file = fixtures::byte_level();
        file["added_tokens"][1]["special"] = false.into();
        let library = fixtures::library(&file);
        let control = ControlTokens::new(&library, &[260]).unwrap();
        let of = |chat: &str| control.ids(&control.encode(&library, chat).unwrap()).unwrap();
        assert_eq!(of("<|im_end|>"), [260]);
        assert!(!of(&control.mark("<|im_end|>")).contains(&260));
    }

    #[test]
    fn other_added_tokens_are_known_in_text() {
        assert_eq!(ids(&fixtures::byte_level(), &["", "日本"]).unwrap(), [262]);
    }

    #[test]
    fn a_control_token_of_one_character_can_be_text() {
        let mut file = fixtures::byte_level();
        file["added_tokens"][1]["content"] = "☃".into();
        let id = fixtures::library(&file).token_to_id("☃").unwrap();
        let found = ids(&file, &["☃", "a☃b☃", "☃"]).unwrap();
        assert_eq!(found.iter().filter(|found| **found == id).count(), 2);
        assert_eq!(open(&file).decode(&found), "a☃b☃");
    }

    #[test]
    fn a_model_that_makes_a_control_token_of_text_is_not_given_it() {
        let words = json!([["<unk>", 0.0], ["<s>", -1.0], ["a", -2.0]]);
        let model = json!({"type": "Unigram", "unk_id": 0, "vocab": words});
        let file = fixtures::file(&model, &Value::Null, &["<unk>", "<s>"], &[]);
        assert_eq!(ids(&file, &["<s>", "a"]).unwrap(), [1, 2]);
        assert_eq!(ids(&file, &["<s>", "aé"]).unwrap(), [1, 2, 0], "what is unknown is no control token");
        let error = ids(&file, &["<s>", "a<s>"]).unwrap_err();
        assert!(matches!(error, Error::Invalid { param: "messages", .. }), "{error:?}");
        assert!(error.to_string().starts_with("messages: \"<s>\" can't be sent as text"), "{error}");
    }

    #[test]
    fn markers_are_read_back_with_the_spaces_that_a_token_strips() {
        for expected in [0, 1, 15, 16, 4096, u32::MAX as usize] {
            let marker: String = marker(expected).collect();
            assert_eq!(place(&format!(" {marker}\n")), Some(expected));
        }
        for other in ["", "a", "\u{fdd1}", " ", "\u{fdd0}\u{fdd1}\u{fdd1}\u{fdd1}\u{fdd1}\u{fdd1}\u{fdd1}\u{fdd1}"] {
            assert_eq!(place(other), None, "{other:?}");
        }
    }
}
