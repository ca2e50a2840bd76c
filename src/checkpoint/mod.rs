//! Checkpoints: from files, on the disk or in the program, to a loaded model.
//!
//! In reading order: [`storage`] is how numbers are stored, [`shard`] one file of them, [`index`] says which of several
//! files holds which tensor, [`tensors`] are all of a checkpoint's tensors by name, [`keys`] the typed config.json;
//! [`evidence`] is what tensors say by their names and shapes, [`native`] weighs both into a [`ModelConfig`], and
//! [`report`] is the account of it that `blazr info` prints. Published checkpoints are those with a `model_type`:
//! [`published`] is what their config.json have in common, [`families`] what they have not, and [`names`] where their
//! tensors are. [`gguf`] makes the files of a published checkpoint of one in llama.cpp's format.

pub mod evidence;
pub mod families;
mod generation;
pub mod gguf;
pub mod index;
pub mod keys;
pub mod names;
pub mod native;
pub mod published;
pub mod report;
pub mod shard;
pub mod storage;
pub mod tensors;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::{Embedded, Files};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::weights::{Settings, Weights};
use crate::sampling::Params;
use crate::text::{ChatTemplate, Tokenizer};
use families::Family;
use keys::Keys;
use report::Report;
use tensors::{Shapes, Size, Tensors};

/// The configuration's file.
const CONFIG: &str = "config.json";

/// A larger JSON file is not a checkpoint's.
const LARGEST_JSON: u64 = 64 << 20;

/// A checkpoint whose files have been found to fit together; its weights are not loaded yet.
#[derive(Debug)]
pub struct Checkpoint {
    id: String,
    family: &'static str,
    files: Files,
    tensors: Tensors,
    config: ModelConfig,
    report: Report,
    sizes: BTreeMap<String, Size>,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`, a directory or a safetensors or GGUF file, and checks that every tensor of the model
    /// is there with the right shape and type.
    ///
    /// # Errors
    /// Something is missing, broken or contradictory: the error names the file and the key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let files = Files::Directory(path.to_owned());
            return match gguf::only_in(&files)? {
                Some(name) => Self::open_gguf(name_of(path), &path.join(name)),
                None => Self::new(name_of(path), Tensors::open(&files)?, files),
            };
        }
        if path.is_file() && gguf::is_one(path) {
            return Self::open_gguf(name_of(path), path);
        }
        if let (true, Some(directory), Some(name)) = (path.is_file(), path.parent(), path.file_name()) {
            let files = Files::Directory(directory.to_owned());
            return Self::new(name_of(path), Tensors::of(&files, &[name])?, files);
        }
        Err(Error::not_found(path, "no such checkpoint directory, safetensors or GGUF file"))
    }

    /// Opens a checkpoint that is part of the program, as [`Checkpoint::open`] does one on the disk.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn embedded(embedded: &'static Embedded) -> Result<Self> {
        let files = Files::Embedded(embedded);
        Self::new(embedded.id.to_owned(), Tensors::open(&files)?, files)
    }

    fn open_gguf(id: String, path: &Path) -> Result<Self> {
        let (files, tensors) = gguf::open(path)?;
        Self::new(id, tensors, files)
    }

    fn new(id: String, mut tensors: Tensors, files: Files) -> Result<Self> {
        let keys = Keys::open(&files)?;
        let family = Family::of(&keys)?;
        let (config, report) = match family {
            Some(family) => {
                let (config, names, report) = family.resolve(&keys, &tensors)?;
                tensors.rename(names);
                (config, report)
            }
            None => native::resolve(&keys, &tensors)?,
        };
        Model::load(&config, &Weights::new(&tensors.shapes(), &Device::Cpu, Settings::default()))?;
        check_leftovers(&tensors, config.layers.len())?;
        let family = family.map_or(native::FAMILY, |family| family.model_type);
        Ok(Self { id, family, sizes: tensors.sizes_asked_for(), files, tensors, config, report })
    }

    /// The same checkpoint, served under another name.
    pub fn named(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    /// The `model_type` of the checkpoint's family.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// The name under which the model is served: that of the checkpoint's directory or file, or of the embedded model.
    pub fn id(&self) -> &str {
        &self.id
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
        self.sizes.values().fold(Size::default(), |sum, size| sum + *size)
    }

    /// The same for each storage type by itself.
    pub fn sizes(&self) -> &BTreeMap<String, Size> {
        &self.sizes
    }

    /// The bytes that the weights take in the memory of `device`, held as `settings` ask for.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn bytes_in_memory(&self, settings: Settings, device: &Device) -> Result<usize> {
        self.bytes_of(&if device.is_cpu() { self.tensors.shapes() } else { self.tensors.shapes_on_gpu() }, settings)
    }

    fn bytes_of(&self, shapes: &Shapes<'_>, settings: Settings) -> Result<usize> {
        Model::load(&self.config, &Weights::new(shapes, &Device::Cpu, settings))?;
        Ok(shapes.held())
    }

    /// A number that other weights and other configurations don't have.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.tensors.fingerprint(), format!("{:?}", self.config)).hash(&mut hasher);
        hasher.finish()
    }

    /// Reads the weights onto `device`, in the types that `settings` ask for, and lets go of the files.
    pub fn load(self, device: &Device, settings: Settings) -> Result<Model> {
        self.load_telling(device, settings, &|_| {})
    }

    /// The same, telling of each tensor how many bytes it had in its file.
    ///
    /// # Errors
    /// Weights can't be had, or their files change meanwhile.
    pub fn load_telling(self, device: &Device, settings: Settings, loaded: &dyn Fn(usize)) -> Result<Model> {
        let model = Model::load(&self.config, &Weights::new(&self.tensors.telling(loaded), device, settings))?;
        self.tensors.check_unchanged()?;
        Ok(model)
    }

    /// The tokenizer: what the key `tokenizer` names beside the checkpoint, else `tokenizer.json`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(&self.files, &self.tokenizer_name(), self.config.vocab_size)
    }

    /// How conversations are written: as the template in `file` says, else the model's own; none if it has none.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::open`], or `file` can't be read.
    pub fn chat_template(&self, file: Option<&Path>, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let name = self.tokenizer_name();
        let Some(file) = file else { return ChatTemplate::open(&self.files, &name, tokenizer) };
        let source = std::fs::read_to_string(file).map_err(|error| Error::io(file, error))?;
        ChatTemplate::from_source(&source, file, &self.files, &name, tokenizer).map(Some)
    }

    /// How tokens are drawn where a request says nothing: as `generation_config.json` has it.
    ///
    /// # Errors
    /// There is no such file, or what it says is no possible way.
    pub fn sampling(&self) -> Result<Params> {
        generation::sampling(&self.files, self.config.vocab_size)
    }

    fn tokenizer_name(&self) -> PathBuf {
        let named = self.report.values.get("tokenizer").and_then(|value| value.as_str()).unwrap_or(native::TOKENIZER);
        let in_directory = Path::new(named).join(native::TOKENIZER);
        if self.files.has_directory(named) { in_directory } else { named.into() }
    }
}

/// The roots of the model's own names: a tensor below them that nothing reads would change what the model says.
const MODEL_ROOTS: [&str; 5] = ["layers.", "embed", "norm", "final_layernorm", "lm_head"];

/// What some trainers save and others compute: tables of rotary frequencies, and the multipliers of a projection.
const COMPUTED: [&str; 2] = ["inv_freq", "mup_vector"];

/// Refuses such a tensor by name and warns of the others. Layers behind the last are those that predict further tokens.
fn check_leftovers(tensors: &Tensors, num_layers: usize) -> Result<()> {
    let is_computed = |name: &str| COMPUTED.iter().any(|end| name.ends_with(end));
    let is_behind = |name: &str| {
        let index = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')).map(|(index, _)| index.parse());
        index.is_some_and(|index| index.is_ok_and(|index: usize| index >= num_layers))
    };
    let is_empty = |name: &str| tensors.shape(name).is_some_and(|shape| shape.contains(&0));
    let is_left = |name: &&str| !is_computed(name) && !is_behind(name) && !is_empty(name);
    let leftovers: Vec<&str> = tensors.not_asked_for().into_iter().filter(is_left).collect();
    if let Some(name) = leftovers.iter().find(|name| MODEL_ROOTS.iter().any(|root| name.starts_with(root))) {
        let message = format!(
            "tensor {} is not part of the format: leaving it out would change the model",
            tensors.name_in_file(name)
        );
        return Err(Error::checkpoint(tensors.file_of(name), message));
    }
    if !leftovers.is_empty() {
        let names = first_few(&leftovers);
        tracing::warn!("{}: ignoring tensors that mean nothing here: {names}", tensors.origin().display());
    }
    Ok(())
}

/// The name of the directory or file at `path`.
fn name_of(path: &Path) -> String {
    let resolved = || path.canonicalize().ok(); // for paths such as `.`
    let name = path.file_name().map(OsStr::to_owned).or_else(|| Some(resolved()?.file_name()?.to_owned()));
    name.unwrap_or_else(|| path.into()).to_string_lossy().into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::blocks::Format;
    use crate::kernels::matrix::WeightType;
    use crate::model::config::MixerSpec;
    use crate::model::mla::MlaSpec;
    use crate::model::packing::held_as;

    #[test]
    fn a_gpu_is_planned_to_hold_what_is_stored_or_blocks_as_on_the_cpu() {
        let nano = Checkpoint::embedded(&crate::nano::MODEL).unwrap();
        let of = |shapes: Shapes<'_>, dtype| nano.bytes_of(&shapes, Settings { dtype, ..Settings::default() }).unwrap();
        let of_latents = |count: &dyn Fn(&MlaSpec) -> usize| -> usize {
            let layers = nano.config.layers.iter();
            layers.map(|layer| if let MixerSpec::Mla(mla) = &layer.mixer { count(mla) } else { 0 }).sum()
        };
        let stored = |width: usize, mla: &MlaSpec| mla.num_heads * width * mla.kv_latent_dim * size_of::<half::bf16>();
        let held_twice = of_latents(&|mla| stored(mla.head_dim, mla)); // w_uk, also transposed
        assert!(held_twice > 0);
        assert_eq!(of(nano.tensors.shapes_on_gpu(), None), nano.size().bytes + held_twice);
        for format in Format::ALL {
            let dtype = Some(WeightType::Blocks(format));
            let (gpu, cpu) = (of(nano.tensors.shapes_on_gpu(), dtype), of(nano.tensors.shapes(), dtype));
            // w_uv is blocks for the CPU alone.
            let packed = |mla: &MlaSpec| {
                let held = held_as(WeightType::Bf16, dtype, mla.kv_latent_dim);
                mla.num_heads * held.packed_bytes(mla.value_dim, mla.kv_latent_dim).unwrap()
            };
            let more = of_latents(&|mla| stored(mla.value_dim, mla) - packed(mla));
            // Matrices that are no blocks are padded for the CPU: here the routers, of four rows.
            let gpu = gpu - more;
            assert!(gpu < cpu && cpu - gpu < cpu / 100, "{format:?}: {gpu} and {cpu} bytes");
        }
    }
}
