//! The memory of tensors on the CPU, lent to kernels.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor, WithDType};

use crate::error::{Error, Result};

/// The memory of a contiguous tensor on the CPU, locked for reading.
pub(super) struct Lent<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Lent<'a> {
    pub(super) fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let (start, end) = contiguous(layout)?;
        Ok(Self { storage, range: start..end })
    }

    /// All memory from a tensor's start on: where its rows lie apart, this has what is between them too.
    pub(super) fn from_start(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        let end = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => data.len(),
            _ => 0,
        };
        Self { storage, range: layout.start_offset()..end }
    }

    pub(super) fn slice<T: WithDType>(&self) -> Result<&[T]> {
        let slice = match &*self.storage {
            Storage::Cpu(storage) => storage.as_slice::<T>()?.get(self.range.clone()),
            _ => None,
        };
        slice.ok_or_else(|| Error::Internal("a kernel was given a tensor that is not on the CPU".into()))
    }
}

/// Lends the memory of a contiguous f32 tensor on the CPU.
pub fn with_slice<T>(x: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    Ok(read(Lent::of(x)?.slice()?))
}

/// The same for writing.
pub(super) fn with_slice_mut(x: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(x.inplace_op1(&Write(Cell::new(Some(write))))?)
}

/// The numbers of `x`, which nothing else may use: no copy where they are alone in memory of the CPU.
pub fn into_vec(x: &Tensor) -> Result<Vec<f32>> {
    let taken = Take(Cell::default());
    if x.device().is_cpu() {
        x.inplace_op1(&taken)?;
    }
    match taken.0.into_inner() {
        Some(numbers) => Ok(numbers),
        None => Ok(x.flatten_all()?.to_vec1()?),
    }
}

struct Take(Cell<Option<Vec<f32>>>);

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        if let (CpuStorage::F32(data), Some((0, end))) = (storage, layout.contiguous_offsets())
            && data.len() == end
        {
            self.0.set(Some(std::mem::take(data)));
        }
        Ok(())
    }
}

struct Write<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (start, end) = contiguous(layout).map_err(candle_core::Error::wrap)?;
        let CpuStorage::F32(data) = storage else { candle_core::bail!("a kernel writes f32") };
        if let (Some(slice), Some(write)) = (data.get_mut(start..end), self.0.take()) {
            write(slice);
        }
        Ok(())
    }
}

pub(super) fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    let offsets = layout.contiguous_offsets();
    offsets.ok_or_else(|| Error::Internal(format!("a kernel needs contiguous memory, found {layout:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{values, wave};
    use super::*;
    use crate::model::ops::scale_in_place;

    #[test]
    fn numbers_are_taken_out_of_a_tensor_whole_or_copied_from_a_part_of_one() {
        let whole = || scale_in_place(wave((2, 3, 4), 0.3), 2.0).unwrap();
        let numbers = values(&whole());
        assert_eq!(numbers, values(&(wave((2, 3, 4), 0.3) * 2.0).unwrap()));
        let kept = whole();
        assert_eq!(into_vec(&kept.narrow(0, 1, 1).unwrap()).unwrap(), numbers[12..]);
        assert_eq!(into_vec(&kept.narrow(0, 0, 1).unwrap()).unwrap(), numbers[..12]);
        let turned = kept.transpose(0, 1).unwrap();
        assert_eq!(into_vec(&turned).unwrap(), values(&turned.contiguous().unwrap()));
        assert_eq!(values(&kept), numbers);
        assert_eq!(into_vec(&kept).unwrap(), numbers);
    }

    #[test]
    fn kernels_refuse_memory_that_is_not_contiguous() {
        let x = wave((2, 3), 1.0).t().unwrap();
        assert!(Lent::of(&x).err().unwrap().to_string().contains("contiguous"));
    }
}
