//! `nemotron_h`: Nemotron-H and Nemotron Nano 2 and 3 (<https://arxiv.org/abs/2504.03624>), whose layers are one part each.

use super::super::names::{Names, Part};
use super::super::published::{Defaults, Published, layer, model};
use super::experts::sigmoid_routing;
use super::parts::{ATTENTION, CHUNK_SIZE, check_groups};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mamba2::{Gating, Mamba2Spec};
use crate::model::mlp::{Activation, MlpSpec};
use crate::model::moe::MoeSpec;

/// The linear layers whose biases go together; those of routed experts have none.
const MLP: [&str; 6] = [
    "mixer.up_proj",
    "mixer.down_proj",
    "shared_experts.up_proj",
    "shared_experts.down_proj",
    "fc1_latent_proj",
    "fc2_latent_proj",
];

/// What a layer is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mamba2,
    Attention,
    Mlp,
    Moe,
}

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let kinds = kinds(file)?;
    let sizes = file.sizes("hybrid_override_pattern", kinds.len(), None)?;
    file.only("mlp_hidden_act", "relu2")?;
    file.only("mamba_hidden_act", "silu")?;
    file.biases(&["use_bias"], false, &["in_proj", "out_proj"])?;
    file.biases(&["use_conv_bias", "mamba_conv_bias"], true, &["conv1d"])?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    file.check_biases("the family", false, &ATTENTION)?;
    // Layers are one for each letter; there are no positions and no windows; the head is never the embedding.
    file.ignore(&["num_hidden_layers", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"]);
    file.ignore(&["partial_rotary_factor", "sliding_window", "attention_bias", "attention_head_dim"]);
    file.ignore(&["tie_word_embeddings", "mamba_proj_bias", "n_shared_experts"]);
    file.check_head()?;
    let norm_eps = file.eps_or("layer_norm_epsilon", 1e-5)?;
    let mamba2 = MixerSpec::Mamba2(mamba2(file, norm_eps)?);
    let gqa = GqaSpec {
        rope: None,
        ..file.attention(sizes.hidden_size, Defaults { head_dim: Some(128), num_kv_heads: Some(8) })?
    };
    let mlp = FfnSpec::Mlp(relu2(file.size_or(&["intermediate_size"], 21_504)?));
    let moe = if kinds.contains(&Kind::Moe) { FfnSpec::Moe(moe(file)?) } else { FfnSpec::None };
    let layers = kinds.into_iter().map(|kind| {
        let (mixer, ffn) = match kind {
            Kind::Mamba2 => (mamba2.clone(), FfnSpec::None),
            Kind::Attention => (MixerSpec::Gqa(gqa.clone()), FfnSpec::None),
            Kind::Mlp => (MixerSpec::None, mlp.clone()),
            Kind::Moe => (MixerSpec::None, moe.clone()),
        };
        layer(norm_eps, mixer, ffn)
    });
    Ok((model(sizes, norm_eps, layers.collect()), names()))
}

/// What each layer is: from a list of names, or from a pattern of letters.
fn kinds(file: &mut Published<'_>) -> Result<Vec<Kind>> {
    let names = file.names(&["layers_block_type", "layer_types"])?;
    let pattern = file.string_or("hybrid_override_pattern", "")?;
    if let Some(names) = names {
        return names.iter().map(|name| named(file, name)).collect();
    }
    let letter = |letter| match letter {
        'M' => Ok(Kind::Mamba2),
        '*' => Ok(Kind::Attention),
        '-' => Ok(Kind::Mlp),
        'E' => Ok(Kind::Moe),
        other => {
            Err(file.error("hybrid_override_pattern", format!("expected the letters M, *, - and E, found {other:?}")))
        }
    };
    pattern.chars().map(letter).collect()
}

fn named(file: &Published<'_>, name: &str) -> Result<Kind> {
    match name {
        "mamba" | "linear_attention" => Ok(Kind::Mamba2),
        "attention" | "full_attention" => Ok(Kind::Attention),
        "mlp" => Ok(Kind::Mlp),
        "moe" => Ok(Kind::Moe),
        other => {
            let message = format!("{other:?} is not supported: expected mamba, attention, mlp or moe");
            Err(file.error("layers_block_type", message))
        }
    }
}

fn mamba2(file: &mut Published<'_>, norm_eps: f64) -> Result<Mamba2Spec> {
    let spec = Mamba2Spec {
        num_heads: file.size_or(&["mamba_num_heads"], 128)?,
        head_dim: file.size_or(&["mamba_head_dim"], 64)?,
        state_size: file.size_or(&["ssm_state_size"], 128)?,
        n_groups: file.size_or(&["n_groups", "mamba_n_groups"], 8)?,
        conv_kernel: file.size_or(&["conv_kernel", "mamba_d_conv"], 4)?,
        chunk_size: CHUNK_SIZE,
        dt_limit: file.time_step_limit()?,
        gating: Gating::ThenNorm(norm_eps),
        multipliers: None,
    };
    check_groups(file, &spec, "n_groups")?;
    Ok(spec)
}

fn relu2(intermediate_size: usize) -> MlpSpec {
    MlpSpec { intermediate_size, activation: Activation::SquaredRelu }
}

fn moe(file: &mut Published<'_>) -> Result<MoeSpec> {
    let num_experts = file.size_or(&["n_routed_experts", "num_local_experts"], 8)?;
    let routing = sigmoid_routing(file, 2, (1, 1), 1.0)?;
    file.check_routing(num_experts, &routing)?;
    Ok(MoeSpec {
        num_experts,
        routing,
        expert: relu2(file.size(&["moe_intermediate_size"])?),
        shared: Some(relu2(file.size(&["moe_shared_expert_intermediate_size"])?)),
        latent_size: file.size_if_given("moe_latent_size")?,
    })
}

fn names() -> Names {
    Names::of(&[
        ("embed_tokens.", "embeddings."),
        ("embed_tokens.", "embed_tokens."),
        ("norm.", "norm_f."),
        ("mamba2.norm.", "norm."),
        ("input_layernorm.", "norm."),
        ("post_attention_layernorm.", "norm."),
        ("mamba2.mixer.", "mixer."),
        ("self_attn.", "mixer."),
        ("mlp.", "mixer."),
        ("moe.router.gate.", "mixer.gate."),
        ("moe.router.correction", "mixer.gate.e_score_correction_bias"),
        ("moe.experts.{e}.", "mixer.experts.{e}."),
        ("moe.shared_expert.", "mixer.shared_experts."),
        ("moe.latent_in.", "mixer.fc1_latent_proj."),
        ("moe.latent_out.", "mixer.fc2_latent_proj."),
    ])
    .with("moe.experts.{e}.up_proj.weight", "mixer.experts.up_proj", Part::All)
    .with("moe.experts.{e}.down_proj.weight", "mixer.experts.down_proj", Part::All)
}
