//! `qwen2`: Qwen 1.5, 2 and 2.5, and what was distilled into them (<https://arxiv.org/abs/2407.10671>).

use super::super::names::Names;
use super::super::published::Published;
use super::llama::{dense, rotated, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gqa::GqaSpec;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    let gqa = rotated(file, sizes, None, 10_000.0)?;
    let windows = windows(file, sizes.num_layers)?;
    file.check_tied(false)?;
    dense(file, sizes, 1e-6, |at| GqaSpec { window: windows.get(at).copied().flatten(), ..gqa.clone() })
}

/// The window of each layer that has one.
pub(super) fn windows(file: &mut Published<'_>, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let is_used = file.flag_or(&["use_sliding_window"], false)?;
    let window = file.size_if_given("sliding_window")?;
    let first = file.count_or(&["max_window_layers"], 28)?;
    let kinds = file.names(&["layer_types"])?;
    let has_window = |at: usize| match &kinds {
        Some(kinds) => kinds.get(at).is_some_and(|kind| kind == "sliding_attention"),
        None => at >= first,
    };
    Ok((0..num_layers).map(|at| window.filter(|_| is_used && has_window(at))).collect())
}
