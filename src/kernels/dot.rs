//! bf16 matrix products with `vdpbf16ps`, for processors that have it and no AMX.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::amx::Sums;
use super::left::{COLUMNS, ROWS, TILE};
use super::panels::PANEL;

/// The rows whose sums are in registers at a time: with two panels 16 vectors.
const TOGETHER: usize = 8;

/// As [`super::amx::Tiles::add_products`].
///
/// # Panics
/// The processor has no AVX-512 with bf16.
#[allow(unsafe_code)]
pub(super) fn add_products(rows: [&[u16]; 2], panels: [&[u16]; 2], sums: &mut Sums) {
    assert!(is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f"));
    let [a, b, c, d] = &mut sums.0;
    for (rows, first, second) in [(rows[0], a, b), (rows[1], c, d)] {
        for start in (0..ROWS).step_by(TOGETHER) {
            let range = start * PANEL..(start + TOGETHER) * PANEL;
            if let (Some(first), Some(second)) = (first.get_mut(range.clone()), second.get_mut(range)) {
                // SAFETY: the features were found.
                unsafe { some_rows(rows, start, panels, [first, second]) };
            }
        }
    }
}

/// [`TOGETHER`] rows of each tile, from `start` on.
#[target_feature(enable = "avx512f,avx512bf16")]
#[allow(unsafe_code)]
fn some_rows(rows: &[u16], start: usize, panels: [&[u16]; 2], sums: [&mut [f32]; 2]) {
    let mut all = [[_mm512_setzero_ps(); TOGETHER]; 2];
    let panels = panels[0].as_chunks::<TILE>().0.iter().zip(panels[1].as_chunks::<TILE>().0);
    for (tile, (first, second)) in rows.as_chunks::<TILE>().0.iter().zip(panels) {
        let (tile, _) = bytemuck::cast_slice::<u16, u32>(tile).as_chunks::<{ COLUMNS / 2 }>();
        if let Some(own) = tile.get(start..).and_then(<[_]>::first_chunk) {
            all = add_tile(own, [first, second], all);
        }
    }
    for (sums, all) in sums.into_iter().zip(all) {
        for (sums, row) in sums.as_chunks_mut::<PANEL>().0.iter_mut().zip(all) {
            // SAFETY: there are 16 numbers.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(row, _mm512_loadu_ps(sums.as_ptr()))) };
        }
    }
}

/// All lengths are constants, so that the sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_tile(
    rows: &[[u32; COLUMNS / 2]; TOGETHER],
    [first, second]: [&[u16; TILE]; 2],
    [mut of_first, mut of_second]: [[__m512; TOGETHER]; 2],
) -> [[__m512; TOGETHER]; 2] {
    let pairs = first.as_chunks::<{ 2 * PANEL }>().0.iter().zip(second.as_chunks::<{ 2 * PANEL }>().0);
    for (pair, (first, second)) in pairs.enumerate() {
        let (first, second) = (load(first), load(second));
        for ((row, of_first), of_second) in rows.iter().zip(&mut of_first).zip(&mut of_second) {
            let x = as_bf16(_mm512_set1_epi32(row.get(pair).copied().unwrap_or_default() as i32));
            *of_first = _mm512_dpbf16_ps(*of_first, x, first);
            *of_second = _mm512_dpbf16_ps(*of_second, x, second);
        }
    }
    [of_first, of_second]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
#[allow(unsafe_code)]
fn load(pairs: &[u16; 2 * PANEL]) -> __m512bh {
    // SAFETY: there are 64 bytes.
    as_bf16(unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
#[allow(unsafe_code)]
fn as_bf16(bits: std::arch::x86_64::__m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which any are valid.
    unsafe { std::mem::transmute(bits) }
}
