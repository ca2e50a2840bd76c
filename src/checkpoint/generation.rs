//! How a model's authors want it to be sampled: `generation_config.json`.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::keys::Keys;
use super::{LARGEST_JSON, first_few};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::sampling::Params;

const FILE: &str = "generation_config.json";

/// A number of any size: [`Params::validate`] knows the ranges.
const ANY: RangeInclusive<f64> = -1e9..=1e9;

/// Keys that change how tokens are chosen, and that blazr has not: with another value than null, an empty list or the one
/// here they are warned of.
const UNSUPPORTED: [(&str, f64); 20] = [
    ("bad_words_ids", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("diversity_penalty", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("exponential_decay_length_penalty", 0.0),
    ("forced_bos_token_id", -1.0),
    ("forced_eos_token_id", -1.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("penalty_alpha", 0.0),
    ("sequence_bias", 0.0),
    ("suppress_tokens", 0.0),
    ("top_h", 1.0),
    ("typical_p", 1.0),
];

/// The usual parameters, with what the file among `files` says in place of theirs: `do_sample: false` is greedy. Keys
/// that choose otherwise than blazr can are warned of.
///
/// # Errors
/// There is no such file, or a value is out of its range.
pub(super) fn sampling(files: &Files, vocab_size: usize) -> Result<Params> {
    let path = files.path(FILE);
    let missing = || Error::not_found(&path, "no such file, which --generation-config asks for");
    let keys = Keys::parse(&path, &files.read_if_present(FILE, LARGEST_JSON)?.ok_or_else(missing)?)?;
    let float = |key: &str, usual: f32| Ok::<_, Error>(keys.float(key, ANY)?.map_or(usual, |value| value as f32));
    let usual = Params::default();
    let is_greedy = keys.flag("do_sample")? == Some(false);
    let params = Params {
        temperature: if is_greedy { 0.0 } else { float("temperature", usual.temperature)? },
        top_k: keys.count("top_k")?.unwrap_or(usual.top_k),
        top_p: float("top_p", usual.top_p)?,
        min_p: float("min_p", usual.min_p)?,
        repetition_penalty: float("repetition_penalty", usual.repetition_penalty)?,
        ..usual
    };
    warn_of_unsupported(&keys);
    params.validate(vocab_size).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
    Ok(params)
}

fn warn_of_unsupported(keys: &Keys) {
    let is_neutral = |value: &Value, neutral: f64| match value {
        Value::Array(list) => list.is_empty(),
        value => value.as_f64() == Some(neutral),
    };
    let asks = |(key, neutral): &&(&str, f64)| keys.value(key).is_some_and(|value| !is_neutral(value, *neutral));
    let found: Vec<&str> = UNSUPPORTED.iter().filter(asks).map(|(key, _)| *key).collect();
    if !found.is_empty() {
        tracing::warn!("{FILE}: ignoring what blazr can't do: {}", first_few(&found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Params> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), json).unwrap();
        sampling(&Files::Directory(directory.path().to_owned()), 10)
    }

    #[test]
    fn what_the_file_says_stands_in_place_of_the_usual() {
        let usual = Params::default();
        assert_eq!(of("{}").unwrap(), usual);
        let given = r#"{"do_sample": true, "temperature": 0.25, "top_k": 5, "top_p": 0.5, "min_p": 0.125,
                        "repetition_penalty": 1.5, "max_new_tokens": 7, "typical_p": 0.5, "num_beams": "4", "bad_words_ids": [[1]]}"#;
        let expected =
            Params { temperature: 0.25, top_k: 5, top_p: 0.5, min_p: 0.125, repetition_penalty: 1.5, ..usual.clone() };
        assert_eq!(of(given).unwrap(), expected);
        assert_eq!(of(r#"{"do_sample": false, "temperature": 0.25}"#).unwrap(), Params { temperature: 0.0, ..usual });
    }

    #[test]
    fn values_out_of_range_and_a_missing_file_are_refused_by_name() {
        let message = |json| of(json).unwrap_err().to_string();
        assert!(
            message(r#"{"temperature": 3}"#).contains("generation_config.json: temperature: must be between 0 and 2")
        );
        assert!(message(r#"{"top_k": -1}"#).contains("top_k: expected an integer"));
        let files = Files::Directory("/no/such".into());
        let missing = sampling(&files, 10).unwrap_err().to_string();
        assert!(missing.contains("which --generation-config asks for"), "{missing}");
    }
}
