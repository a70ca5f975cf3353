//! Deliveries in order, those that arrived together kept together: what they have in common is there once, and a delivery
//! is not moved before it is handed out.

use std::collections::VecDeque;
use std::time::Instant;
use std::vec::IntoIter;

use super::lease::{Lease, LeaseGuard};
use crate::message::Received;

/// Deliveries that were received and not handed out, oldest first.
#[derive(Debug, Default)]
pub struct Leases {
    /// Only the first may be empty.
    chunks: VecDeque<Chunk>,
    len: usize,
}

/// Deliveries that arrived together.
#[derive(Debug)]
pub(super) struct Chunk {
    received: IntoIter<Received>,
    terms: Terms,
}

/// What they have in common, and the number of the first of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) deadline: Option<Instant>,
    pub(super) sequence: u64,
    pub(super) is_counted: bool,
}

impl Chunk {
    /// The next delivery; `guard` makes the guard of one that is counted.
    // A delivery is large, and each function that does more with it before it is where it belongs moves it once more.
    #[inline(always)]
    fn next(&mut self, guard: impl FnOnce(u64) -> Option<LeaseGuard>) -> Option<Lease> {
        let Terms {
            deadline,
            sequence,
            is_counted,
        } = self.terms;
        if self.received.len() == 0 {
            return None;
        }
        self.terms.sequence += 1;
        let guard = if is_counted { guard(sequence) } else { None };
        self.received.next().map(|received| Lease {
            received,
            deadline,
            sequence,
            is_counted,
            guard,
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.terms.deadline
    }

    /// The numbers of its deliveries.
    pub(super) fn sequences(&self) -> std::ops::Range<u64> {
        let first = self.terms.sequence;
        first..first + self.received.len() as u64
    }

    /// The first `n`.
    fn split_off(&mut self, n: usize) -> Self {
        let received: Vec<Received> = self.received.by_ref().take(n).collect();
        let terms = self.terms;
        self.terms.sequence += received.len() as u64;
        Self {
            received: received.into_iter(),
            terms,
        }
    }
}

impl Leases {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, received: Vec<Received>, terms: Terms) {
        if !received.is_empty() {
            let received = received.into_iter();
            self.push_chunk(Chunk { received, terms });
        }
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        self.len += chunk.received.len();
        self.chunks.push_back(chunk);
    }

    /// The oldest; none of those that are over is left.
    #[inline]
    fn front_mut(&mut self) -> Option<&mut Chunk> {
        if self.chunks.front().is_some_and(|chunk| chunk.received.len() == 0) {
            self.chunks.pop_front();
        }
        self.chunks.front_mut()
    }

    pub(super) fn front_chunk(&mut self) -> Option<&Chunk> {
        self.front_mut().map(|chunk| &*chunk)
    }

    /// The next delivery; `guard` makes the guard of one that is counted.
    #[inline(always)]
    pub(crate) fn next_guarded(&mut self, guard: impl FnOnce(u64) -> Option<LeaseGuard>) -> Option<Lease> {
        if self.len == 0 {
            return None;
        }
        self.len -= 1;
        match self.front_mut() {
            Some(chunk) => chunk.next(guard),
            None => None,
        }
    }

    pub(super) fn pop_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.len -= chunk.received.len();
        Some(chunk)
    }

    /// Moves the oldest `max`, or as many as there are, to the back of `into`; how many.
    pub(super) fn move_to(&mut self, max: usize, into: &mut Self) -> usize {
        let mut moved = 0;
        while moved < max
            && let Some(first) = self.front_mut()
        {
            let left = max - moved;
            let chunk = if first.received.len() <= left {
                let Some(chunk) = self.chunks.pop_front() else { break };
                chunk
            } else {
                first.split_off(left)
            };
            moved += chunk.received.len();
            into.push_chunk(chunk);
        }
        self.len -= moved;
        moved
    }
}

impl Iterator for Leases {
    type Item = Lease;

    #[inline]
    fn next(&mut self) -> Option<Lease> {
        self.next_guarded(|_| None)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl ExactSizeIterator for Leases {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn chunk(first: u64, n: u64) -> (Vec<Received>, Terms) {
        let received = (first..first + n).map(|n| {
            let id = format!("{n}");
            Received::new(id.into(), "q", Headers::new(), "x", "default", 0)
        });
        let terms = Terms {
            deadline: None,
            sequence: first,
            is_counted: false,
        };
        (received.collect(), terms)
    }

    fn numbers(leases: &mut Leases) -> Vec<u64> {
        let len = leases.len();
        let numbers: Vec<u64> = leases
            .map(|lease| {
                assert_eq!(
                    lease.received.id,
                    *lease.sequence.to_string(),
                    "the number stays with its message"
                );
                lease.sequence
            })
            .collect();
        assert_eq!((numbers.len(), leases.len()), (len, 0));
        numbers
    }

    #[test]
    fn chunks_are_taken_whole_or_in_part_and_keep_their_numbers() {
        for max in [1, 2, 3, 4, 7, 100] {
            let mut waiting = Leases::new();
            for (first, n) in [(1, 3), (4, 0), (4, 1), (5, 5)] {
                let (received, terms) = chunk(first, n);
                waiting.push(received, terms);
            }
            let mut taken = Vec::new();
            while !waiting.is_empty() {
                let expected = max.min(waiting.len());
                let mut some = Leases::new();
                assert_eq!(waiting.move_to(max, &mut some), expected);
                taken.extend(numbers(&mut some));
            }
            assert_eq!(waiting.move_to(max, &mut Leases::new()), 0);
            assert_eq!(taken, (1..10).collect::<Vec<u64>>(), "{max} at a time");
        }
    }

    #[test]
    fn numbers_of_a_chunk_are_those_of_what_is_left_of_it() {
        let mut leases = Leases::new();
        let (received, terms) = chunk(7, 3);
        leases.push(received, terms);
        leases.next();
        assert_eq!(leases.front_chunk().unwrap().sequences(), 8..10);
        assert_eq!(leases.pop_chunk().unwrap().sequences(), 8..10);
        assert!(leases.is_empty());
    }
}
