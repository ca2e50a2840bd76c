//! Mixture of experts: a router scores the experts for each token, the k best ones answer, and the sum of their answers
//! is weighed by their scores, with an expert shared by all tokens where present (<https://arxiv.org/abs/2401.06066>).
//!
//! Scores are a softmax (<https://arxiv.org/abs/2401.04088>) or sigmoids whose choice a bias corrects
//! (<https://arxiv.org/abs/2408.15664>); experts may be chosen among the best groups alone
//! (<https://arxiv.org/abs/2405.04434>, section 2.2), and may work on a narrower projection of the token.

#[cfg(all(test, feature = "cuda-emulator"))]
mod on_gpu;

use std::cmp::Ordering;

use candle_core::Tensor;

use super::input::{Input, Residual};
use super::linear::{Linear, WeightBytes};
use super::mlp::{Mlp, MlpSpec};
use super::ops;
use super::weights::Weights;
use crate::error::{Error, Result};

/// What keeps the sum of sigmoids from being zero.
const SMALLEST_SUM: f32 = 1e-20;

/// The sizes and the routing of one layer of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// How many routed experts there are.
    pub num_experts: usize,
    /// How experts are chosen and weighed.
    pub routing: Routing,
    /// Each routed expert.
    pub expert: MlpSpec,
    /// The shared expert, where there is one.
    pub shared: Option<MlpSpec>,
    /// The width of the projection that routed experts work on; none: they work on the token itself.
    pub latent_size: Option<usize>,
}

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// How many experts a token visits.
    pub experts_per_tok: usize,
    /// What logits become.
    pub scores: Scores,
    /// Whether the scores of the chosen are divided by their sum.
    pub is_normalized: bool,
    /// What they are multiplied by then.
    pub scale: f64,
    /// Which experts may be chosen; all where there are no groups.
    pub groups: Option<Groups>,
}

/// What a router's logits become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// A softmax over all experts.
    Softmax,
    /// A sigmoid each; for the choice alone, `router.correction` is added.
    Sigmoid,
}

/// Experts are chosen among the best of equal groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many groups there are; divides the number of experts.
    pub count: usize,
    /// How many of them are kept.
    pub kept: usize,
    /// A group is as good as the sum of so many of its best experts.
    pub judged_by: usize,
}

impl Routing {
    /// The softmax over the k experts with the largest logits.
    pub fn softmax_over_chosen(experts_per_tok: usize) -> Self {
        Self { experts_per_tok, scores: Scores::Softmax, is_normalized: true, scale: 1.0, groups: None }
    }
}

/// A layer of experts.
#[derive(Debug)]
pub struct Moe {
    router: Linear,
    /// Added to the scores for the choice alone.
    correction: Vec<f32>,
    routing: Routing,
    experts: Vec<Mlp>,
    shared: Option<Mlp>,
    /// To and from what the routed experts work on.
    latent: Option<(Linear, Linear)>,
    /// The routed experts where a token's way to them, and of numbers a prompt's, stays on the device.
    on_device: Option<ops::Experts>,
}

/// The tokens that visit one expert, with the share that its answer has in each token's sum.
#[derive(Clone, Debug, Default, PartialEq)]
struct Visits {
    tokens: Vec<u32>,
    shares: Vec<f32>,
}

impl Moe {
    /// Loads the router (`router.gate`, or `gate` as older checkpoints have it) with its `correction`, the experts, the
    /// shared expert and the projections `latent_in` and `latent_out`.
    pub fn load(weights: &Weights<'_>, spec: &MoeSpec, hidden_size: usize) -> Result<Self> {
        let MoeSpec { num_experts, routing, latent_size, .. } = *spec;
        let exact = weights.exact();
        let router = match exact.matrix_if_present("gate.weight", num_experts, hidden_size)? {
            Some(gate) => Linear::new(gate, exact.precision()),
            None => Linear::load(&exact.part("router.gate"), hidden_size, num_experts)?,
        };
        let correction = match routing.scores {
            Scores::Softmax => vec![0.0; num_experts],
            Scores::Sigmoid => weights.get_f32("router.correction", &[num_experts])?.to_vec1()?,
        };
        let width = latent_size.unwrap_or(hidden_size);
        let expert = |e| Mlp::load(&weights.part("experts").part(e), spec.expert, width);
        let shared = |spec| Mlp::load(&weights.part("shared_expert"), spec, hidden_size);
        let latent = |size| {
            let linear = |name, n_in, n_out| Linear::load(&weights.part(name), n_in, n_out);
            Ok::<_, Error>((linear("latent_in", hidden_size, size)?, linear("latent_out", size, hidden_size)?))
        };
        let experts = (0..num_experts).map(expert).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            on_device: ops::Experts::new(&experts, &routing, &correction, (weights.device(), weights.precision()))?,
            router,
            correction,
            routing,
            experts,
            shared: spec.shared.map(shared).transpose()?,
            latent: latent_size.map(latent).transpose()?,
        })
    }

    /// The bytes of the matrices; all experts have equally many.
    pub(super) fn bytes(&self) -> WeightBytes {
        let latent = self.latent.iter().flat_map(|(to, from)| [to, from]);
        let always = latent.chain([&self.router]).map(Linear::bytes).chain(self.shared.as_ref().map(Mlp::bytes)).sum();
        let experts: WeightBytes = self.experts.iter().map(Mlp::bytes).sum();
        let visited = experts.read / self.experts.len().max(1) * self.routing.experts_per_tok;
        experts.reading(visited) + always
    }

    /// `x` [tokens, hidden] -> [tokens, hidden], added to a residual. Only the experts that are visited are read.
    pub fn forward(&self, x: &Tensor, residual: Residual<'_>) -> Result<Tensor> {
        let logits = self.router.forward(x)?; // [tokens, experts]
        let routed = match &self.latent {
            Some((to, from)) => from.onto(residual, &Input::from(&self.routed(&to.forward(x)?, &logits)?))?,
            None => residual.add(&self.routed(x, &logits)?)?,
        };
        match &self.shared {
            Some(shared) => shared.onto(Residual { x: &routed, ..residual }, &x.into()),
            None => Ok(routed),
        }
    }

    /// The weighed answers of the experts that each row of `x` visits.
    fn routed(&self, x: &Tensor, logits: &Tensor) -> Result<Tensor> {
        if let Some(answers) = self.on_device.as_ref().map_or(Ok(None), |experts| experts.forward(x, logits))? {
            return Ok(answers);
        }
        let mut sum = x.zeros_like()?;
        for (expert, Visits { tokens, shares }) in self.experts.iter().zip(self.visits(&logits.to_vec2()?)) {
            if tokens.is_empty() {
                continue;
            }
            let answers = expert.forward(&x.index_select(&Tensor::new(tokens.as_slice(), x.device())?, 0)?)?;
            sum = ops::add_to_rows(sum, &tokens, &shares, &answers)?;
        }
        Ok(sum)
    }

    /// Gathers tokens by expert from the router's logits [tokens][experts].
    fn visits(&self, logits: &[Vec<f32>]) -> Vec<Visits> {
        let mut visits = vec![Visits::default(); self.experts.len()];
        for (token, logits) in (0u32..).zip(logits) {
            for (expert, share) in self.routing.choose(logits, &self.correction) {
                if let Some(visits) = visits.get_mut(expert) {
                    visits.tokens.push(token);
                    visits.shares.push(share);
                }
            }
        }
        visits
    }
}

impl Routing {
    /// The same for the kernels of a GPU.
    #[cfg(any(feature = "cuda", all(test, feature = "cuda-emulator")))]
    pub(super) fn on_gpu(&self, experts: usize) -> crate::kernels::cuda::Routing {
        let [experts, chosen] = [experts, self.experts_per_tok].map(|count| count as u32);
        let groups = self.groups.unwrap_or(Groups { count: 1, kept: 1, judged_by: 1 });
        let [groups, kept, judged_by] = [groups.count, groups.kept, groups.judged_by].map(|count| count as u32);
        crate::kernels::cuda::Routing {
            experts,
            chosen,
            groups,
            kept,
            judged_by,
            is_sigmoid: (self.scores == Scores::Sigmoid).into(),
            is_normalized: self.is_normalized.into(),
            scale: self.scale as f32,
            smallest_sum: SMALLEST_SUM,
        }
    }

    /// The experts that a token visits, and the share of each.
    fn choose(&self, logits: &[f32], correction: &[f32]) -> Vec<(usize, f32)> {
        let scores = self.scores.of(logits);
        let corrected: Vec<f32> = scores.iter().zip(correction).map(|(score, bias)| score + bias).collect();
        let allowed = self.groups.map_or_else(|| (0..scores.len()).collect(), |groups| groups.allowed(&corrected));
        let chosen = best(allowed, &corrected, self.experts_per_tok);
        let share = |expert: usize| scores.get(expert).copied().unwrap_or_default();
        let sum = if self.is_normalized { chosen.iter().map(|expert| share(*expert)).sum::<f32>() } else { 1.0 };
        let factor = self.scale as f32 / sum.max(SMALLEST_SUM);
        chosen.into_iter().map(|expert| (expert, share(expert) * factor)).collect()
    }
}

impl Scores {
    fn of(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Self::Softmax => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exp: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
                let sum: f32 = exp.iter().sum();
                exp.into_iter().map(|exp| exp / sum).collect()
            }
            Self::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        }
    }
}

impl Groups {
    /// The experts of the groups that are kept.
    fn allowed(&self, scores: &[f32]) -> Vec<usize> {
        let size = (scores.len() / self.count.max(1)).max(1);
        let worth = |group: &[f32]| {
            let mut group = group.to_vec();
            group.sort_by(|a, b| b.total_cmp(a));
            group.iter().take(self.judged_by).sum()
        };
        let worths: Vec<f32> = scores.chunks(size).map(worth).collect();
        let mut kept = best((0..worths.len()).collect(), &worths, self.kept);
        kept.sort_unstable(); // of equal experts the first is chosen, whichever group is better
        kept.into_iter().flat_map(|group| group * size..(group + 1) * size).collect()
    }
}

/// The `count` of `candidates` with the largest values, the first of equals.
fn best(mut candidates: Vec<usize>, values: &[f32], count: usize) -> Vec<usize> {
    let descending = |a: &usize, b: &usize| match (values.get(*a), values.get(*b)) {
        (Some(a), Some(b)) => b.total_cmp(a),
        _ => Ordering::Equal,
    };
    candidates.sort_by(descending);
    candidates.truncate(count);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[(usize, f32)], want: &[(usize, f32)]) {
        let is_close = |((a, x), (b, y)): (&(usize, f32), &(usize, f32))| a == b && (x - y).abs() < 1e-6;
        assert!(got.len() == want.len() && got.iter().zip(want).all(is_close), "{got:?} for {want:?}");
    }

    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn normalized_shares_are_the_softmax_over_the_chosen_logits_alone() {
        let top = Routing::softmax_over_chosen(2).choose(&[1.0, 3.0, 2.0, -5.0], &[0.0; 4]);
        let share = 1.0 / (1.0 + (-1.0f32).exp());
        assert_close(&top, &[(1, share), (2, 1.0 - share)]);
    }

    #[test]
    fn other_shares_are_the_softmax_over_all_times_the_scale() {
        let routing = Routing { is_normalized: false, scale: 3.0, ..Routing::softmax_over_chosen(1) };
        let share = 3.0 / (1.0 + (-1.0f32).exp() + (-2.0f32).exp());
        assert_close(&routing.choose(&[1.0, 3.0, 2.0], &[0.0; 3]), &[(1, share)]);
    }

    #[test]
    fn a_correction_decides_who_is_chosen_and_not_with_what_share() {
        let routing = Routing { scores: Scores::Sigmoid, is_normalized: false, ..Routing::softmax_over_chosen(2) };
        let top = routing.choose(&[1.0, 3.0, 2.0, -5.0], &[0.0, 0.0, 0.0, 9.0]);
        assert_close(&top, &[(3, sigmoid(-5.0)), (1, sigmoid(3.0))]);
        let top = Routing { is_normalized: true, ..routing }.choose(&[1.0, 3.0, 2.0], &[0.0; 3]);
        let sum = sigmoid(3.0) + sigmoid(2.0);
        assert_close(&top, &[(1, sigmoid(3.0) / sum), (2, sigmoid(2.0) / sum)]);
    }

    #[test]
    fn experts_come_from_the_best_groups() {
        let logits = [5.0, -9.0, 3.0, 3.5, 4.0, -9.0];
        let with = |judged_by, kept| {
            let groups = Some(Groups { count: 3, kept, judged_by });
            let chosen = Routing { groups, ..Routing::softmax_over_chosen(2) }.choose(&logits, &[0.0; 6]);
            chosen.into_iter().map(|(expert, _)| expert).collect::<Vec<_>>()
        };
        assert_eq!(with(1, 1), [0, 1]);
        assert_eq!(with(1, 2), [0, 4]);
        let logits_of_sum = Groups { count: 3, kept: 1, judged_by: 2 }.allowed(&logits);
        assert_eq!(logits_of_sum, [2, 3]);
    }

    #[test]
    fn of_equal_logits_the_first_experts_are_chosen() {
        assert_close(&Routing::softmax_over_chosen(2).choose(&[0.5; 4], &[0.0; 4]), &[(0, 0.5), (1, 0.5)]);
    }

    #[test]
    fn logits_that_are_not_numbers_do_not_panic() {
        assert_eq!(Routing::softmax_over_chosen(2).choose(&[f32::NAN; 3], &[0.0; 3]).len(), 2);
    }
}
