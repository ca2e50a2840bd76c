//! What must hold on a GPU besides what `golden.rs` asks of every device. Where there is none, a line says so.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/devices.rs"]
mod devices;

use std::path::Path;

use blazr::checkpoint::Checkpoint;
use blazr::kernels::matrix::Precision;
use blazr::model::state::State;
use blazr::model::weights::Settings;
use blazr::model::{Model, Step, Wanted};
use candle_core::{Device, Tensor};

/// The largest difference between ways to the same logits in f32.
const TOLERANCE: f32 = 1e-4;

/// The largest one where activations are rounded to 16 bits.
const ROUNDED: f32 = 0.1;

const TOKENS: [u32; 12] = [1, 5, 9, 200, 7, 7, 31, 4, 90, 12, 3, 8];

fn load(preset: &str, device: &Device, settings: Settings) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(preset);
    Checkpoint::open(&folder).unwrap().load(device, settings).unwrap()
}

fn presets() -> impl Iterator<Item = String> {
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap();
    folders
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
}

fn last_logits(model: &Model, state: &mut State, tokens: &[u32]) -> Vec<f32> {
    let logits = model.forward(&mut [Step { tokens, state, wanted: Wanted::Last }]).unwrap();
    logits.first().map(Tensor::flatten_all).unwrap().unwrap().to_vec1().unwrap()
}

/// The logits after all tokens, taken in as pieces of the given sizes.
fn in_pieces(model: &Model, sizes: &[usize]) -> Vec<f32> {
    let (mut state, mut rest, mut last) = (model.new_state().unwrap(), &TOKENS[..], Vec::new());
    for size in sizes {
        let (piece, others) = rest.split_at(*size);
        last = last_logits(model, &mut state, piece);
        rest = others;
    }
    assert!(rest.is_empty());
    last
}

fn assert_close(got: &[f32], want: &[f32], bound: f32, what: &str) {
    let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
    assert!(got.len() == want.len() && worst <= bound, "{what}: off by {worst:e}");
}

#[test]
fn any_split_of_a_prompt_gives_the_same_answer() {
    let Some(gpu) = devices::gpu() else { return };
    for preset in presets() {
        let model = load(&preset, &gpu, Settings::EXACT);
        let whole = in_pieces(&model, &[12]);
        for sizes in [&[1; 12][..], &[5, 7], &[1, 10, 1], &[11, 1]] {
            assert_close(&in_pieces(&model, sizes), &whole, TOLERANCE, &format!("{preset} in {sizes:?}"));
        }
    }
}

#[test]
fn a_snapshot_continues_as_its_state_does() {
    let Some(gpu) = devices::gpu() else { return };
    for preset in presets() {
        let model = load(&preset, &gpu, Settings::EXACT);
        let mut state = model.new_state().unwrap();
        last_logits(&model, &mut state, &TOKENS[..5]);
        let mut copy = state.snapshot().unwrap();
        let want = last_logits(&model, &mut state, &TOKENS[5..]);
        assert_eq!(last_logits(&model, &mut copy, &TOKENS[5..]), want, "{preset}");
    }
}

#[test]
fn fast_precision_is_near_what_the_cpu_computes_exactly() {
    let Some(gpu) = devices::gpu() else { return };
    for preset in presets() {
        let want = in_pieces(&load(&preset, &Device::Cpu, Settings::EXACT), &[12]);
        let fast = Settings { precision: Precision::Fast, ..Settings::EXACT };
        let got = in_pieces(&load(&preset, &gpu, fast), &[12]);
        assert_close(&got, &want, ROUNDED, &preset);
    }
}
