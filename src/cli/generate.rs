//! `blazr generate`: a prompt on the command line becomes text on standard output.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{ModelArgs, plan, print};
use crate::engine::event::{Event, FinishReason, Piece, Usage};
use crate::engine::request::{GenerateRequest, Options};
use crate::engine::run::generate;
use crate::error::{Error, Result};
use crate::sampling::Params;
use crate::shutdown::Shutdown;

/// A longer prompt on standard input is refused before it fills the memory.
const LARGEST_PROMPT_BYTES: u64 = 16 << 20;

/// More than [`Options`] has: whoever reads along can stop a text, but a story that breaks off can't be gone on with.
const MAX_TOKENS: usize = 512;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// The text to continue; `-` reads it from standard input.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    #[command(flatten)]
    options: OptionArgs,
    /// Print one JSON object at the end instead of text as it is made.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OptionArgs {
    /// Generate at most this many tokens.
    #[arg(long, value_name = "N", default_value_t = MAX_TOKENS)]
    max_tokens: usize,
    /// How evenly tokens are drawn, 0 to 2; 0 always takes the most probable one [default: 0.7].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from the most probable tokens that together have this probability; 1 is off [default: 0.9].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Draw from this many of the most probable tokens; 0 is off [default: 40].
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from tokens with at least this share of the most probable one's probability; 0 is off [default: 0].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Divide the logits of tokens that were there before by this; 1 is off [default: 1].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Lower the logit of a generated token by this for each time, -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Params::default().frequency_penalty)]
    frequency_penalty: f32,
    /// Lower the logit of a generated token by this once, -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Params::default().presence_penalty)]
    presence_penalty: f32,
    /// Add a number from -100 to 100 to a token's logit; may be given several times.
    #[arg(long, value_name = "TOKEN_ID=BIAS", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Where no flag says how tokens are drawn, do as the checkpoint's generation_config.json says.
    #[arg(long)]
    generation_config: bool,
    /// Draw the same tokens each time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End before this text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
}

impl OptionArgs {
    /// The options, with `defaults` for the parameters of sampling that were left out.
    fn options(&self, defaults: &Params) -> Options {
        let sampling = Params {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        };
        Options { max_tokens: self.max_tokens, sampling, stop: self.stop.clone(), ..Options::default() }
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(token, bias)| Some((token.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected a token id, = and a number, as in 50256=-100".into())
}

pub(super) fn run(args: &GenerateArgs) -> Result<ExitCode> {
    let prompt = read_prompt(&args.prompt)?;
    let checkpoint = args.model.open()?;
    let config = checkpoint.config();
    let tokenizer = checkpoint.tokenizer()?;
    let prompt = tokenizer.encode_prompt(&prompt, config.max_seq_len)?;
    let defaults = if args.options.generation_config { checkpoint.sampling()? } else { Params::default() };
    let top_logprobs = args.json.then_some(0);
    let options = Options { top_logprobs, ..args.options.options(&defaults) };
    let request = GenerateRequest::new(prompt, &options, config)?;
    let device = args.model.device()?;
    let tokens = request.prompt_tokens().saturating_add(args.options.max_tokens);
    plan::check(&checkpoint, &args.model, &device, tokens)?;
    let model = checkpoint.load(&device, args.model.settings())?;
    let shutdown = Shutdown::on_signals()?;

    let mut answer = Answer::new(args.json);
    generate(&model, &tokenizer, &request, || shutdown.is_asked(), |_, event| answer.take(event))?;
    answer.conclude()?;
    Ok(if shutdown.is_asked() { ExitCode::from(shutdown.exit_code()) } else { ExitCode::SUCCESS })
}

fn read_prompt(prompt: &str) -> Result<String> {
    let mut text = prompt.to_owned();
    if prompt == "-" {
        text.clear();
        let read = io::stdin().take(LARGEST_PROMPT_BYTES + 1).read_to_string(&mut text);
        let read = read.map_err(|error| Error::io(Path::new("standard input"), error))?;
        if read as u64 > LARGEST_PROMPT_BYTES {
            return Err(Error::invalid("prompt", format!("more than {LARGEST_PROMPT_BYTES} bytes on standard input")));
        }
    }
    if text.is_empty() {
        return Err(Error::invalid("prompt", "expected some text, found none"));
    }
    Ok(text)
}

/// What was generated so far, and when.
struct Answer {
    json: bool,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    started: Instant,
    first_token: Option<Duration>,
    end: Option<(FinishReason, Usage)>,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Json<'a> {
    text: &'a str,
    tokens: &'a [u32],
    logprobs: &'a [f32],
    finish_reason: FinishReason,
    usage: Usage,
    #[serde(flatten)]
    times: Times,
}

#[derive(serde::Serialize)]
struct Times {
    /// Null where there was no token.
    time_to_first_token_seconds: Option<f64>,
    total_seconds: f64,
    /// Of the tokens after the first; 0 where there are none.
    decode_tokens_per_second: f64,
}

impl Answer {
    fn new(json: bool) -> Self {
        let (text, tokens, logprobs) = Default::default();
        Self { json, text, tokens, logprobs, started: Instant::now(), first_token: None, end: None }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Prompt(_) => Ok(()),
            Event::Token(piece) => {
                self.first_token.get_or_insert(self.started.elapsed());
                self.add(&piece)
            }
            Event::Done { reason, rest, usage } => {
                self.end = Some((reason, usage));
                self.add(&rest)
            }
        }
    }

    fn add(&mut self, piece: &Piece) -> Result<()> {
        self.tokens.extend(piece.told.iter().map(|told| told.token));
        self.logprobs.extend(piece.told.iter().filter_map(|told| told.logprob));
        self.show(&piece.text)
    }

    fn show(&mut self, text: &str) -> Result<()> {
        if self.json {
            self.text.push_str(text);
            return Ok(());
        }
        print(text)
    }

    fn conclude(&self) -> Result<()> {
        let unfinished = || Error::Internal("the generation has no end".into());
        let (finish_reason, usage) = self.end.ok_or_else(unfinished)?;
        let times = self.times();
        let first_token = match times.time_to_first_token_seconds {
            Some(seconds) => format!("first token after {seconds:.3} s"),
            None => "no token".into(),
        };
        let figures = format!(
            "{} prompt tokens, {} generated tokens, {:.1} tokens/s, {}",
            usage.prompt_tokens, usage.completion_tokens, times.decode_tokens_per_second, first_token
        );
        if self.json {
            let Self { text, tokens, logprobs, .. } = self;
            print(&format!("{}\n", serde_json::json!(Json { text, tokens, logprobs, finish_reason, usage, times })))?;
        }
        let line_end = if !self.json && io::stdout().is_terminal() { "\n" } else { "" };
        // Where nobody listens to figures, the text was still delivered.
        let _ = writeln!(io::stderr(), "{line_end}{figures}");
        Ok(())
    }

    fn times(&self) -> Times {
        let total = self.started.elapsed();
        let decoded = self.end.map_or(0, |(_, usage)| usage.completion_tokens.saturating_sub(1)) as f64;
        let seconds = total.saturating_sub(self.first_token.unwrap_or(total)).as_secs_f64();
        Times {
            time_to_first_token_seconds: self.first_token.map(|first| first.as_secs_f64()),
            total_seconds: total.as_secs_f64(),
            decode_tokens_per_second: if decoded > 0.0 { decoded / seconds } else { 0.0 },
        }
    }
}
