//! `deepseek_v3`: DeepSeek V3 and R1, Moonlight (<https://arxiv.org/abs/2412.19437>).

use super::super::names::Names;
use super::super::published::{Published, interleaved};
use super::deepseek_v2::{finish, groups, latent_attention};
use super::llama::sizes;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::moe::{Groups, Routing, Scores};

/// A group of experts is as good as the sum of its best two.
const JUDGED_BY: usize = 2;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.ignore(&["topk_method", "scoring_func"]); // sigmoids and corrected choice, always
    let is_interleaved = file.flag_or(&["rope_interleave"], true)?;
    let mla = latent_attention(file, sizes, if is_interleaved { interleaved } else { |rope| rope })?;
    file.check_tied(false)?;
    let Groups { count, kept, .. } = groups(file, 8, 4, JUDGED_BY)?;
    let scale = file.float_or("routed_scaling_factor", 0.0..=1e9, 2.5)?;
    let routing = sigmoid_routing(file, 8, (count, kept), scale)?;
    finish(file, sizes, mla, 256, 1, 3, routing)
}

/// Sigmoids, whose choice among groups is corrected.
pub(super) fn sigmoid_routing(
    file: &mut Published<'_>,
    default_per_tok: usize,
    (count, kept): (usize, usize),
    scale: f64,
) -> Result<Routing> {
    Ok(Routing {
        experts_per_tok: file.size_or(&["num_experts_per_tok"], default_per_tok)?,
        scores: Scores::Sigmoid,
        is_normalized: file.flag_or(&["norm_topk_prob"], true)?,
        scale,
        groups: (count > 1).then_some(Groups { count, kept, judged_by: JUDGED_BY }),
    })
}
