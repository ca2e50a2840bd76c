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
use super::published::{Published, Usual};
use super::report::Report;
use super::tensors::Tensors;
use crate::error::Result;
use crate::model::config::ModelConfig;

/// A family of published checkpoints.
#[derive(Debug)]
pub struct Family {
    /// What `model_type` calls it.
    pub model_type: &'static str,
    /// What `architectures` calls its model for the next token.
    architecture: &'static str,
    usual: Usual,
    /// Whether `tie_word_embeddings` means anything.
    may_be_tied: bool,
    read: fn(&mut Published<'_>) -> Result<(ModelConfig, Names)>,
}

/// All of them.
pub static FAMILIES: &[Family] = &[
    bamba::FAMILY,
    deepseek_v2::FAMILY,
    deepseek_v3::FAMILY,
    falcon_h1::FAMILY,
    granitemoehybrid::FAMILY,
    llama::FAMILY,
    mamba2::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    nemotron_h::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
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
        let mut file = Published::new(keys, tensors, self.usual);
        file.only("model_type", &[self.model_type])?;
        file.check_architecture(self.architecture)?;
        file.check_biases("the family", false, &WITHOUT_BIAS)?;
        let (config, names) = (self.read)(&mut file)?;
        let config = file.stretch(config);
        // The embedding may be there as the head alone.
        let names = if file.is_tied(self.may_be_tied)? { names.or("embed_tokens.", "lm_head.") } else { names };
        Ok((config, names, file.finish()))
    }
}
