//! `mistral`: Mistral 7B, Mistral Nemo, Codestral and more (<https://arxiv.org/abs/2310.06825>).

use super::super::names::Names;
use super::super::published::Published;
use super::parts::{ATTENTION, KV_HEADS, MLP, dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let window = if file.is_null("sliding_window") { None } else { Some(file.size_or(&["sliding_window"], 4096)?) };
    let gqa = GqaSpec { window, ..rotated(file, sizes, KV_HEADS, 10_000.0)? };
    file.check_biases("the family", false, &[ATTENTION.as_slice(), &MLP].concat())?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |_| gqa.clone())
}
