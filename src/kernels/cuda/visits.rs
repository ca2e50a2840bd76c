//! A mixture of experts for the tokens of a prompt: their visits, gathered by expert.

#[cfg(all(test, feature = "cuda-emulator"))]
mod tests;

use super::kernel::{Kernel, kernel};
use super::launch::{Address, Argument, BLOCK, Launch, ROW_BLOCK, arguments, narrow, places, room_of_a_row, typed};
use super::moe::{Experts, ExpertsRun, Table};
use crate::kernels::blocks::Format;
use crate::kernels::matrix::{Precision, WeightType};

/// Visits of a batch and outputs of a block, as in `square.cuh`.
const SQUARE: usize = 64;

/// What visits ask of their experts, as in `visits.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Visits {
    batches: Address,
    order: Address,
    of_a_row: u32,
    n_in: u32,
    n_out: u32,
}

/// The kernel of a family for the matrices of a role.
macro_rules! visiting {
    ($experts:expr, $run:expr, $role:expr, $family:literal) => {
        if $experts.rounds($run.tokens) { kernel!(concat!($family, "_rounded")) } else { typed!($role.dtype, $family) }
    };
}

impl Experts {
    /// Whether there are kernels for so many tokens: several don't meet blocks.
    pub fn take(&self, tokens: usize) -> bool {
        tokens == 1 || !self.types().iter().any(|dtype| dtype.is_blocks())
    }

    /// Whether so many tokens are taken in bf16: they meet weights of bf16 and may be rounded.
    pub fn rounds(&self, tokens: usize) -> bool {
        tokens > 1 && self.types() == [WeightType::Bf16; 2] && self.precision == Precision::Fast
    }

    /// The types of what leads to the inner values, and from them.
    fn types(&self) -> [WeightType; 2] {
        [self.up.dtype, self.down.dtype]
    }

    fn visits(&self, tokens: usize) -> usize {
        tokens * self.routing.chosen as usize
    }

    fn batches(&self, tokens: usize) -> usize {
        most_batches(self.visits(tokens), self.routing.experts as usize)
    }

    /// The bytes of what lies in the room: ids, shares, order, batches, inner values, and answers.
    pub(super) fn parts_of_visits(&self, tokens: usize) -> [usize; 6] {
        let visits = self.visits(tokens);
        let inner = if self.rounds(tokens) { size_of::<u16>() } else { size_of::<f32>() };
        let list = visits * size_of::<u32>();
        let batches = self.batches(tokens) * size_of::<[u32; 3]>();
        let answers = visits * self.down.n_out * size_of::<f32>();
        [list, list, list, batches, visits * self.up.n_out * inner, answers].map(|bytes| bytes.next_multiple_of(16))
    }

    pub(super) fn launches_of_visits(&self, run: ExpertsRun) -> Vec<Launch> {
        let [ids, shares, order, batches, inner, answers] = places(run.room, self.parts_of_visits(run.tokens));
        let visits = |of_a_row, of: &Table| {
            let [n_in, n_out] = [of.n_in, of.n_out].map(narrow);
            Visits { batches, order, of_a_row, n_in, n_out }
        };
        let (to_inner, from_inner) = (visits(self.routing.chosen, &self.up), visits(1, &self.down));
        vec![
            self.choose(run, ids, shares),
            gather(ids, order, batches, self.visits(run.tokens), self.routing.experts as usize),
            self.inner(run, to_inner, inner),
            self.answers(run, from_inner, inner, answers),
            self.weigh(run, answers, shares),
        ]
    }

    /// The inner values of each visit, in the type of the run's activations.
    fn inner(&self, run: ExpertsRun, visits: Visits, inner: Address) -> Launch {
        match self.gate {
            Some((gate, factor)) => {
                let arguments = arguments![visits, gate.at, self.up.at, run.x, inner, factor];
                self.visit(run.tokens, (visiting!(self, run, gate, "visits_gated"), 2), visits, arguments)
            }
            None => {
                let arguments = arguments![visits, self.up.at, run.x, inner];
                self.visit(run.tokens, (visiting!(self, run, self.up, "visits_squared"), 1), visits, arguments)
            }
        }
    }

    /// The answer to each visit.
    fn answers(&self, run: ExpertsRun, visits: Visits, inner: Address, answers: Address) -> Launch {
        let arguments = arguments![visits, self.down.at, inner, answers];
        self.visit(run.tokens, (visiting!(self, run, self.down, "visits_times"), 1), visits, arguments)
    }

    /// A kernel that reads so many matrices of an expert.
    fn visit(
        &self,
        tokens: usize,
        (kernel, matrices): (Kernel, usize),
        visits: Visits,
        arguments: Vec<Argument>,
    ) -> Launch {
        let grid = [(visits.n_out as usize).div_ceil(SQUARE), self.batches(tokens), 1];
        Launch::new(kernel, grid, BLOCK, shared(1 + matrices, self.rounds(tokens)), arguments)
    }
}

/// Each expert that is visited may have one batch that is not full.
fn most_batches(visits: usize, experts: usize) -> usize {
    visits / SQUARE + visits.min(experts)
}

/// From the expert of each visit, `ids`, to their `order` by expert, and to as many batches as there can be.
fn gather(ids: Address, order: Address, batches: Address, visits: usize, experts: usize) -> Launch {
    let shared = (experts + ROW_BLOCK) * size_of::<u32>() + room_of_a_row();
    let arguments = arguments![ids, order, batches, visits, most_batches(visits, experts)];
    Launch::new(kernel!("gather"), [experts, 1, 1], ROW_BLOCK, shared, arguments)
}

/// The bytes that a block shares, as in `square.cuh`: operands twice, and then, in the same place, results.
fn shared(operands: usize, is_rounded: bool) -> usize {
    let operand = if is_rounded { SQUARE * (32 + 8) * size_of::<u16>() } else { 16 * (SQUARE + 4) * size_of::<f32>() };
    (2 * operands * operand).max(SQUARE * (SQUARE + 4) * size_of::<f32>())
}
