//! `llama`: Llama 2 and 3, TinyLlama, SmolLM and many more (<https://arxiv.org/abs/2407.21783>).

use super::super::names::Names;
use super::super::published::{Defaults, Published};
use super::parts::{ATTENTION, MLP, dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    let gqa = rotated(file, sizes, Defaults::default(), 10_000.0)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |_| gqa.clone())
}
