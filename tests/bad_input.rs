//! Every way in which a checkpoint, a flag or a prompt can be wrong ends with one message that names the thing, exit
//! code 1, and no panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::DType;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A checkpoint to break.
struct Broken {
    directory: TempDir,
}

/// The header of a safetensors file and the data behind it.
type Parts = (Map<String, Value>, Vec<u8>);

impl Broken {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        support::write_checkpoint(directory.path(), 7, DType::F32);
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn weights(&self) -> PathBuf {
        self.path().join("model.safetensors")
    }

    fn parts(&self) -> Parts {
        let bytes = std::fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
    }

    fn write(&self, (header, data): &Parts) {
        write_safetensors(&self.weights(), &serde_json::to_vec(header).unwrap(), data);
    }

    /// Changes the header alone.
    fn header(self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let (mut header, data) = self.parts();
        change(&mut header);
        self.write(&(header, data));
        self
    }

    /// Takes tensors out, closing the gaps that they leave in the data.
    fn without(self, unwanted: impl Fn(&str) -> bool) -> Self {
        let (header, data) = self.parts();
        let (mut kept, mut kept_data) = (Map::new(), Vec::new());
        for (name, mut info) in header.into_iter().filter(|(name, _)| !unwanted(name) && name != "__metadata__") {
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            let bytes = &data[at(0)..at(1)];
            info["data_offsets"] = json!([kept_data.len(), kept_data.len() + bytes.len()]);
            kept_data.extend_from_slice(bytes);
            kept.insert(name, info);
        }
        self.write(&(kept, kept_data));
        self
    }

    /// Adds keys to config.json, or takes them out where the value is null.
    fn config(self, keys: Value) -> Self {
        let path = self.path().join("config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config.extend(keys.as_object().unwrap().clone());
        config.retain(|_, value| !value.is_null());
        std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
        self
    }

    fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), contents).unwrap();
        self
    }

    /// Runs `info`, which must fail and say all of `said`.
    fn is_refused(&self, said: &[&str]) {
        refused(&["info", "--model", self.path().to_str().unwrap()], said);
    }

    /// Runs `generate` with `args`, which must fail and say all of `said`.
    fn generation_is_refused(&self, args: &[&str], said: &[&str]) {
        refused(&[&["generate", "--model", self.path().to_str().unwrap()], args].concat(), said);
    }
}

fn write_safetensors(path: &Path, header: &[u8], data: &[u8]) {
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header, data].concat()).unwrap();
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    // A panic, should there be one, would fill the message with a backtrace; memory is held to 2 GiB.
    let shell = "ulimit -v 2097152; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", shell, env!("CARGO_BIN_EXE_blazr")]).args(args).env("RUST_LOG", "warn");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn refused(args: &[&str], said: &[&str]) {
    let (code, out, err) = run(args);
    assert_eq!(code, Some(1), "{args:?}: {err}");
    assert!(out.is_empty() && !err.contains("panicked"), "{args:?}: {out}{err}");
    let messages: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    let [message] = messages[..] else { panic!("{args:?}: expected one message, found {err:?}") };
    for part in said {
        assert!(message.contains(part), "{args:?}: {message:?} does not say {part:?}");
    }
}

const IN_PROJ: &str = "layers.0.mamba2.mixer.in_proj.weight";
const GATE: &str = "layers.3.mlp.gate_proj.weight";

#[test]
fn places_without_a_checkpoint() {
    refused(&["info", "--model", "/no/such/place"], &["/no/such/place", "no such checkpoint directory"]);
    let empty = tempfile::tempdir().unwrap();
    refused(&["info", "--model", empty.path().to_str().unwrap()], &["no *.safetensors file"]);
    std::fs::create_dir(empty.path().join("model.safetensors")).unwrap();
    refused(&["info", "--model", empty.path().to_str().unwrap()], &["model.safetensors", "expected a file"]);
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_pipes_and_devices() {
    let in_place_of = |name: &str, put: &dyn Fn(&Path)| {
        let broken = Broken::new();
        let path = broken.path().join(name);
        let _ = std::fs::remove_file(&path);
        put(&path);
        broken
    };
    let link_to = |target: &'static str| move |path: &Path| std::os::unix::fs::symlink(target, path).unwrap();
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    for name in ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"] {
        let prompt = ["--prompt", "x"];
        in_place_of(name, &link_to("/no/such/file")).generation_is_refused(&prompt, &["error: "]);
        let said = [name, "expected a file, found something else"];
        in_place_of(name, &link_to("/dev/zero")).generation_is_refused(&prompt, &said);
        in_place_of(name, &pipe).generation_is_refused(&prompt, &said);
    }
    let dangling = in_place_of("config.json", &link_to("/no/such/file"));
    dangling.is_refused(&["config.json", "No such file"]);
}

#[test]
fn files_that_are_cut_short() {
    let whole = std::fs::read(Broken::new().weights()).unwrap();
    for (length, said) in [
        (0, "truncated: a safetensors file starts with 8 bytes, found 0"),
        (7, "truncated: a safetensors file starts with 8 bytes, found 7"),
        (100, "truncated: the header has"),
        (whole.len() - 1, "the file is truncated or broken"),
        (whole.len() / 2, "the file is truncated or broken"),
    ] {
        Broken::new().file("model.safetensors", &whole[..length]).is_refused(&["model.safetensors", said]);
    }
}

#[test]
fn headers_that_are_not_the_formats() {
    let long_name = format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#, "n".repeat(600));
    let huge = [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat();
    Broken::new().file("model.safetensors", huge).is_refused(&["a header of 9223372036854775808 bytes"]);
    for (header, said) in [
        ("[]", "expected a JSON object of tensors"),
        (
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
            "tensor a: 9 dimensions, more than 8",
        ),
        (&long_name, "a tensor's name has 600 bytes, more than 512"),
        ("{\"a\": 1}", "tensor a:"),
        ("not json", "broken safetensors header"),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#, "tensor a: unknown variant"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "tensor a: invalid value"),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            "tensor a is there twice",
        ),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, "larger than any memory"),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
            "tensor a: F32 [1] needs 4 bytes, but its offsets are 4 to 0",
        ),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, "tensor a: F32 [2] needs 8 bytes"),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
            "tensor a: offsets 8 to 12 lie beyond the 8 bytes",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}"#,
            "tensor a: F32 [1] needs 4 bytes",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            "tensors a and b overlap",
        ),
        (
            r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            "tensor b: the 4 bytes before it belong to no tensor",
        ),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "the last 4 bytes belong to no tensor"),
    ] {
        let broken = Broken::new();
        write_safetensors(&broken.weights(), header.as_bytes(), &[0; 8]);
        broken.is_refused(&["model.safetensors", said]);
    }
}

#[test]
fn shards_that_do_not_fit_their_index() {
    let sharded = |map: Value| {
        let broken = Broken::new();
        std::fs::rename(broken.weights(), broken.path().join("one.safetensors")).unwrap();
        broken.file("model.safetensors.index.json", json!({"weight_map": map}).to_string())
    };
    sharded(json!({"norm.weight": "two.safetensors"})).is_refused(&["index.json", "shard two.safetensors is missing"]);
    sharded(json!({"nothing": "one.safetensors"})).is_refused(&["tensor nothing is not in one.safetensors"]);
    sharded(json!({"norm.weight": "../one.safetensors"})).is_refused(&["plain file names", "../one.safetensors"]);
    sharded(json!({})).is_refused(&["weight_map names no shards"]);
    sharded(json!([])).is_refused(&["index.json", "broken JSON"]);
    let twice = sharded(json!({"norm.weight": "one.safetensors", "embed_tokens.weight": "two.safetensors"}));
    std::fs::copy(twice.path().join("one.safetensors"), twice.path().join("two.safetensors")).unwrap();
    twice.is_refused(&["is there twice"]);

    let without_index = Broken::new();
    std::fs::rename(without_index.weights(), without_index.path().join("a.safetensors")).unwrap();
    without_index.file("b.safetensors", "").is_refused(&["2 files end in .safetensors", "add the index"]);
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_or_type() {
    let missing = |name: &'static str| Broken::new().without(move |found| found == name);
    missing("embed_tokens.weight").is_refused(&["model.safetensors", "tensor embed_tokens.weight is missing"]);
    missing(IN_PROJ).is_refused(&[IN_PROJ, "is missing; expected it with shape [62, 32]"]);
    missing("layers.1.self_attn.w_dkv.weight").is_refused(&["layers.1.self_attn.w_dkv.weight is missing"]);
    missing("layers.1.moe.experts.2.up_proj.weight").is_refused(&["layers.1.moe.experts.2.up_proj.weight is missing"]);
    missing("norm.weight").is_refused(&["tensor norm.weight is missing"]);

    let with_shape =
        |name: &'static str, shape: Value| Broken::new().header(move |header| header[name]["shape"] = shape);
    with_shape(IN_PROJ, json!([31, 64])).is_refused(&[IN_PROJ, "expected shape [62, 32], found [31, 64]"]);
    with_shape(IN_PROJ, json!([62 * 32])).is_refused(&[IN_PROJ, "expected shape [62, 32], found [1984]"]);
    with_shape("embed_tokens.weight", json!([257 * 32])).is_refused(&["embed_tokens.weight", "too few dimensions"]);

    let as_ints = Broken::new().header(|header| header[GATE]["dtype"] = "I32".into());
    as_ints.is_refused(&["model.safetensors", GATE, "expected type F32, F16 or BF16, found I32"]);

    let prefixed_too = Broken::new().header(|header| {
        let norm = header.remove("layers.0.mamba2.norm.bias").unwrap();
        header.insert("model.layers.0.mamba2.norm.weight".into(), norm);
    });
    prefixed_too.is_refused(&["layers.0.mamba2.norm.weight is there twice"]);

    let foreign = Broken::new().header(|header| {
        let gate = header.remove("layers.3.self_attn.q_proj.bias").unwrap();
        header.insert("layers.3.self_attn.q_norm.weight".into(), gate);
    });
    foreign.is_refused(&["layers.3.self_attn.q_norm.weight is not part of the format"]);
    for name in ["lm_head.bias", "embed_layernorm.weight", "norm.bias", "layers.3.input_layernorm.bias"] {
        let foreign = Broken::new().header(|header| {
            let norm = header.remove("layers.0.mamba2.norm.bias").unwrap();
            header.insert(name.into(), norm);
        });
        foreign.is_refused(&["model.safetensors", name, "is not part of the format"]);
    }
    let uneven = Broken::new().header(|header| header["layers.1.self_attn.w_qr.weight"]["shape"] = json!([32, 24]));
    uneven.is_refused(&["model.safetensors: d_rope: 6 does not divide 32"]);
}

#[test]
fn layers_that_make_no_model() {
    let hole = Broken::new().without(|name| name.starts_with("layers.2."));
    hole.is_refused(&["layer 2 has no tensors, though layer 5 has"]);
    let none = Broken::new().without(|name| name.starts_with("layers."));
    none.is_refused(&["no tensor is named layers.N"]);
    let no_ffn = Broken::new().without(|name| name.starts_with("layers.3.mlp"));
    no_ffn.is_refused(&["layer 3 has attention, but neither layers.3.mlp nor layers.3.moe"]);
    let far = Broken::new().header(|header| {
        let norm = header.remove("layers.0.mamba2.norm.bias").unwrap();
        header.insert("layers.4000000000.mamba2.norm.bias".into(), norm);
    });
    far.is_refused(&["layer 6 has no tensors, though layer 4000000000 has"]);
}

#[test]
fn configurations_of_the_wrong_type_or_size() {
    for (key, value, said) in [
        ("hidden_size", json!("32"), "expected an integer from 1 to 1073741824, found \"32\""),
        ("num_layers", json!(0), "found 0"),
        ("vocab_size", json!(-5), "found -5"),
        ("max_seq_len", json!(1e30), "found 1e+30"),
        ("max_seq_len", json!(u64::MAX), "found 18446744073709551615"),
        ("mamba2_chunk_size", json!(0), "found 0"),
        ("mamba2_num_heads", json!(4.5), "found 4.5"),
        ("rms_norm_eps", json!("small"), "expected a number"),
        ("rms_norm_eps", json!(-1e-5), "expected a number"),
        ("rms_norm_eps", json!(0), "expected a number"),
        ("rope_theta", json!(0), "expected a number"),
        ("mamba2_dt_limit", json!([0.1, 0.001]), "[low, high]"),
        ("mamba2_dt_limit", json!([0.1]), "[low, high]"),
        ("shared_expert_enabled", json!("yes"), "expected true or false"),
        ("layer_types", json!("Mamba2"), "expected a list of strings"),
        ("layer_types", json!(["Mamba2"]), "expected one for each of 6 layers, found 1"),
        ("mamba_layers", json!([0, "2"]), "expected a list of layer indices"),
        ("mamba_layers", json!([0, 2, 9]), "layer 9 is listed, but there are 6 layers"),
        ("mamba_layers", json!([0]), "layer 2 is not listed, but the tensors layers.2.* show Mamba2"),
        ("tokenizer", json!(3), "expected a string"),
    ] {
        Broken::new().config(json!({key: value})).is_refused(&["config.json", key, said]);
    }
    let mut types = ["Mamba2", "MlaWithMoe", "Mamba2", "StandardTransformer", "MlaWithMlp", "TransformerWithMoe"];
    types[3] = "Rwkv";
    Broken::new().config(json!({"layer_types": types})).is_refused(&[
        "layer_types",
        "layer 3",
        "\"Rwkv\"",
        "expected one of",
    ]);
    types[3] = "Mamba2";
    let said = ["layer_types", "layer 3 is Mamba2, but the tensors layers.3.* show StandardTransformer"];
    Broken::new().config(json!({"layer_types": types})).is_refused(&said);

    Broken::new().file("config.json", "{\"hidden_size\": 32,").is_refused(&["config.json", "broken JSON"]);
    Broken::new().file("config.json", "[1]").is_refused(&["config.json", "broken JSON"]);
    Broken::new()
        .file("config.json", format!("{{\"a\":{}", "[".repeat(100_000)))
        .is_refused(&["config.json", "recursion limit"]);
}

#[test]
fn configurations_that_disagree_with_the_tensors() {
    for (key, value, said) in [
        ("hidden_size", 64, "embed_tokens.weight has shape [257, 32]"),
        ("vocab_size", 256, "embed_tokens.weight has shape [257, 32]"),
        ("num_layers", 7, "layers.5 is the last with tensors"),
        ("mamba2_num_heads", 8, "layers.0.mamba2.mixer.A_log has shape [4]"),
        ("mamba2_head_dim", 8, "layers.0.mamba2.mixer.out_proj.weight has shape [32, 24]"),
        ("mamba2_state_size", 4, "layers.0.mamba2.mixer.conv1d.weight has shape [34, 1, 4]"),
        ("mamba2_n_groups", 2, "2 does not divide 5"),
        ("mamba2_conv_kernel", 3, "layers.0.mamba2.mixer.conv1d.weight has shape [34, 1, 4]"),
        ("num_attention_heads", 8, "layers.1.self_attn.w_qr.weight has shape [24, 32]"),
        ("head_dim", 8, "layers.3.self_attn.q_proj.weight has shape [24, 32]"),
        ("num_kv_heads", 4, "layers.3.self_attn.k_proj.weight has shape [12, 32]"),
        ("kv_latent_dim", 16, "layers.1.self_attn.w_dkv.weight has shape [12, 32]"),
        ("q_latent_dim", 16, "layers.1.self_attn.w_dq.weight has shape [10, 32]"),
        ("d_rope", 8, "layers.1.self_attn.w_kr.weight has shape [6, 32]"),
        ("num_experts", 8, "layers.1.moe.router.gate.weight has shape [4, 32]"),
        ("experts_per_tok", 5, "5 experts are more than num_experts 4"),
        ("intermediate_size", 48, "layers.1.moe.experts.0.gate_proj.weight has shape [24, 32]"),
    ] {
        Broken::new().config(json!({key: value})).is_refused(&["config.json", key, said]);
    }
    let disabled = Broken::new().config(json!({"shared_expert_enabled": false}));
    disabled.is_refused(&["shared_expert_enabled", "layers.1.moe.shared_expert.gate_proj.weight is there"]);
    let absent =
        Broken::new().without(|name| name.contains("shared_expert")).config(json!({"shared_expert_enabled": true}));
    absent.is_refused(&["shared_expert_enabled", "layers.1.moe.shared_expert.gate_proj.weight is missing"]);
}

/// The layers 3 and 5 of the usual checkpoint, which are plain attention, as 0 and 1.
fn plain_attention() -> Broken {
    let broken = Broken::new().without(|name| name.starts_with("layers.") && !name.starts_with("layers.3."));
    broken.header(|header| {
        let renamed =
            std::mem::take(header).into_iter().map(|(name, info)| (name.replace("layers.3.", "layers.0."), info));
        *header = renamed.collect();
    })
}

#[test]
fn plain_attention_needs_one_key_about_its_heads() {
    let keys = ["num_attention_heads", "num_kv_heads or head_dim"];
    plain_attention().is_refused(&[keys[0], keys[1], "layers.0.self_attn.q_proj.weight has shape [24, 32]"]);
    for (key, value) in [("num_attention_heads", 4), ("num_kv_heads", 2), ("head_dim", 6)] {
        let known = plain_attention().config(json!({key: value}));
        let (code, out, err) = run(&["info", "--model", known.path().to_str().unwrap()]);
        assert_eq!(code, Some(0), "{key}: {err}");
        let info: Value = serde_json::from_str(&out).unwrap();
        for (key, value) in [("num_attention_heads", 4), ("num_kv_heads", 2), ("head_dim", 6)] {
            assert_eq!(info[key], value, "{key}");
        }
    }
    plain_attention()
        .config(json!({"num_attention_heads": 5}))
        .is_refused(&["num_attention_heads", "5 does not divide 24"]);
    plain_attention().config(json!({"num_attention_heads": 3})).is_refused(&["head_dim", "8 does not divide 12"]);
    plain_attention().config(json!({"num_attention_heads": 8})).is_refused(&["head_dim", "even width, found 3"]);
    let both = json!({"num_attention_heads": 4, "head_dim": 8});
    plain_attention().config(both).is_refused(&["head_dim: 8, but 6", "layers.0.self_attn.q_proj.weight"]);
}

#[test]
fn tokenizers_that_can_not_serve() {
    let prompt = ["--prompt", "x"];
    let missing = Broken::new();
    std::fs::remove_file(missing.path().join("tokenizer.json")).unwrap();
    missing.generation_is_refused(&prompt, &["tokenizer.json"]);
    Broken::new().file("tokenizer.json", "{").generation_is_refused(&prompt, &["tokenizer.json"]);
    Broken::new().file("tokenizer.json", "{}").generation_is_refused(&prompt, &["tokenizer.json"]);
    Broken::new().config(json!({"tokenizer": "other.json"})).generation_is_refused(&prompt, &["other.json"]);
    let mut large = support::byte_tokenizer();
    large["model"]["vocab"]["zz"] = 300.into();
    Broken::new()
        .file("tokenizer.json", large.to_string())
        .generation_is_refused(&prompt, &["tokenizer.json", "257", "300"]);
    let wrong_end = Broken::new().file("generation_config.json", r#"{"eos_token_id": "x"}"#);
    wrong_end.generation_is_refused(&prompt, &["generation_config.json", "eos_token_id"]);
    // This one makes the tokenizers library panic.
    let mut odd = support::byte_tokenizer();
    odd["decoder"] = json!({"type": "Strip", "content": 5});
    Broken::new().file("tokenizer.json", odd.to_string()).generation_is_refused(&prompt, &["tokenizer.json"]);
}

#[test]
fn requests_that_can_not_be_done() {
    let model = Broken::new();
    let long = "x".repeat(600);
    for (args, said) in [
        (&["--prompt", ""][..], &["prompt", "found none"][..]),
        (&["--prompt", &long], &["prompt", "600", "512"]),
        (&["--prompt", &long.repeat(20)], &["prompt", "the prompt has 923 or more", "512"]),
        (&["--prompt", &long[..512]], &["prompt", "the prompt has 512"]),
        (&["--prompt", "x", "--temperature", "9"], &["temperature", "9", "2"]),
        (&["--prompt", "x", "--temperature", "-1"], &["temperature", "-1"]),
        (&["--prompt", "x", "--temperature", "nan"], &["temperature", "NaN"]),
        (&["--prompt", "x", "--top-p", "1.5"], &["top_p", "1.5"]),
        (&["--prompt", "x", "--min-p", "-0.5"], &["min_p", "-0.5"]),
        (&["--prompt", "x", "--repetition-penalty", "0"], &["repetition_penalty", "0"]),
        (&["--prompt", "x", "--frequency-penalty", "3"], &["frequency_penalty", "3"]),
        (&["--prompt", "x", "--presence-penalty", "-3"], &["presence_penalty", "-3"]),
        (&["--prompt", "x", "--logit-bias", "3=101"], &["logit_bias", "101"]),
        (&["--prompt", "x", "--logit-bias", "999=1"], &["logit_bias", "999"]),
        (&["--prompt", "x", "--max-tokens", "0"], &["max_tokens", "found 0"]),
        (&["--prompt", "x", "--stop", ""], &["stop", "empty"]),
    ] {
        model.generation_is_refused(args, said);
    }
}

#[test]
fn a_nan_in_a_norm_is_warned_of_by_name_and_nothing_more() {
    let broken = Broken::new();
    let (header, mut data) = broken.parts();
    let at = header["layers.3.input_layernorm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    data[at + 8..at + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    broken.write(&(header, data));
    let model = broken.path().to_str().unwrap();
    for args in [&["info", "--check", "--model", model][..], &["generate", "--prompt", "x", "--model", model]] {
        let (code, _, err) = run(args);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.contains("layers.3.input_layernorm.weight[2] is not a finite number"), "{err}");
    }
}

#[test]
fn what_is_guessed_or_ignored_is_warned_of_once() {
    let partial = json!({"mamba2_n_groups": null, "experts_per_tok": null, "mamba2_expand": 7, "color": "blue"});
    let broken = Broken::new().config(partial).header(|header| {
        let norm = header.remove("layers.0.mamba2.norm.bias").unwrap();
        header.insert("optimizer.step".into(), norm);
    });
    let (code, out, err) = run(&["info", "--model", broken.path().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    for said in [
        "mamba2_n_groups is not given: taking 1 group",
        "experts_per_tok is not given: taking 2 of 4 experts",
        "mamba2_expand is 7, but the inner width is 24",
        "ignoring keys that mean nothing here: color",
        "ignoring tensors that mean nothing here: optimizer.step",
    ] {
        assert_eq!(err.matches(said).count(), 1, "{said}: {err}");
    }
    let info: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(info["sources"]["mamba2_n_groups"], "default");
    assert_eq!(info["sources"]["experts_per_tok"], "default");
}
