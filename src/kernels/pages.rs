//! Vectors of several heads, one a token, in pages: what attention keeps of earlier tokens.

use std::ops::Range;
use std::sync::Arc;

use super::gemm::Rows;

/// Vectors of several heads, one a token. They stay where they are while there come to be more, and copies share a page
/// until one of them writes to it.
#[derive(Clone, Debug)]
pub struct Pages {
    pages: Vec<Arc<Vec<f32>>>, // [heads, page, width] each
    heads: usize,
    page: usize,
    width: usize,
}

/// The first numbers of each vector.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    pages: &'a Pages,
    width: usize,
}

impl Pages {
    /// Of vectors of `width` numbers, and without a page as yet: one has `page` tokens.
    pub fn new(heads: usize, page: usize, width: usize) -> Self {
        Self { pages: Vec::new(), heads, page: page.max(1), width: width.max(1) }
    }

    /// `vectors` `[heads, tokens, width]` as a single page.
    pub fn whole(vectors: Vec<f32>, heads: usize, width: usize) -> Self {
        let page = vectors.len() / (heads * width).max(1);
        let pages = if vectors.is_empty() { Vec::new() } else { vec![Arc::new(vectors)] };
        Self { pages, ..Self::new(heads, page, width) }
    }

    /// The first `width` numbers of each vector.
    pub fn columns(&self, width: usize) -> Columns<'_> {
        Columns { pages: self, width: width.min(self.width) }
    }

    /// Adds pages, of zeros, until they have so many tokens.
    pub fn make_room(&mut self, tokens: usize) {
        while self.pages.len() * self.page < tokens {
            self.pages.push(Arc::new(vec![0.0; self.heads * self.page * self.width]));
        }
    }

    /// Writes the `vectors` `[heads, width]` of a token.
    ///
    /// # Panics
    /// There are fewer tokens, or the vectors are not as many numbers.
    pub fn set(&mut self, token: usize, vectors: &[f32]) {
        let (numbers, tokens) = (self.heads * self.width, self.pages.len() * self.page);
        assert!(token < tokens, "token {token} in pages of {tokens}");
        assert_eq!(vectors.len(), numbers, "a token's vectors");
        let Some(page) = self.pages.get_mut(token / self.page) else { return };
        let places = Arc::make_mut(page).chunks_exact_mut(self.width).skip(token % self.page).step_by(self.page);
        places.zip(vectors.chunks_exact(self.width)).for_each(|(place, vector)| place.copy_from_slice(vector));
    }
}

impl<'a> Columns<'a> {
    /// How many heads there are.
    pub fn heads(&self) -> usize {
        self.pages.heads
    }

    /// How many tokens a page has.
    pub fn page(&self) -> usize {
        self.pages.page
    }

    /// How many numbers of a vector these are.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vectors of a head from a token on, as far as its page goes.
    pub fn rows(&self, head: usize, token: usize) -> Rows<'a> {
        let Pages { ref pages, page, width, .. } = *self.pages;
        let [first, end] = [head * page + token % page, (head + 1) * page].map(|row| row * width);
        let vectors = pages.get(token / page).and_then(|own| own.get(first..end));
        Rows { data: vectors.unwrap_or_default(), stride: width }
    }

    /// A copy of the vectors of some tokens, `[heads, tokens, width]`.
    pub fn range(&self, tokens: Range<usize>) -> Vec<f32> {
        let of_head = |head: usize| tokens.clone().map(move |token| (head, token));
        let mut copy = Vec::with_capacity(self.heads() * tokens.len() * self.width);
        for (head, token) in (0..self.heads()).flat_map(of_head) {
            copy.extend_from_slice(self.rows(head, token).data.get(..self.width).unwrap_or_default());
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of a token in two heads.
    fn vectors(token: usize) -> [f32; 6] {
        [0, 1, 2, 100, 101, 102].map(|own| (1000 * token + own) as f32)
    }

    #[test]
    fn vectors_are_found_by_head_and_token_across_pages() {
        let mut pages = Pages::new(2, 4, 3);
        for token in 0..10 {
            pages.make_room(token + 1);
            pages.set(token, &vectors(token));
        }
        let columns = pages.columns(2);
        assert_eq!(columns.rows(1, 5).data[..6], [5100.0, 5101.0, 5102.0, 6100.0, 6101.0, 6102.0]);
        assert_eq!(columns.range(3..5), [3000.0, 3001.0, 4000.0, 4001.0, 3100.0, 3101.0, 4100.0, 4101.0]);
        let whole = Pages::whole(pages.columns(3).range(0..10), 2, 3);
        assert_eq!((whole.columns(3).page(), whole.columns(3).range(2..9)), (10, pages.columns(3).range(2..9)));
        assert!(columns.rows(0, 12).data.is_empty());
    }

    #[test]
    fn a_copy_shares_all_pages_but_those_that_either_writes_to() {
        let mut pages = Pages::new(2, 4, 3);
        pages.make_room(8);
        (0..6).for_each(|token| pages.set(token, &vectors(token)));
        let places = |pages: &Pages| -> Vec<_> { pages.pages.iter().map(|page| page.as_ptr()).collect() };
        let (before, mut copy) = (places(&pages), pages.clone());
        assert_eq!(places(&copy), before);
        pages.set(6, &vectors(6));
        copy.set(6, &vectors(7));
        assert_eq!((places(&pages)[0], places(&copy)), (before[0], before.clone()));
        assert_ne!(places(&pages)[1], before[1]);
        let sixth = |pages: &Pages| pages.columns(1).range(6..7);
        assert_eq!((sixth(&pages), sixth(&copy)), (vec![6000.0, 6100.0], vec![7000.0, 7100.0]));
        let before = places(&pages);
        drop(copy);
        pages.make_room(20);
        pages.set(7, &vectors(7));
        assert_eq!(places(&pages)[..2], before, "alone again");
    }
}
