//! Generation through the library: what the events say, and that nothing but the request decides it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use blazr::checkpoint::Checkpoint;
use blazr::engine::event::{Event, FinishReason, Piece, Told, Usage};
use blazr::engine::request::{GenerateRequest, Options};
use blazr::engine::run::generate;
use blazr::model::config::ModelConfig;
use blazr::model::weights::Settings;
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
        Self { model: checkpoint.load(&Device::Cpu, Settings::EXACT).unwrap(), tokenizer }
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
        let (mut generated, mut is_echo) = (0, true);
        let emit = |_, event| {
            assert!(end.is_none(), "an event after the last one");
            let piece = match event {
                Event::Prompt(piece) => piece,
                Event::Token(piece) => {
                    (generated, is_echo) = (generated + 1, false);
                    cancelled.store(generated >= patience, Ordering::Relaxed);
                    piece
                }
                Event::Done { reason, rest, usage } => {
                    is_echo = false;
                    end = Some((reason, usage));
                    rest
                }
            };
            text.push_str(&piece.text);
            if !is_echo {
                let is_asked = options.top_logprobs.is_some();
                let is_right = |told: &Told| match told.logprob {
                    Some(logprob) => is_asked && logprob <= 0.0 && logprob.is_finite(),
                    None => !is_asked,
                };
                assert!(piece.told.iter().all(is_right));
                tokens.extend(piece.told.iter().map(|told| told.token));
            }
            Ok(())
        };
        let is_cancelled = || cancelled.load(Ordering::Relaxed);
        generate(&self.model, &self.tokenizer, &self.request(prompt, options), is_cancelled, emit).unwrap();
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
    Options { max_tokens: 40, sampling, ..Options::default() }
}

fn greedy(max_tokens: usize) -> Options {
    Options { max_tokens, sampling: Params { temperature: 0.0, ..Params::default() }, ..Options::default() }
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
    let result = generate(
        &fixture.model,
        &fixture.tokenizer,
        &request,
        || false,
        |_, _| {
            events += 1;
            Err(blazr::error::Error::Internal("the listener has gone".into()))
        },
    );
    assert!(result.unwrap_err().to_string().contains("the listener has gone"));
    assert_eq!(events, 1);
}

/// Everything that a request tells of its tokens.
fn told(fixture: &Fixture, prompt: &[u32], options: &Options) -> (Vec<Told>, Vec<Told>) {
    let (mut prompts, mut tokens) = (Vec::new(), Vec::new());
    generate(
        &fixture.model,
        &fixture.tokenizer,
        &fixture.request(prompt, options),
        || false,
        |_, event| {
            match event {
                Event::Prompt(piece) => prompts.extend(piece.told),
                Event::Token(piece) | Event::Done { rest: piece, .. } => tokens.extend(piece.told),
            }
            Ok(())
        },
    )
    .unwrap();
    (prompts, tokens)
}

#[test]
fn an_echoed_prompt_has_the_log_probabilities_of_one_forward_pass() {
    let fixture = Fixture::new();
    for length in [1, 2, 256, 257, 700] {
        let prompt = support::random_tokens(3, length, 256);
        let options = Options { echo: true, top_logprobs: Some(3), ..greedy(2) };
        let (echoed, generated) = told(&fixture, &prompt, &options);
        assert_eq!(echoed.iter().map(|told| told.token).collect::<Vec<_>>(), prompt);
        assert_eq!((echoed[0].logprob, echoed[0].top.len()), (None, 0));

        let mut state = fixture.model.new_state().unwrap();
        let step = Step { tokens: &prompt, state: &mut state, wanted: Wanted::All };
        let logits = fixture.model.forward(&mut [step]).unwrap().remove(0).to_vec2::<f32>().unwrap();
        for (row, next) in logits.iter().zip(echoed[1..].iter().chain(&generated)) {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            let want = f64::from(row[next.token as usize] - largest) - total.ln();
            let found = f64::from(next.logprob.unwrap());
            assert!((found - want).abs() < 1e-4, "{length} tokens: {found}, not {want}");
            let own = next.top.iter().find(|(token, _)| *token == next.token).unwrap();
            assert_eq!(Some(own.1), next.logprob);
            assert_eq!(next.top.len(), if next.top[..3].contains(own) { 3 } else { 4 });
        }
    }
}

#[test]
fn an_echo_is_the_text_of_prompt_and_answer_and_needs_no_answer() {
    let fixture = Fixture::new();
    let prompt = support::random_tokens(5, 300, 256);
    for max_tokens in [0, 5] {
        let answer = fixture.answer(&prompt, &Options { echo: true, ..greedy(max_tokens) });
        let all = [&prompt[..], &answer.tokens].concat();
        assert_eq!(answer.text, fixture.tokenizer.decode(&all));
        assert_eq!((answer.tokens.len(), answer.reason), (max_tokens, FinishReason::Length));
    }
    let refused = GenerateRequest::new(prompt, &greedy(0), fixture.config()).unwrap_err();
    assert!(refused.to_string().starts_with("max_tokens: "), "{refused}");
}

#[test]
fn the_model_ends_a_text_no_sooner_than_it_may() {
    let fixture = Fixture::new();
    let eager = vec![(256, 100.0)]; // the end of text
    let sampling = Params { logit_bias: eager, temperature: 0.0, ..Params::default() };
    let options = Options { max_tokens: 9, sampling, ..Options::default() };
    let ends = |options: &Options| {
        let answer = fixture.answer(&[79, 110], options);
        (answer.tokens.len(), answer.tokens.contains(&256), answer.reason)
    };
    assert_eq!(ends(&options), (1, true, FinishReason::Stop));
    assert_eq!(ends(&Options { min_tokens: 4, ..options.clone() }), (5, true, FinishReason::Stop));
    assert_eq!(ends(&Options { min_tokens: 9, ..options.clone() }), (9, false, FinishReason::Length));
    assert_eq!(ends(&Options { ignore_eos: true, ..options }), (9, true, FinishReason::Length));
}

/// The pieces of every answer, joined.
fn pieces(fixture: &Fixture, prompt: &[u32], options: &Options) -> Vec<Piece> {
    let mut answers = vec![Piece::default(); options.n];
    let request = fixture.request(prompt, options);
    let emit = |index: usize, event| {
        let (Event::Prompt(piece) | Event::Token(piece) | Event::Done { rest: piece, .. }) = event;
        answers[index].text.push_str(&piece.text);
        answers[index].told.extend(piece.told);
        Ok(())
    };
    generate(&fixture.model, &fixture.tokenizer, &request, || false, emit).unwrap();
    answers
}

#[test]
fn each_of_several_answers_is_the_one_to_a_request_with_its_seed() {
    let fixture = Fixture::new();
    let prompt = support::random_tokens(3, 300, 256);
    for echo in [false, true] {
        let several = pieces(&fixture, &prompt, &Options { n: 3, echo, top_logprobs: Some(2), ..seeded(5) });
        for (index, answer) in several.iter().enumerate() {
            let alone = Options { echo, top_logprobs: Some(2), ..seeded(5 + index as u64) };
            assert_eq!(*answer, pieces(&fixture, &prompt, &alone).remove(0), "answer {index}, echo {echo}");
        }
    }
}

#[test]
fn the_bytes_of_the_tokens_are_the_text_also_where_a_stop_string_cuts_it() {
    let fixture = Fixture::new();
    for seed in 0..60 {
        let prompt = support::random_tokens(seed, 3, 256);
        let whole = fixture.answer(&prompt, &seeded(seed)).text;
        let stop: String = whole.chars().skip(seed as usize % 9).take(1 + seed as usize % 3).collect();
        for (stops, echo) in [(vec![], false), (vec![stop.clone()], false), (vec![stop], true)] {
            let options = Options { stop: stops, echo, top_logprobs: Some(0), ..seeded(seed) };
            let Piece { text, told } = pieces(&fixture, &prompt, &options).remove(0);
            let bytes: Vec<u8> = told.iter().flat_map(|told| told.bytes.clone()).collect();
            assert_eq!(String::from_utf8_lossy(&bytes), text, "seed {seed}");
            let n_characters = text.chars().count();
            assert!(told.iter().all(|told| told.offset <= n_characters), "seed {seed}");
            assert!(told.is_sorted_by_key(|told| told.offset));
        }
    }
}
