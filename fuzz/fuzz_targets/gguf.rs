//! A GGUF file: its structure, and where that holds the checkpoint and its tokenizer. Files of tests/gguf are good seeds.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use blazr::checkpoint::Checkpoint;
use blazr::checkpoint::gguf::container::parse;
use blazr::model::{Step, Wanted};
use blazr::model::weights::Settings;
use candle_core::Device;
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap().keep();
    directory.join("model.gguf")
});

fuzz_target!(|input: &[u8]| {
    if parse(input).is_err() {
        return;
    }
    std::fs::write(&*FILE, input).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&FILE) else { return };
    let _ = checkpoint.tokenizer();
    let Ok(model) = checkpoint.load(&Device::Cpu, Settings::EXACT) else { return };
    let Ok(mut state) = model.new_state() else { return };
    for tokens in [&[0, 0, 0][..], &[0]] {
        let _ = model.forward(&mut [Step { tokens, state: &mut state, wanted: Wanted::All }]);
    }
});
