//! Weights of two or four bytes in panels, and one row times them.
//!
//! A panel holds [`PANEL`] outputs. For bf16 it is `[pairs, 16, 2]`: for each pair of inputs, the pair of weights of each
//! output. A pair of each of 16 outputs fills one vector, so that a product needs no sum across a vector; and it is the
//! order that `vdpbf16ps` and the AMX tiles want, of which it holds whole ones. For f16 and f32 a panel is `[inputs, 16]`.

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
    fn widen(isa: Isa, panel: &[Self], wide: &mut [f32]);

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
                for (own, weight) in own.zip(weights) {
                    *own = *weight;
                }
            }
        }
    }

    /// The sums over `x` `[inputs]` times a panel.
    pub fn times<T: Element>(isa: Isa, panel: &[T], x: &[f32]) -> Lanes {
        T::times(isa, panel, x)
    }

    /// A panel, or some groups of one, as f32 `[inputs, 16]`.
    pub fn widen<T: Element>(isa: Isa, panel: &[T], wide: &mut [f32]) {
        T::widen(isa, panel, wide);
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
    fn widen(_isa: Isa, panel: &[Self], wide: &mut [f32]) {
        for (wide, weight) in wide.iter_mut().zip(panel) {
            *wide = *weight;
        }
    }

    #[inline(always)]
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes {
        times_widened(isa, panel, x, |weights| *weights)
    }
}

impl Element for f16 {
    const GROUP: usize = 1;
    const WHOLE: usize = 1;

    fn value(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn widen(isa: Isa, panel: &[Self], wide: &mut [f32]) {
        let inputs = panel.as_chunks::<PANEL>().0.iter().zip(wide.as_chunks_mut::<PANEL>().0);
        let f16c = F16c::of(isa);
        for (weights, wide) in inputs {
            *wide = widened(f16c, weights);
        }
    }

    #[inline(always)]
    fn times(isa: Isa, panel: &[Self], x: &[f32]) -> Lanes {
        let f16c = F16c::of(isa);
        times_widened(isa, panel, x, |weights| widened(f16c, weights))
    }
}

impl Element for bf16 {
    const GROUP: usize = 2;
    const WHOLE: usize = left::COLUMNS;

    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn widen(_isa: Isa, panel: &[Self], wide: &mut [f32]) {
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

/// The sums over `x` `[inputs]` times a panel `[inputs, 16]`.
#[inline(always)]
fn times_widened<T>(isa: Isa, panel: &[T], x: &[f32], widen: impl Fn(&[T; PANEL]) -> Lanes) -> Lanes {
    let mut sums = [Lanes::default(); 2];
    for (weights, x) in panel.as_chunks::<{ 2 * PANEL }>().0.iter().zip(x.as_chunks::<2>().0) {
        prefetch::<FAR, _>(weights);
        let ([first, second], _) = weights.as_chunks::<PANEL>() else { continue };
        add_product(isa, &mut sums[0], &widen(first), x[0]);
        add_product(isa, &mut sums[1], &widen(second), x[1]);
    }
    if let ([x], Some(weights)) = (x.as_chunks::<2>().1, panel.last_chunk::<PANEL>()) {
        add_product(isa, &mut sums[0], &widen(weights), *x);
    }
    sum(sums)
}

/// Exists only where the machine has the instructions F16C.
#[derive(Clone, Copy)]
struct F16c(());

impl F16c {
    #[inline(always)]
    fn of(isa: Isa) -> Option<Self> {
        let is_there = cfg!(target_arch = "x86_64") && isa >= Isa::Avx2 && Isa::best() >= Isa::Avx2;
        is_there.then_some(Self(()))
    }
}

/// Numbers of 16 bits as f32. What `half` has for it asks again and again which instructions there are.
#[inline(always)]
fn widened(f16c: Option<F16c>, weights: &[f16; PANEL]) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    if f16c.is_some() {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut wide = Lanes::default();
        for (weights, wide) in weights.as_chunks::<8>().0.iter().zip(wide.as_chunks_mut::<8>().0) {
            #[allow(unsafe_code)]
            // SAFETY: the type proves F16C, and eight numbers of either type are there.
            unsafe {
                _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().cast())));
            }
        }
        return wide;
    }
    let _ = f16c;
    weights.map(f16::to_f32)
}

#[inline(always)]
fn add_product(isa: Isa, sums: &mut Lanes, weights: &Lanes, x: f32) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum = isa.mul_add(*weight, x, *sum);
    }
}

#[inline(always)]
fn sum([mut first, second]: [Lanes; 2]) -> Lanes {
    for (first, second) in first.iter_mut().zip(second) {
        *first += second;
    }
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
