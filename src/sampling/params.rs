//! What a request may ask of sampling, and the ranges.

use std::collections::HashSet;

use crate::error::{Error, Result};

/// How tokens are chosen, named as in the OpenAI API, and as in vLLM where that has no such parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// From 0 to 2: logits are divided by it; 0 always takes the most probable token (greedy).
    pub temperature: f32,
    /// How many of the most probable tokens can be drawn; 0 is off.
    pub top_k: usize,
    /// From 0 to 1: the probability that the most probable tokens together must reach; 1 is off, 0 leaves one token.
    pub top_p: f32,
    /// From 0 to 1: the least probability of a token, as a fraction of the most probable one's; 0 is off.
    pub min_p: f32,
    /// Above 0, at most 10: scales the logits of tokens in the prompt or the output down; 1 is off, below 1 favours them.
    pub repetition_penalty: f32,
    /// From −2 to 2: subtracted from a token's logit once per occurrence in the output; 0 is off.
    pub frequency_penalty: f32,
    /// From −2 to 2: subtracted from the logit of tokens that occur in the output; 0 is off.
    pub presence_penalty: f32,
    /// Token ids, each at most once, and what to add to their logits, from −100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal seeds, parameters and logits give equal tokens; without one each sampler is seeded at random.
    pub seed: Option<u64>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Params {
    /// Checks every parameter against its range, for a model of `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] of the first parameter out of its range. NaN is outside every range.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let Self {
            temperature,
            top_k: _, // every value means something: more than the vocabulary is all of it
            top_p,
            min_p,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            ref logit_bias,
            seed: _,
        } = *self;
        ensure((0.0..=2.0).contains(&temperature), "temperature", "between 0 and 2", temperature)?;
        ensure((0.0..=1.0).contains(&top_p), "top_p", "between 0 and 1", top_p)?;
        ensure((0.0..=1.0).contains(&min_p), "min_p", "between 0 and 1", min_p)?;
        let scales = repetition_penalty > 0.0 && repetition_penalty <= 10.0;
        ensure(scales, "repetition_penalty", "above 0 and at most 10", repetition_penalty)?;
        ensure((-2.0..=2.0).contains(&frequency_penalty), "frequency_penalty", "between -2 and 2", frequency_penalty)?;
        ensure((-2.0..=2.0).contains(&presence_penalty), "presence_penalty", "between -2 and 2", presence_penalty)?;
        validate_bias(logit_bias, vocab_size)
    }
}

/// Refuses `value` unless it is `allowed`.
fn ensure(allowed: bool, param: &'static str, range: &str, value: f32) -> Result<()> {
    if allowed { Ok(()) } else { Err(Error::invalid(param, format!("must be {range}, but is {value}"))) }
}

fn validate_bias(logit_bias: &[(u32, f32)], vocab_size: usize) -> Result<()> {
    let mut tokens = HashSet::with_capacity(logit_bias.len());
    for &(token, bias) in logit_bias {
        if token as usize >= vocab_size {
            let message = format!("token ids must be below the vocabulary size {vocab_size}, but one is {token}");
            return Err(Error::invalid("logit_bias", message));
        }
        if !tokens.insert(token) {
            return Err(Error::invalid("logit_bias", format!("must name a token once, but names {token} twice")));
        }
        if !(-100.0..=100.0).contains(&bias) {
            let message = format!("must be between -100 and 100, but is {bias} for token {token}");
            return Err(Error::invalid("logit_bias", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB_SIZE: usize = 10;

    /// What a float parameter accepts at its bounds and refuses beyond them.
    struct Bounds {
        name: &'static str,
        set: fn(&mut Params, f32),
        accepted: [f32; 2],
        refused: [f32; 2],
        range: &'static str,
    }

    /// The smallest float above 0.
    const TINY: f32 = f32::from_bits(1);

    const BOUNDS: [Bounds; 6] = [
        Bounds {
            name: "temperature",
            set: |p, v| p.temperature = v,
            accepted: [0.0, 2.0],
            refused: [-TINY, 2.0f32.next_up()],
            range: "between 0 and 2",
        },
        Bounds {
            name: "top_p",
            set: |p, v| p.top_p = v,
            accepted: [0.0, 1.0],
            refused: [-TINY, 1.0f32.next_up()],
            range: "between 0 and 1",
        },
        Bounds {
            name: "min_p",
            set: |p, v| p.min_p = v,
            accepted: [0.0, 1.0],
            refused: [-TINY, 1.0f32.next_up()],
            range: "between 0 and 1",
        },
        Bounds {
            name: "repetition_penalty",
            set: |p, v| p.repetition_penalty = v,
            accepted: [TINY, 10.0],
            refused: [0.0, 10.0f32.next_up()],
            range: "above 0 and at most 10",
        },
        Bounds {
            name: "frequency_penalty",
            set: |p, v| p.frequency_penalty = v,
            accepted: [-2.0, 2.0],
            refused: [(-2.0f32).next_down(), 2.0f32.next_up()],
            range: "between -2 and 2",
        },
        Bounds {
            name: "presence_penalty",
            set: |p, v| p.presence_penalty = v,
            accepted: [-2.0, 2.0],
            refused: [(-2.0f32).next_down(), 2.0f32.next_up()],
            range: "between -2 and 2",
        },
    ];

    fn validated(set: impl Fn(&mut Params)) -> Result<()> {
        let mut params = Params::default();
        set(&mut params);
        params.validate(VOCAB_SIZE)
    }

    fn bias_error(logit_bias: &[(u32, f32)]) -> String {
        validated(|p| p.logit_bias = logit_bias.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        Params::default().validate(1).unwrap();
    }

    #[test]
    fn every_bound_is_accepted() {
        for Bounds { set, accepted, .. } in &BOUNDS {
            for &value in accepted {
                validated(|p| set(p, value)).unwrap();
            }
        }
    }

    #[test]
    fn beyond_a_bound_the_error_names_parameter_range_and_value() {
        for Bounds { name, set, refused, range, .. } in &BOUNDS {
            for value in refused.iter().copied().chain([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
                let message = validated(|p| set(p, value)).unwrap_err().to_string();
                assert_eq!(message, format!("{name}: must be {range}, but is {value}"));
            }
        }
    }

    #[test]
    fn every_top_k_and_seed_is_valid() {
        for top_k in [0, 1, VOCAB_SIZE + 1, usize::MAX] {
            validated(|p| p.top_k = top_k).unwrap();
        }
        validated(|p| p.seed = Some(u64::MAX)).unwrap();
    }

    #[test]
    fn bias_is_accepted_at_its_bounds() {
        validated(|p| p.logit_bias = vec![(0, -100.0), (9, 100.0)]).unwrap();
    }

    #[test]
    fn bias_outside_its_range_is_refused() {
        for bias in [100.0f32.next_up(), (-100.0f32).next_down(), f32::NAN, f32::INFINITY] {
            let expected = format!("logit_bias: must be between -100 and 100, but is {bias} for token 3");
            assert_eq!(bias_error(&[(3, bias)]), expected);
        }
    }

    #[test]
    fn bias_of_a_token_outside_the_vocabulary_is_refused() {
        let expected = "logit_bias: token ids must be below the vocabulary size 10, but one is 10";
        assert_eq!(bias_error(&[(10, 0.0)]), expected);
    }

    #[test]
    fn bias_of_one_token_twice_is_refused() {
        let expected = "logit_bias: must name a token once, but names 4 twice";
        assert_eq!(bias_error(&[(4, 1.0), (5, 1.0), (4, 1.0)]), expected);
    }
}
