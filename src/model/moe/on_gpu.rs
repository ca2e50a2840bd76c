//! A GPU's kernels for experts, on the emulator, held to the CPU's choice of experts and to their answers in f64.

use super::{Groups, Routing, Scores};
use crate::kernels::blocks::Format;
use crate::kernels::cuda::emulator::{at, at_mut, room, run};
use crate::kernels::cuda::tests::stored;
use crate::kernels::cuda::{Address, Experts, ExpertsRun, Table};
use crate::kernels::matrix::{Precision, WeightType};

/// What gates are multiplied by.
const FACTOR: f32 = 0.8;

const USUAL: Routing =
    Routing { experts_per_tok: 3, scores: Scores::Softmax, is_normalized: true, scale: 1.0, groups: None };

fn wave(count: usize, k: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * k).sin()).collect()
}

/// The matrices of all experts in one role.
struct Role {
    dtype: WeightType,
    n_out: usize,
    n_in: usize,
    matrices: Vec<Vec<f32>>,
    /// What the addresses are of.
    _memory: Vec<Vec<u128>>,
    addresses: Vec<Address>,
}

impl Role {
    fn new(dtype: WeightType, [count, n_out, n_in]: [usize; 3], k: f32) -> Self {
        let matrix = |expert| {
            let numbers = wave(n_out * n_in, k + expert as f32 * 0.01).into_iter();
            stored(dtype, n_in, &numbers.map(|number| number / (n_in as f32).sqrt()).collect::<Vec<_>>())
        };
        let (memory, matrices): (Vec<_>, Vec<_>) = (0..count).map(matrix).unzip();
        let addresses = memory.iter().map(|matrix| at(matrix)).collect();
        Self { dtype, n_out, n_in, matrices, _memory: memory, addresses }
    }

    fn table(&self) -> Table {
        Table { at: at(&self.addresses), dtype: self.dtype, n_out: self.n_out, n_in: self.n_in }
    }

    fn times(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let rows = self.matrices[expert].chunks_exact(self.n_in);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }
}

/// A layer of experts.
struct Layer {
    routing: Routing,
    precision: Precision,
    correction: Vec<f32>,
    gate: Option<Role>,
    up: Role,
    down: Role,
}

impl Layer {
    fn new(routing: Routing, (dtype, precision): (WeightType, Precision), sizes: [usize; 3], is_gated: bool) -> Self {
        let [n_experts, width, inner] = sizes;
        let to_inner = |k| Role::new(dtype, [n_experts, inner, width], k);
        let by_sigmoid = routing.scores == Scores::Sigmoid;
        Self {
            routing,
            precision,
            correction: if by_sigmoid { wave(n_experts, 2.3) } else { vec![0.0; n_experts] },
            gate: is_gated.then(|| to_inner(0.3)),
            up: to_inner(0.5),
            down: Role::new(dtype, [n_experts, width, inner], 0.7),
        }
    }

    /// The types in which several tokens' activations meet weights.
    fn activations(&self, tokens: usize) -> WeightType {
        if self.on_gpu().rounds(tokens) { WeightType::Bf16 } else { WeightType::F32 }
    }

    fn on_gpu(&self) -> Experts {
        Experts {
            routing: self.routing.on_gpu(self.correction.len()),
            correction: at(&self.correction),
            gate: self.gate.as_ref().map(|gate| (gate.table(), FACTOR)),
            up: self.up.table(),
            down: self.down.table(),
            precision: self.precision,
        }
    }

    /// A token's answer, with activations rounded to this type.
    fn answer(&self, logits: &[f32], x: &[f32], activations: WeightType) -> Vec<f32> {
        let rounded =
            |x: &[f32]| -> Vec<f64> { stored(activations, x.len(), x).1.into_iter().map(f64::from).collect() };
        let x = rounded(x);
        let mut sum = vec![0.0; x.len()];
        for (expert, share) in self.routing.choose(logits, &self.correction) {
            let up = self.up.times(expert, &x);
            let inner: Vec<f32> = match &self.gate {
                Some(gate) => {
                    let gates = gate.times(expert, &x).into_iter().map(|gate| gate * f64::from(FACTOR));
                    gates.zip(up).map(|(gate, up)| (gate / (1.0 + (-gate).exp()) * up) as f32).collect()
                }
                None => up.into_iter().map(|up| up.max(0.0).powi(2) as f32).collect(),
            };
            let answers = self.down.times(expert, &rounded(&inner));
            sum.iter_mut().zip(answers).for_each(|(sum, answer)| *sum += f64::from(share) * answer);
        }
        sum.into_iter().map(|sum| sum as f32).collect()
    }

    fn on_the_cpu(&self, logits: &[f32], x: &[f32]) -> Vec<f32> {
        let width = self.down.n_out;
        let activations = self.activations(x.len() / width);
        let tokens = logits.chunks(self.correction.len()).zip(x.chunks(width));
        tokens.flat_map(|(logits, x)| self.answer(logits, x, activations)).collect()
    }

    fn on_the_emulator(&self, logits: &[f32], x: &[f32]) -> Vec<f32> {
        let (experts, tokens) = (self.on_gpu(), x.len() / self.down.n_out);
        let (x, _) = stored(self.activations(tokens), x.len() / tokens, x);
        let (mut room, mut y) = (room(experts.room(tokens)), vec![f32::NAN; tokens * self.down.n_out]);
        let (logits, x, room) = (at(logits), at(&x), at_mut(&mut room));
        run(experts.launches(ExpertsRun { tokens, logits, x, room, y: at_mut(&mut y) }));
        y
    }

    /// Holds the emulator's answers to so many tokens to the CPU's.
    fn check(&self, tokens: usize, bound: f32, what: &str) {
        let (logits, x) = (wave(tokens * self.correction.len(), 1.7), wave(tokens * self.down.n_out, 0.9));
        assert_close(&self.on_the_emulator(&logits, &x), &self.on_the_cpu(&logits, &x), bound, what);
    }
}

fn assert_close(got: &[f32], want: &[f32], bound: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1.0, |largest: f32, want| largest.max(want.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound * largest, "{what}, {i}: {got} for {want}");
    }
}

#[test]
fn a_gpu_chooses_and_weighs_experts_as_the_cpu_does() {
    let groups = |kept, judged_by| Some(Groups { count: 4, kept, judged_by });
    let by_sigmoid = Routing { scores: Scores::Sigmoid, ..USUAL };
    let routings = [
        USUAL,
        Routing { is_normalized: false, scale: 2.5, ..USUAL },
        by_sigmoid,
        Routing { is_normalized: false, groups: groups(2, 2), ..by_sigmoid },
        Routing { groups: groups(1, 1), ..USUAL },
        Routing { groups: groups(3, 99), experts_per_tok: 1, ..USUAL },
    ];
    let (n_experts, width, inner) = (40, 12, 20);
    let cases = routings.into_iter().flat_map(|routing| [true, false].map(|is_gated| (routing, is_gated)));
    for (case, (routing, is_gated)) in cases.enumerate() {
        let exactly = (WeightType::F32, Precision::Exact);
        let layer = Layer::new(routing, exactly, [n_experts, width, inner], is_gated);
        for tokens in [1, 2, 17, 70] {
            let (mut logits, x) = (wave(tokens * n_experts, 1.7 + case as f32), wave(tokens * width, 0.9));
            logits.chunks_mut(n_experts).for_each(|logits| logits[7] = logits[33]); // of equals the first is chosen
            let what = format!("{routing:?}, {tokens} tokens");
            assert_close(&layer.on_the_emulator(&logits, &x), &layer.on_the_cpu(&logits, &x), 1e-5, &what);
        }
    }
}

#[test]
fn experts_of_all_types_answer_a_token() {
    for (dtype, is_gated) in WeightType::ALL.into_iter().flat_map(|dtype| [true, false].map(|gated| (dtype, gated))) {
        // Sizes that make whole blocks, or don't end with a word. Offsets of blocks lose what is less than a scale / 2^16.
        let (sizes, bound) = if dtype.is_blocks() { ([9, 256, 512], 1e-4) } else { ([9, 12, 20], 1e-5) };
        let layer = Layer::new(USUAL, (dtype, Precision::Fast), sizes, is_gated);
        layer.check(1, bound, &format!("{dtype:?}"));
    }
}

#[test]
fn each_role_of_experts_may_have_a_type_of_its_own() {
    let [q4_k, q6_k] = [Format::Q4K, Format::Q6K].map(WeightType::Blocks);
    let of_numbers = [WeightType::F32, WeightType::F16, WeightType::Bf16];
    let of_numbers = of_numbers.into_iter().flat_map(|up| of_numbers.map(|down| (up, down))).filter(|(a, b)| a != b);
    let of_blocks = [(q4_k, q6_k), (q6_k, WeightType::Bf16), (WeightType::F16, q4_k)];
    for (up, down) in of_numbers.chain(of_blocks) {
        let [n_experts, width, inner] = [9, 256, 256];
        let mut layer = Layer::new(USUAL, (up, Precision::Fast), [n_experts, width, inner], true);
        layer.down = Role::new(down, [n_experts, width, inner], 0.7);
        for tokens in [1, 17].into_iter().filter(|tokens| layer.on_gpu().take(*tokens)) {
            layer.check(tokens, 1e-4, &format!("{up:?}, {down:?}, {tokens} tokens"));
        }
        let is_of_blocks = up.is_blocks() || down.is_blocks();
        assert_eq!(layer.on_gpu().take(17), !is_of_blocks, "{up:?}, {down:?}");
    }
}

/// Experts of all types that answer prompts, with the bound for a token's answers. Sums in f32 that lie beside a number in
/// the middle between two of bf16 are rounded to the other one, 2⁻⁸ away.
const TYPES: [(WeightType, Precision, f32); 4] = [
    (WeightType::F32, Precision::Fast, 1e-5),
    (WeightType::F16, Precision::Fast, 1e-5),
    (WeightType::Bf16, Precision::Exact, 1e-5),
    (WeightType::Bf16, Precision::Fast, 3e-4),
];

#[test]
fn experts_of_all_sizes_answer_prompts() {
    let sizes = [[9, 12, 20], [4, 72, 130], [5, 37, 65]];
    for ((dtype, precision, bound), sizes) in TYPES.into_iter().flat_map(|dtype| sizes.map(|sizes| (dtype, sizes))) {
        for (is_gated, tokens) in [(true, 2), (false, 17), (true, 70)] {
            let layer = Layer::new(USUAL, (dtype, precision), sizes, is_gated);
            layer.check(tokens, bound, &format!("{dtype:?}, {precision:?}, {sizes:?}, {tokens} tokens"));
        }
    }
}

#[test]
fn a_prompt_may_visit_one_expert_alone() {
    let routing = Routing { experts_per_tok: 1, ..USUAL };
    for ((dtype, precision, bound), visited) in TYPES.into_iter().flat_map(|dtype| [0, 3, 4].map(|only| (dtype, only)))
    {
        let layer = Layer::new(routing, (dtype, precision), [5, 20, 12], true);
        for tokens in [2, 64, 70] {
            let (mut logits, x) = (wave(tokens * 5, 1.7), wave(tokens * 20, 0.9));
            logits.chunks_mut(5).for_each(|logits| logits[visited] = 9.0);
            let what = format!("{dtype:?}, {precision:?}, {tokens} tokens at {visited}");
            assert_close(&layer.on_the_emulator(&logits, &x), &layer.on_the_cpu(&logits, &x), bound, &what);
        }
    }
}

#[test]
fn however_a_prompt_is_split_experts_give_the_same_answers() {
    let (n_experts, width) = (6, 44);
    let layer = Layer::new(USUAL, (WeightType::Bf16, Precision::Exact), [n_experts, width, 30], true);
    let (logits, x) = (wave(70 * n_experts, 1.7), wave(70 * width, 0.9));
    let whole = layer.on_the_emulator(&logits, &x);
    for split in [&[1, 69][..], &[2, 67, 1], &[17, 20, 33]] {
        let (mut logits, mut x, mut got) = (&logits[..], &x[..], Vec::new());
        for tokens in split {
            let (own_logits, own_x);
            (own_logits, logits) = logits.split_at(tokens * n_experts);
            (own_x, x) = x.split_at(tokens * width);
            got.extend(layer.on_the_emulator(own_logits, own_x));
        }
        assert_close(&got, &whole, 1e-5, &format!("{split:?}"));
    }
}
