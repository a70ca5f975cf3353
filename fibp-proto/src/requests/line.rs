//! Runs that wait in line. Whoever leaves from the middle costs as little as whoever leaves at an end.

use std::collections::VecDeque;
use std::time::Instant;

use super::run::{Run, Ticket};
use crate::machine::CallId;

/// So many places of runs that left are kept whatever the length of the line.
const KEPT_GAPS: usize = 16;

/// Runs in the order of their calls, and of their places within a call. Neighbours that belong together become one.
///
/// A run that leaves from the middle leaves a gap; gaps are closed when they are more than the runs.
/// Invariant: the first and the last place are no gaps.
#[derive(Debug)]
pub(super) struct Line<T> {
    places: VecDeque<Place<T>>,
    gaps: usize,
    /// How many items the runs have.
    items: usize,
}

#[derive(Debug)]
enum Place<T> {
    Run(Run<T>),
    /// Whose place it was: the order stays whole.
    Gap((CallId, usize)),
}

impl<T> Place<T> {
    fn order(&self) -> (CallId, usize) {
        match self {
            Self::Run(run) => run.ticket.order(),
            Self::Gap(order) => *order,
        }
    }

    fn call(&self) -> CallId {
        match self {
            Self::Run(run) => run.ticket.call,
            Self::Gap((call, _)) => *call,
        }
    }

    fn run(&self) -> Option<&Run<T>> {
        match self {
            Self::Run(run) => Some(run),
            Self::Gap(_) => None,
        }
    }

    fn run_mut(&mut self) -> Option<&mut Run<T>> {
        match self {
            Self::Run(run) => Some(run),
            Self::Gap(_) => None,
        }
    }

    fn into_run(self) -> Option<Run<T>> {
        match self {
            Self::Run(run) => Some(run),
            Self::Gap(_) => None,
        }
    }
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self {
            places: VecDeque::new(),
            gaps: 0,
            items: 0,
        }
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.items
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many runs wait.
    pub(super) fn runs(&self) -> usize {
        self.places.len() - self.gaps
    }

    pub(super) fn front(&self) -> Option<&Run<T>> {
        self.places.front().and_then(Place::run)
    }

    /// Takes so many items off the front, run by run.
    #[inline]
    pub(super) fn take(&mut self, items: usize, mut take: impl FnMut(Run<T>)) {
        let mut left = items.min(self.items);
        self.items -= left;
        while let Some(Place::Run(first)) = self.places.front_mut()
            && left > 0
        {
            if left < first.len() {
                return take(first.split_front(left));
            }
            left -= first.len();
            if let Some(Place::Run(run)) = self.places.pop_front() {
                take(run);
            }
            if self.gaps > 0 {
                self.trim();
            }
        }
    }

    /// Takes so many items off the first run, or all it has.
    pub(super) fn take_front(&mut self, items: usize) -> Option<Run<T>> {
        let mut taken = None;
        let first = self.front()?.len();
        self.take(items.min(first), |run| taken = Some(run));
        taken
    }

    /// The next runs take the same places, which the caches still know.
    pub(super) fn rewind(&mut self) {
        if self.is_empty() {
            self.places.clear();
        }
    }

    /// Behind what waits already, in the order of call ids.
    pub(super) fn push(&mut self, run: Run<T>) {
        self.items += run.len();
        // Frames of one item each are moved one by one, so the place within the call counts too.
        let order = run.ticket.order();
        match self.places.back_mut() {
            Some(Place::Run(last)) if last.continues_with(&run) => return last.append(run),
            // An older call, which comes back from another route.
            Some(last) if last.order() > order => return self.insert(order, run),
            _ => {}
        }
        self.places.push_back(Place::Run(run));
    }

    /// Before what waits already, in the order of call ids.
    pub(super) fn put_back(&mut self, run: Run<T>) {
        self.items += run.len();
        // Frames of one item each come back one by one, so the place within the call counts too.
        let order = run.ticket.order();
        self.insert(order, run);
    }

    /// Puts a run where it belongs, or joins it with the one that continues it.
    fn insert(&mut self, order: (CallId, usize), run: Run<T>) {
        let place = self.places.partition_point(|known| known.order() < order);
        // With the one behind it, as what comes back comes last first. Runs that stay apart cost a place each, no more.
        match self.places.get_mut(place) {
            Some(Place::Run(next)) if run.continues_with(next) => next.prepend(run),
            _ => self.places.insert(place, Place::Run(run)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run<T>> {
        self.places.iter().filter_map(Place::run)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Run<T>> {
        self.places.iter_mut().filter_map(Place::run_mut)
    }

    /// The ticket of the first run of a call.
    pub(super) fn ticket_mut(&mut self, call: CallId) -> Option<&mut Ticket<T>> {
        let from = self.places.partition_point(|place| place.call() < call);
        self.places
            .range_mut(from..)
            .take_while(|place| place.call() == call)
            .find_map(|place| place.run_mut().map(|run| &mut run.ticket))
    }

    /// Takes out the runs of a call.
    pub(super) fn withdraw(&mut self, call: CallId) -> Vec<Run<T>> {
        let from = self.places.partition_point(|place| place.call() < call);
        let mut out = Vec::new();
        for place in self.places.range_mut(from..).take_while(|place| place.call() == call) {
            let gap = Place::Gap(place.order());
            out.extend(std::mem::replace(place, gap).into_run());
        }
        self.gaps += out.len();
        self.items -= out.iter().map(Run::len).sum::<usize>();
        self.trim();
        out
    }

    /// Takes out the runs whose deadline passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Run<T>> {
        // Mostly nothing is due, and to rebuild the line moves every run.
        if !self.iter().any(|run| run.ticket.attempt.is_due(now)) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.gaps = 0;
        for run in std::mem::take(&mut self.places).into_iter().filter_map(Place::into_run) {
            if run.ticket.attempt.is_due(now) {
                self.items -= run.len();
                due.push(run);
            } else {
                self.places.push_back(Place::Run(run));
            }
        }
        due
    }

    pub(super) fn take_all(&mut self) -> Vec<Run<T>> {
        std::mem::replace(self, Self::new()).into_runs().collect()
    }

    pub(super) fn into_runs(self) -> impl Iterator<Item = Run<T>> {
        self.places.into_iter().filter_map(Place::into_run)
    }

    /// No gaps at the ends, and no more of them than runs.
    fn trim(&mut self) {
        while matches!(self.places.front(), Some(Place::Gap(_))) {
            self.places.pop_front();
            self.gaps -= 1;
        }
        while matches!(self.places.back(), Some(Place::Gap(_))) {
            self.places.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.runs() + KEPT_GAPS {
            self.places.retain(|place| matches!(place, Place::Run(_)));
            self.gaps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::requests::few::Few;
    use crate::requests::run::Payloads;
    use crate::requests::work::Attempt;

    fn alone(call: u64) -> Run<u64> {
        Run::alone(CallId::new(call), Attempt::new(None), call, Message::new("orders", "x"))
    }

    /// Messages of a list, whose payloads are their places.
    fn part(call: u64, places: std::ops::Range<usize>) -> Run<u64> {
        let messages: Vec<_> = places
            .clone()
            .map(|place| Message::new("orders", place.to_string()))
            .collect();
        let payloads = Payloads::Messages(Few::from(messages));
        let cost = payloads.cost();
        Run::part(CallId::new(call), Attempt::new(None), places.start, payloads, cost)
    }

    fn calls(line: &Line<u64>) -> Vec<u64> {
        line.iter().map(|run| run.ticket.call.number).collect()
    }

    /// The runs: of which call, from which place on, how many items. Checks that payloads and charges fit.
    fn runs(line: &Line<u64>) -> Vec<(u64, usize, usize)> {
        let mut all = Vec::new();
        for run in line.iter() {
            let (call, first) = run.ticket.order();
            let Payloads::Messages(messages) = &run.payloads else {
                panic!("{run:?}")
            };
            let places = messages.iter().map(|message| message.payload.clone());
            assert!(
                places.eq((first..first + run.len()).map(|place| place.to_string())),
                "{run:?}"
            );
            assert_eq!(run.ticket.cost, run.payloads.cost());
            assert_eq!(run.ticket.leads, first == 0);
            all.push((call.number, first, run.len()));
        }
        assert_eq!(line.len(), all.iter().map(|(_, _, items)| items).sum::<usize>());
        all
    }

    #[test]
    fn runs_leave_from_any_place_and_the_rest_stay_in_order() {
        let mut line = Line::new();
        for call in 0..10 {
            line.push(alone(call));
        }
        for call in [3, 0, 9, 4, 8] {
            assert_eq!(line.withdraw(CallId::new(call)).len(), 1, "{call}");
            assert!(line.withdraw(CallId::new(call)).is_empty(), "{call} left already");
        }
        assert_eq!((calls(&line), line.len()), (vec![1, 2, 5, 6, 7], 5));
        line.put_back(alone(4));
        line.push(alone(3));
        assert!(line.ticket_mut(CallId::new(3)).is_some());
        assert!(line.ticket_mut(CallId::new(8)).is_none());
        let taken: Vec<u64> = std::iter::from_fn(|| line.take_front(1))
            .map(|run| run.ticket.call.number)
            .collect();
        assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7]);
        assert!(line.is_empty());
        assert_eq!((line.gaps, line.len()), (0, 0));
    }

    #[test]
    fn gaps_take_up_no_more_than_the_runs() {
        let mut line = Line::new();
        for call in 0..1_000 {
            line.push(alone(call));
        }
        for call in (1..999).filter(|call| call % 100 != 0) {
            line.withdraw(CallId::new(call));
            assert!(line.gaps <= line.len() + KEPT_GAPS);
        }
        assert_eq!(line.len(), 11);
        assert!(line.places.len() <= 2 * 11 + KEPT_GAPS);
    }

    #[test]
    fn gaps_are_closed_however_long_the_runs_are() {
        let mut line = Line::new();
        for call in 0..1_000 {
            line.push(part(call, 0..100));
        }
        for call in 1..999 {
            line.withdraw(CallId::new(call));
        }
        assert!(line.places.len() <= 2 * 2 + KEPT_GAPS, "{}", line.places.len());
        assert_eq!(runs(&line), [(0, 0, 100), (999, 0, 100)]);
    }

    #[test]
    fn what_is_taken_off_a_run_joins_it_again() {
        let mut line = Line::new();
        line.push(part(1, 0..10));
        line.push(part(2, 0..1));
        let first = line.take_front(3).unwrap();
        let second = line.take_front(4).unwrap();
        assert_eq!(runs(&line)[0], (1, 7, 3));
        // The frame that was sent first is lost first.
        line.put_back(first);
        assert_eq!(runs(&line)[..2], [(1, 0, 3), (1, 7, 3)], "what is between is elsewhere");
        line.put_back(second);
        assert_eq!(runs(&line)[..2], [(1, 0, 3), (1, 3, 7)]);
        let last = line.take_front(100).unwrap();
        assert_eq!(last.len(), 3, "of one run at a time");
        line.put_back(last);
        assert_eq!(runs(&line)[0], (1, 0, 10));
    }

    #[test]
    fn items_that_come_one_by_one_become_one_run() {
        let mut line = Line::new();
        let mut places = part(1, 0..6).into_items();
        for _ in 0..3 {
            line.push(places.next().unwrap());
        }
        let rest: Vec<_> = places.collect();
        for run in rest.into_iter().rev() {
            line.put_back(run);
        }
        assert_eq!(runs(&line), [(1, 0, 3), (1, 3, 3)]);
    }

    #[test]
    fn only_what_went_through_the_same_becomes_one_run() {
        let mut line = Line::new();
        let mut replayed = part(1, 0..2);
        replayed.ticket.attempt.replayed = true;
        line.push(part(1, 2..4));
        line.put_back(replayed);
        line.push(part(2, 0..1));
        line.push(part(2, 2..3));
        // Another call, whose places would fit.
        line.push(part(3, 3..4));
        assert_eq!(runs(&line), [(1, 0, 2), (1, 2, 2), (2, 0, 1), (2, 2, 1), (3, 3, 1)]);
    }
}
