//! `nemotron_h`: Nemotron-H and Nemotron Nano 2 and 3 (<https://arxiv.org/abs/2504.03624>), whose layers are one part each.

use super::super::names::{Names, Part};
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::experts::sigmoid_routing;
use super::parts::{ATTENTION, USUAL, check_groups, each_layer};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::mamba2::{Gating, Mamba2Spec};
use crate::model::mlp::{Activation, MlpSpec};
use crate::model::moe::MoeSpec;

/// The linear layers whose biases go together; those of routed experts have none.
const BIASED: [&str; 6] = [
    "mixer.up_proj",
    "mixer.down_proj",
    "shared_experts.up_proj",
    "shared_experts.down_proj",
    "fc1_latent_proj",
    "fc2_latent_proj",
];

/// How many groups the state-space layers have.
const GROUPS: [&str; 2] = ["mamba_n_groups", "n_groups"];

/// What a layer is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mamba2,
    Attention,
    Mlp,
    Moe,
}

pub(super) const FAMILY: Family = Family {
    model_type: "nemotron_h",
    architecture: "NemotronHForCausalLM",
    usual: Usual {
        vocab_size: 131_072,
        intermediate_size: 21_504,
        num_layers: 4,
        num_kv_heads: Some(8),
        head_dim: Some(128),
        max_seq_len: 4096,
        norm_eps: 1e-5,
        ..USUAL
    },
    may_be_tied: false,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let (key, kinds) = kinds(file)?;
    let sizes = file.sizes_with_layers(key, kinds.len())?;
    file.only("mlp_hidden_act", &["relu2"])?;
    file.only("mamba_hidden_act", &["silu", "swish"])?;
    file.biases(&["use_bias"], false, &["in_proj", "out_proj"])?;
    file.biases(&["mamba_conv_bias", "use_conv_bias"], true, &["conv1d"])?;
    file.biases(&["mlp_bias"], false, &BIASED)?;
    file.check_biases("the family", false, &ATTENTION)?;
    // Layers are one for each letter; there are no positions and no windows.
    file.ignore(&["num_hidden_layers", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"]);
    file.ignore(&["partial_rotary_factor", "sliding_window", "attention_bias", "attention_head_dim"]);
    file.ignore(&["mamba_proj_bias", "n_shared_experts"]);
    let norm_eps = file.norm_eps("layer_norm_epsilon")?;
    let mamba2 = MixerSpec::Mamba2(mamba2(file, norm_eps)?);
    let has = |kind| kinds.contains(&kind);
    let attention =
        if has(Kind::Attention) { MixerSpec::Gqa(file.attention(sizes.hidden_size)?) } else { MixerSpec::None };
    let mlp = FfnSpec::Mlp(relu2(file.intermediate_size()?));
    let moe = if has(Kind::Moe) { FfnSpec::Moe(moe(file)?) } else { FfnSpec::None };
    let layers = kinds.into_iter().map(|kind| {
        let (mixer, ffn) = match kind {
            Kind::Mamba2 => (mamba2.clone(), FfnSpec::None),
            Kind::Attention => (attention.clone(), FfnSpec::None),
            Kind::Mlp => (MixerSpec::None, mlp.clone()),
            Kind::Moe => (MixerSpec::None, moe.clone()),
        };
        layer(norm_eps, mixer, ffn)
    });
    Ok((model(sizes, norm_eps, layers.collect()), names()))
}

/// What each layer is, from a list of names or from a pattern of letters, and the key that says so.
fn kinds(file: &mut Published<'_>) -> Result<(&'static str, Vec<Kind>)> {
    let pattern = "hybrid_override_pattern";
    let names = file.names(&["layers_block_type", "layer_types"])?;
    let letters = file.string_or(pattern, "ME*-")?;
    if let Some(names @ (key, list)) = &names {
        return Ok((key, each_layer(file, names, list.len(), named, "mamba, attention, mlp or moe")?));
    }
    let expected = |found| file.error(pattern, format!("expected the letters M, *, - and E, found {found:?}"));
    let kinds =
        letters.chars().map(|letter| lettered(letter).ok_or_else(|| expected(letter))).collect::<Result<_>>()?;
    Ok((pattern, kinds))
}

fn named(name: &str) -> Option<Kind> {
    match name {
        "mamba" | "linear_attention" => Some(Kind::Mamba2),
        "attention" | "full_attention" => Some(Kind::Attention),
        "mlp" => Some(Kind::Mlp),
        "moe" => Some(Kind::Moe),
        _ => None,
    }
}

fn lettered(letter: char) -> Option<Kind> {
    match letter {
        'M' => Some(Kind::Mamba2),
        '*' => Some(Kind::Attention),
        '-' => Some(Kind::Mlp),
        'E' => Some(Kind::Moe),
        _ => None,
    }
}

fn mamba2(file: &mut Published<'_>, norm_eps: f64) -> Result<Mamba2Spec> {
    let spec = Mamba2Spec {
        num_heads: file.size_or(&["mamba_num_heads"], 128)?,
        head_dim: file.size_or(&["mamba_head_dim"], 64)?,
        state_size: file.size_or(&["ssm_state_size"], 128)?,
        n_groups: file.size_or(&GROUPS, 8)?,
        conv_kernel: file.size_or(&["mamba_d_conv", "conv_kernel"], 4)?,
        dt_limit: file.time_step_limit()?,
        gating: Gating::ThenNorm(norm_eps),
        multipliers: None,
    };
    check_groups(file, &spec, &GROUPS)?;
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
        expert: relu2(file.size_or(&["moe_intermediate_size"], 7688)?),
        shared: Some(relu2(file.size_or(&["moe_shared_expert_intermediate_size"], 7688)?)),
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
