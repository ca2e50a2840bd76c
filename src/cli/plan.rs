//! `blazr plan`: the memory that a model needs, against what there is.

use std::fmt;
use std::process::ExitCode;

use candle_core::Device;
use clap::Args;
use serde::Serialize;

use super::memory::Memory;
use super::progress::megabytes;
use super::{ConfigArgs, ModelArgs, print, print_json};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::blocks::Format;
use crate::kernels::matrix::WeightType;
use crate::model::device;
use crate::model::weights::Settings;

/// What loading, prompts on their way through the model, and the program itself take beside what is planned.
const WORKING_BYTES: usize = 150_000_000;

/// The same of a GPU's memory: attention scores, expanded keys, inner values of 2,048 tokens and a part of a matrix of blocks,
/// widened, and what libraries take.
const WORKING_BYTES_OF_GPU: usize = 1_500_000_000;

/// Types of weights that take less memory than what is usually stored, the finest first.
const COARSER: [WeightType; 5] = [
    WeightType::Bf16,
    WeightType::Blocks(Format::Q8_0),
    WeightType::Blocks(Format::Q6K),
    WeightType::Blocks(Format::Q5K),
    WeightType::Blocks(Format::Q4K),
];

/// Whose word it is on a GPU.
const OF_GPU: &str = "free on the GPU";

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    _config: ConfigArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The bytes that a model needs, and those that there are.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    model: String,
    weight_bytes: usize,
    state_bytes: usize,
    working_bytes: usize,
    cache_bytes_at_max_seq_len: usize,
    max_seq_len: usize,
    /// How many tokens of a sequence fit.
    tokens_that_fit: usize,
    available_bytes: usize,
    /// What says how many there are.
    available_of: &'static str,
    /// Where the model doesn't fit: in which types of weights it would.
    #[serde(skip)]
    fitting: Vec<&'static str>,
}

pub(super) fn run(args: &PlanArgs) -> Result<ExitCode> {
    let plan = Plan::new(&args.model.open()?, &args.model, &args.model.device()?)?;
    (if args.json { print_json(&plan) } else { print(&plan.to_string()) })?;
    Ok(if plan.check().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Plan {
    pub(super) fn new(checkpoint: &Checkpoint, args: &ModelArgs, device: &Device) -> Result<Self> {
        let (config, of_gpu) = (checkpoint.config(), device::free_bytes(device)?);
        let (available_bytes, available_of) =
            of_gpu.map_or_else(|| Memory::read().available(), |bytes| (bytes, OF_GPU));
        let plan = Self {
            model: checkpoint.id().to_owned(),
            weight_bytes: checkpoint.bytes_in_memory(args.settings(), device)?,
            state_bytes: config.state_bytes(),
            working_bytes: if of_gpu.is_some() { WORKING_BYTES_OF_GPU } else { WORKING_BYTES },
            cache_bytes_at_max_seq_len: config.cache_bytes(config.max_seq_len),
            max_seq_len: config.max_seq_len,
            tokens_that_fit: 0,
            available_bytes,
            available_of,
            fitting: Vec::new(),
        };
        if plan.least() > available_bytes {
            let fitting = fitting(checkpoint, args.settings(), device, available_bytes.saturating_sub(plan.rest()))?;
            return Ok(Self { fitting, ..plan });
        }
        // A cache has room for a power of two, and while it grows the half of it besides. On a CPU what is not used is not
        // there.
        let whole = |tokens: usize| tokens.checked_next_power_of_two().unwrap_or(usize::MAX);
        let room = |tokens| if of_gpu.is_some() { (whole(tokens) / 2).saturating_mul(3) } else { tokens };
        let fits = |tokens| plan.least().saturating_add(config.cache_bytes(room(tokens))) <= available_bytes;
        Ok(Self { tokens_that_fit: largest(config.max_seq_len, fits), ..plan })
    }

    /// What is needed before the first token.
    fn least(&self) -> usize {
        self.weight_bytes.saturating_add(self.rest())
    }

    /// The same without weights.
    fn rest(&self) -> usize {
        self.state_bytes.saturating_add(self.working_bytes)
    }

    /// # Errors
    /// The model doesn't fit.
    pub(super) fn check(&self) -> Result<()> {
        if self.least() <= self.available_bytes {
            return Ok(());
        }
        let [weights, state, working, least, available] =
            [self.weight_bytes, self.state_bytes, self.working_bytes, self.least(), self.available_bytes]
                .map(|bytes| megabytes(bytes as u64));
        let fewer = match self.fitting.as_slice() {
            [] => "take a smaller model".to_owned(),
            fitting => format!("with --dtype {} it would fit", fitting.join(" or ")),
        };
        let other = match self.available_of {
            OF_GPU => "run it on the CPU with --cpu",
            _ => "give it more memory",
        };
        Err(Error::Unsupported(format!(
            "{} doesn't fit into memory: {weights} MB of weights + {state} MB of state + {working} MB to work with = {least} MB, \
             and there are {available} MB ({}); {fewer}, or {other}",
            self.model, self.available_of,
        )))
    }

    /// What to warn of: there is no room for a whole context.
    pub(super) fn warning(&self) -> Option<String> {
        let is_short = self.tokens_that_fit < self.max_seq_len;
        is_short.then(|| {
            let Self { tokens_that_fit, max_seq_len, .. } = self;
            let what = if self.available_of == OF_GPU { "fails" } else { "may end blazr" };
            format!(
                "there is memory for {tokens_that_fit} tokens of the context of {max_seq_len}: a longer text {what}"
            )
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.least().saturating_add(self.cache_bytes_at_max_seq_len);
        let context = format!("cache of {} tokens", self.max_seq_len);
        writeln!(f, "{}", self.model)?;
        for (what, bytes) in [
            ("weights", self.weight_bytes),
            ("state", self.state_bytes),
            ("to work with", self.working_bytes),
            (&context, self.cache_bytes_at_max_seq_len),
            ("all together", total),
            (self.available_of, self.available_bytes),
        ] {
            writeln!(f, "{what:<28}{:>12.1} MB", bytes as f64 / 1e6)?;
        }
        match (self.check(), self.warning()) {
            (Err(error), _) => writeln!(f, "{error}"),
            (_, Some(warning)) => writeln!(f, "{warning}"),
            _ => writeln!(f, "It fits."),
        }
    }
}

/// The types of weights in which a checkpoint takes no more than so many bytes, the finest first.
fn fitting(checkpoint: &Checkpoint, settings: Settings, device: &Device, bytes: usize) -> Result<Vec<&'static str>> {
    let mut fitting = Vec::new();
    for dtype in COARSER {
        let settings = Settings { dtype: Some(dtype), ..settings };
        if checkpoint.bytes_in_memory(settings, device)? <= bytes {
            fitting.push(dtype.name());
        }
    }
    Ok(fitting)
}

/// The largest number up to `most` that is still good, where all below a good one are.
fn largest(most: usize, is_good: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut bad) = (0, most.saturating_add(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        *(if is_good(middle) { &mut good } else { &mut bad }) = middle;
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(available_bytes: usize) -> Plan {
        Plan {
            model: "big".into(),
            weight_bytes: 2_000_000_000,
            state_bytes: 50_000_000,
            working_bytes: WORKING_BYTES,
            cache_bytes_at_max_seq_len: 4_000_000_000,
            max_seq_len: 1000,
            tokens_that_fit: 250,
            available_bytes,
            available_of: "available",
            fitting: Vec::new(),
        }
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_the_arithmetic() {
        let told = plan(2_199_999_999).check().unwrap_err().to_string();
        let sum =
            "2000 MB of weights + 50 MB of state + 150 MB to work with = 2200 MB, and there are 2200 MB (available)";
        assert!(told.contains(sum), "{told}");
        assert!(plan(2_200_000_000).check().is_ok());
        let told = Plan { available_of: OF_GPU, ..plan(0) }.check().unwrap_err().to_string();
        assert!(told.contains("there are 0 MB (free on the GPU); ") && told.contains("--cpu"), "{told}");
        let told = Plan { fitting: vec!["q8_0", "q4_k"], ..plan(0) }.check().unwrap_err().to_string();
        assert!(
            told.ends_with("(available); with --dtype q8_0 or q4_k it would fit, or give it more memory"),
            "{told}"
        );
    }

    #[test]
    fn types_that_would_fit_are_found_from_the_finest_on() {
        let nano = Checkpoint::embedded(&crate::nano::MODEL).unwrap();
        let bytes = |dtype| {
            let settings = Settings { dtype: Some(dtype), ..Settings::default() };
            nano.bytes_in_memory(settings, &Device::Cpu).unwrap()
        };
        let of = |bytes| fitting(&nano, Settings::default(), &Device::Cpu, bytes).unwrap();
        let q8_0 = bytes(WeightType::Blocks(Format::Q8_0));
        assert_eq!(of(q8_0), ["q8_0", "q6_k", "q5_k", "q4_k"]);
        assert_eq!(of(q8_0 - 1), ["q6_k", "q5_k", "q4_k"]);
        assert!(of(usize::MAX).len() == COARSER.len() && of(0).is_empty());
    }

    #[test]
    fn a_context_that_does_not_fit_is_warned_of() {
        assert!(
            plan(4_000_000_000).warning().unwrap().starts_with("there is memory for 250 tokens of the context of 1000")
        );
        assert_eq!(Plan { tokens_that_fit: 1000, ..plan(1 << 40) }.warning(), None);
    }

    #[test]
    fn the_largest_good_number_is_found() {
        assert_eq!([0, 1, 41, 100].map(|bound| largest(100, |number| number <= bound)), [0, 1, 41, 100]);
        assert_eq!(largest(100, |_| true), 100);
    }
}
