//! blazr serves hybrid language models: Mamba2 state-space layers, multi-head latent attention, mixture of experts and
//! grouped-query attention, in any mix.
//!
//! In reading order, which is also who may import whom (each only what stands before it; `tests/tidy.rs` checks it):
//!
//! - [`error`]: what can go wrong.
//! - [`config`]: settings from the environment.
//! - [`files`]: a model's files, on the disk or in the program.
//! - [`metrics`]: what is counted and measured.
//! - [`kernels`]: the inner loops of decoding, over plain slices.
//! - [`model`]: weights, the forward pass, and the state of a sequence.
//! - [`sampling`]: from logits to a token.
//! - [`text`]: from text to tokens and back, and stop strings.
//! - [`checkpoint`]: from files to a loaded model.
//! - [`nano`]: the model that is part of the program.
//! - [`hub`]: from a name on the Hugging Face Hub to files.
//! - [`engine`]: from a validated request to a stream of events, and the queue before it.
//! - [`shutdown`]: SIGINT and SIGTERM.
//! - [`traces`]: spans of requests for a collector.
//! - [`api`]: the HTTP API.
//! - [`cli`]: the commands.
//!
//! The path of a prompt: `cli` -> [`text::Tokenizer::encode`] -> [`engine::request::GenerateRequest::new`] (the only
//! validator) -> [`engine::run::generate`] -> [`model::Model::forward`] -> [`sampling::Sampler::next`] ->
//! [`text::Decoder::push`] -> [`engine::event::Event`] -> standard output. Over HTTP `api` stands before and behind: it
//! renders conversations with [`text::ChatTemplate`], and [`engine::Engine::submit`] puts the request into the queue of the
//! one thread that generates.
//!
//! What holds everywhere: weights are shared and never change, all that changes while generating is in
//! [`model::state::State`]; any split of a prompt into forward passes gives the same logits and state where precision is exact; `unsafe` stands
//! only in `kernels`, where a file is mapped, and where `main` tells candle its number of threads; no input, be it a
//! file, a flag or a prompt, reaches a panic.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod api;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod files;
pub mod hub;
pub mod kernels;
pub mod metrics;
pub mod model;
pub mod nano;
pub mod sampling;
pub mod shutdown;
pub mod text;
pub mod traces;

#[cfg(test)]
extern crate self as blazr; // `tests/support` names the crate as its other users do

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
