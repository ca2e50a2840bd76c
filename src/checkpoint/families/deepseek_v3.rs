//! `deepseek_v3`: DeepSeek V3 and R1, Moonlight (<https://arxiv.org/abs/2412.19437>).

use super::super::names::Names;
use super::super::published::{Published, interleaved};
use super::deepseek_v2::{Experts, finish, latent_attention};
use super::llama::{MLP, sizes};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::moe::{Groups, Routing, Scores};

/// A group of experts is as good as the sum of its best two.
const JUDGED_BY: usize = 2;

pub(super) fn read(file: &mut Published<'_>) -> Result<(ModelConfig, Names)> {
    let sizes = sizes(file)?;
    file.ignore(&["topk_method", "scoring_func"]); // sigmoids and corrected choice, always
    let is_interleaved = file.flag_or(&["rope_interleave"], true)?;
    file.check_biases("the family", false, &MLP)?;
    let mla = latent_attention(file, sizes, if is_interleaved { interleaved } else { |rope| rope })?;
    file.check_tied(false)?;
    let spellings = &["n_routed_experts", "num_local_experts"];
    let experts = Experts { spellings, count: 256, shared: 1, after: 3 };
    finish(file, sizes, mla, &experts, |file| sigmoid_routing(file, 8, (8, 4), 2.5))
}

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
