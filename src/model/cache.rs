//! What attention keeps of earlier tokens: a buffer that grows by doubling and is written in place; where only the last
//! tokens are looked at, it is a ring of them.

use candle_core::{DType, Device, Tensor};

use super::ops;
use crate::error::Result;

/// How many tokens a cache has room for at first.
const FIRST_CAPACITY: usize = 256;

/// Rows of f32 values, one a token, for each of several heads.
#[derive(Debug)]
pub struct Cache {
    rows: Tensor, // [heads, capacity, width]
    len: usize,
    /// How many of the last rows are kept; all where there is no window.
    window: Option<usize>,
    /// The oldest row of a ring that is full.
    oldest: usize,
}

impl Cache {
    /// An empty cache that keeps all rows, or the last ones that a `window` covers.
    pub fn new(heads: usize, width: usize, window: Option<usize>, device: &Device) -> Result<Self> {
        let capacity = window.map_or(FIRST_CAPACITY, |window| window.min(FIRST_CAPACITY));
        Ok(Self { rows: Tensor::zeros((heads, capacity, width), DType::F32, device)?, len: 0, window, oldest: 0 })
    }

    /// Adds `rows` [heads, tokens, width], and gives what the queries of these tokens may look at: [heads, seen, width].
    /// The added rows come last, unless a single one was added to a ring, all of which it may look at.
    pub fn append(&mut self, rows: &Tensor) -> Result<Tensor> {
        match self.window {
            None => {
                self.write(rows, self.len)?;
                self.kept()
            }
            Some(window) if rows.dim(1)? == 1 => {
                if self.len < window {
                    self.write(rows, self.len)?;
                } else {
                    self.rows.slice_set(&rows.contiguous()?, 1, self.oldest)?;
                    self.oldest = (self.oldest + 1) % window;
                }
                self.rows_in_use()
            }
            Some(window) => {
                let seen = last(&Tensor::cat(&[&self.kept()?, rows], 1)?, rows.dim(1)? + window - 1)?;
                self.len = 0;
                self.oldest = 0;
                self.write(&last(&seen, window)?, 0)?;
                Ok(seen)
            }
        }
    }

    /// Writes rows behind the first `at` ones, making room where there is none.
    fn write(&mut self, rows: &Tensor, at: usize) -> Result<()> {
        let (heads, tokens, width) = rows.dims3()?;
        let needed = at + tokens;
        if needed > self.rows.dim(1)? {
            let capacity = needed.next_power_of_two().min(self.window.unwrap_or(usize::MAX));
            let grown = Tensor::zeros((heads, capacity, width), DType::F32, rows.device())?;
            if at > 0 {
                grown.slice_set(&self.rows_in_use()?.contiguous()?, 1, 0)?;
            }
            self.rows = grown;
        }
        self.rows.slice_set(&rows.contiguous()?, 1, at)?;
        self.len = needed;
        Ok(())
    }

    /// What is kept, oldest first, [heads, tokens, width]: good until the next append.
    pub fn kept(&self) -> Result<Tensor> {
        if self.oldest == 0 {
            return self.rows_in_use();
        }
        let (old, new) =
            (self.rows.narrow(1, self.oldest, self.len - self.oldest)?, self.rows.narrow(1, 0, self.oldest)?);
        Ok(Tensor::cat(&[old, new], 1)?)
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        let capacity = self.rows.dims().get(1).copied().unwrap_or_default();
        self.rows.elem_count() / capacity.max(1) * self.len * size_of::<f32>()
    }

    fn rows_in_use(&self) -> Result<Tensor> {
        Ok(self.rows.narrow(1, 0, self.len)?)
    }

    /// A copy that shares no memory with this cache.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        Ok(Self { rows: ops::copy_to(&self.rows, device)?, ..*self })
    }
}

/// The last `count` tokens of `rows` [heads, tokens, width], or all if there are fewer.
fn last(rows: &Tensor, count: usize) -> Result<Tensor> {
    let tokens = rows.dim(1)?;
    let count = count.min(tokens);
    Ok(rows.narrow(1, tokens - count, count)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: usize = 3 * FIRST_CAPACITY;

    #[test]
    fn rows_stay_as_they_were_added_while_the_cache_grows_and_a_ring_keeps_the_last() {
        let values: Vec<f32> = (0..2 * TOTAL * 3).map(|i| i as f32).collect();
        let rows = Tensor::from_vec(values, (2, TOTAL, 3), &Device::Cpu).unwrap();
        let sorted = |x: &Tensor| {
            let mut values: Vec<Vec<f32>> = x.to_vec3().unwrap().concat();
            values.sort_by(|a, b| a[0].total_cmp(&b[0]));
            values
        };
        for window in [None, Some(1), Some(7), Some(FIRST_CAPACITY), Some(FIRST_CAPACITY + 9), Some(TOTAL)] {
            for piece in [1, 7, FIRST_CAPACITY, FIRST_CAPACITY + 1, TOTAL] {
                let mut cache = Cache::new(2, 3, window, &Device::Cpu).unwrap();
                for start in (0..TOTAL).step_by(piece) {
                    let count = piece.min(TOTAL - start);
                    let seen = cache.append(&rows.narrow(1, start, count).unwrap()).unwrap();
                    let so_far = rows.narrow(1, 0, start + count).unwrap();
                    let reach = window.map_or(TOTAL, |window| window + count - 1);
                    assert_eq!(sorted(&seen), sorted(&last(&so_far, reach).unwrap()), "{window:?}, pieces of {piece}");
                    let kept = last(&so_far, window.unwrap_or(TOTAL)).unwrap().to_vec3::<f32>().unwrap();
                    assert_eq!(cache.kept().unwrap().to_vec3::<f32>().unwrap(), kept, "{window:?}, pieces of {piece}");
                }
            }
        }
    }
}
