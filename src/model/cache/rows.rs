//! Where the rows of a cache lie: in pages on the CPU, in one tensor on a GPU, whose kernels take one.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::super::ops;
use crate::error::{Error, Result};
use crate::kernels::pages::Pages;

/// The most tokens of a page, and those of a GPU's tensor at first: somewhat fewer than a power of two, so that what the
/// allocator adds to a page doesn't take another of its slices.
pub(super) const PAGE: usize = 248;

/// Rows of f32 values, one a token, for each of several heads.
#[derive(Clone, Debug)]
pub struct Rows {
    memory: Memory,
    tokens: usize,
    heads: usize,
    width: usize,
    /// There never are more tokens.
    most: usize,
}

/// Where there is room for rows.
#[derive(Clone, Debug)]
pub enum Memory {
    /// On the CPU.
    Pages(Pages),
    /// On a GPU, where there is none as yet.
    None(Device),
    /// On a GPU, [heads, room, width or more].
    Tensor(Tensor),
}

impl Rows {
    /// None as yet, and never those of more than `most` tokens.
    pub(super) fn none(heads: usize, width: usize, most: usize, device: &Device) -> Self {
        let memory = match device {
            Device::Cpu => Memory::Pages(Pages::new(heads, page(most), width)),
            _ => Memory::None(device.clone()),
        };
        Self { memory, tokens: 0, heads, width, most }
    }

    /// The same in a tensor wherever it is.
    #[cfg(test)]
    pub(super) fn none_in_tensor(heads: usize, width: usize, most: usize) -> Self {
        Self { memory: Memory::None(Device::Cpu), ..Self::none(heads, width, most, &Device::Cpu) }
    }

    /// None as yet, of as many heads and numbers in such memory.
    pub(super) fn none_like(&self, most: usize) -> Self {
        let memory = match &self.memory {
            Memory::Pages(_) => Memory::Pages(Pages::new(self.heads, page(most), self.width)),
            memory => Memory::None(memory.device().clone()),
        };
        Self { memory, tokens: 0, most, ..*self }
    }

    /// A copy on `device`. On the CPU, memory is shared until either goes on in it.
    pub(super) fn copy_to(&self, device: &Device) -> Result<Self> {
        if matches!(self.memory, Memory::Pages(_)) && device.is_cpu() {
            return Ok(self.clone());
        }
        let is_there = self.memory.device().same_device(device);
        let none = || Self::none(self.heads, self.width, self.most, device);
        let mut copy = if is_there { self.none_like(self.most) } else { none() };
        if self.tokens > 0 {
            let rows = self.joined()?;
            let rows = if is_there { rows } else { ops::copy_to(&rows, device)? };
            copy.push(&rows.transpose(0, 1)?)?;
        }
        Ok(copy)
    }

    /// `rows` [heads, tokens, width], which nothing else may use.
    pub fn whole(rows: Tensor) -> Result<Self> {
        let (heads, tokens, width) = rows.dims3()?;
        let memory = match rows.device() {
            Device::Cpu => Memory::Pages(Pages::whole(ops::into_vec(&rows)?, heads, width)),
            _ => Memory::Tensor(rows),
        };
        Ok(Self { memory, tokens, heads, width, most: tokens })
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many tokens there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The bytes of all, those too that copies share.
    pub(super) fn bytes(&self) -> usize {
        self.heads * self.tokens * self.width * size_of::<f32>()
    }

    /// Where they are; not all of it need be in use.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The first columns of each row.
    pub fn columns(&self, count: usize) -> Self {
        Self { width: count.min(self.width), ..self.clone() }
    }

    /// All of them, [heads, tokens, width]: on the CPU a copy.
    pub fn joined(&self) -> Result<Tensor> {
        self.range(0..self.tokens)
    }

    /// Those of some tokens, [heads, tokens, width].
    pub(super) fn range(&self, tokens: Range<usize>) -> Result<Tensor> {
        match &self.memory {
            Memory::Pages(pages) => {
                let shape = (self.heads, tokens.len(), self.width);
                Ok(Tensor::from_vec(pages.columns(self.width).range(tokens), shape, &Device::Cpu)?)
            }
            Memory::Tensor(all) => Ok(all.narrow(1, tokens.start, tokens.len())?.narrow(2, 0, self.width)?),
            Memory::None(_) => Err(Error::Internal("a cache without rows was read".into())),
        }
    }

    /// Adds `rows` [tokens, heads, width].
    pub(super) fn push(&mut self, rows: &Tensor) -> Result<()> {
        self.set(self.tokens, rows)
    }

    /// Writes `rows` [tokens, heads, width] from the token `at` on.
    pub(super) fn set(&mut self, at: usize, rows: &Tensor) -> Result<()> {
        let (tokens, heads, width) = rows.dims3()?;
        if (heads, width) != (self.heads, self.width) {
            return Err(self.misfit(rows.dims()));
        }
        self.make_room(at + tokens)?;
        match &mut self.memory {
            Memory::Pages(pages) => {
                let rows = rows.contiguous()?;
                ops::with_slice(&rows, |rows| {
                    let rows = rows.chunks_exact((heads * width).max(1));
                    (at..).zip(rows).for_each(|(token, row)| pages.set(token, row));
                })?;
            }
            Memory::Tensor(all) => all.slice_set(&rows.transpose(0, 1)?.contiguous()?, 1, at)?,
            Memory::None(_) => return Err(Error::Internal("a cache has no room".into())),
        }
        self.tokens = self.tokens.max(at + tokens);
        Ok(())
    }

    /// The same of one row `[heads · width]`.
    pub(super) fn set_row(&mut self, at: usize, row: &[f32]) -> Result<()> {
        if row.len() != self.heads * self.width {
            return Err(self.misfit(&[row.len()]));
        }
        self.make_room(at + 1)?;
        match &mut self.memory {
            Memory::Pages(pages) => pages.set(at, row),
            Memory::Tensor(_) | Memory::None(_) => {
                return Err(Error::Internal("a plain row is for caches on the CPU".into()));
            }
        }
        self.tokens = self.tokens.max(at + 1);
        Ok(())
    }

    /// Makes room for so many tokens at least: a tensor becomes a larger one.
    pub(super) fn make_room(&mut self, tokens: usize) -> Result<()> {
        let before = match &mut self.memory {
            Memory::Pages(pages) => {
                pages.make_room(tokens);
                return Ok(());
            }
            Memory::Tensor(all) if all.dim(1)? >= tokens => return Ok(()),
            Memory::Tensor(all) => Some(all.contiguous()?),
            Memory::None(_) => None,
        };
        let room = tokens.next_power_of_two().max(PAGE).min(self.most.max(tokens));
        let larger = Tensor::zeros((self.heads, room, self.width), DType::F32, self.memory.device())?;
        if let Some(before) = before {
            larger.slice_set(&before, 1, 0)?;
        }
        self.memory = Memory::Tensor(larger);
        Ok(())
    }

    fn misfit(&self, found: &[usize]) -> Error {
        Error::Internal(format!("a cache of rows [{}, {}] was given {found:?}", self.heads, self.width))
    }
}

impl Memory {
    fn device(&self) -> &Device {
        match self {
            Self::Pages(_) => &Device::Cpu,
            Self::None(device) => device,
            Self::Tensor(all) => all.device(),
        }
    }
}

/// The tokens of a page where there are at most so many: all pages are full then.
fn page(most: usize) -> usize {
    most.div_ceil(most.div_ceil(PAGE).max(1)).max(1)
}
