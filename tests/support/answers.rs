//! What a model says against the answers that a correct one gives.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use blazr::model::state::State;
use blazr::model::{Model, Step, Wanted};
use candle_core::Tensor;

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
pub fn check(name: &str, model: &Model, file: &Path, tolerance: f64) {
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
