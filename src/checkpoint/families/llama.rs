//! `llama`: Llama 2 and 3, TinyLlama, SmolLM and many more (<https://arxiv.org/abs/2407.21783>).

use super::super::names::Names;
use super::super::published::Published;
use super::Family;
use super::parts::{ATTENTION, MLP, USUAL, dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;

pub(super) const FAMILY: Family =
    Family { model_type: "llama", architecture: "LlamaForCausalLM", usual: USUAL, may_be_tied: true, read };

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    let gqa = rotated(file, sizes, 10_000.0)?;
    dense(file, sizes, |_| gqa.clone())
}
