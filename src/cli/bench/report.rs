//! What `blazr bench` prints, as JSON and as a table.

use std::fmt;

use candle_core::Device;
use serde::Serialize;

use super::cases::Case;
use super::floor::Needs;
use super::{Bandwidth, Measured, Timed};
use crate::checkpoint::Checkpoint;
use crate::model::linear::WeightBytes;

/// What `--json` prints: names end in their units, which are those of the SI without prefixes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    subject: Subject,
    /// What a decoded token reads of the weights: all but the experts that it does not visit.
    weight_bytes_per_token: usize,
    load_seconds: f64,
    /// Null where no prompt was timed.
    first_token: Option<FirstToken>,
    /// Of the process while it loaded, took in the longest prompt and kept the states that decoding starts from; null
    /// where the system does not tell.
    peak_memory_bytes: Option<usize>,
    read_bandwidth: ReadBandwidth,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    /// What was not timed, and why.
    skipped: Vec<String>,
}

/// The model that was timed, and where.
#[derive(Debug, Serialize)]
pub(super) struct Subject {
    model: String,
    family: &'static str,
    /// How most of the weights are held.
    weight_type: String,
    parameters: usize,
    /// Of the matrices, in memory.
    weight_bytes: usize,
    state_bytes: usize,
    /// Where the model ran: cpu or gpu.
    device: &'static str,
    threads: usize,
}

/// From the first step of a prompt to the logits after it, of the loaded model: the shortest prompt that was timed.
#[derive(Debug, Serialize)]
struct FirstToken {
    prompt_tokens: usize,
    seconds: Spread,
}

/// How fast all threads together read memory, measured before, between and after the runs.
#[derive(Debug, Serialize)]
struct ReadBandwidth {
    buffer_bytes: usize,
    bytes_per_second: Spread,
}

/// Taking in a prompt.
#[derive(Debug, Serialize)]
struct Prefill {
    tokens: usize,
    seconds: Spread,
    tokens_per_second: Spread,
}

/// Decoding after `position` tokens.
#[derive(Debug, Serialize)]
struct Decode {
    tokens: usize,
    position: usize,
    seconds: Spread,
    tokens_per_second: Spread,
    cache_bytes: usize,
    /// Weights and caches that are read, and the state, which is read and written.
    bytes_per_token: usize,
    /// `bytes_per_token` times `tokens_per_second`.
    bytes_per_second: Spread,
    /// What `bytes_per_second` is of the read bandwidth, by their medians: 1 is as fast as the memory allows.
    share_of_floor: f64,
}

/// What several runs gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    /// In the order of the runs.
    values: Vec<f64>,
}

impl Subject {
    pub(super) fn new(checkpoint: &Checkpoint, device: &Device, threads: usize) -> Self {
        Self {
            model: checkpoint.id().to_owned(),
            family: checkpoint.family(),
            weight_type: String::new(),
            parameters: checkpoint.size().parameters,
            weight_bytes: 0,
            state_bytes: checkpoint.config().state_bytes(),
            device: if device.is_cpu() { "cpu" } else { "gpu" },
            threads,
        }
    }

    /// Takes over how the weights are held.
    pub(super) fn hold(&mut self, weights: &WeightBytes) {
        self.weight_bytes = weights.total();
        self.weight_type = weights.most().unwrap_or_default().into();
    }
}

impl Report {
    pub(super) fn new(subject: Subject, needs: &Needs, measured: Measured, skipped: Vec<String>) -> Self {
        let Measured { load_seconds, peak_memory_bytes, bandwidth, cases } = measured;
        let Bandwidth { buffer_bytes, bytes_per_second } = bandwidth;
        let read_bandwidth = ReadBandwidth { buffer_bytes, bytes_per_second: Spread::of(bytes_per_second) };
        let floor = read_bandwidth.bytes_per_second.median;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for Timed { case, seconds } in cases {
            match case {
                Case::Prefill { tokens } => prefill.push(Prefill::new(tokens, seconds)),
                Case::Decode { tokens, position } => decode.push(Decode::new(tokens, position, seconds, needs, floor)),
            }
        }
        let first_token = prefill.first().map(Prefill::first_token);
        Self {
            subject,
            weight_bytes_per_token: needs.weight_bytes(),
            load_seconds,
            first_token,
            peak_memory_bytes,
            read_bandwidth,
            prefill,
            decode,
            skipped,
        }
    }
}

impl Prefill {
    fn new(tokens: usize, seconds: Vec<f64>) -> Self {
        let seconds = Spread::of(seconds);
        Self { tokens, tokens_per_second: seconds.rate(tokens as f64), seconds }
    }

    fn first_token(&self) -> FirstToken {
        FirstToken { prompt_tokens: self.tokens, seconds: self.seconds.clone() }
    }

    fn case(&self) -> Case {
        Case::Prefill { tokens: self.tokens }
    }
}

impl Decode {
    fn new(tokens: usize, position: usize, seconds: Vec<f64>, needs: &Needs, bandwidth: f64) -> Self {
        let seconds = Spread::of(seconds);
        let bytes_per_token = needs.bytes_per_token(position);
        let bytes_per_second = seconds.rate((tokens * bytes_per_token) as f64);
        Self {
            tokens,
            position,
            tokens_per_second: seconds.rate(tokens as f64),
            seconds,
            cache_bytes: needs.cache_bytes(position),
            bytes_per_token,
            share_of_floor: bytes_per_second.median / bandwidth,
            bytes_per_second,
        }
    }

    fn case(&self) -> Case {
        Case::Decode { tokens: self.tokens, position: self.position }
    }
}

impl Spread {
    /// Of at least one value.
    fn of(values: Vec<f64>) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(&values), min, max, values }
    }

    /// How much there was each second, where these are the seconds that `amount` took.
    fn rate(&self, amount: f64) -> Self {
        Self::of(self.values.iter().map(|seconds| amount / seconds).collect())
    }
}

/// The value in the middle, or between the two in the middle; NaN of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
    (middle(sorted.len() / 2) + middle(sorted.len().saturating_sub(1) / 2)) / 2.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { model, weight_type, weight_bytes, state_bytes, threads, .. } = &self.subject;
        let (weights, state) = (bytes(*weight_bytes), bytes(*state_bytes));
        let plural = if *threads == 1 { "" } else { "s" };
        writeln!(f, "{model}  {weight_type}  {weights} weights  {state} state  {threads} thread{plural}")?;
        row(f, "read bandwidth", &rate(&self.read_bandwidth.bytes_per_second, GB, "GB/s"))?;
        for prefill in &self.prefill {
            let seconds = number(prefill.seconds.median);
            let tokens = rate(&prefill.tokens_per_second, 1.0, "tokens/s");
            row(f, prefill.case(), &format!("{tokens}  {seconds} s"))?;
        }
        for decode in &self.decode {
            let speed = number(decode.bytes_per_second.median / GB);
            let floor = 100.0 * decode.share_of_floor;
            let tokens = rate(&decode.tokens_per_second, 1.0, "tokens/s");
            row(f, decode.case(), &format!("{tokens}  {speed} GB/s  {floor:.0} % of the floor"))?;
        }
        if let Some(FirstToken { prompt_tokens, seconds }) = &self.first_token {
            row(f, format!("first token after {prompt_tokens}"), &format!("{:>8} s", number(seconds.median)))?;
        }
        row(f, "loading", &format!("{:>8} s", number(self.load_seconds)))?;
        if let Some(peak) = self.peak_memory_bytes {
            row(f, "peak memory", &format!("{:>11}", bytes(peak)))?;
        }
        self.skipped.iter().try_for_each(|skipped| writeln!(f, "skipped {skipped}"))
    }
}

const GB: f64 = 1e9;

fn row(f: &mut fmt::Formatter<'_>, label: impl fmt::Display, values: &str) -> fmt::Result {
    writeln!(f, "{:<24}{}", label.to_string(), values.trim_end())
}

/// The median with its unit, and the extremes: as wide for every row.
fn rate(spread: &Spread, scale: f64, unit: &str) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| number(value / scale));
    let extremes = format!("({min} to {max})");
    format!("{median:>8} {unit:<8}  {extremes:<18}")
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value {
        ..0.1 => 4,
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

fn bytes(count: usize) -> String {
    let count = count as f64;
    if count < GB { format!("{} MB", number(count / 1e6)) } else { format!("{} GB", number(count / GB)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_rates_are_taken_run_by_run() {
        let seconds = Spread::of(vec![4.0, 1.0, 2.0]);
        assert_eq!((seconds.median, seconds.min, seconds.max), (2.0, 1.0, 4.0));
        let rate = seconds.rate(8.0);
        assert_eq!(rate, Spread { median: 4.0, min: 2.0, max: 8.0, values: vec![2.0, 8.0, 4.0] });
        assert_eq!(median(&[1.0, 4.0, 2.0, 8.0]), 3.0);
        assert_eq!(median(&[5.0]), 5.0);
    }

    #[test]
    fn numbers_have_three_digits() {
        let found = [0.0123, 0.6311, 1.234, 41.23, 812.4].map(number);
        assert_eq!(found, ["0.0123", "0.631", "1.23", "41.2", "812"]);
        assert_eq!([bytes(687_200_000), bytes(1_234_000_000)], ["687 MB", "1.23 GB"]);
    }
}
