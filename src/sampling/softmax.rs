//! Exponentials and their sums, vectorized.

/// The least log-probability reported: [OpenAI's](https://platform.openai.com/docs/api-reference/chat/object) value for
/// "very unlikely". JSON has no −∞.
const LOGPROB_FLOOR: f64 = -9999.0;

/// Independent maxima and sums, so that operations overlap and fill vector registers.
const LANES: usize = 16;

/// Scores that are weighed together, or passed over together when none of them is a candidate.
pub(super) const BLOCK: usize = 64;

/// Scores whose blocks are summed up together, in an order that a GPU keeps to as well: see `kernels/cuda/draws.cu`.
const STRETCH: usize = BLOCK * BLOCK;

/// What has a score.
pub(super) trait Scored {
    fn score(&self) -> f32;
}

impl Scored for f32 {
    fn score(&self) -> f32 {
        *self
    }
}

/// Scores to weights: probabilities relative to the largest, whose weight is 1.
#[derive(Debug)]
pub(super) struct Softmax {
    pub(super) max: f32,
    pub(super) per_temperature: f32,
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

    /// The sum of the weights, stretch by stretch and in these block by block.
    pub(super) fn total(&self, scored: &[impl Scored]) -> f64 {
        scored.chunks(STRETCH).map(|stretch| self.mass_of_stretch(stretch)).sum()
    }

    /// Where the weights, laid end to end, reach this share of their total. It is a place with a weight, unless none has one.
    pub(super) fn place_at(&self, share: f64, scored: &[impl Scored]) -> usize {
        self.place(scored, share * self.total(scored))
    }

    /// Where the weights, laid end to end, reach `target`: in which stretch, in which of its blocks, and where in that.
    pub(super) fn place(&self, scored: &[impl Scored], target: f64) -> usize {
        let (stretch, target) = reach(scored.chunks(STRETCH).map(|stretch| self.mass_of_stretch(stretch)), target);
        let blocks = || scored.chunks(STRETCH).nth(stretch).unwrap_or_default().chunks(BLOCK);
        let (block, target) = reach(blocks().map(|block| self.mass(block)), target);
        let weights = blocks().nth(block).unwrap_or_default().iter().map(|scored| self.weight(scored.score()));
        let (place, _) = reach(weights.map(f64::from), target);
        stretch * STRETCH + block * BLOCK + place
    }

    fn mass_of_stretch(&self, stretch: &[impl Scored]) -> f64 {
        stretch.chunks(BLOCK).map(|block| self.mass(block)).sum()
    }

    /// The sum of the weights of at most [`BLOCK`] scores. Two loops, as one would not be vectorized.
    fn mass(&self, block: &[impl Scored]) -> f64 {
        let mut weights = [0.0; BLOCK];
        for (weight, scored) in weights.iter_mut().zip(block) {
            *weight = self.weight(scored.score());
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

    /// The log-probability of a token with this score, where the weights of all sum up to `total`.
    pub(super) fn logprob_of(&self, score: f32, total: f64) -> f32 {
        if score <= self.floor || score.is_nan() {
            return LOGPROB_FLOOR as f32;
        }
        let shifted = if score == self.max { 0.0 } else { f64::from(score) - f64::from(self.max) };
        (shifted - total.ln()).max(LOGPROB_FLOOR) as f32
    }
}

/// The first of the masses, laid end to end, that reaches `target`, and what is missing of it where that one begins; the last
/// one that is not 0, if rounding leaves none that does.
fn reach(masses: impl Iterator<Item = f64>, mut target: f64) -> (usize, f64) {
    let mut found = (0, target);
    for (place, mass) in masses.enumerate() {
        if mass > 0.0 {
            found = (place, target);
            if mass >= target {
                break;
            }
        }
        target -= mass;
    }
    found
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

    #[test]
    fn a_place_is_where_the_weights_reach_the_target() {
        let (mut scores, softmax) = (vec![2.0; STRETCH + 900], Softmax::new(2.0, 1.0, 0.0));
        for place in [0, BLOCK - 1, BLOCK, STRETCH - 1, STRETCH, STRETCH + 899] {
            for target in [place as f64 + f64::EPSILON * STRETCH as f64, place as f64 + 1.0] {
                assert_eq!(softmax.place(&scores, target), place, "{target}");
            }
        }
        // The first and the last one are impossible.
        (scores[0], scores[STRETCH + 899]) = (-INF, f32::NAN);
        assert_eq!([0.0, 1.0, 1e9].map(|target| softmax.place(&scores, target)), [1, 1, STRETCH + 898]);
        assert_eq!(softmax.place_at(1.0, &[-INF; 9]), 0);
    }
}
