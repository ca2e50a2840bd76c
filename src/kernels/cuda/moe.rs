//! A mixture of experts: whom tokens visit, and one token's visits.

use super::kernel::kernel;
use super::launch::{Address, BLOCK, Launch, WARP, arguments, places, typed};
use super::products::ROWS_OF_A_WARP;
use crate::kernels::blocks::Format;
use crate::kernels::matrix::{Precision, WeightType};

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

/// The experts that tokens visit.
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
    /// Whether several tokens' activations are rounded where they meet bf16.
    pub precision: Precision,
}

/// A run over so many tokens, by addresses of tensors.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsRun {
    /// How many there are.
    pub tokens: usize,
    /// The router's, `[tokens, experts]`.
    pub logits: Address,
    /// `[tokens, n_in]`: bf16 where [`Experts::rounds`], f32 elsewhere; begins at a multiple of 16 bytes.
    pub x: Address,
    /// As much as [`Experts::room`] says; begins at a multiple of 16 bytes.
    pub room: Address,
    /// The weighed answers, `[tokens, n_out]`.
    pub y: Address,
}

impl Experts {
    /// How many bytes of room [`Experts::launches`] takes.
    pub fn room(&self, tokens: usize) -> usize {
        if tokens == 1 { self.parts().iter().sum() } else { self.parts_of_visits(tokens).iter().sum() }
    }

    /// The bytes of what lies in the room: ids, shares, inner values, and answers.
    fn parts(&self) -> [usize; 4] {
        let chosen = self.routing.chosen as usize;
        [chosen, chosen, chosen * self.up.n_out, chosen * self.down.n_out]
            .map(|count| count.next_multiple_of(4) * size_of::<f32>())
    }

    /// All that is done, in order.
    pub fn launches(&self, run: ExpertsRun) -> Vec<Launch> {
        if run.tokens == 1 { self.launches_of_one(run) } else { self.launches_of_visits(run) }
    }

    fn launches_of_one(&self, run: ExpertsRun) -> Vec<Launch> {
        let ExpertsRun { x, room, .. } = run;
        let [ids, shares, inner, answers] = places(room, self.parts());
        let chosen = self.routing.chosen as usize;
        let mut launches = vec![self.choose(run, ids, shares)];
        match self.gate {
            Some((gate, factor)) => launches.push(gate.gated(&self.up, factor, ids, chosen, x, inner)),
            None => {
                let count = chosen * self.up.n_out;
                let arguments = arguments![inner, count as u64];
                launches.extend([
                    self.up.row_times(ids, chosen, x, 0, inner),
                    Launch::new(kernel!("squared_relu"), [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments),
                ]);
            }
        }
        launches.extend([
            self.down.row_times(ids, chosen, inner, self.up.n_out, answers),
            self.weigh(run, answers, shares),
        ]);
        launches
    }

    /// From each token's logits to `ids` and `shares` of those that it visits, `[tokens, chosen]`.
    pub(super) fn choose(&self, run: ExpertsRun, ids: Address, shares: Address) -> Launch {
        let arguments = arguments![run.logits, self.correction, ids, shares, self.routing];
        let numbers = 2 * self.routing.experts as usize + self.routing.groups as usize;
        Launch::new(kernel!("choose"), [run.tokens, 1, 1], WARP, numbers * size_of::<f32>(), arguments)
    }

    /// Sums each token's `answers` `[tokens, chosen, n_out]`.
    pub(super) fn weigh(&self, run: ExpertsRun, answers: Address, shares: Address) -> Launch {
        let (chosen, size) = (self.routing.chosen, self.down.n_out);
        let arguments = arguments![answers, shares, run.y, chosen, size];
        Launch::new(kernel!("weigh"), [run.tokens, size.div_ceil(BLOCK), 1], BLOCK, 0, arguments)
    }
}

impl Table {
    /// As [`gated`] for the chosen experts, `y` `[chosen, n_out]`, where these are the gates.
    fn gated(&self, up: &Self, factor: f32, ids: Address, chosen: usize, x: Address, y: Address) -> Launch {
        let kernel = typed!(self.dtype, "chosen_gated");
        let arguments = arguments![self.at, up.at, ids, x, y, self.n_in, self.n_out, factor];
        Launch::new(kernel, [self.n_out.div_ceil(BLOCK / WARP), chosen, 1], BLOCK, 0, arguments)
    }

    /// A row of `x`, and rows so far apart for each, times the matrices of the chosen experts: `y` `[chosen, n_out]`.
    fn row_times(&self, ids: Address, chosen: usize, x: Address, x_stride: usize, y: Address) -> Launch {
        let kernel = typed!(self.dtype, "chosen_row_times");
        let blocks = self.n_out.div_ceil(ROWS_OF_A_WARP * BLOCK / WARP);
        let arguments = arguments![self.at, ids, x, y, self.n_in, self.n_out, x_stride];
        Launch::new(kernel, [blocks, chosen, 1], BLOCK, 0, arguments)
    }
}
