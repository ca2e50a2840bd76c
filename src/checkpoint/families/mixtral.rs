//! `mixtral`: Mixtral 8x7B and 8x22B (<https://arxiv.org/abs/2401.04088>).

use super::super::names::Names;
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::experts::with_stacked_experts;
use super::parts::{ATTENTION, USUAL, rotated, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::moe::{MoeSpec, Routing};

pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    architecture: "MixtralForCausalLM",
    usual: Usual { intermediate_size: 14_336, num_kv_heads: Some(8), max_seq_len: 131_072, norm_eps: 1e-5, ..USUAL },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let window = file.size_if_given("sliding_window")?;
    let gqa = GqaSpec { window, ..rotated(file, sizes, 1e6)? };
    file.check_biases("the family", false, &ATTENTION)?;
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    let num_experts = file.size_or(&["num_local_experts", "num_experts"], 8)?;
    let routing = Routing::softmax_over_chosen(file.size_or(&["num_experts_per_tok"], 2)?);
    file.check_routing(num_experts, &routing)?;
    let ffn = FfnSpec::Moe(MoeSpec {
        num_experts,
        routing,
        expert: MlpSpec::swiglu(file.intermediate_size()?),
        shared: None,
        latent_size: None,
    });
    let layers = (0..sizes.num_layers).map(|_| layer(norm_eps, MixerSpec::Gqa(gqa.clone()), ffn.clone()));
    Ok((model(sizes, norm_eps, layers.collect()), names()))
}

fn names() -> Names {
    let own = Names::of(&[
        ("moe.router.gate.", "block_sparse_moe.gate."),
        ("moe.router.gate.", "mlp.gate."),
        ("moe.experts.{e}.gate_proj.", "block_sparse_moe.experts.{e}.w1."),
        ("moe.experts.{e}.gate_proj.", "mlp.experts.{e}.w1."),
        ("moe.experts.{e}.up_proj.", "block_sparse_moe.experts.{e}.w3."),
        ("moe.experts.{e}.up_proj.", "mlp.experts.{e}.w3."),
        ("moe.experts.{e}.down_proj.", "block_sparse_moe.experts.{e}.w2."),
        ("moe.experts.{e}.down_proj.", "mlp.experts.{e}.w2."),
    ]);
    let own = with_stacked_experts(own, "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj");
    with_stacked_experts(own, "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
}
