//! `falcon_h1`: Falcon H1, in which a state-space layer and attention stand side by side
//! (<https://arxiv.org/abs/2507.22448>).

use super::super::names::Names;
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::parts::{ATTENTION, MLP, USUAL, hybrid_names, mamba2, rotated, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, LayerSpec, MixerSpec, ModelConfig, ParallelSpec};
use crate::model::gqa::GqaSpec;
use crate::model::mamba2::{Gating, Mamba2Spec};
use crate::model::mlp::{Activation, MlpSpec};

pub(super) const FAMILY: Family = Family {
    model_type: "falcon_h1",
    architecture: "FalconH1ForCausalLM",
    usual: Usual {
        vocab_size: 128_000,
        intermediate_size: 14_336,
        num_kv_heads: Some(8),
        max_seq_len: 8192,
        norm_eps: 1e-5,
        ..USUAL
    },
    may_be_tied: true,
    read,
};

fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let norm_eps = file.norm_eps("rms_norm_eps")?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    file.biases(&["projectors_bias"], false, &["out_proj"])?;
    let gqa = rotated(file, sizes, 10_000.0)?;
    // What keys are multiplied by, the products of queries and keys are too.
    let scale = gqa.scale * file.multiplier("key_multiplier")?;
    let mixer = MixerSpec::Parallel(ParallelSpec {
        mamba2: state_space(file, sizes.hidden_size, norm_eps)?,
        mamba2_multipliers: (file.multiplier("ssm_in_multiplier")?, file.multiplier("ssm_out_multiplier")?),
        gqa: GqaSpec { scale, ..gqa },
        gqa_multipliers: (file.multiplier("attention_in_multiplier")?, file.multiplier("attention_out_multiplier")?),
    });
    let [gate_multiplier, ffn_multiplier] = file.multipliers("mlp_multipliers")?;
    let intermediate_size = file.intermediate_size()?;
    let ffn = FfnSpec::Mlp(MlpSpec { intermediate_size, activation: Activation::SwiGlu { gate_multiplier } });
    let layer = LayerSpec { ffn_multiplier, ..layer(norm_eps, mixer, ffn) };
    let embedding_multiplier = file.multiplier("embedding_multiplier")?;
    let logits_multiplier = file.multiplier("lm_head_multiplier")?;
    let config = model(sizes, norm_eps, vec![layer; sizes.num_layers]);
    Ok((ModelConfig { embedding_multiplier, logits_multiplier, ..config }, hybrid_names()))
}

fn state_space(file: &mut Published<'_>, hidden_size: usize, norm_eps: f64) -> Result<Mamba2Spec> {
    let usual = mamba2(file, hidden_size, norm_eps, &["in_proj"])?;
    let key = "mamba_d_ssm";
    let inner = file.size_or_null(key, 1024)?;
    let head_dim = match inner {
        Some(inner) if inner % usual.num_heads == 0 => inner / usual.num_heads,
        Some(inner) => {
            let message = format!("{} heads don't divide {inner}", usual.num_heads);
            return Err(file.error(key, message));
        }
        None => usual.head_dim,
    };
    let is_normed = file.flag_or(&["mamba_rms_norm"], false)?;
    let gating = match (is_normed, file.flag_or(&["mamba_norm_before_gate"], true)?) {
        (false, _) => Gating::Alone,
        (true, true) => Gating::AfterNorm(norm_eps),
        (true, false) => Gating::ThenNorm(norm_eps),
    };
    let multipliers = Some(file.multipliers("ssm_multipliers")?);
    Ok(Mamba2Spec { head_dim, gating, multipliers, ..usual })
}
