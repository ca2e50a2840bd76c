//! `qwen2`: Qwen 1.5, 2 and 2.5, and what was distilled into them (<https://arxiv.org/abs/2407.10671>).

use super::super::names::Names;
use super::super::published::{Defaults, Published};
use super::parts::{dense, rotated, sizes, windows};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.check_biases("the family", true, &["q_proj", "k_proj", "v_proj"])?;
    file.check_biases("the family", false, &["o_proj", "gate_proj", "up_proj", "down_proj"])?;
    let gqa = rotated(file, sizes, Defaults { num_kv_heads: Some(32), ..Defaults::default() }, 10_000.0)?;
    let windows = windows(file, sizes.num_layers)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}
