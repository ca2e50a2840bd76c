//! What published checkpoints may say in their config.json, and what is refused by name.
#![cfg(unix)] // which has symbolic links
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use blazr::checkpoint::Checkpoint;
use blazr::error::Error;
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(name)
}

fn config_of(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
    serde_json::from_str(&text.replace("Infinity", "100.0")).unwrap()
}

/// A fixture's weights beside this config.json.
fn with_config(name: &str, config: &Value) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains(".safetensors") {
            std::os::unix::fs::symlink(&path, directory.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    directory
}

/// The error of a fixture whose config.json has other values; null takes a key away.
fn refusal(name: &str, changes: &Value) -> String {
    let mut config = config_of(name);
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            value => config[key] = value.clone(),
        }
    }
    let directory = with_config(name, &config);
    let error = Checkpoint::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{changes}: {error:?}");
    error.to_string()
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, changes, said) in [
        ("llama", json!({"model_type": "gpt_neox"}), &["model_type", "gpt_neox", "granitemoehybrid", "qwen3_moe"][..]),
        (
            "llama",
            json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}),
            &["rope_scaling.rope_type", "longrope"],
        ),
        ("llama", json!({"rope_scaling": {"type": "linear"}}), &["rope_scaling.factor"]),
        ("llama", json!({"hidden_act": "gelu"}), &["hidden_act", "gelu", "silu"]),
        ("llama", json!({"quantization_config": {"quant_method": "fp8"}}), &["quantization_config", "fp8"]),
        ("llama", json!({"num_hidden_layers": 9}), &["num_hidden_layers", "9"]),
        ("llama", json!({"num_hidden_layers": 1}), &["num_hidden_layers", "1"]),
        ("llama", json!({"architectures": ["LlamaForSequenceClassification"]}), &["architectures", "ForCausalLM"]),
        ("llama", json!({"attention_bias": false}), &["k_proj.bias", "is there", "attention_bias"]),
        ("llama-linear", json!({"mlp_bias": true}), &["proj.bias", "is missing", "mlp_bias"]),
        ("llama", json!({"architectures": ["CustomForCausalLM"]}), &["architectures", "Custom", "LlamaForCausalLM"]),
        (
            "llama",
            json!({"rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}}),
            &["partial_rotary_factor"],
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}),
            &["rope_parameters.full_attention"],
        ),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 5.0}}),
            &["rope_scaling.low_freq_factor", "5", "4"],
        ),
        ("llama", json!({"hidden_size": 3, "head_dim": null}), &["num_attention_heads"]),
        ("mamba2", json!({"use_conv_bias": false}), &["conv1d.bias", "is there", "use_conv_bias"]),
        ("qwen2-window", json!({"layer_types": ["sliding_attention"]}), &["layer_types", "1"]),
        ("nemotron_h", json!({"mamba_hidden_act": "relu"}), &["mamba_hidden_act", "relu"]),
        ("nemotron_h", json!({"hybrid_override_pattern": "M-*-MM"}), &["hybrid_override_pattern", "6"]),
        ("deepseek_v3", json!({"topk_group": 9}), &["topk_group", "9"]),
        ("deepseek_v2", json!({"qk_rope_head_dim": 5}), &["qk_rope_head_dim", "5"]),
        ("llama", json!({"hidden_size": null}), &["embed_tokens.weight", "4096", "48"]),
        ("llama", json!({"num_key_value_heads": 3}), &["num_key_value_heads", "3"]),
        ("llama", json!({"vocab_size": 97}), &["embed_tokens.weight", "97", "96"]),
        ("llama-llama3", json!({"tie_word_embeddings": false}), &["lm_head.weight", "tie_word_embeddings"]),
        ("granitemoehybrid", json!({"layer_types": ["mamba"]}), &["layer_types"]),
        ("granitemoehybrid-moe", json!({"num_experts_per_tok": 6}), &["num_experts_per_tok", "6"]),
        ("granitemoehybrid-moe", json!({"mamba_n_groups": 3}), &["mamba_n_groups", "3"]),
        ("nemotron_h", json!({"hybrid_override_pattern": "M-X-M"}), &["hybrid_override_pattern", "X"]),
        ("nemotron_h", json!({"mlp_hidden_act": "silu"}), &["mlp_hidden_act", "relu2"]),
        ("deepseek_v2", json!({"topk_method": "noaux_tc"}), &["topk_method", "noaux_tc"]),
        ("deepseek_v3", json!({"n_group": 3}), &["n_group", "3"]),
        ("qwen3_moe", json!({"num_experts": 7}), &["mlp.gate.weight", "7", "6"]),
        ("falcon_h1", json!({"mamba_d_ssm": 50}), &["mamba_d_ssm", "50"]),
    ] {
        let error = refusal(name, &changes);
        for part in said {
            assert!(error.contains(part), "{name} {changes}: {error:?} does not say {part:?}");
        }
    }
}

/// What a fixture's checkpoint is where its config.json has these other values; null stays null.
fn changed(name: &str, changes: &Value) -> Checkpoint {
    let mut config = config_of(name);
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Checkpoint::open(with_config(name, &config).path()).unwrap()
}

#[test]
fn a_context_that_yarn_stretches_is_that_long() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
    for (max_position_embeddings, expected) in [(256, 1024), (1024, 1024), (2048, 2048)] {
        let changes = json!({"max_position_embeddings": max_position_embeddings, "rope_scaling": yarn});
        assert_eq!(changed("llama", &changes).config().max_seq_len, expected);
    }
}

#[test]
fn spellings_of_the_same_give_the_same_model() {
    let config = |name: &str, changes: Value| format!("{:?}", changed(name, &changes).config());
    for (name, one, other) in [
        ("llama", json!({"max_position_embeddings": null}), json!({"max_position_embeddings": 2048.0})),
        ("llama", json!({"architectures": ["LLaMAForCausalLM"]}), json!({"architectures": ["LlamaModel"]})),
        ("llama", json!({"hidden_act": "silu"}), json!({"hidden_act": "swish", "quantization_config": {}})),
        ("llama", json!({"rope_scaling": null}), json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})),
        ("deepseek_v3", json!({"norm_topk_prob": null}), json!({"norm_topk_prob": false})),
        ("deepseek_v3", json!({"rope_interleave": null}), json!({"rope_interleave": false})),
        ("falcon_h1-norm", json!({"mamba_norm_before_gate": null}), json!({"mamba_norm_before_gate": false})),
        ("nemotron_h", json!({"mamba_d_conv": 4, "conv_kernel": 9}), json!({"conv_kernel": 4})),
    ] {
        assert_eq!(config(name, one.clone()), config(name, other.clone()), "{name}: {one} and {other}");
    }
}

#[test]
fn hostile_configurations_end_as_errors() {
    let huge = 1 << 30;
    for name in ["llama", "granitemoehybrid-moe", "nemotron_h-moe", "deepseek_v3", "falcon_h1", "mamba2", "qwen3_moe"] {
        let usual = config_of(name);
        for key in usual.as_object().unwrap().keys() {
            for value in [json!(0), json!(huge), json!(-1), json!([]), json!({}), json!("x"), json!(1e300)] {
                let mut config = usual.clone();
                config[key] = value;
                let opened = Checkpoint::open(with_config(name, &config).path());
                assert!(opened.is_ok() || opened.is_err_and(|error| matches!(error, Error::Checkpoint { .. })));
            }
        }
    }
}

/// A checkpoint of one tensor.
fn alone(tensor: &str, config: &Value) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let header = json!({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
    std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    directory
}

#[test]
fn layers_that_are_not_there_take_no_memory() {
    for name in ["llama", "qwen3_moe", "falcon_h1", "deepseek_v3", "mamba2"] {
        let mut config = config_of(name);
        config["num_hidden_layers"] = json!(1 << 30);
        let error = Checkpoint::open(alone("model.layers.1073741823.x", &config).path()).unwrap_err().to_string();
        assert!(error.contains("num_hidden_layers: 1073741824 layers, but the tensors have 1"), "{error}");
    }
}

#[test]
fn a_head_alone_is_the_embedding_too_where_they_are_tied() {
    for (name, prefix) in
        [("llama-llama3", "model."), ("mixtral", "model."), ("deepseek_v3", "model."), ("mamba2", "backbone.")]
    {
        let embedding = if name == "mamba2" { "embeddings.weight" } else { "embed_tokens.weight" };
        let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let tensors = header.as_object_mut().unwrap();
        let embedded = tensors.remove(&format!("{prefix}{embedding}")).unwrap();
        // Tied ones have it under the head's name; others have both, and lose the one.
        let other = if tensors.contains_key("lm_head.weight") { "unused" } else { "lm_head.weight" };
        tensors.insert(other.to_owned(), embedded);
        let header = header.to_string();
        for is_tied in [true, false] {
            let mut config = config_of(name);
            config["tie_word_embeddings"] = json!(is_tied);
            let directory = alone("x", &config);
            let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
            std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
            assert_eq!(Checkpoint::open(directory.path()).is_ok(), is_tied, "{name}");
        }
    }
}

#[test]
fn a_window_bounds_the_cache_and_latents_are_all_that_is_kept() {
    let open = |name: &str| Checkpoint::open(&fixture(name)).unwrap();
    let window = open("mistral");
    assert_eq!(window.config().cache_bytes(500), window.config().cache_bytes(16));
    let layers = window.config().layers.len();
    assert_eq!(window.config().cache_bytes(1), layers * 2 * 2 * 16 * 4);
    let latent = open("deepseek_v2");
    let layers = latent.config().layers.len();
    assert_eq!(latent.config().cache_bytes(7), 7 * layers * (20 + 8) * 4);
}
