//! The kernels, over any instruction set and format.

use std::{hint::black_box, ops::Range, slice};

use super::{
    ROWS, activations,
    layout::{Block, Halves},
    vectors::{Job, Vectors},
};

/// `y[o] = Σᵢ w[o, i] · x[i]` for quantized `x`.
pub(super) struct RowsTimes<'a> {
    pub(super) panels: &'a [u8],
    pub(super) x: &'a [activations::Group],
    pub(super) y: &'a mut [f32],
}

impl Job for RowsTimes<'_> {
    #[inline(always)]
    fn run<I: Vectors, B: Block>(self, isa: I) {
        let mut panels = panels::<B>(self.panels, self.x.len());
        for y in self.y.chunks_mut(2 * ROWS) {
            match (panels.next(), panels.next()) {
                (Some(first), Some(second)) => {
                    let [sums, other] = two_panels_times(isa, [first, second], self.x);
                    let (y, other_y) = y.split_at_mut(ROWS.min(y.len()));
                    put(isa, sums, y);
                    put(isa, other, other_y);
                }
                (Some(last), None) => put(isa, panel_times(isa, last, self.x), y),
                (None, _) => return,
            }
        }
    }
}

/// The same for `x` in f32.
pub(super) struct RowsTimesF32<'a> {
    pub(super) panels: &'a [u8],
    pub(super) x: &'a [Halves<[f32; 4]>],
    pub(super) y: &'a mut [f32],
}

impl Job for RowsTimesF32<'_> {
    #[inline(always)]
    fn run<I: Vectors, B: Block>(self, isa: I) {
        for (panel, y) in panels::<B>(self.panels, self.x.len()).zip(self.y.chunks_mut(ROWS)) {
            put(isa, panel_times_f32(isa, panel, self.x), y);
        }
    }
}

/// Gives the weights of some groups of a panel to `sink`, in fours of inputs.
pub(super) struct Widen<'a, S> {
    pub(super) panel: &'a [u8],
    pub(super) groups: Range<usize>,
    pub(super) sink: S,
}

/// Takes the weights of 4 inputs and 16 rows.
pub(super) trait Sink {
    fn put<I: Vectors>(&mut self, isa: I, four: [I::Floats; 4]);
}

impl<S: Sink> Job for Widen<'_, S> {
    #[inline(always)]
    fn run<I: Vectors, B: Block>(mut self, isa: I) {
        let panel: &[B] = bytemuck::cast_slice(self.panel);
        for index in self.groups.clone() {
            let Some(block) = panel.get(index / B::GROUPS) else { return };
            let Some(group) = block.groups().get(index % B::GROUPS) else { return };
            let [half, other] = weights::<I, B>(isa, group, block.shared(isa));
            self.put(isa, &half);
            self.put(isa, &other);
        }
    }
}

impl<S: Sink> Widen<'_, S> {
    #[inline(always)]
    fn put<I: Vectors>(&mut self, isa: I, half: &HalfWeights<I>) {
        let [a, b, c, d] = half.codes;
        self.sink.put(isa, half.widen(isa, a));
        self.sink.put(isa, half.widen(isa, b));
        self.sink.put(isa, half.widen(isa, c));
        self.sink.put(isa, half.widen(isa, d));
    }
}

/// Stores weights as f32, `[k][16 rows]`.
pub(super) struct ToF32<'a>(pub(super) slice::IterMut<'a, [[f32; ROWS]; 4]>);

impl Sink for ToF32<'_> {
    #[inline(always)]
    fn put<I: Vectors>(&mut self, isa: I, [a, b, c, d]: [I::Floats; 4]) {
        if let Some([out_a, out_b, out_c, out_d]) = self.0.next() {
            isa.store(a, out_a);
            isa.store(b, out_b);
            isa.store(c, out_c);
            isa.store(d, out_d);
        }
    }
}

/// Stores weights as bf16, `[k / 2][16 rows][2]`.
pub(super) struct ToBf16Pairs<'a>(pub(super) slice::IterMut<'a, [[u32; ROWS]; 2]>);

impl Sink for ToBf16Pairs<'_> {
    #[inline(always)]
    fn put<I: Vectors>(&mut self, isa: I, [a, b, c, d]: [I::Floats; 4]) {
        if let Some([first, second]) = self.0.next() {
            isa.store_bf16_pairs(a, b, first);
            isa.store_bf16_pairs(c, d, second);
        }
    }
}

/// Stores the weights of one row, `[k]`.
pub(super) struct ToRow<'a> {
    pub(super) row: usize,
    pub(super) out: slice::IterMut<'a, [f32; 4]>,
}

impl Sink for ToRow<'_> {
    #[inline(always)]
    fn put<I: Vectors>(&mut self, isa: I, four: [I::Floats; 4]) {
        for (out, weights) in self.out.next().into_iter().flatten().zip(four) {
            let mut rows = [0.0; ROWS];
            isa.store(weights, &mut rows);
            *out = rows.get(self.row).copied().unwrap_or_default();
        }
    }
}

/// The whole panels in `panels`, of `groups` groups of inputs each.
#[inline(always)]
pub(super) fn panels<B: Block>(panels: &[u8], groups: usize) -> impl Iterator<Item = &[B]> {
    let panel_bytes = groups / B::GROUPS * size_of::<B>();
    panels.chunks_exact(panel_bytes.max(1)).map(bytemuck::cast_slice)
}

/// The products of two panels' 16 rows with `x`: memory is read faster in two streams than in one.
#[inline(always)]
fn two_panels_times<I: Vectors, B: Block>(
    isa: I,
    [first, second]: [&[B]; 2],
    x: &[activations::Group],
) -> [I::Floats; 2] {
    let (mut y, mut z) = (isa.splat(0.0), isa.splat(0.0));
    for ((block, other), x) in first.iter().zip(second).zip(x.chunks_exact(B::GROUPS)) {
        let (shared, other_shared) = (block.shared(isa), other.shared(isa));
        for ((group, other), x) in block.groups().iter().zip(other.groups()).zip(x) {
            y = add_group_times::<I, B>(isa, group, shared, x, y);
            // Else the compiler keeps x in registers from one panel to the other, where there is no room for it.
            let x = if B::nibbles(other).is_some() { black_box(x) } else { x };
            z = add_group_times::<I, B>(isa, other, other_shared, x, z);
        }
    }
    [y, z]
}

/// The same of a last one.
#[inline(always)]
fn panel_times<I: Vectors, B: Block>(isa: I, panel: &[B], x: &[activations::Group]) -> I::Floats {
    let mut y = isa.splat(0.0);
    for (block, x) in panel.iter().zip(x.chunks_exact(B::GROUPS)) {
        let shared = block.shared(isa);
        for (group, x) in block.groups().iter().zip(x) {
            y = add_group_times::<I, B>(isa, group, shared, x, y);
        }
    }
    y
}

/// `y + w · x` for the weights `w` of a group.
#[inline(always)]
fn add_group_times<I: Vectors, B: Block>(
    isa: I,
    group: &B::Group,
    shared: B::Shared<I::Floats>,
    x: &activations::Group,
    y: I::Floats,
) -> I::Floats {
    let y = isa.mul_add(scaled_sum::<I, B>(isa, group, shared, &x.halves), isa.splat(x.scale), y);
    B::offsets(group, shared, isa).map_or(y, |offsets| isa.mul_add(offsets, isa.splat(x.sum), y))
}

/// `Σ scale · (code - CENTER) · q` over a group, in integers as far as one scale reaches.
#[inline(always)]
fn scaled_sum<I: Vectors, B: Block>(
    isa: I,
    group: &B::Group,
    shared: B::Shared<I::Floats>,
    halves: &[activations::Half; 2],
) -> I::Floats {
    if let Some(nibbles) = B::nibbles(group) {
        let sum = isa.total(isa.dot_of_nibbles(nibbles, halves));
        let [scale, _] = B::scales(group, shared, isa);
        return isa.mul(scale, sum);
    }
    let ([x, other_x], [codes, other_codes]) = (halves, B::codes(group, isa));
    let [scale, other_scale] = B::scales(group, shared, isa);
    let center = -i32::from(B::CENTER);
    if B::HALVES_DIFFER {
        let sum = isa.total(isa.dot(isa.sums(center * x.sum), codes, B::LARGEST_CODE, x));
        let other = isa.total(isa.dot(isa.sums(center * other_x.sum), other_codes, B::LARGEST_CODE, other_x));
        isa.mul_add(scale, sum, isa.mul(other_scale, other))
    } else {
        let sums = isa.dot(isa.sums(center * (x.sum + other_x.sum)), codes, B::LARGEST_CODE, x);
        isa.mul(scale, isa.total(isa.dot(sums, other_codes, B::LARGEST_CODE, other_x)))
    }
}

/// The product of a panel's 16 rows with `x` in f32: four sums, so that additions overlap.
#[inline(always)]
fn panel_times_f32<I: Vectors, B: Block>(isa: I, panel: &[B], x: &[Halves<[f32; 4]>]) -> I::Floats {
    let mut sums = [isa.splat(0.0); 4];
    for (block, x) in panel.iter().zip(x.chunks_exact(B::GROUPS)) {
        let shared = block.shared(isa);
        for (group, [x, other_x]) in block.groups().iter().zip(x) {
            let [half, other] = weights::<I, B>(isa, group, shared);
            sums = half.add_times(isa, x, sums);
            sums = other.add_times(isa, other_x, sums);
        }
    }
    let [a, b, c, d] = sums;
    isa.add(isa.add(a, b), isa.add(c, d))
}

/// The weights of 16 inputs and 16 rows: `scale · code + offset`.
struct HalfWeights<I: Vectors> {
    codes: [I::Codes; 4],
    scale: I::Floats,
    offset: I::Floats,
}

#[inline(always)]
fn weights<I: Vectors, B: Block>(isa: I, group: &B::Group, shared: B::Shared<I::Floats>) -> [HalfWeights<I>; 2] {
    let [codes, other_codes] = B::codes(group, isa);
    let [scale, other_scale] = B::scales(group, shared, isa);
    let zero = isa.splat(-f32::from(B::CENTER));
    let half = |codes, scale| {
        let offset = B::offsets(group, shared, isa).unwrap_or_else(|| isa.mul(scale, zero));
        HalfWeights { codes, scale, offset }
    };
    [half(codes, scale), half(other_codes, other_scale)]
}

impl<I: Vectors> HalfWeights<I> {
    #[inline(always)]
    fn widen(&self, isa: I, codes: I::Codes) -> [I::Floats; 4] {
        let [a, b, c, d] = isa.values(codes);
        let weights = |values| isa.mul_add(self.scale, values, self.offset);
        [weights(a), weights(b), weights(c), weights(d)]
    }

    /// Adds the products with each fourth input of `x` to one of `sums`.
    #[inline(always)]
    fn add_times(&self, isa: I, [x_a, x_b, x_c, x_d]: &[[f32; 4]; 4], sums: [I::Floats; 4]) -> [I::Floats; 4] {
        let [a, b, c, d] = self.codes;
        let sums = self.add_four_times(isa, a, x_a, sums);
        let sums = self.add_four_times(isa, b, x_b, sums);
        let sums = self.add_four_times(isa, c, x_c, sums);
        self.add_four_times(isa, d, x_d, sums)
    }

    #[inline(always)]
    fn add_four_times(&self, isa: I, codes: I::Codes, x: &[f32; 4], [a, b, c, d]: [I::Floats; 4]) -> [I::Floats; 4] {
        let ([w_a, w_b, w_c, w_d], [x_a, x_b, x_c, x_d]) = (self.widen(isa, codes), *x);
        [
            isa.mul_add(w_a, isa.splat(x_a), a),
            isa.mul_add(w_b, isa.splat(x_b), b),
            isa.mul_add(w_c, isa.splat(x_c), c),
            isa.mul_add(w_d, isa.splat(x_d), d),
        ]
    }
}

/// Stores a panel's sums in `y`, which is shorter where the matrix ends.
#[inline(always)]
fn put<I: Vectors>(isa: I, sums: I::Floats, y: &mut [f32]) {
    let mut rows = [0.0; ROWS];
    isa.store(sums, &mut rows);
    for (y, row) in y.iter_mut().zip(rows) {
        *y = row;
    }
}
