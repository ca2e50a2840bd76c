//! What attention keeps of earlier tokens: a buffer that grows by doubling and is written in place.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// How many tokens a cache has room for at first.
const FIRST_CAPACITY: usize = 256;

/// Rows of f32 values, one a token, for each of several heads.
#[derive(Debug)]
pub struct Cache {
    rows: Tensor, // [heads, capacity, width]
    len: usize,
}

impl Cache {
    /// An empty cache.
    pub fn new(heads: usize, width: usize, device: &Device) -> Result<Self> {
        Ok(Self { rows: Tensor::zeros((heads, FIRST_CAPACITY, width), DType::F32, device)?, len: 0 })
    }

    /// Adds `rows` [heads, tokens, width].
    pub fn append(&mut self, rows: &Tensor) -> Result<()> {
        let (heads, tokens, width) = rows.dims3()?;
        let needed = self.len + tokens;
        if needed > self.rows.dim(1)? {
            let grown = Tensor::zeros((heads, needed.next_power_of_two(), width), DType::F32, rows.device())?;
            if self.len > 0 {
                grown.slice_set(&self.filled()?.contiguous()?, 1, 0)?;
            }
            self.rows = grown;
        }
        self.rows.slice_set(&rows.contiguous()?, 1, self.len)?;
        self.len = needed;
        Ok(())
    }

    /// What was added so far, [heads, tokens, width]: a view that is good until the next append.
    pub fn filled(&self) -> Result<Tensor> {
        Ok(self.rows.narrow(1, 0, self.len)?)
    }

    /// A copy that shares no memory with this cache.
    pub fn snapshot(&self) -> Result<Self> {
        Ok(Self { rows: self.rows.copy()?, len: self.len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_as_they_were_added_while_the_cache_grows() {
        for piece in [1, 7, FIRST_CAPACITY, FIRST_CAPACITY + 1, 3 * FIRST_CAPACITY] {
            let total = 3 * FIRST_CAPACITY;
            let values: Vec<f32> = (0..2 * total * 3).map(|i| i as f32).collect();
            let rows = Tensor::from_vec(values, (2, total, 3), &Device::Cpu).unwrap();
            let mut cache = Cache::new(2, 3, &Device::Cpu).unwrap();
            for start in (0..total).step_by(piece) {
                let count = piece.min(total - start);
                cache.append(&rows.narrow(1, start, count).unwrap()).unwrap();
                let (got, want) = (cache.filled().unwrap(), rows.narrow(1, 0, start + count).unwrap());
                assert_eq!(got.to_vec3::<f32>().unwrap(), want.to_vec3::<f32>().unwrap(), "pieces of {piece}");
            }
        }
    }
}
