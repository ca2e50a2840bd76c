//! The log-probability that a model gives each token of a sequence after those before it, as JSON on standard output.
//!
//!     cargo run --release --example logprobs -- MODEL fast|exact [DTYPE|auto [DEVICE [PIECE]]] < tokens.json
//!
//! On the CPU, or on the device that is named (`cuda:0`). The sequence is taken in as a prompt, or in pieces of so many
//! tokens: 1 is decoding. So this is what `--precision` and `--dtype` do to either.

use std::io::Read;
use std::num::NonZero;
use std::path::Path;
use std::slice::Chunks;

use blazr::checkpoint::Checkpoint;
use blazr::error::{Error, Result};
use blazr::kernels::matrix::{Precision, WeightType};
use blazr::kernels::pool::Pool;
use blazr::model::device::{self, Place};
use blazr::model::weights::Settings;
use blazr::model::{Step, Wanted};
use blazr::nano;
use blazr::sampling::rank;
use candle_core::{Device, Tensor};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, precision, others) = match arguments.as_slice() {
        [model, precision, others @ ..] if others.len() <= 3 => (model, precision, others),
        _ => {
            let usage = "expected MODEL fast|exact [DTYPE|auto [DEVICE [PIECE]]], and tokens on standard input";
            return Err(Error::Unsupported(usage.into()));
        }
    };
    let settings = Settings {
        dtype: others.first().map(|name| dtype(name)).transpose()?.flatten(),
        precision: if precision == "exact" { Precision::Exact } else { Precision::Fast },
    };
    let place = others.get(1).map_or(Ok(Place::Cpu), |name| name.parse());
    let device = device::choose(Some(place.map_err(|expected| Error::setting("DEVICE", expected))?))?;
    let piece = others.get(2).map(|piece| piece.parse::<NonZero<usize>>()).transpose();
    let piece = piece.map_err(|error| Error::setting("PIECE", error.to_string()))?.map_or(usize::MAX, NonZero::get);
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| Error::io(Path::new("standard input"), error))?;
    let tokens: Vec<u32> = serde_json::from_str(&text).map_err(|error| Error::Internal(error.to_string()))?;
    let pool = Pool::new(num_cpus::get_physical()).map_err(|error| Error::Unsupported(error.to_string()))?;
    let logprobs = pool.install(|| logprobs(model, &device, settings, tokens.chunks(piece)))?;
    println!("{}", serde_json::json!(logprobs));
    Ok(())
}

/// A type of weights by its name; none: as stored.
fn dtype(name: &str) -> Result<Option<WeightType>> {
    let known = WeightType::ALL.into_iter().find(|dtype| dtype.name() == name);
    let unknown = || Error::Unsupported(format!("expected a type of weights or auto, found {name}"));
    if name == "auto" { Ok(None) } else { known.map(Some).ok_or_else(unknown) }
}

fn logprobs(model: &str, device: &Device, settings: Settings, pieces: Chunks<'_, u32>) -> Result<Vec<f32>> {
    let checkpoint =
        if model == nano::ID { Checkpoint::embedded(&nano::MODEL)? } else { Checkpoint::open(Path::new(model))? };
    let model = checkpoint.load(device, settings)?;
    let mut state = model.new_state()?;
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for tokens in pieces.clone() {
        let logits = model.forward(&mut [Step { tokens, state: &mut state, wanted: Wanted::All }])?;
        rows.extend(logits.first().map(Tensor::to_vec2).transpose()?.unwrap_or_default());
    }
    let next = rows.iter().zip(pieces.flatten().skip(1));
    Ok(next.map(|(row, token)| rank(row, *token, 0).logprob).collect())
}
