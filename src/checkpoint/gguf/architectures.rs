//! The architectures of llama.cpp: which keys each has, and which family's they are.

use serde_json::{Map, json};

use super::keys::Config;
use super::object;
use crate::error::Result;

/// An architecture of llama.cpp, which is one or several families.
#[derive(Debug)]
pub(super) struct Architecture {
    /// What `general.architecture` calls it.
    pub(super) name: &'static str,
    /// Whether the rows of queries and keys that turn together were put side by side.
    pub(super) is_paired: bool,
    /// Puts down the configuration and tells the family.
    pub(super) read: fn(&mut Config<'_>) -> Result<&'static str>,
}

/// All of them.
pub(super) static ARCHITECTURES: [Architecture; 12] = [
    Architecture { name: "deepseek2", is_paired: false, read: deepseek2 },
    Architecture { name: "falcon-h1", is_paired: false, read: falcon_h1 },
    Architecture { name: "granite", is_paired: true, read: granite },
    Architecture { name: "granitehybrid", is_paired: true, read: granite_or_bamba },
    Architecture { name: "granitemoe", is_paired: true, read: granite },
    Architecture { name: "llama", is_paired: true, read: llama },
    Architecture { name: "mamba2", is_paired: false, read: mamba2 },
    Architecture { name: "nemotron_h", is_paired: true, read: nemotron_h },
    Architecture { name: "nemotron_h_moe", is_paired: true, read: nemotron_h },
    Architecture { name: "qwen2", is_paired: false, read: qwen2 },
    Architecture { name: "qwen3", is_paired: false, read: qwen3 },
    Architecture { name: "qwen3moe", is_paired: false, read: qwen3_moe },
];

/// The state-space keys of granitemoehybrid and its relatives.
const MAMBA: [&str; 5] = ["mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"];

const INTERMEDIATE: (&str, &str) = ("intermediate_size", "feed_forward_length");

fn llama(config: &mut Config<'_>) -> Result<&'static str> {
    config.attention()?;
    config.rotated()?;
    config.needed(&[INTERMEDIATE])?;
    let metadata = &config.file.metadata;
    let (experts, window) = (metadata.count("expert_count")?, metadata.count("attention.sliding_window")?);
    config.ignore(&["expert_used_count"]);
    if let Some(1..) = experts {
        config.counts(&[("num_local_experts", "expert_count"), ("sliding_window", "attention.sliding_window")])?;
        config.needed(&[("num_experts_per_tok", "expert_used_count")])?;
        return Ok("mixtral");
    }
    if let Some(window @ 1..) = window {
        config.put("sliding_window", window);
        return Ok("mistral");
    }
    config.biases(&[("attention_bias", "attn_q.bias"), ("mlp_bias", "ffn_gate.bias")]);
    Ok("llama")
}

fn qwen2(config: &mut Config<'_>) -> Result<&'static str> {
    config.attention()?;
    config.rotated()?;
    config.needed(&[INTERMEDIATE])?;
    Ok("qwen2")
}

fn qwen3(config: &mut Config<'_>) -> Result<&'static str> {
    qwen2(config)?;
    config.biases(&[("attention_bias", "attn_q.bias")]);
    Ok("qwen3")
}

fn qwen3_moe(config: &mut Config<'_>) -> Result<&'static str> {
    qwen3(config)?;
    if config.has_sigmoids()? {
        return Err(config.file.metadata.error("expert_gating_func", "2 (sigmoid) is not supported here"));
    }
    let is_normalized = config.file.metadata.flag("expert_weights_norm")?.unwrap_or(true);
    config.put("norm_topk_prob", is_normalized);
    config.needed(&[
        ("num_experts", "expert_count"),
        ("num_experts_per_tok", "expert_used_count"),
        ("moe_intermediate_size", "expert_feed_forward_length"),
    ])?;
    Ok("qwen3_moe")
}

fn mamba2(config: &mut Config<'_>) -> Result<&'static str> {
    config.state_space(["num_heads", "head_dim", "state_size", "n_groups", "conv_kernel"])?;
    config.floats(&[("layer_norm_epsilon", "attention.layer_norm_rms_epsilon")])?;
    config.biases(&[("use_bias", "ssm_in.bias"), ("use_conv_bias", "ssm_conv1d.bias")]);
    config.ignore(&["feed_forward_length", "attention.head_count"]);
    Ok("mamba2")
}

/// The layers' attention and feed-forward parts, and their biases.
fn hybrid(config: &mut Config<'_>) -> Result<()> {
    config.attention()?;
    config.biases(&[
        ("attention_bias", "attn_q.bias"),
        ("mamba_proj_bias", "ssm_in.bias"),
        ("mamba_conv_bias", "ssm_conv1d.bias"),
    ]);
    if config.file.metadata.value("ssm.inner_size").is_some() {
        config.state_space(MAMBA)?;
    }
    Ok(())
}

/// Bamba is what rotates beside state-space layers and has none of Granite's multipliers.
fn granite_or_bamba(config: &mut Config<'_>) -> Result<&'static str> {
    let metadata = &config.file.metadata;
    let is_rotated = metadata.flag("rope.scaling.finetuned")?.unwrap_or(true);
    if !is_rotated || metadata.value("embedding_scale").is_some() {
        return granite(config);
    }
    hybrid(config)?;
    config.needed(&[INTERMEDIATE])?;
    config.biases(&[("mlp_bias", "ffn_gate.bias")]);
    let with_attention: Vec<usize> =
        (0..config.num_layers).filter(|layer| config.layer_has(*layer, "attn_output.weight")).collect();
    config.put("attn_layer_indices", with_attention);
    let head_dim = config.heads.head_dim;
    let width = config.file.metadata.count("rope.dimension_count")?.unwrap_or(head_dim);
    config.rope(object(json!({"partial_rotary_factor": width as f64 / head_dim as f64})))?;
    Ok("bamba")
}

fn granite(config: &mut Config<'_>) -> Result<&'static str> {
    hybrid(config)?;
    let kind = |layer| if config.layer_has(layer, "attn_output.weight") { "attention" } else { "mamba" };
    let kinds: Vec<&str> = (0..config.num_layers).map(kind).collect();
    config.put("layer_types", kinds);
    config.floats(&[
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ])?;
    config.rotated()?;
    let is_rotated = config.file.metadata.flag("rope.scaling.finetuned")?.unwrap_or(true);
    config.put("position_embedding_type", if is_rotated { "rope" } else { "nope" });
    config.put("num_local_experts", 0);
    config.counts(&[
        INTERMEDIATE,
        ("num_local_experts", "expert_count"),
        ("num_experts_per_tok", "expert_used_count"),
    ])?;
    config.counts(&[
        ("shared_intermediate_size", "feed_forward_length"),
        ("shared_intermediate_size", "expert_shared_feed_forward_length"),
    ])?;
    Ok("granitemoehybrid")
}

/// The converter multiplies the weights by all multipliers.
fn falcon_h1(config: &mut Config<'_>) -> Result<&'static str> {
    hybrid(config)?;
    config.rotated()?;
    config.needed(&[INTERMEDIATE, ("mamba_d_ssm", "ssm.inner_size")])?;
    config.biases(&[
        ("mlp_bias", "ffn_gate.bias"),
        ("projectors_bias", "ssm_out.bias"),
        ("mamba_rms_norm", "ssm_norm.weight"),
    ]);
    config.put("mamba_norm_before_gate", false); // which is how llama.cpp computes
    if !config.file.has("output.weight") {
        tracing::warn!("the head is the embedding, by whose multiplier it was multiplied: its logits are llama.cpp's");
    }
    Ok("falcon_h1")
}

fn nemotron_h(config: &mut Config<'_>) -> Result<&'static str> {
    config.attention()?;
    config.state_space(["mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"])?;
    config.biases(&[("use_bias", "ssm_in.bias"), ("use_conv_bias", "ssm_conv1d.bias"), ("mlp_bias", "ffn_up.bias")]);
    let kinds: Vec<&str> = (0..config.num_layers).map(|layer| nemotron_layer(config, layer)).collect();
    if let Some(layer) = kinds.iter().position(|kind| *kind == "mlp") {
        let width = config.file.rows(&format!("blk.{layer}.ffn_up.weight"))?;
        config.put("intermediate_size", width);
    }
    if kinds.contains(&"moe") {
        nemotron_experts(config)?;
    }
    config.put("layers_block_type", kinds);
    config.floats(&[
        ("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
        ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    ])?;
    config.ignore(&["feed_forward_length", "rope.dimension_count", "rope.freq_base"]); // nothing is rotated
    config.ignore(&["expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"]);
    config.ignore(&["expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_shared_count"]);
    config.ignore(&["expert_weights_norm", "expert_weights_scale", "moe_latent_size", "expert_gating_func"]);
    Ok("nemotron_h")
}

fn nemotron_layer(config: &Config<'_>, layer: usize) -> &'static str {
    let kinds = [("ssm_in.weight", "mamba"), ("attn_output.weight", "attention"), ("ffn_gate_inp.weight", "moe")];
    kinds.iter().find(|(tensor, _)| config.layer_has(layer, tensor)).map_or("mlp", |(_, kind)| kind)
}

fn nemotron_experts(config: &mut Config<'_>) -> Result<()> {
    sigmoids(config)?;
    config.needed(&[
        ("n_routed_experts", "expert_count"),
        ("moe_intermediate_size", "expert_feed_forward_length"),
        ("moe_shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ])?;
    config.counts(&[("moe_latent_size", "moe_latent_size")])
}

/// Experts that sigmoids choose, whose weights are as they are unless a key says more.
fn sigmoids(config: &mut Config<'_>) -> Result<()> {
    let is_normalized = config.file.metadata.flag("expert_weights_norm")?.unwrap_or(false);
    config.put("norm_topk_prob", is_normalized);
    choice(config)
}

/// How many experts are chosen among how many groups, and what their sum is multiplied by.
fn choice(config: &mut Config<'_>) -> Result<()> {
    for key in ["routed_scaling_factor", "n_group", "topk_group"] {
        config.put(key, 1);
    }
    config.needed(&[("num_experts_per_tok", "expert_used_count")])?;
    config.counts(&[("n_group", "expert_group_count"), ("topk_group", "expert_group_used_count")])?;
    let scale = config.file.metadata.float("expert_weights_scale")?.filter(|scale| *scale != 0.0); // 0 is none
    scale.into_iter().for_each(|scale| config.put("routed_scaling_factor", scale));
    Ok(())
}

fn deepseek2(config: &mut Config<'_>) -> Result<&'static str> {
    latent_attention(config)?;
    config.needed(&[INTERMEDIATE])?;
    config.counts(&[
        ("first_k_dense_replace", "leading_dense_block_count"),
        ("n_routed_experts", "expert_count"),
        ("n_shared_experts", "expert_shared_count"),
        ("moe_intermediate_size", "expert_feed_forward_length"),
    ])?;
    if config.has_sigmoids()? {
        if config.file.metadata.value("expert_group_count").is_none() {
            tracing::warn!(
                "the file doesn't say how experts are grouped, as older ones of DeepSeek V3: all are one group"
            );
        }
        sigmoids(config)?;
        return Ok("deepseek_v3");
    }
    choice(config)?;
    config.biases(&[("mlp_bias", "ffn_gate.bias")]);
    let has_groups = config.file.metadata.count("expert_group_count")?.is_some_and(|count| count > 1);
    config.put("topk_method", if has_groups { "group_limited_greedy" } else { "greedy" });
    match config.file.metadata.flag("expert_weights_norm")? {
        Some(true) => Err(config.file.metadata.error("expert_weights_norm", "is not supported beside softmax")),
        _ => Ok("deepseek_v2"),
    }
}

/// Heads have two widths: of a file whose latents expand in one tensor, and of one where they do in two.
fn latent_attention(config: &mut Config<'_>) -> Result<()> {
    let metadata = &config.file.metadata;
    let rotated = metadata.needed("rope.dimension_count")?;
    let width = |split, joined| Ok::<_, crate::error::Error>(metadata.count(split)?.or(metadata.count(joined)?));
    let key_dim = width("attention.key_length_mla", "attention.key_length")?.unwrap_or(0);
    let value_dim = width("attention.value_length_mla", "attention.value_length")?.unwrap_or(0);
    let nope = key_dim.checked_sub(rotated).ok_or_else(|| {
        metadata.error("rope.dimension_count", format!("{rotated} of a head's {key_dim} elements are rotated"))
    })?;
    let q_latent = metadata.count("attention.q_lora_rank")?.filter(|rank| *rank > 0);
    let mut more = Map::new();
    if let Some(log_multiplier) = metadata.float("rope.scaling.yarn_log_multiplier")? {
        let mscale = log_multiplier / 0.1; // the converter multiplies it by that, and keeps one of the two
        more = object(json!({"mscale": mscale, "mscale_all_dim": mscale}));
    }
    config.put("q_lora_rank", q_latent);
    config.put("qk_rope_head_dim", rotated);
    config.put("qk_nope_head_dim", nope);
    config.put("v_head_dim", value_dim);
    config.needed(&[("kv_lora_rank", "attention.kv_lora_rank"), ("num_attention_heads", "attention.head_count")])?;
    config.floats(&[("rms_norm_eps", "attention.layer_norm_rms_epsilon")])?;
    config.biases(&[("attention_bias", "attn_kv_a_mqa.bias")]);
    config.ignore(&["attention.head_count_kv", "attention.key_length", "attention.value_length"]);
    config.rope(more)
}
