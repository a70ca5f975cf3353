//! Values by numbers that ascend.

use std::collections::{BTreeMap, VecDeque};

/// Older numbers than this many, and than twice as many as there are values, are kept apart.
const WINDOW: u64 = 1024;

/// More places than this are not kept for the next values.
const KEPT_PLACES: usize = 4096;

/// A map whose keys come in ascending order and leave after a while, mostly in the same order.
///
/// The values are kept in a ring, where each costs a few instructions. Those that many later ones overtook are kept apart.
#[derive(Debug)]
pub(crate) struct ByNumber<V> {
    ring: VecDeque<Option<V>>,
    /// The number that the first place of the ring belongs to.
    first: u64,
    /// How many places of the ring are taken.
    taken: u64,
    overtaken: BTreeMap<u64, V>,
}

impl<V> ByNumber<V> {
    pub(crate) const fn new() -> Self {
        Self {
            ring: VecDeque::new(),
            first: 0,
            taken: 0,
            overtaken: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&V> {
        match number.checked_sub(self.first) {
            Some(index) => self.ring.get(usize::try_from(index).ok()?)?.as_ref(),
            None => self.overtaken.get(&number),
        }
    }

    #[cfg(any(test, feature = "client"))]
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut V> {
        match number.checked_sub(self.first) {
            Some(index) => self.ring.get_mut(usize::try_from(index).ok()?)?.as_mut(),
            None => self.overtaken.get_mut(&number),
        }
    }

    /// Puts a value in its place, instead of one that is there.
    pub(crate) fn set(&mut self, number: u64, value: V) {
        if self.ring.is_empty() {
            // Never back: numbers that are kept apart come before the ring.
            self.first = self.first.max(number);
        }
        let Some(index) = number.checked_sub(self.first) else {
            self.overtaken.insert(number, value);
            return;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(known) = self.ring.get_mut(index) {
            self.taken += u64::from(known.is_none());
            *known = Some(value);
            return;
        }
        self.make_room(number);
        // Numbers in between that have no value.
        for _ in self.first.saturating_add(self.ring.len() as u64)..number {
            self.ring.push_back(None);
        }
        self.ring.push_back(Some(value));
        self.taken += 1;
    }

    #[inline]
    pub(crate) fn remove(&mut self, number: u64) -> Option<V> {
        if self.taken == 0 && self.overtaken.is_empty() {
            return None;
        }
        self.take(number)
    }

    fn take(&mut self, number: u64) -> Option<V> {
        let Some(index) = number.checked_sub(self.first) else {
            return self.overtaken.remove(&number);
        };
        let known = usize::try_from(index).ok().and_then(|index| self.ring.get_mut(index));
        let value = known.and_then(Option::take)?;
        self.taken -= 1;
        // `first` moves on to the oldest number that is left.
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.first += 1;
        }
        if self.ring.is_empty() && self.ring.capacity() > KEPT_PLACES {
            self.ring = VecDeque::new();
        }
        Some(value)
    }

    /// Keeps the ring short when a number comes in that is far from the others.
    fn make_room(&mut self, number: u64) {
        // The ring is no longer than a few places for each value. One that many others overtook moves out of the way.
        while number.saturating_sub(self.first) >= WINDOW.saturating_add(2 * self.taken) {
            match self.ring.pop_front() {
                Some(Some(value)) => {
                    self.overtaken.insert(self.first, value);
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

    /// How many values there are.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn len(&self) -> usize {
        self.overtaken.len() + usize::try_from(self.taken).unwrap_or(usize::MAX)
    }
}

impl<V> Default for ByNumber<V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_until_they_are_removed() {
        let mut values = ByNumber::new();
        for number in [5, 6, 9, 3] {
            values.set(number, number);
        }
        values.set(6, 60);
        *values.get_mut(9).unwrap() = 90;
        assert_eq!(values.get(3), Some(&3));
        assert_eq!(values.get(6), Some(&60));
        assert_eq!((values.get(7), values.get(4), values.get(10)), (None, None, None));
        for (number, value) in [(5, Some(5)), (9, Some(90)), (3, Some(3)), (7, None), (100, None)] {
            assert_eq!(values.remove(number), value);
            assert_eq!(values.get(number), None);
            assert_eq!(values.get_mut(number), None);
        }
        assert_eq!((values.get(6), values.len()), (Some(&60), 1));
        assert_eq!(values.remove(6), Some(60));
        assert!(values.ring.is_empty() && values.overtaken.is_empty() && values.taken == 0);
        values.set(1_000, 1);
        assert_eq!(values.get(1_000), Some(&1));
    }

    #[test]
    fn a_value_that_stays_does_not_keep_the_places_of_those_that_overtake_it() {
        let mut values = ByNumber::new();
        values.set(1, 7);
        for number in 2..100_000 {
            values.set(number, 0);
            values.remove(number);
            assert!(values.ring.len() <= WINDOW as usize + 2);
        }
        values.set(u64::MAX - 1, 1);
        assert_eq!(values.ring.len(), 1);
        assert_eq!(values.get(1), Some(&7));
        assert_eq!(values.remove(1), Some(7));
        assert!(values.overtaken.is_empty());
    }

    #[test]
    fn values_that_are_kept_apart_stay_findable_when_older_ones_come_back() {
        let mut values = ByNumber::new();
        for number in [10, 12] {
            values.set(number, 0);
            values.remove(10);
        }
        values.set(11, 11);
        values.remove(12);
        assert!(values.ring.is_empty());
        // An older number comes again.
        values.set(5, 5);
        for number in [5, 11] {
            assert_eq!(values.get(number), Some(&number));
            values.remove(number);
        }
        assert!(values.ring.is_empty() && values.overtaken.is_empty());
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut values = ByNumber::new();
        for number in 0..100_000 {
            values.set(number, ());
        }
        assert_eq!(values.len(), 100_000);
        for number in (0..100_000).rev() {
            values.remove(number);
        }
        assert!(values.ring.capacity() <= KEPT_PLACES);
    }
}
