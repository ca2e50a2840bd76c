//! What the machine's memory can do, and how much of it this process had.

use std::hint::black_box;
use std::time::Instant;
use std::{array, fs, slice, thread};

use candle_core::{DType, Device, Tensor};
use half::bf16;

use super::report::median;
use crate::error::Result;
use crate::kernels::isa::Isa;
use crate::kernels::matrix::Precision;
use crate::kernels::{memory, panels};
use crate::model::device;
use crate::model::linear::{Linear, Weight};

/// The memory that is read: far more than the caches of a processor hold.
const MOST_BYTES: usize = 1 << 30;

/// At most this share of the memory that is free is taken for it.
const SHARE_OF_FREE: usize = 4;

/// With less, caches would be measured.
const LEAST_BYTES: usize = 64 << 20;

/// How often the memory is read in one way for one measurement.
const PASSES: usize = 5;

/// The width of the matrix that is read on a GPU.
const INPUTS_OF_GPU: usize = 4096;

/// A GPU is waited for after so many products, as after a token: to wait takes as long as a part of one.
const PRODUCTS_OF_GPU: usize = 16;

/// What a processor reads at once.
type Line = [u64; 8];

/// Memory to be read again and again, of the kind that weights are in.
pub(super) enum Memory {
    /// A part for each thread.
    Cpu(Vec<memory::Memory>),
    /// A layer, and the row that it multiplies.
    Gpu(Linear, Tensor),
}

impl Memory {
    /// # Errors
    /// A GPU has no memory for it.
    pub(super) fn new(device: &Device, threads: usize) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::of_cpu(threads));
        }
        let free = device::free_bytes(device)?.unwrap_or(usize::MAX);
        Self::of_gpu(device, MOST_BYTES.min(free / SHARE_OF_FREE).max(LEAST_BYTES))
    }

    fn of_gpu(device: &Device, bytes: usize) -> Result<Self> {
        let n_out = bytes / (INPUTS_OF_GPU * size_of::<bf16>());
        let weights = Weight::Tensor(Tensor::zeros((n_out, INPUTS_OF_GPU), DType::BF16, device)?);
        let row = Tensor::zeros((1, INPUTS_OF_GPU), DType::F32, device)?;
        Ok(Self::Gpu(Linear::new(weights, Precision::Fast), row))
    }

    /// Each part is written by a thread that reads it: memory that nobody has written is not there at all.
    fn of_cpu(threads: usize) -> Self {
        let lines = MOST_BYTES.min(free_bytes() / SHARE_OF_FREE).max(LEAST_BYTES) / size_of::<Line>() / threads;
        let part = || {
            let mut part = memory::Memory::zeroed(lines * size_of::<Line>())?;
            part.fill(1);
            Some(part)
        };
        Self::Cpu(on_threads((0..threads).map(|_| part)).into_iter().flatten().collect())
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Cpu(parts) => parts.iter().map(|part| part.len()).sum(),
            Self::Gpu(layer, _) => layer.bytes().read,
        }
    }

    /// How many bytes per second all threads together read, in the best of three ways: processors differ in how many
    /// streams they fetch ahead, and in what asking for memory ahead brings, as products do. On a GPU, in the products that
    /// decoding is made of.
    pub(super) fn read_bandwidth(&self) -> Result<f64> {
        match self {
            Self::Cpu(parts) => {
                let ways = [sum::<4>, sum::<8>, products];
                let ways = ways.map(|sum| median_rate(self.bytes(), || read(parts, sum)));
                ways.into_iter().try_fold(0.0, |most, way| Ok(f64::max(most, way?)))
            }
            Self::Gpu(layer, row) => median_rate(PRODUCTS_OF_GPU * self.bytes(), || {
                (0..PRODUCTS_OF_GPU).try_for_each(|_| layer.forward(row).map(drop))?;
                Ok(row.device().synchronize()?)
            }),
        }
    }
}

/// The bytes per second of passes that read so many, the median of some.
fn median_rate(bytes: usize, pass: impl Fn() -> Result<()>) -> Result<f64> {
    let pass = |_| {
        let started = Instant::now();
        pass()?;
        Ok(bytes as f64 / started.elapsed().as_secs_f64())
    };
    Ok(median(&(0..PASSES).map(pass).collect::<Result<Vec<_>>>()?))
}

/// Reads each part on a thread of its own.
fn read(parts: &[memory::Memory], sum: fn(&[Line]) -> u64) -> Result<()> {
    black_box(on_threads(parts.iter().map(|part| move || sum(black_box(bytemuck::cast_slice(part))))));
    Ok(())
}

/// Does each work on a thread of its own.
fn on_threads<T: Send>(works: impl Iterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = works.map(|work| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// The sum of all words, read as so many streams side by side; of a rest that is no line for each of them, nothing.
fn sum<const STREAMS: usize>(lines: &[Line]) -> u64 {
    let length = lines.len() / STREAMS;
    let mut parts = lines.chunks_exact(length.max(1));
    let mut streams: [slice::Iter<'_, Line>; STREAMS] = array::from_fn(|_| parts.next().unwrap_or_default().iter());
    let mut sums = [[0u64; 8]; STREAMS];
    for _ in 0..length {
        for (sum, stream) in sums.iter_mut().zip(&mut streams) {
            for (sum, word) in sum.iter_mut().zip(stream.next().unwrap_or(&[0; 8])) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    sums.iter().flatten().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// The bits of the sum of all words as products of a matrix in bf16 with a vector.
fn products(lines: &[Line]) -> u64 {
    const INPUTS: usize = 1024;
    let (x, weights) = ([1.0; INPUTS], bytemuck::cast_slice::<Line, bf16>(lines));
    let panels = weights.chunks_exact(panels::panel_len::<bf16>(INPUTS));
    panels.flat_map(|panel| panels::times(Isa::best(), panel, &x)).sum::<f32>().to_bits().into()
}

/// The most memory that this process has had, where the system tells.
pub(super) fn peak_bytes() -> Option<usize> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// The memory that the machine and, in a container, its bounds leave; without end where nobody tells.
fn free_bytes() -> usize {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemAvailable"));
    let number = |file| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<usize>().ok();
    let of_container = number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
    of_machine.into_iter().chain(of_container).min().unwrap_or(usize::MAX)
}

/// The bytes in a line such as `VmHWM:     1234 kB`.
fn kilobytes(text: &str, key: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once_in_any_number_of_streams() {
        let lines: Vec<Line> = (0..64).map(|line| array::from_fn(|word| 8 * line + word as u64)).collect();
        let expected: u64 = (0..8 * 64).sum();
        assert_eq!([sum::<1>(&lines), sum::<4>(&lines), sum::<8>(&lines)], [expected; 3]);
        assert_eq!(sum::<8>(&lines[..7]), 0, "no line for each");
    }

    #[test]
    fn a_gpu_reads_a_matrix_of_so_many_bytes() {
        let memory = Memory::of_gpu(&Device::Cpu, 1 << 20).unwrap();
        assert_eq!(memory.bytes(), 1 << 20);
        assert!(memory.read_bandwidth().unwrap() > 0.0);
    }

    #[test]
    fn sizes_are_found_in_what_linux_tells() {
        let text = "Name:\tblazr\nVmPeak:\t  200 kB\nVmHWM:\t     123 kB\nVmHWMx: 5 kB\n";
        assert_eq!(kilobytes(text, "VmHWM"), Some(123 * 1024));
        assert_eq!(kilobytes(text, "VmRSS"), None);
        assert_eq!(kilobytes("VmHWM: many kB", "VmHWM"), None);
    }
}
