//! Weights of two or four bytes in panels, and one row times them.
//!
//! A panel holds [`PANEL`] outputs. For bf16 it is `[pairs, 16, 2]`: for each pair of inputs, the pair of weights of each
//! output. A pair of each of 16 outputs fills one vector, so that a product needs no sum across a vector; and it is the
//! order that `vdpbf16ps` and the AMX tiles want, of which it holds whole ones. For f16 and f32 a panel is `[inputs, 16]`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::isa::{FAR, Isa, prefetch, vectorized};
use super::left;

/// How many outputs a panel has.
pub const PANEL: usize = 16;

/// A number for each output of a panel.
pub type Lanes = [f32; PANEL];

/// A type of weights that panels are made of.
pub trait Element: Copy + Default + Send + Sync + bytemuck::Pod {
    /// How many inputs of an output lie side by side.
    const GROUP: usize;

    /// A panel has a multiple of so many inputs.
    const WHOLE: usize;

    /// The value as f32, which has room for it.
    fn value(self) -> f32;

    /// A panel, or some groups of one, as f32 `[inputs, 16]`.
    fn widen(panel: &[Self], wide: &mut [f32]);

    /// The sums over `x` `[inputs]` times a panel.
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes;
}

/// How many numbers a panel has for so many inputs.
pub fn panel_len<T: Element>(n_in: usize) -> usize {
    n_in.next_multiple_of(T::WHOLE) * PANEL
}

vectorized! {
    /// Lays `rows`, up to 16 rows of `n_in` weights each, as a panel. Rows and inputs that are not there are zero.
    pub fn pack<T: Element>(_isa: Isa, rows: &[T], n_in: usize, panel: &mut [T]) {
        panel.fill(T::default());
        for (output, row) in rows.chunks_exact(n_in.max(1)).enumerate() {
            for (group, weights) in panel.chunks_exact_mut(T::GROUP * PANEL).zip(row.chunks(T::GROUP)) {
                let own = group.iter_mut().skip(output * T::GROUP);
                own.zip(weights).for_each(|(own, weight)| *own = *weight);
            }
        }
    }

    /// The sums over `x` `[inputs]` times a panel.
    pub fn times<T: Element>(isa: Isa, panel: &[T], x: &[f32]) -> Lanes {
        T::times(isa, panel, x)
    }

    /// A panel, or some groups of one, as f32 `[inputs, 16]`.
    pub fn widen<T: Element>(_isa: Isa, panel: &[T], wide: &mut [f32]) {
        T::widen(panel, wide);
    }
}

/// The weights of one output of a panel.
pub fn unpack_row<T: Element>(panel: &[T], output: usize, row: &mut [f32]) {
    for (weights, group) in row.chunks_mut(T::GROUP).zip(panel.chunks_exact(T::GROUP * PANEL)) {
        let own = group.iter().skip(output * T::GROUP);
        weights.iter_mut().zip(own).for_each(|(weight, stored)| *weight = stored.value());
    }
}

impl Element for f32 {
    const GROUP: usize = 1;
    const WHOLE: usize = 1;

    fn value(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widen(panel: &[Self], wide: &mut [f32]) {
        wide.iter_mut().zip(panel).for_each(|(wide, weight)| *wide = *weight);
    }

    #[inline(always)]
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes {
        let mut sums = [Lanes::default(); 2];
        for (weights, x) in panel.as_chunks::<{ 2 * PANEL }>().0.iter().zip(x.as_chunks::<2>().0) {
            prefetch::<FAR, _>(weights);
            let ([first, second], _) = weights.as_chunks::<PANEL>() else { continue };
            add_product(isa, &mut sums[0], first, x[0]);
            add_product(isa, &mut sums[1], second, x[1]);
        }
        if let ([x], Some(weights)) = (x.as_chunks::<2>().1, panel.last_chunk::<PANEL>()) {
            add_product(isa, &mut sums[0], weights, *x);
        }
        sum(sums)
    }
}

impl Element for f16 {
    const GROUP: usize = 1;
    const WHOLE: usize = 1;

    fn value(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn widen(panel: &[Self], wide: &mut [f32]) {
        if let Some(wide) = wide.get_mut(..panel.len()) {
            panel.convert_to_f32_slice(wide);
        }
    }

    #[inline(always)]
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes {
        const INPUTS: usize = 32;
        let (mut wide, mut sums) = ([0.0; INPUTS * PANEL], Lanes::default());
        for (weights, x) in panel.chunks(INPUTS * PANEL).zip(x.chunks(INPUTS)) {
            weights.as_chunks::<{ 2 * PANEL }>().0.iter().for_each(prefetch::<FAR, _>);
            Self::widen(weights, &mut wide);
            let part = f32::times(isa, wide.get(..weights.len()).unwrap_or_default(), x);
            sums = sum([sums, part]);
        }
        sums
    }
}

impl Element for bf16 {
    const GROUP: usize = 2;
    const WHOLE: usize = left::COLUMNS;

    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn widen(panel: &[Self], wide: &mut [f32]) {
        for (pairs, wide) in pairs(panel).iter().zip(wide.as_chunks_mut::<{ 2 * PANEL }>().0) {
            let (first, second) = wide.split_at_mut(PANEL);
            for ((first, second), pair) in first.iter_mut().zip(second).zip(pairs) {
                (*first, *second) = (lower(*pair), upper(*pair));
            }
        }
    }

    #[inline(always)]
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes {
        let mut sums = [Lanes::default(); 2];
        for (pairs, x) in pairs(panel).iter().zip(x.as_chunks::<2>().0) {
            prefetch::<FAR, _>(pairs);
            let [first, second] = &mut sums;
            for ((first, second), pair) in first.iter_mut().zip(second).zip(pairs) {
                *first = isa.mul_add(lower(*pair), x[0], *first);
                *second = isa.mul_add(upper(*pair), x[1], *second);
            }
        }
        if let ([x], Some(pairs)) = (x.as_chunks::<2>().1, pairs(panel).get(x.len() / 2)) {
            add_product(isa, &mut sums[0], &pairs.map(lower), *x);
        }
        sum(sums)
    }
}

#[inline(always)]
fn add_product(isa: Isa, sums: &mut Lanes, weights: &Lanes, x: f32) {
    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum = isa.mul_add(*weight, x, *sum));
}

#[inline(always)]
fn sum([mut first, second]: [Lanes; 2]) -> Lanes {
    first.iter_mut().zip(second).for_each(|(first, second)| *first += second);
    first
}

/// The pairs of all outputs, for one pair of inputs after the other.
fn pairs(panel: &[bf16]) -> &[[u32; PANEL]] {
    bytemuck::cast_slice(panel)
}

/// The first of a pair: two bf16 in memory are one little-endian word.
#[inline(always)]
fn lower(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// The second of a pair.
#[inline(always)]
fn upper(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}
