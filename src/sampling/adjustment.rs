//! Bias and penalties.

use super::Params;

/// Bias and penalties: what changes single logits, and the tokens so far.
#[derive(Debug)]
pub(super) struct Adjustment {
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
    pub(super) fn new(params: &Params, vocab_size: usize, prompt: &[u32]) -> Option<Self> {
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
    pub(super) fn record(&mut self, token: u32, count: u32) {
        let Some(slot) = self.slots.get_mut(token as usize) else { return };
        if let Some(seen) = self.seen.get_mut(*slot as usize) {
            seen.count += count;
        } else {
            *slot = self.seen.len() as u32; // below vocab_size, which fits
            self.seen.push(Seen { token, count });
        }
    }

    pub(super) fn apply(&mut self, logits: &[f32]) -> &[f32] {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn adjusted(params: &Params, prompt: &[u32], output: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut adjustment = Adjustment::new(params, logits.len(), prompt).unwrap();
        for &token in output {
            adjustment.record(token, 1);
        }
        adjustment.apply(logits).to_vec()
    }

    #[test]
    fn repetition_penalty_moves_both_signs_down_in_prompt_and_output() {
        let params = Params { repetition_penalty: 2.0, ..Params::default() };
        let logits = [3.0, -3.0, 0.0, 3.0, -3.0, 3.0];
        assert_eq!(adjusted(&params, &[0, 1, 0], &[2, 3, 3], &logits), [1.5, -6.0, 0.0, 1.5, -3.0, 3.0]);
    }

    #[test]
    fn frequency_and_presence_penalties_count_the_output_only() {
        let params = Params { frequency_penalty: 0.5, presence_penalty: 0.25, ..Params::default() };
        assert_eq!(adjusted(&params, &[0, 1], &[1, 2, 2, 2], &[1.0; 4]), [1.0, 0.25, -0.75, 1.0]);
    }

    #[test]
    fn bias_comes_before_repetition_and_that_before_the_other_penalties() {
        let params = Params {
            logit_bias: vec![(1, 5.0)],
            repetition_penalty: 2.0,
            frequency_penalty: 1.0,
            presence_penalty: 0.5,
            ..Params::default()
        };
        // (−1 + 5) / 2 − 1·2 − 0.5
        assert_eq!(adjusted(&params, &[], &[1, 1], &[0.0, -1.0]), [0.0, -0.5]);
    }
}
