//! From tokens to logits on the host, where the next token is drawn.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::kernels::shortlist::{Need, Shortlist};
use crate::model::state::State;
use crate::model::{Model, Step, Wanted, ops};
use crate::sampling::{Params, Sampler, Scores};

/// The logits of one position, as far as the next token needs them.
#[derive(Debug)]
pub enum Logits {
    /// That of every token, `[vocab]`.
    All(Vec<f32>),
    /// The best of those that lie on a GPU.
    Best(Shortlist),
}

impl Logits {
    /// Those after one more token of a sequence that is decoded. All of them, unless they lie on a GPU and a few satisfy
    /// `need`.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn after(model: &Model, state: &mut State, token: u32, need: Option<Need>) -> Result<Self> {
        let logits = forward(model, state, &[token], Wanted::Last)?;
        match need.map_or(Ok(None), |need| ops::shortlist(&logits.flatten_all()?, need))? {
            Some(shortlist) => Ok(Self::Best(shortlist)),
            None => Ok(Self::All(ops::into_vec(&logits)?)),
        }
    }

    /// What a sampler takes.
    pub fn scores(&self) -> Scores<'_> {
        match self {
            Self::All(logits) => Scores::All(logits),
            Self::Best(shortlist) => Scores::Best(shortlist),
        }
    }
}

/// Takes in a chunk of a prompt: the rows of logits that are wanted, [rows, vocab].
///
/// # Errors
/// Those of [`Model::forward`].
pub fn take_in(model: &Model, state: &mut State, tokens: &[u32], wanted: Wanted) -> Result<Vec<Vec<f32>>> {
    Ok(forward(model, state, tokens, wanted)?.to_vec2()?)
}

/// Which logits suffice for a token where a request asks for nothing else.
///
/// # Errors
/// Those of [`Sampler::new`].
pub fn usual_need(model: &Model) -> Result<Option<Need>> {
    Ok(Sampler::new(&Params::default(), model.config().vocab_size, &[])?.need())
}

/// Does once, with a state of its own, what requests do: a GPU's libraries load a kernel when it is first asked for.
///
/// # Errors
/// Those of [`Model::forward`].
pub(super) fn warm_up(model: &Model) -> Result<()> {
    let (mut state, need) = (model.new_state()?, usual_need(model)?);
    let tokens = vec![0; model.config().max_seq_len.min(3)];
    let (prompt, others) = tokens.split_at(tokens.len().min(2));
    take_in(model, &mut state, prompt, Wanted::Last)?;
    others.iter().try_for_each(|token| Logits::after(model, &mut state, *token, need).map(drop))
}

fn forward(model: &Model, state: &mut State, tokens: &[u32], wanted: Wanted) -> Result<Tensor> {
    let logits = model.forward(&mut [Step { tokens, state, wanted }])?.pop();
    logits.ok_or_else(|| Error::Internal("a forward pass gave no logits".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ModelConfig;
    use crate::support::{RandomWeights, every_kind};

    #[test]
    fn a_model_is_warm_after_a_prompt_and_a_token_or_as_many_as_it_has_room_for() {
        for max_seq_len in [1, 2, 3, 512] {
            let model = RandomWeights::new(1).model(&ModelConfig { max_seq_len, ..every_kind() });
            warm_up(&model).unwrap();
        }
    }
}
