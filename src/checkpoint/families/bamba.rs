//! `bamba`: Bamba 9B (<https://huggingface.co/blog/bamba>).

use super::super::names::Names;
use super::super::published::{Published, layer, model};
use super::parts::{ATTENTION, KV_HEADS, MLP, hybrid_names, mamba2, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let norm_eps = file.eps_or("rms_norm_eps", 1e-5)?;
    file.biases(&["attention_bias"], false, &ATTENTION)?;
    file.biases(&["mlp_bias"], false, &MLP)?;
    let with_attention = file.indices("attn_layer_indices")?.unwrap_or_default();
    file.ignore(&["layer_types", "layers_block_type", "attn_rotary_emb"]); // the indices say it all
    let mamba2 = mamba2(file, sizes.hidden_size, norm_eps, &["in_proj", "out_proj"])?;
    let gqa = file.attention(sizes.hidden_size, KV_HEADS)?;
    let rotated = (gqa.head_dim as f64 * file.partial_rotary_factor(0.5)?) as usize;
    let rope = file.rope(("partial_rotary_factor", rotated), 10_000.0, sizes.max_seq_len)?;
    let gqa = GqaSpec { rope: Some(rope), ..gqa };
    let ffn = FfnSpec::Mlp(MlpSpec::swiglu(file.size(&["intermediate_size"])?));
    let mixer = |at: usize| {
        if with_attention.contains(&at) { MixerSpec::Gqa(gqa.clone()) } else { MixerSpec::Mamba2(mamba2.clone()) }
    };
    file.check_tied(false)?;
    let layers = (0..sizes.num_layers).map(|at| layer(norm_eps, mixer(at), ffn.clone()));
    Ok((model(sizes, norm_eps, layers.collect()), hybrid_names()))
}
