//! The config.json of a published checkpoint: its keys with their families' defaults, and what several families spell
//! alike.

use std::collections::BTreeSet;

use super::keys::Keys;
use super::report::{Report, Source};
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig};
use crate::model::gqa::{GqaSpec, usual_scale};
use crate::model::moe::{Groups, Routing};
use crate::model::rope::{Pairing, RopeSpec, Scaling};

/// Keys that change nothing of what a model says, or nothing that is not said by another one.
const MEANINGLESS: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "aux_loss_alpha",
    "bos_token_id",
    "chunk_size",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "ep_size",
    "expand",
    "hidden_dropout",
    "id2label",
    "init_method",
    "initializer_range",
    "label2id",
    "logits_to_keep",
    "mamba_chunk_size",
    "mamba_expand",
    "mamba_use_mlp",
    "max_window_layers",
    "mlp_expansion_factor",
    "moe_layer_freq",
    "mtp_layers_block_type",
    "normalization_function",
    "num_logits_to_keep",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "qk_head_dim",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "resid_pdrop",
    "router_aux_loss_coef",
    "seq_aux",
    "sep_token_id",
    "time_step_floor",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_mamba_kernels",
    "use_mrope",
    "time_step_init_scheme",
    "time_step_scale",
    "mamba_ssm_cache_dtype",
    "moe_shared_expert_overlap",
    "router_jitter_noise",
    "mtp_hybrid_override_pattern",
    "z_loss_coefficient",
];

/// What all norms' constants lie between.
const EPS: std::ops::RangeInclusive<f64> = 0.0..=1.0;

/// A multiplier may be this large.
const LARGEST: f64 = 1e9;

/// A configuration that is being read, with the account of it.
#[derive(Debug)]
pub struct Published<'a> {
    keys: &'a Keys,
    tensors: &'a Tensors,
    report: Report,
    read: BTreeSet<String>,
    is_tied: bool,
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

/// What attention has where its keys are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// The width of a head.
    pub head_dim: Option<usize>,
    /// How many heads answer.
    pub num_kv_heads: Option<usize>,
}

impl<'a> Published<'a> {
    /// The configuration in `keys`, of a checkpoint with these tensors.
    pub fn new(keys: &'a Keys, tensors: &'a Tensors) -> Self {
        Self { keys, tensors, report: Report::default(), read: BTreeSet::new(), is_tied: false }
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
    fn spelling<'k>(&mut self, spellings: &[&'k str]) -> &'k str {
        self.read.extend(spellings.iter().map(|key| (*key).to_owned()));
        let given = spellings.iter().find(|key| self.keys.value(key).is_some());
        given.or(spellings.first()).copied().unwrap_or_default()
    }

    /// A size of at least 1 that must be there, under one of these names.
    pub fn size(&mut self, spellings: &[&str]) -> Result<usize> {
        let key = self.spelling(spellings);
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

    /// true or false, under one of these names.
    pub fn flag_or(&mut self, spellings: &[&str], default: bool) -> Result<bool> {
        let key = self.spelling(spellings);
        let given = self.keys.flag(key)?;
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

    /// The one value that `key` may have.
    pub fn only(&mut self, key: &str, value: &str) -> Result<()> {
        let found = self.string_or(key, value)?;
        if found == value {
            Ok(())
        } else {
            Err(self.error(key, format!("{found:?} is not supported, only {value:?}")))
        }
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

    /// The constant of a norm.
    pub fn eps_or(&mut self, key: &str, default: f64) -> Result<f64> {
        self.float_or(key, EPS, default)
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

    /// A list of names, under one of these keys.
    pub fn names(&mut self, spellings: &[&str]) -> Result<Option<Vec<String>>> {
        let key = self.spelling(spellings);
        let given = self.keys.strings(key)?;
        let names: Option<Vec<String>> = given.map(|names| names.into_iter().map(str::to_owned).collect());
        if let Some(names) = &names {
            self.note(key, names.clone(), true);
        }
        Ok(names)
    }

    /// A list of layers.
    pub fn indices(&mut self, key: &str) -> Result<Option<Vec<usize>>> {
        let given = self.keys.indices(key)?;
        self.note(key, given.clone(), given.is_some());
        Ok(given)
    }

    /// The sizes that every family has, with as many layers as `key` says. What the tensors have no layers for is refused.
    pub fn sizes(&mut self, key: &str, num_layers: usize, context: Option<usize>) -> Result<Sizes> {
        let found = self.tensors.count_layers();
        let further = self.count_or(&["num_nextn_predict_layers"], 0)?; // which predict more than the next token
        if num_layers == 0 || found < num_layers || found > num_layers.saturating_add(further) {
            return Err(self.error(key, format!("{num_layers} layers, but the tensors have {found}")));
        }
        self.refuse_quantized()?;
        let key = "max_position_embeddings";
        let (max_seq_len, source) = match context {
            Some(default) => (self.size_or(&[key], default)?, Source::Default),
            None => (self.size(&[key])?, Source::File),
        };
        self.report.record("max_seq_len", max_seq_len, source);
        let (vocab_size, hidden_size) = (self.size(&["vocab_size"])?, self.size(&["hidden_size"])?);
        Ok(Sizes { vocab_size, hidden_size, max_seq_len, num_layers })
    }

    fn refuse_quantized(&self) -> Result<()> {
        let key = "quantization_config";
        let Some(value) = self.keys.value(key) else { return Ok(()) };
        let method = value.get("quant_method").and_then(serde_json::Value::as_str).unwrap_or("unknown");
        Err(self.error(
            key,
            format!("weights that are quantized by {method:?} are not supported: take them in bf16 or f16"),
        ))
    }

    /// Refuses groups that don't divide the experts, or more experts for a token than may be chosen.
    pub fn check_routing(&self, num_experts: usize, routing: &Routing) -> Result<()> {
        let Routing { experts_per_tok, groups, .. } = *routing;
        let choice = match groups {
            Some(Groups { count, .. }) if !num_experts.is_multiple_of(count) => {
                return Err(self.error("n_group", format!("{count} groups don't divide {num_experts} experts")));
            }
            Some(Groups { count, kept, .. }) if kept > count => {
                return Err(self.error("topk_group", format!("expected 1 to {count} groups, found {kept}")));
            }
            Some(Groups { count, kept, .. }) => num_experts / count * kept,
            None => num_experts,
        };
        if (1..=choice).contains(&experts_per_tok) {
            return Ok(());
        }
        Err(self.error("num_experts_per_tok", format!("expected 1 to {choice}, found {experts_per_tok}")))
    }

    /// Refuses checkpoints that are not for the next token: classifiers, embeddings, and what only their own code runs.
    pub fn check_architecture(&mut self) -> Result<()> {
        let key = "architectures";
        let Some(names) = self.names(&[key])? else { return Ok(()) };
        if names.iter().any(|name| name.ends_with("ForCausalLM")) {
            return Ok(());
        }
        Err(self.error(key, format!("{names:?} is not supported: expected one that ends in ForCausalLM")))
    }

    /// Whether the head is the embedding; if it is not, it must be there.
    pub fn check_tied(&mut self, default: bool) -> Result<()> {
        self.is_tied = self.flag_or(&["tie_word_embeddings"], default)?;
        self.check_head()
    }

    /// Refuses a checkpoint whose head is neither there nor the embedding.
    pub fn check_head(&self) -> Result<()> {
        if self.is_tied || self.tensors.shape("lm_head.weight").is_some() {
            return Ok(());
        }
        let message = "tensor lm_head.weight is missing, and it is not the embedding (tie_word_embeddings)";
        Err(Error::checkpoint(self.tensors.origin(), message))
    }

    /// Whether the head is the embedding.
    pub fn is_tied(&self) -> bool {
        self.is_tied
    }

    /// Whether linear layers of these names have biases, as a key says: one of these spellings.
    pub fn biases(&mut self, spellings: &[&str], default: bool, linears: &[&str]) -> Result<()> {
        let has_biases = self.flag_or(spellings, default)?;
        self.check_biases(spellings.first().copied().unwrap_or_default(), has_biases, linears)
    }

    /// Refuses tensors that don't agree about the biases of linear layers of these names: `why` says who knows.
    pub fn check_biases(&self, why: &str, has_biases: bool, linears: &[&str]) -> Result<()> {
        let is_meant = |part: &str| linears.iter().any(|linear| part.ends_with(&format!(".{linear}")));
        let weighed =
            self.tensors.names().filter_map(|name| name.strip_suffix(".weight").filter(|part| is_meant(part)));
        for part in weighed {
            let bias = format!("{part}.bias");
            if self.tensors.shape(&bias).is_some() != has_biases {
                let (found, said) = if has_biases { ("is missing", "asks for") } else { ("is there", "has none of") };
                let message = format!("tensor {bias} {found}, but {why} {said} it");
                return Err(Error::checkpoint(self.tensors.file_of(&format!("{part}.weight")), message));
            }
        }
        Ok(())
    }

    /// Plain attention without positions. Where they are left out, `head_dim` is the hidden size shared among the heads, and
    /// `num_key_value_heads` the number of heads, unless there are defaults.
    pub fn attention(&mut self, hidden_size: usize, defaults: Defaults) -> Result<GqaSpec> {
        let Defaults { head_dim: default_head_dim, num_kv_heads: default_kv_heads } = defaults;
        let num_heads = self.size(&["num_attention_heads"])?;
        let key = "num_key_value_heads";
        let default_kv_heads = default_kv_heads.filter(|_| !self.is_null(key)).unwrap_or(num_heads);
        let num_kv_heads = self.size_or(&[key], default_kv_heads)?;
        let head_dim = self.size_or(&["head_dim"], default_head_dim.unwrap_or(hidden_size / num_heads))?;
        if head_dim == 0 {
            let message = format!("{num_heads} heads are more than the {hidden_size} values that they share");
            return Err(self.error("num_attention_heads", message));
        }
        if num_heads % num_kv_heads != 0 {
            let message = format!("{num_kv_heads} key heads don't divide {num_heads} attention heads");
            return Err(self.error("num_key_value_heads", message));
        }
        let (rope, window, qk_norm_eps) = (None, None, None);
        Ok(GqaSpec { num_heads, num_kv_heads, head_dim, rope, scale: usual_scale(head_dim), window, qk_norm_eps })
    }

    /// How positions turn heads of which `width` elements are rotated, as `key` says.
    pub fn rope(&mut self, (key, width): (&str, usize), default_theta: f64, max_seq_len: usize) -> Result<RopeSpec> {
        let object = self.rope_keys()?;
        let theta = match &object {
            Some(object) if object.value("rope_theta").is_some() => object.float("rope_theta", 1.0..=1e18)?,
            _ => self.keys.float("rope_theta", 1.0..=1e18)?,
        };
        self.note("rope_theta", theta.unwrap_or(default_theta), theta.is_some());
        if width == 0 || !width.is_multiple_of(2) {
            return Err(self.error(key, format!("rotary positions need an even width, found {width}")));
        }
        let scaling = object.map_or(Ok(Scaling::None), |object| self.scaling(&object, width, max_seq_len))?;
        Ok(RopeSpec { scaling, ..RopeSpec::new(width, theta.unwrap_or(default_theta)) })
    }

    /// `rope_scaling`, or where it is left out or empty `rope_parameters`.
    fn rope_keys(&mut self) -> Result<Option<Keys>> {
        for key in ["rope_scaling", "rope_parameters"] {
            self.read.insert(key.to_owned());
            if let Some(object) = self.keys.object(key)? {
                self.note(key, self.keys.value(key).cloned().unwrap_or_default(), true);
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// What share of each head is rotated, where the rope's own object says so.
    pub fn partial_rotary_factor(&mut self, default: f64) -> Result<f64> {
        let key = "partial_rotary_factor";
        let given = self.rope_keys()?.map(|object| object.float(key, 0.0..=1.0)).transpose()?.flatten();
        self.read.insert(key.to_owned());
        Ok(given.unwrap_or(default))
    }

    fn scaling(&mut self, object: &Keys, width: usize, max_seq_len: usize) -> Result<Scaling> {
        let kind = match object.string("rope_type")? {
            Some(kind) => kind,
            None => object.string("type")?.unwrap_or("default"),
        };
        let factor = |default: Option<f64>| {
            let given = object.float("factor", 1e-6..=LARGEST)?.or(default);
            given.ok_or_else(|| object.error("factor", "expected a number, found no such key"))
        };
        // As transformers has it, 0 stands for the default too.
        let float = |key: &str, default: f64| {
            let given = object.float(key, 0.0..=LARGEST)?;
            Ok::<_, Error>(given.filter(|given| *given != 0.0).unwrap_or(default))
        };
        let original = self.original_context(object, max_seq_len)?;
        match kind {
            "default" => Ok(Scaling::None),
            "factors" => factors(object, width / 2),
            "linear" => Ok(Scaling::Linear { factor: factor(None)? }),
            "llama3" => Ok(Scaling::Llama3 {
                factor: factor(None)?,
                low_freq_factor: float("low_freq_factor", 1.0)?,
                high_freq_factor: float("high_freq_factor", 4.0)?,
                original,
            }),
            "yarn" => {
                let factor = factor(Some(max_seq_len as f64 / original))?;
                Ok(Scaling::Yarn {
                    factor,
                    beta_fast: float("beta_fast", 32.0)?,
                    beta_slow: float("beta_slow", 1.0)?,
                    original,
                    truncate: object.flag("truncate")?.unwrap_or(true),
                    amplitude: yarn_amplitude(object, factor)?,
                })
            }
            other => Err(object
                .error("rope_type", format!("{other:?} is not supported: expected default, linear, llama3 or yarn"))),
        }
    }

    /// The context of the training, in tokens.
    fn original_context(&mut self, object: &Keys, max_seq_len: usize) -> Result<f64> {
        let key = "original_max_position_embeddings";
        self.read.insert(key.to_owned());
        let given = match self.keys.int(key)? {
            Some(given) => Some(given),
            None => object.int(key)?,
        };
        Ok(given.unwrap_or(max_seq_len) as f64)
    }

    /// What a stretched rotation makes of the softmax's scale: 1 where `mscale_all_dim` is left out.
    pub fn stretched_softmax_scale(&mut self, rope: &RopeSpec) -> Result<f64> {
        let factor = match rope.scaling {
            Scaling::None | Scaling::Factors(_) => return Ok(1.0),
            Scaling::Linear { factor } | Scaling::Llama3 { factor, .. } | Scaling::Yarn { factor, .. } => factor,
        };
        let all = self.rope_keys()?.map(|object| object.float("mscale_all_dim", 0.0..=LARGEST)).transpose()?.flatten();
        Ok(all.filter(|all| *all != 0.0).map_or(1.0, |all| yarn_mscale(factor, all).powi(2)))
    }
}

/// A factor for each of so many pairs.
fn factors(object: &Keys, count: usize) -> Result<Scaling> {
    let factors = object.numbers("factors", 1e-6..=LARGEST)?.unwrap_or_default();
    if factors.len() != count {
        let message = format!("expected one for each of {count} pairs, found {}", factors.len());
        return Err(object.error("factors", message));
    }
    Ok(Scaling::Factors(factors.into()))
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// What cosines and sines are multiplied by.
fn yarn_amplitude(object: &Keys, factor: f64) -> Result<f64> {
    let float = |key: &str| object.float(key, 0.0..=LARGEST);
    if let Some(given) = float("attention_factor")? {
        return Ok(given);
    }
    let of = |mscale| yarn_mscale(factor, mscale);
    Ok(match (float("mscale")?, float("mscale_all_dim")?) {
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => of(mscale) / of(all),
        _ => of(1.0),
    })
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

/// The same rotation of neighbours instead of halves.
pub fn interleaved(rope: RopeSpec) -> RopeSpec {
    RopeSpec { pairing: Pairing::Neighbours, ..rope }
}
