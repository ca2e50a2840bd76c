//! What must hold between a configuration and its tensors, whatever the family.

use super::Published;
use crate::error::{Error, Result};
use crate::model::moe::{Groups, Routing};

/// What the classes for the next token are called behind their family's name.
const CAUSAL: &str = "ForCausalLM";

impl Published<'_> {
    pub(super) fn refuse_quantized(&self) -> Result<()> {
        let key = "quantization_config";
        let Some(object) = self.keys.object(key)? else { return Ok(()) };
        let method = object.string("quant_method")?.unwrap_or("unknown");
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

    /// Refuses checkpoints that are not for the next token: classifiers, and what only their own code runs. The model may be
    /// there without its head, if that is the embedding.
    pub fn check_architecture(&mut self, expected: &str) -> Result<()> {
        let Some((key, names)) = self.names(&["architectures"])? else { return Ok(()) };
        let headless = expected.replace(CAUSAL, "Model");
        let is_known = |name: &String| [expected, &headless].iter().any(|known| name.eq_ignore_ascii_case(known));
        if names.iter().any(is_known) {
            return Ok(());
        }
        Err(self.error(key, format!("{names:?} is not supported: expected {expected}")))
    }

    /// Whether the head is the embedding. If it is not, it must be there.
    pub fn is_tied(&mut self, may_be: bool) -> Result<bool> {
        let key = "tie_word_embeddings";
        let is_tied = self.flag_or(&[key], false)? && may_be;
        if is_tied || self.tensors.shape("lm_head.weight").is_some() {
            return Ok(is_tied);
        }
        let message = format!("tensor lm_head.weight is missing, and it is not the embedding ({key})");
        Err(Error::checkpoint(self.tensors.origin(), message))
    }

    /// Whether linear layers of these names have biases, as a key says: one of these spellings.
    pub fn biases(&mut self, spellings: &[&str], default: bool, linears: &[&str]) -> Result<()> {
        let has_biases = self.flag_or(spellings, default)?;
        let key = self.spelling(spellings);
        self.check_biases(key, has_biases, linears)
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
}
