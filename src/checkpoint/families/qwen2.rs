//! `qwen2`: Qwen 1.5, 2 and 2.5, and what was distilled into them (<https://arxiv.org/abs/2407.10671>).

use super::super::names::Names;
use super::super::published::{Defaults, Published};
use super::llama::{dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.check_biases("the family", true, &["q_proj", "k_proj", "v_proj"])?;
    file.check_biases("the family", false, &["o_proj", "gate_proj", "up_proj", "down_proj"])?;
    let gqa = rotated(file, sizes, Defaults { num_kv_heads: Some(32), ..Defaults::default() }, 10_000.0)?;
    let windows = windows(file, sizes.num_layers)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}

/// The window, where it is used.
pub(super) fn window(file: &mut Published<'_>) -> Result<Option<usize>> {
    let (key, is_used) = ("sliding_window", file.flag_or(&["use_sliding_window"], false)?);
    let window = if file.is_null(key) { None } else { Some(file.size_or(&[key], 4096)?) };
    Ok(window.filter(|_| is_used))
}

/// The window of each layer that has one.
pub(super) fn windows(file: &mut Published<'_>, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = window(file)?;
    let first = file.count_or(&["max_window_layers"], 28)?;
    let has_window = match file.names(&["layer_types"])? {
        Some(kinds) => named_windows(file, &kinds, num_layers)?,
        None => (0..num_layers).map(|at| at >= first).collect(),
    };
    Ok(has_window.into_iter().map(|has_window| window.filter(|_| has_window)).collect())
}

fn named_windows(file: &Published<'_>, kinds: &[String], num_layers: usize) -> Result<Vec<bool>> {
    let key = "layer_types";
    if kinds.len() != num_layers {
        return Err(file.error(key, format!("expected one for each of {num_layers} layers, found {}", kinds.len())));
    }
    let has_window = |kind: &String| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let message = format!("{other:?} is not supported: expected full_attention or sliding_attention");
            Err(file.error(key, message))
        }
    };
    kinds.iter().map(has_window).collect()
}
