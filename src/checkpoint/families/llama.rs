//! `llama`: Llama 2 and 3, TinyLlama, SmolLM and many more (<https://arxiv.org/abs/2407.21783>).

use super::super::names::Names;
use super::super::published::{Published, Sizes, layer, model};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    for bias in ["attention_bias", "mlp_bias"] {
        file.flag_or(&[bias], false)?; // biases are used where they are
    }
    let gqa = rotated(file, sizes, None, 10_000.0)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |_| gqa.clone())
}

pub(super) fn sizes(file: &mut Published<'_>) -> Result<Sizes> {
    let num_layers = file.size(&["num_hidden_layers"])?;
    file.only("hidden_act", "silu")?;
    file.sizes(num_layers)
}

/// Attention whose heads are rotated whole.
pub(super) fn rotated(file: &mut Published<'_>, sizes: Sizes, head_dim: Option<usize>, theta: f64) -> Result<GqaSpec> {
    let gqa = file.attention(sizes.hidden_size, head_dim)?;
    let rope = file.rope(gqa.head_dim, theta, sizes.max_seq_len)?;
    Ok(GqaSpec { rope: Some(rope), ..gqa })
}

/// Layers of attention and a SwiGLU layer, under the usual names.
pub(super) fn dense(
    file: &mut Published<'_>,
    sizes: Sizes,
    default_eps: f64,
    attention: impl Fn(usize) -> GqaSpec,
) -> Result<(ModelConfig, Names)> {
    let norm_eps = file.eps_or("rms_norm_eps", default_eps)?;
    let ffn = FfnSpec::Mlp(MlpSpec::swiglu(file.size(&["intermediate_size"])?));
    let layers = (0..sizes.num_layers).map(|at| layer(norm_eps, MixerSpec::Gqa(attention(at)), ffn.clone()));
    Ok((model(sizes, norm_eps, layers.collect()), tied_names()))
}

/// The usual names, which are the native ones. A file may have the head alone where it is the embedding too.
pub(super) fn tied_names() -> Names {
    Names::of(&[("embed_tokens.", "embed_tokens."), ("embed_tokens.", "lm_head.")])
}
