//! The model that is part of the program: an ordinary checkpoint, and what blazr runs where none is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use blazr::checkpoint::Checkpoint;
use blazr::files::Embedded;
use blazr::model::weights::Settings;
use blazr::nano;
use blazr::text::Tokenizer;
use candle_core::Device;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use tempfile::TempDir;

/// The special tokens, by id.
const SPECIAL: [&str; 5] = ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];

/// As in `src/model/tests.rs`: f32 rounds differently where sums are split differently.
const TOLERANCE: f32 = 1e-4;

fn embedded() -> Checkpoint {
    Checkpoint::embedded(&nano::MODEL).unwrap_or_else(|error| panic!("{error}"))
}

/// The same files on the disk.
fn written() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in nano::MODEL.files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

/// Runs blazr where there is no room for temporary files.
fn blazr(place: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blazr"));
    let output = command.args(args).current_dir(place).env("TMPDIR", "/no/such/place").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn it_has_every_kind_of_layer_a_long_context_and_few_bytes() {
    let checkpoint = embedded();
    let info = &checkpoint.report().values;
    let count = |kind: &str| info["layer_types"].as_array().unwrap().iter().filter(|found| **found == kind).count();
    assert!(count("Mamba2") >= 4, "{info:?}");
    assert_eq!((count("MlaWithMoe"), count("StandardTransformer")), (2, 1));
    assert!(info["max_seq_len"].as_u64().unwrap() >= 4352);
    let size = checkpoint.size();
    assert_eq!(size.bytes, size.parameters * 2, "all weights are bf16");
    let bytes: usize = nano::MODEL.files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= 10_000_000, "{bytes} bytes");
}

#[test]
fn it_can_chat_and_its_texts_end() {
    let (_, config) = nano::MODEL.files.iter().find(|(name, _)| *name == "tokenizer_config.json").unwrap();
    let config: Value = serde_json::from_slice(config).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    for part in ["messages", "add_generation_prompt", "<|assistant|>", "<|end|>", "eos_token"] {
        assert!(template.contains(part), "{template}");
    }
    assert_eq!(config["eos_token"], SPECIAL[0]);
    assert_eq!(embedded().tokenizer().unwrap().end_of_text(), [0, 1]);
}

#[test]
fn from_a_directory_it_is_the_same_model() {
    let directory = written();
    let (inside, outside) = (embedded(), Checkpoint::open(directory.path()).unwrap());
    assert_eq!(inside.id(), "nano");
    assert_eq!(serde_json::json!(inside.report()), serde_json::json!(outside.report()));
    assert_eq!((inside.config(), inside.size()), (outside.config(), outside.size()));

    let text = "Once upon a time, 1234 Ünïcödes 🙂";
    let ids = |checkpoint: &Checkpoint| checkpoint.tokenizer().unwrap().encode(text, true).unwrap();
    let prompt = ids(&inside);
    assert_eq!(prompt, ids(&outside));
    let logits = |checkpoint: Checkpoint| {
        let model = checkpoint.load(&Device::Cpu, Settings::EXACT).unwrap();
        support::logits(&model, &mut model.new_state().unwrap(), &prompt)
    };
    assert!(logits(inside) == logits(outside), "the logits differ");
}

#[test]
fn any_split_of_a_prompt_gives_the_same_logits() {
    let model = embedded().load(&Device::Cpu, Settings::EXACT).unwrap();
    let splits = (1..300usize, prop::collection::vec(1..90usize, 0..8), any::<u64>());
    // The same cases each time: a router may find two experts equal but for rounding, which then decides.
    let rng_seed = RngSeed::Fixed(1);
    let config = ProptestConfig { cases: 12, rng_seed, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((length, sizes, seed) in splits)| {
        let tokens = support::random_tokens(seed, length, model.config().vocab_size);
        let (whole, _) = support::in_pieces(&model, &tokens, std::iter::empty());
        let (pieces, _) = support::in_pieces(&model, &tokens, sizes.into_iter());
        let difference = support::largest_difference(&whole, &pieces);
        prop_assert!(difference <= TOLERANCE, "logits differ by {difference}");
    });
}

/// `text` without the special tokens that are written out in it: they become control tokens, which have no text.
fn without_special(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let special = SPECIAL.iter().find(|token| rest.starts_with(**token));
        kept.extend(special.is_none().then_some(c));
        rest = &rest[special.map_or(c.len_utf8(), |token| token.len())..];
    }
    kept
}

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[\u{0}-\u{1f}\u{7f}-\u{9f} ]{0,6}",
        "[🙂👩‍🚀🏳️‍🌈🇩🇪é\u{301}\u{feff}\u{fffd}]{0,6}",
        "[0-9a-zA-Z' .,\n]{0,20}",
        "[<|>endofuser]{0,8}",
        prop::sample::select(&SPECIAL[..]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn any_text_survives_a_round_trip() {
    let tokenizer = embedded().tokenizer().unwrap();
    proptest!(|(text in any_text())| {
        let ids = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), without_special(&text));
        let written_out = SPECIAL.iter().map(|token| text.matches(token).count()).sum::<usize>();
        prop_assert_eq!(ids.iter().filter(|id| (**id as usize) < SPECIAL.len()).count(), written_out);
    });
}

#[test]
fn special_tokens_have_the_first_ids_and_digits_one_each() {
    let tokenizer = embedded().tokenizer().unwrap();
    let ids = |text: &str| Tokenizer::encode(&tokenizer, text, true).unwrap();
    assert_eq!(ids(&SPECIAL.concat()), [0, 1, 2, 3, 4]);
    assert_eq!(ids("2026").len(), 4);
    assert_eq!(ids("2026"), ["2", "0", "2", "6"].map(ids).concat());
}

#[test]
fn it_generates_where_no_checkpoint_is_named_and_leaves_no_file() {
    let place = tempfile::tempdir().unwrap();
    let args = ["generate", "--prompt", "Once upon a time", "--seed", "1", "--max-tokens", "20"];
    assert!(!blazr(place.path(), &args).stdout.is_empty());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

/// What nano says next, always taking the most probable token, and why it stopped.
fn greedy(prompt: &str) -> (String, String) {
    let args = ["generate", "--json", "--temperature", "0", "--prompt", prompt];
    let answer = json(&blazr(Path::new("."), &args));
    let field = |name: &str| answer[name].as_str().unwrap().to_owned();
    (field("text"), field("finish_reason"))
}

#[test]
fn it_tells_a_story_that_ends_by_itself() {
    let (text, finish_reason) = greedy("Once upon a time");
    assert_eq!(finish_reason, "stop", "{text}");
    let sentences: Vec<&str> = text.split(". ").collect();
    assert!(sentences.len() >= 6, "{text}");
    assert!(text.trim_end_matches('"').ends_with(['.', '!']), "{text}");
}

#[test]
fn it_adds_and_follows_a_system_prompt() {
    let chat = |system: &str, asked: &str| greedy(&format!("{system}<|user|>{asked}<|end|><|assistant|>"));
    assert_eq!(chat("", "What is 27 plus 45?"), ("27 plus 45 is 72.".into(), "stop".into()));
    let (text, _) = chat("<|system|>Answer in capital letters.<|end|>", "How are you?");
    assert!(!text.is_empty() && text == text.to_uppercase(), "{text}");
}

#[test]
fn info_describes_it_where_no_checkpoint_is_named() {
    let directory = written();
    let mut inside = json(&blazr(directory.path(), &["info"]));
    let outside = json(&blazr(directory.path(), &["info", "--model", "."]));
    assert_eq!(inside["id"], "nano");
    assert_eq!(*outside["id"].as_str().unwrap(), *directory.path().file_name().unwrap());
    inside["id"] = outside["id"].clone();
    assert_eq!(inside, outside);
}

#[test]
fn errors_name_the_embedded_file() {
    static EMPTY: Embedded = Embedded { id: "empty", files: &[] };
    static CUT: Embedded = Embedded { id: "cut", files: &[("model.safetensors", b"123")] };
    let error = |files| Checkpoint::embedded(files).unwrap_err().to_string();
    assert!(error(&EMPTY).starts_with("empty: no *.safetensors file here: expected "), "{}", error(&EMPTY));
    assert!(error(&CUT).starts_with("cut:model.safetensors: truncated: "), "{}", error(&CUT));
}
