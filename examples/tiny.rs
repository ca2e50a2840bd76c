//! Writes a tiny checkpoint with random weights and every kind of layer: `cargo run --example tiny -- DIR`.
#![allow(clippy::expect_used)]

#[path = "../tests/support/mod.rs"]
mod support;

fn main() {
    let directory = std::env::args_os().nth(1).expect("usage: tiny DIR");
    support::write_checkpoint(directory.as_ref(), 7, candle_core::DType::BF16);
}
