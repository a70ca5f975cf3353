//! What callers are owed: room, results, and the report of a close.

use std::time::Instant;

use super::budget::Submission;
use super::budgets::Budgets;
use super::closing::Closing;
use super::item_results::ItemResults;
use super::join::Joins;
use super::places::Places;
use super::run::{Charge, Payloads, ReplyTo, Run, Ticket, failed_messages};
use super::submit::closed;
use super::work::{BatchKind, CLIENT, Call};
use crate::error::{Doing, Error, ErrorKind, Outcome};
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
        if !self.stats.is_zero() {
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
        self.note_result(1, result.as_ref().err());
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

    // ---- what waits for room ----

    pub(super) fn fail_submission(&mut self, submission: Submission<T>, error: &Error) {
        match submission {
            Submission::Call(call) => {
                let error = call.attempt.judge(error.clone());
                let error = error.during(|| Doing::request(&call.request));
                self.complete_call(call.token, Err(error));
            }
            Submission::One(run) => self.fail_outside(run, error),
            Submission::Many(many) => {
                let Completion { token, reply } = many.fail(error);
                self.complete(token, reply);
            }
            Submission::Room { token, queue, .. } => {
                let error = error.clone().during(|| Doing::on_queue(Op::Enqueue, &queue));
                self.complete(token, Reply::Room(Err(error)));
            }
        }
    }

    /// Fails what waited for room.
    fn fail_parked(&mut self, submission: Submission<T>, error: &Error) {
        self.note_result(submission.results(), Some(error));
        self.fail_submission(submission, error);
    }

    /// Fails everything that waits for room.
    pub(super) fn fail_all_parked(&mut self, error: &Error) {
        let error = error.clone().with_outcome(Outcome::NotSent);
        for parked in self.budgets.drain_parked() {
            self.fail_parked(parked.submission, &error);
        }
    }

    /// Fails those who wait for a flush: what becomes of the messages is not known.
    pub(super) fn fail_flushes(&mut self, error: &Error) {
        let error = error.clone().with_outcome(Outcome::Unknown);
        for token in self.budgets.drain_flushes() {
            self.complete(token, Reply::Flushed(Err(error.clone())));
        }
    }

    /// Fails what has waited for room, or for a flush, for too long.
    pub(super) fn expire(&mut self, now: Instant, error: &Error) {
        while let Some((expired, flushes)) = self.budgets.take_expired(now) {
            for token in flushes {
                self.complete(token, Reply::Flushed(Err(error.clone())));
            }
            for parked in expired {
                self.fail_parked(parked.submission, error);
            }
        }
    }

    // ---- runs ----

    /// Ends a run that the server accepted: `results` says so of its items next.
    pub(super) fn accept(&mut self, ticket: Ticket<T>, results: &mut ItemResults) {
        let items = ticket.items;
        // Its deadline passed earlier, and its waiter was completed then: a second result must not count.
        // Its results are passed over all the same: those of the next run lie behind them.
        if ticket.is_told() {
            return results.ids(items).for_each(drop);
        }
        self.note_accepted(results.kind(), items);
        self.release(ticket.charge(), None);
        match ticket.reply_to {
            ReplyTo::One(token) => {
                let reply = match results.ids(1).next() {
                    Some(id) => Reply::Enqueued(Ok(id)),
                    None => Reply::Settled(Ok(())),
                };
                self.complete(token, reply);
            }
            ReplyTo::Part(place) => {
                let completion = self.joins.accept(ticket.call, place, results.ids(items), items);
                self.completions.extend(completion);
            }
            ReplyTo::Nobody | ReplyTo::Told => results.ids(items).for_each(drop),
        }
    }

    /// Ends a run that failed.
    pub(super) fn fail(&mut self, run: Run<T>, error: &Error) {
        let Run { payloads, ticket } = run;
        // As above.
        if ticket.is_told() {
            return;
        }
        let error = ticket.attempt.judge(error.clone());
        self.note_result(ticket.items, Some(&error));
        self.release(ticket.charge(), Some(&error));
        let unheard = self.tell_failure(ticket, payloads, &error);
        if let Some(Payloads::Messages(messages)) = unheard {
            for failed in failed_messages(messages, &error).filter_map(Result::err) {
                self.shared.push_event(Event::Unconfirmed {
                    queue: failed.message.queue,
                    error: failed.error,
                });
            }
        }
    }

    /// Fails a run whose producer is gone.
    #[cold]
    pub(super) fn fail_closed(&mut self, run: Run<T>) {
        self.fail(run, &closed("the producer"));
    }

    /// Fails a run that was not let in.
    pub(super) fn fail_outside(&mut self, run: Run<T>, error: &Error) {
        let error = run.ticket.attempt.judge(error.clone());
        self.tell_failure(run.ticket, run.payloads, &error);
    }

    /// Tells the caller of these payloads that they failed; gives them back if nobody waits.
    fn tell_failure(&mut self, ticket: Ticket<T>, payloads: Payloads, error: &Error) -> Option<Payloads> {
        match ticket.reply_to {
            ReplyTo::One(token) => self.complete(token, payloads.fail_one(error)),
            ReplyTo::Part(place) => match self.joins.fail(ticket.call, place, payloads, error) {
                Ok(completion) => self.completions.extend(completion),
                Err(payloads) => return Some(payloads),
            },
            ReplyTo::Nobody => return Some(payloads),
            ReplyTo::Told => {}
        }
        None
    }

    pub(super) fn fail_runs(&mut self, runs: Vec<Run<T>>, error: &Error) {
        for run in runs {
            self.fail(run, error);
        }
    }

    /// Gives back the room that a run took, and completes the flushes of its producer that waited for it.
    pub(super) fn release(&mut self, charge: Charge, error: Option<&Error>) {
        // A part of a list has no place, and removing one that is not there does nothing.
        self.places.remove(charge.call);
        self.budgets.release(charge.call.budget, charge.leads, charge.cost);
        if let Some(budget) = self.budgets.get_mut(charge.call.budget) {
            budget.leave(charge.epoch, charge.items, error, &mut self.completions);
        }
    }

    fn note_accepted(&mut self, kind: BatchKind, items: usize) {
        match kind {
            BatchKind::Enqueue => self.stats.messages_confirmed += items as u64,
            BatchKind::Ack | BatchKind::Nack => self.stats.settled += items as u64,
        }
        self.note_result(items, None);
    }

    /// So many requests are over.
    pub(super) fn note_result(&mut self, requests: usize, error: Option<&Error>) {
        let requests = requests as u64;
        if error.is_some_and(|error| error.kind() == ErrorKind::Timeout) {
            self.stats.timeouts += requests;
        }
        if let Some(closing) = &mut self.closing {
            closing.note(requests, error);
        }
    }
}
