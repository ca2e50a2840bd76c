//! Whole models against references. `tests/reference/hybrid_reference.py`, in float64, made each folder of
//! `tests/golden` (see its make.sh), weights and the answers that a correct implementation gives; `nano.json` has the
//! answers of the embedded model, from the program that trained it.
//!
//! To hold blazr to checkpoints of other seeds and presets, make them in one folder and name it:
//! `BLAZR_GOLDEN=DIR cargo test --test golden`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/answers.rs"]
mod answers;
#[path = "support/devices.rs"]
mod devices;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use answers::check;
use blazr::checkpoint::Checkpoint;
use blazr::checkpoint::families::FAMILIES;
use blazr::model::weights::Settings;
use blazr::nano;
use candle_core::Device;

/// The bound that every storage type keeps to, the embedded model's bf16 too. Arithmetic in f32 is off by 1e-4 at most,
/// typically by 1e-5.
const TOLERANCE: f64 = 1e-3;

/// With the weights in f32 nothing else rounds.
const TOLERANCE_F32: f64 = 2e-4;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The checkpoints in `usual`, or in the folder that the variable names.
fn checkpoints(variable: &str, usual: &str) -> Vec<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join(usual);
    let root = std::env::var_os(variable).map_or(usual, PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no checkpoints in {}", root.display());
    folders
}

/// The CPU, and the GPU where there is one.
fn devices() -> Vec<Device> {
    [Device::Cpu].into_iter().chain(devices::gpu()).collect()
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_log_probability_and_greedy_continuation_is_the_references() {
    for folder in checkpoints("BLAZR_GOLDEN", "tests/golden") {
        let name = open(&folder).id().to_owned();
        let tolerance = if name.ends_with("f32") { TOLERANCE_F32 } else { TOLERANCE };
        for device in devices() {
            check(
                &name,
                &open(&folder).load(&device, Settings::EXACT).unwrap(),
                &folder.join("expected.json"),
                tolerance,
            );
        }
    }
}

#[test]
fn published_checkpoints_of_every_family_say_what_transformers_does() {
    let mut seen = BTreeSet::new();
    let mut failed = Vec::new();
    for folder in checkpoints("BLAZR_FAMILIES", "tests/families") {
        let checked = std::panic::catch_unwind(|| {
            let checkpoint = open(&folder);
            let (name, family) = (checkpoint.id().to_owned(), checkpoint.family());
            assert_eq!(name.split('-').next(), Some(family));
            for device in devices() {
                let model = open(&folder).load(&device, Settings::EXACT).unwrap();
                check(&name, &model, &folder.join("expected.json"), TOLERANCE);
            }
            family
        });
        match checked {
            Ok(family) => drop(seen.insert(family)),
            Err(_) => failed.push(folder),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(FAMILIES.iter().all(|family| seen.contains(family.model_type)), "{seen:?}");
}

#[test]
fn the_embedded_model_says_what_it_said_when_it_was_trained() {
    for device in devices() {
        let model = Checkpoint::embedded(&nano::MODEL).unwrap().load(&device, Settings::EXACT).unwrap();
        check(nano::ID, &model, &golden().join("nano.json"), TOLERANCE);
    }
}
