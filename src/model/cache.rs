//! What attention keeps of earlier tokens, written in place; where only the last tokens are looked at, it is a ring.

mod rows;

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Device, Tensor};

pub use self::rows::{Memory, Rows};
use super::ops;
use crate::error::Result;

/// The rows of one sequence.
#[derive(Debug)]
pub struct Cache {
    rows: Rows,
    /// The oldest row of a ring that is full.
    oldest: usize,
}

impl Cache {
    /// An empty cache that keeps all rows, or the last ones that a `window` covers.
    pub fn new(heads: usize, width: usize, window: Option<usize>, device: &Device) -> Result<Self> {
        Ok(Self { rows: Rows::none(heads, width, window.unwrap_or(usize::MAX), device)?, oldest: 0 })
    }

    /// Adds `rows` [tokens, heads, width], and gives what the queries of these tokens may look at. The added rows come
    /// last, unless a single one was added to a ring, all of which it may look at.
    pub fn append(&mut self, rows: &Tensor) -> Result<Cow<'_, Rows>> {
        let (tokens, window) = (rows.dim(0)?, self.rows.most());
        if tokens == 1 || self.rows.tokens() + tokens <= window {
            let at = self.next();
            self.rows.set(at, rows)?;
            return Ok(Cow::Borrowed(&self.rows));
        }
        let before = self.rows.tokens().min(window - 1);
        let mut seen = self.copied(before, before + tokens, self.rows.device())?;
        seen.push(rows)?;
        let kept = seen.range(seen.tokens() - window..seen.tokens())?;
        self.rows.set(0, &kept.transpose(0, 1)?)?;
        self.oldest = 0;
        Ok(Cow::Owned(seen))
    }

    /// The same of one row `[heads · width]` on the CPU.
    pub fn append_row(&mut self, row: &[f32]) -> Result<&Rows> {
        let at = self.next();
        self.rows.set_row(at, row)?;
        Ok(&self.rows)
    }

    /// Where rows come next: in a ring that is full, a single one takes the place of the oldest.
    fn next(&mut self) -> usize {
        let (tokens, window) = (self.rows.tokens(), self.rows.most());
        if tokens < window {
            return tokens;
        }
        let oldest = self.oldest;
        self.oldest = (oldest + 1) % window;
        oldest
    }

    /// Where the last rows are, at most `count`, oldest first.
    fn last(&self, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (tokens, oldest) = (self.rows.tokens(), self.oldest);
        let first = oldest + tokens.saturating_sub(count);
        [first.min(tokens)..tokens, first.saturating_sub(tokens)..oldest].into_iter().filter(|piece| !piece.is_empty())
    }

    /// A copy of the last rows, at most `count`, oldest first, with room for `most` on `device`.
    fn copied(&self, count: usize, most: usize, device: &Device) -> Result<Rows> {
        let mut copy = self.rows.none_like(most, device)?;
        let is_there = self.rows.device().same_device(device);
        for piece in self.last(count) {
            let piece = self.rows.range(piece)?;
            let piece = if is_there { piece } else { ops::copy_to(&piece, device)? };
            copy.push(&piece.transpose(0, 1)?)?;
        }
        Ok(copy)
    }

    /// What is kept, oldest first, [heads, tokens, width].
    #[cfg(test)]
    pub fn kept(&self) -> Tensor {
        self.copied(usize::MAX, self.rows.tokens(), self.rows.device()).unwrap().joined().unwrap()
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// A copy on `device`. On the CPU, memory is shared until either goes on in it.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        if self.rows.device().is_cpu() && device.is_cpu() {
            return Ok(Self { rows: self.rows.clone(), oldest: self.oldest });
        }
        Ok(Self { rows: self.copied(usize::MAX, self.rows.most(), device)?, oldest: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::rows::PAGE;
    use super::*;

    const TOTAL: usize = 3 * PAGE;

    fn sorted(rows: &Tensor) -> Vec<Vec<f32>> {
        let mut rows: Vec<Vec<f32>> = rows.to_vec3().unwrap().concat();
        rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
        rows
    }

    /// [heads, tokens, width].
    fn ramp() -> Tensor {
        let values: Vec<f32> = (0..2 * TOTAL * 3).map(|i| i as f32).collect();
        Tensor::from_vec(values, (2, TOTAL, 3), &Device::Cpu).unwrap()
    }

    /// The last tokens of `rows` [heads, tokens, width], at most `count`.
    fn last(rows: &Tensor, count: usize) -> Tensor {
        let tokens = rows.dim(1).unwrap();
        let count = count.min(tokens);
        rows.narrow(1, tokens - count, count).unwrap()
    }

    /// Some tokens of `rows` [heads, tokens, width], as they are added.
    fn some(rows: &Tensor, start: usize, count: usize) -> Tensor {
        rows.narrow(1, start, count).unwrap().transpose(0, 1).unwrap()
    }

    #[test]
    fn rows_stay_as_they_were_added_while_the_cache_grows_and_a_ring_keeps_the_last() {
        let rows = ramp();
        for window in [None, Some(1), Some(7), Some(PAGE), Some(PAGE + 9), Some(TOTAL)] {
            for piece in [1, 7, PAGE, PAGE + 1, TOTAL] {
                let mut cache = Cache::new(2, 3, window, &Device::Cpu).unwrap();
                for start in (0..TOTAL).step_by(piece) {
                    let count = piece.min(TOTAL - start);
                    let seen = cache.append(&some(&rows, start, count)).unwrap();
                    let so_far = rows.narrow(1, 0, start + count).unwrap();
                    let reach = window.map_or(TOTAL, |window| window + count - 1);
                    let (seen, want) = (sorted(&seen.joined().unwrap()), sorted(&last(&so_far, reach)));
                    assert_eq!(seen, want, "{window:?}, pieces of {piece}");
                    let kept = last(&so_far, window.unwrap_or(TOTAL)).to_vec3::<f32>().unwrap();
                    let got = cache.kept().to_vec3::<f32>().unwrap();
                    assert_eq!(got, kept, "{window:?}, pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_kept_as_a_tensor_of_one_token_is() {
        let rows = ramp();
        for window in [None, Some(1), Some(7), Some(PAGE + 9)] {
            let cache = || Cache::new(2, 3, window, &Device::Cpu).unwrap();
            let (mut by_row, mut by_tensor) = (cache(), cache());
            for at in 0..PAGE + 20 {
                let token = some(&rows, at, 1);
                let row = token.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let seen = by_row.append_row(&row).unwrap().joined().unwrap().to_vec3::<f32>().unwrap();
                assert_eq!(seen, by_tensor.append(&token).unwrap().joined().unwrap().to_vec3::<f32>().unwrap());
            }
            let kept = |cache: &Cache| cache.kept().to_vec3::<f32>().unwrap();
            assert_eq!(kept(&by_row), kept(&by_tensor), "{window:?}");
            assert!(by_row.append_row(&[0.0; 5]).is_err());
        }
    }

    #[test]
    fn a_cache_and_its_copy_go_on_by_themselves() {
        let rows = ramp();
        for window in [None, Some(7), Some(PAGE), Some(PAGE + 9)] {
            for len in [1, 5, PAGE - 1, PAGE, PAGE + 5, 2 * PAGE] {
                let mut cache = Cache::new(2, 3, window, &Device::Cpu).unwrap();
                (0..len).for_each(|at| drop(cache.append(&some(&rows, at, 1)).unwrap()));
                let mut copy = cache.copy_to(&Device::Cpu).unwrap();
                (len..len + 20).for_each(|at| drop(cache.append(&some(&rows, at, 1)).unwrap()));
                (0..9).for_each(|at| drop(copy.append(&some(&rows, at, 1)).unwrap()));
                let first = |count| rows.narrow(1, 0, count).unwrap();
                for (cache, rows) in
                    [(cache, first(len + 20)), (copy, Tensor::cat(&[first(len), first(9)], 1).unwrap())]
                {
                    let want = last(&rows, window.unwrap_or(TOTAL)).to_vec3::<f32>().unwrap();
                    assert_eq!(cache.kept().to_vec3::<f32>().unwrap(), want, "{window:?} of {len}");
                }
            }
        }
    }
}
