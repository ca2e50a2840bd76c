//! Causal attention of queries over keys and values that other queries share, without the matrix of all scores
//! (FlashAttention, <https://arxiv.org/abs/2205.14135>): keys are taken in blocks, and what was summed up so far shrinks
//! where a block has a larger score.

mod decode;
mod few;
mod many;
mod prefill;

use std::ops::Range;

use super::gemm::Rows;
use super::isa::Isa;
use super::pages::Columns;

/// The keys of a block.
const KEYS: usize = 64;

/// Vectors of several heads in memory, one a token.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Where the numbers are.
    pub data: &'a [f32],
    /// The distance of heads.
    pub head_stride: usize,
    /// The distance of tokens.
    pub stride: usize,
    /// The numbers of a vector.
    pub width: usize,
}

impl<'a> Heads<'a> {
    fn rows(&self, head: usize, first: usize) -> Rows<'a> {
        let data = self.data.get(head * self.head_stride + first * self.stride..).unwrap_or_default();
        Rows { data, stride: self.stride }
    }

    fn row(&self, head: usize, token: usize) -> &'a [f32] {
        self.rows(head, token).data.get(..self.width).unwrap_or_default()
    }
}

/// What attention runs over. The last of `n_queries` queries stands at the last of `n_keys` keys; head h reads key head
/// `h / (heads / k.heads())`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The queries of `heads` heads.
    pub q: Heads<'a>,
    /// How many heads ask.
    pub heads: usize,
    /// The keys of the heads that answer.
    pub k: Columns<'a>,
    /// The values of the same heads.
    pub v: Columns<'a>,
    /// How many queries each head has.
    pub n_queries: usize,
    /// How many keys there are.
    pub n_keys: usize,
    /// What the products are multiplied by.
    pub scale: f32,
    /// A query sees so many of the last keys, its own among them.
    pub window: usize,
}

impl Attention<'_> {
    /// `y` `[n_queries, heads · value width]`.
    pub fn run(&self, isa: Isa, y: &mut [f32]) {
        if self.n_queries == 1 { self.decode(isa, y) } else { self.prefill(isa, y) }
    }

    fn kv_heads(&self) -> usize {
        self.k.heads()
    }

    fn group(&self) -> usize {
        (self.heads / self.kv_heads().max(1)).max(1)
    }

    /// The keys of a range block by block, each within a page of keys and one of values.
    fn blocks(&self, keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let page_end = |start: usize, page: usize| (start / page).saturating_add(1).saturating_mul(page);
        let (k, v, mut next) = (self.k.page(), self.v.page(), keys.start);
        std::iter::from_fn(move || {
            let start = next;
            next = keys.end.min(start + KEYS).min(page_end(start, k)).min(page_end(start, v));
            (start < next).then_some(start..next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matrix::tests::matrix;
    use crate::kernels::matrix::{Precision, WeightType};
    use crate::kernels::pages::Pages;
    use crate::kernels::pool;
    use crate::kernels::row::{Product, Residual, Tail};
    use proptest::prelude::*;

    fn wave(count: usize, k: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * k).sin() * 2.0).collect()
    }

    fn pages(heads: usize, tokens: usize, width: usize, page: usize, k: f32) -> Pages {
        let mut pages = Pages::new(heads, page, width);
        pages.make_room(tokens);
        let vectors = wave(tokens * heads * width, k);
        vectors.chunks(heads * width).enumerate().for_each(|(token, vectors)| pages.set(token, vectors));
        pages
    }

    /// Attention by its definition, in f64: `[n_queries, heads · value width]`.
    fn exact(attention: &Attention<'_>) -> Vec<f64> {
        let Attention { q, k, v, heads, n_queries, n_keys, scale, window } = *attention;
        let mut y = Vec::new();
        for query in 0..n_queries {
            for head in 0..heads {
                let (kv_head, own) = (head / (heads / k.heads()), n_keys - n_queries + query);
                let keys = (own + 1).saturating_sub(window)..own + 1;
                let score = |key: usize| {
                    let products = q.row(head, query).iter().zip(k.rows(kv_head, key).data);
                    products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(scale)
                };
                let weights: Vec<f64> = keys.clone().map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                y.extend((0..v.width()).map(|at| {
                    let values = keys.clone().map(|key| f64::from(v.rows(kv_head, key).data[at]));
                    weights.iter().zip(values).map(|(weight, value)| weight / total * value).sum::<f64>()
                }));
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_level_equals_the_definition(
            (kv_heads, group) in (1usize..4, prop_oneof![3 => 1usize..8, 1 => 8usize..18]), width in 1usize..40,
            value_width in prop_oneof![1usize..40, 64usize..150],
            n_queries in prop_oneof![Just(1usize), 2usize..80],
            before in prop_oneof![2 => 0usize..150, 1 => 300usize..900],
            window in prop_oneof![Just(usize::MAX), 1usize..100], threads in 1usize..4,
            (k_page, v_page) in prop_oneof![Just((230, 230)), (1usize..100, 1usize..100)],
            (gap, is_shared) in (prop_oneof![Just(0usize), 1usize..20], any::<bool>()),
        ) {
            let (heads, n_keys) = (kv_heads * group, before + n_queries);
            let q = wave(n_queries * heads * width, 0.7);
            let k = pages(kv_heads, n_keys, width.max(value_width) + gap, k_page, 0.3);
            let v = pages(kv_heads, n_keys, value_width + gap, v_page, 0.11);
            let (k, v) = (k.columns(width), if is_shared { &k } else { &v }.columns(value_width));
            let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
            let attention = Attention { q, heads, k, v, n_queries, n_keys, scale: 0.3, window };
            let want = exact(&attention);
            let pool = pool::Pool::new(threads).unwrap();
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; want.len()];
                pool.install(|| attention.run(isa, &mut y));
                for (got, want) in y.iter().zip(&want) {
                    prop_assert!((f64::from(*got) - want).abs() < 2e-5, "{isa:?}: {got} for {want}");
                }
                if n_queries == 1 {
                    let matrix = matrix(WeightType::F32, 40, y.len());
                    let residual = Some(Residual { x: &[0.5; 40], factor: 1.0 });
                    let product = Product { residual, ..Product::plain(&matrix, Precision::Fast) };
                    let got = pool.install(|| attention.decode_into(isa, Tail { product, then: None }));
                    let want = matrix.times(isa, &y, Precision::Fast);
                    prop_assert!(got.iter().zip(&want).all(|(got, want)| (got - 0.5 - want).abs() < 1e-5), "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn many_keys_are_split_among_threads_whatever_their_pages() {
        let (n_keys, width) = (30_000, 16);
        let q = wave(36 * width, 0.7);
        for (heads, k_page, v_page, window) in [
            (4, n_keys, n_keys, usize::MAX),
            (4, 256, 256, 20_001),
            (4, 256, 100, usize::MAX),
            (2, 256, 100, usize::MAX),
            (8, 256, 100, usize::MAX),
            (14, 256, 256, 20_001),
            (16, 256, 100, usize::MAX),
            (36, 256, 256, 20_001),
        ] {
            let q = Heads { data: &q, head_stride: width, stride: heads * width, width };
            let (k, v) = (pages(2, n_keys, width, k_page, 0.3), pages(2, n_keys, width, v_page, 0.11));
            let (k, v) = (k.columns(width), v.columns(width));
            let attention = Attention { q, heads, k, v, n_queries: 1, n_keys, scale: 0.3, window };
            let of_threads = |threads: usize| {
                let mut y = vec![0.0; heads * width];
                pool::Pool::new(threads).unwrap().install(|| attention.run(Isa::best(), &mut y));
                y
            };
            assert!(attention.splits(n_keys.min(window)) > 8);
            let y = of_threads(2);
            assert!([1, 3, 7].iter().all(|threads| of_threads(*threads) == y), "threads change a bit");
            for (got, want) in y.iter().zip(exact(&attention)) {
                assert!((f64::from(*got) - want).abs() < 2e-5, "{got} for {want}: pages of {k_page} and {v_page}");
            }
        }
    }
}
