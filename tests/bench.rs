//! `blazr bench` as its users run it, with next to nothing to time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use candle_core::DType;
use half::bf16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

const TINY: [&str; 8] = ["--runs", "2", "--prefill", "8,300", "--decode", "4", "--at", "0,8"];

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blazr")).arg("bench").args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Checks that there are so many positive values and that the rest follows from them; gives the median.
fn spread(value: &Value, count: usize) -> f64 {
    let mut values: Vec<f64> = value["values"].as_array().unwrap().iter().map(number).collect();
    values.sort_by(f64::total_cmp);
    assert_eq!(values.len(), count, "{value}");
    assert!(values[0] > 0.0, "{value}");
    assert_close(number(&value["min"]), values[0]);
    assert_close(number(&value["max"]), values[count - 1]);
    assert_close(number(&value["median"]), (values[count / 2] + values[(count - 1) / 2]) / 2.0);
    number(&value["median"])
}

/// Equal up to what reading and writing decimals does.
fn assert_close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn json_has_every_figure_with_the_values_of_all_runs() {
    let report: Value =
        serde_json::from_str(&stdout(&bench(&[&TINY[..], &["--threads", "2", "--json"]].concat()))).unwrap();
    assert_eq!(
        (&report["model"], &report["family"], &report["weight_type"]),
        (&"nano".into(), &"blazr".into(), &"bf16".into())
    );
    assert_eq!(
        (&report["device"], &report["threads"], &report["skipped"]),
        (&"cpu".into(), &2.into(), &Value::Array(vec![]))
    );
    let [weights, active, state] =
        ["weight_bytes", "weight_bytes_per_token", "state_bytes"].map(|key| number(&report[key]));
    assert!(active < weights && active > weights / 2.0, "some experts are idle: {active} of {weights}");
    assert!(number(&report["load_seconds"]) > 0.0);
    if cfg!(target_os = "linux") {
        assert!(number(&report["peak_memory_bytes"]) > weights);
    }
    let bandwidth = spread(&report["read_bandwidth"]["bytes_per_second"], 3);
    assert!(number(&report["read_bandwidth"]["buffer_bytes"]) > 0.0);

    let prefill = report["prefill"].as_array().unwrap();
    assert_eq!(prefill.iter().map(|case| number(&case["tokens"])).collect::<Vec<_>>(), [8.0, 300.0]);
    for case in prefill {
        spread(&case["tokens_per_second"], 2);
        spread(&case["seconds"], 2);
    }
    assert_eq!(report["first_token"]["prompt_tokens"], 8);
    assert_eq!(report["first_token"]["seconds"], prefill[0]["seconds"]);

    let decode = report["decode"].as_array().unwrap();
    assert_eq!(decode.iter().map(|case| number(&case["position"])).collect::<Vec<_>>(), [0.0, 8.0]);
    for case in decode {
        let bytes = active + 2.0 * state + number(&case["cache_bytes"]);
        assert_eq!((number(&case["bytes_per_token"]), number(&case["tokens"])), (bytes, 4.0));
        spread(&case["seconds"], 2);
        spread(&case["tokens_per_second"], 2);
        let speed = spread(&case["bytes_per_second"], 2);
        assert_close(number(&case["bytes_per_second"]["max"]), number(&case["tokens_per_second"]["max"]) * bytes);
        assert_close(number(&case["share_of_floor"]), speed / bandwidth);
    }
    assert_eq!(number(&decode[0]["cache_bytes"]), 0.0);
    assert!(number(&decode[1]["cache_bytes"]) > 0.0);
}

#[test]
fn a_checkpoint_without_tokenizer_gives_a_table_and_a_line_for_what_was_skipped() {
    let model = tempfile::tempdir().unwrap();
    support::write_checkpoint(model.path(), 7, DType::F32);
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    let path = model.path().to_str().unwrap();
    let flags = ["--runs", "1", "--prefill", "8,5000", "--decode", "4", "--at", "0", "--threads", "1", "--model", path];
    let table = stdout(&bench(&flags));
    let name = format!("{}  f32  ", model.path().file_name().unwrap().to_str().unwrap());
    let rows = [
        (name.as_str(), " state  1 thread"),
        ("read bandwidth ", " GB/s "),
        ("prefill 8 ", " tokens/s "),
        ("decode 4 at 0 ", " % of the floor"),
        ("first token after 8 ", " s"),
        ("loading ", " s"),
        ("peak memory ", "B"),
        ("skipped prefill 5000: ", "5000 tokens are more than max_seq_len 512"),
    ];
    let is_told = |(start, _): &(&str, &str)| cfg!(target_os = "linux") || !start.starts_with("peak");
    let rows: Vec<_> = rows.into_iter().filter(is_told).collect();
    assert_eq!(table.lines().count(), rows.len(), "{table}");
    for (line, (start, part)) in table.lines().zip(rows) {
        assert!(line.starts_with(start) && line.contains(part), "{line:?} has no {start:?} and {part:?}");
    }
}

#[test]
fn what_can_not_be_timed_is_one_error() {
    for (flag, value) in [("--runs", "0"), ("--prefill", "0"), ("--prefill", "8,,9"), ("--decode", "0"), ("--at", "-1")]
    {
        let output = bench(&[&format!("{flag}={value}")]);
        assert_eq!(output.status.code(), Some(2), "{flag} {value}: {}", stderr(&output));
        assert_eq!(stderr(&output).matches("error:").count(), 1);
        assert!(stderr(&output).contains(flag), "{}", stderr(&output));
    }
    let output = bench(&["--prefill", "5000", "--at", "4352", "--decode", "1"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let expected = "error: nothing to time has room in the model: prefill 5000: 5000 tokens are more than max_seq_len 4352; \
                    decode 1 at 4352: 4353 tokens are more than max_seq_len 4352\n";
    assert_eq!(stderr(&output), expected);
}

/// Weights in bf16 of which twice as many, or a second copy in the types below, would be more than the bound.
fn write_llama(directory: &Path) {
    const HIDDEN: usize = 1024;
    const INTERMEDIATE: usize = 8192;
    let numbers: Vec<bf16> =
        (0..HIDDEN * INTERMEDIATE).map(|i| bf16::from_f32((i as f32 * 0.7).sin() * 0.03)).collect();
    let tensor = |shape: &[usize]| {
        let bytes = bytemuck::cast_slice(&numbers[..shape.iter().product()]);
        TensorView::new(Dtype::BF16, shape.to_vec(), bytes).unwrap()
    };
    let square = [HIDDEN, HIDDEN];
    let of_layer = [
        ("input_layernorm", &[HIDDEN][..]),
        ("self_attn.q_proj", &square),
        ("self_attn.k_proj", &square),
        ("self_attn.v_proj", &square),
        ("self_attn.o_proj", &square),
        ("post_attention_layernorm", &[HIDDEN]),
        ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
        ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
        ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
    ];
    let layers = (0..4)
        .flat_map(|layer| of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), tensor(shape))));
    let others = [("model.embed_tokens.weight", tensor(&[256, HIDDEN])), ("model.norm.weight", tensor(&[HIDDEN]))];
    let tensors = layers.chain(others.map(|(name, tensor)| (name.to_owned(), tensor)));
    safetensors::serialize_to_file(tensors, None, &directory.join("model.safetensors")).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 256, "max_position_embeddings": 512,
        "tie_word_embeddings": true,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn peak_memory_of_loading_is_little_more_than_the_weights_in_whatever_type() {
    let model = tempfile::tempdir().unwrap();
    write_llama(model.path());
    let stored = std::fs::metadata(model.path().join("model.safetensors")).unwrap().len() as f64;
    let flags = ["--runs", "1", "--prefill", "8", "--decode", "1", "--at", "0", "--json", "--dtype"];
    for dtype in ["bf16", "q8_0", "q4_k"] {
        let args = [&flags[..], &[dtype, "--model", model.path().to_str().unwrap()]].concat();
        let report: Value = serde_json::from_str(&stdout(&bench(&args))).unwrap();
        let [weights, peak] = ["weight_bytes", "peak_memory_bytes"].map(|key| number(&report[key]));
        let bound = 1.15 * weights + 150e6;
        assert!(stored + weights > bound, "the bound would let the file's {stored} bytes stay beside {weights}");
        assert!(peak <= bound, "{dtype}: {peak} bytes for {weights} of weights, bound {bound}");
    }
}
