//! Mamba2 between its projections.

use super::kernel::kernel;
use super::launch::{Address, Argument, BLOCK, Launch, ROW_BLOCK, WARP, arguments, narrow, places, room_of_a_row};
use crate::kernels::mamba2::Sizing;

/// Threads of a block that share what a head's step begins with.
const STEP_BLOCK: usize = 512;
/// As in `mamba2.cu`.
const CHUNK: usize = 128;
const TILE: usize = 64;
const TILE_BLOCK: usize = 256;
/// Two operands of 16 terms, each with room beside bank conflicts.
const TILE_BYTES: usize = 2 * 16 * (TILE + 4) * size_of::<f32>();
/// The largest grid in the second and third direction.
const MOST_IN_GRID: usize = 65_535;

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

/// As in `mamba2.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Convolution {
    x: Address,
    state: Address,
    taps: Address,
    bias: Address,
    tokens: u32,
    channels: u32,
    stride: u32,
    kept: u32,
}

/// What one call of [`Mamba2::launches`] reads and writes, all f32.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2Run {
    /// How many tokens there are.
    pub tokens: usize,
    /// z, x, B, C and Δ side by side, `[tokens, inner + conv_dim + heads]`.
    pub projected: Address,
    /// The convolution's state, `[kept, conv_dim]`.
    pub conv: Address,
    /// What it is afterwards: other memory.
    pub next_conv: Address,
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

    /// The bytes of what lies in the room of several tokens: sums of logarithms, gains, scores, Δ, and what is convolved.
    fn parts(&self, tokens: usize) -> [usize; 5] {
        if tokens == 1 {
            return [0; 5];
        }
        let (Sizing { heads, state_size, groups, .. }, chunks) = (self.sizing, tokens.div_ceil(CHUNK));
        let sums = 2 * heads * tokens;
        let gains = chunks * self.sizing.inner() * state_size;
        let scores = chunks * groups * CHUNK * CHUNK;
        // Each begins at a multiple of 16 bytes.
        [sums, gains, scores, heads * tokens, tokens * self.sizing.conv_dim()]
            .map(|count| count.next_multiple_of(4) * size_of::<f32>())
    }

    /// Whether the norm of so many tokens is left to the product that follows: it is over all of a gated row then.
    pub fn leaves_norm(&self, tokens: usize) -> bool {
        tokens == 1 && self.norm != 0 && !self.is_norm_first && self.sizing.groups == 1
    }

    /// All that is done, in order.
    pub fn launches(&self, run: Mamba2Run) -> Vec<Launch> {
        if run.tokens == 1 {
            let is_gated = self.norm == 0 || self.leaves_norm(1);
            let gate = (!is_gated).then(|| self.gate(run));
            return [Some(self.step(run, is_gated)), gate].into_iter().flatten().collect();
        }
        let [sums, gains, scores, deltas, xbc] = places(run.room, self.parts(run.tokens));
        let mut launches = vec![self.convolve(run, xbc)];
        launches.extend(self.scan(run, xbc, Scan { sums, gains, scores, deltas }));
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

    fn convolution(&self, run: Mamba2Run) -> Argument {
        let (channels, stride) = (narrow(self.sizing.conv_dim()), narrow(self.stride()));
        let (x, taps, bias) = (Self::column(run, self.sizing.inner()), self.taps, self.conv_bias);
        let (tokens, kept) = (narrow(run.tokens), narrow(self.kept));
        Convolution { x, state: run.conv, taps, bias, tokens, channels, stride, kept }.into()
    }

    fn convolve(&self, run: Mamba2Run, xbc: Address) -> Launch {
        let blocks = self.sizing.conv_dim().div_ceil(BLOCK);
        let arguments = arguments![self.convolution(run), run.next_conv, xbc];
        Launch::new(kernel!("convolve"), [blocks, run.tokens.min(MOST_IN_GRID), 1], BLOCK, 0, arguments)
    }

    fn dt(&self, run: Mamba2Run) -> Address {
        Self::column(run, self.sizing.inner() + self.sizing.conv_dim())
    }

    fn step(&self, run: Mamba2Run, is_gated: bool) -> Launch {
        let (low, high) = self.dt_limit;
        let (convolution, sizes) = (self.convolution(run), self.sizes(1));
        let arguments = arguments![
            run.ssm,
            run.projected,
            convolution,
            run.next_conv,
            self.dt_bias,
            self.a,
            self.d,
            run.y,
            sizes,
            is_gated,
            low,
            high
        ];
        let blocks = self.sizing.head_dim.div_ceil(STEP_BLOCK / WARP);
        let shared = (2 * self.sizing.state_size + 2) * size_of::<f32>();
        Launch::new(kernel!("step"), [self.sizing.heads, blocks, 1], STEP_BLOCK, shared, arguments)
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
            |kernel, grid, arguments| Launch::new(kernel, grid, TILE_BLOCK, TILE_BYTES, with_sizes(arguments));
        let mut times = with_sizes(arguments![self.dt(run), self.dt_bias, self.a, deltas, sums]);
        times.extend(arguments![self.stride(), low, high]);
        let numbers = (self.sizing.inner() * state_size).div_ceil(BLOCK);
        let states = with_sizes(arguments![run.ssm, gains, sums]);
        [
            Launch::new(kernel!("scan_times"), [heads, chunks, 1], CHUNK, CHUNK * size_of::<f64>(), times),
            product(kernel!("scan_scores"), [tiles(CHUNK, CHUNK), groups, chunks], arguments![xbc, scores]),
            product(
                kernel!("scan_gains"),
                [tiles(head_dim, state_size), heads, chunks],
                arguments![xbc, deltas, sums, gains],
            ),
            Launch::new(kernel!("scan_states"), [numbers, 1, 1], BLOCK, 0, states),
            product(
                kernel!("scan_outputs"),
                [tiles(CHUNK, head_dim), heads, chunks],
                arguments![xbc, deltas, sums, scores, gains, self.d, run.y],
            ),
        ]
    }

    fn gate(&self, run: Mamba2Run) -> Launch {
        let inner = self.sizing.inner();
        let arguments = arguments![run.y, run.projected, self.norm, inner, self.stride(), self.eps, self.is_norm_first];
        let grid = [run.tokens, self.sizing.groups, 1];
        Launch::new(kernel!("gate"), grid, ROW_BLOCK, room_of_a_row(), arguments)
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
