//! What callers are owed: room, results, and the report of a close.

use std::time::Instant;

use super::budget::Budget;
use super::closing::Closing;
use super::join::Joins;
use super::submit::closed;
use super::work::{BatchItem, CLIENT, Call, Charge, ItemResult, ReplyTo, Ticket};
use crate::config::ProducerSettings;
use crate::earliest_deadline::earlier;
use crate::error::{Doing, Error, ErrorKind};
use crate::event::{Event, Stats};
use crate::machine::{CallId, Completion, Reply};
use crate::request::Op;
use crate::response::Response;
use crate::shared::Shared;

/// Ends requests: completes their waiters, gives their room back, and counts.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    shared: Shared,
    /// The client's own budget, then one per producer.
    pub(super) budgets: Vec<Option<Budget<T>>>,
    pub(super) joins: Joins<T>,
    pub(super) closing: Option<Closing<T>>,
    completions: Vec<Completion<T>>,
    pub(super) stats: Stats,
}

impl<T> Ledger<T> {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            shared: shared.clone(),
            budgets: vec![Some(Budget::of_client(shared.config().settings()))],
            joins: Joins::new(),
            closing: None,
            completions: Vec::new(),
            stats: Stats::default(),
        }
    }

    pub(super) fn budget(&mut self, index: usize) -> Option<&mut Budget<T>> {
        self.budgets.get_mut(index).and_then(Option::as_mut)
    }

    /// A budget for a new producer, and its index.
    pub(super) fn open_budget(&mut self, settings: ProducerSettings) -> usize {
        let budget = Some(Budget::of_producer(settings));
        let free = self.budgets.iter().position(Option::is_none);
        match free.and_then(|index| self.budgets.get_mut(index).map(|place| (index, place))) {
            Some((index, place)) => {
                *place = budget;
                index
            }
            None => {
                self.budgets.push(budget);
                self.budgets.len() - 1
            }
        }
    }

    /// Waits until everything that the producer was handed is settled.
    pub(super) fn flush(&mut self, budget: usize, id: CallId, deadline: Option<Instant>, token: T) {
        let Self {
            budgets, completions, ..
        } = self;
        match budgets.get_mut(budget).and_then(Option::as_mut) {
            Some(budget) => budget.flush(id, deadline, token, completions),
            None => self.complete(token, Reply::Flushed(Err(closed("the producer")))),
        }
    }

    // ---- completions ----

    pub(super) fn complete(&mut self, token: T, reply: Reply<T>) {
        self.completions.push(Completion { token, reply });
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    #[cfg(feature = "simulation")]
    pub(super) fn completions(&self) -> usize {
        self.completions.len()
    }

    pub(super) fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        into.append(&mut self.completions);
    }

    /// When somebody who waits for room, or for a flush, has waited for too long.
    pub(super) fn budgets_timeout(&self) -> Option<Instant> {
        self.budgets
            .iter()
            .flatten()
            .fold(None, |earliest, budget| earlier(earliest, budget.earliest_deadline()))
    }

    pub(super) fn publish_stats(&mut self) {
        if self.stats != Stats::default() {
            self.shared.add_stats(&mut self.stats);
        }
    }

    // ---- calls ----

    /// Ends a call that was charged to the client's budget.
    pub(super) fn finish_call(&mut self, call: Call<T>, result: Result<Response, Error>) {
        self.release_call();
        let result = result.map_err(|error| {
            let error = call.attempt.judge(error);
            error.during(|| Doing::request(&call.request))
        });
        crate::trace::call_finished(call.request.op(), result.as_ref().err());
        self.note_result(result.as_ref().err());
        self.complete_call(call.token, result);
    }

    pub(super) fn complete_call(&mut self, token: Option<T>, result: Result<Response, Error>) {
        if let Some(token) = token {
            self.complete(token, Reply::Response(result.map(Box::new)));
        }
    }

    pub(super) fn release_call(&mut self) {
        if let Some(budget) = self.budget(CLIENT) {
            budget.release(true, 0);
        }
    }

    // ---- items ----

    /// Ends an item that was charged to its budget.
    pub(super) fn finish_item(&mut self, ticket: Ticket<T>, result: ItemResult) {
        // Its deadline passed earlier, and its waiter was completed then: a second result must not count.
        if matches!(ticket.reply_to, ReplyTo::Told) {
            return;
        }
        let result = result.map_err(|error| ticket.attempt.judge(error));
        let error = result.error().cloned();
        let op = match &result {
            ItemResult::Enqueued(_) => Op::Enqueue,
            ItemResult::Settled(_) => Op::Ack,
        };
        crate::trace::call_finished(op, error.as_ref());
        self.note_result(error.as_ref());
        match &result {
            ItemResult::Enqueued(Ok(_)) => self.stats.messages_confirmed += 1,
            ItemResult::Settled(Ok(())) => self.stats.settled += 1,
            ItemResult::Enqueued(Err(_)) | ItemResult::Settled(Err(_)) => {}
        }
        let queue = match &result {
            ItemResult::Enqueued(Err(failed)) => Some(failed.message.queue.clone()),
            _ => None,
        };
        self.release(ticket.charge(), error.as_ref());
        let told = ticket.reply_to.tell(ticket.call, result, &mut self.joins);
        self.completions.extend(told.completion);
        if let (Some(queue), Some(error)) = (queue, told.unheard) {
            self.shared.push_event(Event::Unconfirmed { queue, error });
        }
    }

    /// Fails an item that was not let in.
    pub(super) fn fail_outside(&mut self, item: BatchItem<T>, error: &Error) {
        let error = item.ticket.attempt.judge(error.clone());
        let result = ItemResult::failed(item.payload, error);
        let told = item.ticket.reply_to.tell(item.ticket.call, result, &mut self.joins);
        self.completions.extend(told.completion);
    }

    pub(super) fn fail_items(&mut self, items: Vec<BatchItem<T>>, error: &Error) {
        for item in items {
            self.finish_item(item.ticket, ItemResult::failed(item.payload, error.clone()));
        }
    }

    /// Gives back the room that an item took, and completes the flushes of its producer that waited for it.
    pub(super) fn release(&mut self, charge: Charge, error: Option<&Error>) {
        if let Some(budget) = self.budgets.get_mut(charge.budget).and_then(Option::as_mut) {
            budget.release(charge.leads, charge.cost);
            budget.leave(charge.epoch, error, &mut self.completions);
        }
    }

    pub(super) fn note_result(&mut self, error: Option<&Error>) {
        if error.is_some_and(|error| error.kind() == ErrorKind::Timeout) {
            self.stats.timeouts += 1;
        }
        if let Some(closing) = &mut self.closing {
            closing.note(error);
        }
    }
}
