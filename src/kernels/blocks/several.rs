//! Several rows of activations times panels.

use std::{hint::black_box, iter};

use super::super::lanes::Arithmetic;
use super::{
    ROWS,
    activations::{ActivationRows, GroupOfRows, TOGETHER},
    jobs::panels,
    layout::Block,
    vectors::{Dots, Job, Two, Vectors},
};

/// The sums that `jobs::RowsTimes` gives for each row of `x`, of one panel or two, bit for bit.
pub(super) struct PanelsTimesRows<'a> {
    pub(super) panels: &'a [u8],
    pub(super) x: &'a ActivationRows,
    pub(super) y: &'a mut [[[f32; ROWS]; 2]],
}

impl Job for PanelsTimesRows<'_> {
    #[inline(always)]
    fn run<I: Vectors, B: Block>(self, isa: I) {
        let mut panels = panels::<B>(self.panels, self.x.groups());
        match (panels.next(), panels.next()) {
            (Some(first), Some(second)) if I::HAVE_ROOM_FOR_TWO => {
                let sums = times(Both(Panel { isa, blocks: first }, Panel { isa, blocks: second }), self.x);
                for ([y, other_y], [sum, other]) in self.y.iter_mut().zip(sums.into_flattened()) {
                    isa.store(sum, y);
                    isa.store(other, other_y);
                }
            }
            (first, second) => {
                for (at, blocks) in iter::chain(first, second).enumerate() {
                    let sums = times(Panel { isa, blocks }, self.x);
                    for (y, sum) in self.y.iter_mut().filter_map(|y| y.get_mut(at)).zip(sums.into_flattened()) {
                        isa.store(sum, y);
                    }
                }
            }
        }
    }
}

/// What rows are multiplied with at once.
trait Panels: Copy {
    type Lanes: Dots;
    type Block: Block;

    fn lanes(self) -> Self::Lanes;
    /// The group number `at`, where there is one.
    fn split(self, at: usize) -> Option<SplitGroup<Self::Lanes>>;
}

/// A panel's blocks.
#[derive(Clone, Copy)]
struct Panel<'a, I, B> {
    isa: I,
    blocks: &'a [B],
}

/// Two panels side by side.
#[derive(Clone, Copy)]
struct Both<'a, I, B>(Panel<'a, I, B>, Panel<'a, I, B>);

/// A group whose codes have been split into pairs.
struct SplitGroup<I: Dots> {
    halves: [[[I::Pairs; 2]; 4]; 2],
    scales: [I::Floats; 2],
    offsets: I::Floats,
}

impl<I: Vectors, B: Block> Panels for Panel<'_, I, B> {
    type Lanes = I;
    type Block = B;

    #[inline(always)]
    fn lanes(self) -> I {
        self.isa
    }

    #[inline(always)]
    fn split(self, at: usize) -> Option<SplitGroup<I>> {
        let isa = self.isa;
        let block = self.blocks.get(at / B::GROUPS)?;
        let (group, shared) = (block.groups().get(at % B::GROUPS)?, block.shared(isa));
        let [[a, b, c, d], [e, f, g, h]] = B::codes(group, isa);
        let split = |codes| isa.split(codes, B::CENTER);
        Some(SplitGroup {
            halves: [[split(a), split(b), split(c), split(d)], [split(e), split(f), split(g), split(h)]],
            scales: B::scales(group, shared, isa),
            offsets: B::offsets(group, shared, isa).unwrap_or_else(|| isa.splat(0.0)),
        })
    }
}

impl<I: Vectors, B: Block> Panels for Both<'_, I, B> {
    type Lanes = Two<I>;
    type Block = B;

    #[inline(always)]
    fn lanes(self) -> Two<I> {
        Two(self.0.isa)
    }

    #[inline(always)]
    fn split(self, at: usize) -> Option<SplitGroup<Two<I>>> {
        let (first, second) = (self.0.split(at)?, self.1.split(at)?);
        let ([half, other_half], [second_half, second_other]) = (first.halves, second.halves);
        let ([scale, other_scale], [second_scale, second_other_scale]) = (first.scales, second.scales);
        Some(SplitGroup {
            halves: [beside(half, second_half), beside(other_half, second_other)],
            scales: [[scale, second_scale], [other_scale, second_other_scale]],
            offsets: [first.offsets, second.offsets],
        })
    }
}

/// Half a group of two panels side by side.
#[inline(always)]
fn beside<T>(
    [[a, b], [c, d], [e, f], [g, h]]: [[T; 2]; 4],
    [[i, j], [k, l], [m, n], [o, p]]: [[T; 2]; 4],
) -> [[[T; 2]; 2]; 4] {
    [[[a, i], [b, j]], [[c, k], [d, l]], [[e, m], [f, n]], [[g, o], [h, p]]]
}

/// So many groups, split into pairs, 9 KiB of each panel, stay in the nearest cache while all rows pass by.
const SPLIT: usize = 8;

/// The sums of all rows.
#[inline(always)]
fn times<P: Panels>(panels: P, x: &ActivationRows) -> Vec<[<P::Lanes as Arithmetic>::Floats; TOGETHER]> {
    let isa = panels.lanes();
    let mut sums = vec![[isa.splat(0.0); TOGETHER]; x.blocks().len()];
    let mut groups = Vec::with_capacity(SPLIT);
    for first in (0..x.groups()).step_by(SPLIT) {
        groups.clear();
        for at in first..x.groups().min(first + SPLIT) {
            let Some(group) = panels.split(at) else { break };
            groups.push(group);
        }
        for (x, sums) in x.blocks().zip(&mut sums) {
            for (group, x) in groups.iter().zip(x.iter().skip(first)) {
                // Else the compiler keeps these sums in registers from group to group, where there is no room for them.
                group.add_times::<P::Block>(isa, x, black_box(&mut *sums));
            }
        }
    }
    sums
}

impl<I: Dots> SplitGroup<I> {
    /// As `jobs::add_group_times`, for [`TOGETHER`] rows.
    #[inline(always)]
    fn add_times<B: Block>(&self, isa: I, x: &GroupOfRows, y: &mut [I::Floats; TOGETHER]) {
        let sums = self.scaled_sums::<B>(isa, &x.pairs);
        let rows = y.iter_mut().zip(&sums).zip(x.scales.iter().zip(&x.sums));
        for ((y, scaled), (scale, sum)) in rows {
            *y = isa.mul_add(*scaled, isa.splat(*scale), *y);
            if B::HAS_OFFSETS {
                *y = isa.mul_add(self.offsets, isa.splat(*sum), *y);
            }
        }
    }

    /// As `jobs::scaled_sum`.
    #[inline(always)]
    fn scaled_sums<B: Block>(&self, isa: I, [x, other_x]: &[[PairOfRows; 8]; 2]) -> [I::Floats; TOGETHER] {
        let ([half, other], [scale, other_scale]) = (&self.halves, self.scales);
        let (mut sums, mut scaled) = ([isa.sums(0); TOGETHER], [isa.splat(0.0); TOGETHER]);
        add_dots(isa, &mut sums, other, other_x);
        if B::HALVES_DIFFER {
            for (scaled, sum) in scaled.iter_mut().zip(&sums) {
                *scaled = isa.mul(other_scale, isa.total(*sum));
            }
            sums = [isa.sums(0); TOGETHER];
        }
        add_dots(isa, &mut sums, half, x);
        for (scaled, sum) in scaled.iter_mut().zip(&sums) {
            let sum = isa.total(*sum);
            *scaled = if B::HALVES_DIFFER { isa.mul_add(scale, sum, *scaled) } else { isa.mul(scale, sum) };
        }
        scaled
    }
}

/// A pair of activations of each row.
type PairOfRows = [[i16; 2]; TOGETHER];

/// Adds the products of half a group with each row.
#[inline(always)]
fn add_dots<I: Dots>(isa: I, sums: &mut [I::Sums; TOGETHER], half: &[[I::Pairs; 2]; 4], x: &[PairOfRows; 8]) {
    for (pairs, x) in half.as_flattened().iter().zip(x) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = isa.add_pairs(*sum, *pairs, *x);
        }
    }
}
