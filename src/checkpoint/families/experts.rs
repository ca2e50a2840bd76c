//! Experts as several families have them: how they are chosen, and what their tensors are called.

use super::super::names::{Names, Part};
use super::super::published::Published;
use crate::error::Result;
use crate::model::moe::{Groups, Routing, Scores};

/// A group of experts is as good as the sum of its best two.
const JUDGED_BY: usize = 2;

/// Sigmoids, whose choice among groups is corrected, with the defaults for a token's experts, for all groups and those
/// that are kept, and for the scale.
pub(super) fn sigmoid_routing(
    file: &mut Published<'_>,
    experts_per_tok: usize,
    (count, kept): (usize, usize),
    scale: f64,
) -> Result<Routing> {
    let (count, kept) = (file.size_or(&["n_group"], count)?, file.size_or(&["topk_group"], kept)?);
    Ok(Routing {
        experts_per_tok: file.size_or(&["num_experts_per_tok"], experts_per_tok)?,
        scores: Scores::Sigmoid,
        is_normalized: file.flag_or(&["norm_topk_prob"], true)?,
        scale: file.float_or("routed_scaling_factor", 0.0..=1e9, scale)?,
        groups: (count > 1).then_some(Groups { count, kept, judged_by: JUDGED_BY }),
    })
}

/// The names of experts as [transformers](https://github.com/huggingface/transformers) 5 holds them, all in one tensor
/// for each projection.
pub(super) fn with_stacked_experts(names: Names, gate_up: &'static str, down: &'static str) -> Names {
    names
        .with("moe.experts.{e}.gate_proj.weight", gate_up, Part::Half(0))
        .with("moe.experts.{e}.up_proj.weight", gate_up, Part::Half(1))
        .with("moe.experts.{e}.down_proj.weight", down, Part::All)
}

/// The names of the usual layer of experts below `mlp`: each by itself, or all in one tensor.
pub(super) fn mlp_experts() -> Names {
    let own = Names::of(&[
        ("moe.router.gate.", "mlp.gate."),
        ("moe.router.correction", "mlp.gate.e_score_correction_bias"),
        ("moe.experts.{e}.", "mlp.experts.{e}."),
        ("moe.shared_expert.", "mlp.shared_experts."),
    ]);
    with_stacked_experts(own, "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
}
