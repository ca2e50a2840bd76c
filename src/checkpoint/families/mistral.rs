//! `mistral`: Mistral 7B, Mistral Nemo, Codestral and more (<https://arxiv.org/abs/2310.06825>).

use super::super::names::Names;
use super::super::published::{Published, Usual};
use super::Family;
use super::parts::{ATTENTION, MLP, USUAL, dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    usual: Usual { intermediate_size: 14_336, num_kv_heads: Some(8), max_seq_len: 131_072, ..USUAL },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let window = file.size_or_null("sliding_window", 4096)?;
    let gqa = GqaSpec { window, ..rotated(file, sizes, 10_000.0)? };
    file.check_biases("the family", false, &[ATTENTION.as_slice(), &MLP].concat())?;
    dense(file, sizes, |_| gqa.clone())
}
