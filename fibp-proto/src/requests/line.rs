//! Items that wait in line. Whoever leaves from the middle costs as little as whoever leaves at an end.

use std::collections::VecDeque;
use std::time::Instant;

use super::work::{BatchItem, Ticket};
use crate::machine::CallId;

/// So many places of items that left are kept whatever the length of the line.
const KEPT_GAPS: usize = 16;

/// Items in the order of their calls, and of their places within a call.
///
/// An item that leaves from the middle leaves a gap; gaps are closed when they are more than the items.
/// Invariant: the first and the last place are no gaps.
#[derive(Debug)]
pub(super) struct Line<T> {
    places: VecDeque<Place<T>>,
    gaps: usize,
}

#[derive(Debug)]
enum Place<T> {
    Item(BatchItem<T>),
    /// Whose place it was: the order stays whole.
    Gap((CallId, u32)),
}

impl<T> Place<T> {
    fn order(&self) -> (CallId, u32) {
        match self {
            Self::Item(item) => item.ticket.order(),
            Self::Gap(order) => *order,
        }
    }

    fn call(&self) -> CallId {
        match self {
            Self::Item(item) => item.ticket.call,
            Self::Gap((call, _)) => *call,
        }
    }

    fn item(&self) -> Option<&BatchItem<T>> {
        match self {
            Self::Item(item) => Some(item),
            Self::Gap(_) => None,
        }
    }

    fn into_item(self) -> Option<BatchItem<T>> {
        match self {
            Self::Item(item) => Some(item),
            Self::Gap(_) => None,
        }
    }
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self {
            places: VecDeque::new(),
            gaps: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.gaps
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn front(&self) -> Option<&BatchItem<T>> {
        self.places.front().and_then(Place::item)
    }

    pub(super) fn pop_front(&mut self) -> Option<BatchItem<T>> {
        let item = self.places.pop_front()?.into_item();
        if self.gaps > 0 {
            self.trim();
        }
        item
    }

    /// The next items take the same places, which the caches still know.
    pub(super) fn rewind(&mut self) {
        if self.is_empty() {
            self.places.clear();
        }
    }

    /// Behind what waits already, in the order of call ids.
    pub(super) fn push(&mut self, item: BatchItem<T>) {
        // Frames of one item each are moved one by one, so the place within the call counts too.
        let order = item.ticket.order();
        if self.places.back().is_none_or(|last| last.order() <= order) {
            self.places.push_back(Place::Item(item));
        } else {
            let place = self.places.partition_point(|known| known.order() <= order);
            self.places.insert(place, Place::Item(item));
        }
    }

    /// Before what waits already, in the order of call ids.
    pub(super) fn put_back(&mut self, item: BatchItem<T>) {
        // Frames of one item each come back one by one, so the place within the call counts too.
        let order = item.ticket.order();
        let place = self.places.partition_point(|known| known.order() < order);
        self.places.insert(place, Place::Item(item));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &BatchItem<T>> {
        self.places.iter().filter_map(Place::item)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut BatchItem<T>> {
        self.places.iter_mut().filter_map(|place| match place {
            Place::Item(item) => Some(item),
            Place::Gap(_) => None,
        })
    }

    /// The ticket of the first item of a call.
    pub(super) fn ticket_mut(&mut self, call: CallId) -> Option<&mut Ticket<T>> {
        let from = self.places.partition_point(|place| place.call() < call);
        self.places
            .range_mut(from..)
            .take_while(|place| place.call() == call)
            .find_map(|place| match place {
                Place::Item(item) => Some(&mut item.ticket),
                Place::Gap(_) => None,
            })
    }

    /// Takes out the items of a call.
    pub(super) fn withdraw(&mut self, call: CallId) -> Vec<BatchItem<T>> {
        let from = self.places.partition_point(|place| place.call() < call);
        let mut out = Vec::new();
        for place in self.places.range_mut(from..).take_while(|place| place.call() == call) {
            let gap = Place::Gap(place.order());
            out.extend(std::mem::replace(place, gap).into_item());
        }
        self.gaps += out.len();
        self.trim();
        out
    }

    /// Takes out the items whose deadline passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<BatchItem<T>> {
        if !self.iter().any(|item| item.ticket.attempt.is_due(now)) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.gaps = 0;
        for item in std::mem::take(&mut self.places)
            .into_iter()
            .filter_map(Place::into_item)
        {
            if item.ticket.attempt.is_due(now) {
                due.push(item);
            } else {
                self.places.push_back(Place::Item(item));
            }
        }
        due
    }

    pub(super) fn take_all(&mut self) -> Vec<BatchItem<T>> {
        std::mem::replace(self, Self::new()).into_items().collect()
    }

    pub(super) fn into_items(self) -> impl Iterator<Item = BatchItem<T>> {
        self.places.into_iter().filter_map(Place::into_item)
    }

    /// No gaps at the ends, and no more of them than items.
    fn trim(&mut self) {
        while matches!(self.places.front(), Some(Place::Gap(_))) {
            self.places.pop_front();
            self.gaps -= 1;
        }
        while matches!(self.places.back(), Some(Place::Gap(_))) {
            self.places.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.len() + KEPT_GAPS {
            self.places.retain(|place| matches!(place, Place::Item(_)));
            self.gaps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::requests::work::Attempt;

    fn item(call: u64) -> BatchItem<u64> {
        let message = Message::new("orders", "x").into();
        BatchItem::alone(CallId::new(call), Attempt::new(None), call, message)
    }

    fn calls(line: &Line<u64>) -> Vec<u64> {
        line.iter().map(|item| item.ticket.call.number).collect()
    }

    #[test]
    fn items_leave_from_any_place_and_the_rest_stay_in_order() {
        let mut line = Line::new();
        for call in 0..10 {
            line.push(item(call));
        }
        for call in [3, 0, 9, 4, 8] {
            assert_eq!(line.withdraw(CallId::new(call)).len(), 1, "{call}");
            assert!(line.withdraw(CallId::new(call)).is_empty(), "{call} left already");
        }
        assert_eq!((calls(&line), line.len()), (vec![1, 2, 5, 6, 7], 5));
        line.put_back(item(4));
        line.push(item(3));
        assert!(line.ticket_mut(CallId::new(3)).is_some());
        assert!(line.ticket_mut(CallId::new(8)).is_none());
        let popped: Vec<u64> = std::iter::from_fn(|| line.pop_front())
            .map(|item| item.ticket.call.number)
            .collect();
        assert_eq!(popped, [1, 2, 3, 4, 5, 6, 7]);
        assert!(line.is_empty() && line.gaps == 0);
    }

    #[test]
    fn gaps_take_up_no_more_than_the_items() {
        let mut line = Line::new();
        for call in 0..1_000 {
            line.push(item(call));
        }
        for call in (1..999).filter(|call| call % 100 != 0) {
            line.withdraw(CallId::new(call));
            assert!(line.gaps <= line.len() + KEPT_GAPS);
        }
        assert_eq!(line.len(), 11);
        assert!(line.places.len() <= 2 * 11 + KEPT_GAPS);
    }
}
