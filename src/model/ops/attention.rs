//! Attention: fused on the CPU and for one query a head on a GPU, around candle's products for several.

use candle_core::{Device, Tensor};

use super::super::cache::{Memory, Rows};
#[cfg(any(feature = "cuda", test))]
use super::composed;
use super::{Lent, no_kernels};
use crate::error::{Error, Result};
use crate::kernels::attention::{self, Heads};
use crate::kernels::isa::Isa;
use crate::kernels::pages::Columns;
use crate::kernels::row::Tail;

/// Which scores attention takes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// A query sees so many of the last keys, its own token's among them; all where there is no window.
    pub window: Option<usize>,
}

/// Causal attention with shared key heads. The keys [kv_heads, positions, width] and values [kv_heads, positions,
/// value_width] end at the position of the last of the queries `q` [tokens, heads, width]. Head h reads key head
/// `h / (heads / kv_heads)`. The output is [tokens, heads, value_width].
pub fn causal_attention(q: &Tensor, keys: &Rows, values: &Rows, how: Attention) -> Result<Tensor> {
    match q.device() {
        Device::Cpu => attend_fused(q, keys, values, how),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let (k, v) = (keys.joined()?, values.joined()?);
            match super::cuda::attend_one(q, &k, &v, how)? {
                Some(y) => Ok(y),
                None => Ok(composed::attend(&q.transpose(0, 1)?, &k, &v, how, composed::SCORES)?.transpose(0, 1)?),
            }
        }
        device => Err(no_kernels(device)),
    }
}

/// What a layer's tail makes of the answers to one query for each head, `[heads · width]`, on the CPU.
pub(in crate::model) fn attention_into(
    q: &[f32],
    keys: &Rows,
    values: &Rows,
    how: Attention,
    tail: Tail<'_>,
) -> Result<Vec<f32>> {
    let width = keys.width();
    let q = Heads { data: q, head_stride: width, stride: q.len(), width };
    let heads = q.data.len() / width.max(1);
    with_attention((q, heads, 1), keys, values, how, |attention| attention.decode_into(Isa::best(), tail))
}

fn attend_fused(q: &Tensor, keys: &Rows, values: &Rows, how: Attention) -> Result<Tensor> {
    let (n_queries, heads, width) = q.dims3()?;
    let value_width = values.width();
    let mut y = vec![0.0; n_queries * heads * value_width];
    let q = with_whole_rows(q)?;
    let (lent, [stride, head_stride]) = (Lent::from_start(&q), strides(&q)?);
    let queries = Heads { data: lent.slice()?, head_stride, stride, width };
    with_attention((queries, heads, n_queries), keys, values, how, |attention| attention.run(Isa::best(), &mut y))?;
    Ok(Tensor::from_vec(y, (n_queries, heads, value_width), q.device())?)
}

/// Runs attention of queries, of which each of so many heads has so many.
fn with_attention<T>(
    (q, heads, n_queries): (Heads<'_>, usize, usize),
    keys: &Rows,
    values: &Rows,
    how: Attention,
    run: impl FnOnce(attention::Attention<'_>) -> T,
) -> Result<T> {
    Ok(run(attention::Attention {
        q,
        heads,
        k: columns(keys)?,
        v: columns(values)?,
        n_queries,
        n_keys: keys.tokens(),
        scale: how.scale as f32,
        window: how.window.unwrap_or(usize::MAX),
    }))
}

fn columns(rows: &Rows) -> Result<Columns<'_>> {
    match rows.memory() {
        Memory::Pages(pages) => Ok(pages.columns(rows.width())),
        Memory::Tensor(_) | Memory::None(_) => Err(Error::Internal("attention on the CPU met a GPU's cache".into())),
    }
}

/// The same numbers with those of a row side by side.
pub(super) fn with_whole_rows(x: &Tensor) -> Result<Tensor> {
    if x.stride().last() == Some(&1) { Ok(x.clone()) } else { Ok(x.contiguous()?) }
}

/// How far apart the first and the second indices of three put rows.
fn strides(x: &Tensor) -> Result<[usize; 2]> {
    match x.stride() {
        [first, second, 1] => Ok([*first, *second]),
        other => Err(Error::Internal(format!("attention takes whole rows of heads, found strides {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{values, wave};
    use super::*;

    /// Attention by its definition, in f64, for one query.
    fn exact_attention(q: &[f32], k: &[f32], v: &[f32], width: usize, value_width: usize, scale: f64) -> Vec<f64> {
        let dot = |key: &[f32]| q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let weights: Vec<f64> = k.chunks(width).map(|key| (dot(key) * scale).exp()).collect();
        let total: f64 = weights.iter().sum();
        let value = |j: usize| -> f64 {
            let column = v.iter().skip(j).step_by(value_width);
            weights.iter().zip(column).map(|(w, v)| w / total * f64::from(*v)).sum()
        };
        (0..value_width).map(value).collect()
    }

    fn by_head(x: &Tensor) -> Tensor {
        x.transpose(0, 1).unwrap()
    }

    #[test]
    fn attention_equals_its_definition_fused_and_composed_also_where_queries_are_taken_in_blocks() {
        let (heads, kv_heads, width, value_width, scale) = (4, 2, 6, 3, 0.4);
        let cases = [(0, 1), (9, 1), (0, 40), (7, 5), (300, 1500)];
        for ((start, tokens), window) in
            cases.into_iter().flat_map(|case| [(case, None), (case, Some(1)), (case, Some(8))])
        {
            let positions = start + tokens;
            let q = wave((heads, tokens, width), 0.37);
            let (k, v) = (wave((kv_heads, positions, width), 0.23), wave((kv_heads, positions, value_width), 0.71));
            let how = Attention { scale, window };
            let (held_keys, held_values) =
                (Rows::whole(k.copy().unwrap()).unwrap(), Rows::whole(v.copy().unwrap()).unwrap());
            for got in [
                by_head(&attend_fused(&by_head(&q), &held_keys, &held_values, how).unwrap()),
                composed::attend(&q, &k, &v, how, 1 << 22).unwrap(),
            ] {
                for (head, token) in [(0, 0), (1, tokens / 2), (2, tokens - 1), (3, tokens - 1)] {
                    let row = |x: &Tensor, head: usize, from, count| {
                        values(&x.get(head).unwrap().narrow(0, from, count).unwrap())
                    };
                    let seen = (start + token + 1).min(window.unwrap_or(usize::MAX));
                    let first = start + token + 1 - seen;
                    let (k, v) = (row(&k, head / 2, first, seen), row(&v, head / 2, first, seen));
                    let want = exact_attention(&row(&q, head, token, 1), &k, &v, width, value_width, scale);
                    for (got, want) in row(&got, head, token, 1).iter().zip(want) {
                        let case = (start, tokens, window, head);
                        assert!((f64::from(*got) - want).abs() < 1e-5, "{got} for {want}: {case:?}");
                    }
                }
            }
        }
    }
}
