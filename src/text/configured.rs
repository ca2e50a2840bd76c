//! What `tokenizer_config.json` changes about a `tokenizer.json`, as transformers has it: which tokens are added or
//! special, and what stands around a text. Version 5 of transformers leaves `add_bos_token` and `add_eos_token` out where
//! there is a `tokenizer.json`; the authors of models mean them, and version 4 honoured them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

/// The tokens that have a name in every model; a model may have others that end so.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const TOKEN: &str = "_token";

/// The list of further special ones, or where it is left out by its old name.
const FURTHER: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Adds to the library's tokenizer what `config` says. New tokens get the ids behind `last`, as long as these are below
/// `vocab_size`: a model can't know others.
///
/// # Errors
/// A key has another type than it should, or `add_bos_token` or `add_eos_token` asks for a token that is not there.
pub(super) fn configure(
    library: &mut Tokenizer,
    config: &Map<String, Value>,
    last: u32,
    vocab_size: usize,
) -> tokenizers::Result<()> {
    let mut unused = (last as usize).saturating_add(1)..vocab_size;
    let mut tokens = tokens(library, config)?;
    tokens.retain(|token| library.token_to_id(&token.content).is_some() || unused.next().is_some());
    library.add_tokens(tokens)?;
    if let Some(template) = surroundings(library, config)? {
        library.with_post_processor(Some(template));
    }
    Ok(())
}

/// The tokens of `added_tokens_decoder` by their ids, and behind them the special ones that are not among them.
fn tokens(library: &Tokenizer, config: &Map<String, Value>) -> tokenizers::Result<Vec<AddedToken>> {
    let mut tokens = added_tokens(config)?;
    let mut places: HashMap<String, usize> =
        tokens.iter().enumerate().map(|(at, token)| (token.content.clone(), at)).collect();
    let known: HashMap<String, AddedToken> =
        library.get_added_tokens_decoder().into_values().map(|token| (token.content.clone(), token)).collect();
    let end = config.get("eos_token").and_then(content);
    for token in special_tokens(config)? {
        let content = token.content.clone();
        if Some(content.as_str()) == end && !places.contains_key(&content) && library.token_to_id(&content).is_none() {
            continue; // a new one would end no text that the model writes
        }
        let at = *places.entry(content).or_insert_with_key(|content| {
            tokens.push(known.get(content).cloned().unwrap_or(token));
            tokens.len() - 1
        });
        if let Some(token) = tokens.get_mut(at) {
            token.special = true;
        }
    }
    Ok(tokens)
}

fn added_tokens(config: &Map<String, Value>) -> tokenizers::Result<Vec<AddedToken>> {
    let key = "added_tokens_decoder";
    let wrong = |what: &Value| format!("{key}: expected token ids and tokens, found {what}");
    let mut by_id = match config.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(entries)) => {
            let token = |(id, token): (&String, &Value)| {
                let read = id.parse::<u32>().ok().zip(added_token(token));
                read.ok_or_else(|| wrong(&json!({ id: token })))
            };
            entries.iter().map(token).collect::<Result<Vec<_>, _>>()?
        }
        Some(other) => return Err(wrong(other).into()),
    };
    by_id.sort_by_key(|(id, _)| *id);
    Ok(by_id.into_iter().map(|(_, token)| token).collect())
}

fn added_token(token: &Value) -> Option<AddedToken> {
    let content = token.get("content")?.as_str()?;
    let flag = |key, default| token.get(key).map_or(Some(default), Value::as_bool);
    let special = flag("special", false)?;
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false)?)
            .lstrip(flag("lstrip", false)?)
            .rstrip(flag("rstrip", false)?)
            .normalized(flag("normalized", !special)?),
    )
}

/// Those that have a name, those whose name is the model's own, and the further ones.
fn special_tokens(config: &Map<String, Value>) -> tokenizers::Result<Vec<AddedToken>> {
    let named = NAMED.iter().filter_map(|key| Some((*key, config.get(*key)?)));
    let list = FURTHER.iter().find_map(|key| Some((*key, config.get(*key).filter(|value| !value.is_null())?)));
    let further: Vec<(&str, &Value)> = match list {
        None => Vec::new(),
        Some((key, Value::Array(values))) => values.iter().map(|value| (key, value)).collect(),
        Some((key, Value::Object(values))) => values.values().map(|value| (key, value)).collect(),
        Some((key, other)) => {
            return Err(format!("{key}: expected a list or an object of tokens, found {other}").into());
        }
    };
    let is_own = |(key, value): &(&String, &Value)| {
        key.ends_with(TOKEN) && !key.starts_with("add_") && !NAMED.contains(&key.as_str()) && !value.is_boolean()
    };
    let own = config.iter().filter(is_own).map(|(key, value)| (key.as_str(), value));
    let mut tokens = Vec::new();
    for (key, value) in named.chain(own).chain(further).filter(|(_, value)| !value.is_null()) {
        let token = match value {
            Value::String(content) => Some(AddedToken::from(content, true)),
            value => added_token(value),
        };
        tokens
            .push(token.ok_or_else(|| format!("{key}: expected a string or an object with a content, found {value}"))?);
    }
    tokens.retain(|token| !token.content.is_empty());
    Ok(tokens)
}

/// A token's text: it stands there by itself, or as the `content` of an object.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// What stands around a text where `add_bos_token` or `add_eos_token` says so. One of them that is left out means what the
/// tokenizer's own file does.
fn surroundings(library: &Tokenizer, config: &Map<String, Value>) -> tokenizers::Result<Option<TemplateProcessing>> {
    let keys = ["add_bos_token", "add_eos_token"];
    if !keys.iter().any(|key| config.contains_key(*key)) {
        return Ok(None);
    }
    let usual = library.encode_fast("", true)?;
    let asked = Surrounding { library, config, usual: usual.get_ids() };
    let (bos, eos) = (asked.token("add_bos_token", "bos_token")?, asked.token("add_eos_token", "eos_token")?);
    let special = |(token, _): &(&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let single: Vec<Value> = bos.iter().map(special).chain([sequence("A")]).chain(eos.iter().map(special)).collect();
    let known = |(token, id): &(&str, u32)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let tokens: Map<String, Value> = bos.iter().chain(&eos).map(known).collect();
    let pair = [sequence("A"), sequence("B")];
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    Ok(Some(serde_json::from_value(template)?))
}

/// Looks for what stands around a text.
struct Surrounding<'a> {
    library: &'a Tokenizer,
    config: &'a Map<String, Value>,
    /// What the tokenizer's own file puts there.
    usual: &'a [u32],
}

impl<'a> Surrounding<'a> {
    /// The token that is called `name`, and its id, if there is one and the flag `key` asks for it.
    fn token(&self, key: &str, name: &str) -> tokenizers::Result<Option<(&'a str, u32)>> {
        let Some(token) = self.config.get(name).and_then(content) else { return Ok(None) };
        let id = self.library.token_to_id(token);
        let is_asked = match self.config.get(key) {
            None => id.is_some_and(|id| self.usual.contains(&id)),
            Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => return Err(format!("{key}: expected true or false, found {other}").into()),
        };
        match id {
            _ if !is_asked => Ok(None),
            Some(id) => Ok(Some((token, id))),
            None => Err(format!("{key}: {name} {token:?} is not in the vocabulary").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixtures;

    fn configured(config: &Value) -> tokenizers::Result<Tokenizer> {
        let mut library = fixtures::library(&fixtures::byte_level());
        let last = library.get_vocab(true).into_values().max().unwrap();
        configure(&mut library, config.as_object().unwrap(), last, last as usize + 2)?;
        Ok(library)
    }

    #[test]
    fn wrong_types_and_tokens_that_are_not_there_are_refused_by_key() {
        for (config, expected) in [
            (json!({"added_tokens_decoder": []}), "added_tokens_decoder: expected token ids and tokens, found []"),
            (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "added_tokens_decoder: expected token ids"),
            (json!({"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}), "added_tokens_decoder: expected"),
            (json!({"pad_token": 5}), "pad_token: expected a string or an object with a content, found 5"),
            (json!({"additional_special_tokens": "<img>"}), "additional_special_tokens: expected a list"),
            (json!({"extra_special_tokens": ["a", 1]}), "extra_special_tokens: expected a string or an object"),
            (json!({"bos_token": "he", "add_bos_token": 1}), "add_bos_token: expected true or false, found 1"),
            (
                json!({"added_tokens_decoder": {"900": {"content": "x1"}}, "bos_token": "x3", "add_bos_token": true}),
                "add_bos_token: bos_token \"x3\" is not in the vocabulary",
            ),
        ] {
            let error = configured(&config).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn new_tokens_are_added_as_long_as_the_model_has_room() {
        let library = configured(&json!({"additional_special_tokens": ["<new>", "<no room>"]})).unwrap();
        let known = fixtures::library(&fixtures::byte_level()).get_vocab_size(true) as u32;
        assert_eq!((library.token_to_id("<new>"), library.token_to_id("<no room>")), (Some(known), None));
    }
}
