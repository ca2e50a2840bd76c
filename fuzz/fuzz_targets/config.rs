//! A config.json beside the weights of a small model with every kind of layer (`BLAZR_FUZZ_CHECKPOINT`, a folder that
//! `cargo run --example tiny` made).
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use blazr::checkpoint::keys::Keys;
use blazr::checkpoint::native;
use blazr::checkpoint::tensors::Tensors;
use blazr::files::Files;
use blazr::model::Model;
use blazr::model::weights::{Settings, Weights};
use candle_core::Device;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static TENSORS: LazyLock<Tensors> = LazyLock::new(|| {
        let folder = std::env::var_os("BLAZR_FUZZ_CHECKPOINT").expect("BLAZR_FUZZ_CHECKPOINT names a checkpoint");
        Tensors::open(&Files::Directory(folder.into())).expect("a checkpoint")
    });
}

fuzz_target!(|input: &[u8]| {
    TENSORS.with(|tensors| {
        let Ok(keys) = Keys::parse(Path::new("config.json"), input) else { return };
        let Ok((config, report)) = native::resolve(&keys, tensors) else { return };
        Model::load(&config, &Weights::new(&tensors.shapes(), &Device::Cpu, Settings::EXACT)).expect("what was resolved fits the tensors");
        let _ = (config.state_bytes(), config.cache_bytes(config.max_seq_len), serde_json::to_string(&report).unwrap());
    });
});
