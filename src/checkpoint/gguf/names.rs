//! The tensors' names, and what the converter did to them
//! (<https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py>).

use super::super::shard::StoredTensor;
use super::super::storage::Change;
use super::Gguf;
use super::container::TensorInfo;

/// Tensors that are no layer's.
const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd.weight", "embed_tokens.weight"),
    ("output_norm.weight", "norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The factors of the rotation's frequencies, which the configuration has.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What a layer's tensors are called there, and in the native format or, of latent attention, in published checkpoints.
/// Names that end with a dot stand for all that begin so; `{e}` is the number of an expert, all of which are in one tensor.
const IN_LAYERS: [(&str, &str); 39] = [
    ("attn_q.", "self_attn.q_proj."),
    ("attn_k.", "self_attn.k_proj."),
    ("attn_v.", "self_attn.v_proj."),
    ("attn_output.", "self_attn.o_proj."),
    ("attn_q_norm.", "self_attn.q_norm."),
    ("attn_k_norm.", "self_attn.k_norm."),
    ("attn_q_a.", "self_attn.q_a_proj."),
    ("attn_q_a_norm.", "self_attn.q_a_layernorm."),
    ("attn_q_b.", "self_attn.q_b_proj."),
    ("attn_kv_a_mqa.", "self_attn.kv_a_proj_with_mqa."),
    ("attn_kv_a_norm.", "self_attn.kv_a_layernorm."),
    ("attn_kv_b.", "self_attn.kv_b_proj."),
    ("attn_k_b.", "self_attn.w_uk."),
    ("attn_v_b.", "self_attn.w_uv."),
    ("ssm_in.", "mamba2.mixer.in_proj."),
    ("ssm_conv1d.", "mamba2.mixer.conv1d."),
    ("ssm_dt.bias", "mamba2.mixer.dt_bias"),
    ("ssm_a", "mamba2.mixer.A_log"),
    ("ssm_d", "mamba2.mixer.D"),
    ("ssm_norm.", "mamba2.mixer.norm."),
    ("ssm_out.", "mamba2.mixer.out_proj."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("ffn_norm", "post_attention_layernorm.weight"),
    ("ffn_gate.", "mlp.gate_proj."),
    ("ffn_up.", "mlp.up_proj."),
    ("ffn_down.", "mlp.down_proj."),
    ("ffn_gate_inp.", "moe.router.gate."),
    ("exp_probs_b.bias", "moe.router.correction"),
    ("exp_probs_b", "moe.router.correction"),
    ("ffn_gate_exps.", "moe.experts.{e}.gate_proj."),
    ("ffn_up_exps.", "moe.experts.{e}.up_proj."),
    ("ffn_down_exps.", "moe.experts.{e}.down_proj."),
    ("ffn_gate_up_exps.", "moe.experts.{e}.gate_proj."),
    ("ffn_gate_up_exps.", "moe.experts.{e}.up_proj."),
    ("ffn_gate_shexp.", "moe.shared_expert.gate_proj."),
    ("ffn_up_shexp.", "moe.shared_expert.up_proj."),
    ("ffn_down_shexp.", "moe.shared_expert.down_proj."),
    ("ffn_latent_down.", "moe.latent_in."),
    ("ffn_latent_up.", "moe.latent_out."),
];

/// The norm before a layer's mixer, or before all of a layer that has none: its native name depends on the layer.
const FIRST_NORM: &str = "attn_norm.";
const FIRST_NORMS: [&str; 3] = ["input_layernorm.", "mamba2.norm.", "post_attention_layernorm."];

/// Native tensors that are rows of others.
const ROWS: [(&str, &str); 6] = [
    ("attn_q_a.", "self_attn.w_dq."),
    ("attn_q_b.", "self_attn.w_uq."),
    ("attn_q_b.", "self_attn.w_qr."),
    ("attn_kv_a_mqa.", "self_attn.w_dkv."),
    ("attn_kv_a_mqa.", "self_attn.w_kr."),
    ("attn_kv_a_norm.", "self_attn.kv_norm."),
];

/// No model has more experts in a layer.
const MOST_EXPERTS: usize = 4096;

/// How rows of queries and keys lie.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Whether the rows that turn together are side by side.
    pub is_paired: bool,
    /// The rows of a head.
    pub head_dim: usize,
}

/// A tensor of the file as one, or as each expert's, under the names that the model's are looked for. Those of layers
/// behind the first `num_layers` that predict further tokens are left out.
///
/// # Errors
/// It is not known, or has not as many dimensions as it should.
pub fn known(
    file: &Gguf<'_>,
    info: &TensorInfo<'_>,
    num_layers: usize,
    heads: Heads,
) -> Result<Vec<StoredTensor>, String> {
    if let Some((_, native)) = OUTSIDE.iter().find(|(name, _)| *name == info.name) {
        return Ok(vec![stored(info, (*native).to_owned(), info.shape.clone(), Change::None)]);
    }
    if info.name == ROPE_FACTORS {
        return Ok(Vec::new());
    }
    let Some((layer, within)) = in_layer(info.name) else { return Err(unknown(info)) };
    if layer >= num_layers {
        return if file.predicts_further(layer) { Ok(Vec::new()) } else { Err(unknown(info)) };
    }
    match natives(file, layer, within).as_slice() {
        [] => Err(unknown(info)),
        [native] if !native.contains("{e}") => Ok(vec![whole(info, layer, native, heads)]),
        natives => experts(info, layer, natives),
    }
}

fn unknown(info: &TensorInfo<'_>) -> String {
    format!("tensor {} is not known here: leaving it out would change the model", info.name)
}

/// The number of a tensor's layer, and its name within.
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (number, within) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, within))
}

/// The native names within the layer for the tensor `within`.
fn natives(file: &Gguf<'_>, layer: usize, within: &str) -> Vec<String> {
    if within.starts_with(FIRST_NORM) {
        return renamed(within, FIRST_NORM, first_norm(file, layer)).into_iter().collect();
    }
    IN_LAYERS.iter().filter_map(|(name, native)| renamed(within, name, native)).collect()
}

/// `within` with `to` for `from` at its beginning, if that is there: all of it, or with a weight or a bias behind a dot.
fn renamed(within: &str, from: &str, to: &str) -> Option<String> {
    let end = within.strip_prefix(from)?;
    let is_whole = end.is_empty() || from.ends_with('.') && ["weight", "bias"].contains(&end);
    is_whole.then(|| format!("{to}{end}"))
}

fn first_norm(file: &Gguf<'_>, layer: usize) -> &'static str {
    let has = |within: &str| file.has(&format!("blk.{layer}.{within}.weight"));
    let [of_attention, of_state_space, of_ffn] = FIRST_NORMS;
    match (has("attn_output"), has("ssm_in")) {
        (true, _) => of_attention,
        (false, true) => of_state_space,
        (false, false) => of_ffn,
    }
}

fn stored(info: &TensorInfo<'_>, known_as: String, shape: Vec<usize>, change: Change) -> StoredTensor {
    let TensorInfo { name, storage, ref bytes, .. } = *info;
    StoredTensor { name: name.to_owned(), known_as, storage, shape, bytes: bytes.clone(), change }
}

fn whole(info: &TensorInfo<'_>, layer: usize, native: &str, heads: Heads) -> StoredTensor {
    let (shape, change) = before(native, &info.shape, heads);
    stored(info, format!("layers.{layer}.{native}"), shape, change)
}

/// The shape that a tensor had before it was converted, and what else was done to it.
fn before(native: &str, shape: &[usize], heads: Heads) -> (Vec<usize>, Change) {
    let change = match native.rsplit_once('.').map_or(native, |(linear, _)| linear) {
        "self_attn.q_proj" | "self_attn.k_proj" if heads.is_paired => Change::Paired { head_dim: heads.head_dim },
        _ => Change::None,
    };
    match (native, shape) {
        ("mamba2.mixer.conv1d.weight", [channels, taps]) => (vec![*channels, 1, *taps], change),
        ("mamba2.mixer.A_log", _) => (vec![shape.iter().product()], Change::NegatedExp),
        ("mamba2.mixer.D" | "mamba2.mixer.norm.weight", _) => (vec![shape.iter().product()], change),
        ("self_attn.w_uk.weight", [heads, latent, width]) => {
            (vec![heads * width, *latent], Change::Transposed { heads: *heads })
        }
        ("self_attn.w_uv.weight", [heads, width, latent]) => (vec![heads * width, *latent], change),
        _ => (shape.to_vec(), change),
    }
}

/// The matrices of each expert, which are as many as `natives` one below the other.
fn experts(info: &TensorInfo<'_>, layer: usize, natives: &[String]) -> Result<Vec<StoredTensor>, String> {
    let (parts, bytes) = (natives.len(), &info.bytes);
    let &[count @ ..=MOST_EXPERTS, rows, width] = info.shape.as_slice() else {
        return Err(format!("tensor {}: expected [experts, rows, columns], found {:?}", info.name, info.shape));
    };
    if !rows.is_multiple_of(parts) {
        return Err(format!("tensor {}: {rows} rows can't be {parts} matrices", info.name));
    }
    let size = bytes.len() / (count * parts);
    let each = (0..count).flat_map(|expert| natives.iter().map(move |native| (expert, native))).enumerate();
    let matrices = each.map(|(at, (expert, native))| {
        let known_as = format!("layers.{layer}.{}", native.replace("{e}", &expert.to_string()));
        let start = bytes.start + at * size;
        let matrix = stored(info, known_as, vec![rows / parts, width], Change::None);
        StoredTensor { bytes: start..start + size, ..matrix }
    });
    Ok(matrices.collect())
}

/// What a tensor with a native name is called in a GGUF file.
pub fn in_file(native: &str) -> String {
    if let Some((name, _)) = OUTSIDE.iter().find(|(_, known)| *known == native) {
        return (*name).to_owned();
    }
    let found = native.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let named = found.and_then(|(layer, within)| Some(format!("blk.{layer}.{}", within_layer(within)?)));
    named.unwrap_or_else(|| native.to_owned())
}

fn within_layer(native: &str) -> Option<String> {
    let stacked = native.strip_prefix("moe.experts.").and_then(|rest| rest.split_once('.'));
    let native = stacked.map_or_else(|| native.to_owned(), |(_, projection)| format!("moe.experts.{{e}}.{projection}"));
    let norms = FIRST_NORMS.iter().take(2).map(|norm| (FIRST_NORM, *norm));
    let known = ROWS.into_iter().chain(IN_LAYERS).chain(norms);
    known.into_iter().find_map(|(name, known)| renamed(&native, known, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_files_own_names() {
        for (native, name) in [
            ("embed_tokens.weight", "token_embd.weight"),
            ("layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias"),
            ("layers.3.self_attn.w_uk.weight", "blk.3.attn_k_b.weight"),
            ("layers.3.self_attn.w_kr.weight", "blk.3.attn_kv_a_mqa.weight"),
            ("layers.12.moe.experts.7.up_proj.weight", "blk.12.ffn_up_exps.weight"),
            ("layers.0.mamba2.mixer.A_log", "blk.0.ssm_a"),
            ("layers.0.mamba2.norm.weight", "blk.0.attn_norm.weight"),
            ("layers.0.unheard.of", "layers.0.unheard.of"),
        ] {
            assert_eq!(in_file(native), name);
        }
    }
}
