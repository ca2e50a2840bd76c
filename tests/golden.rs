//! Whole models against references. `tests/reference/hybrid_reference.py`, in float64, made each folder of
//! `tests/golden` (see its make.sh), weights and the answers that a correct implementation gives; `nano.json` has the
//! answers of the embedded model, from the program that trained it.
//!
//! To hold blazr to checkpoints of other seeds and presets, make them in one folder and name it:
//! `BLAZR_GOLDEN=DIR cargo test --test golden`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use blazr::checkpoint::Checkpoint;
use blazr::checkpoint::families::FAMILIES;
use blazr::model::state::State;
use blazr::model::{Model, Step, Wanted};
use blazr::nano;
use candle_core::{Device, Tensor};

/// The bound that every storage type keeps to, the embedded model's bf16 too. Arithmetic in f32 is off by 1e-4 at most,
/// typically by 1e-5.
const TOLERANCE: f64 = 1e-3;

/// With the weights in f32 nothing else rounds.
const TOLERANCE_F32: f64 = 2e-4;

#[derive(serde::Deserialize)]
struct Case {
    prompt: Vec<u32>,
    token_logprobs: Vec<Option<f64>>,
    last_logprobs: Vec<f64>,
    greedy: Vec<u32>,
}

fn forward(model: &Model, state: &mut State, tokens: &[u32], wanted: Wanted) -> Tensor {
    model.forward(&mut [Step { tokens, state, wanted }]).unwrap().remove(0)
}

fn log_softmax(logits: &Tensor) -> Vec<Vec<f64>> {
    let rows: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    let normalize = |row: Vec<f32>| {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        row.iter().map(|x| f64::from(*x) - max - sum.ln()).collect()
    };
    rows.into_iter().map(normalize).collect()
}

fn argmax(row: &[f64]) -> u32 {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a))).unwrap() as u32
}

/// The larger of two errors; a NaN is larger than any.
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Holds `model` to the cases in `file`.
fn check(name: &str, model: &Model, file: &Path, tolerance: f64) {
    let cases = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(!cases.is_empty(), "{} has no cases", file.display());
    let worst = cases.iter().map(|case| largest_error(model, case)).fold(0.0, larger);
    println!("{name}: largest error {worst:.1e}");
    assert!(worst <= tolerance, "{name}: a log-probability is off by {worst:e}, more than {tolerance:e}");
}

/// The largest error of any log-probability of the case; panics where the greedy continuation differs.
fn largest_error(model: &Model, case: &Case) -> f64 {
    let mut state = model.new_state().unwrap();
    let mut logprobs = log_softmax(&forward(model, &mut state, &case.prompt, Wanted::All));
    let positions = case.token_logprobs.iter().skip(1).zip(&case.prompt[1..]).enumerate();
    let of_prompt = positions.map(|(t, (want, token))| (logprobs[t][*token as usize] - want.unwrap()).abs());
    let worst_of_prompt = of_prompt.fold(0.0, larger);
    let mut last = logprobs.pop().unwrap();
    let worst = last.iter().zip(&case.last_logprobs).map(|(a, b)| (a - b).abs()).fold(worst_of_prompt, larger);

    let mut greedy = Vec::new();
    for _ in &case.greedy {
        greedy.push(argmax(&last));
        last = log_softmax(&forward(model, &mut state, &greedy[greedy.len() - 1..], Wanted::Last)).remove(0);
    }
    assert_eq!(greedy, case.greedy, "greedy continuation of a prompt of {} tokens", case.prompt.len());
    worst
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The checkpoints in `usual`, or in the folder that the variable names.
fn checkpoints(variable: &str, usual: &str) -> Vec<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join(usual);
    let root = std::env::var_os(variable).map_or(usual, PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no checkpoints in {}", root.display());
    folders
}

#[test]
fn every_log_probability_and_greedy_continuation_is_the_references() {
    for folder in checkpoints("BLAZR_GOLDEN", "tests/golden") {
        let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        let name = checkpoint.id().to_owned();
        let tolerance = if name.ends_with("f32") { TOLERANCE_F32 } else { TOLERANCE };
        check(&name, &checkpoint.load(&Device::Cpu).unwrap(), &folder.join("expected.json"), tolerance);
    }
}

#[test]
fn published_checkpoints_of_every_family_say_what_transformers_does() {
    let mut seen = BTreeSet::new();
    let mut failed = Vec::new();
    for folder in checkpoints("BLAZR_FAMILIES", "tests/families") {
        let checked = std::panic::catch_unwind(|| {
            let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{error}"));
            let (name, family) = (checkpoint.id().to_owned(), checkpoint.family());
            assert_eq!(name.split('-').next(), Some(family));
            check(&name, &checkpoint.load(&Device::Cpu).unwrap(), &folder.join("expected.json"), TOLERANCE);
            family
        });
        match checked {
            Ok(family) => drop(seen.insert(family)),
            Err(_) => failed.push(folder),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(FAMILIES.iter().all(|family| seen.contains(family.model_type)), "{seen:?}");
}

#[test]
fn the_embedded_model_says_what_it_said_when_it_was_trained() {
    let model = Checkpoint::embedded(&nano::MODEL).unwrap().load(&Device::Cpu).unwrap();
    check(nano::ID, &model, &golden().join("nano.json"), TOLERANCE);
}
