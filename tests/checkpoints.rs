//! The same model in every form that a checkpoint may take: with a complete, a partial or no config.json, in one file
//! or in shards, under old and new names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use blazr::checkpoint::Checkpoint;
use blazr::model::config::MixerSpec;
use blazr::model::weights::Settings;
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const PRESETS: [&str; 7] = ["mamba2", "mamba2-groups", "mla", "gqa", "mha", "gqa-moe", "hybrid"];

fn golden(preset: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{preset}-f32"))
}

/// A golden checkpoint in pieces, to be put together in another form.
struct Parts {
    tensors: BTreeMap<String, Tensor>,
    config: Map<String, Value>,
}

impl Parts {
    fn of(preset: &str) -> Self {
        let file = golden(preset).join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter().collect();
        let config = serde_json::from_slice(&std::fs::read(golden(preset).join("config.json")).unwrap()).unwrap();
        Self { tensors, config }
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        self
    }

    fn with_keys(mut self, wanted: &[&str]) -> Self {
        self.config.retain(|key, _| wanted.contains(&key.as_str()));
        self
    }

    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        save(&directory.path().join("model.safetensors"), self.tensors.iter());
        self.write_config(directory.path());
        directory
    }

    fn write_config(&self, directory: &Path) {
        std::fs::write(directory.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }
}

fn save<'a>(file: &Path, tensors: impl Iterator<Item = (&'a String, &'a Tensor)>) {
    let tensors: HashMap<&String, Tensor> = tensors.map(|(name, tensor)| (name, tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, file).unwrap();
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn logits(path: &Path) -> Vec<Vec<f32>> {
    let model = open(path).load(&Device::Cpu, Settings::EXACT).unwrap();
    support::logits(&model, &mut model.new_state().unwrap(), &[1, 5, 9, 200, 7])
}

#[test]
fn what_a_partial_configuration_leaves_out_is_read_off_the_tensors() {
    // Without these nothing would tell how the reference was made: no tensor shows them.
    let always = ["max_seq_len", "mamba2_chunk_size"];
    for (preset, needed) in [
        ("mamba2", &[][..]),
        ("mamba2-groups", &["mamba2_n_groups"]),
        ("mamba2-groups", &["mamba2_state_size"]),
        ("mla", &[]),
        ("gqa", &["num_attention_heads"]),
        ("gqa", &["num_kv_heads"]),
        ("gqa", &["head_dim"]),
        ("mha", &["head_dim"]),
        ("gqa-moe", &["num_kv_heads", "experts_per_tok"]),
        ("hybrid", &[]),
        ("hybrid", &["layer_types"]),
    ] {
        let partial = Parts::of(preset).with_keys(&[&always, needed].concat()).write();
        assert_eq!(open(partial.path()).config(), open(&golden(preset)).config(), "{preset} with {needed:?}");
    }
}

#[test]
fn the_legacy_key_names_the_mamba2_layers() {
    let mut parts = Parts::of("hybrid");
    parts.config.remove("layer_types");
    parts.config.insert("mamba_layers".into(), json!([0, 1, 3]));
    let directory = parts.write();
    let checkpoint = open(directory.path());
    assert_eq!(checkpoint.config(), open(&golden("hybrid")).config());
    assert_eq!(checkpoint.report().values["mamba_layers"], json!([0, 1, 3]));
    assert_eq!(checkpoint.report().sources["layer_types"], "file");

    let mut stale = Parts::of("hybrid");
    stale.config.insert("mamba_layers".into(), json!([5]));
    assert_eq!(open(stale.write().path()).config(), open(&golden("hybrid")).config(), "layer_types comes first");
}

#[test]
fn names_may_carry_a_prefix_all_some_or_none() {
    for preset in PRESETS {
        let want = logits(&golden(preset));
        let all = Parts::of(preset).renamed(|name| format!("model.{name}")).write();
        assert_eq!(logits(all.path()), want, "{preset}");
        let prefix = |name: &str| if name.contains("layers.1") { format!("model.{name}") } else { name.into() };
        let some = Parts::of(preset).renamed(prefix).write();
        assert_eq!(logits(some.path()), want, "{preset}");
    }
}

#[test]
fn the_router_may_be_named_as_older_checkpoints_have_it() {
    let older = Parts::of("gqa-moe").renamed(|name| name.replace("moe.router.gate", "moe.gate")).write();
    assert_eq!(logits(older.path()), logits(&golden("gqa-moe")));
}

#[test]
fn shards_and_files_of_any_name_are_the_same_checkpoint() {
    let parts = Parts::of("hybrid");
    let want = logits(&golden("hybrid"));

    let sharded = tempfile::tempdir().unwrap();
    let shard_of = |i: usize| format!("model-{}-of-3.safetensors", i % 3 + 1);
    for shard in 0..3 {
        let tensors = parts.tensors.iter().enumerate().filter(|(i, _)| i % 3 == shard).map(|(_, entry)| entry);
        save(&sharded.path().join(shard_of(shard)), tensors);
    }
    let map: Map<String, Value> =
        parts.tensors.keys().enumerate().map(|(i, name)| (name.clone(), shard_of(i).into())).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(sharded.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    parts.write_config(sharded.path());
    assert_eq!(logits(sharded.path()), want);

    let other_name = tempfile::tempdir().unwrap();
    let file = other_name.path().join("step-1000.safetensors");
    save(&file, parts.tensors.iter());
    parts.write_config(other_name.path());
    assert_eq!(logits(other_name.path()), want);
    assert_eq!(logits(&file), want, "named by its file");
}

fn largest_difference(a: &Path, b: &Path) -> f32 {
    support::largest_difference(&logits(a), &logits(b))
}

#[test]
fn types_may_differ_from_tensor_to_tensor() {
    let mut parts = Parts::of("hybrid");
    for (i, tensor) in parts.tensors.values_mut().enumerate() {
        let rounded = tensor.to_dtype(DType::BF16).unwrap();
        *tensor = if i % 2 == 0 { rounded } else { rounded.to_dtype(DType::F32).unwrap() };
    }
    let mixed = parts.write();
    parts.tensors.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(DType::F32).unwrap());
    let difference = largest_difference(mixed.path(), parts.write().path());
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn a_shared_expert_may_have_a_width_of_its_own() {
    let (mut narrow, mut padded) = (Parts::of("mla"), Parts::of("mla"));
    for (name, tensor) in &mut narrow.tensors {
        let axis = usize::from(name.ends_with("down_proj.weight"));
        if name.contains("shared_expert") {
            *tensor = tensor.narrow(axis, 0, 40).unwrap().contiguous().unwrap();
            // Inner values that are always zero change nothing.
            padded.tensors.insert(name.clone(), tensor.pad_with_zeros(axis, 0, 56).unwrap());
        }
    }
    let difference = largest_difference(narrow.write().path(), padded.write().path());
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn layers_may_differ_in_their_feed_forward_parts() {
    let mut mixed = Parts::of("mla");
    mixed.tensors.retain(|name, _| !name.starts_with("layers.1.moe.shared_expert"));
    mixed.config.remove("shared_expert_enabled");
    let mut silenced = Parts::of("mla");
    for (name, tensor) in &mut silenced.tensors {
        if name.starts_with("layers.1.moe.shared_expert.down_proj") {
            *tensor = tensor.zeros_like().unwrap();
        }
    }
    let difference = largest_difference(mixed.write().path(), silenced.write().path());
    assert!(difference < 1e-4, "without its shared expert: {difference}");

    let (mut narrow, mut padded) = (Parts::of("gqa"), Parts::of("gqa"));
    narrow.config.remove("intermediate_size");
    for (name, tensor) in narrow.tensors.iter_mut().filter(|(name, _)| name.starts_with("layers.1.mlp")) {
        let axis = usize::from(name.ends_with("down_proj.weight"));
        *tensor = tensor.narrow(axis, 0, 100).unwrap().contiguous().unwrap();
        padded.tensors.insert(name.clone(), tensor.pad_with_zeros(axis, 0, 28).unwrap());
    }
    let difference = largest_difference(narrow.write().path(), padded.write().path());
    assert!(difference < 1e-4, "with a narrower MLP: {difference}");
}

#[test]
fn rotated_queries_come_from_the_query_latent_where_the_width_says_so() {
    let (mut latent, mut composed) = (Parts::of("mla"), Parts::of("mla"));
    for layer in 0..2 {
        let name = |tensor: &str| format!("layers.{layer}.self_attn.{tensor}.weight");
        let w_qr = latent.tensors[&name("w_qr")].narrow(1, 0, 24).unwrap().contiguous().unwrap();
        // W_qr W_dq x is the same whether the product is taken while running or beforehand.
        let product = w_qr.matmul(&latent.tensors[&name("w_dq")]).unwrap();
        composed.tensors.insert(name("w_qr"), product);
        latent.tensors.insert(name("w_qr"), w_qr);
    }
    let directory = latent.write();
    let checkpoint = open(directory.path());
    let MixerSpec::Mla(spec) = &checkpoint.config().layers[0].mixer else { panic!("layer 0 is MLA") };
    assert!(spec.rope_from_q_latent);
    let difference = largest_difference(directory.path(), composed.write().path());
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn a_checkpoint_is_called_as_its_directory_or_file() {
    let id = |path: &Path| open(path).id().to_owned();
    assert_eq!(id(&golden("mla")), "mla-f32");
    assert_eq!(id(&golden("mla").join("model.safetensors")), "model.safetensors");
    assert_eq!(id(&golden("mla").join("../mla-f32/.")), "mla-f32");
    let directory = Parts::of("mla").write();
    std::fs::create_dir(directory.path().join("x")).unwrap();
    assert_eq!(*id(&directory.path().join("x/..")), *directory.path().file_name().unwrap());
}

#[test]
fn the_tokenizer_is_where_the_configuration_says() {
    for (named, place) in
        [(None, "tokenizer.json"), (Some("other.json"), "other.json"), (Some("folder"), "folder/tokenizer.json")]
    {
        let mut parts = Parts::of("mla");
        parts.config.extend(named.map(|name| ("tokenizer".to_owned(), name.into())));
        let directory = parts.write();
        std::fs::create_dir(directory.path().join("folder")).unwrap();
        let place = directory.path().join(place);
        let missing = open(directory.path()).tokenizer().err().unwrap().to_string();
        assert!(missing.starts_with(&format!("{}: the tokenizer is expected here", place.display())), "{missing}");
        std::fs::write(&place, support::byte_tokenizer().to_string()).unwrap();
        assert!(open(directory.path()).tokenizer().is_ok(), "{}", place.display());
    }
}

#[test]
fn other_weights_and_other_configurations_have_other_fingerprints() {
    let fingerprint = |seed: u64, config: Option<&str>| {
        let directory = tempfile::tempdir().unwrap();
        support::write_checkpoint(directory.path(), seed, DType::BF16);
        if let Some(config) = config {
            std::fs::write(directory.path().join("config.json"), config).unwrap();
        }
        Checkpoint::open(directory.path()).unwrap().fingerprint()
    };
    let config = |theta: f64| format!(r#"{{"mamba2_n_groups": 1, "experts_per_tok": 2, "rope_theta": {theta}}}"#);
    assert_eq!(fingerprint(7, None), fingerprint(7, None));
    assert_ne!(fingerprint(7, None), fingerprint(8, None));
    assert_ne!(fingerprint(7, Some(&config(500.0))), fingerprint(7, Some(&config(501.0))));
}

#[test]
fn a_file_that_is_written_to_while_it_is_loaded_is_refused_and_one_that_is_replaced_is_not() {
    let directory = tempfile::tempdir().unwrap();
    support::write_checkpoint(directory.path(), 7, DType::BF16);
    let path = directory.path().join("model.safetensors");
    let load = |change: &dyn Fn()| {
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        change();
        checkpoint.load(&Device::Cpu, Settings::EXACT).map(|_| ()).map_err(|error| error.to_string())
    };
    let replace = || {
        let beside = directory.path().join("new");
        std::fs::copy(&path, &beside).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    };
    assert_eq!(load(&replace), Ok(()));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let write = || std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let told = load(&write).unwrap_err();
    assert!(told.starts_with(path.to_str().unwrap()) && told.contains("changed while it was loaded"), "{told}");
}
