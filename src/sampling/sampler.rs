//! The sampler: the steps of [`crate::sampling`], written so that a token costs a few passes over its logits.
//!
//! Two passes are always made: the maximum, and the sum of exponentials that the log-probability needs. Penalties and
//! bias cost a copy and touch listed tokens only. No filter sorts the vocabulary: `min_p` is a floor on logits once the
//! maximum is known, `top_k` keeps a short list while passing over the logits, and `top_p` selects, in linear time, in
//! what a bound leaves of them (see `Softmax::nucleus_floor`). Without these two the draw is from the logits themselves.

use std::hash::{BuildHasher, Hasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Params;
use super::adjustment::Adjustment;
use super::candidates::Candidates;
use super::softmax::{Softmax, maximum};
use crate::error::{Error, Result};
use crate::kernels::draw::{Among, Draw, Drawn};

/// Chooses the tokens of one request and remembers them for the penalties.
#[derive(Debug)]
pub struct Sampler {
    vocab_size: usize,
    /// None where logits are used as they are.
    adjustment: Option<Adjustment>,
    choice: Choice,
    warned_of_nan: bool,
}

impl Sampler {
    /// A sampler for logits of `vocab_size` tokens, to follow on `prompt`. It allocates all that it will ever need.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a parameter is out of its range or a prompt token outside the vocabulary,
    /// [`Error::Internal`] if token ids can't number the vocabulary.
    pub fn new(params: &Params, vocab_size: usize, prompt: &[u32]) -> Result<Self> {
        if vocab_size == 0 || u32::try_from(vocab_size).is_err() {
            return Err(Error::Internal(format!("32-bit token ids can't number a vocabulary of {vocab_size}")));
        }
        params.validate(vocab_size)?;
        if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab_size) {
            let message = format!("token ids must be below the vocabulary size {vocab_size}, but one is {token}");
            return Err(Error::invalid("prompt", message));
        }
        Ok(Self {
            vocab_size,
            adjustment: Adjustment::new(params, vocab_size, prompt),
            choice: Choice::new(params, vocab_size),
            warned_of_nan: false,
        })
    }

    /// What draws the next token on a GPU; none where logits are adjusted first.
    pub fn draw(&self) -> Option<Draw> {
        if self.adjustment.is_some() { None } else { Some(self.choice.draw()) }
    }

    /// Counts a token as generated that was drawn from logits on a GPU, by what [`Sampler::draw`] gave.
    pub fn take(&mut self, drawn: Drawn) {
        self.warn_of_nan(drawn.has_nan);
        self.choice.pass();
    }

    /// Chooses the token that follows, given its logits, and counts it as generated.
    ///
    /// Every call takes one random number, whatever the filters leave; a greedy one takes none.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if there are more or fewer logits than tokens in the vocabulary.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.len() != self.vocab_size {
            let message = format!("{} logits for a vocabulary of {} tokens", logits.len(), self.vocab_size);
            return Err(Error::Internal(message));
        }
        // No early exit: without one the pass is vectorized.
        self.warn_of_nan(logits.iter().fold(false, |found, logit| found | logit.is_nan()));
        Ok(self.choose(logits, maximum(logits)))
    }

    /// A broken model shows in the log once per request, not once per token.
    fn warn_of_nan(&mut self, has_nan: bool) {
        if has_nan && !self.warned_of_nan {
            self.warned_of_nan = true;
            tracing::warn!("the model's logits contain NaN: those tokens are treated as impossible");
        }
    }

    /// Takes `max` of the logits, known already, to spare a pass where they are used as they are.
    fn choose(&mut self, logits: &[f32], max: f32) -> u32 {
        let Some(adjustment) = &mut self.adjustment else {
            return self.choice.pick(logits, max);
        };
        let scores = adjustment.apply(logits);
        let token = self.choice.pick(scores, maximum(scores));
        adjustment.record(token, 1);
        token
    }
}

/// Temperature, filters and draw: adjusted logits, from here on `scores`, to a token.
#[derive(Debug)]
struct Choice {
    temperature: f32,
    top_p: f64,
    min_p: f32,
    candidates: Candidates,
    rng: ChaCha8Rng,
}

impl Choice {
    fn new(params: &Params, vocab_size: usize) -> Self {
        Self {
            temperature: params.temperature,
            top_p: f64::from(params.top_p),
            min_p: params.min_p,
            candidates: Candidates::new(params.top_k, vocab_size),
            // StdRng may become another algorithm with any release of rand; a seed is a promise to the user.
            rng: ChaCha8Rng::seed_from_u64(params.seed.unwrap_or_else(random_seed)),
        }
    }

    /// The same choice for a GPU, with the random number that comes next. A greedy one is the first of the largest.
    fn draw(&self) -> Draw {
        if self.is_greedy() {
            return Draw { per_temperature: 1.0, within: 0.0, among: Among::All, unit: LEAST_UNIT };
        }
        let softmax = Softmax::new(0.0, self.temperature, 0.0);
        Draw {
            per_temperature: softmax.per_temperature,
            within: if self.min_p > 0.0 { softmax.below_max(f64::from(self.min_p)) } else { f64::INFINITY },
            among: self.among(),
            unit: unit(&mut self.rng.clone()),
        }
    }

    /// Passes over the random number of a token.
    fn pass(&mut self) {
        if !self.is_greedy() {
            unit(&mut self.rng);
        }
    }

    fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Takes the maximum of the scores beside them.
    fn pick(&mut self, scores: &[f32], max: f32) -> u32 {
        if self.is_greedy() {
            return first(scores, max);
        }
        let unit = unit(&mut self.rng);
        self.pick_at(unit, scores, max)
    }

    /// Takes the random number, above 0 and at most 1, beside the scores and their maximum.
    fn pick_at(&mut self, unit: f64, scores: &[f32], max: f32) -> u32 {
        let (softmax, among) = (Softmax::new(max, self.temperature, self.min_p), self.among());
        if among == Among::All {
            return softmax.place_at(unit, scores) as u32;
        }
        self.filter(scores, &softmax, among);
        self.candidates.draw(&softmax, unit)
    }

    /// Which tokens can be drawn of those above the softmax's floor.
    fn among(&self) -> Among {
        let Self { top_p, candidates: Candidates { limited, limit, .. }, .. } = *self;
        if limited {
            Among::Best { top_k: limit, top_p }
        } else if top_p < 1.0 {
            Among::Nucleus { top_p }
        } else {
            Among::All
        }
    }

    /// Leaves in `candidates` the tokens that can be drawn, in an order that depends on nothing but scores and ids: after a
    /// selection it would be that of the standard library's algorithm, which may change.
    fn filter(&mut self, scores: &[f32], softmax: &Softmax, among: Among) {
        match among {
            Among::All => self.candidates.gather(scores.into(), softmax.floor),
            Among::Best { top_p, .. } => self.filter_best(scores, softmax, top_p),
            Among::Nucleus { top_p } => self.filter_nucleus(scores, softmax, top_p),
        }
    }

    /// `min_p`, `top_k` and `top_p` of what that leaves.
    fn filter_best(&mut self, scores: &[f32], softmax: &Softmax, top_p: f64) {
        self.candidates.gather(scores.into(), softmax.floor);
        self.candidates.sort();
        if top_p < 1.0 {
            self.candidates.truncate(softmax, top_p);
        }
    }

    /// `min_p` and `top_p` of the whole vocabulary.
    fn filter_nucleus(&mut self, scores: &[f32], softmax: &Softmax, top_p: f64) {
        let total = softmax.total(scores);
        let floor = softmax.nucleus_floor((1.0 - top_p) * total, scores.len());
        self.candidates.gather(scores.into(), floor);
        if let Some(worst) = self.candidates.worst_of_nucleus(softmax, top_p * total) {
            self.candidates.gather(scores.into(), worst.score.next_down());
            self.candidates.list.retain(|candidate| candidate.order(&worst).is_le());
        }
    }
}

/// The lowest token id with the score `max`; 0 where none is possible.
fn first(scores: &[f32], max: f32) -> u32 {
    let place = || scores.iter().position(|&score| score == max).unwrap_or(0);
    if max > f32::NEG_INFINITY { place() as u32 } else { 0 }
}

/// The least that [`unit`] gives.
const LEAST_UNIT: f64 = 0.5 * f64::EPSILON;

/// Uniform above 0 and at most 1: the 53 bits that an f64 holds. Written out, as a seed promises the bits that are taken.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 * LEAST_UNIT
}

/// The standard library's hash keys come from the system's random source, and differ in every call.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(all(test, feature = "cuda-emulator"))]
mod on_gpu;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use proptest::prelude::*;

    use super::*;
    use crate::sampling::rank;
    use crate::sampling::softmax::BLOCK;

    const INF: f32 = f32::INFINITY;

    /// No filter, no penalty: the model's own distribution.
    fn plain() -> Params {
        Params { temperature: 1.0, top_k: 0, top_p: 1.0, seed: Some(7), ..Params::default() }
    }

    fn greedy() -> Params {
        Params { temperature: 0.0, ..Params::default() }
    }

    fn sampler(params: &Params, vocab_size: usize) -> Sampler {
        Sampler::new(params, vocab_size, &[]).unwrap()
    }

    fn first_token(params: &Params, logits: &[f32]) -> u32 {
        sampler(params, logits.len()).next(logits).unwrap()
    }

    /// Numbers in −`spread`..`spread` that are the same on every machine: Knuth's multiplicative hash of the index.
    fn scattered(n: u32, spread: f32) -> Vec<f32> {
        let uniform = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
        (1..=n).map(|i| spread * (2.0 * uniform(i.wrapping_mul(i)) - 1.0)).collect()
    }

    /// The probability of each token by the sampler's own steps.
    fn distribution(sampler: &mut Sampler, logits: &[f32]) -> Vec<f64> {
        let mut probabilities = vec![0.0; logits.len()];
        let scores = sampler.adjustment.as_mut().map_or(logits, |adjustment| adjustment.apply(logits));
        let max = maximum(scores);
        let choice = &mut sampler.choice;
        if choice.is_greedy() {
            probabilities[choice.pick(scores, max) as usize] = 1.0;
            return probabilities;
        }
        let softmax = Softmax::new(max, choice.temperature, choice.min_p);
        choice.filter(scores, &softmax, choice.among());
        let total = softmax.total(&choice.candidates.list);
        for candidate in &choice.candidates.list {
            probabilities[candidate.token as usize] = f64::from(softmax.weight(candidate.score)) / total;
        }
        probabilities
    }

    /// What [`crate::sampling`] says, step by step in f64, with sorts; finite logits only.
    struct Specification {
        probabilities: Vec<f64>,
        /// Whether no filter's decision is so close that rounding to f32 may turn it.
        clear: bool,
    }

    fn specification(params: &Params, prompt: &[u32], output: &[u32], logits: &[f32]) -> Specification {
        let mut scores: Vec<f64> = logits.iter().copied().map(f64::from).collect();
        for &(token, bias) in &params.logit_bias {
            scores[token as usize] += f64::from(bias);
        }
        for (score, token) in scores.iter_mut().zip(0..) {
            let count = output.iter().filter(|&&t| t == token).count();
            if count > 0 || prompt.contains(&token) {
                let penalty = f64::from(params.repetition_penalty);
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
            *score -= f64::from(params.frequency_penalty) * count as f64;
            *score -= if count > 0 { f64::from(params.presence_penalty) } else { 0.0 };
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut probabilities = vec![0.0; scores.len()];
        if params.temperature == 0.0 {
            probabilities[order[0]] = 1.0;
            return Specification { probabilities, clear: true };
        }
        let max = scores[order[0]];
        let weight = |token: usize| ((scores[token] - max) / f64::from(params.temperature)).exp();
        let min_p = f64::from(params.min_p);
        let mut clear = order.iter().all(|&t| weight(t) == min_p || (weight(t) / min_p - 1.0).abs() > 1e-4);
        order.retain(|&token| weight(token) >= min_p);
        if params.top_k > 0 {
            order.truncate(params.top_k);
        }
        if params.top_p < 1.0 {
            let total: f64 = order.iter().map(|&token| weight(token)).sum();
            let (mut before, mut n_kept) = (0.0, 0);
            for &token in &order {
                clear &= n_kept == 0 || (before - f64::from(params.top_p)).abs() > 1e-5;
                if n_kept > 0 && before >= f64::from(params.top_p) {
                    break;
                }
                before += weight(token) / total;
                n_kept += 1;
            }
            order.truncate(n_kept);
        }
        let total: f64 = order.iter().map(|&token| weight(token)).sum();
        for &token in &order {
            probabilities[token] = weight(token) / total;
        }
        Specification { probabilities, clear }
    }

    fn naive_logprob(logits: &[f32], token: u32) -> f64 {
        let max = f64::from(maximum(logits));
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
        f64::from(logits[token as usize]) - max - total.ln()
    }

    fn assert_same_distribution(found: &[f64], expected: &[f64]) {
        for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-5, "token {token}: {found} instead of {expected}");
            // exp is cut at −87, e^−87 ≈ 1.6e-38; the rest of the set must be the same.
            let drawable = (*found > 0.0, *expected > 1e-36);
            assert!(drawable.0 == drawable.1 || *expected < 1e-36, "token {token}: {found} instead of {expected}");
        }
    }

    /// Multiples of a power of two, so that scores are exact in f32, equal ones are equal, and there are many of them.
    fn multiples(step: f32, most: i16) -> impl Strategy<Value = f32> {
        (-most..=most).prop_map(move |n| step * f32::from(n))
    }

    fn any_params(vocab_size: usize) -> impl Strategy<Value = Params> {
        let filters = (
            prop_oneof![Just(0.0f32), Just(1.0), 0.05f32..2.0],
            prop_oneof![Just(0), 0..2 * vocab_size, Just(usize::MAX)],
            prop_oneof![Just(1.0f32), Just(0.0), 0.0f32..1.0],
            prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..0.3],
        );
        let penalties = (
            prop::sample::select(vec![1.0f32, 0.5, 2.0, 4.0]),
            prop_oneof![Just(0.0), multiples(0.25, 8)],
            prop_oneof![Just(0.0), multiples(0.25, 8)],
            prop::collection::btree_map(0..vocab_size as u32, multiples(0.5, 200), 0..4),
        );
        (filters, penalties, any::<u64>()).prop_map(|(filters, penalties, seed)| Params {
            temperature: filters.0,
            top_k: filters.1,
            top_p: filters.2,
            min_p: filters.3,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            logit_bias: penalties.3.into_iter().collect(),
            seed: Some(seed),
        })
    }

    fn any_case() -> impl Strategy<Value = (Params, Vec<u32>, Vec<f32>)> {
        (1..300usize).prop_flat_map(|vocab_size| {
            let prompt = prop::collection::vec(0..vocab_size as u32, 0..20);
            (any_params(vocab_size), prompt, prop::collection::vec(multiples(0.125, 64), vocab_size))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn distribution_and_logprob_are_the_specifications((params, prompt, logits) in any_case()) {
            let mut sampler = Sampler::new(&params, logits.len(), &prompt).unwrap();
            let mut output = Vec::new();
            for _ in 0..5 {
                let expected = specification(&params, &prompt, &output, &logits);
                if expected.clear {
                    assert_same_distribution(&distribution(&mut sampler, &logits), &expected.probabilities);
                }
                let token = sampler.next(&logits).unwrap();
                prop_assert!(!expected.clear || expected.probabilities[token as usize] > 0.0);
                let (got, want) = (rank(&logits, token, 0).logprob, naive_logprob(&logits, token));
                prop_assert!((f64::from(got) - want).abs() < 1e-5, "{} for {}", got, want);
                output.push(token);
            }
        }
    }

    #[test]
    fn a_large_nucleus_is_the_specifications() {
        let logits = scattered(5000, 6.0);
        for (temperature, top_p, min_p) in [(2.0, 0.95, 0.0), (2.0, 0.3, 0.0), (0.5, 0.9, 0.01), (1.0, 0.999, 0.001)] {
            let params = Params { temperature, top_p, min_p, ..plain() };
            let expected = specification(&params, &[], &[], &logits).probabilities;
            assert!(expected.iter().filter(|&&p| p > 0.0).count() > 2 * BLOCK, "not large");
            assert_same_distribution(&distribution(&mut sampler(&params, logits.len()), &logits), &expected);
        }
    }

    /// Upper 0.001 points of the chi-square distribution by degrees of freedom, 1 to 15:
    /// <https://www.itl.nist.gov/div898/handbook/eda/section3/eda3674.htm>.
    const CHI_SQUARE: [f64; 15] = [
        10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.125, 27.877, 29.588, 31.264, 32.910, 34.528, 36.123,
        37.697,
    ];

    #[test]
    fn draws_are_as_frequent_as_their_probability() {
        const DRAWS: u32 = 100_000;
        let logits = scattered(16, 2.0);
        for params in [
            plain(),
            Params { temperature: 1.7, ..plain() },
            Params { top_k: 5, ..plain() },
            Params { top_p: 0.8, ..plain() },
            Params { min_p: 0.2, ..plain() },
            Params { seed: Some(3), ..Params::default() },
        ] {
            let expected = specification(&params, &[], &[], &logits).probabilities;
            let mut counts = vec![0u32; logits.len()];
            let mut sampler = sampler(&params, logits.len());
            for _ in 0..DRAWS {
                counts[sampler.next(&logits).unwrap() as usize] += 1;
            }
            let drawable = || expected.iter().zip(&counts).filter(|(p, _)| **p > 0.0);
            let chi_square: f64 = drawable()
                .map(|(p, &count)| (f64::from(count) - p * f64::from(DRAWS)).powi(2) / (p * f64::from(DRAWS)))
                .sum();
            assert_eq!(drawable().map(|(_, count)| count).sum::<u32>(), DRAWS, "{params:?}");
            assert!(chi_square < CHI_SQUARE[drawable().count() - 2], "{chi_square} for {params:?}");
        }
    }

    /// Recorded when this was written: another generator, or another use of it, breaks what a seed promises.
    #[test]
    fn a_seed_gives_the_recorded_tokens() {
        let logits = scattered(1000, 5.0);
        let tokens = |params: &Params| -> Vec<u32> {
            let mut sampler = sampler(&Params { seed: Some(42), ..params.clone() }, logits.len());
            (0..8).map(|_| sampler.next(&logits).unwrap()).collect()
        };
        assert_eq!(tokens(&Params::default()), [62, 763, 527, 85, 459, 215, 459, 35]);
        assert_eq!(tokens(&plain()), [684, 927, 427, 611, 234, 113, 262, 801]);
        assert_eq!(tokens(&Params { top_p: 0.9, ..plain() }), [684, 927, 421, 607, 229, 106, 239, 801]);
    }

    #[test]
    fn without_a_seed_every_sampler_has_its_own() {
        let seed = || sampler(&Params::default(), 2).choice.rng.get_seed();
        assert_ne!(seed(), seed());
    }

    #[test]
    fn a_token_takes_one_random_number_whatever_the_filters() {
        let logits = scattered(100, 5.0);
        for (params, n_random) in [
            (plain(), 3),
            (Params::default(), 3),
            (Params { top_k: 1, ..plain() }, 3),
            (Params { top_p: 0.0, ..plain() }, 3),
            (greedy(), 0),
        ] {
            let (mut here, mut on_gpu) = (sampler(&params, logits.len()), sampler(&params, logits.len()));
            for _ in 0..3 {
                on_gpu.draw().unwrap();
                on_gpu.take(Drawn { token: 0, logit: 0.0, has_nan: false });
                here.next(&logits).unwrap();
            }
            // A number of 64 bits is two words of the generator.
            for sampler in [here, on_gpu] {
                assert_eq!(sampler.choice.rng.get_word_pos(), 2 * n_random, "{params:?}");
            }
        }
    }

    #[test]
    fn greedy_and_its_equivalents_take_the_largest_and_of_equals_the_lowest_id() {
        let mut logits = scattered(1000, 5.0);
        (logits[990], logits[417], logits[700]) = (9.0, 9.0, 9.0);
        for params in [
            greedy(),
            Params { top_k: 1, ..plain() },
            Params { top_p: 0.0, ..plain() },
            Params { top_p: 0.0, ..Params::default() },
        ] {
            let mut sampler = sampler(&params, logits.len());
            for _ in 0..20 {
                assert_eq!(sampler.next(&logits).unwrap(), 417, "{params:?}");
            }
        }
    }

    #[test]
    fn the_last_equal_tokens_that_a_filter_keeps_are_those_of_the_lowest_ids() {
        // Whole blocks, so that sums over blocks and quarters are exactly what top_p asks for.
        let expected: Vec<f64> = (0..4 * BLOCK).map(|i| if i < BLOCK { 1.0 / BLOCK as f64 } else { 0.0 }).collect();
        for params in [
            Params { top_k: BLOCK, ..plain() },
            Params { top_p: 0.25, ..plain() },
            Params { top_k: 2 * BLOCK, top_p: 0.5, ..plain() },
        ] {
            assert_eq!(distribution(&mut sampler(&params, 4 * BLOCK), &[1.0; 4 * BLOCK]), expected, "{params:?}");
        }
    }

    #[test]
    fn top_k_sees_the_least_difference() {
        assert_eq!(first_token(&Params { top_k: 1, ..plain() }, &[1.0, 0.5, 1.0f32.next_up(), 0.5]), 2);
    }

    #[test]
    fn logits_that_rise_all_the_way_still_give_the_top_k() {
        let logits: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).collect();
        let found = distribution(&mut sampler(&Params { top_k: 3, ..plain() }, 1000), &logits);
        let drawable: Vec<usize> = (0..1000).filter(|&i| found[i] > 0.0).collect();
        assert_eq!(drawable, [997, 998, 999]);
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        let logits = scattered(1000, 30.0);
        let best = first_token(&greedy(), &logits);
        for temperature in [1e-6, f32::MIN_POSITIVE, f32::from_bits(1)] {
            assert_eq!(first_token(&Params { temperature, ..plain() }, &logits), best);
            assert_eq!(first_token(&Params { temperature, min_p: 0.5, top_p: 0.5, ..plain() }, &logits), best);
        }
    }

    /// Parameters that between them take every path to a token.
    fn paths() -> [Params; 6] {
        [
            greedy(),
            plain(),
            Params { top_k: 2, ..plain() },
            Params { top_p: 0.9, ..plain() },
            Params { min_p: 0.1, ..plain() },
            Params { repetition_penalty: 1.5, frequency_penalty: 1.0, ..Params::default() },
        ]
    }

    #[test]
    fn huge_and_infinite_logits_win() {
        for params in paths() {
            assert_eq!(first_token(&params, &[-1e30, 1e30, 0.0]), 1, "{params:?}");
            assert_eq!(first_token(&params, &[f32::MIN, f32::MIN, f32::MAX]), 2, "{params:?}");
            assert_eq!(first_token(&params, &[1e30, f32::NAN, INF, f32::MAX]), 2, "{params:?}");
        }
        assert_eq!(distribution(&mut sampler(&plain(), 4), &[INF, 3.0, INF, -INF]), [0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn impossible_tokens_are_never_taken() {
        for params in paths() {
            let mut sampler = sampler(&params, 4);
            for _ in 0..100 {
                assert_eq!(sampler.next(&[-INF, f32::NAN, -5.0, f32::NAN]).unwrap(), 2, "{params:?}");
            }
        }
    }

    #[test]
    fn where_nothing_is_possible_the_token_is_0() {
        for params in paths() {
            for logits in [&[f32::NAN, -INF][..], &[-INF]] {
                assert_eq!(sampler(&params, logits.len()).next(logits).unwrap(), 0, "{params:?}");
                assert_eq!(rank(logits, 0, 0).logprob, -9999.0);
            }
        }
    }

    /// Counts events, and nothing else.
    struct Events(Arc<AtomicUsize>);

    impl tracing::Subscriber for Events {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, SeqCst);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn nan_is_warned_of_once() {
        let events = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Events(Arc::clone(&events)), || {
            let mut sampler = sampler(&plain(), 2);
            sampler.next(&[1.0, -INF]).unwrap();
            assert_eq!(events.load(SeqCst), 0);
            sampler.next(&[1.0, f32::NAN]).unwrap();
            sampler.next(&[1.0, f32::NAN]).unwrap();
        });
        assert_eq!(events.load(SeqCst), 1);
    }

    #[test]
    fn next_counts_the_tokens_that_it_returns() {
        let mut sampler = sampler(&Params { presence_penalty: 2.0, ..greedy() }, 3);
        let tokens: Vec<u32> = (0..4).map(|_| sampler.next(&[0.0, 1.5, 1.0]).unwrap()).collect();
        assert_eq!(tokens, [1, 2, 0, 1]);
    }

    #[test]
    fn a_bias_of_100_forces_and_of_minus_100_bans() {
        let logits = scattered(50, 10.0);
        let best = first_token(&greedy(), &logits);
        for params in [greedy(), plain(), Params::default()] {
            let (mut forcing, mut banning) = (params.clone(), params);
            forcing.logit_bias = vec![(33, 100.0)];
            banning.logit_bias = vec![(best, -100.0)];
            let (mut forced, mut banned) = (sampler(&forcing, 50), sampler(&banning, 50));
            for _ in 0..100 {
                assert_eq!(forced.next(&logits).unwrap(), 33);
                assert_ne!(banned.next(&logits).unwrap(), best);
            }
        }
    }

    #[test]
    fn logprob_is_finite_and_never_positive() {
        let forced = Params { logit_bias: vec![(0, 100.0)], ..greedy() };
        let logprob = |params: &Params, logits: &[f32]| {
            let token = sampler(params, logits.len()).next(logits).unwrap();
            rank(logits, token, 0).logprob
        };
        assert_eq!(logprob(&forced, &[0.0, 99.0]), -99.0);
        assert_eq!(logprob(&greedy(), &[5.0]), 0.0);
        assert_eq!(logprob(&greedy(), &[INF, 5.0]), 0.0);
        assert_eq!(logprob(&greedy(), &[INF, INF]), -std::f32::consts::LN_2);
        let penalised = Params { repetition_penalty: 10.0, ..greedy() };
        let (logits, mut sampler) = ([1e30, 2e30], Sampler::new(&penalised, 2, &[1]).unwrap());
        assert_eq!((sampler.next(&logits).unwrap(), rank(&logits, 0, 0).logprob), (0, -9999.0));
    }

    #[test]
    fn logits_of_another_size_than_the_vocabulary_are_an_internal_error() {
        let message = sampler(&plain(), 3).next(&[0.0; 2]).unwrap_err().to_string();
        assert_eq!(message, "internal error: 2 logits for a vocabulary of 3 tokens");
    }

    #[test]
    fn there_is_no_sampler_for_invalid_parameters() {
        let refused = |params: &Params, vocab_size, prompt: &[u32]| {
            Sampler::new(params, vocab_size, prompt).unwrap_err().to_string()
        };
        assert_eq!(refused(&Params { top_p: 2.0, ..plain() }, 3, &[]), "top_p: must be between 0 and 1, but is 2");
        let prompt = "prompt: token ids must be below the vocabulary size 3, but one is 3";
        assert_eq!(refused(&plain(), 3, &[0, 3]), prompt);
        let vocabulary = "internal error: 32-bit token ids can't number a vocabulary of 0";
        assert_eq!(refused(&plain(), 0, &[]), vocabulary);
    }
}
