//! `qwen3_moe`: Qwen3 with experts (<https://arxiv.org/abs/2505.09388>).

use super::super::names::Names;
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::experts::mlp_experts;
use super::parts::{USUAL, normed_attention, sizes, window};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::moe::{MoeSpec, Routing};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    architecture: "Qwen3MoeForCausalLM",
    usual: Usual {
        vocab_size: 151_936,
        hidden_size: 2048,
        intermediate_size: 6144,
        num_layers: 24,
        num_kv_heads: Some(4),
        max_seq_len: 32_768,
        ..USUAL
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let gqa = normed_attention(file, sizes)?;
    let mixer = MixerSpec::Gqa(GqaSpec { window: window(file)?, ..gqa });
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    let dense = FfnSpec::Mlp(MlpSpec::swiglu(file.intermediate_size()?));
    let num_experts = file.count_or(&["num_experts", "num_local_experts"], 128)?;
    let ffns = if num_experts == 0 {
        vec![dense; sizes.num_layers]
    } else {
        let moe = moe(file, num_experts)?;
        let has_experts = layers_with_experts(file, sizes.num_layers)?.into_iter();
        has_experts.map(|has_experts| if has_experts { moe.clone() } else { dense.clone() }).collect()
    };
    let layers = ffns.into_iter().map(|ffn| layer(norm_eps, mixer.clone(), ffn));
    Ok((model(sizes, norm_eps, layers.collect()), mlp_experts()))
}

fn moe(file: &mut Published<'_>, num_experts: usize) -> Result<FfnSpec> {
    let routing = Routing {
        is_normalized: file.flag_or(&["norm_topk_prob"], false)?,
        ..Routing::softmax_over_chosen(file.size_or(&["num_experts_per_tok"], 8)?)
    };
    file.check_routing(num_experts, &routing)?;
    Ok(FfnSpec::Moe(MoeSpec {
        num_experts,
        routing,
        expert: MlpSpec::swiglu(file.size_or(&["moe_intermediate_size"], 768)?),
        shared: None,
        latent_size: None,
    }))
}

fn layers_with_experts(file: &mut Published<'_>, num_layers: usize) -> Result<Vec<bool>> {
    let dense = file.indices("mlp_only_layers")?.unwrap_or_default();
    let step = file.size_or(&["decoder_sparse_step"], 1)?;
    Ok((0..num_layers).map(|at| !dense.contains(&at) && (at + 1) % step == 0).collect())
}
