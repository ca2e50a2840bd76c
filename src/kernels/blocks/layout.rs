//! The packed blocks in memory, and how codes and scales are read from them.

use bytemuck::{Pod, Zeroable};

use super::super::isa::{FAR, NEAR, prefetch};
use super::{ROWS, vectors::Vectors};

/// Codes of 4 consecutive inputs of each row, the operand of a dot-4 instruction.
pub(super) type Vector = [[u8; 4]; ROWS];

/// One little-endian f16 for each row.
pub(super) type F16s = [[u8; 2]; ROWS];

/// The dot-4 vectors of 32 inputs: 4 of the first 16 inputs, 4 of the other 16.
pub(super) type Halves<C> = [[C; 4]; 2];

/// The largest code of 4 bits.
pub(super) const LARGEST_NIBBLE: u8 = 15;

/// A packed block: 16 rows of one block of inputs, in groups of 32 inputs.
///
/// Every weight is `scale · (code - CENTER) + offset`, with one scale per row and half group, one offset per row and
/// group. A format has a center or offsets. In f32 only the addition of the offset rounds.
pub(super) trait Block: Pod {
    /// What stands beside the codes of 32 inputs.
    type Group;
    /// The scales that all groups share, in registers.
    type Shared<F: Copy>: Copy;
    /// The code of zero.
    const CENTER: u8;
    const LARGEST_CODE: u8;
    /// Whether weights are offset.
    const HAS_OFFSETS: bool = Self::CENTER == 0;
    /// Whether the two halves of a group have scales of their own.
    const HALVES_DIFFER: bool = false;
    /// Groups in a block.
    const GROUPS: usize;

    fn groups(&self) -> &[Self::Group];
    fn shared<I: Vectors>(&self, isa: I) -> Self::Shared<I::Floats>;
    fn codes<I: Vectors>(group: &Self::Group, isa: I) -> Halves<I::Codes>;
    fn scales<I: Vectors>(group: &Self::Group, shared: Self::Shared<I::Floats>, isa: I) -> [I::Floats; 2];

    /// The codes of a format that has no center where they are nibbles and nothing else, as in [`Q4KGroup`].
    #[inline(always)]
    fn nibbles(_group: &Self::Group) -> Option<&[Vector; 4]> {
        None
    }

    /// The offsets, for a format that has them.
    #[inline(always)]
    fn offsets<I: Vectors>(_group: &Self::Group, _shared: Self::Shared<I::Floats>, _isa: I) -> Option<I::Floats> {
        None
    }
}

/// 32 inputs of 8-bit codes, `q + 128`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q8_0 {
    pub(super) codes: Halves<Vector>,
    pub(super) d: F16s,
}

impl Block for Q8_0 {
    type Group = Self;
    type Shared<F: Copy> = ();
    const CENTER: u8 = 128;
    const LARGEST_CODE: u8 = 255;
    const GROUPS: usize = 1;

    #[inline(always)]
    fn groups(&self) -> &[Self] {
        std::slice::from_ref(self)
    }

    #[inline(always)]
    fn shared<I: Vectors>(&self, _isa: I) {}

    #[inline(always)]
    fn codes<I: Vectors>(group: &Self, isa: I) -> Halves<I::Codes> {
        let [first, second] = &group.codes;
        [load::<NEAR, I>(first, isa), load::<NEAR, I>(second, isa)]
    }

    #[inline(always)]
    fn scales<I: Vectors>(group: &Self, _shared: (), isa: I) -> [I::Floats; 2] {
        prefetch::<NEAR, _>(&group.d);
        [isa.f16s(&group.d); 2]
    }
}

/// 256 inputs of 4-bit codes with a 6-bit scale and minimum per 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4K {
    pub(super) groups: [Q4KGroup; 8],
    pub(super) d: F16s,
    pub(super) dmin: F16s,
}

/// 32 inputs of [`Q4K`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4KGroup {
    /// The first 16 inputs in the low nibbles, the others in the high ones.
    pub(super) nibbles: [Vector; 4],
    pub(super) scales: [u8; ROWS],
    pub(super) minima: [u8; ROWS],
}

impl Q4KGroup {
    #[inline(always)]
    fn scales<I: Vectors>(&self, d: I::Floats, isa: I) -> [I::Floats; 2] {
        prefetch::<FAR, _>(&self.scales);
        [isa.mul(d, isa.unsigned(&self.scales)); 2]
    }

    #[inline(always)]
    fn offsets<I: Vectors>(&self, minus_dmin: I::Floats, isa: I) -> I::Floats {
        isa.mul(minus_dmin, isa.unsigned(&self.minima))
    }
}

impl Block for Q4K {
    type Group = Q4KGroup;
    type Shared<F: Copy> = [F; 2];
    const CENTER: u8 = 0;
    const LARGEST_CODE: u8 = LARGEST_NIBBLE;
    const GROUPS: usize = 8;

    #[inline(always)]
    fn groups(&self) -> &[Q4KGroup] {
        &self.groups
    }

    #[inline(always)]
    fn shared<I: Vectors>(&self, isa: I) -> [I::Floats; 2] {
        d_and_minus_dmin(&self.d, &self.dmin, isa)
    }

    #[inline(always)]
    fn codes<I: Vectors>(group: &Q4KGroup, isa: I) -> Halves<I::Codes> {
        low_bits(&group.nibbles, isa)
    }

    #[inline(always)]
    fn nibbles(group: &Q4KGroup) -> Option<&[Vector; 4]> {
        Some(&group.nibbles)
    }

    #[inline(always)]
    fn scales<I: Vectors>(group: &Q4KGroup, [d, _]: [I::Floats; 2], isa: I) -> [I::Floats; 2] {
        group.scales(d, isa)
    }

    #[inline(always)]
    fn offsets<I: Vectors>(group: &Q4KGroup, [_, minus_dmin]: [I::Floats; 2], isa: I) -> Option<I::Floats> {
        Some(group.offsets(minus_dmin, isa))
    }
}

/// 256 inputs of 5-bit codes with a 6-bit scale and minimum per 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5K {
    pub(super) groups: [Q5KGroup; 8],
    pub(super) d: F16s,
    pub(super) dmin: F16s,
}

/// 32 inputs of [`Q5K`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5KGroup {
    pub(super) low: Q4KGroup,
    /// The fifth bits: bit j of each byte belongs to the group's dot-4 vector j.
    pub(super) plane: Vector,
}

impl Block for Q5K {
    type Group = Q5KGroup;
    type Shared<F: Copy> = [F; 2];
    const CENTER: u8 = 0;
    const LARGEST_CODE: u8 = 31;
    const GROUPS: usize = 8;

    #[inline(always)]
    fn groups(&self) -> &[Q5KGroup] {
        &self.groups
    }

    #[inline(always)]
    fn shared<I: Vectors>(&self, isa: I) -> [I::Floats; 2] {
        d_and_minus_dmin(&self.d, &self.dmin, isa)
    }

    #[inline(always)]
    fn codes<I: Vectors>(group: &Q5KGroup, isa: I) -> Halves<I::Codes> {
        let plane = isa.load_codes(&group.plane);
        let [first, second] = low_bits(&group.low.nibbles, isa);
        let fifth = |right| isa.bits(plane, right, 0x10);
        [
            or(first, [fifth(-4), fifth(-3), fifth(-2), fifth(-1)], isa),
            or(second, [fifth(0), fifth(1), fifth(2), fifth(3)], isa),
        ]
    }

    #[inline(always)]
    fn scales<I: Vectors>(group: &Q5KGroup, [d, _]: [I::Floats; 2], isa: I) -> [I::Floats; 2] {
        group.low.scales(d, isa)
    }

    #[inline(always)]
    fn offsets<I: Vectors>(group: &Q5KGroup, [_, minus_dmin]: [I::Floats; 2], isa: I) -> Option<I::Floats> {
        Some(group.low.offsets(minus_dmin, isa))
    }
}

/// 256 inputs of 6-bit codes, `q + 32`, with an 8-bit scale per 16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6K {
    pub(super) groups: [Q6KGroup; 8],
    pub(super) d: F16s,
}

/// 32 inputs of [`Q6K`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6KGroup {
    /// The first 16 inputs in the low nibbles, the others in the high ones.
    pub(super) nibbles: [Vector; 4],
    /// The fifth and sixth bits, a plane per half: bits 2j and 2j + 1 of each byte belong to the half's vector j.
    pub(super) planes: [Vector; 2],
    pub(super) scales: [[i8; ROWS]; 2],
}

impl Block for Q6K {
    type Group = Q6KGroup;
    type Shared<F: Copy> = F;
    const CENTER: u8 = 32;
    const LARGEST_CODE: u8 = 63;
    const HALVES_DIFFER: bool = true;
    const GROUPS: usize = 8;

    #[inline(always)]
    fn groups(&self) -> &[Q6KGroup] {
        &self.groups
    }

    #[inline(always)]
    fn shared<I: Vectors>(&self, isa: I) -> I::Floats {
        isa.f16s(&self.d)
    }

    #[inline(always)]
    fn codes<I: Vectors>(group: &Q6KGroup, isa: I) -> Halves<I::Codes> {
        let [first, second] = low_bits(&group.nibbles, isa);
        let [first_plane, second_plane] = &group.planes;
        [or(first, high_pairs(first_plane, isa), isa), or(second, high_pairs(second_plane, isa), isa)]
    }

    #[inline(always)]
    fn scales<I: Vectors>(group: &Q6KGroup, d: I::Floats, isa: I) -> [I::Floats; 2] {
        let [first, second] = &group.scales;
        [isa.mul(d, isa.signed(first)), isa.mul(d, isa.signed(second))]
    }
}

#[inline(always)]
fn d_and_minus_dmin<I: Vectors>(d: &F16s, dmin: &F16s, isa: I) -> [I::Floats; 2] {
    [isa.f16s(d), isa.mul(isa.f16s(dmin), isa.splat(-1.0))]
}

#[inline(always)]
fn load<const AHEAD: usize, I: Vectors>([a, b, c, d]: &[Vector; 4], isa: I) -> [I::Codes; 4] {
    [a, b, c, d].map(|vector| load_one::<AHEAD, I>(vector, isa))
}

/// Codes, where memory is read in one long pass.
#[inline(always)]
pub(super) fn load_one<const AHEAD: usize, I: Vectors>(vector: &Vector, isa: I) -> I::Codes {
    prefetch::<AHEAD, _>(vector);
    isa.load_codes(vector)
}

#[inline(always)]
fn or<I: Vectors>([a, b, c, d]: [I::Codes; 4], [e, f, g, h]: [I::Codes; 4], isa: I) -> [I::Codes; 4] {
    [isa.or(a, e), isa.or(b, f), isa.or(c, g), isa.or(d, h)]
}

/// The low 4 bits of all codes.
#[inline(always)]
pub(super) fn low_bits<I: Vectors>(nibbles: &[Vector; 4], isa: I) -> Halves<I::Codes> {
    let [a, b, c, d] = load::<FAR, I>(nibbles, isa);
    let low = |codes| isa.bits(codes, 0, LARGEST_NIBBLE);
    let high = |codes| isa.bits(codes, 4, LARGEST_NIBBLE);
    [[low(a), low(b), low(c), low(d)], [high(a), high(b), high(c), high(d)]]
}

/// Bits 4 and 5 of the codes of half a group.
#[inline(always)]
fn high_pairs<I: Vectors>(plane: &Vector, isa: I) -> [I::Codes; 4] {
    let plane = isa.load_codes(plane);
    let pair = |right| isa.bits(plane, right, 0x30);
    [pair(-4), pair(-2), pair(0), pair(2)]
}
