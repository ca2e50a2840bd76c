//! Mixture of experts: a router picks the k experts with the largest logits for each token and weighs them by the
//! softmax over those k alone (<https://arxiv.org/abs/2401.04088>), with an expert shared by all tokens where present
//! (<https://arxiv.org/abs/2401.06066>).

use candle_core::Tensor;

use super::{linear::Linear, mlp::Mlp, weights::Weights};
use crate::error::Result;

/// The sizes of one layer of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// How many routed experts there are.
    pub num_experts: usize,
    /// How many of them a token visits.
    pub experts_per_tok: usize,
    /// The inner size of each routed expert.
    pub intermediate_size: usize,
    /// The inner size of the shared expert, where there is one.
    pub shared_intermediate_size: Option<usize>,
}

/// A layer of experts.
#[derive(Debug)]
pub struct Moe {
    router: Linear,
    experts: Vec<Mlp>,
    shared: Option<Mlp>,
    experts_per_tok: usize,
}

/// The tokens that visit one expert, with the share that its answer has in each token's sum.
#[derive(Clone, Debug, Default, PartialEq)]
struct Visits {
    tokens: Vec<u32>,
    shares: Vec<f32>,
}

impl Moe {
    /// Loads the router (`router.gate`, or `gate` as older checkpoints have it), the experts and the shared expert.
    pub fn load(weights: &Weights<'_>, spec: &MoeSpec, hidden_size: usize) -> Result<Self> {
        let shape = [spec.num_experts, hidden_size];
        let router = match weights.get_if_present("gate.weight", &shape)? {
            Some(gate) => Linear::new(gate),
            None => Linear::load(&weights.part("router.gate"), hidden_size, spec.num_experts)?,
        };
        let expert = |e| Mlp::load(&weights.part("experts").part(e), hidden_size, spec.intermediate_size);
        let shared = |size| Mlp::load(&weights.part("shared_expert"), hidden_size, size);
        Ok(Self {
            router,
            experts: (0..spec.num_experts).map(expert).collect::<Result<_>>()?,
            shared: spec.shared_intermediate_size.map(shared).transpose()?,
            experts_per_tok: spec.experts_per_tok,
        })
    }

    /// `x` [tokens, hidden] -> [tokens, hidden]. Only the experts that are visited are read.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward(x)?.to_vec2::<f32>()?; // [tokens, experts]
        let mut sum = match &self.shared {
            Some(shared) => shared.forward(x)?,
            None => x.zeros_like()?,
        };
        let visits = route(&logits, self.experts.len(), self.experts_per_tok);
        for (expert, Visits { tokens, shares }) in self.experts.iter().zip(visits) {
            if tokens.is_empty() {
                continue;
            }
            let count = tokens.len();
            let tokens = Tensor::from_vec(tokens, count, x.device())?;
            let shares = Tensor::from_vec(shares, (count, 1), x.device())?;
            let answer = expert.forward(&x.index_select(&tokens, 0)?)?.broadcast_mul(&shares)?;
            sum = sum.index_add(&tokens, &answer, 0)?;
        }
        Ok(sum)
    }
}

/// Gathers tokens by expert from the router's logits [tokens][experts].
fn route(logits: &[Vec<f32>], num_experts: usize, experts_per_tok: usize) -> Vec<Visits> {
    let mut visits = vec![Visits::default(); num_experts];
    for (token, logits) in (0u32..).zip(logits) {
        for (expert, share) in top_k(logits, experts_per_tok) {
            if let Some(visits) = visits.get_mut(expert) {
                visits.tokens.push(token);
                visits.shares.push(share);
            }
        }
    }
    visits
}

/// The k experts with the largest logits (the first of equals) and the softmax over those k.
fn top_k(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut top: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    top.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    top.truncate(k);
    let largest = top.first().map_or(0.0, |(_, logit)| *logit);
    top.iter_mut().for_each(|(_, logit)| *logit = (*logit - largest).exp());
    let total: f32 = top.iter().map(|(_, weight)| weight).sum();
    top.iter_mut().for_each(|(_, weight)| *weight /= total);
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_softmax_over_the_chosen_logits_alone() {
        let top = top_k(&[1.0, 3.0, 2.0, -5.0], 2);
        let share = 1.0 / (1.0 + (-1.0f32).exp());
        assert_eq!(top.iter().map(|(expert, _)| *expert).collect::<Vec<_>>(), [1, 2]);
        assert!((top[0].1 - share).abs() < 1e-6 && (top[1].1 - (1.0 - share)).abs() < 1e-6, "{top:?}");
    }

    #[test]
    fn of_equal_logits_the_first_experts_are_chosen() {
        assert_eq!(top_k(&[0.5; 4], 2), [(0, 0.5), (1, 0.5)]);
    }

    #[test]
    fn tokens_are_gathered_by_expert() {
        let visits = route(&[vec![9.0, 0.0, 0.0], vec![0.0, 0.0, 9.0], vec![9.0, 0.0, 0.0]], 3, 1);
        assert_eq!(visits[0].tokens, [0, 2]);
        assert!(visits[1].tokens.is_empty());
        assert_eq!(visits[2], Visits { tokens: vec![1], shares: vec![1.0] });
    }

    #[test]
    fn logits_that_are_not_numbers_do_not_panic() {
        assert_eq!(top_k(&[f32::NAN; 3], 2).len(), 2);
    }
}
