//! The sampler: the steps of [`crate::sampling`], written so that a token costs a few passes over its logits.
//!
//! Two passes are always made: the maximum, and the sum of exponentials that the log-probability needs. Penalties and
//! bias cost a copy and touch listed tokens only. No filter sorts the vocabulary: `min_p` is a floor on logits once the
//! maximum is known, `top_k` keeps a short list while passing over the logits, and `top_p` selects, in linear time, in
//! what a bound leaves of them (see `Softmax::nucleus_floor`).

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Params;
use crate::error::{Error, Result};

/// The least log-probability reported: [OpenAI's](https://platform.openai.com/docs/api-reference/chat/object) value for
/// "very unlikely". JSON has no −∞.
const LOGPROB_FLOOR: f64 = -9999.0;

/// Independent maxima and sums, so that operations overlap and fill vector registers.
const LANES: usize = 16;

/// Scores that are weighed together, or passed over together when none of them is a candidate.
const BLOCK: usize = 64;

/// The token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// Its id, the index of its logit.
    pub token: u32,
    /// Its natural log-probability in the softmax of the logits as given: whatever the parameters, the model's own
    /// opinion. Finite: at most 0, at least −9999, which also stands for the impossible.
    pub logprob: f32,
}

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

    /// Chooses the token that follows, given its `logits` \[vocab_size\], and counts it as generated.
    ///
    /// Every call takes one random number, whatever the filters leave; a greedy one takes none.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if there are more or fewer logits than tokens in the vocabulary.
    pub fn next(&mut self, logits: &[f32]) -> Result<Sampled> {
        if logits.len() != self.vocab_size {
            let message = format!("{} logits for a vocabulary of {} tokens", logits.len(), self.vocab_size);
            return Err(Error::Internal(message));
        }
        self.warn_of_nan(logits);
        let model = Softmax::new(maximum(logits), 1.0, 0.0);
        let token = self.choose(logits, model.max);
        Ok(Sampled { token, logprob: model.logprob(logits, token) })
    }

    /// A broken model shows in the log once per request, not once per token.
    fn warn_of_nan(&mut self, logits: &[f32]) {
        // No early exit: without one the pass is vectorized.
        if !self.warned_of_nan && logits.iter().fold(false, |found, logit| found | logit.is_nan()) {
            self.warned_of_nan = true;
            tracing::warn!("the model's logits contain NaN: those tokens are treated as impossible");
        }
    }

    /// Takes `max` of the logits, known already, to spare a pass where they are used as they are.
    fn choose(&mut self, logits: &[f32], max: f32) -> u32 {
        let Some(adjustment) = &mut self.adjustment else { return self.choice.pick(logits, max) };
        let scores = adjustment.apply(logits);
        let token = self.choice.pick(scores, maximum(scores));
        adjustment.record(token, 1);
        token
    }
}

/// Bias and penalties: what changes single logits, and the tokens so far.
#[derive(Debug)]
struct Adjustment {
    bias: Vec<(u32, f32)>,
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// The adjusted logits. [vocab_size]
    scores: Vec<f32>,
    /// The distinct tokens of prompt and output, so that a token costs as many steps as there are of them.
    seen: Vec<Seen>,
    /// Where in `seen` each token is, past its end for those that are not. [vocab_size]
    slots: Vec<u32>,
}

/// A token that occurred, and how often in the output: 0 for one of the prompt only.
#[derive(Debug)]
struct Seen {
    token: u32,
    count: u32,
}

impl Adjustment {
    /// None if `params` leave all logits as they are.
    fn new(params: &Params, vocab_size: usize, prompt: &[u32]) -> Option<Self> {
        let (repetition, frequency, presence) =
            (params.repetition_penalty, params.frequency_penalty, params.presence_penalty);
        if params.logit_bias.is_empty() && repetition == 1.0 && frequency == 0.0 && presence == 0.0 {
            return None;
        }
        let mut adjustment = Self {
            bias: params.logit_bias.clone(),
            repetition,
            frequency,
            presence,
            scores: Vec::with_capacity(vocab_size),
            seen: Vec::with_capacity(vocab_size),
            slots: vec![u32::MAX; vocab_size],
        };
        for &token in prompt {
            adjustment.record(token, 0);
        }
        Some(adjustment)
    }

    /// Adds `count` occurrences of `token` to those in the output.
    fn record(&mut self, token: u32, count: u32) {
        let Some(slot) = self.slots.get_mut(token as usize) else { return };
        if let Some(seen) = self.seen.get_mut(*slot as usize) {
            seen.count += count;
        } else {
            *slot = self.seen.len() as u32; // below vocab_size, which fits
            self.seen.push(Seen { token, count });
        }
    }

    fn apply(&mut self, logits: &[f32]) -> &[f32] {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        for &(token, bias) in &self.bias {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score += bias;
            }
        }
        for &Seen { token, count } in &self.seen {
            if let Some(score) = self.scores.get_mut(token as usize) {
                let repeated = if *score > 0.0 { *score / self.repetition } else { *score * self.repetition };
                let present = if count > 0 { self.presence } else { 0.0 };
                *score = repeated - self.frequency * count as f32 - present;
            }
        }
        &self.scores
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

    /// Takes the maximum of the scores beside them.
    fn pick(&mut self, scores: &[f32], max: f32) -> u32 {
        if self.temperature == 0.0 {
            return first(scores, max);
        }
        let softmax = Softmax::new(max, self.temperature, self.min_p);
        self.filter(scores, &softmax);
        self.candidates.draw(&softmax, unit(&mut self.rng))
    }

    /// Leaves in `candidates` the tokens that can be drawn, in an order that depends on nothing but scores and ids:
    /// after a selection it would be that of the standard library's algorithm, which may change.
    fn filter(&mut self, scores: &[f32], softmax: &Softmax) {
        if self.candidates.limited {
            self.candidates.gather(scores, softmax.floor);
            self.candidates.sort();
            if self.top_p < 1.0 {
                self.candidates.truncate(softmax, self.top_p);
            }
        } else if self.top_p < 1.0 {
            self.filter_nucleus(scores, softmax);
        } else {
            self.candidates.gather(scores, softmax.floor);
        }
    }

    /// `top_p` of the whole vocabulary.
    fn filter_nucleus(&mut self, scores: &[f32], softmax: &Softmax) {
        let total: f64 = scores.chunks(BLOCK).map(|block| softmax.mass(block.iter().copied())).sum();
        let outside = (1.0 - self.top_p) * total;
        self.candidates.gather(scores, softmax.nucleus_floor(outside, scores.len()));
        if let Some(last) = self.candidates.last_of_nucleus(softmax, self.top_p * total) {
            self.candidates.gather(scores, last.score.next_down());
            self.candidates.list.retain(|candidate| candidate.order(&last).is_le());
        }
    }
}

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    score: f32,
}

impl Candidate {
    /// The more probable first, of equals the lower id.
    fn order(&self, other: &Self) -> Ordering {
        other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal).then(self.token.cmp(&other.token))
    }
}

/// The tokens that the filters leave.
#[derive(Debug)]
struct Candidates {
    /// Whether `top_k` is on.
    limited: bool,
    limit: usize,
    list: Vec<Candidate>,
}

impl Candidates {
    fn new(top_k: usize, vocab_size: usize) -> Self {
        let limited = (1..vocab_size).contains(&top_k);
        let limit = if limited { top_k } else { vocab_size };
        Self { limited, limit, list: Vec::with_capacity(vocab_size.min(2 * limit)) }
    }

    /// Takes the `limit` best of the scores above `floor`. The list grows to twice the limit before the worse half is
    /// dropped and the floor rises to what is left: soon whole blocks are passed over with one comparison per logit,
    /// and even rising scores cost linear time.
    fn gather(&mut self, scores: &[f32], mut floor: f32) {
        self.list.clear();
        for (block, start) in scores.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
            // No early exit: without one the comparisons are vectorized.
            if !block.iter().fold(false, |above, &score| above | (score > floor)) {
                continue;
            }
            for (&score, token) in block.iter().zip(start..) {
                if score > floor {
                    self.list.push(Candidate { token, score });
                    if self.list.len() >= 2 * self.limit {
                        floor = self.keep_best();
                    }
                }
            }
        }
        self.keep_best();
    }

    /// Drops all but the `limit` best, and returns the worst score that was kept: a later score has a higher id, so it
    /// must be above that to be better.
    fn keep_best(&mut self) -> f32 {
        if self.list.len() <= self.limit {
            return f32::NEG_INFINITY;
        }
        let (_, worst, _) = self.list.select_nth_unstable_by(self.limit - 1, Candidate::order);
        let floor = worst.score;
        self.list.truncate(self.limit);
        floor
    }

    fn sort(&mut self) {
        self.list.sort_unstable_by(Candidate::order);
    }

    fn total(&self, softmax: &Softmax) -> f64 {
        self.list.chunks(BLOCK).map(|block| mass(block, softmax)).sum()
    }

    /// Keeps the fewest of the sorted candidates that together reach `top_p` of their weight.
    fn truncate(&mut self, softmax: &Softmax, top_p: f64) {
        let target = top_p * self.total(softmax);
        let mut mass = 0.0;
        let short = |candidate: &&Candidate| {
            let short = mass < target;
            mass += f64::from(softmax.weight(candidate.score));
            short
        };
        let n_kept = self.list.iter().take_while(short).count().max(1);
        self.list.truncate(n_kept);
    }

    /// The worst of the fewest candidates that together weigh `target`. Leaves the list in no particular order.
    ///
    /// Looks for it among the best quarter or the other three, and so on: linear time, little where the best suffice.
    fn last_of_nucleus(&mut self, softmax: &Softmax, mut target: f64) -> Option<Candidate> {
        let mut rest = self.list.as_mut_slice();
        while rest.len() > BLOCK {
            let n_best = rest.len() / 4;
            rest.select_nth_unstable_by(n_best, Candidate::order);
            let (best, others) = rest.split_at_mut(n_best);
            let best_mass: f64 = best.chunks(BLOCK).map(|block| mass(block, softmax)).sum();
            if best_mass >= target {
                rest = best;
            } else {
                target -= best_mass;
                rest = others;
            }
        }
        rest.sort_unstable_by(Candidate::order);
        rest.iter().find(|candidate| reaches(&mut target, candidate, softmax)).or(rest.last()).copied()
    }

    /// The token at `unit`, in 0..1, of the candidates' weights laid end to end; 0 if there are none.
    fn draw(&self, softmax: &Softmax, unit: f64) -> u32 {
        let mut target = unit * self.total(softmax);
        let block = self.list.chunks(BLOCK).find(|block| {
            let mass = mass(block, softmax);
            let within = target < mass;
            if !within {
                target -= mass;
            }
            within
        });
        let mut within = block.unwrap_or_default().iter();
        let drawn = within.find(|candidate| {
            target -= f64::from(softmax.weight(candidate.score));
            target < 0.0
        });
        // Rounding can leave the target past every candidate.
        drawn.or(self.list.first()).map_or(0, |candidate| candidate.token)
    }
}

/// Scores to weights: probabilities relative to the largest, whose weight is 1.
#[derive(Debug)]
struct Softmax {
    max: f32,
    per_temperature: f32,
    /// Scores must be above it: `min_p` as a bound on scores, or −∞, which also excludes NaN.
    floor: f32,
}

impl Softmax {
    fn new(max: f32, temperature: f32, min_p: f32) -> Self {
        let mut softmax = Self { max, per_temperature: temperature.recip(), floor: f32::NEG_INFINITY };
        if min_p > 0.0 {
            softmax.floor = softmax.score_of(f64::from(min_p)).next_down();
        }
        softmax
    }

    /// The score whose weight is `weight`.
    fn score_of(&self, weight: f64) -> f32 {
        (f64::from(self.max) + weight.ln() / f64::from(self.per_temperature)) as f32
    }

    fn weight(&self, score: f32) -> f32 {
        // ∞ − ∞ is no number: the largest scores weigh 1 without arithmetic.
        let shifted = if score == self.max { 0.0 } else { (score - self.max) * self.per_temperature };
        if score > self.floor { exp(shifted) } else { 0.0 }
    }

    /// The sum of all weights.
    fn total(&self, scores: &[f32]) -> f64 {
        scores.chunks(BLOCK).map(|block| self.mass(block.iter().copied())).sum()
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
    fn nucleus_floor(&self, outside: f64, n: usize) -> f32 {
        self.floor.max(self.score_of(0.5 * outside / n as f64).next_down())
    }

    /// The log-probability of `token`, whose scores these are at temperature 1.
    fn logprob(&self, scores: &[f32], token: u32) -> f32 {
        let score = scores.get(token as usize).copied().filter(|&score| score > self.floor);
        let logprob = score.map_or(LOGPROB_FLOOR, |score| {
            let shifted = if score == self.max { 0.0 } else { f64::from(score) - f64::from(self.max) };
            shifted - self.total(scores).ln()
        });
        logprob.max(LOGPROB_FLOOR) as f32
    }
}

/// The largest score, −∞ if none is possible. NaN compares as smaller.
fn maximum(scores: &[f32]) -> f32 {
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

/// The lowest token id with the score `max`; 0 where none is possible.
fn first(scores: &[f32], max: f32) -> u32 {
    let possible = max > f32::NEG_INFINITY;
    scores.iter().position(|&score| possible && score == max).unwrap_or(0) as u32
}

/// e^x for x ≤ 0 to within 2 units in the last place, and 0 below −87, where floats end.
///
/// The algorithm and constants of [Cephes](https://netlib.org/cephes/) `expf`, without branches, so that loops over it
/// are vectorized: the library's exponential takes ten times as long, most of a token's sampling.
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

/// Uniform in 0..1: the 53 bits that an f64 holds. Written out, as the bits taken are part of what a seed promises.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (0.5 * f64::EPSILON)
}

/// The standard library's hash keys come from the system's random source, and differ in every call.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
