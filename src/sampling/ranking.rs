//! A token beside the most probable ones, as the model sees them.

use super::candidates::Candidates;
use super::scores::Scores;
use super::softmax::Softmax;

/// A token and the most probable ones in its place, each with its natural log-probability in the softmax of the logits,
/// at least −9999.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The log-probability of the token itself.
    pub logprob: f32,
    /// As many as were asked for, the most probable first; the token itself is behind them where it is none of them.
    pub top: Vec<(u32, f32)>,
}

/// Sets `token` beside the `n_top` most probable ones, of equals those with lower ids. Without any, `top` is empty.
///
/// A shortlist must have those, and `token`.
pub fn rank<'a>(logits: impl Into<Scores<'a>>, token: u32, n_top: usize) -> Ranked {
    let logits = logits.into();
    let softmax = Softmax::new(logits.max(), 1.0, 0.0);
    let total = logits.total(&softmax);
    let logprob_of = |score: f32| softmax.logprob_of(score, total);
    let logprob = logprob_of(logits.of(token));
    let mut top: Vec<(u32, f32)> = Vec::new();
    if n_top > 0 {
        let mut candidates = Candidates::new(n_top, logits.vocab_size());
        candidates.gather(logits, f32::NEG_INFINITY);
        candidates.sort();
        top = candidates.list.iter().map(|best| (best.token, logprob_of(best.score))).collect();
        if top.iter().all(|(other, _)| *other != token) {
            top.push((token, logprob));
        }
    }
    Ranked { logprob, top }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn a_token_that_is_not_among_the_best_stands_behind_them() {
        let logits = [0.0, 3.0, 1.0, 3.0];
        let ids = |token, n| rank(&logits, token, n).top.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(0, 2), [1, 3, 0]);
        assert_eq!(ids(3, 2), [1, 3]);
        assert_eq!(ids(2, 9), [1, 3, 2, 0]);
        assert_eq!(ids(2, 0), [0u32; 0]);
    }

    #[test]
    fn the_impossible_has_a_finite_logprob() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NAN];
        for token in [0, 2] {
            assert_eq!(rank(&logits, token, 1), Ranked { logprob: -9999.0, top: vec![(1, 0.0), (token, -9999.0)] });
        }
    }

    proptest! {
        #[test]
        fn a_token_has_one_number_and_all_sum_to_one(logits in vec(-20.0..20.0f32, 1..300), place in any::<Index>()) {
            let token = place.index(logits.len()) as u32;
            let ranked = rank(&logits, token, logits.len());
            prop_assert_eq!(ranked.logprob, rank(&logits, token, 0).logprob);
            let own = ranked.top.iter().find(|(other, _)| *other == token);
            prop_assert_eq!(own, Some(&(token, ranked.logprob)));
            prop_assert!(ranked.top.is_sorted_by(|a, b| a.1 >= b.1));
            let sum: f64 = ranked.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{}", sum);
        }
    }
}
