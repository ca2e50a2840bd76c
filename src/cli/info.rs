//! `blazr info`: what a checkpoint is, as JSON on standard output.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{ModelArgs, plan, print_json};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::report::Report;
use crate::error::{Error, Result};
use crate::model::config::{LayerSpec, ModelConfig};
use crate::model::{Step, Wanted};
use crate::sampling::{Params, Sampler, rank};

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Also load all weights and generate one token.
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Info {
    id: String,
    family: &'static str,
    #[serde(flatten)]
    report: Report,
    /// How many there are of each kind.
    layers: Map<String, Value>,
    parameters: usize,
    weight_bytes: usize,
    /// How many parameters there are of each storage type.
    weight_types: Map<String, Value>,
    state_bytes_per_sequence: usize,
    cache_bytes_per_token: usize,
    cache_bytes_at_max_seq_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
}

/// What the first token id of the vocabulary is followed by.
#[derive(Serialize)]
struct Check {
    token: u32,
    logprob: f32,
    seconds: f64,
}

pub(super) fn run(args: &InfoArgs) -> Result<ExitCode> {
    let checkpoint = args.model.open()?;
    let config = checkpoint.config();
    let mut info = Info {
        id: checkpoint.id().to_owned(),
        family: checkpoint.family(),
        report: checkpoint.report().clone(),
        layers: layers(config),
        parameters: checkpoint.size().parameters,
        weight_bytes: checkpoint.size().bytes,
        weight_types: checkpoint.sizes().iter().map(|(name, size)| (name.clone(), size.parameters.into())).collect(),
        state_bytes_per_sequence: config.state_bytes(),
        cache_bytes_per_token: config.cache_bytes(1),
        cache_bytes_at_max_seq_len: config.cache_bytes(config.max_seq_len),
        check: None,
    };
    if args.check {
        info.check = Some(check(checkpoint, &args.model)?);
    }
    print_json(&info)?;
    Ok(ExitCode::SUCCESS)
}

fn layers(config: &ModelConfig) -> Map<String, Value> {
    let mut counts = Map::new();
    for kind in config.layers.iter().map(LayerSpec::kind) {
        let count = counts.get(&kind).and_then(Value::as_u64).unwrap_or(0) + 1;
        counts.insert(kind, count.into());
    }
    counts
}

/// Loads all weights and generates a token after the first one of the vocabulary: no tokenizer is needed.
fn check(checkpoint: Checkpoint, args: &ModelArgs) -> Result<Check> {
    let device = args.device()?;
    plan::check(&checkpoint, args, &device, 1)?;
    let started = Instant::now();
    let model = checkpoint.load(&device, args.settings())?;
    let mut state = model.new_state()?;
    let logits = model.forward(&mut [Step { tokens: &[0], state: &mut state, wanted: Wanted::Last }])?;
    let logits = logits.first().ok_or_else(|| Error::Internal("a forward pass gave no logits".into()))?;
    let greedy = Params { temperature: 0.0, ..Params::default() };
    let mut sampler = Sampler::new(&greedy, model.config().vocab_size, &[0])?;
    let logits = logits.flatten_all()?.to_vec1::<f32>()?;
    let token = sampler.next(&logits)?;
    Ok(Check { token, logprob: rank(&logits, token, 0).logprob, seconds: started.elapsed().as_secs_f64() })
}
