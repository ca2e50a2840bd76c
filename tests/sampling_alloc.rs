//! Sampling allocates when a request starts, and never per token.

#![allow(clippy::unwrap_used)]

use blazr::sampling::{Params, Sampler};

const VOCAB_SIZE: u32 = 32_000;

/// Different for every token, and for every `step`.
fn logits(step: u32) -> Vec<f32> {
    let scatter = |token: u32| (token + 1).wrapping_mul(2_654_435_761).wrapping_mul(2 * step + 1) >> 16;
    (0..VOCAB_SIZE).map(|token| scatter(token) as f32 / 8192.0).collect()
}

fn plain() -> Params {
    Params { temperature: 1.0, top_k: 0, top_p: 1.0, seed: Some(1), ..Params::default() }
}

#[test]
fn a_token_allocates_nothing() {
    let steps: Vec<Vec<f32>> = (0..16).map(logits).collect();
    // A list that starts empty and doubles is full at 1024: it would grow at the next token.
    let prompt: Vec<u32> = (0..1024).collect();
    for (name, params) in [
        ("defaults", Params::default()),
        ("greedy", Params { temperature: 0.0, ..plain() }),
        ("full vocabulary", plain()),
        ("top_k", Params { top_k: 40, ..plain() }),
        ("top_k, nearly all", Params { top_k: 31_999, ..plain() }),
        ("top_p", Params { top_p: 0.9, ..plain() }),
        ("top_p, hot", Params { top_p: 0.99, temperature: 2.0, ..plain() }),
        ("min_p", Params { min_p: 0.05, ..plain() }),
        ("penalties", Params { repetition_penalty: 1.3, frequency_penalty: 0.5, presence_penalty: 0.5, ..plain() }),
        ("bias", Params { logit_bias: vec![(0, 100.0), (31_999, -100.0)], ..plain() }),
    ] {
        let mut sampler = Sampler::new(&params, VOCAB_SIZE as usize, &prompt).unwrap();
        let info = allocation_counter::measure(|| {
            for logits in &steps {
                sampler.next(logits).unwrap();
            }
        });
        assert_eq!(info.count_total, 0, "{name}");
    }
}
