//! Draws of a token. What they draw is held to the CPU's in `sampling/sampler/on_gpu.rs`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{Kernel, kernel};
use super::launch::{Address, Argument, Launch, ROW_BLOCK, arguments, places};
use super::sampling::{Best, Entry, MOST, ROOM, list_in};
use crate::kernels::draw::{self, Among, Draw};

/// Weights of a stretch, as in `draws.cu`.
const STRETCH: usize = 4096;

/// The bytes in which a block of threads sums up a stretch: a number for each of its blocks of 64, and one for each lane of these.
const STRETCH_BYTES: usize = (64 + 64 * 16) * size_of::<f64>();

/// A draw from some logits.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// How many logits there are, one after the other.
    pub n_logits: usize,
    /// How the token is drawn.
    pub draw: Draw,
}

/// How logits become weights, as in `draws.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Weighing {
    within: f64,
    per_temperature: f32,
}

/// What comes of it, as in `draws.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Drawn {
    token: u32,
    logit: f32,
    has_nan: u32,
    is_drawn: u32,
}

impl Drawing {
    /// How many numbers of 32 bits the answer has: all that is copied to the host.
    pub const ANSWER: usize = size_of::<Drawn>() / size_of::<f32>();

    /// Whether the kernels take as many.
    pub fn fits(&self) -> bool {
        self.best().fits()
    }

    /// How many bytes of room [`Drawing::launches`] takes.
    pub fn room(&self) -> usize {
        self.rooms().iter().sum()
    }

    /// For what is known of the logits, for the list of the best, and for the weight of each stretch.
    fn rooms(&self) -> [usize; 3] {
        [self.best().room(), Best::ANSWER * size_of::<f32>(), self.n_stretches() * size_of::<f64>()]
    }

    fn n_stretches(&self) -> usize {
        self.n_logits.div_ceil(STRETCH)
    }

    /// As many of the best as the draw looks at.
    fn best(&self) -> Best {
        let count = match self.draw.among {
            Among::All => 1,
            Among::Best { top_k, .. } => top_k,
            Among::Nucleus { .. } => MOST,
        };
        Best { n_logits: self.n_logits, count }
    }

    /// From logits to an answer, for [`Drawing::read`].
    pub fn launches(&self, logits: Address, room: Address, answer: Address) -> Vec<Launch> {
        let Self { n_logits, draw: Draw { per_temperature, within, among, unit } } = *self;
        let [surveys, head, totals] = places(room, self.rooms());
        let (list, weighing) = (list_in(head), Weighing { within, per_temperature });
        let [survey, set_floor, list_best] = self.best().launches(logits, surveys, head);
        let weigh = {
            let (grid, arguments) = ([self.n_stretches(), 1, 1], arguments![logits, head, totals, n_logits, weighing]);
            Launch::new(kernel!("weigh_stretches"), grid, ROW_BLOCK, STRETCH_BYTES, arguments)
        };
        match among {
            Among::All => {
                let arguments = arguments![logits, head, totals, answer, n_logits, weighing, unit];
                vec![survey, set_floor, weigh, draw(kernel!("draw_from_all"), 0, arguments)]
            }
            Among::Best { top_k, top_p } => {
                let arguments = arguments![logits, head, list, answer, ROOM, weighing, top_k, top_p, unit];
                vec![survey, set_floor, list_best, draw(kernel!("draw_from_best"), 1, arguments)]
            }
            Among::Nucleus { top_p } => {
                let arguments = arguments![logits, head, list, totals, answer, n_logits, ROOM, weighing, top_p, unit];
                vec![survey, set_floor, list_best, weigh, draw(kernel!("draw_from_nucleus"), 2, arguments)]
            }
        }
    }

    /// The token that was drawn; none where it takes more of the best than were listed.
    pub fn read(answer: &[f32]) -> Option<draw::Drawn> {
        let answer: Drawn = bytemuck::try_pod_read_unaligned(bytemuck::cast_slice(answer)).ok()?;
        let Drawn { token, logit, has_nan, is_drawn } = answer;
        (is_drawn > 0).then_some(draw::Drawn { token, logit, has_nan: has_nan > 0 })
    }
}

/// The launch that draws, with so many lists in memory that threads share.
fn draw(kernel: Kernel, lists: usize, arguments: Vec<Argument>) -> Launch {
    Launch::new(kernel, [1; 3], ROW_BLOCK, STRETCH_BYTES + lists * ROOM * size_of::<Entry>(), arguments)
}
