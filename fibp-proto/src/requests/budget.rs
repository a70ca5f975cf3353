//! Room: what callers may have waiting and unanswered, who waits for room, and who waits for a flush.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::batch_queue::Policy;
use super::run::Run;
use super::work::{Call, Many};
use crate::config::{OnFull, ProducerSettings, Settings};
use crate::earliest_deadline::{EarliestDeadline, is_due};
use crate::error::Error;
use crate::machine::{CallId, Completion, Reply};
use crate::message::QueueName;

/// The bounds of the client's own calls, or of one producer.
#[derive(Debug)]
pub(super) struct Budget<T> {
    pub(super) policy: Policy,
    pub(super) on_full: OnFull,
    max_requests: usize,
    max_bytes: usize,
    requests: usize,
    bytes: usize,
    /// Those in line, in the order of their ids.
    parked: BTreeMap<CallId, Parked<T>>,
    /// Room that was given to callers who have not used it yet; their bytes are charged.
    reserved: BTreeMap<CallId, Reserved>,
    earliest: EarliestDeadline,
    flushes: Flushes<T>,
    /// The producer's last handle is gone.
    pub(super) closed: bool,
    /// It is in line to be settled (see [`Budgets`](super::budgets::Budgets)).
    pub(super) to_settle: bool,
}

/// A submission that waits for room, in line.
#[derive(Debug)]
pub(super) struct Parked<T> {
    pub(super) deadline: Option<Instant>,
    pub(super) submission: Submission<T>,
}

/// Room for one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    pub(super) id: CallId,
    pub(super) cost: usize,
    /// That of the message, which began with the wait for room.
    pub(super) deadline: Option<Instant>,
}

/// Work on its way in.
#[derive(Debug)]
pub(super) enum Submission<T> {
    Call(Call<T>),
    /// A message or a settle alone.
    One(Run<T>),
    Many(Many<T>),
    /// Room for a message that its caller keeps meanwhile.
    Room {
        room: Reserved,
        /// The message's queue, for errors.
        queue: QueueName,
        token: T,
    },
}

impl<T> Submission<T> {
    /// How many results a close reports if it fails; room alone is none.
    pub(super) fn results(&self) -> usize {
        match self {
            Self::Call(_) | Self::One(_) => 1,
            Self::Many(many) => many.payloads.len(),
            Self::Room { .. } => 0,
        }
    }

    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Call(_) => 0,
            Self::Many(many) => many.cost,
            Self::One(run) => run.ticket.cost,
            Self::Room { room, .. } => room.cost,
        }
    }
}

impl<T> Budget<T> {
    pub(super) fn of_client(settings: &Settings) -> Self {
        Self {
            max_requests: settings.in_flight.requests,
            max_bytes: settings.in_flight.bytes,
            on_full: settings.in_flight.on_full,
            ..Self::of_producer(settings.producer)
        }
    }

    pub(super) fn of_producer(settings: ProducerSettings) -> Self {
        Self {
            policy: Policy {
                batching: settings.batching,
                max_messages: settings.max_messages.max(1),
                max_bytes: settings.max_bytes,
            },
            on_full: settings.on_full,
            max_requests: usize::MAX,
            max_bytes: settings.buffer,
            requests: 0,
            bytes: 0,
            parked: BTreeMap::new(),
            reserved: BTreeMap::new(),
            earliest: EarliestDeadline::default(),
            flushes: Flushes::default(),
            closed: false,
            to_settle: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests == 0 && self.bytes == 0 && self.parked.is_empty()
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// How many callers have room that they have not used yet.
    pub(super) fn reserved(&self) -> usize {
        self.reserved.len()
    }

    /// Keeps room for a caller.
    pub(super) fn reserve(&mut self, room: Reserved) {
        self.charge(false, room.cost);
        self.reserved.insert(room.id, room);
    }

    /// Takes back what was reserved.
    pub(super) fn redeem(&mut self, id: CallId) -> Option<Reserved> {
        let room = self.reserved.remove(&id)?;
        self.release(false, room.cost);
        Some(room)
    }

    /// Requests and bytes that are charged.
    pub(super) fn charged(&self) -> (usize, usize) {
        (self.requests, self.bytes)
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest.at()
    }

    /// Whether a submission of this cost may come in now. One that is larger than the bound itself comes in alone.
    pub(super) fn has_room_for(&self, cost: usize) -> bool {
        // Nobody overtakes the line, small enough or not: a large message would wait for ever.
        self.parked.is_empty() && self.fits(cost)
    }

    fn fits(&self, cost: usize) -> bool {
        let room = self.max_bytes.saturating_sub(self.bytes);
        self.requests < self.max_requests && (self.bytes == 0 || cost <= room)
    }

    pub(super) fn park(&mut self, id: CallId, parked: Parked<T>) {
        self.earliest.add(parked.deadline);
        self.parked.insert(id, parked);
    }

    /// The first in line, if there is room for it now.
    pub(super) fn next_admitted(&mut self) -> Option<Parked<T>> {
        let (_, first) = self.parked.first_key_value()?;
        // Only the first: see `has_room_for`.
        if !self.fits(first.submission.cost()) {
            return None;
        }
        self.parked.pop_first().map(|(_, parked)| parked)
    }

    /// Those in line, and those who wait for a flush, whose deadline passed.
    pub(super) fn expired(&mut self, now: Instant) -> (Vec<Parked<T>>, Vec<T>) {
        let mut expired = Vec::new();
        let mut flushes = Vec::new();
        // `take_due` forgets the earliest deadline, so each one that stays says its own again.
        if self.earliest.take_due(now) {
            for (id, flush) in std::mem::take(&mut self.flushes.waiting) {
                if is_due(flush.deadline, now) {
                    flushes.push(self.flushes.forget(flush));
                } else {
                    self.earliest.add(flush.deadline);
                    self.flushes.waiting.insert(id, flush);
                }
            }
            for (id, parked) in std::mem::take(&mut self.parked) {
                if is_due(parked.deadline, now) {
                    expired.push(parked);
                } else {
                    self.earliest.add(parked.deadline);
                    self.parked.insert(id, parked);
                }
            }
        }
        (expired, flushes)
    }

    pub(super) fn withdraw(&mut self, id: CallId) -> Option<Parked<T>> {
        self.parked.remove(&id)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Parked<T>> + use<T> {
        std::mem::take(&mut self.parked).into_values()
    }

    /// Takes room for bytes, and for a call with its first item.
    pub(super) fn charge(&mut self, call: bool, bytes: usize) {
        self.requests = self.requests.saturating_add(usize::from(call));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn release(&mut self, call: bool, bytes: usize) {
        self.requests = self.requests.saturating_sub(usize::from(call));
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    // ---- flushing ----

    /// So many messages came in; the number goes with them.
    pub(super) fn enter(&mut self, items: usize) -> u64 {
        self.flushes.current += items;
        self.flushes.epoch
    }

    /// So many messages that came in at `epoch` are settled. Completes the flushes that waited for them.
    pub(super) fn leave(
        &mut self,
        epoch: u64,
        items: usize,
        error: Option<&Error>,
        completions: &mut Vec<Completion<T>>,
    ) {
        self.flushes.leave(epoch, items, error, completions);
    }

    /// Waits for everything that is in now.
    pub(super) fn flush(
        &mut self,
        id: CallId,
        deadline: Option<Instant>,
        token: T,
        completions: &mut Vec<Completion<T>>,
    ) {
        self.earliest.add(deadline);
        self.flushes.wait(id, deadline, token, completions);
    }

    /// Those who still wait for a flush.
    pub(super) fn drain_flushes(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.flushes.waiting)
            .into_values()
            .map(|flush| flush.token)
    }

    pub(super) fn abandon_flush(&mut self, id: CallId) -> Option<T> {
        let flush = self.flushes.waiting.remove(&id)?;
        Some(self.flushes.forget(flush))
    }
}

/// Counts what is unsettled per epoch; a flush begins a new one.
#[derive(Debug)]
struct Flushes<T> {
    epoch: u64,
    current: usize,
    /// Earlier epochs with something unsettled, and how much.
    earlier: VecDeque<(u64, usize)>,
    waiting: BTreeMap<CallId, Flush<T>>,
    /// The first failure that no flush has reported.
    failure: Option<Error>,
}

#[derive(Debug)]
struct Flush<T> {
    /// Waits for this epoch and all before.
    epoch: u64,
    deadline: Option<Instant>,
    token: T,
    error: Option<Error>,
}

impl<T> Default for Flushes<T> {
    fn default() -> Self {
        Self {
            epoch: 0,
            current: 0,
            earlier: VecDeque::new(),
            waiting: BTreeMap::new(),
            failure: None,
        }
    }
}

impl<T> Flushes<T> {
    fn leave(&mut self, epoch: u64, items: usize, error: Option<&Error>, completions: &mut Vec<Completion<T>>) {
        // A failure is told by the flushes that wait for its epoch. If there is none, it is kept for the next flush.
        if let Some(error) = error
            && self
                .waiting
                .last_key_value()
                .is_none_or(|(_, flush)| flush.epoch < epoch)
        {
            self.failure.get_or_insert_with(|| error.clone());
        }
        if epoch == self.epoch {
            self.current = self.current.saturating_sub(items);
            return;
        }
        let place = self.earlier.binary_search_by_key(&epoch, |(known, _)| *known);
        if let Some((_, left)) = place.ok().and_then(|place| self.earlier.get_mut(place)) {
            *left = left.saturating_sub(items);
        }
        if let Some(error) = error {
            for flush in self.waiting.values_mut().filter(|flush| flush.epoch >= epoch) {
                flush.error.get_or_insert_with(|| error.clone());
            }
        }
        // Epochs end in any order. A flush waits for all before it, too, so what counts is the oldest that is open.
        while self.earlier.front().is_some_and(|(_, left)| *left == 0) {
            self.earlier.pop_front();
        }
        let oldest = self.earlier.front().map_or(self.epoch, |(epoch, _)| *epoch);
        while let Some(first) = self.waiting.first_entry()
            && first.get().epoch < oldest
        {
            completions.push(first.remove().complete());
        }
    }

    /// Nobody hears of this flush; what it would have reported is left to the next one.
    fn forget(&mut self, flush: Flush<T>) -> T {
        self.failure = self.failure.take().or(flush.error);
        flush.token
    }

    fn wait(&mut self, id: CallId, deadline: Option<Instant>, token: T, completions: &mut Vec<Completion<T>>) {
        let flush = Flush {
            deadline,
            epoch: self.epoch,
            token,
            // Told once: by this flush, or by a later one if this one is forgotten.
            error: self.failure.take(),
        };
        // What comes in from now on belongs to the next epoch, and this flush does not wait for it.
        if self.current > 0 {
            self.earlier.push_back((self.epoch, self.current));
            self.current = 0;
            self.epoch += 1;
        }
        if self.earlier.is_empty() {
            completions.push(flush.complete());
        } else {
            // With nothing new since the last flush, it waits for the same as that one.
            let epoch = self.earlier.back().map_or(flush.epoch, |(epoch, _)| *epoch);
            self.waiting.insert(id, Flush { epoch, ..flush });
        }
    }
}

impl<T> Flush<T> {
    fn complete(self) -> Completion<T> {
        Completion {
            token: self.token,
            reply: Reply::Flushed(self.error.map_or(Ok(()), Err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::message::Message;
    use crate::requests::work::Attempt;

    fn done(completions: &mut Vec<Completion<&'static str>>) -> Vec<(&'static str, bool)> {
        completions
            .drain(..)
            .map(|completion| match completion.reply {
                Reply::Flushed(result) => (completion.token, result.is_ok()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_flush_waits_for_what_was_in_before_it_and_reports_its_failure() {
        let mut budget = Budget::of_producer(ProducerSettings::default());
        let mut completions = Vec::new();
        budget.flush(CallId::new(1), None, "idle", &mut completions);
        assert_eq!(done(&mut completions), [("idle", true)]);

        let first = budget.enter(1);
        budget.flush(CallId::new(2), None, "one", &mut completions);
        let second = budget.enter(1);
        budget.flush(CallId::new(3), None, "both", &mut completions);
        budget.flush(CallId::new(4), None, "again", &mut completions);
        let late = budget.enter(1);
        assert!(completions.is_empty());

        let error = Error::new(ErrorKind::Timeout, "x");
        budget.leave(second, 1, Some(&error), &mut completions);
        budget.leave(late, 1, None, &mut completions);
        assert!(completions.is_empty(), "the first message is still unsettled");
        budget.leave(first, 1, None, &mut completions);
        assert_eq!(
            done(&mut completions),
            [("one", true), ("both", false), ("again", false)]
        );
    }

    #[test]
    fn a_flush_reports_what_failed_since_the_last_one() {
        let mut budget = Budget::of_producer(ProducerSettings::default());
        let mut completions = Vec::new();
        let error = Error::new(ErrorKind::Timeout, "x");
        let first = budget.enter(1);
        budget.leave(first, 1, Some(&error), &mut completions);
        budget.flush(CallId::new(1), None, "late", &mut completions);
        budget.flush(CallId::new(2), None, "again", &mut completions);
        assert_eq!(done(&mut completions), [("late", false), ("again", true)]);

        let (second, _third) = (budget.enter(1), budget.enter(1));
        budget.flush(CallId::new(3), None, "dropped", &mut completions);
        budget.leave(second, 1, Some(&error), &mut completions);
        assert_eq!(budget.abandon_flush(CallId::new(3)), Some("dropped"));
        budget.flush(CallId::new(4), None, "heir", &mut completions);
        budget.leave(second, 1, None, &mut completions);
        assert_eq!(done(&mut completions), [("heir", false)]);
    }

    #[test]
    fn an_oversized_job_comes_in_alone() {
        let mut budget: Budget<()> = Budget::of_producer(ProducerSettings::default().buffer(10));
        let message = || Message::new("orders", "much more than this");
        let submission = || Submission::One(Run::alone(CallId::new(1), Attempt::new(None), (), message()));
        assert!(budget.has_room_for(submission().cost()), "nothing else is in");
        budget.charge(false, 1);
        assert!(!budget.has_room_for(submission().cost()));
        budget.release(false, 1);
        assert!(budget.is_idle());
    }
}
