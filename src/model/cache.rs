//! What attention keeps of earlier tokens, written in place; where only the last tokens are looked at, it is a ring.

mod rows;

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Device, Tensor};

pub use self::rows::{Memory, Rows};
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
    pub fn new(heads: usize, width: usize, window: Option<usize>, device: &Device) -> Self {
        Self { rows: Rows::none(heads, width, window.unwrap_or(usize::MAX), device), oldest: 0 }
    }

    /// Adds `rows` [tokens, heads, width], and gives what the queries of these tokens may look at. The added rows come
    /// last, unless a single one was added to a ring, all of which it may look at.
    pub fn append(&mut self, rows: &Tensor) -> Result<Cow<'_, Rows>> {
        let (tokens, window) = (rows.dim(0)?, self.rows.most());
        if self.rows.tokens() + tokens <= window {
            self.rows.push(rows)?;
            return Ok(Cow::Borrowed(&self.rows));
        }
        if tokens == 1 {
            let at = self.next();
            self.rows.set(at, rows)?;
            return Ok(Cow::Borrowed(&self.rows));
        }
        let mut seen = self.last_rows(window - 1, tokens)?;
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

    /// Where a single row comes next: in a ring that is full it takes the place of the oldest.
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

    /// A copy of the last rows, at most `count`, oldest first, with room for so many more.
    fn last_rows(&self, count: usize, more: usize) -> Result<Rows> {
        let all = self.rows.tokens().min(count) + more;
        let mut copy = self.rows.none_like(all);
        copy.make_room(all)?;
        for piece in self.last(count) {
            copy.push(&self.rows.range(piece)?.transpose(0, 1)?)?;
        }
        Ok(copy)
    }

    /// What is kept, oldest first, [heads, tokens, width].
    #[cfg(test)]
    pub fn kept(&self) -> Tensor {
        self.last_rows(usize::MAX, 0).unwrap().joined().unwrap()
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// A copy on `device`. On the CPU, memory is shared until either goes on in it.
    pub fn copy_to(&self, device: &Device) -> Result<Self> {
        Ok(Self { rows: self.rows.copy_to(device)?, oldest: self.oldest })
    }
}

#[cfg(test)]
mod tests {
    use super::rows::PAGE;
    use super::*;

    const TOTAL: usize = 3 * PAGE;

    fn numbers(rows: &Tensor) -> Vec<Vec<Vec<f32>>> {
        rows.to_vec3().unwrap()
    }

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

    /// Caches in pages, and in a tensor as on a GPU.
    fn both(window: Option<usize>) -> [Cache; 2] {
        let in_tensor = Rows::none_in_tensor(2, 3, window.unwrap_or(usize::MAX));
        [Cache::new(2, 3, window, &Device::Cpu), Cache { rows: in_tensor, oldest: 0 }]
    }

    #[test]
    fn rows_stay_as_they_were_added_while_the_cache_grows_and_a_ring_keeps_the_last() {
        let rows = ramp();
        let pieces: [&[usize]; 6] = [&[1], &[7], &[PAGE], &[PAGE + 1], &[TOTAL], &[1, 1, 3, 1, 9, PAGE + 1, 1, 2]];
        for (window, pieces) in [None, Some(1), Some(7), Some(PAGE), Some(PAGE + 9), Some(TOTAL)]
            .into_iter()
            .flat_map(|window| pieces.map(|pieces| (window, pieces)))
        {
            for mut cache in both(window) {
                let (mut start, mut pieces) = (0, pieces.iter().cycle());
                while start < TOTAL {
                    let count = (*pieces.next().unwrap()).min(TOTAL - start);
                    let seen = cache.append(&some(&rows, start, count)).unwrap().joined().unwrap();
                    start += count;
                    let so_far = rows.narrow(1, 0, start).unwrap();
                    let want = last(&so_far, window.map_or(TOTAL, |window| window + count - 1));
                    if count == 1 {
                        assert_eq!(sorted(&seen), sorted(&want), "{window:?} after {start}");
                    } else {
                        // A query sees the keys before its own, so that they are in order.
                        let seen = last(&seen, want.dim(1).unwrap());
                        assert_eq!(numbers(&seen), numbers(&want), "{window:?} after {start}");
                    }
                    let kept = last(&so_far, window.unwrap_or(TOTAL));
                    assert_eq!(numbers(&cache.kept()), numbers(&kept), "{window:?} after {start}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_kept_as_a_tensor_of_one_token_is() {
        let rows = ramp();
        for window in [None, Some(1), Some(7), Some(PAGE + 9)] {
            let [mut by_row, mut by_tensor] = [(); 2].map(|()| Cache::new(2, 3, window, &Device::Cpu));
            for at in 0..PAGE + 20 {
                let token = some(&rows, at, 1);
                let row = token.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let seen = numbers(&by_row.append_row(&row).unwrap().joined().unwrap());
                assert_eq!(seen, numbers(&by_tensor.append(&token).unwrap().joined().unwrap()));
            }
            assert_eq!(numbers(&by_row.kept()), numbers(&by_tensor.kept()), "{window:?}");
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        for mut cache in both(None) {
            let wide = ramp().transpose(0, 1).unwrap();
            assert!(cache.append(&wide.narrow(2, 0, 2).unwrap()).is_err());
            assert!(cache.append_row(&[0.0; 5]).is_err());
            assert_eq!(cache.bytes(), 0);
        }
    }

    #[test]
    fn a_cache_and_its_copy_go_on_by_themselves() {
        let rows = ramp();
        for window in [None, Some(7), Some(PAGE), Some(PAGE + 9)] {
            for (len, prompt) in
                [1, 5, PAGE - 1, PAGE, PAGE + 5, 2 * PAGE].into_iter().flat_map(|len| [(len, 1), (len, 9)])
            {
                for mut cache in both(window) {
                    (0..len).for_each(|at| drop(cache.append(&some(&rows, at, 1)).unwrap()));
                    let mut copy = cache.copy_to(&Device::Cpu).unwrap();
                    let seen = |cache: &mut Cache| {
                        let all = cache.append(&some(&rows, len, 1)).unwrap();
                        numbers(&all.joined().unwrap())
                    };
                    assert_eq!(seen(&mut cache), seen(&mut copy), "in the same order");
                    cache.append(&some(&rows, len + 1, 20)).unwrap();
                    (0..9 / prompt).for_each(|at| drop(copy.append(&some(&rows, at * prompt, prompt)).unwrap()));
                    let first = |count| rows.narrow(1, 0, count).unwrap();
                    for (cache, rows) in
                        [(cache, first(len + 21)), (copy, Tensor::cat(&[first(len + 1), first(9)], 1).unwrap())]
                    {
                        let want = last(&rows, window.unwrap_or(TOTAL));
                        assert_eq!(numbers(&cache.kept()), numbers(&want), "{window:?} of {len}");
                    }
                }
            }
        }
    }
}
