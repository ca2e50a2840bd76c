//! The configuration: what a file's metadata say, in the keys of the published checkpoint that it was made from.
//!
//! The keys are those of <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py>, and what they mean
//! is what `conversion` there makes them of.

use serde_json::{Map, Value, json};

use super::architectures::ARCHITECTURES;
use super::names::{Heads, ROPE_FACTORS};
use super::{EMBEDDING, Gguf, object};
use crate::error::Result;

/// Keys of an architecture that change nothing of what a model says, or nothing that its tensors don't say.
const MEANINGLESS: [&str; 4] =
    ["vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"];

/// Keys of an architecture that change nothing with this value, which converters write where a model has no such thing.
const NEUTRAL: [(&str, f64); 10] = [
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.sliding_window", 0.0),
    ("expert_count", 0.0),
    ("expert_shared_count", 0.0),
    ("expert_shared_feed_forward_length", 0.0),
    ("expert_used_count", 0.0),
    ("expert_weights_scale", 1.0),
    ("nextn_predict_layers", 0.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// The key that counts the layers.
pub const LAYERS: &str = "block_count";

/// A configuration as it is put down.
pub struct Config<'a> {
    /// The file that it is made from.
    pub(super) file: &'a Gguf<'a>,
    /// The keys of config.json.
    pub keys: Map<String, Value>,
    /// How many layers predict the next token.
    pub num_layers: usize,
    /// How the rows of queries and keys lie.
    pub heads: Heads,
}

impl<'a> Config<'a> {
    /// Reads the configuration of `file`.
    ///
    /// # Errors
    /// The architecture is not supported, or a key is missing, has an impossible value or is not known.
    pub fn new(file: &'a Gguf<'a>) -> Result<Self> {
        let metadata = &file.metadata;
        let name = metadata.architecture();
        let architecture = ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
            let message = format!("{name:?} is not supported: expected one of {}", known.join(", "));
            metadata.error(super::metadata::ARCHITECTURE, message)
        })?;
        let heads = Heads { is_paired: architecture.is_paired, head_dim: 0 };
        let mut config = Self { file, keys: Map::new(), num_layers: 0, heads };
        config.sizes()?;
        let family = (architecture.read)(&mut config)?;
        config.put("model_type", family);
        metadata.refuse_unread(&MEANINGLESS, &NEUTRAL)?;
        Ok(config)
    }

    pub(super) fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.insert(key.to_owned(), value.into());
    }

    /// Notes that keys say nothing in this family.
    pub(super) fn ignore(&self, keys: &[&str]) {
        for key in keys {
            self.file.metadata.value(key);
        }
    }

    /// Puts down counts that must be there: each under the first name, from the second.
    pub(super) fn needed(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        for (key, from) in keys {
            self.put(key, self.file.metadata.needed(from)?);
        }
        Ok(())
    }

    /// Puts down counts where they are.
    pub(super) fn counts(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        for (key, from) in keys {
            if let Some(count) = self.file.metadata.count(from)? {
                self.put(key, count);
            }
        }
        Ok(())
    }

    /// Puts down numbers where they are.
    pub(super) fn floats(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        for (key, from) in keys {
            if let Some(number) = self.file.metadata.float(from)? {
                self.put(key, number);
            }
        }
        Ok(())
    }

    /// Puts down whether the layers have tensors of these names.
    pub(super) fn biases(&mut self, keys: &[(&str, &str)]) {
        for (key, tensor) in keys {
            self.put(key, self.file.is_in_layers(tensor));
        }
    }

    pub(super) fn layer_has(&self, layer: usize, tensor: &str) -> bool {
        self.file.has(&format!("blk.{layer}.{tensor}"))
    }

    /// What every family has.
    fn sizes(&mut self) -> Result<()> {
        let metadata = &self.file.metadata;
        let further = metadata.count("nextn_predict_layers")?.unwrap_or(0);
        let all = metadata.needed(LAYERS)?;
        self.num_layers = all.checked_sub(further).ok_or_else(|| {
            metadata.error("nextn_predict_layers", format!("{further} of {all} layers predict further tokens"))
        })?;
        if metadata.flag("attention.causal")? == Some(false) {
            return Err(metadata.error("attention.causal", "a model that sees what follows is not supported"));
        }
        self.file.check_layers(all)?;
        let vocab_size = self.file.rows(EMBEDDING)?;
        self.put("num_hidden_layers", self.num_layers);
        self.put("vocab_size", vocab_size);
        self.put("tie_word_embeddings", !self.file.has("output.weight"));
        self.needed(&[("hidden_size", "embedding_length"), ("max_position_embeddings", "context_length")])
    }

    /// Heads of one width. Layers without key heads have no attention.
    pub(super) fn attention(&mut self) -> Result<()> {
        let metadata = &self.file.metadata;
        let heads = metadata.needed("attention.head_count")?;
        let of_layers = metadata.of_layers("attention.head_count_kv", self.num_layers)?.unwrap_or_default();
        let mut kv_heads = of_layers.iter().copied().filter(|count| *count > 0);
        let first = kv_heads.next().unwrap_or(heads);
        if kv_heads.any(|count| count != first) {
            return Err(metadata.error("attention.head_count_kv", "layers with different numbers are not supported"));
        }
        let hidden_size = metadata.needed("embedding_length")?;
        let head_dim = metadata.count("attention.key_length")?.unwrap_or(hidden_size.checked_div(heads).unwrap_or(0));
        self.only("attention.value_length", head_dim)?;
        self.heads.head_dim = head_dim;
        self.put("num_attention_heads", heads);
        self.put("num_key_value_heads", first);
        self.put("head_dim", head_dim);
        self.floats(&[("rms_norm_eps", "attention.layer_norm_rms_epsilon")])
    }

    /// The one value that a key may have where it is there.
    pub(super) fn only(&self, key: &str, value: usize) -> Result<()> {
        match self.file.metadata.count(key)? {
            Some(found) if found != value => {
                Err(self.file.metadata.error(key, format!("{found} is not supported here, only {value}")))
            }
            _ => Ok(()),
        }
    }

    /// Heads that are rotated whole.
    pub(super) fn rotated(&mut self) -> Result<()> {
        self.only("rope.dimension_count", self.heads.head_dim)?;
        self.rope(Map::new())
    }

    /// How positions turn heads.
    pub(super) fn rope(&mut self, more: Map<String, Value>) -> Result<()> {
        let metadata = &self.file.metadata;
        let theta = metadata.float("rope.freq_base")?.unwrap_or(10_000.0);
        let mut keys = match metadata.text("rope.scaling.type")?.as_deref() {
            None | Some("linear" | "none") => self.linear()?,
            Some("yarn") => self.yarn()?,
            Some(other) => {
                let message = format!("{other:?} is not supported: expected none, linear or yarn");
                return Err(metadata.error("rope.scaling.type", message));
            }
        };
        if let Some(factors) = self.file.numbers(ROPE_FACTORS)? {
            if keys.contains_key("factor") {
                return Err(metadata.error("rope.scaling.type", format!("is not supported beside {ROPE_FACTORS}")));
            }
            keys = object(json!({"rope_type": "factors", "factors": factors}));
        }
        keys.insert("rope_theta".into(), theta.into());
        keys.extend(more);
        self.put("rope_parameters", keys);
        Ok(())
    }

    fn linear(&self) -> Result<Map<String, Value>> {
        let metadata = &self.file.metadata;
        let is_off = metadata.text("rope.scaling.type")?.as_deref() == Some("none");
        let given = metadata.float("rope.scaling.factor")?.or(metadata.float("rope.scale_linear")?);
        let factor = given.filter(|factor| !is_off && *factor != 0.0 && *factor != 1.0);
        Ok(factor.map_or_else(Map::new, |factor| object(json!({"rope_type": "linear", "factor": factor}))))
    }

    fn yarn(&self) -> Result<Map<String, Value>> {
        let metadata = &self.file.metadata;
        if let Some(factor) = metadata.float("rope.scaling.yarn_ext_factor")?.filter(|factor| *factor != 1.0) {
            let message = format!("{factor} is not supported here, only 1");
            return Err(metadata.error("rope.scaling.yarn_ext_factor", message));
        }
        let original = metadata.count("rope.scaling.original_context_length")?;
        let mut keys = object(json!({"rope_type": "yarn", "original_max_position_embeddings": original}));
        for (key, from) in [
            ("factor", "rope.scaling.factor"),
            ("beta_fast", "rope.scaling.yarn_beta_fast"),
            ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ("attention_factor", "rope.scaling.yarn_attn_factor"),
        ] {
            keys.insert(key.into(), metadata.float(from)?.into());
        }
        Ok(keys)
    }

    /// The state-space layers, in the keys that the family has for them.
    pub(super) fn state_space(&mut self, [heads, head_dim, state, groups, taps]: [&str; 5]) -> Result<()> {
        let metadata = &self.file.metadata;
        let (inner, count) = (metadata.needed("ssm.inner_size")?, metadata.needed("ssm.time_step_rank")?);
        if count == 0 || !inner.is_multiple_of(count) {
            return Err(metadata.error("ssm.time_step_rank", format!("{count} heads don't divide {inner}")));
        }
        self.put(head_dim, inner / count);
        self.put(heads, count);
        self.needed(&[(state, "ssm.state_size"), (groups, "ssm.group_count"), (taps, "ssm.conv_kernel")])
    }

    /// Whether sigmoids choose a token's experts, or else a softmax.
    pub(super) fn has_sigmoids(&self) -> Result<bool> {
        const SIGMOID: usize = 2;
        let key = "expert_gating_func";
        match self.file.metadata.count(key)? {
            None | Some(0 | 1) => Ok(false),
            Some(SIGMOID) => Ok(true),
            Some(other) => Err(self
                .file
                .metadata
                .error(key, format!("{other} is not supported: expected 1 (softmax) or 2 (sigmoid)"))),
        }
    }
}
