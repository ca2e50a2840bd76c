//! Tokens that a GPU's kernels draw on the emulator, held to those that a sampler draws from the same logits.

use super::*;
use crate::kernels::cuda::Drawing;
use crate::kernels::cuda::emulator::{at, at_mut, room, run};
use crate::kernels::cuda::tests::{scattered, with};

const INF: f32 = f32::INFINITY;

fn plain() -> Params {
    Params { temperature: 1.0, top_k: 0, top_p: 1.0, ..Params::default() }
}

/// Logits as they lie on a device, and what kernels make of them.
struct OnGpu<'a> {
    logits: &'a [f32],
    room: Vec<u128>,
    answer: Vec<u128>,
}

impl<'a> OnGpu<'a> {
    fn new(logits: &'a [f32]) -> Self {
        Self { logits, room: Vec::new(), answer: room(Drawing::ANSWER * size_of::<f32>()) }
    }

    /// Draws a token. The first launch does the same for all draws, and is left out after the first of them; all but the last
    /// do the same for draws of one choice, and are left out where it `is_known`.
    fn draw(&mut self, draw: Draw, is_known: bool) -> Option<Drawn> {
        let drawing = Drawing { n_logits: self.logits.len(), draw };
        assert!(drawing.fits());
        let is_surveyed = !self.room.is_empty();
        if !is_surveyed {
            self.room = room(drawing.room());
        }
        let launches = drawing.launches(at(self.logits), at_mut(&mut self.room), at_mut(&mut self.answer));
        let n_done = if is_known { launches.len() - 1 } else { usize::from(is_surveyed) };
        run(launches.into_iter().skip(n_done));
        Drawing::read(&bytemuck::cast_slice::<_, f32>(&self.answer)[..Drawing::ANSWER])
    }
}

/// Draws with many seeds, and where the token changes from one random number to the next. Whether a GPU draws it.
fn agree(on_gpu: &mut OnGpu<'_>, params: &Params, what: &str) -> bool {
    let logits = on_gpu.logits;
    for seed in 0..6 {
        let params = Params { seed: Some(seed), ..params.clone() };
        let mut sampler = Sampler::new(&params, logits.len(), &[]).unwrap();
        let Some(drawn) = on_gpu.draw(sampler.draw().unwrap(), seed > 0) else { return false };
        let token = sampler.next(logits).unwrap();
        assert_eq!(drawn.token, token, "{what}, {params:?}");
        assert_eq!(drawn.logit.to_bits(), logits[token as usize].to_bits(), "{what}, {params:?}");
        assert_eq!(drawn.has_nan, logits.iter().any(|logit| logit.is_nan()), "{what}, {params:?}");
    }
    let (mut choice, max) = (Choice::new(params, logits.len()), maximum(logits));
    if choice.is_greedy() {
        return true;
    }
    for share in [0, 1, 2, 3, 5, 8, 12] {
        let mut token = |n: u64| choice.pick_at(n as f64 * LEAST_UNIT, logits, max);
        let numbers = change(1 + (share << 49), 1 << 53, &mut token).unwrap_or([1, 1 << 53]);
        for n in numbers {
            let (want, unit) = (token(n), n as f64 * LEAST_UNIT);
            let drawn = on_gpu.draw(Draw { unit, ..Choice::new(params, logits.len()).draw() }, true).unwrap();
            assert_eq!(drawn.token, want, "{what}, {params:?}, {unit:e}");
        }
    }
    true
}

/// Two numbers one after the other with different tokens; none if those of these two are equal.
fn change(mut low: u64, mut high: u64, token: &mut impl FnMut(u64) -> u32) -> Option<[u64; 2]> {
    let first = token(low);
    if token(high) == first {
        return None;
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        *(if token(middle) == first { &mut low } else { &mut high }) = middle;
    }
    Some([low, high])
}

/// Logits of all sorts, as many as this.
fn sorts(count: usize) -> [(&'static str, Vec<f32>); 7] {
    [
        ("scattered", scattered(count)),
        ("rising", (0..count).map(|i| i as f32 / 64.0).collect()),
        ("tied", scattered(count).iter().map(|logit| logit.round()).collect()),
        ("equal", vec![-3.5; count]),
        ("impossible", with(scattered(count), &[f32::NAN, -INF, -INF])),
        ("infinite", with(scattered(count), &[-INF, INF, f32::NAN, 0.0, -0.0, f32::MAX, f32::MIN])),
        ("no", vec![f32::NAN; count]),
    ]
}

/// Parameters of all sorts.
fn choices() -> Vec<Params> {
    vec![
        plain(),
        Params { temperature: 0.0, ..plain() },
        Params { temperature: 2.0, ..plain() },
        Params { temperature: 1e-3, ..plain() },
        Params { temperature: f32::from_bits(1), ..plain() },
        Params { min_p: 0.05, temperature: 0.7, ..plain() },
        Params { min_p: 1.0, ..plain() },
        Params::default(),
        Params { top_k: 1, ..plain() },
        Params { top_k: 3, temperature: 2.0, ..plain() },
        Params { top_k: 40, min_p: 0.02, ..plain() },
        Params { top_k: 100, top_p: 0.95, temperature: 2.0, ..plain() },
        Params { top_k: 192, top_p: 0.0, ..plain() },
        Params { top_k: 192, temperature: f32::from_bits(1), ..plain() },
        Params { top_p: 0.9, temperature: 0.5, ..plain() },
        Params { top_p: 0.5, ..plain() },
        Params { top_p: 0.0, ..plain() },
        Params { top_p: 0.95, min_p: 0.3, ..plain() },
        Params { top_p: WIDE, ..plain() },
    ]
}

/// A share that takes nearly all of the vocabulary.
const WIDE: f32 = 1.0f32.next_down();

#[test]
fn a_token_that_is_drawn_there_is_the_cpus() {
    for count in [1, 7, 300, 5000] {
        for (what, logits) in sorts(count) {
            let mut on_gpu = OnGpu::new(&logits);
            for params in choices() {
                let is_drawn = agree(&mut on_gpu, &params, &format!("{count} {what}"));
                let is_wide = params.top_p == WIDE && ["scattered", "tied", "impossible"].contains(&what);
                let is_listed = count < 5000 || what != "equal" && !is_wide;
                let is_expected = is_listed || Choice::new(&params, count).among() == Among::All;
                assert_eq!(is_drawn, is_expected, "{count} {what}, {params:?}");
            }
        }
    }
}

#[test]
fn a_token_of_a_large_vocabulary_is_the_cpus() {
    let logits = with(scattered(256_000), &[f32::NAN, -INF, 3.0, 11.0]);
    let mut on_gpu = OnGpu::new(&logits);
    for params in [
        plain(),
        Params { temperature: 0.0, ..plain() },
        Params { temperature: 2.0, min_p: 0.01, ..plain() },
        Params::default(),
        Params { top_p: 0.9, temperature: 0.005, ..plain() },
    ] {
        assert!(agree(&mut on_gpu, &params, "256,000"), "{params:?}");
    }
}

#[test]
fn a_large_top_k_is_left_to_the_cpu() {
    let draw = |top_k| Choice::new(&Params { top_k, ..plain() }, 5000).draw();
    let fits = |top_k| Drawing { n_logits: 5000, draw: draw(top_k) }.fits();
    assert_eq!([0, 192, 193, 5000].map(fits), [true, true, false, true]);
}
