//! The binary as its users run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use candle_core::DType;
use serde_json::Value;
use tempfile::TempDir;

fn blazr() -> Command {
    Command::new(env!("CARGO_BIN_EXE_blazr"))
}

fn checkpoint() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    support::write_checkpoint(directory.path(), 7, DType::BF16);
    directory
}

fn generate(model: &Path, args: &[&str]) -> Output {
    blazr().args(["generate", "--model"]).arg(model).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn text_goes_to_standard_output_and_figures_to_standard_error() {
    let model = checkpoint();
    let args = ["--prompt", "Once", "--max-tokens", "20", "--seed", "1", "--logit-bias", "256=-100"];
    let plain = generate(model.path(), &args);
    let as_json = json(&generate(model.path(), &[&args[..], &["--json"]].concat()));

    assert!(plain.status.success(), "{}", stderr(&plain));
    assert_eq!(String::from_utf8(plain.stdout.clone()).unwrap(), as_json["text"].as_str().unwrap());
    let figures = stderr(&plain);
    assert!(figures.contains("Using CPU"), "{figures}");
    assert!(figures.lines().last().unwrap().starts_with("4 prompt tokens, 20 generated tokens, "), "{figures}");
    assert!(figures.contains("tokens/s, first token after "), "{figures}");

    assert_eq!(as_json["usage"], serde_json::json!({"prompt_tokens": 4, "completion_tokens": 20, "total_tokens": 24}));
    assert_eq!(as_json["finish_reason"], "length");
    assert_eq!(as_json["tokens"].as_array().unwrap().len(), 20);
    assert!(as_json["logprobs"].as_array().unwrap().iter().all(|logprob| logprob.as_f64().unwrap() <= 0.0));
    assert!(as_json["time_to_first_token_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn nano_may_be_named_where_nothing_else_is_called_so() {
    let place = tempfile::tempdir().unwrap();
    let info = |args: &[&str]| blazr().arg("info").args(args).current_dir(place.path()).output().unwrap();
    assert_eq!(json(&info(&["--model", "nano"])), json(&info(&[])));
    std::fs::create_dir(place.path().join("nano")).unwrap();
    assert!(stderr(&info(&["--model", "nano"])).contains("no *.safetensors file"));
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let model = checkpoint();
    let text = |seed: &str| generate(model.path(), &["--prompt", "Once", "--seed", seed]).stdout;
    assert_eq!(text("5"), text("5"));
    assert_ne!(text("5"), text("6"));
}

#[test]
fn a_prompt_of_a_dash_is_standard_input_to_the_last_byte() {
    let model = checkpoint();
    let mut child = blazr()
        .args(["generate", "--prompt", "-", "--temperature", "0", "--json", "--model"])
        .arg(model.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("zwölf\n".as_bytes()).unwrap();
    let answer = json(&child.wait_with_output().unwrap());
    assert_eq!(answer["usage"]["prompt_tokens"], "zwölf\n".len());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = checkpoint();
    let greedy = ["--prompt", "Once", "--temperature", "0", "--max-tokens", "40", "--json"];
    let whole = json(&generate(model.path(), &greedy));
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(5).take(3).collect();
    let stopped = json(&generate(model.path(), &[&greedy[..], &["--stop", &stop]].concat()));
    assert_eq!(stopped["text"].as_str().unwrap(), text.split(&stop).next().unwrap());
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn the_end_of_text_token_ends_the_text_and_counts() {
    let model = checkpoint();
    let args = ["--prompt", "Once", "--logit-bias", "256=100", "--json"];
    let answer = json(&generate(model.path(), &args));
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["text"], "");
    assert_eq!(answer["usage"]["completion_tokens"], 1);
}

#[test]
fn generation_ends_where_the_context_is_full() {
    let model = checkpoint();
    let prompt = "x".repeat(500);
    let answer = json(&generate(model.path(), &["--prompt", &prompt, "--logit-bias", "256=-100", "--json"]));
    assert_eq!(answer["usage"]["total_tokens"], 512);
    assert_eq!(answer["finish_reason"], "length");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let model = checkpoint();
    let mut child = blazr()
        .args(["generate", "--prompt", "Once", "--max-tokens", "400", "--model"])
        .arg(model.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_cleanly_with_the_figures_so_far() {
    let model = checkpoint();
    let config = model.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("512", "1000000");
    std::fs::write(&config, text).unwrap();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = blazr()
            .args(["generate", "--prompt", "Once", "--max-tokens", "900000", "--logit-bias", "256=-100", "--model"])
            .arg(model.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).lines().last().unwrap().contains("tokens/s, first token after"), "{}", stderr(&output));
    }
}

#[test]
fn end_of_text_comes_from_the_checkpoint_also_where_the_tokenizer_lies_elsewhere() {
    let model = checkpoint();
    let folder = model.path().join("tok");
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(model.path().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let config = model.path().join("config.json");
    let mut keys: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    keys["tokenizer"] = "tok".into();
    keys["eos_token_id"] = 65.into();
    std::fs::write(&config, keys.to_string()).unwrap();
    let answer = json(&generate(model.path(), &["--prompt", "Once", "--logit-bias", "65=100", "--json"]));
    assert_eq!((&answer["finish_reason"], &answer["tokens"]), (&"stop".into(), &serde_json::json!([65])));
}

#[test]
fn info_tells_every_key_its_source_and_the_sizes() {
    let model = checkpoint();
    let info = json(&blazr().args(["info", "--model"]).arg(model.path()).output().unwrap());
    let expected = serde_json::json!({
        "hidden_size": 32, "num_layers": 6, "vocab_size": 257, "max_seq_len": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 500.0, "mamba_layers": null, "mamba2_num_heads": 4, "mamba2_head_dim": 6,
        "mamba2_state_size": 5, "mamba2_chunk_size": 64, "mamba2_expand": 0.75, "mamba2_conv_kernel": 4,
        "mamba2_n_groups": 1, "mamba2_dt_limit": [0.001, 0.1], "num_attention_heads": 4, "num_kv_heads": 2,
        "head_dim": 6, "kv_latent_dim": 12, "q_latent_dim": 10, "d_rope": 6, "num_experts": 4, "experts_per_tok": 2,
        "shared_expert_enabled": true, "intermediate_size": 24, "tokenizer": "tokenizer.json",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(info[key], *value, "{key}");
    }
    let kinds = ["Mamba2", "MlaWithMoe", "Mamba2", "StandardTransformer", "MlaWithMlp", "TransformerWithMoe"];
    assert_eq!(info["layer_types"], serde_json::json!(kinds));
    let sources = [
        ("max_seq_len", "file"),
        ("rms_norm_eps", "default"),
        ("hidden_size", "tensors"),
        ("layer_types", "tensors"),
        ("shared_expert_enabled", "tensors"),
    ];
    for (key, source) in sources {
        assert_eq!(info["sources"][key], source, "{key}");
    }
    assert_eq!(info["sources"]["mamba_layers"], Value::Null);

    let state = 2 * (4 * 6 * 5 + 3 * (24 + 10)) * 4;
    let per_token = (2 * (12 + 6) + 2 * 2 * 2 * 6) * 4;
    assert_eq!(info["state_bytes_per_sequence"], state);
    assert_eq!(info["cache_bytes_per_token"], per_token);
    assert_eq!(info["cache_bytes_at_max_seq_len"], per_token * 512);
    assert_eq!(info["weight_bytes"], info["parameters"].as_u64().unwrap() * 2);
    let file = std::fs::metadata(model.path().join("model.safetensors")).unwrap().len();
    let weights = info["weight_bytes"].as_u64().unwrap();
    assert!(weights < file && weights > file * 3 / 4, "{weights} bytes of weights in a file of {file}");
}

#[test]
fn info_needs_no_tokenizer_and_its_check_loads_everything() {
    let model = checkpoint();
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    let info = json(&blazr().args(["info", "--check", "--model"]).arg(model.path()).output().unwrap());
    assert!(info["check"]["token"].as_u64().unwrap() < 257);
    assert!(info["check"]["logprob"].as_f64().unwrap() < 0.0);
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [&["generate"][..], &["generate", "--model", "x"], &["nonsense"], &["info", "--model"]] {
        let output = blazr().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn rust_log_decides_what_is_logged() {
    let model = checkpoint();
    let run = |level: &str| {
        let output =
            blazr().env("RUST_LOG", level).args(["info", "--check", "--model"]).arg(model.path()).output().unwrap();
        stderr(&output)
    };
    assert!(run("blazr=info").contains("Using CPU (CUDA feature not enabled)"));
    assert!(run("").contains("Using CPU"), "empty is as if it were not set");
    assert!(run("blazr=nonsense").contains("is not understood, logging blazr=info"));
    assert_eq!(run("off"), "");
}

#[cfg(unix)]
#[test]
fn a_standard_error_that_takes_nothing_is_no_failure() {
    let model = checkpoint();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = blazr().args(["info", "--check", "--model"]).arg(model.path()).stderr(full).output().unwrap();
    assert!(output.status.success());
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["check"].is_object());
}

#[test]
fn the_authors_way_of_sampling_is_taken_if_asked_for() {
    let model = checkpoint();
    let run = |args: &[&str]| {
        let args = [&["--prompt", "Once", "--max-tokens", "12", "--json"], args].concat();
        generate(model.path(), &args)
    };
    let text = |args: &[&str]| json(&run(args))["text"].clone();
    let missing = stderr(&run(&["--generation-config"]));
    assert!(missing.contains("generation_config.json: no such file, which --generation-config asks for"), "{missing}");
    std::fs::write(model.path().join("generation_config.json"), r#"{"do_sample": false}"#).unwrap();
    let greedy = text(&["--temperature", "0"]);
    assert_eq!(text(&["--generation-config"]), greedy);
    let drawn = |seed: &str, more: &[&str]| text(&[&["--seed", seed], more].concat());
    assert_ne!(drawn("1", &[]), drawn("2", &[]), "otherwise the file changes nothing");
    assert_ne!(
        drawn("1", &["--generation-config", "--temperature", "1"]),
        drawn("2", &["--generation-config", "--temperature", "1"]),
        "a flag counts more"
    );
}

#[test]
fn a_plan_says_what_a_model_needs_and_whether_it_is_there() {
    let plan = json(&blazr().args(["plan", "--json"]).output().unwrap());
    let info = json(&blazr().arg("info").output().unwrap());
    assert_eq!(plan["state_bytes"], info["state_bytes_per_sequence"]);
    assert_eq!(plan["cache_bytes_at_max_seq_len"], info["cache_bytes_at_max_seq_len"]);
    assert_eq!(plan["tokens_that_fit"], plan["max_seq_len"]);
    let held =
        |dtype| json(&blazr().args(["plan", "--json", "--dtype", dtype]).output().unwrap())["weight_bytes"].as_u64();
    assert!(held("f32") > held("bf16") && held("bf16") > held("q8_0"));
    let table = String::from_utf8(blazr().arg("plan").output().unwrap().stdout).unwrap();
    assert!(table.ends_with("It fits.\n"), "{table}");
}

/// Writes a checkpoint of plain attention and a wide MLP for `bytes` of weights, which are all 0 and take no room on the disk.
#[cfg(target_os = "linux")]
fn write_sparse_checkpoint(directory: &Path, bytes: usize) {
    const HIDDEN: usize = 4096;
    let wide = (bytes / (3 * HIDDEN * 2)).next_multiple_of(256); // whole blocks
    let norms = ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"];
    let norms = norms.map(|name| (name.to_owned(), vec![HIDDEN]));
    let heads = ["q", "k", "v", "o"].map(|name| (format!("layers.0.self_attn.{name}_proj"), vec![HIDDEN, HIDDEN]));
    let mlp = [("gate", [wide, HIDDEN]), ("up", [wide, HIDDEN]), ("down", [HIDDEN, wide])];
    let mlp = mlp.map(|(name, shape)| (format!("layers.0.mlp.{name}_proj"), shape.to_vec()));
    let embedding = ("embed_tokens".to_owned(), vec![support::BYTE_VOCAB, HIDDEN]);
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in [embedding].into_iter().chain(norms).chain(heads).chain(mlp) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let tensor = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("{name}.weight"), tensor);
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    let config = serde_json::json!({"hidden_size": HIDDEN, "num_layers": 1, "num_attention_heads": HIDDEN / 64});
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.join("tokenizer.json"), support::byte_tokenizer().to_string()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
    let available = json(&blazr().args(["plan", "--json"]).output().unwrap())["available_bytes"].as_u64().unwrap();
    let model = tempfile::tempdir().unwrap();
    write_sparse_checkpoint(model.path(), 2 * available as usize);
    let commands = [&["generate", "--prompt", "Once"][..], &["info", "--check"], &["bench"], &["serve", "--port", "0"]];
    for command in commands {
        // Should it ask for the memory in earnest, it does not get it.
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -d 2097152; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_blazr")]).args(command);
        let output = shell.arg("--model").arg(model.path()).output().unwrap();
        let said = stderr(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{command:?}: {said}");
        let parts =
            [" doesn't fit into memory: ", " MB of weights + ", " MB, and there are ", "q4_k (and a context of 4096 "];
        assert!(parts.iter().all(|part| said.contains(part)), "{command:?}: {said}");
    }
}
