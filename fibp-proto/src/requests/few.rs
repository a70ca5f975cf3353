//! Mostly one, sometimes many: one is held in place, without an allocation.

use std::collections::{VecDeque, vec_deque};

/// Values in order, from whose front some can be taken at the cost of these alone.
#[derive(Debug, Clone)]
pub(super) enum Few<P> {
    One(P),
    Many(VecDeque<P>),
}

impl<P> Few<P> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn first(&self) -> Option<&P> {
        match self {
            Self::One(one) => Some(one),
            Self::Many(many) => many.front(),
        }
    }

    /// All of them, in two parts.
    #[inline]
    fn as_slices(&self) -> (&[P], &[P]) {
        match self {
            Self::One(one) => (std::slice::from_ref(one), &[]),
            Self::Many(many) => many.as_slices(),
        }
    }

    /// All of them as one slice.
    pub(super) fn as_slice(&mut self) -> &[P] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many.make_contiguous(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &P> {
        let (front, back) = self.as_slices();
        front.iter().chain(back)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        let (front, back) = match self {
            Self::One(one) => (std::slice::from_mut(one), &mut [][..]),
            Self::Many(many) => many.as_mut_slices(),
        };
        front.iter_mut().chain(back)
    }

    /// The one with this key, where they are in the order of their keys.
    pub(super) fn find_mut<K: Ord>(&mut self, key: &K, mut key_of: impl FnMut(&P) -> K) -> Option<&mut P> {
        match self {
            Self::One(one) => (key_of(one) == *key).then_some(one),
            Self::Many(many) => {
                let place = many.binary_search_by_key(key, key_of).ok()?;
                many.get_mut(place)
            }
        }
    }

    /// How many, from the first on, are like the first.
    pub(super) fn alike(&self, like: impl Fn(&P, &P) -> bool) -> usize {
        let (front, back) = self.as_slices();
        let Some((first, rest)) = front.split_first() else {
            return 0;
        };
        match rest.iter().chain(back).position(|other| !like(first, other)) {
            Some(others) => 1 + others,
            None => self.len(),
        }
    }

    /// Takes the first `n` off.
    pub(super) fn split_front(&mut self, n: usize) -> Self {
        let Self::Many(many) = self else {
            // Nothing is left of one. An empty `Many` says so without an allocation.
            return std::mem::replace(self, Self::Many(VecDeque::new()));
        };
        match n {
            1 => many.pop_front().map_or_else(|| Self::Many(VecDeque::new()), Self::One),
            n if n >= many.len() => Self::Many(std::mem::take(many)),
            n => Self::Many(many.drain(..n).collect()),
        }
    }

    /// Makes room for so many in all.
    pub(super) fn make_room(&mut self, n: usize) {
        match self {
            Self::Many(many) => many.reserve(n.saturating_sub(many.len())),
            Self::One(_) => {
                if let Self::One(one) = std::mem::replace(self, Self::Many(VecDeque::with_capacity(n))) {
                    self.push(one);
                }
            }
        }
    }

    /// Puts one behind these.
    #[inline]
    pub(super) fn push(&mut self, one: P) {
        if let Self::One(_) = self {
            self.make_room(2);
        }
        if let Self::Many(many) = self {
            many.push_back(one);
        }
    }

    /// Puts others behind these.
    #[inline]
    pub(super) fn append(&mut self, others: Self) {
        match others {
            Self::One(one) => self.push(one),
            Self::Many(others) => self.append_many(others),
        }
    }

    fn append_many(&mut self, mut others: VecDeque<P>) {
        self.make_room(self.len() + others.len());
        if let Self::Many(many) = self {
            many.append(&mut others);
        }
    }

    /// Puts others before these, at the cost of these or of those, whichever are fewer.
    pub(super) fn prepend(&mut self, mut others: Self) {
        if others.len() > self.len() {
            std::mem::swap(self, &mut others);
            return self.append(others);
        }
        self.make_room(self.len() + others.len());
        if let Self::Many(many) = self {
            others.into_iter().rev().for_each(|one| many.push_front(one));
        }
    }

    pub(super) fn for_each(self, mut act: impl FnMut(P)) {
        match self {
            Self::One(one) => act(one),
            Self::Many(many) => many.into_iter().for_each(act),
        }
    }

    /// Copies of `n` of them.
    pub(super) fn clone_range(&self, from: usize, n: usize) -> Self
    where
        P: Clone,
    {
        match self {
            Self::One(one) => Self::One(one.clone()),
            Self::Many(many) => Self::Many(many.iter().skip(from).take(n).cloned().collect()),
        }
    }
}

impl<P> From<Vec<P>> for Few<P> {
    fn from(many: Vec<P>) -> Self {
        Self::Many(many.into())
    }
}

impl<P> IntoIterator for Few<P> {
    type Item = P;
    type IntoIter = FewIter<P>;

    fn into_iter(self) -> FewIter<P> {
        match self {
            Self::One(one) => FewIter {
                one: Some(one),
                many: VecDeque::new().into_iter(),
            },
            Self::Many(many) => FewIter {
                one: None,
                many: many.into_iter(),
            },
        }
    }
}

/// See [`Few`].
#[derive(Debug)]
pub(super) struct FewIter<P> {
    one: Option<P>,
    many: vec_deque::IntoIter<P>,
}

impl<P> Iterator for FewIter<P> {
    type Item = P;

    fn next(&mut self) -> Option<P> {
        self.one.take().or_else(|| self.many.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.one.is_some()) + self.many.len();
        (left, Some(left))
    }
}

impl<P> DoubleEndedIterator for FewIter<P> {
    fn next_back(&mut self) -> Option<P> {
        self.many.next_back().or_else(|| self.one.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn few(range: std::ops::Range<u8>) -> Few<u8> {
        match range.len() {
            1 => Few::One(range.start),
            _ => Few::Many(range.collect()),
        }
    }

    fn all(few: &mut Few<u8>) -> Vec<u8> {
        let seen: Vec<u8> = few.iter().copied().collect();
        assert_eq!(few.as_slice(), seen);
        assert_eq!(few.len(), seen.len());
        assert_eq!(few.first(), seen.first());
        assert_eq!(few.clone().into_iter().collect::<Vec<_>>(), seen);
        assert!(few.clone().into_iter().rev().eq(seen.iter().rev().copied()));
        seen
    }

    #[test]
    fn some_are_taken_off_the_front_and_put_back() {
        for (total, taken) in [(1, 1), (2, 1), (5, 1), (5, 3), (5, 5), (40, 39)] {
            let mut left = few(0..total);
            let mut front = left.split_front(taken.into());
            assert_eq!(all(&mut front), (0..taken).collect::<Vec<_>>());
            assert_eq!(all(&mut left), (taken..total).collect::<Vec<_>>());
            let mut behind = front.clone();
            behind.append(left.clone());
            assert_eq!(all(&mut behind), (0..total).collect::<Vec<_>>());
            left.prepend(front);
            assert_eq!(all(&mut left), (0..total).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_is_found_by_its_key() {
        for few in [few(3..4), few(3..7), few(0..40)] {
            let known: Vec<u8> = few.iter().copied().collect();
            for key in 0..50 {
                let found = few.clone().find_mut(&(2 * key), |value| 2 * value).copied();
                assert_eq!(found, known.contains(&key).then_some(key));
            }
        }
    }

    #[test]
    fn one_alone_needs_no_memory() {
        let mut many = few(0..3);
        assert!(matches!(many.split_front(1), Few::One(0)));
        let mut one = few(7..8);
        assert!(matches!(one.split_front(1), Few::One(7)));
    }

    #[test]
    fn likeness_ends_at_the_first_that_differs() {
        let parity = |a: &u8, b: &u8| a % 2 == b % 2;
        assert_eq!(few(3..4).alike(parity), 1);
        assert_eq!(Few::Many([2, 4, 5, 6].into()).alike(parity), 2);
        assert_eq!(Few::Many([2, 4].into()).alike(parity), 2);
    }

    #[test]
    fn a_range_is_copied() {
        let mut copy = few(0..9).clone_range(2, 3);
        assert_eq!(all(&mut copy), [2, 3, 4]);
        assert_eq!(all(&mut few(6..7).clone_range(0, 1)), [6]);
    }
}
