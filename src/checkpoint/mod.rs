//! Checkpoints on disk: from a path to a loaded model.
//!
//! In reading order: [`shard`] is one safetensors file, [`tensors`] all of a checkpoint's tensors by name, [`keys`] the
//! typed config.json; [`evidence`] is what tensors say by their names and shapes, [`native`] weighs both into a
//! [`ModelConfig`], and [`report`] is the account of it that `blazr info` prints.
//!
//! Absent so far: the formats of published checkpoints. Each will be a file beside [`native`].

pub mod evidence;
pub mod keys;
pub mod native;
pub mod report;
pub mod shard;
pub mod tensors;

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::weights::Weights;
use keys::Keys;
use report::Report;
use tensors::{Size, Tensors};

/// A larger JSON file is not a checkpoint's.
const LARGEST_JSON: u64 = 64 << 20;

/// A checkpoint whose files have been found to fit together; its weights are not loaded yet.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    tensors: Tensors,
    config: ModelConfig,
    report: Report,
    size: Size,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`, a directory or a safetensors file, and checks that every tensor of the model is
    /// there with the right shape and type.
    ///
    /// # Errors
    /// Something is missing, broken or contradictory: the error names the file and the key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let tensors = Tensors::open(path)?;
        let directory = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let keys = Keys::open(&directory.join("config.json"))?;
        let (config, report) = native::resolve(&keys, &tensors)?;
        Model::load(&config, &Weights::new(&tensors.shapes(), &Device::Cpu))?;
        check_leftovers(&tensors)?;
        Ok(Self { directory: directory.to_owned(), size: tensors.size_asked_for(), tensors, config, report })
    }

    /// What the model is made of.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every key of the configuration and where its value came from.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// How many parameters the model has, and their bytes as stored.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Reads the weights onto `device`, in the types that they are stored in, and lets go of the files.
    pub fn load(self, device: &Device) -> Result<Model> {
        Model::load(&self.config, &Weights::new(&self.tensors, device))
    }

    /// Where the checkpoint's files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tokenizer's file: what the key `tokenizer` names beside the checkpoint, else `tokenizer.json`.
    pub fn tokenizer_path(&self) -> PathBuf {
        let named = self.report.values.get("tokenizer").and_then(|value| value.as_str());
        let named = self.directory.join(named.unwrap_or(native::TOKENIZER));
        if named.is_dir() { named.join(native::TOKENIZER) } else { named }
    }
}

/// The roots of the model's own names: a tensor below them that nothing reads would change what the model says.
const MODEL_ROOTS: [&str; 4] = ["layers.", "embed", "norm", "lm_head"];

/// Refuses such a tensor by name and warns of the others.
fn check_leftovers(tensors: &Tensors) -> Result<()> {
    // Tables of rotary frequencies, which some trainers save, are computed from rope_theta.
    let leftovers: Vec<&str> = tensors.not_asked_for().into_iter().filter(|name| !name.ends_with("inv_freq")).collect();
    if let Some(name) = leftovers.iter().find(|name| MODEL_ROOTS.iter().any(|root| name.starts_with(root))) {
        let message = format!("tensor {name} is not part of the native format: leaving it out would change the model");
        return Err(Error::checkpoint(tensors.file_of(name), message));
    }
    if !leftovers.is_empty() {
        let names = first_few(&leftovers);
        tracing::warn!("{}: ignoring tensors that mean nothing here: {names}", tensors.origin().display());
    }
    Ok(())
}

/// A list for a message, however long it is.
fn first_few(names: &[&str]) -> String {
    const FEW: usize = 8;
    let more = names.len().saturating_sub(FEW);
    let listed = names.iter().take(FEW).copied().collect::<Vec<_>>().join(", ");
    if more == 0 { listed } else { format!("{listed} and {more} more") }
}

/// The value in `json`, which was read from `path`.
fn parse_json<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::checkpoint(path, format!("broken JSON: {error}")))
}
