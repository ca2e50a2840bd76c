//! Multi-head latent attention (DeepSeek-V2, <https://arxiv.org/abs/2405.04434>, section 2.1) with decoupled RoPE.
//!
//! All that is kept of a token is its latent c_kv and one rotated key part shared by all heads. The projections that
//! would expand them are absorbed: W_uk into the query, W_uv into the output, so that attention runs on the latents.

use candle_core::{Device, Tensor};

use super::cache::{Cache, Rows};
use super::gqa::{merge_heads, split_heads};
use super::input::{Input, Residual};
use super::linear::{Linear, WeightBytes};
use super::norm::Norm;
use super::ops::{Attention, Orientation, PerHead};
use super::rope::{Positions, RopeSpec};
use super::{ops, weights::Weights};
use crate::error::{Error, Result};

/// Keys and values are expanded for a long piece of a prompt only up to this many numbers: 256 MiB.
const EXPANDED: usize = 1 << 26;

/// The sizes and constants of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaSpec {
    /// How many heads there are.
    pub num_heads: usize,
    /// The width of a head's queries and keys without their rotated part.
    pub head_dim: usize,
    /// The width of a head's values.
    pub value_dim: usize,
    /// The width of the latent that keys and values come from.
    pub kv_latent_dim: usize,
    /// The width of the latent that queries come from; none: they come from the layer's input.
    pub q_latent_dim: Option<usize>,
    /// Whether the rotated part of the query comes from the query latent instead of the layer's input.
    pub rope_from_q_latent: bool,
    /// The constant of the norms over the latents, where there are such norms.
    pub latent_norm_eps: Option<f64>,
    /// How positions turn the rotated part; its width is `d_rope`.
    pub rope: RopeSpec,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
}

impl MlaSpec {
    /// The bytes of a sequence's cache after so many tokens.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        tokens.saturating_mul((self.kv_latent_dim + self.rope.width) * size_of::<f32>())
    }
}

/// The latents and rotated keys of one layer and sequence, [1, tokens, kv_latent + d_rope].
#[derive(Debug)]
pub struct MlaCache(Cache);

impl MlaCache {
    /// The cache before the first token.
    pub fn new(spec: &MlaSpec, device: &Device) -> Self {
        Self(Cache::new(1, spec.kv_latent_dim + spec.rope.width, None, device))
    }

    /// A copy that goes on by itself.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        Ok(Self(self.0.copy_to(device)?))
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// What is kept.
    #[cfg(test)]
    pub fn tensors(&self) -> Vec<Tensor> {
        vec![self.0.kept()]
    }
}

/// One layer's weights.
#[derive(Debug)]
pub struct Mla {
    spec: MlaSpec,
    w_dkv: Linear,
    kv_norm: Option<Norm>,
    w_kr: Linear,
    w_dq: Option<(Linear, Option<Norm>)>,
    w_uq: Linear,
    w_qr: Linear,
    w_uk: PerHead,        // [heads, head_dim, kv_latent], expands keys
    w_uk_absorb: PerHead, // [heads, kv_latent, head_dim], the same transposed
    w_uv: PerHead,        // [heads, value_dim, kv_latent]
    o_proj: Linear,
}

impl Mla {
    /// Loads the seven projections (six where queries have no latent), `o_proj` and the norms.
    pub fn load(weights: &Weights<'_>, spec: &MlaSpec, hidden_size: usize) -> Result<Self> {
        let MlaSpec { num_heads, head_dim, value_dim, kv_latent_dim, q_latent_dim, .. } = *spec;
        let d_rope = spec.rope.width;
        let linear = |name, n_in, n_out| Linear::load(&weights.part(name), n_in, n_out);
        let norm =
            |name, size| spec.latent_norm_eps.map(|eps| Norm::load_rms(&weights.part(name), size, eps)).transpose();
        let w_dq = |size| Ok::<_, Error>((linear("w_dq", hidden_size, size)?, norm("q_norm", size)?));
        let q_width = q_latent_dim.unwrap_or(hidden_size);
        let qr_width = if spec.rope_from_q_latent { q_width } else { hidden_size };
        let by_head = |width| [num_heads, width, kv_latent_dim];
        // Quantized along its rows and along its columns, a matrix would be two.
        let both = [Orientation::AsStored, Orientation::Transposed];
        let [w_uk, w_uk_absorb] = weights.as_stored().per_head("w_uk.weight", by_head(head_dim), both)?;
        let [w_uv] = weights.per_head("w_uv.weight", by_head(value_dim), [Orientation::AsStored])?;
        Ok(Self {
            w_dkv: linear("w_dkv", hidden_size, kv_latent_dim)?,
            kv_norm: norm("kv_norm", kv_latent_dim)?,
            w_kr: linear("w_kr", hidden_size, d_rope)?,
            w_dq: q_latent_dim.map(w_dq).transpose()?,
            w_uq: linear("w_uq", q_width, num_heads * head_dim)?,
            w_qr: linear("w_qr", qr_width, num_heads * d_rope)?,
            w_uk,
            w_uk_absorb,
            w_uv,
            o_proj: linear("o_proj", num_heads * value_dim, hidden_size)?,
            spec: spec.clone(),
        })
    }

    /// The bytes of the projections.
    pub(super) fn bytes(&self) -> WeightBytes {
        let linears = [&self.w_dkv, &self.w_kr, &self.w_uq, &self.w_qr, &self.o_proj].into_iter();
        let linears = linears.chain(self.w_dq.as_ref().map(|(w_dq, _)| w_dq)).map(Linear::bytes);
        // Decoding absorbs, and never expands keys.
        linears.chain([self.w_uk.bytes().reading(0), self.w_uk_absorb.bytes(), self.w_uv.bytes()]).sum()
    }

    /// `input` [tokens, hidden] -> [tokens, hidden], added to a residual, and those tokens' latents to `cache`.
    pub fn forward(
        &self,
        input: &Input<'_>,
        positions: &Positions,
        cache: &mut MlaCache,
        residual: Residual<'_>,
    ) -> Result<Tensor> {
        let (input, rope) = (input.for_several()?, positions.rope(&self.spec.rope)?);
        let [c_kv, k_rope] = Linear::all_of([&self.w_dkv, &self.w_kr], &input)?;
        let c_kv = normed(self.kv_norm.as_ref(), &c_kv)?.rows()?.unsqueeze(1)?; // [tokens, 1, kv_latent]
        let k_rope = rope.rotate(&k_rope.unsqueeze(1)?)?; // [tokens, 1, d_rope]
        let cache = cache.0.append(&Tensor::cat(&[&c_kv, &k_rope], 2)?)?;

        let c_q = match &self.w_dq {
            Some((w_dq, norm)) => normed(norm.as_ref(), &w_dq.of(&input)?)?.for_several()?,
            None => input.clone(),
        };
        let q_nope = split_heads(&self.w_uq.of(&c_q)?, self.spec.num_heads)?;
        let q_rope = self.w_qr.of(if self.spec.rope_from_q_latent { &c_q } else { &input })?;
        let q_rope = rope.rotate(&split_heads(&q_rope, self.spec.num_heads)?)?;
        let y = self.attend(&q_nope, &q_rope, &cache)?;
        self.o_proj.onto(residual, &Input::from(&merge_heads(&y)?))
    }

    /// `q_nope` [tokens, heads, head_dim], `q_rope` [tokens, heads, d_rope] and `cache` [1, positions, kv_latent +
    /// d_rope] -> [tokens, heads, value_dim].
    fn attend(&self, q_nope: &Tensor, q_rope: &Tensor, cache: &Rows) -> Result<Tensor> {
        let (queries, positions) = (q_nope.dim(0)?, cache.tokens());
        if self.expanding_is_cheaper(queries) && self.expanded(positions) <= EXPANDED {
            self.attend_expanded(q_nope, q_rope, &cache.joined()?)
        } else {
            self.attend_absorbed(q_nope, q_rope, cache)
        }
    }

    /// Scores and sums over latents cost 2 · kv_latent for each query and key where expanded ones cost head_dim +
    /// value_dim, but expanding costs (head_dim + value_dim) · kv_latent for each key: it pays from some number of queries
    /// on.
    fn expanding_is_cheaper(&self, queries: usize) -> bool {
        let MlaSpec { head_dim, value_dim, kv_latent_dim, .. } = self.spec;
        queries * 2 * kv_latent_dim > (queries + kv_latent_dim) * (head_dim + value_dim)
    }

    /// How many numbers the expanded keys and values have.
    fn expanded(&self, positions: usize) -> usize {
        let MlaSpec { num_heads, head_dim, value_dim, .. } = self.spec;
        positions * num_heads * (head_dim + value_dim + self.spec.rope.width)
    }

    fn attend_absorbed(&self, q_nope: &Tensor, q_rope: &Tensor, cache: &Rows) -> Result<Tensor> {
        let q_latent = self.w_uk_absorb.of_own(&q_nope.transpose(0, 1)?)?; // [heads, tokens, kv_latent]
        let q = Tensor::cat(&[&q_latent.transpose(0, 1)?, q_rope], 2)?;
        let latents = cache.columns(self.spec.kv_latent_dim);
        let y = ops::causal_attention(&q, cache, &latents, self.attention())?; // [tokens, heads, kv_latent]
        Ok(self.w_uv.of_own(&y.transpose(0, 1)?)?.transpose(0, 1)?)
    }

    fn attend_expanded(&self, q_nope: &Tensor, q_rope: &Tensor, cache: &Tensor) -> Result<Tensor> {
        let cache = cache.squeeze(0)?; // [positions, kv_latent + d_rope]
        let latents = cache.narrow(1, 0, self.spec.kv_latent_dim)?.contiguous()?;
        let k_rope = cache.narrow(1, self.spec.kv_latent_dim, self.spec.rope.width)?;
        let k = self.w_uk.of_shared(&latents, Some(&k_rope))?; // [heads, positions, head_dim + d_rope]
        let v = self.w_uv.of_shared(&latents, None)?;
        let q = Tensor::cat(&[q_nope, q_rope], 2)?;
        ops::causal_attention(&q, &Rows::whole(k)?, &Rows::whole(v)?, self.attention())
    }

    fn attention(&self) -> Attention {
        Attention { scale: self.spec.scale, window: None }
    }
}

/// `x` with the norm that comes before the next product, where there is one.
fn normed<'a>(norm: Option<&'a Norm>, x: &Tensor) -> Result<Input<'a>> {
    norm.map_or_else(|| Ok(x.into()), |norm| norm.before(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matrix::{Precision, WeightType};
    use crate::model::config::MixerSpec;
    use crate::model::weights::Settings;
    use crate::support::{HIDDEN, RandomWeights, mla};
    use candle_core::DType;

    /// The largest difference of 300 positions' attention either way.
    fn difference(spec: &MlaSpec, dtype: DType, settings: Settings) -> f32 {
        let mut weights = RandomWeights::new(3);
        weights.dtype = dtype;
        let layer = Mla::load(&Weights::new(&weights, &Device::Cpu, settings), spec, HIDDEN).unwrap();
        let (positions, tokens, width) = (300, 4, spec.kv_latent_dim + spec.rope.width);
        let wave = |shape: (usize, usize, usize), k: f64| {
            let count = (shape.0 * shape.1 * shape.2) as f64;
            let ramp = Tensor::arange(0f64, count, &Device::Cpu).unwrap().affine(k, 0.0).unwrap();
            ramp.sin().unwrap().to_dtype(DType::F32).unwrap().reshape(shape).unwrap()
        };
        let cache = wave((1, positions, width), 0.37);
        let q_nope = wave((tokens, spec.num_heads, spec.head_dim), 0.71);
        let q_rope = wave((tokens, spec.num_heads, spec.rope.width), 0.53);
        let mut held = Cache::new(1, width, None, &Device::Cpu);
        let by_token = cache.transpose(0, 1).unwrap();
        let absorbed = layer.attend_absorbed(&q_nope, &q_rope, &held.append(&by_token).unwrap()).unwrap();
        let expanded = layer.attend_expanded(&q_nope, &q_rope, &cache).unwrap();
        let difference = (absorbed - expanded).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        difference.to_scalar().unwrap()
    }

    #[test]
    fn absorbed_and_expanded_attention_agree_in_every_type_that_weights_are_held_in() {
        let MixerSpec::Mla(spec) = mla() else { unreachable!() };
        let of_blocks = MlaSpec { kv_latent_dim: 64, head_dim: 32, value_dim: 32, ..spec.clone() };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert!(difference(&spec, dtype, Settings::EXACT) < 1e-5);
            let fast = difference(&spec, dtype, Settings { precision: Precision::Fast, ..Settings::EXACT });
            assert!(fast < 0.05, "{fast}");
            for held in WeightType::ALL {
                let exact = difference(&of_blocks, dtype, Settings { dtype: Some(held), ..Settings::EXACT });
                assert!(exact < 1e-5, "{}: {exact}", held.name());
            }
        }
    }

    #[test]
    fn decoding_never_expands() {
        let MixerSpec::Mla(spec) = mla() else { unreachable!() };
        let layer =
            Mla::load(&Weights::new(&RandomWeights::new(3), &Device::Cpu, Settings::default()), &spec, HIDDEN).unwrap();
        assert!(!layer.expanding_is_cheaper(1));
        assert!(layer.expanding_is_cheaper(1000));
    }
}
