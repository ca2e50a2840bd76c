//! `llama`: Llama 2 and 3, TinyLlama, SmolLM and many more (<https://arxiv.org/abs/2407.21783>).

use super::super::names::Names;
use super::super::published::{Defaults, Published, Sizes, layer, model};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;

/// The linear layers of attention, and of a SwiGLU layer.
pub(super) const ATTENTION: [&str; 4] = ["q_proj", "k_proj", "v_proj", "o_proj"];
pub(super) const MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    let gqa = rotated(file, sizes, Defaults::default(), 10_000.0)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |_| gqa.clone())
}

/// The sizes of a family with `num_hidden_layers` and the usual activation.
pub(super) fn sizes(file: &mut Published<'_>) -> Result<Sizes> {
    let key = "num_hidden_layers";
    let num_layers = file.size(&[key])?;
    file.only("hidden_act", "silu")?;
    file.sizes(key, num_layers, None)
}

/// Attention whose heads are rotated whole.
pub(super) fn rotated(file: &mut Published<'_>, sizes: Sizes, defaults: Defaults, theta: f64) -> Result<GqaSpec> {
    let gqa = file.attention(sizes.hidden_size, defaults)?;
    let rope = file.rope(("head_dim", gqa.head_dim), theta, sizes.max_seq_len)?;
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
    Ok((model(sizes, norm_eps, layers.collect()), Names::default()))
}
