//! From the model's logits to the next token.
//!
//! In reading order: [`Params`] is what a request may ask for and [`Params::validate`] its ranges; [`Sampler`] exists
//! only for valid parameters, and [`Sampler::next`] takes the logits of one position and returns a token.
//! Where logits lie on a GPU, [`Sampler::draw`] says how the token is drawn there, and [`Sampler::take`] counts it. Under it,
//! `adjustment` is bias and penalties, `candidates` the filters and the draw, `softmax` the arithmetic.
//!
//! # The steps, in their order
//!
//! | step | what it does | same as |
//! | --- | --- | --- |
//! | `logit_bias` | adds to the logits of the tokens named | [OpenAI], [vLLM] |
//! | `repetition_penalty` | of tokens in the prompt or the output, divides positive logits and multiplies the others | [CTRL], [HF], [vLLM] |
//! | `frequency_penalty` | subtracts itself times the token's occurrences in the output | [OpenAI], [vLLM] |
//! | `presence_penalty` | subtracts itself from tokens that occur in the output | [OpenAI], [vLLM] |
//! | `temperature` | divides; at 0 the largest logit wins here and the rest is skipped | [vLLM], [HF] |
//! | `min_p` | keeps tokens at least `min_p` times as probable as the most probable one | [vLLM]; [HF] does it last |
//! | `top_k` | keeps the `top_k` most probable tokens | [vLLM], [HF] |
//! | `top_p` | renormalises, keeps the fewest tokens that together reach `top_p`, the one that crosses it included | [vLLM], [HF] |
//! | draw | one random number picks from what is left, in proportion to probability | |
//!
//! Of equal logits the lower token id is the more probable, in every step. A NaN logit is impossible, as −∞ is. Where
//! nothing is possible the token is 0. Logits of +∞ share all the probability.
//!
//! Probabilities are relative to the largest, in f32, and are summed up in f64: blocks of 64 in 16 lanes, stretches of 64
//! blocks, and those. A GPU keeps to that, so that it draws the same tokens.
//!
//! Log-probabilities are those of the model, before any step, as [vLLM] reports them by default.
//!
//! [`rank`] sets a token beside the most probable ones, for requests that ask for them: by [`Scores`], which are all logits or
//! a GPU's best.
//!
//! Absent on purpose: grammar masks; nothing asks for them.
//!
//! [OpenAI]: https://platform.openai.com/docs/api-reference/chat/create
//! [vLLM]: https://docs.vllm.ai/en/v0.22.1/api/vllm/v1/sample/sampler/
//! [HF]: https://github.com/huggingface/transformers/blob/main/src/transformers/generation/logits_process.py
//! [CTRL]: https://arxiv.org/abs/1909.05858

mod adjustment;
mod candidates;
mod params;
mod ranking;
mod sampler;
mod scores;
mod softmax;

pub use params::Params;
pub use ranking::{Ranked, rank};
pub use sampler::Sampler;
pub use scores::Scores;
