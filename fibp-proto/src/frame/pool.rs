//! Places of read buffers that are handed out with what was decoded in them, and serve again once nobody holds any of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// So many places are remembered. Those of messages that are kept for long are forgotten first, and end with the last of
/// these messages.
const KEPT: usize = 16;

/// So many of them are asked, when one is needed, whether they are free.
const ASKED: usize = 4;

/// Remembers places that were handed out. Shared by the connections of a client, so that what many of them need now and
/// then is there once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<VecDeque<Bytes>>>);

impl Pool {
    /// The place is handed out: others hold parts of it.
    pub(super) fn lend(&self, place: Bytes) {
        let mut lent = self.lent();
        lent.push_back(place);
        let forgotten = if lent.len() > KEPT { lent.pop_front() } else { None };
        drop(lent);
        drop(forgotten);
    }

    /// A place of at least this size, and not much more, that nobody holds any part of. Its bytes are those of before.
    pub(super) fn take(&self, size: usize) -> Option<BytesMut> {
        let mut lent = self.lent();
        for _ in 0..ASKED.min(lent.len()) {
            match lent.pop_front()?.try_into_mut() {
                Ok(free) if (size..=size.saturating_mul(2)).contains(&free.len()) => return Some(free),
                // Of another size: not needed any more.
                Ok(_) => {}
                Err(held) => lent.push_back(held),
            }
        }
        None
    }

    /// Forgets all places: those that are free are given back.
    pub(super) fn clear(&self) {
        let places = core::mem::take(&mut *self.lent());
        drop(places);
    }

    fn lent(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(len: usize) -> (Bytes, usize) {
        let place = Bytes::from(vec![7; len]);
        let address = place.as_ptr() as usize;
        (place, address)
    }

    #[test]
    fn a_place_serves_again_once_nobody_holds_a_part() {
        let pool = Pool::default();
        let (first, address) = place(100);
        let part = first.slice(10..20);
        pool.lend(first);
        assert!(pool.take(100).is_none(), "a part is held");
        drop(part);
        let free = pool.take(100).expect("nobody holds it");
        assert_eq!(free.as_ptr() as usize, address);
        assert_eq!(free.len(), 100);
        assert!(pool.take(100).is_none());
    }

    #[test]
    fn a_place_that_is_held_does_not_stand_before_those_that_are_free() {
        let pool = Pool::default();
        let (held, _) = place(100);
        let _part = held.slice(..1);
        pool.lend(held);
        for _ in 0..10 {
            let (free, address) = place(100);
            pool.lend(free);
            assert_eq!(pool.take(90).expect("one is free").as_ptr() as usize, address);
        }
    }

    #[test]
    fn places_of_another_size_are_given_back() {
        for (len, size) in [(100, 101), (100, 49)] {
            let pool = Pool::default();
            pool.lend(place(len).0);
            assert!(pool.take(size).is_none());
            assert!(pool.lent().is_empty());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_can_be_cleared() {
        let pool = Pool::default();
        let parts: Vec<Bytes> = (0..3 * KEPT)
            .map(|_| {
                let (place, _) = place(100);
                let part = place.slice(..1);
                pool.lend(place);
                part
            })
            .collect();
        assert_eq!(pool.lent().len(), KEPT);
        assert!(parts.first().is_some_and(Bytes::is_unique), "forgotten");
        pool.clear();
        assert!(parts.iter().all(Bytes::is_unique));
    }
}
