//! ggml's blocks, row by row, into packed blocks of 16 rows. No bit is lost.

use bytemuck::{Pod, Zeroable};

use super::{
    GROUP, ROWS,
    layout::{Block, Q4K, Q4KGroup, Q5K, Q5KGroup, Q6K, Q6KGroup, Q8_0, Vector},
};

/// A packed block that is made from ggml's blocks of each of its rows.
pub(super) trait Pack: Block {
    /// ggml's block, of one row.
    type Source: Pod;

    /// Sets row `lane`.
    fn put(&mut self, lane: usize, source: &Self::Source);
}

/// Fills `panel` from up to 16 rows of blocks; rows that are not there become zeros.
pub(super) fn panel<B: Pack>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    panel.fill(0);
    let panel: &mut [B] = bytemuck::cast_slice_mut(panel);
    for (lane, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
        let row: &[B::Source] = bytemuck::cast_slice(row);
        for (block, source) in panel.iter_mut().zip(row) {
            block.put(lane, source);
        }
    }
}

/// `block_q8_0` of ggml.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GgmlQ8_0 {
    d: [u8; 2],
    qs: [u8; 32],
}

impl Pack for Q8_0 {
    type Source = GgmlQ8_0;

    fn put(&mut self, lane: usize, source: &GgmlQ8_0) {
        let codes: [[u8; 4]; 8] = bytemuck::cast(source.qs.map(|q| q ^ 0x80)); // q + 128
        for (vector, codes) in self.codes.as_flattened_mut().iter_mut().zip(codes) {
            set(vector, lane, codes);
        }
        set(&mut self.d, lane, source.d);
    }
}

/// `block_q4_K` of ggml.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GgmlQ4K {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 12],
    qs: [[u8; 32]; 4],
}

impl Pack for Q4K {
    type Source = GgmlQ4K;

    fn put(&mut self, lane: usize, source: &GgmlQ4K) {
        let (pairs, _) = self.groups.as_chunks_mut::<2>();
        for ([low, high], qs) in pairs.iter_mut().zip(source.qs) {
            set_nibbles(&mut low.nibbles, lane, qs);
            set_nibbles(&mut high.nibbles, lane, qs.map(|q| q >> 4));
        }
        for (group, scales) in self.groups.iter_mut().zip(scales_and_minima(&source.scales)) {
            group.set_scales(lane, scales);
        }
        set(&mut self.d, lane, source.d);
        set(&mut self.dmin, lane, source.dmin);
    }
}

/// `block_q5_K` of ggml.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GgmlQ5K {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 12],
    qh: [u8; 32],
    qs: [[u8; 32]; 4],
}

impl Pack for Q5K {
    type Source = GgmlQ5K;

    fn put(&mut self, lane: usize, source: &GgmlQ5K) {
        let (pairs, _) = self.groups.as_chunks_mut::<2>();
        for (pair, ([low, high], qs)) in pairs.iter_mut().zip(source.qs).enumerate() {
            low.set_codes(lane, qs, source.qh.map(|q| q >> (2 * pair)));
            high.set_codes(lane, qs.map(|q| q >> 4), source.qh.map(|q| q >> (2 * pair + 1)));
        }
        for (group, scales) in self.groups.iter_mut().zip(scales_and_minima(&source.scales)) {
            group.low.set_scales(lane, scales);
        }
        set(&mut self.d, lane, source.d);
        set(&mut self.dmin, lane, source.dmin);
    }
}

/// `block_q6_K` of ggml.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GgmlQ6K {
    ql: [[[u8; 32]; 2]; 2],
    qh: [[u8; 32]; 2],
    scales: [[i8; 2]; 8],
    d: [u8; 2],
}

impl Pack for Q6K {
    type Source = GgmlQ6K;

    fn put(&mut self, lane: usize, source: &GgmlQ6K) {
        let (quarters, _) = self.groups.as_chunks_mut::<4>();
        for ((groups, [even, odd]), qh) in quarters.iter_mut().zip(source.ql).zip(source.qh) {
            for (i, (group, ql)) in
                groups.iter_mut().zip([even, odd, even.map(|q| q >> 4), odd.map(|q| q >> 4)]).enumerate()
            {
                group.set_codes(lane, ql, qh.map(|q| q >> (2 * i)));
            }
        }
        for (group, scales) in self.groups.iter_mut().zip(source.scales) {
            for (lanes, scale) in group.scales.iter_mut().zip(scales) {
                set(lanes, lane, scale);
            }
        }
        set(&mut self.d, lane, source.d);
    }
}

impl Q4KGroup {
    fn set_scales(&mut self, lane: usize, (scale, minimum): (u8, u8)) {
        set(&mut self.scales, lane, scale);
        set(&mut self.minima, lane, minimum);
    }
}

impl Q5KGroup {
    /// Sets a row's codes from their low 4 bits and, in the lowest bit, their fifth; other bits are ignored.
    fn set_codes(&mut self, lane: usize, low: [u8; GROUP], high: [u8; GROUP]) {
        set_nibbles(&mut self.low.nibbles, lane, low);
        set_plane::<1>(&mut self.plane, lane, &high);
    }
}

impl Q6KGroup {
    /// Sets a row's codes from their low 4 bits and, in the lowest two, the others; other bits are ignored.
    fn set_codes(&mut self, lane: usize, low: [u8; GROUP], high: [u8; GROUP]) {
        set_nibbles(&mut self.nibbles, lane, low);
        for (plane, high) in self.planes.iter_mut().zip(high.as_chunks::<{ GROUP / 2 }>().0) {
            set_plane::<2>(plane, lane, high);
        }
    }
}

/// Sets a row's low 4 bits; the upper 4 of `codes` are ignored.
fn set_nibbles(nibbles: &mut [Vector; 4], lane: usize, codes: [u8; GROUP]) {
    let [first, second]: [[[u8; 4]; 4]; 2] = bytemuck::cast(codes);
    for ((vector, first), second) in nibbles.iter_mut().zip(first).zip(second) {
        let (first, second) = (u32::from_ne_bytes(first), u32::from_ne_bytes(second));
        set(vector, lane, ((first & 0x0f0f_0f0f) | (second & 0x0f0f_0f0f) << 4).to_ne_bytes());
    }
}

/// Sets a row's bytes of a plane: of each byte of `bits`, the lowest `BITS`, those of the n-th four at `BITS · n`.
fn set_plane<const BITS: usize>(plane: &mut Vector, lane: usize, bits: &[u8]) {
    let mask = u32::from_ne_bytes([(1 << BITS) - 1; 4]);
    let fours = bits.as_chunks::<4>().0.iter().enumerate();
    let plane_bits = fours.fold(0, |bits, (n, four)| bits | (u32::from_ne_bytes(*four) & mask) << (BITS * n));
    set(plane, lane, plane_bits.to_ne_bytes());
}

/// The 6-bit scales and minima of 8 groups, from ggml's 12 bytes.
fn scales_and_minima(packed: &[u8; 12]) -> [(u8, u8); 8] {
    let [scales, minima, rest]: [[u8; 4]; 3] = bytemuck::cast(*packed);
    let mut unpacked = [(0, 0); 8];
    let (low, high) = unpacked.split_at_mut(4);
    for ((((low, high), scale), minimum), rest) in low.iter_mut().zip(high).zip(scales).zip(minima).zip(rest) {
        *low = (scale & 63, minimum & 63);
        *high = ((rest & 15) | (scale >> 6) << 4, (rest >> 4) | (minimum >> 6) << 4);
    }
    unpacked
}

fn set<T>(lanes: &mut [T; ROWS], lane: usize, value: T) {
    if let Some(slot) = lanes.get_mut(lane) {
        *slot = value;
    }
}
