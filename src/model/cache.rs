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
