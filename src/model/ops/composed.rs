//! Attention around candle's products, for prompts on a GPU.

use candle_core::{Device, Tensor};

use super::Attention;
use crate::error::Result;

/// At most this many attention scores are held at a time: 256 MiB.
#[cfg(feature = "cuda")]
pub(super) const SCORES: usize = 1 << 26;

/// Where the scores of all heads and queries are too many, key heads are taken one by one and queries in blocks, so that
/// no more than `most_scores` are held however long the prompt is.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, how: Attention, most_scores: usize) -> Result<Tensor> {
    let (heads, tokens, _) = q.dims3()?;
    let (kv_heads, visible) = (k.dim(0)?, k.dim(1)?);
    let (group, start) = (heads / kv_heads, visible - tokens);
    if heads * tokens * visible <= most_scores {
        return attend_block(q, k, v, start, how);
    }
    let block = (most_scores / (group * visible)).clamp(1, tokens);
    let by_head = (0..kv_heads).map(|head| {
        let q = q.narrow(0, head * group, group)?;
        let (k, v) = (k.narrow(0, head, 1)?, v.narrow(0, head, 1)?);
        let blocks = (0..tokens).step_by(block).map(|first| {
            let q = q.narrow(1, first, block.min(tokens - first))?;
            attend_block(&q, &k, &v, start + first, how)
        });
        Ok(Tensor::cat(&blocks.collect::<Result<Vec<_>>>()?, 1)?)
    });
    Ok(Tensor::cat(&by_head.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Attention of queries that stand at the positions from `start` on.
fn attend_block(q: &Tensor, k: &Tensor, v: &Tensor, start: usize, how: Attention) -> Result<Tensor> {
    let (heads, tokens, width) = q.dims3()?;
    let kv_heads = k.dim(0)?;
    let window = how.window.unwrap_or(usize::MAX);
    let first = (start + 1).saturating_sub(window); // the first key that any of the queries sees
    let seen = start + tokens - first;
    let q = (q.contiguous()?.reshape((kv_heads, heads / kv_heads * tokens, width))? * how.scale)?;
    let scores = q.matmul(&packed(&k.narrow(1, first, seen)?)?.transpose(1, 2)?)?.reshape((heads, tokens, seen))?;
    let weights = causal_softmax(&scores, window)?.reshape((kv_heads, (), seen))?;
    Ok(weights.matmul(&packed(&v.narrow(1, first, seen)?)?)?.reshape((heads, tokens, ()))?)
}

/// The same rows, those of a head one after the other: other products a GPU's library doesn't know.
fn packed(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(2)?;
    let is_packed = matches!(x.stride(), [_, stride, 1] if *stride == width);
    if is_packed { Ok(x.clone()) } else { Ok(x.contiguous()?) }
}

/// Softmax of `scores` [heads, tokens, keys], of queries at the last of these keys, over those that each sees.
fn causal_softmax(scores: &Tensor, window: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if scores.device().is_cuda() {
        super::cuda::causal_softmax(scores, window)?;
        return Ok(scores.clone());
    }
    let (_, tokens, keys) = scores.dims3()?;
    Ok(candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&mask(tokens, keys, window, scores.device())?)?)?)
}

/// [tokens, keys], of queries at the last of these keys: zero where the key may be seen, −∞ where it lies in the future
/// or before the window.
fn mask(tokens: usize, keys: usize, window: usize, device: &Device) -> Result<Tensor> {
    let row = |token| {
        let own = keys - tokens + token;
        let is_seen = move |key| key <= own && own - key < window;
        (0..keys).map(move |key| if is_seen(key) { 0.0 } else { f32::NEG_INFINITY })
    };
    let mask: Vec<f32> = (0..tokens).flat_map(row).collect();
    Ok(Tensor::from_vec(mask, (tokens, keys), device)?)
}
