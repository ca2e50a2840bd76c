//! `bamba`: Bamba 9B (<https://huggingface.co/blog/bamba>).

use super::super::names::Names;
use super::super::published::{Published, Usual, layer, model};
use super::Family;
use super::parts::{ATTENTION, MLP, USUAL, hybrid_names, mamba2, sizes};
use crate::error::Result;
use crate::model::config::{FfnSpec, MixerSpec, ModelConfig};
use crate::model::gqa::GqaSpec;
use crate::model::mlp::MlpSpec;
use crate::model::rope::RopeSpec;

pub(super) const FAMILY: Family = Family {
    model_type: "bamba",
    architecture: "BambaForCausalLM",
    usual: Usual {
        vocab_size: 128_000,
        intermediate_size: 14_336,
        num_kv_heads: Some(8),
        max_seq_len: 262_144,
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
    let with_attention = file.indices("attn_layer_indices")?.unwrap_or_default();
    file.ignore(&["layer_types", "layers_block_type", "attn_rotary_emb"]); // the indices say it all
    let mamba2 = mamba2(file, sizes.hidden_size, norm_eps, &["in_proj", "out_proj"])?;
    let gqa = file.attention(sizes.hidden_size)?;
    let rotated = (gqa.head_dim as f64 * file.partial_rotary_factor(0.5)?) as usize;
    let rope = rope(file, rotated, gqa.head_dim, sizes.max_seq_len)?;
    let gqa = GqaSpec { rope: Some(rope), ..gqa };
    let ffn = FfnSpec::Mlp(MlpSpec::swiglu(file.intermediate_size()?));
    let mixer = |at: usize| {
        if with_attention.contains(&at) { MixerSpec::Gqa(gqa.clone()) } else { MixerSpec::Mamba2(mamba2.clone()) }
    };
    let layers = (0..sizes.num_layers).map(|at| layer(norm_eps, mixer(at), ffn.clone()));
    Ok((model(sizes, norm_eps, layers.collect()), hybrid_names()))
}

/// A rotation of so many elements, or one more where they are no pairs: the frequencies are those of the odd number.
fn rope(file: &mut Published<'_>, rotated: usize, head_dim: usize, max_seq_len: usize) -> Result<RopeSpec> {
    let (key, width) = ("partial_rotary_factor", rotated.next_multiple_of(2));
    if width > head_dim {
        return Err(file.error(key, format!("{rotated} elements of {head_dim} are no pairs")));
    }
    let rope = file.rope((key, width), 10_000.0, max_seq_len)?;
    Ok(RopeSpec { theta: rope.theta.powf(width as f64 / rotated as f64), ..rope })
}
