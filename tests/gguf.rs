//! GGUF files against the published checkpoints that they were made from.
//!
//! `tests/families/to_gguf.py` made each file of `tests/gguf` of a folder of `tests/families`, with the converter of
//! llama.cpp. To hold blazr to all that it makes, in any type, name the folder that it wrote to:
//! `BLAZR_GGUF=DIR cargo test --test gguf`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/answers.rs"]
mod answers;

use std::path::{Path, PathBuf};

use answers::check;
use blazr::checkpoint::Checkpoint;
use candle_core::Device;

/// As over the checkpoints that they were made from.
const TOLERANCE: f64 = 1e-3;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files() -> Vec<PathBuf> {
    let folder = std::env::var_os("BLAZR_GGUF").map_or_else(|| root("tests/gguf"), PathBuf::from);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    files.sort();
    assert!(!files.is_empty(), "no GGUF files in {}", folder.display());
    files
}

#[test]
fn every_file_says_what_the_checkpoint_says_that_it_was_made_from() {
    let mut failed = Vec::new();
    for file in files() {
        let checked = std::panic::catch_unwind(|| {
            let checkpoint = Checkpoint::open(&file).unwrap_or_else(|error| panic!("{error}"));
            let folder = root("tests/families").join(file.file_stem().unwrap());
            let name = checkpoint.id().to_owned();
            check(&name, &checkpoint.load(&Device::Cpu).unwrap(), &folder.join("expected.json"), TOLERANCE);
        });
        if checked.is_err() {
            failed.push(file);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
