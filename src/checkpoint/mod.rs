//! Checkpoints on disk: from a path to a loaded model.
//!
//! In reading order: [`shard`] is one safetensors file, [`tensors`] all of a checkpoint's tensors by name, [`keys`] the
//! typed config.json; [`evidence`] is what tensors say by their names and shapes, [`native`] weighs both into a
//! [`ModelConfig`], and [`report`] is the account of it that `blazr info` prints.

pub mod evidence;
mod json;
pub mod keys;
pub mod native;
pub mod report;
pub mod shard;
pub mod tensors;

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::weights::Weights;
use keys::Keys;
use report::Report;
use tensors::{Size, Tensors};

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

    /// The tokenizer's file: what the key `tokenizer` names beside the checkpoint, else `tokenizer.json`.
    pub fn tokenizer_path(&self) -> PathBuf {
        let usual = self.directory.join("tokenizer.json");
        let named = self.report.values.get("tokenizer").and_then(|value| value.as_str());
        let Some(named) = named.map(|named| self.directory.join(named)) else { return usual };
        if named.is_dir() { named.join("tokenizer.json") } else { named }
    }
}

/// A tensor of a layer that nothing reads would change what the model says: it is refused by name.
fn check_leftovers(tensors: &Tensors) -> Result<()> {
    // Tables of rotary frequencies, which some trainers save, are computed from rope_theta.
    let leftovers: Vec<&str> = tensors.not_asked_for().into_iter().filter(|name| !name.ends_with("inv_freq")).collect();
    if let Some(name) = leftovers.iter().find(|name| name.starts_with("layers.")) {
        let message = format!("tensor {name} is not part of the native format: leaving it out would change the model");
        return Err(Error::checkpoint(tensors.file_of(name), message));
    }
    if !leftovers.is_empty() {
        tracing::warn!(
            "{}: ignoring tensors that mean nothing here: {}",
            tensors.origin().display(),
            leftovers.join(", ")
        );
    }
    Ok(())
}
