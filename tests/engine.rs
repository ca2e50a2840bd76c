//! Generation through the library: what the events say, and that nothing but the request decides it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use blazr::checkpoint::Checkpoint;
use blazr::engine::request::{GenerateRequest, Options};
use blazr::engine::run::generate;
use blazr::engine::sequence::{Event, FinishReason, Usage};
use blazr::model::config::ModelConfig;
use blazr::model::{Model, Step, Wanted};
use blazr::sampling::Params;
use blazr::text::Tokenizer;
use candle_core::{DType, Device};

struct Fixture {
    model: Model,
    tokenizer: Tokenizer,
}

/// What a generation said.
#[derive(Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    reason: FinishReason,
    usage: Usage,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        support::write_checkpoint(directory.path(), 7, DType::F32);
        let config = directory.path().join("config.json");
        let longer = std::fs::read_to_string(&config).unwrap().replace("512", "4096");
        std::fs::write(&config, longer).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        Self { model: checkpoint.load(&Device::Cpu).unwrap(), tokenizer }
    }

    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn request(&self, prompt: &[u32], options: &Options) -> GenerateRequest {
        GenerateRequest::new(prompt.to_vec(), options, self.config()).unwrap()
    }

    /// Runs a request, giving it up after `patience` tokens.
    fn run(&self, prompt: &[u32], options: &Options, patience: usize) -> Answer {
        let cancelled = AtomicBool::new(patience == 0);
        let (mut tokens, mut text, mut end) = (Vec::new(), String::new(), None);
        let emit = |event| {
            assert!(end.is_none(), "an event after the last one");
            match event {
                Event::Token { token, logprob, text: piece } => {
                    assert!(logprob <= 0.0 && logprob.is_finite());
                    tokens.push(token);
                    text.push_str(&piece);
                    cancelled.store(tokens.len() >= patience, Ordering::Relaxed);
                }
                Event::Done { reason, text: rest, usage } => {
                    text.push_str(&rest);
                    end = Some((reason, usage));
                }
            }
            Ok(())
        };
        generate(&self.model, &self.tokenizer, self.request(prompt, options), &cancelled, emit).unwrap();
        let (reason, usage) = end.expect("the last event is the end");
        Answer { tokens, text, reason, usage }
    }

    fn answer(&self, prompt: &[u32], options: &Options) -> Answer {
        self.run(prompt, options, usize::MAX)
    }
}

fn seeded(seed: u64) -> Options {
    let never_ends = vec![(256, -100.0)];
    let sampling = Params { seed: Some(seed), temperature: 1.0, logit_bias: never_ends, ..Params::default() };
    Options { max_tokens: 40, sampling, stop: Vec::new() }
}

fn greedy(max_tokens: usize) -> Options {
    Options { max_tokens, sampling: Params { temperature: 0.0, ..Params::default() }, stop: Vec::new() }
}

#[test]
fn a_prompt_of_several_chunks_continues_as_one_forward_pass_does() {
    let fixture = Fixture::new();
    let prompt = support::random_tokens(3, 1300, 256);
    let answer = fixture.answer(&prompt, &greedy(8));

    let mut state = fixture.model.new_state().unwrap();
    let (mut want, mut tokens) = (Vec::new(), prompt.clone());
    for _ in 0..8 {
        let step = Step { tokens: &tokens, state: &mut state, wanted: Wanted::Last };
        let logits = fixture.model.forward(&mut [step]).unwrap().remove(0);
        want.push(logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0]);
        tokens = vec![want[want.len() - 1]];
    }
    assert_eq!(answer.tokens, want);
    assert_eq!(answer.usage, Usage { prompt_tokens: 1300, completion_tokens: 8, total_tokens: 1308 });
}

#[test]
fn joined_pieces_are_the_text_of_all_tokens() {
    let fixture = Fixture::new();
    for seed in 0..20 {
        let answer = fixture.answer(&[79, 110], &seeded(seed));
        assert_eq!(answer.text, fixture.tokenizer.decode(&answer.tokens), "seed {seed}");
        assert_eq!((answer.tokens.len(), answer.reason), (40, FinishReason::Length));
    }
}

#[test]
fn a_stop_string_cuts_the_text_wherever_it_comes() {
    let fixture = Fixture::new();
    for seed in 0..20 {
        let whole = fixture.answer(&[79, 110], &seeded(seed));
        let stop: String = whole.text.chars().skip(seed as usize % 9).take(1 + seed as usize % 3).collect();
        let stopped = fixture.answer(&[79, 110], &Options { stop: vec![stop.clone()], ..seeded(seed) });
        assert_eq!(stopped.text, whole.text.split(&stop).next().unwrap(), "seed {seed}, stop {stop:?}");
        assert_eq!(stopped.reason, FinishReason::Stop);
        assert!(whole.tokens.starts_with(&stopped.tokens));
    }
}

#[test]
fn the_same_request_gives_the_same_answer_whatever_came_before() {
    let fixture = Fixture::new();
    let first = fixture.answer(&[79, 110], &seeded(1));
    fixture.answer(&[1, 2, 3], &seeded(2));
    assert_eq!(fixture.answer(&[79, 110], &seeded(1)), first);
    assert_ne!(fixture.answer(&[79, 110], &seeded(2)).tokens, first.tokens);
}

#[test]
fn a_request_that_is_given_up_ends_at_the_next_token() {
    let fixture = Fixture::new();
    let before = fixture.run(&support::random_tokens(3, 1300, 256), &seeded(1), 0);
    assert_eq!((before.reason, before.usage.prompt_tokens, before.tokens.len()), (FinishReason::Cancelled, 1300, 0));
    let during = fixture.run(&[79, 110], &seeded(1), 3);
    assert_eq!((during.reason, during.tokens.len()), (FinishReason::Cancelled, 3));
    assert_eq!(during.text, fixture.tokenizer.decode(&during.tokens));
}

#[test]
fn a_failing_listener_ends_the_generation_with_its_error() {
    let fixture = Fixture::new();
    let request = fixture.request(&[79], &seeded(1));
    let mut events = 0;
    let result = generate(&fixture.model, &fixture.tokenizer, request, &AtomicBool::new(false), |_| {
        events += 1;
        Err(blazr::error::Error::Internal("the listener has gone".into()))
    });
    assert!(result.unwrap_err().to_string().contains("the listener has gone"));
    assert_eq!(events, 1);
}
