//! GGUF files against the published checkpoints that they were made from.
//!
//! `tests/families/to_gguf.py` made each file of `tests/gguf` of a folder of `tests/families`, with the converter of
//! llama.cpp. To hold blazr to all that it makes, in any type, name the folder that it wrote to:
//! `BLAZR_GGUF=DIR cargo test --test gguf`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/answers.rs"]
mod answers;

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use answers::check;
use blazr::checkpoint::Checkpoint;
use blazr::checkpoint::gguf::container::parse;
use blazr::error::Error;
use blazr::model::weights::Settings;
use blazr::model::{Step, Wanted};
use candle_core::quantized::gguf_file::{Content, Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::json;
use tempfile::TempDir;

/// As over the checkpoints that they were made from.
const TOLERANCE: f64 = 1e-3;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files() -> Vec<PathBuf> {
    let folder = std::env::var_os("BLAZR_GGUF").map_or_else(|| root("tests/gguf"), PathBuf::from);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    files.sort();
    assert!(!files.is_empty(), "no GGUF files in {}", folder.display());
    files
}

#[test]
fn every_file_says_what_the_checkpoint_says_that_it_was_made_from() {
    let mut failed = Vec::new();
    for file in files() {
        let checked = std::panic::catch_unwind(|| {
            let checkpoint = Checkpoint::open(&file).unwrap_or_else(|error| panic!("{error}"));
            let folder = root("tests/families").join(file.file_stem().unwrap());
            let name = checkpoint.id().to_owned();
            check(
                &name,
                &checkpoint.load(&Device::Cpu, Settings::EXACT).unwrap(),
                &folder.join("expected.json"),
                TOLERANCE,
            );
        });
        if checked.is_err() {
            failed.push(file);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// A file in pieces, to be put together in another form: candle's reader and writer know nothing of blazr's.
struct Parts {
    metadata: HashMap<String, Value>,
    tensors: BTreeMap<String, QTensor>,
}

impl Parts {
    /// Those of a file without 16-bit types, which candle does not read here.
    fn of(name: &str) -> Self {
        let mut file = std::fs::File::open(root("tests/gguf").join(name)).unwrap();
        let content = Content::read(&mut file).unwrap();
        let tensor = |name: &String| content.tensor(&mut file, name, &Device::Cpu).unwrap();
        let tensors: Vec<_> = content.tensor_infos.keys().map(tensor).collect();
        let tensors = content.tensor_infos.keys().cloned().zip(tensors).collect();
        Self { metadata: content.metadata, tensors }
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.into(), value);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.metadata.remove(name);
        self.tensors.remove(name);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = Cursor::new(Vec::new());
        write(&mut file, &metadata, &tensors).unwrap();
        file.into_inner()
    }

    fn write(&self) -> (TempDir, PathBuf) {
        file_of(&self.bytes())
    }

    /// Why it can't be opened.
    fn refusal(&self) -> String {
        let (_directory, path) = self.write();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
        error.to_string()
    }
}

fn file_of(bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn text(value: &str) -> Value {
    Value::String(value.into())
}

#[test]
fn what_is_not_supported_is_refused_by_the_files_own_names() {
    let llama = || Parts::of("llama.gguf");
    let vocabulary = |count: usize| Value::Array((0..count).map(|id| text(&format!("t{id}"))).collect());
    for (parts, said) in [
        (
            llama().set("general.architecture", text("gemma3")),
            &["general.architecture", "gemma3", "nemotron_h_moe"][..],
        ),
        (llama().without("general.architecture"), &["general.architecture", "missing"]),
        (llama().without("llama.block_count"), &["llama.block_count", "missing"]),
        (llama().set("llama.block_count", text("two")), &["llama.block_count", "whole number", "two"]),
        (llama().set("llama.block_count", Value::U32(u32::MAX)), &["llama.block_count", "4294967295"]),
        (llama().set("tokenizer.ggml.tokens", vocabulary(97)), &["tokenizer.ggml.tokens", "97", "96"]),
        (llama().set("llama.attention.causal", Value::Bool(false)), &["llama.attention.causal"]),
        (llama().set("llama.attn_logit_softcapping", Value::F32(30.0)), &["llama.attn_logit_softcapping"]),
        (llama().set("llama.rope.scaling.type", text("longrope")), &["llama.rope.scaling.type", "longrope", "yarn"]),
        (llama().set("llama.rope.dimension_count", Value::U32(6)), &["llama.rope.dimension_count", "6", "12"]),
        (llama().set("llama.block_count", Value::U32(1)), &["blk.1.", "not known"]),
        (llama().set("llama.rope.freq_base", Value::F32(f32::NAN)), &["llama.rope.freq_base", "finite"]),
        (llama().without("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens", "missing"]),
        (llama().set("llama.expert_shared_feed_forward_length", Value::U32(8)), &["expert_shared_feed_forward_length"]),
        (llama().without("blk.1.attn_k.weight"), &["blk.1.attn_k.weight", "missing"]),
        (llama().without("token_embd.weight"), &["token_embd.weight", "missing"]),
        (llama().set("tokenizer.ggml.model", text("bert")), &["tokenizer.ggml.model", "bert", "gpt2"]),
        (
            llama()
                .set("tokenizer.ggml.model", text("gpt2"))
                .set("tokenizer.ggml.merges", vocabulary(0))
                .set("tokenizer.ggml.pre", text("unheard")),
            &["tokenizer.ggml.pre", "unheard", "llama-bpe"],
        ),
        (llama().set("tokenizer.ggml.tokens", vocabulary(7)), &["tokenizer.ggml.token_type", "7", "96"]),
        (Parts::of("mamba2.gguf").set("mamba2.ssm.time_step_rank", Value::U32(3)), &["mamba2.ssm.time_step_rank", "3"]),
        (Parts::of("mamba2.gguf").without("blk.2.ssm_a"), &["blk.2.ssm_a", "missing"]),
        (Parts::of("falcon_h1.gguf").without("falcon-h1.ssm.inner_size"), &["falcon-h1.ssm.inner_size", "missing"]),
    ] {
        let error = parts.refusal();
        for part in said {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }
}

#[test]
fn what_published_files_say_to_no_effect_is_taken() {
    for (key, value) in [
        ("split.count", Value::U16(0)), // of a model whose parts were joined
        ("llama.expert_shared_feed_forward_length", Value::U32(0)),
        ("llama.nextn_predict_layers", Value::U32(0)),
        ("tokenizer.ggml.padding_token_id", Value::U32(u32::MAX)),
        ("tokenizer.ggml.eot_token_id", Value::I32(-1)),
        ("quantize.imatrix.file", text("x")),
    ] {
        let (directory, written) = Parts::of("llama.gguf").set(key, value).write();
        let path = directory.path().join("sha256-0123"); // as some tools name them
        std::fs::rename(written, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert!(checkpoint.tokenizer().is_ok(), "{key}");
    }
}

#[test]
fn a_tensor_that_is_not_known_is_refused() {
    let unknown = |name: &str| {
        let mut parts = Parts::of("llama.gguf");
        let tensor = Tensor::zeros(32, candle_core::DType::F32, &Device::Cpu).unwrap();
        parts.tensors.insert(name.into(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap());
        parts.refusal()
    };
    for name in ["blk.0.attn_sinks.weight", "position_embd.weight", "blk.1.ffn_gate_inp.weight"] {
        assert!(unknown(name).contains(name));
    }
}

#[test]
fn broken_files_are_errors_and_nothing_else() {
    let good = std::fs::read(root("tests/gguf/qwen3.gguf")).unwrap();
    let header = parse(&good).unwrap().tensors.iter().map(|tensor| tensor.bytes.start).min().unwrap();
    for length in 0..header {
        assert!(parse(&good[..length]).is_err(), "the first {length} bytes are taken for a file");
    }
    for at in 0..header {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            let _ = parse(&bytes);
        }
    }
    // Whole files are slower to open: every seventh byte, and the middle of the data.
    for at in (0..header).step_by(7).chain([header + 100]) {
        let mut bytes = good.clone();
        bytes[at] = !bytes[at];
        let (_directory, path) = file_of(&bytes);
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            let _ = checkpoint.tokenizer();
            let _ = checkpoint.load(&Device::Cpu, Settings::EXACT);
        }
    }
}

#[test]
fn other_containers_are_refused_by_name() {
    let good = std::fs::read(root("tests/gguf/qwen3.gguf")).unwrap();
    let with_version = |version: [u8; 4]| parse(&[&good[..4], &version, &good[8..]].concat()).unwrap_err();
    assert!(with_version([0, 0, 0, 3]).contains("big-endian"));
    assert!(with_version([9, 0, 0, 0]).contains("version 9"));
    assert!(parse(b"PK").unwrap_err().contains("not a GGUF file"));
    // A count of values that no file has room for takes no memory.
    let endless = [&good[..16], &u64::MAX.to_le_bytes(), &[0; 64]].concat();
    assert!(parse(&endless).is_err());
}

fn logits(path: &Path) -> Vec<Vec<f32>> {
    let model =
        Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}")).load(&Device::Cpu, Settings::EXACT).unwrap();
    let (tokens, mut state) = ([1, 5, 9, 20, 7], model.new_state().unwrap());
    let step = Step { tokens: &tokens, state: &mut state, wanted: Wanted::All };
    model.forward(&mut [step]).unwrap().remove(0).to_vec2().unwrap()
}

/// The matrices of a tiny qwen3moe, by their names in GGUF files and by their published ones; `{e}` is an expert.
const MATRICES: [(&str, &str, &[usize]); 9] = [
    ("token_embd", "model.embed_tokens", &[32, 256]),
    ("blk.0.attn_q", "model.layers.0.self_attn.q_proj", &[256, 256]),
    ("blk.0.attn_k", "model.layers.0.self_attn.k_proj", &[128, 256]),
    ("blk.0.attn_v", "model.layers.0.self_attn.v_proj", &[128, 256]),
    ("blk.0.attn_output", "model.layers.0.self_attn.o_proj", &[256, 256]),
    ("blk.0.ffn_gate_inp", "model.layers.0.mlp.gate", &[2, 256]),
    ("blk.0.ffn_gate_exps", "model.layers.0.mlp.experts.{e}.gate_proj", &[2, 256, 256]),
    ("blk.0.ffn_up_exps", "model.layers.0.mlp.experts.{e}.up_proj", &[2, 256, 256]),
    ("blk.0.ffn_down_exps", "model.layers.0.mlp.experts.{e}.down_proj", &[2, 256, 256]),
];

const NORMS: [(&str, &str, usize); 5] = [
    ("output_norm", "model.norm", 256),
    ("blk.0.attn_norm", "model.layers.0.input_layernorm", 256),
    ("blk.0.ffn_norm", "model.layers.0.post_attention_layernorm", 256),
    ("blk.0.attn_q_norm", "model.layers.0.self_attn.q_norm", 64),
    ("blk.0.attn_k_norm", "model.layers.0.self_attn.k_norm", 64),
];

/// Values that differ, without chance.
fn values(count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|at| scale * ((at as f32) * 0.7321 + (at / 97) as f32).sin()).collect()
}

/// The model with its matrices in this type, as GGUF, and in a directory with the values that the type stands for.
fn quantized(dtype: GgmlDType) -> (TempDir, PathBuf) {
    let (mut parts, mut published) = (Parts { metadata: HashMap::new(), tensors: BTreeMap::new() }, HashMap::new());
    for (name, known_as, shape) in MATRICES {
        let tensor = Tensor::from_vec(values(shape.iter().product(), 0.1), shape, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, dtype).unwrap();
        let plain = tensor.dequantize(&Device::Cpu).unwrap();
        let experts = if known_as.contains("{e}") { shape[0] } else { 1 };
        for (e, part) in plain.chunk(experts, 0).unwrap().iter().enumerate() {
            let part = if experts > 1 { part.squeeze(0).unwrap() } else { part.clone() };
            published.insert(format!("{}.weight", known_as.replace("{e}", &e.to_string())), part.contiguous().unwrap());
        }
        parts.tensors.insert(format!("{name}.weight"), tensor);
    }
    for (name, known_as, size) in NORMS {
        let tensor = Tensor::from_vec(values(size, 1.0), size, &Device::Cpu).unwrap();
        parts.tensors.insert(format!("{name}.weight"), QTensor::quantize(&tensor, GgmlDType::F32).unwrap());
        published.insert(format!("{known_as}.weight"), tensor);
    }
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 256),
        ("feed_forward_length", 256),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 64),
        ("expert_count", 2),
        ("expert_used_count", 1),
        ("expert_feed_forward_length", 256),
    ] {
        parts = parts.set(&format!("qwen3moe.{key}"), Value::U32(value));
    }
    let parts = parts.set("general.architecture", text("qwen3moe"));
    let (directory, path) = parts.set("qwen3moe.attention.layer_norm_rms_epsilon", Value::F32(1e-6)).write();
    let published_in = directory.path().join("published");
    std::fs::create_dir(&published_in).unwrap();
    candle_core::safetensors::save(&published, published_in.join("model.safetensors")).unwrap();
    let config = json!({"model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 1, "vocab_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 256,
        "moe_intermediate_size": 256, "num_experts": 2, "num_experts_per_tok": 1, "norm_topk_prob": true,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "rms_norm_eps": 1e-6});
    std::fs::write(published_in.join("config.json"), config.to_string()).unwrap();
    (directory, path)
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn quantized_files_say_what_their_values_say_in_safetensors() {
    use GgmlDType::{F16, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F16, Q8_0, Q4K, Q5K, Q6K, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K] {
        let (directory, path) = quantized(dtype);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let n_matrix_values: usize = MATRICES.iter().map(|(_, _, shape)| shape.iter().product::<usize>()).sum();
        let n_blocks = n_matrix_values / dtype.block_size();
        assert!(checkpoint.sizes().values().any(|size| size.bytes == n_blocks * dtype.type_size()), "{dtype:?}");
        // The same values in other kernels, which round differently.
        let difference = largest_difference(&logits(&path), &logits(&directory.path().join("published")));
        assert!(difference < 1e-5, "{dtype:?}: {difference}");
    }
}

#[test]
fn a_directory_with_one_file_is_that_file_and_with_several_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(root("tests/gguf").join(from), directory.path().join(to)).unwrap();
    copy("qwen3.gguf", "a.gguf");
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(checkpoint.family(), "qwen3");
    assert_eq!(Checkpoint::open(&directory.path().join("a.gguf")).unwrap().id(), "a.gguf");
    copy("mamba2.gguf", "b.gguf");
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("a.gguf") && error.contains("b.gguf") && error.contains("name one"), "{error}");
}

#[test]
fn a_model_in_several_files_is_whole_again() {
    let mut whole = Parts::of("llama.gguf");
    let directory = tempfile::tempdir().unwrap();
    let second = whole.tensors.split_off("blk.1.ffn_gate.weight");
    whole = whole.set("split.count", Value::U16(2)).set("split.no", Value::U16(0));
    let rest = Parts { metadata: HashMap::new(), tensors: second };
    let rest = rest.set("split.count", Value::U16(2)).set("split.no", Value::U16(1));
    let path = |part: usize| directory.path().join(format!("m-0000{part}-of-00002.gguf"));
    std::fs::write(path(1), whole.bytes()).unwrap();
    let error = Checkpoint::open(&path(1)).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf"), "{error}");
    std::fs::write(path(2), rest.bytes()).unwrap();
    let expected = logits(&root("tests/gguf/llama.gguf"));
    assert_eq!(logits(&path(1)), expected);
    assert_eq!(logits(directory.path()), expected);
    let error = Checkpoint::open(&path(2)).unwrap_err().to_string();
    assert!(error.contains("-00001-of-"), "{error}");
}

#[derive(serde::Deserialize)]
struct Tokenized {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

#[test]
fn tokenizers_of_every_kind_give_the_ids_that_their_own_library_gives() {
    let folder = root("tests/gguf/tokenizers");
    for name in ["gpt-2", "refact", "llama-bpe", "dbrx", "qwen2", "tekken", "deepseek-v3", "llama"] {
        let checkpoint =
            Checkpoint::open(&folder.join(format!("{name}.gguf"))).unwrap_or_else(|error| panic!("{error}"));
        let tokenizer = checkpoint.tokenizer().unwrap();
        let answers = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let Tokenized { texts, ids, decoded } = serde_json::from_slice(&answers).unwrap();
        for ((text, ids), decoded) in texts.iter().zip(&ids).zip(&decoded) {
            assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(&tokenizer.decode(ids), decoded, "{name}: {text:?}");
        }
        assert!(!tokenizer.end_of_text().is_empty(), "{name}");
        assert_eq!(checkpoint.chat_template(None, &tokenizer).unwrap().is_some(), name != "llama", "{name}");
    }
}
