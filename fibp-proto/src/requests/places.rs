//! Where to look for a call whose caller is gone.

use std::collections::{BTreeMap, VecDeque};

use crate::machine::CallId;

/// Older calls than this many, and than twice as many as there are, are kept apart.
const WINDOW: u64 = 1024;

/// More places than this are not kept for the next calls.
const KEPT_PLACES: usize = 4096;

/// Where a call was seen last. Routes number their batch queues and correlation ids by themselves, so several may have
/// something at a place: the call's id tells whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the batch queue with this index.
    Waiting(u32),
    /// In flight with this correlation id.
    InFlight(u32),
    /// Answered, and not ended.
    InDoubt,
}

/// The places of calls with one item that wait in batch queues, and of all calls in flight, except those that are parts
/// of a call with many.
///
/// Calls come with ascending ids and end after a while, mostly in the same order, so their places are kept in a ring,
/// which costs a few instructions each. Calls that many others overtook are kept apart.
#[derive(Debug, Default)]
pub(super) struct Places {
    ring: VecDeque<Option<Place>>,
    /// The number of the call that the first place of the ring belongs to.
    first: u64,
    /// How many places of the ring are taken.
    taken: u64,
    overtaken: BTreeMap<u64, Place>,
}

impl Places {
    pub(super) fn get(&self, call: CallId) -> Option<Place> {
        match call.number.checked_sub(self.first) {
            Some(index) => *self.ring.get(usize::try_from(index).ok()?)?,
            None => self.overtaken.get(&call.number).copied(),
        }
    }

    pub(super) fn set(&mut self, call: CallId, place: Place) {
        if self.ring.is_empty() {
            // Never back: calls that are kept apart come before the ring.
            self.first = self.first.max(call.number);
        }
        let Some(index) = call.number.checked_sub(self.first) else {
            self.overtaken.insert(call.number, place);
            return;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(known) = self.ring.get_mut(index) {
            self.taken += u64::from(known.is_none());
            *known = Some(place);
            return;
        }
        self.make_room(call.number);
        // Calls in between that have no place, such as flushes.
        for _ in self.first.saturating_add(self.ring.len() as u64)..call.number {
            self.ring.push_back(None);
        }
        self.ring.push_back(Some(place));
        self.taken += 1;
    }

    /// The call is over.
    pub(super) fn remove(&mut self, call: CallId) {
        let Some(index) = call.number.checked_sub(self.first) else {
            self.overtaken.remove(&call.number);
            return;
        };
        let known = usize::try_from(index).ok().and_then(|index| self.ring.get_mut(index));
        if known.and_then(Option::take).is_none() {
            return;
        }
        self.taken -= 1;
        // `first` moves on to the oldest call that is left.
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.first += 1;
        }
        if self.ring.is_empty() && self.ring.capacity() > KEPT_PLACES {
            self.ring = VecDeque::new();
        }
    }

    /// Keeps the ring short when a call comes in that many ids are between.
    fn make_room(&mut self, number: u64) {
        // The ring is no longer than a few places for each call that has one. A call that many others overtook moves out
        // of the way.
        while number.saturating_sub(self.first) >= WINDOW.saturating_add(2 * self.taken) {
            match self.ring.pop_front() {
                Some(Some(place)) => {
                    self.overtaken.insert(self.first, place);
                    self.taken -= 1;
                    self.first += 1;
                }
                Some(None) => self.first += 1,
                None => self.first = number,
            }
        }
        if self.ring.is_empty() {
            self.first = number;
        }
    }

    /// How many calls have a place.
    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.overtaken.len() + usize::try_from(self.taken).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64) -> CallId {
        CallId::new(number)
    }

    #[test]
    fn calls_are_found_until_they_are_over() {
        let mut places = Places::default();
        for number in [5, 6, 9, 3] {
            places.set(call(number), Place::Waiting(number as u32));
        }
        places.set(call(6), Place::InFlight(60));
        assert_eq!(places.get(call(3)), Some(Place::Waiting(3)));
        assert_eq!(places.get(call(6)), Some(Place::InFlight(60)));
        assert_eq!(
            (places.get(call(7)), places.get(call(4)), places.get(call(10))),
            (None, None, None)
        );
        for number in [5, 9, 3, 7, 100] {
            places.remove(call(number));
            assert_eq!(places.get(call(number)), None);
        }
        assert_eq!(places.get(call(6)), Some(Place::InFlight(60)));
        places.remove(call(6));
        assert!(places.ring.is_empty() && places.overtaken.is_empty() && places.taken == 0);
        places.set(call(1_000), Place::InFlight(1));
        assert_eq!(places.get(call(1_000)), Some(Place::InFlight(1)));
    }

    #[test]
    fn a_call_that_stays_does_not_keep_the_places_of_those_that_overtake_it() {
        let mut places = Places::default();
        places.set(call(1), Place::InFlight(7));
        for number in 2..100_000 {
            places.set(call(number), Place::Waiting(0));
            places.remove(call(number));
            assert!(places.ring.len() <= WINDOW as usize + 2);
        }
        places.set(call(u64::MAX - 1), Place::Waiting(1));
        assert_eq!(places.ring.len(), 1);
        assert_eq!(places.get(call(1)), Some(Place::InFlight(7)));
        places.remove(call(1));
        assert!(places.overtaken.is_empty());
    }

    #[test]
    fn calls_that_are_kept_apart_stay_findable_when_older_ones_come_back() {
        let mut places = Places::default();
        for number in [10, 12] {
            places.set(call(number), Place::Waiting(0));
            places.remove(call(10));
        }
        places.set(call(11), Place::Waiting(11));
        places.remove(call(12));
        assert!(places.ring.is_empty());
        // An older call is queued again.
        places.set(call(5), Place::Waiting(5));
        for number in [5, 11] {
            assert_eq!(places.get(call(number)), Some(Place::Waiting(number as u32)));
            places.remove(call(number));
        }
        assert!(places.ring.is_empty() && places.overtaken.is_empty());
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut places = Places::default();
        for number in 0..100_000 {
            places.set(call(number), Place::InFlight(0));
        }
        assert_eq!(places.ring.len(), 100_000);
        for number in (0..100_000).rev() {
            places.remove(call(number));
        }
        assert!(places.ring.capacity() <= KEPT_PLACES);
    }
}
