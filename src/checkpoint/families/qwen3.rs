//! `qwen3`: Qwen3 dense (<https://arxiv.org/abs/2505.09388>).

use super::super::names::Names;
use super::super::published::{Published, Usual};
use super::Family;
use super::parts::{USUAL, dense, normed_attention, sizes, windows};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    usual: Usual {
        vocab_size: 151_936,
        intermediate_size: 22_016,
        num_kv_heads: Some(32),
        head_dim: Some(128),
        max_seq_len: 32_768,
        ..USUAL
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let gqa = normed_attention(file, sizes)?;
    let windows = windows(file, sizes.num_layers)?;
    dense(file, sizes, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}
