//! `blazr bench`: how fast a model takes prompts in and decodes, beside how fast this machine reads memory.
//!
//! [`cases`] are what is timed, [`memory`] is what the machine can do, [`floor`] what a token needs of it, and [`report`]
//! is what is printed of all this. The model is driven as the engine drives it where a request asks for nothing else, but
//! for the tokens: they are fixed, so that no tokenizer is needed and every run does the same work, and none is drawn.

mod cases;
mod floor;
mod memory;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{ModelArgs, plan, print, print_json};
use crate::engine::logits::{Asked, Logits, take_in, usual};
use crate::error::{Error, Result};
use crate::model::state::State;
use crate::model::{Model, Wanted};
use cases::{Case, Cases};
use floor::Needs;
use memory::Memory;
use report::{Report, Subject};

/// The tokens are drawn from this.
const SEED: u64 = 1;

/// So many tokens are decoded before anything is timed: what is made at first use is made then.
const WARM_UP_TOKENS: usize = 4;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Time everything so many times, in turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Take in prompts of so many tokens.
    #[arg(long, value_name = "TOKENS,...", value_delimiter = ',', default_values_t = [512, 4096],
          value_parser = clap::value_parser!(u32).range(1..))]
    prefill: Vec<u32>,
    /// Decode so many tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    decode: u32,
    /// Decode them after so many tokens.
    #[arg(long, value_name = "TOKENS,...", value_delimiter = ',', default_values_t = [0, 4096])]
    at: Vec<u32>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs, threads: usize) -> Result<ExitCode> {
    let checkpoint = args.model.open()?;
    let Cases { cases, skipped } = Cases::new(&args.prefill, args.decode, &args.at, checkpoint.config().max_seq_len)?;
    let device = args.model.device()?;
    let longest = cases.iter().map(|case| case.end()).max().unwrap_or_default();
    plan::check(&checkpoint, &args.model, &device, longest)?;
    let mut subject = Subject::new(&checkpoint, &device, threads);

    let started = Instant::now();
    let model = checkpoint.load(&device, args.model.settings())?;
    let load_seconds = started.elapsed().as_secs_f64();
    subject.hold(&model.weight_bytes());
    let needs = Needs::new(&model);
    let bench = Bench::new(model, &cases)?;
    // Before there is the memory that is read to find the bandwidth.
    let peak_memory_bytes = memory::peak_bytes();
    let (bandwidth, cases) = measure(&bench, &cases, args.runs, threads)?;

    let measured = Measured { load_seconds, peak_memory_bytes, bandwidth, cases };
    let report = Report::new(subject, &needs, measured, skipped);
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was measured.
struct Measured {
    load_seconds: f64,
    peak_memory_bytes: Option<usize>,
    bandwidth: Bandwidth,
    cases: Vec<Timed>,
}

/// How fast the device read its memory before, between and after the runs.
struct Bandwidth {
    buffer_bytes: usize,
    bytes_per_second: Vec<f64>,
}

/// A case and the seconds of each run.
struct Timed {
    case: Case,
    seconds: Vec<f64>,
}

/// Times every case once in each round, so that a machine that gets slower or faster does so for all of them.
fn measure(bench: &Bench, cases: &[Case], runs: u32, threads: usize) -> Result<(Bandwidth, Vec<Timed>)> {
    let memory = Memory::new(bench.model.device(), threads)?;
    let mut bytes_per_second = vec![memory.read_bandwidth()?];
    let mut cases: Vec<_> = cases.iter().map(|case| Timed { case: *case, seconds: Vec::new() }).collect();
    for run in 1..=runs {
        tracing::info!("run {run} of {runs}");
        for timed in &mut cases {
            timed.seconds.push(bench.time(timed.case)?);
        }
        bytes_per_second.push(memory.read_bandwidth()?);
    }
    Ok((Bandwidth { buffer_bytes: memory.bytes(), bytes_per_second }, cases))
}

/// A model that is warmed up.
struct Bench {
    model: Model,
    /// By position, for the cases that start there.
    states: BTreeMap<usize, State>,
    /// What is asked for a token.
    asked: Option<Asked>,
}

impl Bench {
    /// Takes in a prompt of every length that is needed, and keeps the states that cases start from.
    fn new(model: Model, cases: &[Case]) -> Result<Self> {
        let mut bench = Self { asked: usual(&model)?, model, states: BTreeMap::new() };
        bench.decode(
            &mut bench.model.new_state()?,
            &bench.tokens(WARM_UP_TOKENS.min(bench.model.config().max_seq_len)),
        )?;
        let starts: BTreeSet<usize> = cases.iter().map(|case| case.position()).collect();
        let lengths = cases.iter().map(|case| case.prompt_tokens());
        for length in lengths.collect::<BTreeSet<usize>>() {
            let state = bench.prefill(&bench.tokens(length))?;
            if starts.contains(&length) {
                bench.states.insert(length, state);
            }
        }
        Ok(bench)
    }

    /// The seconds that a case takes.
    fn time(&self, case: Case) -> Result<f64> {
        match case {
            Case::Prefill { tokens } => {
                let tokens = self.tokens(tokens);
                timed(|| self.prefill(&tokens).map(drop))
            }
            Case::Decode { tokens, position } => {
                let no_state = || Error::Internal(format!("there is no state at {position}"));
                let mut state = self.states.get(&position).ok_or_else(no_state)?.snapshot()?;
                let tokens = self.tokens(tokens);
                timed(|| self.decode(&mut state, &tokens))
            }
        }
    }

    /// The first so many of a fixed sequence of tokens.
    fn tokens(&self, count: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let vocab_size = self.model.config().vocab_size as u64;
        (0..count).map(|_| (rng.next_u64() % vocab_size) as u32).collect()
    }

    /// Takes in a prompt up to what is asked of the logits after it, chunk by chunk as the engine does.
    fn prefill(&self, tokens: &[u32]) -> Result<State> {
        let mut state = self.model.new_state()?;
        let mut chunks = tokens.chunks(self.model.prefill_chunk()).peekable();
        while let Some(chunk) = chunks.next() {
            let is_last = chunks.peek().is_none();
            let wanted = if is_last { Wanted::Last } else { Wanted::None };
            let logits = take_in(&self.model, &mut state, chunk, wanted)?;
            if is_last {
                black_box(Logits::of(&logits, self.asked)?);
            }
        }
        Ok(state)
    }

    /// Takes in one token after the other, each up to what is asked of the logits after it.
    fn decode(&self, state: &mut State, tokens: &[u32]) -> Result<()> {
        tokens.iter().try_for_each(|token| {
            black_box(Logits::after(&self.model, state, *token, self.asked)?);
            Ok(())
        })
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
