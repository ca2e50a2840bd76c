//! Who waits, in what order, and when there is no more room: a pure data structure, without threads or clocks.

use std::collections::VecDeque;

/// How much may wait at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Prompt tokens of all of them.
    pub tokens: usize,
}

/// Which limit another request would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many requests wait as may.
    Requests,
    /// With its prompt, more tokens would wait than may.
    Tokens,
}

/// First in, first out, within [`Limits`].
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    entries: VecDeque<Entry<T>>,
    tokens: usize,
}

#[derive(Debug)]
struct Entry<T> {
    id: u64,
    tokens: usize,
    item: T,
}

impl<T> Queue<T> {
    /// A queue in which nothing waits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: VecDeque::new(), tokens: 0 }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many prompt tokens wait.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What may wait.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether the next request would find no room, however short.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limits.requests || self.tokens >= self.limits.tokens
    }

    /// Puts `item` with a prompt of so many tokens at the end, under an `id` that no other entry has. Where nothing
    /// waits, a prompt of any length has room: it could never be taken in otherwise.
    ///
    /// # Errors
    /// The limit that stands against it, and the item; the queue is as before.
    pub fn push(&mut self, id: u64, tokens: usize, item: T) -> Result<(), (Full, T)> {
        if self.len() >= self.limits.requests {
            return Err((Full::Requests, item));
        }
        let together = self.tokens.saturating_add(tokens);
        if together > self.limits.tokens && !self.is_empty() {
            return Err((Full::Tokens, item));
        }
        self.tokens = together;
        self.entries.push_back(Entry { id, tokens, item });
        Ok(())
    }

    /// Takes out what came first.
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.entries.pop_front()?;
        self.tokens -= entry.tokens;
        Some(entry.item)
    }

    /// Takes out the entry `id`, wherever it stands; none if it is not there any more.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let entry = self.entries.remove(at)?;
        self.tokens -= entry.tokens;
        Some(entry.item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn queue(requests: usize, tokens: usize) -> Queue<u64> {
        Queue::new(Limits { requests, tokens })
    }

    #[test]
    fn first_in_is_first_out_also_when_others_give_up() {
        let mut queue = queue(4, 100);
        for id in 0..4 {
            queue.push(id, 1, id).unwrap();
        }
        assert_eq!(queue.remove(1), Some(1));
        assert_eq!(queue.remove(1), None);
        queue.push(4, 1, 4).unwrap();
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [0, 2, 3, 4]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn a_request_too_many_is_refused() {
        let mut queue = queue(2, 100);
        queue.push(0, 1, 0).unwrap();
        assert!(!queue.is_full());
        queue.push(1, 1, 1).unwrap();
        assert!(queue.is_full());
        assert_eq!(queue.push(2, 1, 2), Err((Full::Requests, 2)));
        queue.pop();
        queue.push(3, 1, 3).unwrap();
    }

    #[test]
    fn tokens_too_many_are_refused_but_not_where_nothing_waits() {
        let mut queue = queue(9, 10);
        queue.push(0, 50, 0).unwrap();
        assert_eq!(queue.push(1, 1, 1), Err((Full::Tokens, 1)));
        queue.pop();
        queue.push(2, 4, 2).unwrap();
        assert_eq!(queue.push(3, 7, 3), Err((Full::Tokens, 3)));
        queue.push(4, 6, 4).unwrap();
    }

    #[test]
    fn where_nothing_may_wait_nothing_does() {
        assert_eq!(queue(0, 10).push(0, 1, 0), Err((Full::Requests, 0)));
    }

    proptest! {
        #[test]
        fn the_sums_are_those_of_what_waits(steps in vec((0..3, 0..8u64, 0..9usize), 0..60)) {
            let mut queue = queue(5, 20);
            let mut waiting: Vec<(u64, usize)> = Vec::new();
            for (id, (what, at, tokens)) in steps.into_iter().enumerate() {
                match what {
                    0 if queue.push(id as u64, tokens, id as u64).is_ok() => waiting.push((id as u64, tokens)),
                    1 if queue.pop().is_some() => drop(waiting.remove(0)),
                    2 => if let Some(at) = waiting.iter().position(|(id, _)| *id == at) {
                        prop_assert_eq!(queue.remove(waiting[at].0), Some(waiting.remove(at).0));
                    },
                    _ => {}
                }
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert_eq!(queue.tokens(), waiting.iter().map(|(_, tokens)| tokens).sum::<usize>());
                prop_assert!(queue.len() <= 5 && (queue.tokens() <= 20 || queue.len() == 1));
            }
        }
    }
}
