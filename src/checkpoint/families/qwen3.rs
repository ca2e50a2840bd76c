//! `qwen3`: Qwen3 dense (<https://arxiv.org/abs/2505.09388>).

use super::super::names::Names;
use super::super::published::{Defaults, Published, Sizes};
use super::llama::{ATTENTION, MLP, dense, rotated, sizes};
use super::qwen2::windows;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let gqa = attention(file, sizes, Defaults { head_dim: Some(128), num_kv_heads: Some(32) })?;
    let windows = windows(file, sizes.num_layers)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}

/// Attention with norms over each head's queries and keys.
pub(super) fn attention(file: &mut Published<'_>, sizes: Sizes, defaults: Defaults) -> Result<GqaSpec> {
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.check_biases("the family", false, &MLP)?;
    let eps = file.eps_or("rms_norm_eps", 1e-6)?;
    Ok(GqaSpec { qk_norm_eps: Some(eps), ..rotated(file, sizes, defaults, 10_000.0)? })
}
