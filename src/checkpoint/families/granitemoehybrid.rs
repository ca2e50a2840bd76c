//! `granitemoehybrid`: Granite 4.0, hybrid and not, with experts and without
//! (<https://huggingface.co/docs/transformers/model_doc/granitemoehybrid>).

use super::super::names::{Names, Part};
use super::super::published::{Published, layer, model};
use super::Family;
use super::experts::with_stacked_experts;
use super::parts::{ATTENTION, USUAL, each_layer, mamba2, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::moe::{MoeSpec, Routing};

pub(super) const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    architecture: "GraniteMoeHybridForCausalLM",
    usual: USUAL,
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    let kinds = layer_kinds(file, sizes.num_layers)?;
    let mamba2 = mamba2(file, sizes.hidden_size, norm_eps, &["in_proj", "out_proj"])?;
    let gqa = attention(file, sizes.hidden_size, sizes.max_seq_len)?;
    let ffn = ffn(file)?;
    let residual = file.multiplier("residual_multiplier")?;
    let with_multipliers = |mixer: MixerSpec| LayerSpec {
        mixer_multiplier: residual,
        ffn_multiplier: residual,
        ..layer(norm_eps, mixer, ffn.clone())
    };
    let layers = kinds.into_iter().map(|is_attention| {
        with_multipliers(if is_attention { MixerSpec::Gqa(gqa.clone()) } else { MixerSpec::Mamba2(mamba2.clone()) })
    });
    let embedding_multiplier = file.multiplier("embedding_multiplier")?;
    let logits_multiplier = 1.0 / file.float_or("logits_scaling", 1e-9..=1e9, 1.0)?;
    let config = model(sizes, norm_eps, layers.collect());
    Ok((ModelConfig { embedding_multiplier, logits_multiplier, ..config }, names()))
}

/// Whether each layer has attention.
fn layer_kinds(file: &mut Published<'_>, num_layers: usize) -> Result<Vec<bool>> {
    let Some(kinds) = file.names(&["layer_types", "layers_block_type"])? else { return Ok(vec![false; num_layers]) };
    let is_attention = |kind: &str| match kind {
        "attention" | "full_attention" => Some(true),
        "mamba" | "linear_attention" => Some(false),
        _ => None,
    };
    each_layer(file, &kinds, num_layers, is_attention, "mamba or attention")
}

/// Attention whose scale is a key of its own, with positions only where they are asked for.
fn attention(file: &mut Published<'_>, hidden_size: usize, max_seq_len: usize) -> Result<GqaSpec> {
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    let gqa = file.attention(hidden_size)?;
    let has_positions = file.string_or("position_embedding_type", "nope")? == "rope";
    let rope = if has_positions { Some(file.rope(("head_dim", gqa.head_dim), 10_000.0, max_seq_len)?) } else { None };
    file.ignore(&["rope_theta", "rope_scaling", "rope_parameters"]);
    Ok(GqaSpec { scale: file.multiplier("attention_multiplier")?, rope, ..gqa })
}

/// The shared layer, with experts beside it where there are any.
fn ffn(file: &mut Published<'_>) -> Result<FfnSpec> {
    let shared = MlpSpec::swiglu(file.size_or(&["shared_intermediate_size"], 1024)?);
    let num_experts = file.count_or(&["num_local_experts"], 8)?;
    let (experts_per_tok, intermediate_size) =
        (file.count_or(&["num_experts_per_tok"], 2)?, file.size_or(&["intermediate_size"], 8192)?);
    if num_experts == 0 {
        return Ok(FfnSpec::Mlp(shared));
    }
    let routing = Routing::softmax_over_chosen(experts_per_tok);
    file.check_routing(num_experts, &routing)?;
    Ok(FfnSpec::Moe(MoeSpec {
        num_experts,
        routing,
        expert: MlpSpec::swiglu(intermediate_size),
        shared: Some(shared),
        latent_size: None,
    }))
}

fn names() -> Names {
    let own = Names::of(&[
        ("mamba2.mixer.", "mamba."),
        ("mamba2.norm.", "input_layernorm."),
        ("mlp.down_proj.", "shared_mlp.output_linear."),
        ("moe.shared_expert.down_proj.", "shared_mlp.output_linear."),
        ("moe.router.gate.", "block_sparse_moe.router.layer."),
        ("moe.router.gate.", "block_sparse_moe.router."),
    ])
    .with("mlp.gate_proj.", "shared_mlp.input_linear.", Part::Half(0))
    .with("mlp.up_proj.", "shared_mlp.input_linear.", Part::Half(1))
    .with("moe.shared_expert.gate_proj.", "shared_mlp.input_linear.", Part::Half(0))
    .with("moe.shared_expert.up_proj.", "shared_mlp.input_linear.", Part::Half(1));
    let own =
        with_stacked_experts(own, "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight");
    with_stacked_experts(own, "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj")
}
