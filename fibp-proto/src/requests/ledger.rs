//! What callers are owed: room, results, and the report of a close.

use std::time::Instant;

use super::budgets::Budgets;
use super::closing::Closing;
use super::join::Joins;
use super::places::Places;
use super::submit::closed;
use super::work::{BatchItem, CLIENT, Call, Charge, ItemResult, ReplyTo, Ticket};
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
    pub(super) budgets: Budgets<T>,
    pub(super) joins: Joins<T>,
    /// Where the admitted calls are.
    pub(super) places: Places,
    pub(super) closing: Option<Closing<T>>,
    completions: Vec<Completion<T>>,
    pub(super) stats: Stats,
}

impl<T> Ledger<T> {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            shared: shared.clone(),
            budgets: Budgets::new(shared.config().settings()),
            joins: Joins::new(),
            places: Places::default(),
            closing: None,
            completions: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Waits until everything that the producer was handed is settled.
    pub(super) fn flush(&mut self, budget: u32, id: CallId, deadline: Option<Instant>, token: T) {
        if let Err(token) = self.budgets.flush(budget, id, deadline, token, &mut self.completions) {
            self.complete(token, Reply::Flushed(Err(closed("the producer"))));
        }
    }

    // ---- completions ----

    pub(super) fn complete(&mut self, token: T, reply: Reply) {
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

    pub(super) fn publish_stats(&mut self) {
        if self.stats != Stats::default() {
            self.shared.add_stats(&mut self.stats);
        }
    }

    // ---- calls ----

    /// Ends a call that was charged to the client's budget.
    pub(super) fn finish_call(&mut self, call: Call<T>, result: Result<Response, Error>) {
        self.release_call(call.id);
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

    /// Gives back the room that a call took.
    pub(super) fn release_call(&mut self, id: CallId) {
        self.places.remove(id);
        self.budgets.release(CLIENT, true, 0);
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
        self.places.remove(charge.call);
        self.budgets.release(charge.call.budget, charge.leads, charge.cost);
        if let Some(budget) = self.budgets.get_mut(charge.call.budget) {
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
