//! Tokenizers against transformers, whatever `tokenizer_config.json` says about them. `tests/tokenizers/make.py` made the
//! cases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use blazr::files::Files;
use blazr::text::Tokenizer;
use serde_json::Value;

fn cases() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers/cases.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_become_the_ids_that_transformers_gives_and_come_back() {
    let cases = cases();
    let vocab_size = cases["vocab_size"].as_u64().unwrap() as usize;
    let mut wrong = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let directory = tempfile::tempdir().unwrap();
        let name = case["tokenizer"].as_str().unwrap();
        std::fs::write(directory.path().join("tokenizer.json"), cases["tokenizers"][name].to_string()).unwrap();
        std::fs::write(directory.path().join("tokenizer_config.json"), case["config"].to_string()).unwrap();
        let files = Files::Directory(directory.path().to_owned());
        let tokenizer = Tokenizer::open(&files, Path::new("tokenizer.json"), vocab_size).unwrap();
        for text in case["texts"].as_array().unwrap() {
            let written = text["text"].as_str().unwrap();
            let (with, without) = (tokenizer.encode(written, true).unwrap(), tokenizer.encode(written, false).unwrap());
            let decoded = tokenizer.decode(&with);
            if (with.clone(), without.clone(), decoded.as_str())
                != (ids(&text["with"]), ids(&text["without"]), text["decoded"].as_str().unwrap())
            {
                wrong.push(format!(
                    "{name}, {}: {written:?}: {with:?} {without:?} {decoded:?}, not {text}",
                    case["said"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(6)].join("\n"));
}
