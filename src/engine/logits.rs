//! From tokens to logits on the host, or to the token that a GPU draws from them.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::kernels::draw::{Draw, Drawn};
use crate::kernels::shortlist::Shortlist;
use crate::model::state::State;
use crate::model::{Model, Step, Wanted, ops};
use crate::sampling::{Params, Sampler};

/// What is asked of the logits of one position, where they needn't come to the host.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// How the next token is drawn.
    pub draw: Draw,
    /// How many of the most probable tokens are told beside it; none: not even its own log-probability.
    pub n_top: Option<usize>,
}

/// What the host gets of the logits of one position.
#[derive(Debug)]
pub enum Logits {
    /// That of every token, `[vocab]`.
    All(Vec<f32>),
    /// The token that a GPU drew from them, and of its log-probability and others' what was asked for.
    Drawn(Drawn, Option<Shortlist>),
}

impl Logits {
    /// Those after one more token of a sequence that is decoded, as [`Logits::of`] has them.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn after(model: &Model, state: &mut State, token: u32, asked: Option<Asked>) -> Result<Self> {
        Self::of(&take_in(model, state, &[token], Wanted::Last)?, asked)
    }

    /// From those of one position, which nothing else may use: all, unless they lie on a GPU that does what is asked.
    ///
    /// # Errors
    /// The device's.
    pub fn of(logits: &Tensor, asked: Option<Asked>) -> Result<Self> {
        match asked.map_or(Ok(None), |asked| Self::drawn(&logits.flatten_all()?, asked))? {
            Some(drawn) => Ok(drawn),
            None => Ok(Self::All(ops::into_vec(logits)?)),
        }
    }

    fn drawn(logits: &Tensor, Asked { draw, n_top }: Asked) -> Result<Option<Self>> {
        let Some(drawn) = ops::draw(logits, draw)? else { return Ok(None) };
        let Some(n_top) = n_top else { return Ok(Some(Self::Drawn(drawn, None))) };
        let shortlist = ops::shortlist(logits, n_top.max(1))?;
        Ok(shortlist.map(|shortlist| Self::Drawn(drawn, Some(shortlist.with(drawn.token, drawn.logit)))))
    }
}

/// Takes in tokens of a sequence: the rows of logits that are wanted, [rows, vocab].
///
/// # Errors
/// Those of [`Model::forward`].
pub fn take_in(model: &Model, state: &mut State, tokens: &[u32], wanted: Wanted) -> Result<Tensor> {
    let logits = model.forward(&mut [Step { tokens, state, wanted }])?.pop();
    logits.ok_or_else(|| Error::Internal("a forward pass gave no logits".into()))
}

/// What is asked for a token where a request says nothing else.
///
/// # Errors
/// Those of [`Sampler::new`].
pub fn usual(model: &Model) -> Result<Option<Asked>> {
    let draw = Sampler::new(&Params::default(), model.config().vocab_size, &[])?.draw();
    Ok(draw.map(|draw| Asked { draw, n_top: None }))
}

/// Does once, with a state of its own, what requests do: a GPU's libraries load a kernel when it is first asked for.
///
/// # Errors
/// Those of [`Model::forward`].
pub(super) fn warm_up(model: &Model) -> Result<()> {
    let (mut state, asked) = (model.new_state()?, usual(model)?);
    let tokens = vec![0; model.config().max_seq_len.min(3)];
    let (prompt, others) = tokens.split_at(tokens.len().min(2));
    Logits::of(&take_in(model, &mut state, prompt, Wanted::Last)?, asked)?;
    others.iter().try_for_each(|token| Logits::after(model, &mut state, *token, asked).map(drop))
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
