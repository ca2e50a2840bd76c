//! Panels as the kernels of GPUs read them (`cuda/blocks.cuh`): as many bytes, of the same 16 rows, as planes.
//!
//! Of each plane the rows come one after the other. First are the lower bits of the codes, in words of 16 bytes, then the
//! upper ones, then what is beside the codes of a group, then what all groups of a block share. [`LANES`] words cover a span
//! of inputs, the last of a row with fewer; fours of inputs go to the words in turn.

use bytemuck::Pod;

use super::super::lanes::Scalar;
use super::{
    GROUP, ROWS,
    layout::{Block, Q4K, Q4KGroup, Q5K, Q6K, Q6KGroup, Q8_0},
};

/// So many words cover a span of inputs.
const LANES: usize = 8;

/// The bytes of a word.
const WORD: usize = 16;

/// Some bits of all codes, which lie in a plane.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    first: usize,
    count: usize,
}

/// The lower half of codes of more than four bits.
const NIBBLE: Bits = Bits { first: 0, count: 4 };

/// A packed block that can be laid out as planes.
pub(super) trait Planar: Block {
    /// What is beside the codes, of one row.
    type Scales: Pod;
    /// What the groups of a block share, of one row.
    type SharedOfRow: Pod;
    /// The planes of the codes.
    const PLANES: &'static [Bits];

    fn scales_of(&self, row: usize) -> Self::Scales;
    fn shared_of(&self, row: usize) -> Self::SharedOfRow;
}

/// Lays a panel out anew.
pub(super) fn arrange<B: Planar>(panel: &mut [u8]) {
    let blocks: &[B] = bytemuck::cast_slice(panel);
    let mut planes = Vec::with_capacity(panel.len());
    let codes = codes(blocks);
    let inputs_of_word = B::PLANES.first().map_or(0, |lower| WORD * 8 / lower.count);
    for bits in B::PLANES {
        codes.iter().for_each(|row| lay(row, inputs_of_word, *bits, &mut planes));
    }
    let each = || (0..ROWS).flat_map(|row| blocks.iter().map(move |block| (block, row)));
    each().for_each(|(block, row)| planes.extend(bytemuck::bytes_of(&block.scales_of(row))));
    each().for_each(|(block, row)| planes.extend(bytemuck::bytes_of(&block.shared_of(row))));
    panel.copy_from_slice(&planes);
}

/// The codes of each row, `[16][n_in]`.
fn codes<B: Block>(blocks: &[B]) -> [Vec<u8>; ROWS] {
    let mut rows: [Vec<u8>; ROWS] = std::array::from_fn(|_| Vec::with_capacity(blocks.len() * B::GROUPS * GROUP));
    for vector in blocks.iter().flat_map(B::groups).flat_map(|group| B::codes(group, Scalar)).flatten() {
        rows.iter_mut().zip(vector).for_each(|(row, four)| row.extend(four));
    }
    rows
}

/// Appends some bits of a row's codes, in words of so many inputs.
fn lay(codes: &[u8], inputs: usize, Bits { first, count }: Bits, plane: &mut Vec<u8>) {
    let mask = u32::from_ne_bytes([0xff >> (8 - count); 4]);
    for span in codes.chunks(LANES * inputs) {
        let (fours, lanes) = (span.as_chunks::<4>().0, span.len() / inputs);
        for lane in 0..lanes {
            let mut own = fours.iter().skip(lane).step_by(lanes);
            for _ in 0..inputs * count / 32 {
                let together = own.by_ref().take(8 / count).enumerate();
                let bits = together.map(|(at, four)| (u32::from_le_bytes(*four) >> first & mask) << (at * count));
                plane.extend(bits.fold(0, |word, bits| word | bits).to_le_bytes());
            }
        }
    }
}

impl Planar for Q8_0 {
    type Scales = [u8; 0];
    type SharedOfRow = [u8; 2];
    const PLANES: &'static [Bits] = &[Bits { first: 0, count: 8 }];

    fn scales_of(&self, _row: usize) -> [u8; 0] {
        []
    }

    fn shared_of(&self, row: usize) -> [u8; 2] {
        of(&self.d, row)
    }
}

impl Planar for Q4K {
    type Scales = [[u8; 8]; 2];
    type SharedOfRow = [[u8; 2]; 2];
    const PLANES: &'static [Bits] = &[NIBBLE];

    fn scales_of(&self, row: usize) -> [[u8; 8]; 2] {
        scales_and_minima(self.groups.each_ref(), row)
    }

    fn shared_of(&self, row: usize) -> [[u8; 2]; 2] {
        [of(&self.d, row), of(&self.dmin, row)]
    }
}

impl Planar for Q5K {
    type Scales = [[u8; 8]; 2];
    type SharedOfRow = [[u8; 2]; 2];
    const PLANES: &'static [Bits] = &[NIBBLE, Bits { first: 4, count: 1 }];

    fn scales_of(&self, row: usize) -> [[u8; 8]; 2] {
        scales_and_minima(self.groups.each_ref().map(|group| &group.low), row)
    }

    fn shared_of(&self, row: usize) -> [[u8; 2]; 2] {
        [of(&self.d, row), of(&self.dmin, row)]
    }
}

impl Planar for Q6K {
    /// Of the first halves of all groups, then of the others, plus 128.
    type Scales = [[u8; 8]; 2];
    type SharedOfRow = [u8; 2];
    const PLANES: &'static [Bits] = &[NIBBLE, Bits { first: 4, count: 2 }];

    fn scales_of(&self, row: usize) -> [[u8; 8]; 2] {
        let halves = |group: &Q6KGroup| group.scales.map(|scales| of(&scales, row).cast_unsigned() ^ 0x80);
        let scales = self.groups.each_ref().map(halves);
        [scales.map(|[first, _]| first), scales.map(|[_, second]| second)]
    }

    fn shared_of(&self, row: usize) -> [u8; 2] {
        of(&self.d, row)
    }
}

fn scales_and_minima(groups: [&Q4KGroup; 8], row: usize) -> [[u8; 8]; 2] {
    [groups.map(|group| of(&group.scales, row)), groups.map(|group| of(&group.minima, row))]
}

fn of<T: Copy + Default>(rows: &[T; ROWS], row: usize) -> T {
    rows.get(row).copied().unwrap_or_default()
}
