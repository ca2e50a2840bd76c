//! `llama`: Llama 2 and 3, TinyLlama, SmolLM and many more (<https://arxiv.org/abs/2407.21783>).

use super::super::names::Names;
use super::super::published::{Published, Usual};
use super::Family;
use super::parts::{ATTENTION, MLP, dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    usual: Usual {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: None,
        head_dim: None,
        max_seq_len: 2048,
        norm_eps: 1e-6,
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    let gqa = rotated(file, sizes, 10_000.0)?;
    dense(file, sizes, |_| gqa.clone())
}
