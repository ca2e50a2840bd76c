//! The families of published checkpoints: each reads its config.json, and says under which names its tensors lie.
//!
//! A family is a file here and a line in [`FAMILIES`]; `parts` and `experts` are what several have in common. What the
//! layers are is [`crate::model`]'s, which knows no family.

mod bamba;
mod deepseek_v2;
mod deepseek_v3;
mod experts;
mod falcon_h1;
mod granitemoehybrid;
mod llama;
mod mamba2;
mod mistral;
mod mixtral;
mod nemotron_h;
mod parts;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use super::keys::Keys;
use super::names::Names;
use super::published::Published;
use super::report::Report;
use super::tensors::Tensors;
use crate::error::Result;
use crate::model::config::ModelConfig;

/// A family of published checkpoints.
#[derive(Debug)]
pub struct Family {
    /// What `model_type` calls it.
    pub model_type: &'static str,
    read: fn(&mut Published<'_>) -> Result<(ModelConfig, Names)>,
}

/// All of them.
pub static FAMILIES: &[Family] = &[
    Family { model_type: "bamba", read: bamba::read },
    Family { model_type: "deepseek_v2", read: deepseek_v2::read },
    Family { model_type: "deepseek_v3", read: deepseek_v3::read },
    Family { model_type: "falcon_h1", read: falcon_h1::read },
    Family { model_type: "granitemoehybrid", read: granitemoehybrid::read },
    Family { model_type: "llama", read: llama::read },
    Family { model_type: "mamba2", read: mamba2::read },
    Family { model_type: "mistral", read: mistral::read },
    Family { model_type: "mixtral", read: mixtral::read },
    Family { model_type: "nemotron_h", read: nemotron_h::read },
    Family { model_type: "qwen2", read: qwen2::read },
    Family { model_type: "qwen3", read: qwen3::read },
    Family { model_type: "qwen3_moe", read: qwen3_moe::read },
];

/// What has a bias in no family: norms, routers, and experts by their older names.
const WITHOUT_BIAS: [&str; 8] =
    ["norm", "input_layernorm", "post_attention_layernorm", "gate", "router.layer", "w1", "w2", "w3"];

impl Family {
    /// The family that config.json names; none where it has no `model_type`.
    ///
    /// # Errors
    /// The family is not among those that are supported.
    pub fn of(keys: &Keys) -> Result<Option<&'static Self>> {
        let key = "model_type";
        let Some(found) = keys.string(key)? else { return Ok(None) };
        let family = FAMILIES.iter().find(|family| family.model_type == found);
        family.map(Some).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            keys.error(key, format!("{found:?} is not supported: expected one of {}", known.join(", ")))
        })
    }

    /// Works out the model, and where its tensors are; the report says where each value came from.
    ///
    /// # Errors
    /// A key is missing, has an impossible value or asks for what is not supported: the error names it.
    pub fn resolve(&self, keys: &Keys, tensors: &Tensors) -> Result<(ModelConfig, Names, Report)> {
        let mut file = Published::new(keys, tensors);
        file.only("model_type", self.model_type)?;
        file.check_architecture()?;
        file.check_biases("the family", false, &WITHOUT_BIAS)?;
        let (config, names) = (self.read)(&mut file)?;
        // The embedding may be there as the head alone.
        let names = if file.is_tied() { names.or("embed_tokens.", "lm_head.") } else { names };
        Ok((config, names, file.finish()))
    }
}
