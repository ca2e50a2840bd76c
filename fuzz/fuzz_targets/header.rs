//! A safetensors file: first the input as it is, then the input as the header of a file whose data fits its offsets,
//! so that shapes and names get as far as the model.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use blazr::checkpoint::Checkpoint;
use blazr::checkpoint::shard::parse_header;
use blazr::model::{Step, Wanted};
use blazr::model::weights::Settings;
use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Larger files are not written.
const MOST_DATA: u64 = 1 << 20;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap().keep();
    directory.join("model.safetensors")
});

fuzz_target!(|input: &[u8]| {
    let _ = parse_header(input);
    let Ok(Value::Object(header)) = serde_json::from_slice(input) else { return };
    let ends = header.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let Some(size) = ends.max().filter(|size| *size <= MOST_DATA) else { return };
    let length = (input.len() as u64).to_le_bytes();
    std::fs::write(&*FILE, [&length, input, &vec![0; size as usize]].concat()).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&FILE) else { return };
    let Ok(model) = checkpoint.load(&Device::Cpu, Settings::EXACT) else { return };
    let Ok(mut state) = model.new_state() else { return };
    for tokens in [&[0, 0, 0][..], &[0]] {
        let _ = model.forward(&mut [Step { tokens, state: &mut state, wanted: Wanted::All }]);
    }
});
