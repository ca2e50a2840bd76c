//! Tiny seeded models for tests and for `examples/tiny.rs`.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use blazr::error::{Error, Result};
use blazr::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig};
use blazr::model::gqa::{GqaSpec, usual_scale};
use blazr::model::mamba2::{Gating, Mamba2Spec};
use blazr::model::mla::MlaSpec;
use blazr::model::mlp::MlpSpec;
use blazr::model::moe::{MoeSpec, Routing};
use blazr::model::rope::RopeSpec;
use blazr::model::state::State;
use blazr::model::weights::{Settings, TensorSource, Weights};
use blazr::model::{Model, Step, Wanted};
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const HIDDEN: usize = 32;

/// Makes whatever tensor a loader asks for, away from every default, and remembers it.
pub struct RandomWeights {
    pub dtype: DType,
    pub tied: bool,
    /// Whether optional biases are there.
    pub biases: bool,
    rng: RefCell<ChaCha8Rng>,
    made: RefCell<BTreeMap<String, Tensor>>,
}

impl RandomWeights {
    pub fn new(seed: u64) -> Self {
        let rng = RefCell::new(ChaCha8Rng::seed_from_u64(seed));
        Self { dtype: DType::F32, tied: false, biases: true, rng, made: RefCell::default() }
    }

    pub fn model(&self, config: &ModelConfig) -> Model {
        Model::load(config, &Weights::new(self, &Device::Cpu, Settings::EXACT)).unwrap()
    }

    /// Writes what was asked for so far.
    pub fn save(&self, file: &Path) {
        let tensors: HashMap<String, Tensor> = self.made.borrow().clone().into_iter().collect();
        candle_core::safetensors::save(&tensors, file).unwrap();
    }

    fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        let n_in = *shape.last().unwrap() as f32;
        let (low, high) = match name.rsplit('.').next().unwrap() {
            "A_log" => (0.0, 2.7),
            "dt_bias" => (-5.0, -1.0),
            "D" => (0.5, 1.5),
            "bias" | "correction" => (-0.2, 0.2),
            _ if name.contains("norm") => (0.7, 1.3),
            _ if name.contains("conv1d") => (-0.9, 0.9),
            _ if name.contains("embed") => (-1.7, 1.7),
            _ => (-1.7 / n_in.sqrt(), 1.7 / n_in.sqrt()),
        };
        let mut rng = self.rng.borrow_mut();
        (0..count).map(|_| rng.random_range(low..high)).collect()
    }
}

impl TensorSource for RandomWeights {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let absent = name.ends_with("moe.gate.weight")
            || (self.tied && name == "lm_head.weight")
            || (!self.biases && name.ends_with("bias") && !name.ends_with("dt_bias"));
        if absent {
            return Ok(None);
        }
        let tensor = Tensor::from_vec(self.values(name, shape), shape, device)?.to_dtype(self.dtype)?;
        self.made.borrow_mut().insert(name.to_owned(), tensor.clone());
        Ok(Some(tensor))
    }

    fn missing(&self, name: &str, _: &[usize]) -> Error {
        Error::Internal(format!("{name} is missing"))
    }
}

pub fn mamba2(groups: usize, conv_kernel: usize) -> MixerSpec {
    MixerSpec::Mamba2(Mamba2Spec {
        num_heads: 4,
        head_dim: 6,
        state_size: 5,
        n_groups: groups,
        conv_kernel,
        dt_limit: (0.001, 0.3),
        gating: Gating::ThenNorm(1e-6),
        multipliers: None,
    })
}

pub fn mla() -> MixerSpec {
    MixerSpec::Mla(MlaSpec {
        num_heads: 4,
        head_dim: HIDDEN / 4,
        value_dim: HIDDEN / 4,
        kv_latent_dim: 12,
        q_latent_dim: Some(10),
        rope_from_q_latent: false,
        latent_norm_eps: None,
        rope: RopeSpec::new(6, 500.0),
        scale: usual_scale(HIDDEN / 4 + 6),
    })
}

pub fn gqa(num_kv_heads: usize) -> MixerSpec {
    MixerSpec::Gqa(GqaSpec {
        num_heads: 4,
        num_kv_heads,
        head_dim: 6,
        rope: Some(RopeSpec::new(6, 500.0)),
        scale: usual_scale(6),
        window: None,
        qk_norm_eps: None,
    })
}

pub fn mlp() -> FfnSpec {
    FfnSpec::Mlp(MlpSpec::swiglu(24))
}

pub fn moe(shared: bool) -> FfnSpec {
    FfnSpec::Moe(MoeSpec {
        num_experts: 4,
        routing: Routing::softmax_over_chosen(2),
        expert: MlpSpec::swiglu(24),
        shared: shared.then(|| MlpSpec::swiglu(28)),
        latent_size: None,
    })
}

pub fn config(layers: impl IntoIterator<Item = (MixerSpec, FfnSpec)>) -> ModelConfig {
    let layer = |(mixer, ffn)| LayerSpec { norm_eps: 1e-5, mixer, mixer_multiplier: 1.0, ffn, ffn_multiplier: 1.0 };
    ModelConfig {
        vocab_size: 90,
        hidden_size: HIDDEN,
        max_seq_len: 4096,
        norm_eps: 1e-5,
        embedding_multiplier: 1.0,
        logits_multiplier: 1.0,
        layers: layers.into_iter().map(layer).collect(),
    }
}

pub fn random_tokens(seed: u64, count: usize, vocab_size: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(0..vocab_size as u32)).collect()
}

/// The logits after each of `tokens`, which `state` takes in.
pub fn logits(model: &Model, state: &mut State, tokens: &[u32]) -> Vec<Vec<f32>> {
    model.forward(&mut [Step { tokens, state, wanted: Wanted::All }]).unwrap().remove(0).to_vec2().unwrap()
}

/// The logits of all tokens, taken in as pieces of the given sizes, and the state after them.
pub fn in_pieces(model: &Model, tokens: &[u32], sizes: impl Iterator<Item = usize>) -> (Vec<Vec<f32>>, State) {
    let (mut state, mut rows, mut rest) = (model.new_state().unwrap(), Vec::new(), tokens);
    for size in sizes {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        if !piece.is_empty() {
            rows.extend(logits(model, &mut state, piece));
        }
        rest = after;
    }
    if !rest.is_empty() {
        rows.extend(logits(model, &mut state, rest));
    }
    (rows, state)
}

pub fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), b.iter().map(Vec::len).collect::<Vec<_>>());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    // A NaN on either side must not pass as small.
    pairs.map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max)
}

/// A model with every kind of layer, for a vocabulary of bytes and one end-of-text token.
pub fn every_kind() -> ModelConfig {
    let layers = [
        (mamba2(1, 4), FfnSpec::None),
        (mla(), moe(true)),
        (mamba2(1, 4), FfnSpec::None),
        (gqa(2), mlp()),
        (mla(), mlp()),
        (gqa(2), moe(true)),
    ];
    ModelConfig { vocab_size: BYTE_VOCAB, max_seq_len: 512, ..config(layers) }
}

/// 256 bytes and `<|endoftext|>`.
pub const BYTE_VOCAB: usize = 257;

/// Writes a checkpoint of [`every_kind`] in the native format: weights, configuration and tokenizer.
pub fn write_checkpoint(directory: &Path, seed: u64, dtype: DType) {
    std::fs::create_dir_all(directory).unwrap();
    let mut weights = RandomWeights::new(seed);
    weights.dtype = dtype;
    weights.model(&every_kind());
    weights.save(&directory.join("model.safetensors"));
    let config = serde_json::json!({
        "max_seq_len": 512, "rope_theta": 500.0, "mamba2_n_groups": 1, "mamba2_chunk_size": 64, "experts_per_tok": 2,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.join("tokenizer.json"), byte_tokenizer().to_string()).unwrap();
}

/// A byte-level tokenizer without merges: every byte is a token.
pub fn byte_tokenizer() -> serde_json::Value {
    let vocab: serde_json::Map<String, serde_json::Value> =
        byte_characters().into_iter().zip(0..).map(|(c, id)| (c.to_string(), id.into())).collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let end_of_text = serde_json::json!({
        "id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end_of_text], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

/// The printable character that stands for each byte (GPT-2's table).
fn byte_characters() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut others = 256..;
    (0..256)
        .map(|b| if printable(b) { b } else { others.next().unwrap() })
        .map(|c| char::from_u32(c).unwrap())
        .collect()
}
