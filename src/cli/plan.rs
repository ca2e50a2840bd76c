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
use crate::model::config::ModelConfig;
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
    fitting: Vec<Fitting>,
}

/// A type of weights in which a model fits, and how many tokens of a sequence fit besides.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fitting {
    dtype: &'static str,
    tokens: usize,
}

pub(super) fn run(args: &PlanArgs) -> Result<ExitCode> {
    let device = args.model.device()?;
    let plan = Plan::new(&args.model.open()?, &args.model, &device, working_bytes(&device))?;
    (if args.json { print_json(&plan) } else { print(&plan.to_string()) })?;
    Ok(if plan.check().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a model can be loaded for one text of so many tokens: to be asked before. What is worked with is not counted, as
/// a small model takes far less than a server keeps for it.
///
/// # Errors
/// Weights and state don't fit. Where they do, and the text doesn't, the log says so.
pub(super) fn check(checkpoint: &Checkpoint, args: &ModelArgs, device: &Device, tokens: usize) -> Result<()> {
    Plan::new(checkpoint, args, device, 0)?.hold_to(tokens)
}

/// Whether a model can be served, with whole contexts: to be asked before.
///
/// # Errors
/// It doesn't fit. Where it does, and a whole context doesn't, the log says so.
pub(super) fn check_served(checkpoint: &Checkpoint, args: &ModelArgs, device: &Device) -> Result<()> {
    Plan::new(checkpoint, args, device, working_bytes(device))?.hold_to(usize::MAX)
}

/// What a server needs on a device beside weights, state and caches, whatever it is asked.
fn working_bytes(device: &Device) -> usize {
    if device.is_cpu() { WORKING_BYTES } else { WORKING_BYTES_OF_GPU }
}

impl Plan {
    fn new(checkpoint: &Checkpoint, args: &ModelArgs, device: &Device, working_bytes: usize) -> Result<Self> {
        let (config, of_gpu) = (checkpoint.config(), device::free_bytes(device)?);
        let (available_bytes, available_of) =
            of_gpu.map_or_else(|| Memory::read().available(), |bytes| (bytes, OF_GPU));
        let plan = Self {
            model: checkpoint.id().to_owned(),
            weight_bytes: checkpoint.bytes_in_memory(args.settings(), device)?,
            state_bytes: config.state_bytes(),
            working_bytes,
            cache_bytes_at_max_seq_len: config.cache_bytes(config.max_seq_len),
            max_seq_len: config.max_seq_len,
            tokens_that_fit: 0,
            available_bytes,
            available_of,
            fitting: Vec::new(),
        };
        Ok(match available_bytes.checked_sub(plan.least()) {
            Some(spare) => Self { tokens_that_fit: tokens_within(spare, config, device), ..plan },
            None => {
                let spare = available_bytes.saturating_sub(plan.rest());
                Self { fitting: fitting(checkpoint, args.settings(), device, spare)?, ..plan }
            }
        })
    }

    /// An error where the model doesn't fit, and a warning where so many tokens don't.
    fn hold_to(&self, tokens: usize) -> Result<()> {
        self.check()?;
        self.warning(tokens).iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(())
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
    fn check(&self) -> Result<()> {
        if self.least() <= self.available_bytes {
            return Ok(());
        }
        let [weights, state, working, least, available] =
            [self.weight_bytes, self.state_bytes, self.working_bytes, self.least(), self.available_bytes]
                .map(|bytes| megabytes(bytes as u64));
        let fewer = match self.fitting.as_slice() {
            [] => "take a smaller model".to_owned(),
            fitting => {
                let fitting: Vec<_> = fitting.iter().map(ToString::to_string).collect();
                format!("with --dtype {} it would fit", fitting.join(" or "))
            }
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

    /// What to warn of: there is no room for a text of so many tokens.
    fn warning(&self, tokens: usize) -> Option<String> {
        let Self { tokens_that_fit, max_seq_len, .. } = self;
        let is_short = *tokens_that_fit < tokens.min(*max_seq_len);
        is_short.then(|| {
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
        match (self.check(), self.warning(self.max_seq_len)) {
            (Err(error), _) => writeln!(f, "{error}"),
            (_, Some(warning)) => writeln!(f, "{warning}"),
            _ => writeln!(f, "It fits."),
        }
    }
}

impl fmt::Display for Fitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, tokens } = self;
        write!(f, "{dtype} (and a context of {tokens} tokens)")
    }
}

/// The types of weights in which a checkpoint and a token take no more than so many bytes, the finest first.
fn fitting(checkpoint: &Checkpoint, settings: Settings, device: &Device, bytes: usize) -> Result<Vec<Fitting>> {
    let mut fitting = Vec::new();
    for dtype in COARSER {
        let settings = Settings { dtype: Some(dtype), ..settings };
        if let Some(spare) = bytes.checked_sub(checkpoint.bytes_in_memory(settings, device)?) {
            let tokens = tokens_within(spare, checkpoint.config(), device);
            if tokens > 0 {
                fitting.push(Fitting { dtype: dtype.name(), tokens });
            }
        }
    }
    Ok(fitting)
}

/// How many tokens of a sequence have room for their caches in so many bytes.
fn tokens_within(bytes: usize, config: &ModelConfig, device: &Device) -> usize {
    // A cache has room for a power of two, and while it grows the half of it besides. On a CPU what is not used is not
    // there.
    let whole = |tokens: usize| tokens.checked_next_power_of_two().unwrap_or(usize::MAX);
    let room = |tokens| if device.is_cpu() { tokens } else { (whole(tokens) / 2).saturating_mul(3) };
    largest(config.max_seq_len, |tokens| config.cache_bytes(room(tokens)) <= bytes)
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
        let fitting = [("q8_0", 40), ("q4_k", 1000)].map(|(dtype, tokens)| Fitting { dtype, tokens }).into();
        let told = Plan { fitting, ..plan(0) }.check().unwrap_err().to_string();
        let types =
            "with --dtype q8_0 (and a context of 40 tokens) or q4_k (and a context of 1000 tokens) it would fit";
        assert!(told.ends_with(&format!("(available); {types}, or give it more memory")), "{told}");
    }

    #[test]
    fn types_that_would_fit_are_found_from_the_finest_on() {
        let nano = Checkpoint::embedded(&crate::nano::MODEL).unwrap();
        let bytes = |dtype| {
            let settings = Settings { dtype: Some(dtype), ..Settings::default() };
            nano.bytes_in_memory(settings, &Device::Cpu).unwrap()
        };
        let all = |bytes| fitting(&nano, Settings::default(), &Device::Cpu, bytes).unwrap();
        let of = |bytes| all(bytes).iter().map(|fitting| fitting.dtype).collect::<Vec<_>>();
        let config = nano.config();
        let q8_0 = bytes(WeightType::Blocks(Format::Q8_0)) + config.cache_bytes(1);
        assert_eq!(of(q8_0), ["q8_0", "q6_k", "q5_k", "q4_k"]);
        assert_eq!(of(q8_0 - 1), ["q6_k", "q5_k", "q4_k"]);
        assert!(of(usize::MAX).len() == COARSER.len() && of(0).is_empty());
        let tokens = |spare| all(q8_0 + spare)[0].tokens;
        assert_eq!([0, config.cache_bytes(99), usize::MAX - q8_0].map(tokens), [1, 100, config.max_seq_len]);
    }

    #[test]
    fn a_context_that_does_not_fit_is_warned_of() {
        let short = plan(4_000_000_000);
        let told = "there is memory for 250 tokens of the context of 1000: a longer text may end blazr";
        assert_eq!([251, usize::MAX].map(|tokens| short.warning(tokens)), [(); 2].map(|()| Some(told.into())));
        assert_eq!(short.warning(250), None);
        assert_eq!(Plan { tokens_that_fit: 1000, ..plan(1 << 40) }.warning(usize::MAX), None);
    }

    #[test]
    fn the_largest_good_number_is_found() {
        assert_eq!([0, 1, 41, 100].map(|bound| largest(100, |number| number <= bound)), [0, 1, 41, 100]);
        assert_eq!(largest(100, |_| true), 100);
    }
}
