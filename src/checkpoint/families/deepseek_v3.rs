//! `deepseek_v3`: DeepSeek V3 and R1, Moonlight (<https://arxiv.org/abs/2412.19437>).

use super::super::names::Names;
use super::super::published::{Published, Usual};
use super::Family;
use super::deepseek_v2::{Experts, finish, latent_attention};
use super::experts::sigmoid_routing;
use super::parts::{MLP, USUAL, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::rope::Pairing;

pub(super) const FAMILY: Family = Family {
    model_type: "deepseek_v3",
    architecture: "DeepseekV3ForCausalLM",
    usual: Usual {
        vocab_size: 129_280,
        hidden_size: 7168,
        intermediate_size: 18_432,
        num_layers: 61,
        num_heads: 128,
        max_seq_len: 4096,
        ..USUAL
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.ignore(&["topk_method", "scoring_func"]); // sigmoids and corrected choice, always
    let is_interleaved = file.flag_or(&["rope_interleave"], true)?;
    file.check_biases("the family", false, &MLP)?;
    let mla = latent_attention(file, sizes, if is_interleaved { Pairing::Neighbours } else { Pairing::Halves })?;
    let spellings = &["n_routed_experts", "num_local_experts"];
    let experts = Experts { spellings, count: 256, width: 2048, shared: 1, after: 3 };
    finish(file, sizes, mla, &experts, |file| sigmoid_routing(file, 8, (8, 4), 2.5))
}
