//! The config.json of a published checkpoint: its keys with their families' defaults, and what several families spell
//! alike. `rope` reads how positions turn heads, `checks` is what must hold, and `ignored` the keys that need no reading.

mod checks;
mod ignored;
mod rope;

use std::collections::BTreeSet;

use super::keys::Keys;
use super::report::{Report, Source};
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig};
use crate::model::gqa::{GqaSpec, usual_scale};
use ignored::MEANINGLESS;

/// What all norms' constants lie between.
const EPS: std::ops::RangeInclusive<f64> = 0.0..=1.0;

/// No rotation is stretched to more tokens.
const LARGEST_CONTEXT: usize = 1 << 30;

/// A multiplier may be this large.
const LARGEST: f64 = 1e9;

/// A configuration that is being read, with the account of it.
#[derive(Debug)]
pub struct Published<'a> {
    keys: &'a Keys,
    tensors: &'a Tensors,
    report: Report,
    read: BTreeSet<String>,
    usual: Usual,
    /// How many tokens rotations are stretched to.
    stretched_context: usize,
}

/// What a family's keys mean where they are left out, as [transformers](https://github.com/huggingface/transformers)
/// has it.
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// How many tokens the embedding knows.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of a feed-forward layer.
    pub intermediate_size: usize,
    /// How many layers there are.
    pub num_layers: usize,
    /// How many heads attention has.
    pub num_heads: usize,
    /// How many heads have keys; none: all of them.
    pub num_kv_heads: Option<usize>,
    /// The width of a head; none: the hidden size is shared among them.
    pub head_dim: Option<usize>,
    /// How many tokens a sequence may have.
    pub max_seq_len: usize,
    /// The constant of the norms.
    pub norm_eps: f64,
}

/// What every family has.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// How many tokens the embedding knows.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// How many tokens a sequence may have.
    pub max_seq_len: usize,
    /// How many layers there are.
    pub num_layers: usize,
}

impl<'a> Published<'a> {
    /// The configuration in `keys`, of a checkpoint with these tensors.
    pub fn new(keys: &'a Keys, tensors: &'a Tensors, usual: Usual) -> Self {
        Self { keys, tensors, report: Report::default(), read: BTreeSet::new(), usual, stretched_context: 0 }
    }

    /// The account of what was read. Keys that nobody asked for and that may mean something are warned of.
    pub fn finish(self) -> Report {
        let read: Vec<&str> = self.read.iter().map(String::as_str).collect();
        if let Some(unknown) = self.keys.unknown(&[&read, MEANINGLESS].concat()) {
            tracing::warn!("config.json: ignoring keys that mean nothing here: {unknown}");
        }
        self.report
    }

    /// An error about the value of `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        self.keys.error(key, message)
    }

    /// Notes what `key` was found to be, or what stands for it.
    fn note(&mut self, key: &str, value: impl Into<serde_json::Value>, is_given: bool) {
        self.read.insert(key.to_owned());
        self.report.record(key, value, if is_given { Source::File } else { Source::Default });
    }

    /// The first of several spellings of a key that is there, else the first.
    pub fn spelling<'k>(&mut self, spellings: &[&'k str]) -> &'k str {
        self.read.extend(spellings.iter().map(|key| (*key).to_owned()));
        let given = spellings.iter().find(|key| self.keys.value(key).is_some());
        given.or(spellings.first()).copied().unwrap_or_default()
    }

    /// A size of at least 1 that must be there.
    pub fn size(&mut self, key: &str) -> Result<usize> {
        let value = self.keys.int(key)?.ok_or_else(|| self.error(key, "expected an integer, found no such key"))?;
        self.note(key, value, true);
        Ok(value)
    }

    /// A size of at least 1, under one of these names.
    pub fn size_or(&mut self, spellings: &[&str], default: usize) -> Result<usize> {
        let key = self.spelling(spellings);
        let given = self.keys.int(key)?;
        self.note(key, given.unwrap_or(default), given.is_some());
        Ok(given.unwrap_or(default))
    }

    /// A number of things that may be 0, under one of these names.
    pub fn count_or(&mut self, spellings: &[&str], default: usize) -> Result<usize> {
        let key = self.spelling(spellings);
        let given = self.keys.count(key)?;
        self.note(key, given.unwrap_or(default), given.is_some());
        Ok(given.unwrap_or(default))
    }

    /// A size that may be null or missing.
    pub fn size_if_given(&mut self, key: &str) -> Result<Option<usize>> {
        let given = self.keys.int(key)?;
        self.note(key, given, given.is_some());
        Ok(given)
    }

    /// A size that is not there at all where `key` is null, and has a default where it is left out.
    pub fn size_or_null(&mut self, key: &str, default: usize) -> Result<Option<usize>> {
        if self.is_null(key) { Ok(None) } else { self.size_or(&[key], default).map(Some) }
    }

    /// true or false, under one of these names; null is false.
    pub fn flag_or(&mut self, spellings: &[&str], default: bool) -> Result<bool> {
        let key = self.spelling(spellings);
        let given = self.keys.flag(key)?.or(self.keys.is_null(key).then_some(false));
        self.note(key, given.unwrap_or(default), given.is_some());
        Ok(given.unwrap_or(default))
    }

    /// A string.
    pub fn string_or(&mut self, key: &str, default: &str) -> Result<String> {
        let given = self.keys.string(key)?.map(str::to_owned);
        let (is_given, value) = (given.is_some(), given.unwrap_or_else(|| default.to_owned()));
        self.note(key, value.clone(), is_given);
        Ok(value)
    }

    /// The values that `key` may have, which mean the same; the first where it is left out.
    pub fn only(&mut self, key: &str, values: &[&str]) -> Result<()> {
        let found = self.string_or(key, values.first().copied().unwrap_or_default())?;
        if values.contains(&found.as_str()) {
            return Ok(());
        }
        Err(self.error(key, format!("{found:?} is not supported, only {}", values.join(" or "))))
    }

    /// Notes that these keys say nothing in this family.
    pub fn ignore(&mut self, keys: &[&str]) {
        self.read.extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// Whether `key` is there and null, which for some keys is another thing than to be left out.
    pub fn is_null(&mut self, key: &str) -> bool {
        self.read.insert(key.to_owned());
        self.keys.is_null(key)
    }

    /// Whether `key` is left to be worked out.
    pub fn is_auto(&mut self, key: &str) -> bool {
        self.read.insert(key.to_owned());
        self.keys.value(key).is_some_and(|value| value == "auto")
    }

    /// The constant of the norms.
    pub fn norm_eps(&mut self, key: &str) -> Result<f64> {
        self.float_or(key, EPS, self.usual.norm_eps)
    }

    /// The width of a feed-forward layer.
    pub fn intermediate_size(&mut self) -> Result<usize> {
        self.size_or(&["intermediate_size"], self.usual.intermediate_size)
    }

    /// How many heads attention has.
    pub fn num_heads(&mut self) -> Result<usize> {
        self.size_or(&["num_attention_heads"], self.usual.num_heads)
    }

    /// What something is multiplied by.
    pub fn multiplier(&mut self, key: &str) -> Result<f64> {
        self.float_or(key, -LARGEST..=LARGEST, 1.0)
    }

    /// What several things are multiplied by.
    pub fn multipliers<const N: usize>(&mut self, key: &str) -> Result<[f64; N]> {
        let given = self.keys.floats(key, -LARGEST..=LARGEST)?;
        let value = given.unwrap_or([1.0; N]);
        self.note(key, value.to_vec(), given.is_some());
        Ok(value)
    }

    /// A number.
    pub fn float_or(&mut self, key: &str, range: std::ops::RangeInclusive<f64>, default: f64) -> Result<f64> {
        let given = self.keys.float(key, range)?;
        self.note(key, given.unwrap_or(default), given.is_some());
        Ok(given.unwrap_or(default))
    }

    /// The bounds of Δ.
    pub fn time_step_limit(&mut self) -> Result<(f64, f64)> {
        let key = "time_step_limit";
        let given = self.keys.interval(key, 0.0..=f64::INFINITY)?;
        let (low, high) = given.unwrap_or((0.0, f64::INFINITY));
        let told = |bound: f64| if bound.is_finite() { bound.into() } else { serde_json::Value::from("Infinity") };
        self.note(key, vec![told(low), told(high)], given.is_some());
        Ok((low, high))
    }

    /// A list of names, under one of these keys, and which.
    pub fn names<'k>(&mut self, spellings: &[&'k str]) -> Result<Option<(&'k str, Vec<String>)>> {
        let key = self.spelling(spellings);
        let given = self.keys.strings(key)?;
        let names: Option<Vec<String>> = given.map(|names| names.into_iter().map(str::to_owned).collect());
        if let Some(names) = &names {
            self.note(key, names.clone(), true);
        }
        Ok(names.map(|names| (key, names)))
    }

    /// A list of layers.
    pub fn indices(&mut self, key: &str) -> Result<Option<Vec<usize>>> {
        let given = self.keys.indices(key)?;
        self.note(key, given.clone(), given.is_some());
        Ok(given)
    }

    /// The sizes that every family has.
    pub fn sizes(&mut self) -> Result<Sizes> {
        let key = "num_hidden_layers";
        let num_layers = self.size_or(&[key], self.usual.num_layers)?;
        self.sizes_with_layers(key, num_layers)
    }

    /// The same, with as many layers as `key` says. What the tensors have no layers for is refused.
    pub fn sizes_with_layers(&mut self, key: &str, num_layers: usize) -> Result<Sizes> {
        let found = self.tensors.count_layers();
        let further = self.count_or(&["num_nextn_predict_layers", "num_mtp_layers"], 0)?; // behind the last
        if num_layers == 0 || found < num_layers || found > num_layers.saturating_add(further) {
            return Err(self.error(key, format!("{num_layers} layers, but the tensors have {found}")));
        }
        self.refuse_quantized()?;
        let Usual { vocab_size, hidden_size, max_seq_len, .. } = self.usual;
        let key = "max_position_embeddings";
        let source = if self.keys.value(key).is_some() { Source::File } else { Source::Default };
        let max_seq_len = self.size_or(&[key], max_seq_len)?;
        self.report.record("max_seq_len", max_seq_len, source);
        let vocab_size = self.size_or(&["vocab_size"], vocab_size)?;
        Ok(Sizes { vocab_size, hidden_size: self.size_or(&["hidden_size"], hidden_size)?, max_seq_len, num_layers })
    }

    /// The same model with the context that its rotations are stretched to, where `max_position_embeddings` is still that of
    /// the training.
    pub fn stretch(&mut self, config: ModelConfig) -> ModelConfig {
        let max_seq_len = self.stretched_context.min(LARGEST_CONTEXT).max(config.max_seq_len);
        if max_seq_len > config.max_seq_len {
            self.report.record("max_seq_len", max_seq_len, Source::File);
        }
        ModelConfig { max_seq_len, ..config }
    }

    /// Plain attention without positions.
    pub fn attention(&mut self, hidden_size: usize) -> Result<GqaSpec> {
        let num_heads = self.num_heads()?;
        let key = "num_key_value_heads";
        let usual = self.usual.num_kv_heads.filter(|_| !self.is_null(key)).unwrap_or(num_heads);
        let num_kv_heads = self.size_or(&[key], usual)?;
        let head_dim = self.size_or(&["head_dim"], self.usual.head_dim.unwrap_or(hidden_size / num_heads))?;
        if head_dim == 0 {
            let message = format!("{num_heads} heads are more than the {hidden_size} values that they share");
            return Err(self.error("num_attention_heads", message));
        }
        if num_heads % num_kv_heads != 0 {
            let message = format!("{num_kv_heads} key heads don't divide {num_heads} attention heads");
            return Err(self.error(key, message));
        }
        let (rope, window, qk_norm_eps) = (None, None, None);
        Ok(GqaSpec { num_heads, num_kv_heads, head_dim, rope, scale: usual_scale(head_dim), window, qk_norm_eps })
    }
}

/// A model without multipliers.
pub fn model(sizes: Sizes, norm_eps: f64, layers: Vec<LayerSpec>) -> ModelConfig {
    let Sizes { vocab_size, hidden_size, max_seq_len, .. } = sizes;
    let (embedding_multiplier, logits_multiplier) = (1.0, 1.0);
    ModelConfig { vocab_size, hidden_size, max_seq_len, norm_eps, embedding_multiplier, logits_multiplier, layers }
}

/// A layer without multipliers.
pub fn layer(norm_eps: f64, mixer: MixerSpec, ffn: FfnSpec) -> LayerSpec {
    LayerSpec { norm_eps, mixer, mixer_multiplier: 1.0, ffn, ffn_multiplier: 1.0 }
}
