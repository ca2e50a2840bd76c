//! What must hold on a GPU besides what `golden.rs` asks of every device. Where there is none, a line says so.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/devices.rs"]
mod devices;
mod support;

use std::path::{Path, PathBuf};

use blazr::checkpoint::Checkpoint;
use blazr::kernels::matrix::{Precision, WeightType};
use blazr::model::state::State;
use blazr::model::weights::Settings;
use blazr::model::{Model, Step, Wanted, ops};
use blazr::nano;
use blazr::sampling::{Params, Sampler, rank};
use candle_core::{DType, Device, Tensor};

/// The largest difference between ways to the same logits in f32.
const TOLERANCE: f32 = 1e-4;

/// The same between two devices, which add up in different orders.
const OF_DEVICES: f32 = 1e-3;

/// The largest one where activations are rounded to 16 bits.
const ROUNDED: f32 = 0.1;

/// More than a chunk of the scan, a tile of its products, a span of keys and the first room of a cache have.
const LENGTH: usize = 300;

/// More than fit into one panel of attention scores, where two heads share keys, into two chunks of a prompt, and into as
/// many spans of keys as blocks are handed one each.
const LONG: usize = 5900;

fn load(folder: &Path, device: &Device, settings: Settings) -> Model {
    Checkpoint::open(folder).unwrap().load(device, settings).unwrap()
}

fn tokens(model: &Model) -> Vec<u32> {
    let config = model.config();
    (0..LENGTH.min(config.max_seq_len) as u32).map(|i| i * i % 211 % config.vocab_size as u32).collect()
}

/// Checkpoints of the reference, and of every published family.
fn folders() -> Vec<PathBuf> {
    let in_folder = |name| std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let entries = ["tests/golden", "tests/families"].into_iter().flat_map(in_folder);
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

fn last_logits(model: &Model, state: &mut State, tokens: &[u32]) -> Vec<f32> {
    let logits = model.forward(&mut [Step { tokens, state, wanted: Wanted::Last }]).unwrap();
    logits.first().map(Tensor::flatten_all).unwrap().unwrap().to_vec1().unwrap()
}

/// The logits after all tokens, of which so many are taken in first, and then the rest.
fn in_two(model: &Model, tokens: &[u32], first: usize) -> Vec<f32> {
    let mut state = model.new_state().unwrap();
    let (first, rest) = tokens.split_at(first);
    let last = last_logits(model, &mut state, first);
    if rest.is_empty() { last } else { last_logits(model, &mut state, rest) }
}

fn assert_close(got: &[f32], want: &[f32], bound: f32, what: &Path) {
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs());
    // What is no number is not below a bound.
    let is_close = got.len() == want.len() && differences.clone().all(|difference| difference <= bound);
    assert!(is_close, "{}: {:?}", what.display(), differences.collect::<Vec<_>>());
}

#[test]
fn any_split_of_a_prompt_gives_the_same_answer() {
    let Some(gpu) = devices::gpu() else { return };
    for folder in folders() {
        let model = load(&folder, &gpu, Settings::EXACT);
        let tokens = tokens(&model);
        let whole = in_two(&model, &tokens, tokens.len());
        for first in
            [1, 63, 127, 128, 129, tokens.len() - 2, tokens.len() - 1].into_iter().filter(|first| *first < tokens.len())
        {
            assert_close(&in_two(&model, &tokens, first), &whole, TOLERANCE, &folder);
        }
        let mut state = model.new_state().unwrap();
        let one_by_one = tokens.iter().map(|token| last_logits(&model, &mut state, &[*token])).next_back().unwrap();
        assert_close(&one_by_one, &whole, TOLERANCE, &folder);
    }
}

#[test]
fn a_snapshot_continues_as_its_state_does() {
    let Some(gpu) = devices::gpu() else { return };
    for folder in folders() {
        let model = load(&folder, &gpu, Settings::EXACT);
        let (mut state, tokens) = (model.new_state().unwrap(), tokens(&model));
        let (first, rest) = tokens.split_at(tokens.len() / 2);
        let (one, rest) = rest.split_at(1);
        // Rings that are full turn with the single token.
        [first, one].iter().for_each(|tokens| drop(last_logits(&model, &mut state, tokens)));
        let mut copy = state.snapshot().unwrap();
        let want = last_logits(&model, &mut state, rest);
        assert_eq!(last_logits(&model, &mut copy, rest), want, "{}", folder.display());
    }
}

#[test]
fn a_state_goes_on_where_it_is_copied_to() {
    let Some(gpu) = devices::gpu() else { return };
    for folder in folders() {
        let on_gpu = load(&folder, &gpu, Settings::EXACT);
        let on_cpu = load(&folder, &Device::Cpu, Settings::EXACT);
        let tokens = tokens(&on_cpu);
        let (first, rest) = tokens.split_at(tokens.len() / 2);
        for (from, to) in [(&on_gpu, &on_cpu), (&on_cpu, &on_gpu)] {
            let mut state = from.new_state().unwrap();
            last_logits(from, &mut state, first);
            let mut copy = state.copy_to(to.device()).unwrap();
            let want = last_logits(from, &mut state, rest);
            assert_close(&last_logits(to, &mut copy, rest), &want, OF_DEVICES, &folder);
        }
    }
}

#[test]
fn fast_precision_is_near_what_the_cpu_computes_exactly() {
    let Some(gpu) = devices::gpu() else { return };
    for folder in folders() {
        let cpu = load(&folder, &Device::Cpu, Settings::EXACT);
        let tokens = tokens(&cpu);
        let fast = Settings { precision: Precision::Fast, ..Settings::EXACT };
        let got = in_two(&load(&folder, &gpu, fast), &tokens, tokens.len());
        assert_close(&got, &in_two(&cpu, &tokens, tokens.len()), ROUNDED, &folder);
    }
}

#[test]
fn a_long_text_gives_the_answer_that_it_gives_on_the_cpu() {
    let Some(gpu) = devices::gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    support::write_checkpoint(folder.path(), 7, DType::F32);
    let config = folder.path().join("config.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["max_seq_len"] = 6000.into();
    std::fs::write(&config, fields.to_string()).unwrap();
    let [on_gpu, on_cpu] = [&gpu, &Device::Cpu].map(|device| load(folder.path(), device, Settings::EXACT));
    let tokens = support::random_tokens(3, LONG, support::BYTE_VOCAB);
    let (prompt, decoded) = tokens.split_at(LONG - 5);
    // The logits after the prompt, and after each token that follows.
    let answers = |model: &Model, chunk| {
        let mut state = model.new_state().unwrap();
        let steps = prompt.chunks(chunk).chain(decoded.chunks(1));
        let logits: Vec<_> = steps.map(|tokens| last_logits(model, &mut state, tokens)).collect();
        logits[logits.len() - 1 - decoded.len()..].concat()
    };
    let want = answers(&on_cpu, on_cpu.prefill_chunk());
    // As the engine takes it in, and in one piece.
    for chunk in [on_gpu.prefill_chunk(), prompt.len()] {
        assert_close(&answers(&on_gpu, chunk), &want, OF_DEVICES, folder.path());
    }
}

/// The embedded model, whose rows are whole blocks of every type, where the checkpoints in folders have few of those.
fn embedded(device: &Device, settings: Settings) -> Model {
    Checkpoint::embedded(&nano::MODEL).unwrap().load(device, settings).unwrap()
}

#[test]
fn weights_of_every_type_say_what_they_say_on_the_cpu() {
    let Some(gpu) = devices::gpu() else { return };
    for dtype in WeightType::ALL {
        let settings = Settings { dtype: Some(dtype), ..Settings::EXACT };
        let loads = folders().into_iter().map(|folder| {
            let models = [&gpu, &Device::Cpu].map(|device| load(&folder, device, settings));
            (folder, models)
        });
        let embedded = (nano::ID.into(), [&gpu, &Device::Cpu].map(|device| embedded(device, settings)));
        for (name, [on_gpu, on_cpu]) in loads.chain([embedded]) {
            let types = |model: &Model| model.weight_bytes().held.into_keys().collect::<Vec<_>>();
            assert_eq!(types(&on_gpu), types(&on_cpu), "{}, {dtype:?}", name.display());
            let tokens = tokens(&on_cpu);
            for first in [tokens.len(), tokens.len() - 1] {
                let [got, want] = [&on_gpu, &on_cpu].map(|model| in_two(model, &tokens, first));
                assert_close(&got, &want, OF_DEVICES, &name.join(dtype.name()));
            }
        }
    }
}

#[test]
fn blocks_take_as_many_bytes_as_on_the_cpu() {
    let Some(gpu) = devices::gpu() else { return };
    for dtype in WeightType::ALL.into_iter().filter(|dtype| dtype.is_blocks()) {
        let settings = Settings { dtype: Some(dtype), ..Settings::default() };
        let bytes = |device| embedded(device, settings).weight_bytes().held.get(dtype.name()).copied();
        assert!(bytes(&gpu).is_some_and(|bytes| bytes > 0) && bytes(&gpu) == bytes(&Device::Cpu), "{dtype:?}");
    }
}

#[test]
fn fast_products_of_blocks_are_near_the_exact_ones() {
    let Some(gpu) = devices::gpu() else { return };
    for dtype in WeightType::ALL.into_iter().filter(|dtype| dtype.is_blocks()) {
        let [fast, exact] = [Precision::Fast, Precision::Exact].map(|precision| {
            let model = embedded(&gpu, Settings { dtype: Some(dtype), precision });
            let tokens = tokens(&model);
            in_two(&model, &tokens, tokens.len())
        });
        assert_close(&fast, &exact, ROUNDED, Path::new(dtype.name()));
    }
}

#[test]
fn a_prompt_gives_the_same_answer_each_time() {
    let Some(gpu) = devices::gpu() else { return };
    for folder in folders() {
        let model = load(&folder, &gpu, Settings { precision: Precision::Fast, ..Settings::EXACT });
        let tokens = tokens(&model);
        let first = in_two(&model, &tokens, tokens.len());
        for _ in 0..3 {
            assert_eq!(in_two(&model, &tokens, tokens.len()), first, "{}", folder.display());
        }
    }
}

#[test]
fn a_token_that_is_drawn_there_is_the_cpus() {
    let Some(gpu) = devices::gpu() else { return };
    let plain = Params { temperature: 1.0, top_k: 0, top_p: 1.0, ..Params::default() };
    let greedy = Params { temperature: 0.0, ..plain.clone() };
    let nucleus = Params { top_p: 0.9, temperature: 0.005, ..plain.clone() };
    let likely = Params { min_p: 0.95, ..plain.clone() };
    let all = [plain, greedy, nucleus, likely, Params::default()];
    for (count, params) in
        [300, 5000, 100_352, 256_000].into_iter().flat_map(|count| all.iter().map(move |p| (count, p)))
    {
        let logits = scattered(count);
        let on_gpu = Tensor::new(logits.as_slice(), &gpu).unwrap();
        for seed in 0..50 {
            let params = Params { seed: Some(seed), ..params.clone() };
            let mut sampler = Sampler::new(&params, logits.len(), &[]).unwrap();
            let drawn = ops::draw(&on_gpu, sampler.draw().unwrap()).unwrap().unwrap();
            assert_eq!(drawn.token, sampler.next(&logits).unwrap(), "{count}, {params:?}");
            assert!(drawn.has_nan);
        }
    }
}

#[test]
fn a_shortlist_tells_what_all_logits_tell() {
    let Some(gpu) = devices::gpu() else { return };
    for count in [300, 5000, 100_352, 256_000] {
        let logits = scattered(count);
        let on_gpu = Tensor::new(logits.as_slice(), &gpu).unwrap();
        let shortlist = ops::shortlist(&on_gpu, 20).unwrap().unwrap().with(9, logits[9]);
        let (few, all) = (rank(&shortlist, 9, 20), rank(&logits, 9, 20));
        assert!((few.logprob - all.logprob).abs() < 1e-5, "{count}: {few:?} for {all:?}");
        for (few, all) in few.top.iter().zip(&all.top) {
            assert!(few.0 == all.0 && (few.1 - all.1).abs() < 1e-5, "{count}: {few:?} for {all:?}");
        }
    }
}

/// Numbers in 0..24 that look random, with some that are impossible.
fn scattered(count: u32) -> Vec<f32> {
    let hash = |i: u32| i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 8;
    let mut logits: Vec<f32> = (1..=count).map(|i| hash(i) as f32 / (1 << 24) as f32 * 24.0).collect();
    (logits[7], logits[8]) = (f32::NAN, f32::NEG_INFINITY);
    logits
}
