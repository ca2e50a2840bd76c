//! `mamba2`: Mamba Codestral and the converted Mamba2 models (<https://arxiv.org/abs/2405.21060>).

use super::super::names::Names;
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::parts::{USUAL, check_groups, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::mamba2::{Gating, Mamba2Spec};

/// The context where none is given: a state has no end.
const CONTEXT: usize = 1 << 20;

pub(super) const FAMILY: Family = Family {
    model_type: "mamba2",
    architecture: "Mamba2ForCausalLM",
    usual: Usual { vocab_size: 32_768, num_layers: 64, max_seq_len: CONTEXT, norm_eps: 1e-5, ..USUAL },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.biases(&["use_bias"], false, &["in_proj", "out_proj"])?;
    file.biases(&["use_conv_bias"], true, &["conv1d"])?;
    for ignored in ["norm_before_gate", "rms_norm"] {
        file.flag_or(&[ignored], true)?; // transformers reads neither: the gate comes first
    }
    let norm_eps = file.norm_eps("layer_norm_epsilon")?;
    let spec = Mamba2Spec {
        num_heads: file.size_or(&["num_heads"], 128)?,
        head_dim: file.size_or(&["head_dim"], 64)?,
        state_size: file.size_or(&["state_size"], 128)?,
        n_groups: file.size_or(&["n_groups"], 8)?,
        conv_kernel: file.size_or(&["conv_kernel"], 4)?,
        dt_limit: file.time_step_limit()?,
        gating: Gating::ThenNorm(norm_eps),
        multipliers: None,
    };
    check_groups(file, &spec, &["n_groups"])?;
    let layers = (0..sizes.num_layers).map(|_| layer(norm_eps, MixerSpec::Mamba2(spec.clone()), FfnSpec::None));
    Ok((model(sizes, norm_eps, layers.collect()), names()))
}

fn names() -> Names {
    Names::of(&[
        ("embed_tokens.", "embeddings."),
        ("embed_tokens.", "embedding."),
        ("norm.", "norm_f."),
        ("mamba2.norm.", "norm."),
        ("mamba2.mixer.", "mixer."),
    ])
}
