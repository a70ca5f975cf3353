//! Acks and nacks that the server found no lease for, inside their lease, on a connection that has not learned whether
//! it leads to a cluster: a cluster answers so to what it has done (docs/protocol/clusters.md 4).
//!
//! They keep their room and their caller waiting while the server is asked, once per connection. Where the connection
//! is lost meanwhile, the next one is asked. What ends before it is known fails with what the server said, and nobody
//! knows whether it was done.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Requests;
use super::item_results::ItemResults;
use super::ledger::Ledger;
use super::places::{Place, Places};
use super::route::Route;
use super::run::{Payloads, ReplyTo, Run};
use super::settle::Settle;
use super::unleased::judge_unleased;
use crate::earliest_deadline::EarliestDeadline;
use crate::error::{Error, Outcome};
use crate::machine::CallId;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Doubts<T> {
    /// By call, then by place within the call.
    open: BTreeMap<(CallId, usize), Doubt<T>>,
    /// A lower bound on the deadlines of their callers.
    deadline: EarliestDeadline,
}

#[derive(Debug)]
struct Doubt<T> {
    /// One settle.
    run: Run<T>,
    /// What the server said, and when.
    error: Error,
    answered: Instant,
}

impl<T> Doubts<T> {
    pub(super) fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            deadline: EarliestDeadline::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.at()
    }

    pub(super) fn add(&mut self, now: Instant, run: Run<T>, error: Error, places: &mut Places) {
        // A caller that goes away is looked for here from now on.
        run.ticket.note_place(places, Place::InDoubt);
        self.insert(Doubt {
            run,
            error,
            answered: now,
        });
    }

    fn insert(&mut self, doubt: Doubt<T>) {
        let ticket = &doubt.run.ticket;
        self.deadline.add(ticket.attempt.deadline);
        self.open.insert(ticket.order(), doubt);
    }

    fn take(&mut self) -> impl Iterator<Item = Doubt<T>> + use<T> {
        std::mem::replace(self, Self::new()).open.into_values()
    }

    /// Takes over those of a route that ends.
    pub(super) fn absorb(&mut self, mut other: Self) {
        other.take().for_each(|doubt| self.insert(doubt));
    }

    /// Nobody waits any more for the one item of this call.
    pub(super) fn detach(&mut self, call: CallId) -> Option<T> {
        let ticket = &mut self.open.get_mut(&(call, 0))?.run.ticket;
        match ticket.reply_to {
            ReplyTo::One(_) => std::mem::replace(&mut ticket.reply_to, ReplyTo::Nobody).into_token(),
            _ => None,
        }
    }

    /// Ends those whose callers wait no longer.
    pub(super) fn expire(&mut self, now: Instant, ledger: &mut Ledger<T>) {
        if !self.deadline.take_due(now) {
            return;
        }
        for doubt in self.take() {
            if doubt.run.ticket.attempt.is_due(now) {
                doubt.give_up(ledger);
            } else {
                self.insert(doubt);
            }
        }
    }

    /// Ends all: there will be no answer.
    pub(super) fn give_up(&mut self, ledger: &mut Ledger<T>) {
        self.take().for_each(|doubt| doubt.give_up(ledger));
    }
}

impl<T> Doubt<T> {
    /// Ends it with what the server said: its lease was good, so it may have been done.
    fn give_up(self, ledger: &mut Ledger<T>) {
        ledger.fail(self.run, &self.error.with_outcome(Outcome::Unknown));
    }

    /// Ends it, now that it is known whether the servers form a cluster.
    fn judge(self, clustered: bool, ledger: &mut Ledger<T>) {
        let Self { run, error, answered } = self;
        settle_unleased(answered, clustered, run, error, ledger);
    }
}

/// Ends a settle that the server found no lease for at `answered`.
pub(super) fn settle_unleased<T>(
    answered: Instant,
    clustered: bool,
    run: Run<T>,
    error: Error,
    ledger: &mut Ledger<T>,
) {
    let result = match settle_of(&run) {
        Some(settle) => judge_unleased(answered, clustered, settle, &run.ticket.attempt, error),
        None => Err(error),
    };
    match result {
        Ok(()) => {
            let mut done = ItemResults::none(run.payloads.kind());
            ledger.accept(run.ticket, &mut done);
        }
        Err(error) => ledger.fail(run, &error),
    }
}

/// The one settle of a run.
pub(super) fn settle_of<T>(run: &Run<T>) -> Option<&Settle> {
    match &run.payloads {
        Payloads::Settles(settles) => settles.first(),
        Payloads::Messages(_) => None,
    }
}

impl<T> Requests<T> {
    /// Asks where nothing else tells, and ends what waited for the answer.
    pub(super) fn pursue_doubts(&mut self, now: Instant) {
        for route in self.router.iter_mut() {
            if route.doubts.len() > 0 {
                route.pursue_doubts(now, &mut self.ledger);
            }
        }
    }
}

impl<T> Route<T> {
    fn pursue_doubts(&mut self, now: Instant, ledger: &mut Ledger<T>) {
        let Some(clustered) = self.channel.learn_cluster() else {
            return;
        };
        self.note_peer(now);
        for doubt in self.doubts.take() {
            doubt.judge(clustered, ledger);
        }
    }
}
