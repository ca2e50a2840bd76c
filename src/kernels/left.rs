//! Rows of activations as bf16 in the order that AMX tiles and `vdpbf16ps` want.

use super::isa::{Isa, vectorized};
use super::memory::{self, Line};
use super::pool;

/// The rows of a block.
pub const ROWS: usize = 16;

/// The inputs of a tile.
pub const COLUMNS: usize = 32;

/// The numbers of a tile.
pub const TILE: usize = ROWS * COLUMNS;

/// Rows of activations in blocks of 16, each a sum of `terms` numbers of bf16: `[blocks, terms, tiles, 16, 32]`.
///
/// With one term an activation is rounded. Three hold all 24 bits of an f32: its products with bf16 weights, added up in
/// f32, are then those of f32 activations, but for numbers at the ends of what an f32 can be: AMX takes terms below 1e-38
/// for zeros, and what rounds to infinity in bf16 leaves no number. Small terms come first.
#[derive(Debug)]
pub struct Left {
    data: Vec<Line>,
    terms: usize,
    /// The numbers of a block.
    block: usize,
}

impl Left {
    /// `x` `[rows, n_in]`, with zeros where a block or tile has none of it.
    pub fn new(isa: Isa, x: &[f32], n_in: usize, terms: usize) -> Self {
        let n_blocks = (x.len() / n_in.max(1)).div_ceil(ROWS);
        let block = terms * n_in.div_ceil(COLUMNS) * TILE;
        let mut data = memory::lines(n_blocks * block * size_of::<u16>());
        pool::chunks(bytemuck::cast_slice_mut(&mut data), block.max(1), |at, block| {
            let start = at * ROWS * n_in;
            let rows = x.get(start..x.len().min(start + ROWS * n_in)).unwrap_or_default();
            lay(isa, rows, n_in, terms, block);
        });
        Self { data, terms, block }
    }

    /// How many numbers stand for an activation.
    pub fn terms(&self) -> usize {
        self.terms
    }

    /// The blocks, `[terms, tiles, 16, 32]` each.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &[u16]> {
        bytemuck::cast_slice(&self.data).chunks_exact(self.block.max(1))
    }
}

vectorized! {
    fn lay(_isa: Isa, rows: &[f32], n_in: usize, terms: usize, block: &mut [u16]) {
        let term_len = block.len() / terms.max(1);
        for (row, x) in rows.chunks_exact(n_in.max(1)).enumerate() {
            for (tile, x) in x.chunks(COLUMNS).enumerate() {
                let mut rest = [0.0; COLUMNS];
                for (rest, x) in rest.iter_mut().zip(x) {
                    *rest = *x;
                }
                for term in (0..terms).rev() {
                    let start = term * term_len + tile * TILE + row * COLUMNS;
                    let Some(own) = block.get_mut(start..start + COLUMNS) else { continue };
                    for (own, rest) in own.iter_mut().zip(&mut rest) {
                        *own = rounded(*rest);
                        *rest -= f32::from_bits(u32::from(*own) << 16);
                    }
                }
            }
        }
    }
}

/// The nearest bf16, of two equally near ones the even one.
#[inline(always)]
pub fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet_nan } else { nearest }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn numbers_are_rounded_as_half_does() {
        for bits in (0..=u32::MAX).step_by(9973).chain([0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000]) {
            let x = f32::from_bits(bits);
            assert_eq!(rounded(x), bf16::from_f32(x).to_bits(), "{x}");
        }
    }

    #[test]
    fn three_terms_are_the_activation() {
        let (rows, n_in) = (19, 41);
        let x: Vec<f32> = (0..rows * n_in).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for isa in Isa::available() {
            let left = Left::new(isa, &x, n_in, 3);
            for (at, x) in x.iter().enumerate() {
                let (row, input) = (at / n_in, at % n_in);
                let block = left.blocks().nth(row / ROWS).unwrap();
                let own = |term: usize| {
                    let tile = term * 2 + input / COLUMNS;
                    f32::from_bits(u32::from(block[tile * TILE + row % ROWS * COLUMNS + input % COLUMNS]) << 16)
                };
                assert_eq!((own(0) + own(1)) + own(2), *x);
            }
        }
    }
}
