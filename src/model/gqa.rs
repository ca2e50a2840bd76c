//! Grouped-query attention (<https://arxiv.org/abs/2305.13245>): several query heads read one key and value head. With
//! as many key heads as query heads it is plain multi-head attention.

use candle_core::{Device, Tensor};

use super::cache::Cache;
use super::rope::{Positions, RopeSpec};
use super::{linear::Linear, ops, weights::Weights};
use crate::error::Result;

/// The sizes of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct GqaSpec {
    /// How many heads ask.
    pub num_heads: usize,
    /// How many heads answer; divides `num_heads`.
    pub num_kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// How positions turn queries and keys.
    pub rope: RopeSpec,
}

impl GqaSpec {
    /// The bytes that one token adds to a sequence's cache.
    pub fn cache_bytes_per_token(&self) -> usize {
        2 * self.num_kv_heads * self.head_dim * size_of::<f32>()
    }
}

/// The keys and values of one layer and sequence, [kv_heads, tokens, head_dim] each.
#[derive(Debug)]
pub struct GqaCache {
    keys: Cache,
    values: Cache,
}

impl GqaCache {
    /// The cache before the first token.
    pub fn new(spec: &GqaSpec, device: &Device) -> Result<Self> {
        let cache = || Cache::new(spec.num_kv_heads, spec.head_dim, device);
        Ok(Self { keys: cache()?, values: cache()? })
    }

    /// A copy that shares no memory with this cache.
    pub fn snapshot(&self) -> Result<Self> {
        Ok(Self { keys: self.keys.snapshot()?, values: self.values.snapshot()? })
    }

    /// What was added so far.
    pub fn tensors(&self) -> Vec<Tensor> {
        [self.keys.filled(), self.values.filled()].into_iter().flatten().collect()
    }
}

/// One layer's weights.
#[derive(Debug)]
pub struct Gqa {
    spec: GqaSpec,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

impl Gqa {
    /// Loads `{q,k,v,o}_proj`, with biases where they are there.
    pub fn load(weights: &Weights<'_>, spec: &GqaSpec, hidden_size: usize) -> Result<Self> {
        let (q_width, kv_width) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        Ok(Self {
            q_proj: Linear::load(&weights.part("q_proj"), hidden_size, q_width)?,
            k_proj: Linear::load(&weights.part("k_proj"), hidden_size, kv_width)?,
            v_proj: Linear::load(&weights.part("v_proj"), hidden_size, kv_width)?,
            o_proj: Linear::load(&weights.part("o_proj"), q_width, hidden_size)?,
            spec: spec.clone(),
        })
    }

    /// `x` [tokens, hidden] -> [tokens, hidden], adding those tokens' keys and values to `cache`.
    pub fn forward(&self, x: &Tensor, positions: &Positions, cache: &mut GqaCache) -> Result<Tensor> {
        let GqaSpec { num_heads, num_kv_heads, head_dim, .. } = self.spec;
        let rope = positions.rope(self.spec.rope)?;
        let q = rope.rotate(&split_heads(&self.q_proj.forward(x)?, num_heads)?)?;
        cache.keys.append(&rope.rotate(&split_heads(&self.k_proj.forward(x)?, num_kv_heads)?)?)?;
        cache.values.append(&split_heads(&self.v_proj.forward(x)?, num_kv_heads)?)?;
        let scale = (head_dim as f64).powf(-0.5);
        let y = ops::causal_attention(&q, &cache.keys.filled()?, &cache.values.filled()?, positions.start(), scale)?;
        self.o_proj.forward(&merge_heads(&y)?)
    }
}

/// [tokens, heads · width] -> [heads, tokens, width].
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, heads, ()))?.transpose(0, 1)?)
}

/// [heads, tokens, width] -> [tokens, heads · width].
pub(super) fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let tokens = x.dim(1)?;
    Ok(x.transpose(0, 1)?.reshape((tokens, ()))?)
}
