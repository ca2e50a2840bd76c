//! Exponentials and their sums, vectorized.

use super::candidates::Candidate;
use super::scores::Scores;

/// The least log-probability reported: [OpenAI's](https://platform.openai.com/docs/api-reference/chat/object) value for
/// "very unlikely". JSON has no −∞.
const LOGPROB_FLOOR: f64 = -9999.0;

/// Independent maxima and sums, so that operations overlap and fill vector registers.
const LANES: usize = 16;

/// Scores that are weighed together, or passed over together when none of them is a candidate.
pub(super) const BLOCK: usize = 64;

/// Scores to weights: probabilities relative to the largest, whose weight is 1.
#[derive(Debug)]
pub(super) struct Softmax {
    pub(super) max: f32,
    per_temperature: f32,
    /// Scores must be above it: `min_p` as a bound on scores, or −∞, which also excludes NaN.
    pub(super) floor: f32,
}

impl Softmax {
    pub(super) fn new(max: f32, temperature: f32, min_p: f32) -> Self {
        let mut softmax = Self { max, per_temperature: temperature.recip(), floor: f32::NEG_INFINITY };
        if min_p > 0.0 {
            softmax.floor = softmax.score_of(f64::from(min_p)).next_down();
        }
        softmax
    }

    /// The score whose weight is `weight`.
    fn score_of(&self, weight: f64) -> f32 {
        (f64::from(self.max) - self.below_max(weight)) as f32
    }

    /// How far below the largest score that is.
    pub(super) fn below_max(&self, weight: f64) -> f64 {
        -weight.ln() / f64::from(self.per_temperature)
    }

    pub(super) fn weight(&self, score: f32) -> f32 {
        // ∞ − ∞ is no number: the largest scores weigh 1 without arithmetic.
        let shifted = if score == self.max { 0.0 } else { (score - self.max) * self.per_temperature };
        if score > self.floor { exp(shifted) } else { 0.0 }
    }

    /// The sum of the weights of the scores that are here.
    pub(super) fn total(&self, scores: Scores<'_>) -> f64 {
        match scores {
            Scores::All(scores) => scores.chunks(BLOCK).map(|block| self.mass(block.iter().copied())).sum(),
            Scores::Best(shortlist) => {
                shortlist.best.chunks(BLOCK).map(|block| self.mass(block.iter().map(|(_, score)| *score))).sum()
            }
        }
    }

    /// The sum of the weights of all tokens, whose scores these are at temperature 1.
    pub(super) fn normalizer(&self, scores: Scores<'_>) -> f64 {
        match scores {
            Scores::All(_) => self.total(scores),
            Scores::Best(shortlist) => shortlist.total,
        }
    }

    /// The sum of the candidates' weights.
    pub(super) fn total_of(&self, candidates: &[Candidate]) -> f64 {
        candidates.chunks(BLOCK).map(|block| self.mass(block.iter().map(|candidate| candidate.score))).sum()
    }

    /// The fewest of the first candidates that together weigh at least `target`; all, if rounding leaves none that do.
    pub(super) fn prefix<'a>(&self, candidates: &'a [Candidate], target: f64) -> &'a [Candidate] {
        let mut mass = 0.0;
        let mut start = 0;
        for block in candidates.chunks(BLOCK) {
            let reached = mass + self.total_of(block);
            if reached >= target {
                break;
            }
            mass = reached;
            start += block.len();
        }
        let rest = candidates.iter().skip(start);
        let n_short = rest
            .take_while(|candidate| {
                mass += f64::from(self.weight(candidate.score));
                mass < target
            })
            .count();
        candidates.get(..=start + n_short).unwrap_or(candidates)
    }

    /// The sum of the weights of at most [`BLOCK`] scores. Two loops, as one would not be vectorized.
    fn mass(&self, scores: impl Iterator<Item = f32>) -> f64 {
        let mut weights = [0.0; BLOCK];
        for (weight, score) in weights.iter_mut().zip(scores) {
            *weight = self.weight(score);
        }
        let mut sums = [0.0; LANES];
        for lanes in weights.as_chunks::<LANES>().0 {
            for (sum, &weight) in sums.iter_mut().zip(lanes) {
                *sum += f64::from(weight);
            }
        }
        sums.iter().sum()
    }

    /// A floor that no token of the nucleus is under, if the tokens outside weigh at most `outside` of `n` scores.
    ///
    /// Tokens that weigh at most `outside / n` each weigh at most `outside` together, so they are outside: the more
    /// probable ones reach `top_p` without them. In peaked distributions that leaves hundreds. The bound is halved so
    /// that rounding can't drop a token too many.
    pub(super) fn nucleus_floor(&self, outside: f64, n: usize) -> f32 {
        self.floor.max(self.score_of(0.5 * outside / n as f64).next_down())
    }

    /// The log-probability of `token`, whose scores these are at temperature 1.
    pub(super) fn logprob(&self, scores: Scores<'_>, token: u32) -> f32 {
        self.logprob_of(scores.of(token), self.normalizer(scores))
    }

    /// The log-probability of a token with this score, where the weights of all sum up to `total`.
    pub(super) fn logprob_of(&self, score: f32, total: f64) -> f32 {
        if score <= self.floor || score.is_nan() {
            return LOGPROB_FLOOR as f32;
        }
        let shifted = if score == self.max { 0.0 } else { f64::from(score) - f64::from(self.max) };
        (shifted - total.ln()).max(LOGPROB_FLOOR) as f32
    }
}

/// The largest score, −∞ if none is possible. NaN compares as smaller.
pub(super) fn maximum(scores: &[f32]) -> f32 {
    let larger = |max: f32, &score: &f32| if score > max { score } else { max };
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = larger(*max, score);
        }
    }
    maxima.iter().chain(rest).fold(f32::NEG_INFINITY, larger)
}

/// e^x for x ≤ 0 to within one part in 2^23, and 0 below −87, where floats end.
///
/// The algorithm and constants of [Cephes](https://netlib.org/cephes/) `expf`, without branches, so that loops over it
/// are vectorized. Unlike the standard library's it is also the same on every machine, as is what a seed draws.
fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to an integer, left in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4; // ln 2 in two parts, the first exact in products with n
    let polynomial = 1.987_569_1e-4 * r + 1.398_2e-3;
    let polynomial = polynomial * r + 8.333_452e-3;
    let polynomial = polynomial * r + 4.166_579_6e-2;
    let polynomial = polynomial * r + 1.666_666_5e-1;
    let polynomial = polynomial * r + 0.5;
    let power = f32::from_bits((polynomial * r * r + r + 1.0).to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > -87.0 { power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    #[test]
    fn exp_is_accurate_to_the_last_bits() {
        for i in 0..870_000 {
            let x = -0.0001 * i as f32;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < f64::from(f32::EPSILON), "exp({x}) is {error} off");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-87.1), exp(f32::MIN), exp(-INF), exp(f32::NAN)], [0.0; 4]);
    }
}
