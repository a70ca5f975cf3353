//! The budgets of a client: its own, and one for each producer. What a call or a timeout costs does not depend on how
//! many there are.
//!
//! # Invariants
//!
//! * A budget in which those in line may have room now, or that is done, is in `to_settle`. Both only change where room
//!   is given back, somebody leaves the line, or the producer closes; each of these passes through here.
//! * `deadlines` has one entry for each budget with a [deadline](Budget::earliest_deadline), and no other.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::batch_queue::Policy;
use super::budget::{Budget, Parked, Reserved};
use super::run::Ticket;
use crate::config::{ProducerSettings, Settings};
use crate::machine::{CallId, Completion};

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Budgets<T> {
    /// The client's own, then one for each producer.
    all: Vec<Option<Budget<T>>>,
    free: Vec<u32>,
    /// Those to look after at the end of the turn, each once.
    to_settle: VecDeque<u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    /// How many budgets were looked after.
    #[cfg(test)]
    pub(super) visits: usize,
}

impl<T> Budgets<T> {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            all: vec![Some(Budget::of_client(settings))],
            free: Vec::new(),
            to_settle: VecDeque::new(),
            deadlines: BTreeSet::new(),
            #[cfg(test)]
            visits: 0,
        }
    }

    /// A budget for a new producer, and its index.
    pub(super) fn open(&mut self, settings: ProducerSettings) -> u32 {
        let budget = Some(Budget::of_producer(settings));
        if let Some(index) = self.free.pop()
            && let Some(place) = self.all.get_mut(index as usize)
        {
            *place = budget;
            return index;
        }
        self.all.push(budget);
        // As many budgets as would not fit it fit into no memory.
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    /// The producer's last handle is gone.
    pub(super) fn close(&mut self, index: u32) {
        if let Some(budget) = self.get_mut(index) {
            budget.closed = true;
            self.look_after(index);
        }
    }

    /// Forgets a budget whose producer is done.
    pub(super) fn remove_done(&mut self, index: u32) {
        if let Some(place) = self.all.get_mut(index as usize)
            && let Some(budget) = place.take_if(|budget| budget.closed && budget.is_idle())
        {
            // The index may be given to the next producer. Batch queues that are kept under it take over its policy
            // (`BatchQueues::queue_of`).
            self.free.push(index);
            if let Some(at) = budget.earliest_deadline() {
                self.deadlines.remove(&(at, index));
            }
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&Budget<T>> {
        self.all.get(index as usize).and_then(Option::as_ref)
    }

    /// For changes that give no room back and add no deadline.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Budget<T>> {
        self.all.get_mut(index as usize).and_then(Option::as_mut)
    }

    pub(super) fn policy(&self, index: u32) -> Option<Policy> {
        self.get(index).map(|budget| budget.policy)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Budget<T>> {
        self.all.iter().flatten()
    }

    // ---- room ----

    /// Takes room for a run; how it is to be sent.
    pub(super) fn charge<R>(&mut self, ticket: &mut Ticket<R>) -> Option<Policy> {
        let budget = self.get_mut(ticket.call.budget)?;
        budget.charge(ticket.leads, ticket.cost);
        ticket.epoch = budget.enter(ticket.items);
        Some(budget.policy)
    }

    /// Gives room back.
    pub(super) fn release(&mut self, index: u32, call: bool, bytes: usize) {
        if let Some(budget) = self.get_mut(index) {
            budget.release(call, bytes);
            // Otherwise the room changes nothing: nobody waits for it.
            if budget.closed || budget.parked() > 0 {
                self.look_after(index);
            }
        }
    }

    /// Takes back what was reserved.
    pub(super) fn redeem(&mut self, index: u32, id: CallId) -> Option<Reserved> {
        let room = self.get_mut(index)?.redeem(id)?;
        self.look_after(index);
        Some(room)
    }

    pub(super) fn park(&mut self, index: u32, id: CallId, parked: Parked<T>) {
        self.with_deadlines(index, |budget| budget.park(id, parked));
    }

    pub(super) fn withdraw(&mut self, index: u32, id: CallId) -> Option<Parked<T>> {
        let parked = self.get_mut(index)?.withdraw(id)?;
        self.look_after(index);
        Some(parked)
    }

    /// Everything that is in line.
    pub(super) fn drain_parked(&mut self) -> Vec<Parked<T>> {
        let drained = self.all.iter_mut().flatten().flat_map(Budget::drain).collect();
        for index in 0..self.all.len() {
            self.look_after(u32::try_from(index).unwrap_or(u32::MAX));
        }
        drained
    }

    /// The next budget to look after.
    pub(super) fn next_to_settle(&mut self) -> Option<u32> {
        let index = self.to_settle.pop_front()?;
        if let Some(budget) = self.get_mut(index) {
            budget.to_settle = false;
        }
        #[cfg(test)]
        {
            self.visits += 1;
        }
        Some(index)
    }

    fn look_after(&mut self, index: u32) {
        if let Some(budget) = self.get_mut(index)
            && !std::mem::replace(&mut budget.to_settle, true)
        {
            self.to_settle.push_back(index);
        }
    }

    // ---- flushes ----

    /// Completes `token` when everything that the producer was handed is settled.
    ///
    /// # Errors
    ///
    /// The token, if there is no such budget.
    pub(super) fn flush(
        &mut self,
        index: u32,
        id: CallId,
        deadline: Option<Instant>,
        token: T,
        completions: &mut Vec<Completion<T>>,
    ) -> Result<(), T> {
        if self.get(index).is_none() {
            return Err(token);
        }
        self.with_deadlines(index, |budget| budget.flush(id, deadline, token, completions));
        Ok(())
    }

    /// Those who still wait for a flush.
    pub(super) fn drain_flushes(&mut self) -> Vec<T> {
        self.all.iter_mut().flatten().flat_map(Budget::drain_flushes).collect()
    }

    // ---- deadlines ----

    /// When somebody who waits for room, or for a flush, has waited for too long.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those in line, and those who wait for a flush, whose deadline passed in the next of the budgets with any.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<(Vec<Parked<T>>, Vec<T>)> {
        let (_, index) = *self.deadlines.first().filter(|(at, _)| *at <= now)?;
        #[cfg(test)]
        {
            self.visits += 1;
        }
        let (parked, flushes) = self.with_deadlines(index, |budget| budget.expired(now))?;
        if !parked.is_empty() {
            self.look_after(index);
        }
        Some((parked, flushes))
    }

    /// Lets `change` do something to a budget that may change its earliest deadline.
    fn with_deadlines<R>(&mut self, index: u32, change: impl FnOnce(&mut Budget<T>) -> R) -> Option<R> {
        let budget = self.get_mut(index)?;
        let before = budget.earliest_deadline();
        let result = change(budget);
        let after = budget.earliest_deadline();
        if before != after {
            if let Some(at) = before {
                self.deadlines.remove(&(at, index));
            }
            self.deadlines.extend(after.map(|at| (at, index)));
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Requests;
    use crate::config::{Config, ProducerSettings};
    use crate::machine::Machine;
    use crate::message::Message;
    use crate::shared::Shared;

    #[test]
    fn calls_and_timeouts_look_after_no_idle_budget() {
        let now = crate::tests_epoch();
        let shared = Shared::new(Config::new("localhost")).unwrap();
        let mut requests: Requests<u32> = Requests::new(&shared, now, 1, None);
        let producers: Vec<_> = (0..10_000)
            .map(|_| requests.open_producer(ProducerSettings::default().buffer(300)))
            .collect();
        let message = || Message::new("orders", "x");
        for producer in producers.iter().take(100) {
            requests.try_send(now, *producer, message(), None, 0).unwrap();
        }
        for _ in 0..100 {
            let call = requests.enqueue(now, message(), None, 0);
            assert_eq!(requests.abandon(call), Some(0));
            requests.handle_timeout(now);
        }
        assert_eq!(requests.ledger.budgets.visits, 0, "nobody waits for room");
        // One waits for room, one for a flush.
        let second = Duration::from_secs(1);
        requests.try_send(now, producers[7], message(), None, 0).unwrap();
        requests.reserve(now, producers[7], &message(), Some(second), 1);
        requests.flush(now, producers[8], Some(2 * second), 3);
        requests.handle_timeout(now + second);
        requests.handle_timeout(now + 2 * second);
        // Late, in line again after that, and late.
        assert_eq!(requests.ledger.budgets.visits, 3);
        assert_eq!(requests.ledger.budgets.poll_timeout(), None);
        for producer in producers {
            requests.close_producer(producer);
        }
        assert_eq!(requests.ledger.budgets.iter().count(), 101, "those with messages stay");
        assert_eq!(
            requests.open_producer(ProducerSettings::default()).0,
            10_000,
            "the last place is taken again"
        );
    }
}
