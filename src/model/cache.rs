//! What attention keeps of earlier tokens: pages that are written in place and, on the CPU, never move; where only the
//! last tokens are looked at, they are a ring.

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};

use super::ops;
use crate::error::{Error, Result};

/// The most tokens of a page on the CPU, and those of the only one of a GPU at first: somewhat fewer than a power of two, so
/// that what the allocator adds to a page doesn't take another of its slices.
const PAGE: usize = 248;

/// Rows of f32 values, one a token, for each of several heads.
#[derive(Clone, Debug)]
pub struct Rows {
    pages: Vec<Tensor>, // [heads, page, width or more] each
    page: usize,
    len: usize,
    width: usize,
}

impl Rows {
    /// `rows` [heads, tokens, width] as a single page.
    pub fn whole(rows: Tensor) -> Result<Self> {
        let (_, len, width) = rows.dims3()?;
        Ok(Self { pages: vec![rows], page: len.max(1), len, width })
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.len
    }

    /// How many heads there are.
    pub fn heads(&self) -> usize {
        self.pages.first().and_then(|page| page.dims().first()).copied().unwrap_or_default()
    }

    /// How many tokens a page has.
    pub fn page(&self) -> usize {
        self.page
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The pages, [heads, page, width or more] each; not all of the last one need be in use.
    pub fn pages(&self) -> &[Tensor] {
        &self.pages
    }

    /// The first columns of each row.
    pub fn columns(&self, count: usize) -> Self {
        Self { width: count.min(self.width), ..self.clone() }
    }

    /// All of them, [heads, tokens, width]: a copy where there are several pages.
    pub fn joined(&self) -> Result<Tensor> {
        self.range(0, self.len)
    }

    fn range(&self, start: usize, end: usize) -> Result<Tensor> {
        let piece =
            |(page, first, count): (&Tensor, usize, usize)| page.narrow(1, first, count)?.narrow(2, 0, self.width);
        let mut pieces = self.pieces(start, end).map(piece).collect::<candle_core::Result<Vec<_>>>()?;
        match (pieces.pop(), pieces.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                pieces.extend(last);
                Ok(Tensor::cat(&pieces, 1)?)
            }
        }
    }

    /// Where the rows between two tokens lie: a page, the first of its rows and how many.
    fn pieces(&self, start: usize, end: usize) -> impl Iterator<Item = (&Tensor, usize, usize)> {
        self.pages.iter().zip((0..).step_by(self.page)).filter_map(move |(page, before)| {
            let (first, last) = (start.max(before), end.min(before + self.page));
            (first < last).then(|| (page, first - before, last - first))
        })
    }

    /// Writes `rows` [tokens, heads, width] from `at` on, where there is room.
    fn set(&self, rows: &Tensor, at: usize) -> Result<()> {
        let mut done = 0;
        for (page, first, count) in self.pieces(at, at + rows.dim(0)?) {
            ops::set_rows(page, first, &rows.narrow(0, done, count)?)?;
            done += count;
        }
        Ok(())
    }
}

/// The rows of one sequence.
#[derive(Debug)]
pub struct Cache {
    rows: Rows,
    heads: usize,
    /// How many of the last rows are kept; all where there is no window.
    window: Option<usize>,
    /// The oldest row of a ring that is full.
    oldest: usize,
    device: Device,
}

impl Cache {
    /// An empty cache that keeps all rows, or the last ones that a `window` covers.
    pub fn new(heads: usize, width: usize, window: Option<usize>, device: &Device) -> Self {
        let page = window.map_or(PAGE, |window| window.div_ceil(window.div_ceil(PAGE).max(1)).max(1));
        let rows = Rows { pages: Vec::new(), page, len: 0, width };
        Self { rows, heads, window, oldest: 0, device: device.clone() }
    }

    /// Adds `rows` [tokens, heads, width], and gives what the queries of these tokens may look at. The added rows come
    /// last, unless a single one was added to a ring, all of which it may look at.
    pub fn append(&mut self, rows: &Tensor) -> Result<Cow<'_, Rows>> {
        match self.window {
            None => self.write(rows, self.rows.len)?,
            Some(_) if rows.dim(0)? == 1 => {
                let at = self.next()?;
                self.rows.set(rows, at)?;
            }
            Some(window) => {
                let seen = [self.kept()?, Some(rows.transpose(0, 1)?)];
                let seen = Tensor::cat(&seen.into_iter().flatten().collect::<Vec<_>>(), 1)?;
                let seen = last(&seen, rows.dim(0)? + window - 1)?;
                self.oldest = 0;
                self.write(&last(&seen, window)?.transpose(0, 1)?, 0)?;
                return Ok(Cow::Owned(Rows::whole(seen)?));
            }
        }
        Ok(Cow::Borrowed(&self.rows))
    }

    /// The same of one row `[heads · width]` on the CPU.
    pub fn append_row(&mut self, row: &[f32]) -> Result<&Rows> {
        let at = self.next()?;
        for (page, at, _) in self.rows.pieces(at, at + 1) {
            ops::set_row(page, at, row)?;
        }
        Ok(&self.rows)
    }

    /// Where a single row comes next: in a ring that is full it takes the place of the oldest.
    fn next(&mut self) -> Result<usize> {
        let at = match self.window {
            Some(window) if self.rows.len >= window => {
                let oldest = self.oldest;
                self.oldest = (oldest + 1) % window;
                return Ok(oldest);
            }
            _ => self.rows.len,
        };
        self.make_room(at + 1)?;
        self.rows.len = at + 1;
        Ok(at)
    }

    /// Writes `rows` [tokens, heads, width] from `at` on. They are the last ones then.
    fn write(&mut self, rows: &Tensor, at: usize) -> Result<()> {
        let len = at + rows.dim(0)?;
        self.make_room(len)?;
        self.rows.set(rows, at)?;
        self.rows.len = len;
        Ok(())
    }

    /// On the CPU there are more pages then, on a GPU, whose kernels take one, a larger one.
    fn make_room(&mut self, len: usize) -> Result<()> {
        let page = |page| Ok::<_, Error>(Tensor::zeros((self.heads, page, self.rows.width), DType::F32, &self.device)?);
        if self.device.is_cpu() {
            while self.rows.pages.len() * self.rows.page < len {
                self.rows.pages.push(page(self.rows.page)?);
            }
        } else if self.rows.pages.is_empty() || self.rows.page < len {
            let size = len.next_power_of_two().min(self.window.unwrap_or(usize::MAX)).max(self.rows.page);
            let larger = Rows { pages: vec![page(size)?], page: size, ..self.rows };
            if self.rows.len > 0 {
                larger.set(&self.rows.joined()?.transpose(0, 1)?, 0)?;
            }
            self.rows = larger;
        }
        Ok(())
    }

    /// What is kept, oldest first, [heads, tokens, width]: good until the next append. None where nothing is.
    pub fn kept(&self) -> Result<Option<Tensor>> {
        Ok(match (self.rows.len, self.oldest) {
            (0, _) => None,
            (_, 0) => Some(self.rows.joined()?),
            (len, oldest) => Some(Tensor::cat(&[self.rows.range(oldest, len)?, self.rows.range(0, oldest)?], 1)?),
        })
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.heads * self.rows.width * self.rows.len * size_of::<f32>()
    }

    /// A copy on `device`. On the CPU, both have the pages that neither will write to.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        let mut copy = Self::new(self.heads, self.rows.width, self.window, device);
        let is_shared = self.window.is_none() && self.device.is_cpu() && device.is_cpu();
        let n_shared = if is_shared { self.rows.len / self.rows.page } else { 0 };
        copy.rows.pages = self.rows.pages.iter().take(n_shared).cloned().collect();
        copy.rows.len = n_shared * self.rows.page;
        if copy.rows.len < self.rows.len {
            let rest = self.rows.range(copy.rows.len, self.rows.len)?;
            let is_there = self.device.same_device(device);
            let rest = if is_there { rest } else { ops::copy_to(&rest, device)? };
            copy.write(&rest.transpose(0, 1)?, copy.rows.len)?;
        }
        Ok(Self { oldest: self.oldest, ..copy })
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

    /// Some tokens of `rows` [heads, tokens, width], as they are added.
    fn some(rows: &Tensor, start: usize, count: usize) -> Tensor {
        rows.narrow(1, start, count).unwrap().transpose(0, 1).unwrap()
    }

    #[test]
    fn rows_stay_as_they_were_added_while_the_cache_grows_and_a_ring_keeps_the_last() {
        let rows = ramp();
        for window in [None, Some(1), Some(7), Some(PAGE), Some(PAGE + 9), Some(TOTAL)] {
            for piece in [1, 7, PAGE, PAGE + 1, TOTAL] {
                let mut cache = Cache::new(2, 3, window, &Device::Cpu);
                for start in (0..TOTAL).step_by(piece) {
                    let count = piece.min(TOTAL - start);
                    let seen = cache.append(&some(&rows, start, count)).unwrap();
                    let so_far = rows.narrow(1, 0, start + count).unwrap();
                    let reach = window.map_or(TOTAL, |window| window + count - 1);
                    let (seen, want) = (sorted(&seen.joined().unwrap()), sorted(&last(&so_far, reach).unwrap()));
                    assert_eq!(seen, want, "{window:?}, pieces of {piece}");
                    let kept = last(&so_far, window.unwrap_or(TOTAL)).unwrap().to_vec3::<f32>().unwrap();
                    let got = cache.kept().unwrap().unwrap().to_vec3::<f32>().unwrap();
                    assert_eq!(got, kept, "{window:?}, pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_kept_as_a_tensor_of_one_token_is() {
        let rows = ramp();
        for window in [None, Some(1), Some(7), Some(PAGE + 9)] {
            let cache = || Cache::new(2, 3, window, &Device::Cpu);
            let (mut by_row, mut by_tensor) = (cache(), cache());
            for at in 0..PAGE + 20 {
                let token = some(&rows, at, 1);
                let row = token.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let seen = by_row.append_row(&row).unwrap().joined().unwrap().to_vec3::<f32>().unwrap();
                assert_eq!(seen, by_tensor.append(&token).unwrap().joined().unwrap().to_vec3::<f32>().unwrap());
            }
            let kept = |cache: &Cache| cache.kept().unwrap().unwrap().to_vec3::<f32>().unwrap();
            assert_eq!(kept(&by_row), kept(&by_tensor), "{window:?}");
            assert!(by_row.append_row(&[0.0; 5]).is_err());
        }
    }

    #[test]
    fn pages_never_move_and_a_copy_has_those_that_are_full() {
        let rows = ramp();
        let places = |cache: &Cache| -> Vec<_> { cache.rows.pages.iter().map(Tensor::id).collect() };
        let mut cache = Cache::new(2, 3, None, &Device::Cpu);
        cache.append(&some(&rows, 0, PAGE + 5)).unwrap();
        let (before, copied) = (places(&cache), places(&cache.copy_to(&Device::Cpu).unwrap()));
        assert_eq!((copied.len(), copied[0]), (2, before[0]));
        assert_ne!(copied[1], before[1]);
        cache.append(&some(&rows, PAGE + 5, 2 * PAGE - 5)).unwrap();
        assert_eq!(places(&cache)[..2], before);
    }

    #[test]
    fn a_cache_and_its_copy_go_on_by_themselves() {
        let rows = ramp();
        for window in [None, Some(7), Some(PAGE), Some(PAGE + 9)] {
            for len in [1, 5, PAGE - 1, PAGE, PAGE + 5, 2 * PAGE] {
                let mut cache = Cache::new(2, 3, window, &Device::Cpu);
                (0..len).for_each(|at| drop(cache.append(&some(&rows, at, 1)).unwrap()));
                let mut copy = cache.copy_to(&Device::Cpu).unwrap();
                (len..len + 20).for_each(|at| drop(cache.append(&some(&rows, at, 1)).unwrap()));
                (0..9).for_each(|at| drop(copy.append(&some(&rows, at, 1)).unwrap()));
                let first = |count| rows.narrow(1, 0, count).unwrap();
                for (cache, rows) in
                    [(cache, first(len + 20)), (copy, Tensor::cat(&[first(len), first(9)], 1).unwrap())]
                {
                    let want = last(&rows, window.unwrap_or(TOTAL)).unwrap().to_vec3::<f32>().unwrap();
                    assert_eq!(cache.kept().unwrap().unwrap().to_vec3::<f32>().unwrap(), want, "{window:?} of {len}");
                }
            }
        }
    }
}
