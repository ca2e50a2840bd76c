//! Grouped-query attention (<https://arxiv.org/abs/2305.13245>): several query heads read one key and value head. With
//! as many key heads as query heads it is plain multi-head attention.

use candle_core::{Device, Tensor};

use super::cache::Cache;
use super::input::{Input, Residual};
use super::linear::{Linear, WeightBytes};
use super::norm::Norm;
use super::ops::Attention;
use super::rope::{Positions, Rope, RopeSpec};
use super::{ops, weights::Weights};
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::row;

/// The sizes and constants of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct GqaSpec {
    /// How many heads ask.
    pub num_heads: usize,
    /// How many heads answer; divides `num_heads`.
    pub num_kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// How positions turn queries and keys, where they do.
    pub rope: Option<RopeSpec>,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// A token sees so many of the last tokens, itself among them; all where there is no window.
    pub window: Option<usize>,
    /// The constant of the norms over each head's queries and keys, where there are such norms.
    pub qk_norm_eps: Option<f64>,
}

impl GqaSpec {
    /// The bytes of a sequence's cache after so many tokens.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        let kept = tokens.min(self.window.unwrap_or(usize::MAX));
        kept.saturating_mul(2 * self.num_kv_heads * self.head_dim * size_of::<f32>())
    }
}

/// 1 / √width, by which the products of queries and keys of that width are multiplied where nothing else is said.
pub fn usual_scale(width: usize) -> f64 {
    (width as f64).powf(-0.5)
}

/// The keys and values of one layer and sequence, [kv_heads, tokens, head_dim] each.
#[derive(Debug)]
pub struct GqaCache {
    keys: Cache,
    values: Cache,
}

impl GqaCache {
    /// The cache before the first token.
    pub fn new(spec: &GqaSpec, device: &Device) -> Self {
        let cache = || Cache::new(spec.num_kv_heads, spec.head_dim, spec.window, device);
        Self { keys: cache(), values: cache() }
    }

    /// A copy that goes on by itself.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        Ok(Self { keys: self.keys.copy_to(device)?, values: self.values.copy_to(device)? })
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// What is kept.
    #[cfg(test)]
    pub fn tensors(&self) -> Vec<Tensor> {
        vec![self.keys.kept(), self.values.kept()]
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
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

impl Gqa {
    /// Loads `{q,k,v,o}_proj`, with biases where they are there, and `{q,k}_norm` where the layer has them.
    pub fn load(weights: &Weights<'_>, spec: &GqaSpec, hidden_size: usize) -> Result<Self> {
        let (q_width, kv_width) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let norm = |name| {
            let load = |eps| Norm::load_rms(&weights.part(name), spec.head_dim, eps);
            spec.qk_norm_eps.map(load).transpose()
        };
        Ok(Self {
            q_proj: Linear::load(&weights.part("q_proj"), hidden_size, q_width)?,
            k_proj: Linear::load(&weights.part("k_proj"), hidden_size, kv_width)?,
            v_proj: Linear::load(&weights.part("v_proj"), hidden_size, kv_width)?,
            o_proj: Linear::load(&weights.part("o_proj"), q_width, hidden_size)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            spec: spec.clone(),
        })
    }

    /// The bytes of the projections.
    pub(super) fn bytes(&self) -> WeightBytes {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].into_iter().map(Linear::bytes).sum()
    }

    /// `input` [tokens, hidden] -> [tokens, hidden], added to a residual, and those tokens' keys and values to `cache`.
    pub fn forward(
        &self,
        input: &Input<'_>,
        positions: &Positions,
        cache: &mut GqaCache,
        residual: Residual<'_>,
    ) -> Result<Tensor> {
        let GqaSpec { num_heads, num_kv_heads, .. } = self.spec;
        let rope = self.rope(positions)?;
        let [q, k, v] = Linear::all_of([&self.q_proj, &self.k_proj, &self.v_proj], input)?;
        let q = prepare(&split_heads(&q, num_heads)?, self.q_norm.as_ref(), rope)?;
        let k = prepare(&split_heads(&k, num_kv_heads)?, self.k_norm.as_ref(), rope)?;
        let (k, v) = (cache.keys.append(&k)?, cache.values.append(&split_heads(&v, num_kv_heads)?)?);
        let y = ops::causal_attention(&q, &k, &v, self.how())?;
        self.o_proj.onto(residual, &Input::from(&merge_heads(&y)?))
    }

    /// One row on the CPU: from attention on it goes through what comes after it at once.
    pub(super) fn step(
        &self,
        input: row::Input<'_>,
        positions: &Positions,
        cache: &mut GqaCache,
        residual: row::Residual<'_>,
        then: Option<row::Then<'_>>,
    ) -> Result<Vec<f32>> {
        let rope = self.rope(positions)?;
        let projections = ops::each([&self.q_proj, &self.k_proj, &self.v_proj], Linear::of_row)?;
        let [q, k, v] = row::times_all(projections, Isa::best(), input);
        let q = self.prepared(q, self.q_norm.as_ref(), rope)?;
        let k = self.prepared(k, self.k_norm.as_ref(), rope)?;
        let (k, v) = (cache.keys.append_row(&k)?, cache.values.append_row(&v)?);
        let tail = row::Tail { product: row::Product { residual: Some(residual), ..self.o_proj.of_row()? }, then };
        ops::attention_into(&q, k, v, self.how(), tail)
    }

    /// A row's queries or keys with their norm and their position.
    fn prepared(&self, mut x: Vec<f32>, norm: Option<&Norm>, rope: Option<&Rope>) -> Result<Vec<f32>> {
        if let Some(norm) = norm {
            x = row::Input { x: &x, norm: Some(norm.of_row()?) }.to_normed(Isa::best());
        }
        if let Some(rope) = rope {
            rope.rotate_row(&mut x, self.spec.head_dim)?;
        }
        Ok(x)
    }

    fn rope<'a>(&self, positions: &'a Positions) -> Result<Option<&'a Rope>> {
        self.spec.rope.as_ref().map(|rope| positions.rope(rope)).transpose()
    }

    fn how(&self) -> Attention {
        Attention { scale: self.spec.scale, window: self.spec.window }
    }
}

/// Queries or keys [tokens, heads, head_dim] with their norm and their positions.
fn prepare(x: &Tensor, norm: Option<&Norm>, rope: Option<&Rope>) -> Result<Tensor> {
    let x = match norm {
        Some(norm) => norm.forward(x)?,
        None => x.clone(),
    };
    match rope {
        Some(rope) => rope.rotate(&x),
        None => Ok(x),
    }
}

/// [tokens, heads · width] -> [tokens, heads, width].
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, heads, ()))?)
}

/// [tokens, heads, width] -> [tokens, heads · width].
pub(super) fn merge_heads(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, ()))?)
}
