//! Kernels for NVIDIA GPUs, written in CUDA C++ beside this file, as launches: which kernel, on which grid, with what.
//!
//! A launch is plain data. On a device `model::ops` hands it to the driver; the tests hand it to an emulator
//! (`emulator.h`, feature `cuda-emulator`), which runs the same sources on the host, so that what a kernel computes, and
//! how it is launched, is held to the kernels of the CPU where there is no device.
//!
//! Addresses are those of the device's memory: a launch is as safe as they are true.

#[cfg(feature = "cuda")]
pub mod driver;

use crate::kernels::mamba2::Sizing;
use crate::kernels::matrix::WeightType;

/// The sources, each with the functions that it exports.
pub const MODULES: [Module; 5] = [
    Module {
        name: "products",
        functions: &[
            "row_times_float",
            "row_times_f16",
            "row_times_bf16",
            "columns_times_float",
            "columns_times_f16",
            "columns_times_bf16",
            "gated_float",
            "gated_f16",
            "gated_bf16",
        ],
    },
    Module { name: "rows", functions: &["rms_norm", "gate", "swiglu", "add_to_scaled", "rotate"] },
    Module {
        name: "mamba2",
        functions: &[
            "convolve",
            "keep_last",
            "step",
            "scan_times",
            "scan_scores",
            "scan_gains",
            "scan_states",
            "scan_outputs",
        ],
    },
    Module { name: "attention", functions: &["attend", "join", "causal_softmax"] },
    Module {
        name: "moe",
        functions: &[
            "choose",
            "chosen_row_times_float",
            "chosen_row_times_f16",
            "chosen_row_times_bf16",
            "chosen_gated_float",
            "chosen_gated_f16",
            "chosen_gated_bf16",
            "squared_relu",
            "weigh",
        ],
    },
];

/// One source file.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// The kernels in it.
    pub functions: &'static [&'static str],
}

/// An address in the device's memory; zero is none.
pub type Address = u64;

const WARP: usize = 32;
/// Threads of a block where each has one number, or each warp a row.
const BLOCK: usize = 128;
/// Threads of a block that has a row to itself.
const ROW_BLOCK: usize = 256;
/// Threads of a block that share what a head's step begins with.
const STEP_BLOCK: usize = 512;
/// As in `product.cuh`.
const ROWS_OF_A_WARP: usize = 2;
/// As in `mamba2.cu`.
const CHUNK: usize = 128;
const TILE: usize = 64;
const TILE_BLOCK: usize = 256;
const TILE_BYTES: usize = 2 * 16 * TILE * size_of::<f32>();
/// As in `attention.cu`.
const WIDEST: usize = 640;
/// A span of keys is worth a block.
const SPAN: usize = 64;
/// More spans than this are more than the device has room for.
const MOST_SPANS: usize = 64;
/// The largest grid in the second and third direction.
const MOST_IN_GRID: usize = 65_535;

/// A kernel with all that it takes.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The function.
    pub function: &'static str,
    /// How many blocks there are, in three directions.
    pub grid: [u32; 3],
    /// How many threads a block has.
    pub block: u32,
    /// The bytes of memory that a block's threads share.
    pub shared: u32,
    arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
enum Argument {
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    Sizes([u32; 5]),
    Strides([u64; 2]),
    Routing(Routing),
}

impl Argument {
    fn address(&self) -> *const std::ffi::c_void {
        match self {
            Self::U32(value) => std::ptr::from_ref(value).cast(),
            Self::U64(value) => std::ptr::from_ref(value).cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast(),
            Self::F64(value) => std::ptr::from_ref(value).cast(),
            Self::Sizes(value) => std::ptr::from_ref(value).cast(),
            Self::Strides(value) => std::ptr::from_ref(value).cast(),
            Self::Routing(value) => std::ptr::from_ref(value).cast(),
        }
    }
}

macro_rules! arguments {
    ($($value:expr),* $(,)?) => { vec![$(Argument::from($value)),*] };
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::U32(narrow(value))
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::U32(value.into())
    }
}

impl From<Address> for Argument {
    fn from(value: Address) -> Self {
        Self::U64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

/// Sizes of tensors that are in memory are far below 2^32; one that were not would do nothing on the largest grid.
fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Launch {
    fn new(function: &'static str, grid: [usize; 3], block: usize, shared: usize, arguments: Vec<Argument>) -> Self {
        Self { function, grid: grid.map(narrow), block: narrow(block), shared: narrow(shared), arguments }
    }

    /// Where each argument lies, as the driver wants it: good as long as this launch.
    pub fn arguments(&self) -> Vec<*mut std::ffi::c_void> {
        self.arguments.iter().map(|argument| argument.address().cast_mut()).collect()
    }
}

/// The kernel for weights of this type, of those for f32, f16 and bf16.
fn typed(dtype: WeightType, [f32, f16, bf16]: [&'static str; 3]) -> &'static str {
    match dtype {
        WeightType::F16 => f16,
        WeightType::Bf16 => bf16,
        _ => f32,
    }
}

/// A matrix of weights, or several of one kind one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Where it begins.
    pub at: Address,
    /// Its type: one that is stored in files, not in blocks.
    pub dtype: WeightType,
    /// How many matrices there are.
    pub count: usize,
    /// How many outputs each has.
    pub n_out: usize,
    /// How many inputs each has.
    pub n_in: usize,
}

impl Weights {
    /// `x` `[count, n_in]`, each times the transpose of its matrix, plus `bias` `[n_out]` where there is one: `y`
    /// `[count, n_out]`. x begins at a multiple of 16 bytes.
    pub fn row_times(&self, x: Address, bias: Address, y: Address) -> Launch {
        let function = typed(self.dtype, ["row_times_float", "row_times_f16", "row_times_bf16"]);
        let blocks = self.n_out.div_ceil(ROWS_OF_A_WARP * BLOCK / WARP);
        let arguments = arguments![self.at, x, bias, y, self.n_in, self.n_out];
        Launch::new(function, [blocks, self.count, 1], BLOCK, 0, arguments)
    }

    /// `x` `[count, n_out]`, each times its matrix: `y` `[count, n_in]`.
    pub fn columns_times(&self, x: Address, y: Address) -> Launch {
        let function = typed(self.dtype, ["columns_times_float", "columns_times_f16", "columns_times_bf16"]);
        let arguments = arguments![self.at, x, y, self.n_in, self.n_out];
        Launch::new(function, [self.n_in.div_ceil(BLOCK), self.count, 1], BLOCK, 0, arguments)
    }
}

/// `silu(gate · x · factor) · (up · x)` of a row `x` `[n_in]` and two matrices of one kind: `y` `[n_out]`. As for
/// [`Weights::row_times`], x begins at a multiple of 16 bytes.
pub fn gated(gate: &Weights, up: &Weights, factor: f32, x: Address, y: Address) -> Launch {
    let function = typed(gate.dtype, ["gated_float", "gated_f16", "gated_bf16"]);
    let arguments = arguments![gate.at, up.at, x, y, gate.n_in, gate.n_out, factor];
    Launch::new(function, [gate.n_out.div_ceil(BLOCK / WARP), 1, 1], BLOCK, 0, arguments)
}

/// `y` = `x` over the root of its mean square times `weight` `[size]`, for each of `rows` of `size`.
pub fn rms_norm(x: Address, weight: Address, y: Address, [rows, size]: [usize; 2], eps: f32) -> Launch {
    let arguments = arguments![x, weight, y, size, eps];
    Launch::new("rms_norm", [rows, 1, 1], ROW_BLOCK, room_of_a_row(), arguments)
}

/// A number for each warp of a row's block.
fn room_of_a_row() -> usize {
    ROW_BLOCK / WARP * size_of::<f32>()
}

/// `silu(gate · factor) · up`, in the place of `up`.
pub fn swiglu(gate: Address, factor: f32, up: Address, count: usize) -> Launch {
    let arguments = arguments![gate, up, count as u64, factor];
    Launch::new("swiglu", [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments)
}

/// `x + y · factor`, in the place of `y`.
pub fn add_to_scaled(x: Address, factor: f32, y: Address, count: usize) -> Launch {
    let arguments = arguments![x, y, count as u64, factor];
    Launch::new("add_to_scaled", [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments)
}

/// Turns the first `pairs` of each vector of `x` [tokens, heads, width] in place, by `cos` and `sin` `[tokens, pairs]`.
pub fn rotate(
    x: Address,
    [tokens, heads, width]: [usize; 3],
    (cos, sin): (Address, Address),
    pairs: usize,
    are_neighbours: bool,
) -> Launch {
    let arguments = arguments![x, cos, sin, width, pairs, are_neighbours];
    Launch::new("rotate", [tokens, heads, 1], pairs.clamp(1, BLOCK), 0, arguments)
}

/// What a Mamba2 layer does between its projections: addresses of its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2 {
    /// The sizes.
    pub sizing: Sizing,
    /// How many tokens the convolution sees besides the current one.
    pub kept: usize,
    /// `[kept + 1, conv_dim]`, f32.
    pub taps: Address,
    /// `[conv_dim]`, f32, or none.
    pub conv_bias: Address,
    /// `[heads]`, f64.
    pub dt_bias: Address,
    /// The bounds that Δ is clipped to.
    pub dt_limit: (f64, f64),
    /// `[heads]`, f64, negative.
    pub a: Address,
    /// `[heads]`, f32.
    pub d: Address,
    /// The gated norm's weight `[inner]`, f32, or none.
    pub norm: Address,
    /// The norm's constant.
    pub eps: f32,
    /// Whether the norm comes before the gate.
    pub is_norm_first: bool,
}

/// What one call of [`Mamba2::launches`] reads and writes, all f32 but `sums`.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2Run {
    /// How many tokens there are.
    pub tokens: usize,
    /// z, x, B, C and Δ side by side, `[tokens, inner + conv_dim + heads]`.
    pub projected: Address,
    /// `[kept, conv_dim]`, moved on.
    pub conv: Address,
    /// `[heads, head_dim, state_size]`, moved on.
    pub ssm: Address,
    /// The output, `[tokens, inner]`.
    pub y: Address,
    /// Room for [`Mamba2::room`].
    pub room: Address,
}

impl Mamba2 {
    /// How many bytes of room a call for so many tokens takes.
    pub fn room(&self, tokens: usize) -> usize {
        self.parts(tokens).iter().sum()
    }

    /// The bytes of what lies in the room: sums of logarithms, gains, scores, Δ, and what is convolved.
    fn parts(&self, tokens: usize) -> [usize; 5] {
        let Sizing { heads, state_size, groups, .. } = self.sizing;
        let convolved = tokens * self.sizing.conv_dim();
        let [sums, gains, scores, deltas] = match tokens {
            1 => [0; 4],
            _ => {
                let chunks = tokens.div_ceil(CHUNK);
                [
                    2 * heads * tokens,
                    chunks * self.sizing.inner() * state_size,
                    chunks * groups * CHUNK * CHUNK,
                    heads * tokens,
                ]
            }
        };
        // Each begins at a multiple of 16 bytes.
        [sums, gains, scores, deltas, convolved].map(|count| count.next_multiple_of(4) * size_of::<f32>())
    }

    /// All that is done, in order.
    pub fn launches(&self, run: Mamba2Run) -> Vec<Launch> {
        let [sums, gains, scores, deltas, xbc] = places(run.room, self.parts(run.tokens));
        let mut launches = self.convolution(run, xbc);
        match run.tokens {
            1 => launches.push(self.step(run, xbc)),
            _ => launches.extend(self.scan(run, xbc, Scan { sums, gains, scores, deltas })),
        }
        launches.push(self.gate(run));
        launches
    }

    fn stride(&self) -> usize {
        self.sizing.inner() + self.sizing.conv_dim() + self.sizing.heads
    }

    /// The address of a column of what was projected.
    fn column(run: Mamba2Run, column: usize) -> Address {
        run.projected + (column * size_of::<f32>()) as Address
    }

    fn sizes(&self, tokens: usize) -> Argument {
        let Sizing { heads, head_dim, state_size, groups } = self.sizing;
        Argument::Sizes([tokens, heads, head_dim, state_size, groups].map(narrow))
    }

    fn convolution(&self, run: Mamba2Run, xbc: Address) -> Vec<Launch> {
        let (channels, stride) = (self.sizing.conv_dim(), self.stride());
        let (x, blocks) = (Self::column(run, self.sizing.inner()), channels.div_ceil(BLOCK));
        let arguments =
            arguments![x, run.conv, self.taps, self.conv_bias, xbc, run.tokens, channels, stride, self.kept];
        let convolve = Launch::new("convolve", [blocks, run.tokens.min(MOST_IN_GRID), 1], BLOCK, 0, arguments);
        let arguments = arguments![x, run.conv, run.tokens, channels, stride, self.kept];
        let keep = (run.tokens > 1).then(|| Launch::new("keep_last", [blocks, 1, 1], BLOCK, 0, arguments));
        [Some(convolve), keep].into_iter().flatten().collect()
    }

    fn dt(&self, run: Mamba2Run) -> Address {
        Self::column(run, self.sizing.inner() + self.sizing.conv_dim())
    }

    fn step(&self, run: Mamba2Run, xbc: Address) -> Launch {
        let (low, high) = self.dt_limit;
        let mut arguments = arguments![run.ssm, xbc, self.dt(run), self.dt_bias, self.a, self.d, run.y];
        arguments.extend([self.sizes(1), low.into(), high.into()]);
        let blocks = self.sizing.head_dim.div_ceil(STEP_BLOCK / WARP);
        let shared = 2 * size_of::<f32>();
        Launch::new("step", [self.sizing.heads, blocks, 1], STEP_BLOCK, shared, arguments)
    }

    fn scan(&self, run: Mamba2Run, xbc: Address, room: Scan) -> [Launch; 5] {
        let Sizing { heads, head_dim, state_size, groups } = self.sizing;
        let ((low, high), chunks) = (self.dt_limit, run.tokens.div_ceil(CHUNK));
        let Scan { sums, gains, scores, deltas } = room;
        let with_sizes = |mut arguments: Vec<Argument>| {
            arguments.push(self.sizes(run.tokens));
            arguments
        };
        let tiles = |rows: usize, columns: usize| rows.div_ceil(TILE) * columns.div_ceil(TILE);
        let product =
            |function, grid, arguments| Launch::new(function, grid, TILE_BLOCK, TILE_BYTES, with_sizes(arguments));
        let mut times = with_sizes(arguments![self.dt(run), self.dt_bias, self.a, deltas, sums]);
        times.extend(arguments![self.stride(), low, high]);
        let numbers = (self.sizing.inner() * state_size).div_ceil(BLOCK);
        let states = with_sizes(arguments![run.ssm, gains, sums]);
        [
            Launch::new("scan_times", [heads, chunks, 1], CHUNK, CHUNK * size_of::<f64>(), times),
            product("scan_scores", [tiles(CHUNK, CHUNK), groups, chunks], arguments![xbc, scores]),
            product("scan_gains", [tiles(head_dim, state_size), heads, chunks], arguments![xbc, deltas, sums, gains]),
            Launch::new("scan_states", [numbers, 1, 1], BLOCK, 0, states),
            product(
                "scan_outputs",
                [tiles(CHUNK, head_dim), heads, chunks],
                arguments![xbc, deltas, sums, scores, gains, self.d, run.y],
            ),
        ]
    }

    fn gate(&self, run: Mamba2Run) -> Launch {
        let inner = self.sizing.inner();
        let arguments = arguments![run.y, run.projected, self.norm, inner, self.stride(), self.eps, self.is_norm_first];
        let grid = [run.tokens, self.sizing.groups, 1];
        Launch::new("gate", grid, ROW_BLOCK, room_of_a_row(), arguments)
    }
}

/// Where the parts of a scan's room lie.
#[derive(Clone, Copy)]
struct Scan {
    sums: Address,
    gains: Address,
    scores: Address,
    deltas: Address,
}

/// Keys or values of several heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Where the first begins.
    pub at: Address,
    /// How many numbers lie between a head and the next.
    pub head_stride: usize,
    /// How many numbers lie between a row and the next.
    pub stride: usize,
    /// How many numbers a row has.
    pub width: usize,
}

impl Heads {
    fn strides(&self) -> Argument {
        Argument::Strides([self.head_stride as u64, self.stride as u64])
    }
}

/// Attention of one query for each of `heads` over all of `n_keys`.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// How many queries there are, one after the other: `[heads, k.width]`.
    pub heads: usize,
    /// How many heads have keys and values.
    pub kv_heads: usize,
    /// How many keys each has.
    pub n_keys: usize,
    /// The keys.
    pub k: Heads,
    /// The values.
    pub v: Heads,
    /// What the products of queries and keys are multiplied by.
    pub scale: f32,
}

impl Attend {
    /// Whether the kernel takes rows as wide as these.
    pub fn fits(&self) -> bool {
        self.k.width <= WIDEST && self.v.width <= WIDEST
    }

    fn spans(&self) -> usize {
        self.n_keys.div_ceil(SPAN).clamp(1, MOST_SPANS)
    }

    /// How many bytes of room [`Attend::launches`] takes.
    pub fn room(&self) -> usize {
        self.heads * self.spans() * (2 + self.v.width) * size_of::<f32>()
    }

    /// From `q` to `y` `[heads, v.width]`.
    pub fn launches(&self, q: Address, room: Address, y: Address) -> [Launch; 2] {
        let (heads, spans, width) = (self.heads, self.spans(), self.v.width);
        let sums = room + (heads * spans * 2 * size_of::<f32>()) as Address;
        let mut arguments = arguments![q, self.k.at, self.v.at, room, sums];
        arguments.extend([self.k.strides(), self.v.strides()]);
        arguments.extend(arguments![self.k.width, width, self.n_keys, heads / self.kv_heads.max(1), self.scale]);
        let shared = BLOCK / WARP * (2 + width) * size_of::<f32>();
        [
            Launch::new("attend", [heads, spans, 1], BLOCK, shared, arguments),
            Launch::new("join", [heads, 1, 1], BLOCK, 0, arguments![room, sums, y, spans, width]),
        ]
    }
}

/// Softmax in place over `scores` [heads, tokens, keys], whose last key is the last token's own; a token sees so many of
/// the keys before it and its own as `window` says.
pub fn causal_softmax(scores: Address, [heads, tokens, keys]: [usize; 3], window: usize) -> Launch {
    let arguments = arguments![scores, tokens, keys, window];
    Launch::new("causal_softmax", [tokens, heads, 1], ROW_BLOCK, room_of_a_row(), arguments)
}

/// How a router's logits become shares.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Routing {
    /// How many experts there are.
    pub experts: u32,
    /// How many a token visits.
    pub chosen: u32,
    /// How many equal groups they are in; 1 where there are none.
    pub groups: u32,
    /// How many groups are kept.
    pub kept: u32,
    /// A group is as good as the sum of so many of its best experts.
    pub judged_by: u32,
    /// Whether scores are a sigmoid each (1), or a softmax over all (0).
    pub is_sigmoid: u32,
    /// Whether shares are divided by their sum (1).
    pub is_normalized: u32,
    /// What they are multiplied by.
    pub scale: f32,
    /// What their sum is at least.
    pub smallest_sum: f32,
}

/// A role of the experts of one layer: addresses of their matrices, as many as there are experts.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Where the addresses are.
    pub at: Address,
    /// The type of all matrices, as in [`Weights`].
    pub dtype: WeightType,
    /// How many outputs each has.
    pub n_out: usize,
    /// How many inputs each has.
    pub n_in: usize,
}

/// The experts that one token visits.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// How they are chosen.
    pub routing: Routing,
    /// What is added to the scores for the choice, `[experts]`.
    pub correction: Address,
    /// `silu(gate · factor)` is multiplied with what is `up`; none: `relu(up)²`.
    pub gate: Option<(Table, f32)>,
    /// To the inner values.
    pub up: Table,
    /// From the inner values.
    pub down: Table,
}

impl Experts {
    /// How many bytes of room [`Experts::launches`] takes.
    pub fn room(&self) -> usize {
        self.parts().iter().sum()
    }

    /// The bytes of what lies in the room: ids, shares, inner values, and answers.
    fn parts(&self) -> [usize; 4] {
        let chosen = self.routing.chosen as usize;
        [chosen, chosen, chosen * self.up.n_out, chosen * self.down.n_out]
            .map(|count| count.next_multiple_of(4) * size_of::<f32>())
    }

    /// From the router's `logits` `[experts]` and `x` `[n_in]` to the weighed answers `y` `[n_out]`.
    pub fn launches(&self, logits: Address, x: Address, room: Address, y: Address) -> Vec<Launch> {
        let [ids, shares, inner, answers] = places(room, self.parts());
        let (chosen, size) = (self.routing.chosen as usize, self.down.n_out);
        let mut launches = vec![self.choose(logits, ids, shares)];
        match self.gate {
            Some((gate, factor)) => launches.push(gate.gated(&self.up, factor, ids, chosen, x, inner)),
            None => {
                let count = chosen * self.up.n_out;
                let arguments = arguments![inner, count as u64];
                launches.extend([
                    self.up.row_times(ids, chosen, x, 0, inner),
                    Launch::new("squared_relu", [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments),
                ]);
            }
        }
        let arguments = arguments![answers, shares, y, chosen, size];
        launches.extend([
            self.down.row_times(ids, chosen, inner, self.up.n_out, answers),
            Launch::new("weigh", [size.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments),
        ]);
        launches
    }

    fn choose(&self, logits: Address, ids: Address, shares: Address) -> Launch {
        let mut arguments = arguments![logits, self.correction, ids, shares];
        arguments.push(Argument::Routing(self.routing));
        let numbers = 2 * self.routing.experts as usize + self.routing.groups as usize;
        Launch::new("choose", [1; 3], WARP, numbers * size_of::<f32>(), arguments)
    }
}

impl Table {
    /// As [`gated`] for the chosen experts, `y` `[chosen, n_out]`, where these are the gates.
    fn gated(&self, up: &Self, factor: f32, ids: Address, chosen: usize, x: Address, y: Address) -> Launch {
        let names = ["chosen_gated_float", "chosen_gated_f16", "chosen_gated_bf16"];
        let arguments = arguments![self.at, up.at, ids, x, y, self.n_in, self.n_out, factor];
        Launch::new(typed(self.dtype, names), [self.n_out.div_ceil(BLOCK / WARP), chosen, 1], BLOCK, 0, arguments)
    }

    /// A row of `x`, and rows so far apart for each, times the matrices of the chosen experts: `y` `[chosen, n_out]`.
    fn row_times(&self, ids: Address, chosen: usize, x: Address, x_stride: usize, y: Address) -> Launch {
        let names = ["chosen_row_times_float", "chosen_row_times_f16", "chosen_row_times_bf16"];
        let blocks = self.n_out.div_ceil(ROWS_OF_A_WARP * BLOCK / WARP);
        let arguments = arguments![self.at, ids, x, y, self.n_in, self.n_out, x_stride];
        Launch::new(typed(self.dtype, names), [blocks, chosen, 1], BLOCK, 0, arguments)
    }
}

/// Where parts of so many bytes lie, one after the other.
fn places<const N: usize>(room: Address, bytes: [usize; N]) -> [Address; N] {
    let mut end = room;
    bytes.map(|bytes| {
        end += bytes as Address;
        end - bytes as Address
    })
}

#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) mod emulator;
#[cfg(all(test, feature = "cuda-emulator"))]
mod tests;
