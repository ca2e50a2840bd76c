//! What several families have in common.

use super::super::names::Names;
use super::super::published::{Published, Sizes, Usual, layer, model};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mamba2::{Gating, Mamba2Spec};
use crate::model::mlp::MlpSpec;

/// The linear layers of attention, and of a SwiGLU layer.
pub(super) const ATTENTION: [&str; 4] = ["q_proj", "k_proj", "v_proj", "o_proj"];
pub(super) const MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// What the keys of `llama` mean where they are left out, and most of other families' too.
pub(super) const USUAL: Usual = Usual {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: None,
    head_dim: None,
    max_seq_len: 2048,
    norm_eps: 1e-6,
};

/// The sizes of a family with the usual activation.
pub(super) fn sizes(file: &mut Published<'_>) -> Result<Sizes> {
    file.only("hidden_act", &["silu", "swish"])?;
    file.sizes()
}

/// Attention whose heads are rotated whole.
pub(super) fn rotated(file: &mut Published<'_>, sizes: Sizes, theta: f64) -> Result<GqaSpec> {
    let gqa = file.attention(sizes.hidden_size)?;
    let rope = file.rope(("head_dim", gqa.head_dim), theta, sizes.max_seq_len)?;
    Ok(GqaSpec { rope: Some(rope), ..gqa })
}

/// Layers of attention and a SwiGLU layer, under the usual names.
pub(super) fn dense(
    file: &mut Published<'_>,
    sizes: Sizes,
    attention: impl Fn(usize) -> GqaSpec,
) -> Result<(ModelConfig, Names)> {
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    let ffn = FfnSpec::Mlp(MlpSpec::swiglu(file.intermediate_size()?));
    let layers = (0..sizes.num_layers).map(|at| layer(norm_eps, MixerSpec::Gqa(attention(at)), ffn.clone()));
    Ok((model(sizes, norm_eps, layers.collect()), Names::default()))
}

/// Attention with norms over each head's queries and keys.
pub(super) fn normed_attention(file: &mut Published<'_>, sizes: Sizes) -> Result<GqaSpec> {
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.check_biases("the family", false, &MLP)?;
    let eps = file.norm_eps("rms_norm_eps")?;
    Ok(GqaSpec { qk_norm_eps: Some(eps), ..rotated(file, sizes, 10_000.0)? })
}

/// The window, where it is used.
pub(super) fn window(file: &mut Published<'_>) -> Result<Option<usize>> {
    let is_used = file.flag_or(&["use_sliding_window"], false)?;
    Ok(file.size_or_null("sliding_window", 4096)?.filter(|_| is_used))
}

/// The window of each layer that has one.
pub(super) fn windows(file: &mut Published<'_>, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = window(file)?;
    let first = file.count_or(&["max_window_layers"], 28)?;
    let has_window = match file.names(&["layer_types"])? {
        Some(kinds) => {
            let of = |kind: &str| match kind {
                "sliding_attention" => Some(true),
                "full_attention" => Some(false),
                _ => None,
            };
            each_layer(file, &kinds, num_layers, of, "full_attention or sliding_attention")?
        }
        None => (0..num_layers).map(|at| at >= first).collect(),
    };
    Ok(has_window.into_iter().map(|has_window| window.filter(|_| has_window)).collect())
}

/// What each layer is, as a key's list of names says; `expected` are the names that `of` knows.
pub(super) fn each_layer<T>(
    file: &Published<'_>,
    (key, kinds): &(&str, Vec<String>),
    num_layers: usize,
    of: fn(&str) -> Option<T>,
    expected: &str,
) -> Result<Vec<T>> {
    if kinds.len() != num_layers {
        return Err(file.error(key, format!("expected one for each of {num_layers} layers, found {}", kinds.len())));
    }
    let refused = |kind: &str| file.error(key, format!("{kind:?} is not supported: expected {expected}"));
    kinds.iter().map(|kind| of(kind).ok_or_else(|| refused(kind))).collect()
}

/// The state-space layer as the keys of this family and its relatives describe it. `projections` are those that have
/// biases with `mamba_proj_bias`.
pub(super) fn mamba2(
    file: &mut Published<'_>,
    hidden_size: usize,
    norm_eps: f64,
    projections: &[&str],
) -> Result<Mamba2Spec> {
    file.biases(&["mamba_conv_bias"], true, &["conv1d"])?;
    file.biases(&["mamba_proj_bias"], false, projections)?;
    let num_heads = file.size_or(&["mamba_n_heads"], 128)?;
    let inner = file.size_or(&["mamba_expand"], 2)?.saturating_mul(hidden_size);
    let usual = inner / num_heads;
    let head_dim = if file.is_auto("mamba_d_head") { usual } else { file.size_or(&["mamba_d_head"], usual)? };
    if head_dim == 0 {
        return Err(
            file.error("mamba_n_heads", format!("{num_heads} heads are more than the {inner} values that they share"))
        );
    }
    let spec = Mamba2Spec {
        num_heads,
        head_dim,
        state_size: file.size_or(&["mamba_d_state"], 256)?,
        n_groups: file.size_or(&["mamba_n_groups"], 1)?,
        conv_kernel: file.size_or(&["mamba_d_conv"], 4)?,
        dt_limit: file.time_step_limit()?,
        gating: Gating::ThenNorm(norm_eps),
        multipliers: None,
    };
    check_groups(file, &spec, &["mamba_n_groups"])?;
    Ok(spec)
}

/// Groups must divide the heads.
pub(super) fn check_groups(file: &mut Published<'_>, spec: &Mamba2Spec, spellings: &[&str]) -> Result<()> {
    let Mamba2Spec { num_heads, n_groups, .. } = *spec;
    if num_heads.is_multiple_of(n_groups) {
        return Ok(());
    }
    let key = file.spelling(spellings);
    Err(file.error(key, format!("{n_groups} groups don't divide {num_heads} heads")))
}

/// The names of layers with a Mamba2 mixer, attention or both, and a SwiGLU layer.
pub(super) fn hybrid_names() -> Names {
    Names::of(&[
        ("norm.", "final_layernorm."),
        ("mamba2.mixer.", "mamba."),
        ("mamba2.norm.", "input_layernorm."),
        ("post_attention_layernorm.", "pre_ff_layernorm."),
        ("mlp.", "feed_forward."),
    ])
}
