//! `deepseek_v2`: DeepSeek V2, its Lite and Coder (<https://arxiv.org/abs/2405.04434>).

use super::super::names::{Names, Part};
use super::super::published::{Published, Sizes, Usual, layer, model};
use super::Family;
use super::experts::mlp_experts;
use super::parts::{USUAL, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::usual_scale;
use crate::model::mla::MlaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::moe::{Groups, MoeSpec, Routing, Scores};
use crate::model::rope::{Pairing, RopeSpec};

/// The linear layers whose biases go together; those of routed experts have none.
const BIASED: [&str; 6] = [
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "shared_experts.gate_proj",
    "shared_experts.up_proj",
    "shared_experts.down_proj",
];

/// The constant of the latents' norms, whatever `rms_norm_eps` says.
const LATENT_EPS: f64 = 1e-6;

pub(super) const FAMILY: Family = Family {
    model_type: "deepseek_v2",
    architecture: "DeepseekV2ForCausalLM",
    usual: Usual { vocab_size: 102_400, ..USUAL },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.ignore(&["norm_topk_prob", "scoring_func"]); // transformers reads neither
    file.biases(&["mlp_bias"], false, &BIASED)?;
    let mla = latent_attention(file, sizes, Pairing::Neighbours)?;
    let spellings = &["n_routed_experts", "num_experts"];
    finish(file, sizes, mla, &Experts { spellings, count: 64, width: 1407, shared: 2, after: 0 }, routing)
}

fn routing(file: &mut Published<'_>) -> Result<Routing> {
    let (count, kept) = (file.size_or(&["n_group"], 1)?, file.size_or(&["topk_group"], 1)?);
    let groups = match file.string_or("topk_method", "greedy")?.as_str() {
        "greedy" => None,
        "group_limited_greedy" => Some(Groups { count, kept, judged_by: 1 }), // its best expert
        other => {
            let message = format!("{other:?} is not supported: expected greedy or group_limited_greedy");
            return Err(file.error("topk_method", message));
        }
    };
    let experts_per_tok = file.size("num_experts_per_tok")?;
    let scale = file.multiplier("routed_scaling_factor")?;
    Ok(Routing { experts_per_tok, scores: Scores::Softmax, is_normalized: false, scale, groups })
}

/// Latent attention, and the names of its tensors.
pub(super) fn latent_attention(file: &mut Published<'_>, sizes: Sizes, pairing: Pairing) -> Result<(MlaSpec, Names)> {
    file.biases(&["attention_bias"], false, &["q_a_proj", "kv_a_proj_with_mqa", "o_proj"])?;
    file.check_biases("the family", false, &["q_proj", "q_b_proj", "kv_b_proj"])?;
    file.ignore(&["head_dim", "num_key_value_heads"]); // they say nothing of latent attention
    let d_rope = file.size_or(&["qk_rope_head_dim"], 64)?;
    let rope = RopeSpec { pairing, ..file.rope(("qk_rope_head_dim", d_rope), 10_000.0, sizes.max_seq_len)? };
    let q_latent_dim = file.size_or_null("q_lora_rank", 1536)?;
    let (head_dim, value_dim) = (file.size_or(&["qk_nope_head_dim"], 128)?, file.size_or(&["v_head_dim"], 128)?);
    let spec = MlaSpec {
        num_heads: file.num_heads()?,
        head_dim,
        value_dim,
        kv_latent_dim: file.size_or(&["kv_lora_rank"], 512)?,
        q_latent_dim,
        rope_from_q_latent: true,
        latent_norm_eps: Some(LATENT_EPS),
        scale: usual_scale(head_dim + d_rope) * file.stretched_softmax_scale(&rope)?,
        rope,
    };
    let names = names(&spec);
    Ok((spec, names))
}

/// Native projections are rows of the published ones: each head's queries have a plain and a rotated part, its latent
/// expands to a key and a value, and the latent stands beside the rotated key.
fn names(spec: &MlaSpec) -> Names {
    let MlaSpec { head_dim, value_dim, kv_latent_dim, .. } = *spec;
    let lanes = |block: usize, from: usize, to: usize| Part::Lanes { block, from, to };
    let (q_width, kv_width) = (head_dim + spec.rope.width, head_dim + value_dim);
    let down_width = kv_latent_dim + spec.rope.width;
    let q_proj = if spec.q_latent_dim.is_some() { "self_attn.q_b_proj." } else { "self_attn.q_proj." };
    mlp_experts()
        .with("self_attn.w_dq.", "self_attn.q_a_proj.", Part::All)
        .with("self_attn.q_norm.", "self_attn.q_a_layernorm.", Part::All)
        .with("self_attn.w_uq.", q_proj, lanes(q_width, 0, head_dim))
        .with("self_attn.w_qr.", q_proj, lanes(q_width, head_dim, q_width))
        .with("self_attn.w_dkv.", "self_attn.kv_a_proj_with_mqa.", lanes(down_width, 0, kv_latent_dim))
        .with("self_attn.w_kr.", "self_attn.kv_a_proj_with_mqa.", lanes(down_width, kv_latent_dim, down_width))
        .with("self_attn.kv_norm.", "self_attn.kv_a_layernorm.", Part::All)
        .with("self_attn.w_uk.", "self_attn.kv_b_proj.", lanes(kv_width, 0, head_dim))
        .with("self_attn.w_uv.", "self_attn.kv_b_proj.", lanes(kv_width, head_dim, kv_width))
}

/// What experts are called, and how many and how wide they are where nothing is said.
pub(super) struct Experts {
    pub(super) spellings: &'static [&'static str],
    pub(super) count: usize,
    pub(super) width: usize,
    pub(super) shared: usize,
    /// So many of the first layers have none.
    pub(super) after: usize,
}

/// The layers: the first ones with a SwiGLU layer, the others with experts.
pub(super) fn finish(
    file: &mut Published<'_>,
    sizes: Sizes,
    (mla, names): (MlaSpec, Names),
    experts: &Experts,
    routing: fn(&mut Published<'_>) -> Result<Routing>,
) -> Result<(ModelConfig, Names)> {
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    let dense = FfnSpec::Mlp(MlpSpec::swiglu(file.intermediate_size()?));
    let n_dense = file.count_or(&["first_k_dense_replace"], experts.after)?.min(sizes.num_layers);
    let mut ffns = vec![dense; n_dense];
    if n_dense < sizes.num_layers {
        let routing = routing(file)?;
        ffns.resize(sizes.num_layers, moe(file, experts, routing)?);
    }
    let layers = ffns.into_iter().map(|ffn| layer(norm_eps, MixerSpec::Mla(mla.clone()), ffn));
    Ok((model(sizes, norm_eps, layers.collect()), names))
}

fn moe(file: &mut Published<'_>, experts: &Experts, routing: Routing) -> Result<FfnSpec> {
    let num_experts = file.size_or(experts.spellings, experts.count)?;
    let n_shared = file.count_or(&["n_shared_experts"], experts.shared)?;
    let width = file.size_or(&["moe_intermediate_size"], experts.width)?;
    file.check_routing(num_experts, &routing)?;
    Ok(FfnSpec::Moe(MoeSpec {
        num_experts,
        routing,
        expert: MlpSpec::swiglu(width),
        shared: (n_shared > 0).then(|| MlpSpec::swiglu(n_shared.saturating_mul(width))),
        latent_size: None,
    }))
}
