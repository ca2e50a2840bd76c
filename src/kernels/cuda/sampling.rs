//! What there is to know of logits: the best of them, and a sum over all.

use bytemuck::{Pod, Zeroable};

use super::kernel::kernel;
use super::launch::{Address, BLOCK, Launch, ROW_BLOCK, WARP, arguments};
use crate::kernels::shortlist::Shortlist;

#[cfg(all(test, feature = "cuda-emulator"))]
mod tests;

/// The logits are looked through in so many parts, the largest one of each of which can be the floor.
const PARTS: usize = ROW_BLOCK;

/// No more of the largest are asked for: under a floor from one of the last parts there would be many others.
pub(super) const MOST: usize = PARTS / 4 * 3;

/// No more are listed, which is room for the runs of all parts that are asked for, as neighbours can be alike.
pub(super) const ROOM: usize = 2048;

/// What a part comes to.
const PART_BYTES: usize = 16;

/// The largest of some logits.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    /// How many logits there are, one after the other.
    pub n_logits: usize,
    /// How many of the largest are asked for.
    pub count: usize,
}

/// What stands before the list.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    total: f64,
    largest: f32,
    floor: f32,
    listed: u32,
    has_nan: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    token: u32,
    logit: f32,
}

impl Best {
    /// How many numbers of 32 bits the answer has.
    pub const ANSWER: usize = (size_of::<Head>() + ROOM * size_of::<Entry>()) / size_of::<f32>();

    /// Whether the kernels take as many.
    pub fn fits(&self) -> bool {
        self.n_logits > 0 && (1..=MOST).contains(&self.count)
    }

    /// How many bytes of room [`Best::launches`] takes.
    pub fn room(&self) -> usize {
        PARTS * PART_BYTES
    }

    /// From logits to an answer, for [`Best::read`].
    pub fn launches(&self, logits: Address, room: Address, answer: Address) -> [Launch; 3] {
        let Self { n_logits, count } = *self;
        let list = list_in(answer);
        let of_warps = |threads| threads / WARP * size_of::<f64>();
        let shared = of_warps(BLOCK) + BLOCK / WARP * size_of::<f32>();
        let shared_of_parts = of_warps(PARTS) + PARTS * size_of::<f32>();
        let (blocks, listing) = (n_logits.div_ceil(BLOCK), arguments![logits, answer, list, n_logits, ROOM]);
        [
            Launch::new(kernel!("survey"), [PARTS, 1, 1], BLOCK, shared, arguments![logits, room, n_logits]),
            Launch::new(kernel!("set_floor"), [1; 3], PARTS, shared_of_parts, arguments![room, answer, count]),
            Launch::new(kernel!("list_best"), [blocks, 1, 1], BLOCK, 0, listing),
        ]
    }

    /// The logits that were asked for; none where there was no room for all of them.
    pub fn read(&self, answer: &[f32]) -> Option<Shortlist> {
        let (head, list) = answer.split_at_checked(size_of::<Head>() / size_of::<f32>())?;
        let head: Head = bytemuck::try_pod_read_unaligned(bytemuck::cast_slice(head)).ok()?;
        let list: &[Entry] = bytemuck::try_cast_slice(list).ok()?;
        let listed = list.get(..usize::try_from(head.listed).ok()?)?;
        let mut best: Vec<_> = listed.iter().map(|entry| (entry.token, entry.logit)).collect();
        best.sort_unstable_by_key(|(token, _)| *token);
        Some(Shortlist { n_logits: self.n_logits, max: head.largest, total: head.total, best })
    }
}

/// Where the list begins in an answer.
pub(super) fn list_in(answer: Address) -> Address {
    answer + size_of::<Head>() as Address
}
