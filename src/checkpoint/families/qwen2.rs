//! `qwen2`: Qwen 1.5, 2 and 2.5, and what was distilled into them (<https://arxiv.org/abs/2407.10671>).

use super::super::names::Names;
use super::super::published::{Published, Usual};
use super::Family;
use super::parts::{USUAL, dense, rotated, sizes, windows};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    usual: Usual {
        vocab_size: 151_936,
        intermediate_size: 22_016,
        num_kv_heads: Some(32),
        max_seq_len: 32_768,
        ..USUAL
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.check_biases("the family", true, &["q_proj", "k_proj", "v_proj"])?;
    file.check_biases("the family", false, &["o_proj", "gate_proj", "up_proj", "down_proj"])?;
    let gqa = rotated(file, sizes, 10_000.0)?;
    let windows = windows(file, sizes.num_layers)?;
    dense(file, sizes, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}
