//! The native format: what config.json leaves open is read off the tensors' names and shapes, and where both speak
//! they must agree.

use std::ops::RangeInclusive;

use super::evidence::{Evidence, FfnKind, Kind, MixerKind, Shown};
use super::keys::Keys;
use super::report::{Report, Source};
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig};
use crate::model::gqa::{GqaSpec, usual_scale};
use crate::model::mamba2::{Gating, Mamba2Spec};
use crate::model::mla::MlaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::moe::{MoeSpec, Routing};
use crate::model::rope::RopeSpec;

/// Both norms of a Mamba2 layer use this constant whatever `rms_norm_eps` says.
const MAMBA2_EPS: f64 = 1e-6;

/// Every key of the format, in the order in which they are reported.
const KEYS: [&str; 27] = [
    "hidden_size",
    "num_layers",
    "vocab_size",
    "max_seq_len",
    "rms_norm_eps",
    "rope_theta",
    "layer_types",
    "mamba_layers",
    "mamba2_num_heads",
    "mamba2_head_dim",
    "mamba2_state_size",
    "mamba2_chunk_size",
    "mamba2_expand",
    "mamba2_conv_kernel",
    "mamba2_n_groups",
    "mamba2_dt_limit",
    "num_attention_heads",
    "num_kv_heads",
    "head_dim",
    "kv_latent_dim",
    "q_latent_dim",
    "d_rope",
    "num_experts",
    "experts_per_tok",
    "shared_expert_enabled",
    "intermediate_size",
    "tokenizer",
];

/// What a checkpoint in this format is called where published ones have their `model_type`.
pub const FAMILY: &str = "blazr";

/// Where the tokenizer is if no key says so.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// A key that the tokenizer reads.
const TOKENIZER_KEY: &str = "eos_token_id";

/// Works out the model from its config.json and tensors; the report says where each value came from.
///
/// # Errors
/// A key has an impossible value or disagrees with the tensors, or something can be neither read nor inferred: the
/// error names the key and the tensor.
pub fn resolve(keys: &Keys, tensors: &Tensors) -> Result<(ModelConfig, Report)> {
    let evidence = Evidence::new(tensors);
    let kinds = evidence.kinds()?;
    let mut resolver = Resolver { keys, evidence, kinds, report: Report::default() };
    let config = resolver.model()?;
    resolver.report_the_rest()?;
    Ok((config, resolver.report))
}

struct Resolver<'a> {
    keys: &'a Keys,
    evidence: Evidence<'a>,
    /// The kind of each layer, as its tensors show.
    kinds: Vec<Kind>,
    report: Report,
}

/// What every layer is resolved with.
#[derive(Clone, Copy)]
struct Shared {
    hidden_size: usize,
    norm_eps: f64,
    theta: f64,
}

impl Resolver<'_> {
    fn model(&mut self) -> Result<ModelConfig> {
        let hidden_size = self.settle("hidden_size", &self.evidence.dim("embed_tokens.weight", 1)?)?;
        self.check_layer_lists()?;
        let vocab_size = self.settle("vocab_size", &self.evidence.dim("embed_tokens.weight", 0)?)?;
        let max_seq_len = self.int_or("max_seq_len", 4096)?;
        let norm_eps = self.float_or("rms_norm_eps", f64::MIN_POSITIVE..=1.0, 1e-5)?;
        let theta = self.float_or("rope_theta", 1.0..=1e18, 10_000.0)?;
        let shared = Shared { hidden_size, norm_eps, theta };
        let kinds = self.kinds.clone();
        let layers = kinds.into_iter().enumerate().map(|(layer, kind)| self.layer(layer, kind, shared));
        let layers = layers.collect::<Result<_>>()?;
        let (embedding_multiplier, logits_multiplier) = (1.0, 1.0);
        Ok(ModelConfig {
            vocab_size,
            hidden_size,
            max_seq_len,
            norm_eps,
            embedding_multiplier,
            logits_multiplier,
            layers,
        })
    }

    fn layer(&mut self, layer: usize, kind: Kind, shared: Shared) -> Result<LayerSpec> {
        let Shared { hidden_size, norm_eps, theta } = shared;
        let (norm_eps, mixer) = match kind.mixer {
            MixerKind::Mamba2 => (MAMBA2_EPS, MixerSpec::Mamba2(self.mamba2(layer, hidden_size)?)),
            MixerKind::Mla => (norm_eps, MixerSpec::Mla(self.mla(layer, hidden_size, theta)?)),
            MixerKind::Gqa => (norm_eps, MixerSpec::Gqa(self.gqa(layer, theta)?)),
        };
        let ffn = match kind.ffn {
            FfnKind::None => FfnSpec::None,
            FfnKind::Mlp => FfnSpec::Mlp(MlpSpec::swiglu(self.mlp(layer)?)),
            FfnKind::Moe => FfnSpec::Moe(self.moe(layer)?),
        };
        Ok(LayerSpec { norm_eps, mixer, mixer_multiplier: 1.0, ffn, ffn_multiplier: 1.0 })
    }

    fn first(&self, mixer: MixerKind) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.mixer == mixer)
    }

    /// `num_layers`, `layer_types` and `mamba_layers` must agree with what the tensors show.
    fn check_layer_lists(&mut self) -> Result<()> {
        let count = self.kinds.len();
        let by = format!("layers.{} is the last with tensors", count.saturating_sub(1));
        self.settle("num_layers", &Shown { value: count, by })?;
        let kinds = self.kinds.clone();
        let is_named = self.check_layer_types(&kinds)?;
        let is_listed = self.check_mamba_layers(&kinds, is_named)?;
        let source = if is_named || is_listed { Source::File } else { Source::Tensors };
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        self.report.record("layer_types", names, source);
        Ok(())
    }

    fn check_layer_types(&self, kinds: &[Kind]) -> Result<bool> {
        let key = "layer_types";
        let Some(names) = self.keys.strings(key)? else { return Ok(false) };
        if names.len() != kinds.len() {
            let found = names.len();
            return Err(self
                .keys
                .error(key, format!("expected one for each of {} layers, found {found}", kinds.len())));
        }
        for (layer, (name, kind)) in names.iter().zip(kinds).enumerate() {
            let expected = Kind::named(name).ok_or_else(|| {
                self.keys.error(key, format!("layer {layer}: expected one of {}, found {name:?}", Kind::names()))
            })?;
            if expected != *kind {
                let shown = kind.name();
                return Err(self
                    .keys
                    .error(key, format!("layer {layer} is {name}, but the tensors layers.{layer}.* show {shown}")));
            }
        }
        Ok(true)
    }

    /// The older key, which counts where `layer_types` is not given.
    fn check_mamba_layers(&mut self, kinds: &[Kind], is_named: bool) -> Result<bool> {
        let key = "mamba_layers";
        let Some(listed) = self.keys.indices(key)? else { return Ok(false) };
        match misfit(&listed, kinds) {
            Some(misfit) if is_named => tracing::warn!("{key}: {misfit}: ignored, as layer_types is given"),
            Some(misfit) => return Err(self.keys.error(key, misfit)),
            None => {}
        }
        self.report.record(key, listed, Source::File);
        Ok(true)
    }

    fn mamba2(&mut self, layer: usize, hidden_size: usize) -> Result<Mamba2Spec> {
        let name = |tensor: &str| format!("layers.{layer}.mamba2.mixer.{tensor}");
        let num_heads = self.settle("mamba2_num_heads", &self.evidence.dim(&name("A_log"), 0)?)?;
        let inner = self.evidence.dim(&name("out_proj.weight"), 1)?;
        let head_dim = self.settle("mamba2_head_dim", &self.quotient("mamba2_num_heads", &inner, num_heads)?)?;
        let conv_kernel = self.settle("mamba2_conv_kernel", &self.evidence.dim(&name("conv1d.weight"), 2)?)?;

        let conv_dim = self.evidence.dim(&name("conv1d.weight"), 0)?;
        let shared = conv_dim.value.saturating_sub(inner.value); // 2 · groups · state_size
        let shared = self.quotient("mamba2_state_size", &Shown { value: shared, ..conv_dim }, 2)?;
        let n_groups = self.mamba2_groups(&shared)?;
        let state_size = self.settle("mamba2_state_size", &self.quotient("mamba2_n_groups", &shared, n_groups)?)?;
        if num_heads % n_groups != 0 {
            return Err(self
                .keys
                .error("mamba2_n_groups", format!("{n_groups} groups don't divide {num_heads} heads")));
        }
        self.mamba2_expand(inner.value, hidden_size)?;
        // How prompts were split when the model was trained, which changes no result.
        self.int_or("mamba2_chunk_size", 256)?;
        Ok(Mamba2Spec {
            num_heads,
            head_dim,
            state_size,
            n_groups,
            conv_kernel,
            dt_limit: self.dt_limit()?,
            gating: Gating::ThenNorm(MAMBA2_EPS),
            multipliers: None,
        })
    }

    /// The groups follow from the state size where that is given; else nothing tells them apart.
    fn mamba2_groups(&mut self, shared: &Shown) -> Result<usize> {
        let key = "mamba2_n_groups";
        match (self.keys.int(key)?, self.keys.int("mamba2_state_size")?) {
            (None, Some(state_size)) => {
                let shown = self.quotient("mamba2_state_size", shared, state_size)?;
                self.settle(key, &shown)
            }
            (None, None) => {
                self.warn_of_default(key, &format!("taking 1 group with a state of {} values", shared.value));
                self.int_or(key, 1)
            }
            (Some(_), _) => self.int_or(key, 1),
        }
    }

    /// Informational: the inner width is heads · head_dim, as the tensors show.
    fn mamba2_expand(&mut self, inner: usize, hidden_size: usize) -> Result<()> {
        let key = "mamba2_expand";
        match self.keys.int(key)? {
            Some(expand) => {
                if expand.checked_mul(hidden_size) != Some(inner) && !self.report.has(key) {
                    tracing::warn!(
                        "{key} is {expand}, but the inner width is {inner} with hidden_size {hidden_size}: ignored"
                    );
                }
                self.report.record(key, expand, Source::File);
            }
            None if inner.is_multiple_of(hidden_size) => self.report.record(key, inner / hidden_size, Source::Tensors),
            None => self.report.record(key, inner as f64 / hidden_size as f64, Source::Tensors),
        }
        Ok(())
    }

    fn dt_limit(&mut self) -> Result<(f64, f64)> {
        let given = self.given_dt_limit()?;
        let source = if given.is_some() { Source::File } else { Source::Default };
        let (low, high) = given.unwrap_or((0.001, 0.1));
        self.report.record("mamba2_dt_limit", vec![low, high], source);
        Ok((low, high))
    }

    fn given_dt_limit(&self) -> Result<Option<(f64, f64)>> {
        self.keys.interval("mamba2_dt_limit", 0.0..=f64::MAX)
    }

    fn mla(&mut self, layer: usize, hidden_size: usize, theta: f64) -> Result<MlaSpec> {
        let name = |tensor: &str| format!("layers.{layer}.self_attn.{tensor}.weight");
        let kv_latent_dim = self.settle("kv_latent_dim", &self.evidence.dim(&name("w_dkv"), 0)?)?;
        let q_latent_dim = self.settle("q_latent_dim", &self.evidence.dim(&name("w_dq"), 0)?)?;
        let d_rope = self.settle("d_rope", &self.evidence.dim(&name("w_kr"), 0)?)?;
        self.check_even("d_rope", d_rope)?;
        let num_heads = self.mla_heads(layer)?;
        let head_dim = self.mla_head_dim(hidden_size, num_heads)?;
        let rotated_from = self.evidence.dim(&name("w_qr"), 1)?.value;
        Ok(MlaSpec {
            num_heads,
            head_dim,
            value_dim: head_dim,
            kv_latent_dim,
            q_latent_dim: Some(q_latent_dim),
            rope_from_q_latent: rotated_from == q_latent_dim && rotated_from != hidden_size,
            latent_norm_eps: None,
            rope: RopeSpec::new(d_rope, theta),
            scale: usual_scale(head_dim + d_rope),
        })
    }

    /// Latent attention's heads, which serve plain attention too.
    fn mla_heads(&mut self, layer: usize) -> Result<usize> {
        let rows = |tensor: &str| self.evidence.dim(&format!("layers.{layer}.self_attn.{tensor}.weight"), 0);
        let (rotated, d_rope) = (rows("w_qr")?, rows("w_kr")?.value);
        self.settle("num_attention_heads", &self.quotient("d_rope", &rotated, d_rope)?)
    }

    /// Latent attention's head size. The keys `head_dim` and `num_kv_heads` are plain attention's where there is any.
    fn mla_head_dim(&mut self, hidden_size: usize, num_heads: usize) -> Result<usize> {
        let hidden = Shown { value: hidden_size, by: "hidden_size, the width of all heads of latent attention".into() };
        let head_dim = self.quotient("num_attention_heads", &hidden, num_heads)?;
        if self.first(MixerKind::Gqa).is_none() {
            self.settle("head_dim", &head_dim)?;
            self.int_or("num_kv_heads", num_heads)?;
        }
        Ok(head_dim.value)
    }

    fn gqa(&mut self, layer: usize, theta: f64) -> Result<GqaSpec> {
        let name = |tensor: &str| format!("layers.{layer}.self_attn.{tensor}_proj.weight");
        let (q_width, k_width) = (self.evidence.dim(&name("q"), 0)?, self.evidence.dim(&name("k"), 0)?);
        let num_heads = match self.first(MixerKind::Mla) {
            Some(layer) => self.mla_heads(layer)?,
            None => self.attention_heads(&q_width, &k_width)?,
        };
        let head_dim = self.settle("head_dim", &self.quotient("num_attention_heads", &q_width, num_heads)?)?;
        let num_kv_heads = self.settle("num_kv_heads", &self.quotient("head_dim", &k_width, head_dim)?)?;
        self.check_even("head_dim", head_dim)?;
        if num_heads % num_kv_heads != 0 {
            let message = format!("{num_kv_heads} key heads don't divide {num_heads} attention heads");
            return Err(self.keys.error("num_kv_heads", message));
        }
        Ok(GqaSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            rope: Some(RopeSpec::new(head_dim, theta)),
            scale: usual_scale(head_dim),
            window: None,
            qk_norm_eps: None,
        })
    }

    /// Plain attention's shapes alone don't tell its heads: one of three keys has to.
    fn attention_heads(&mut self, q_width: &Shown, k_width: &Shown) -> Result<usize> {
        let key = "num_attention_heads";
        if let Some(heads) = self.keys.int(key)? {
            self.report.record(key, heads, Source::File);
            return Ok(heads);
        }
        let head_dim = match (self.keys.int("head_dim")?, self.keys.int("num_kv_heads")?) {
            (Some(head_dim), _) => head_dim,
            (None, Some(kv_heads)) => self.quotient("num_kv_heads", k_width, kv_heads)?.value,
            (None, None) => {
                let message = format!(
                    "can't be read off the tensors of plain attention ({}): add num_attention_heads, num_kv_heads or \
                     head_dim to config.json",
                    q_width.by
                );
                return Err(self.keys.error(key, message));
            }
        };
        self.settle(key, &self.quotient("head_dim", q_width, head_dim)?)
    }

    fn moe(&mut self, layer: usize) -> Result<MoeSpec> {
        let name = |tensor: &str| format!("layers.{layer}.moe.{tensor}.weight");
        let router = [name("gate"), name("router.gate")].into_iter().find(|name| self.evidence.has(name));
        let num_experts = self.evidence.dim(&router.unwrap_or_else(|| name("router.gate")), 0)?;
        let num_experts = self.settle("num_experts", &num_experts)?;
        let intermediate_size = self.evidence.dim(&name("experts.0.gate_proj"), 0)?;
        Ok(MoeSpec {
            num_experts,
            routing: Routing::softmax_over_chosen(self.experts_per_tok(num_experts)?),
            expert: MlpSpec::swiglu(self.settle("intermediate_size", &intermediate_size)?),
            shared: self.shared_expert(&name("shared_expert.gate_proj"))?.map(MlpSpec::swiglu),
            latent_size: None,
        })
    }

    fn experts_per_tok(&mut self, num_experts: usize) -> Result<usize> {
        let key = "experts_per_tok";
        let default = 2.min(num_experts);
        if self.keys.int(key)?.is_none() {
            self.warn_of_default(key, &format!("taking {default} of {num_experts} experts for each token"));
        }
        let experts_per_tok = self.int_or(key, default)?;
        if experts_per_tok > num_experts {
            return Err(self
                .keys
                .error(key, format!("{experts_per_tok} experts are more than num_experts {num_experts}")));
        }
        Ok(experts_per_tok)
    }

    /// The inner size of the layer's shared expert, where it has one.
    fn shared_expert(&mut self, gate: &str) -> Result<Option<usize>> {
        let key = "shared_expert_enabled";
        let present = self.evidence.has(gate);
        let given = self.keys.flag(key)?;
        if let Some(enabled) = given.filter(|enabled| *enabled != present) {
            let found = if present { "is there" } else { "is missing" };
            return Err(self.keys.error(key, format!("{enabled}, but {gate} {found}")));
        }
        let anywhere = self.evidence.any(".shared_expert.");
        self.report.record(key, anywhere, if given.is_some() { Source::File } else { Source::Tensors });
        present.then(|| Ok(self.evidence.dim(gate, 0)?.value)).transpose()
    }

    fn mlp(&mut self, layer: usize) -> Result<usize> {
        let width = self.evidence.dim(&format!("layers.{layer}.mlp.gate_proj.weight"), 0)?;
        self.settle("intermediate_size", &width)
    }

    /// The keys that mean nothing for these layers, and the warning about those that mean nothing at all.
    fn report_the_rest(&mut self) -> Result<()> {
        let tokenizer = self.keys.string("tokenizer")?;
        let source = if tokenizer.is_some() { Source::File } else { Source::Default };
        self.report.record("tokenizer", tokenizer.unwrap_or(TOKENIZER), source);
        for key in KEYS {
            self.check_type(key)?;
            match self.keys.value(key) {
                Some(value) => self.report.record(key, value.clone(), Source::File),
                None => self.report.record_absent(key),
            }
        }
        self.report.sort_by(&KEYS);
        if let Some(unknown) = self.keys.unknown(&[&KEYS, [TOKENIZER_KEY].as_slice()].concat()) {
            tracing::warn!("config.json: ignoring keys that mean nothing here: {unknown}");
        }
        Ok(())
    }

    /// A wrong type or an impossible value is an error also where the key means nothing for this model.
    fn check_type(&self, key: &str) -> Result<()> {
        match key {
            "layer_types" | "mamba_layers" | "tokenizer" | "rms_norm_eps" | "rope_theta" => {} // always read
            "mamba2_dt_limit" => drop(self.given_dt_limit()?),
            "shared_expert_enabled" => drop(self.keys.flag(key)?),
            _ => drop(self.keys.int(key)?),
        }
        Ok(())
    }

    /// What the tensors show, which the file must agree with where it speaks.
    fn settle(&mut self, key: &str, shown: &Shown) -> Result<usize> {
        let source = match self.keys.int(key)? {
            Some(value) if value != shown.value => {
                return Err(self
                    .keys
                    .error(key, format!("{value}, but {} is what the tensors show: {}", shown.value, shown.by)));
            }
            Some(_) => Source::File,
            None => Source::Tensors,
        };
        if shown.value == 0 {
            return Err(self.error(key, format!("the tensors show 0: {}", shown.by)));
        }
        self.report.record(key, shown.value, source);
        Ok(shown.value)
    }

    fn int_or(&mut self, key: &str, default: usize) -> Result<usize> {
        let given = self.keys.int(key)?;
        let source = if given.is_some() { Source::File } else { Source::Default };
        let value = given.unwrap_or(default);
        self.report.record(key, value, source);
        Ok(value)
    }

    fn float_or(&mut self, key: &str, range: RangeInclusive<f64>, default: f64) -> Result<f64> {
        let given = self.keys.float(key, range)?;
        let source = if given.is_some() { Source::File } else { Source::Default };
        let value = given.unwrap_or(default);
        self.report.record(key, value, source);
        Ok(value)
    }

    /// Says once that the format's default stands in for what no tensor shows.
    fn warn_of_default(&self, key: &str, taking: &str) {
        if !self.report.has(key) {
            tracing::warn!("{key} is not given: {taking}");
        }
    }

    /// `shown` divided by a number that `key` gives.
    fn quotient(&self, key: &str, shown: &Shown, divisor: usize) -> Result<Shown> {
        let Shown { value, by } = shown;
        if divisor == 0 || !value.is_multiple_of(divisor) {
            return Err(self.error(key, format!("{divisor} does not divide {value}: {by}")));
        }
        Ok(Shown { value: value / divisor, by: by.clone() })
    }

    /// An error about `key`, blamed on config.json where that has the key, else on the tensors that show it.
    fn error(&self, key: &str, message: String) -> Error {
        match self.keys.value(key) {
            Some(_) => self.keys.error(key, message),
            None => Error::checkpoint(self.evidence.origin(), format!("{key}: {message}")),
        }
    }

    fn check_even(&self, key: &str, width: usize) -> Result<()> {
        if width.is_multiple_of(2) {
            return Ok(());
        }
        Err(self.error(key, format!("rotary positions need an even width, found {width}")))
    }
}

/// How a list of Mamba2 layers disagrees with what the tensors show, if it does.
fn misfit(listed: &[usize], kinds: &[Kind]) -> Option<String> {
    if let Some(layer) = listed.iter().find(|layer| **layer >= kinds.len()) {
        return Some(format!("layer {layer} is listed, but there are {} layers", kinds.len()));
    }
    let differs = |(layer, kind): &(usize, &Kind)| listed.contains(layer) != (kind.mixer == MixerKind::Mamba2);
    let (layer, kind) = kinds.iter().enumerate().find(differs)?;
    let not = if listed.contains(&layer) { "" } else { "not " };
    Some(format!("layer {layer} is {not}listed, but the tensors layers.{layer}.* show {}", kind.name()))
}
