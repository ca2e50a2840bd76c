//! `qwen3`: Qwen3 dense (<https://arxiv.org/abs/2505.09388>).

use super::super::names::Names;
use super::super::published::{Defaults, Published};
use super::parts::{dense, normed_attention, sizes, windows};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let gqa = normed_attention(file, sizes, Defaults { head_dim: Some(128), num_kv_heads: Some(32) })?;
    let windows = windows(file, sizes.num_layers)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}
