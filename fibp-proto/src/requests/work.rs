//! What is under way: calls, frames of runs, and what they carry through retries.

use std::time::Instant;

use super::few::Few;
use super::run::{Payloads, Run, Ticket};
use crate::error::{Error, Outcome};
use crate::machine::{CallId, Completion};
use crate::message::{QueueName, same_queue};
use crate::request::{Op, Request};

/// The client's own budget.
pub(super) const CLIENT: u32 = 0;

/// One request that travels in a frame of its own.
#[derive(Debug)]
pub(super) struct Call<T> {
    pub(super) id: CallId,
    pub(super) request: Request,
    /// `None`: the caller is gone.
    pub(super) token: Option<T>,
    pub(super) attempt: Attempt,
}

/// What a call or a run carries through retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) deadline: Option<Instant>,
    /// Sent before, on a connection that was lost: a "not there" answer means that the first one worked.
    pub(super) replayed: bool,
    /// How often it was handed to another node.
    pub(super) hops: u32,
    /// How often it came back from a node that does not lead its queue and names no other.
    pub(super) returns: u8,
    /// When a cluster said first that it does not know the queue, perhaps not yet.
    pub(super) absent_since: Option<Instant>,
}

impl Attempt {
    pub(super) fn new(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            replayed: false,
            hops: 0,
            returns: 0,
            absent_since: None,
        }
    }

    /// What an error says of work with this past: nothing is certain of what may have been executed before.
    pub(super) fn judge(&self, error: Error) -> Error {
        if self.replayed {
            error.with_outcome(Outcome::Unknown)
        } else {
            error
        }
    }

    /// It goes back to the main route, which begins to look for the leader again.
    pub(super) fn return_home(&mut self) {
        // The search starts over, and so does the count that ends it; the count of returns goes on.
        self.hops = 0;
        self.returns = self.returns.saturating_add(1);
    }

    /// Whether the main route pauses before it asks again: once it may know better, after that an election is going on.
    pub(super) fn is_in_circles(&self) -> bool {
        self.returns > 1
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

/// Which frames a run can share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BatchKey {
    pub(super) budget: u32,
    pub(super) kind: BatchKind,
    pub(super) queue: QueueName,
}

/// A [`BatchKey`] whose name is held elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyRef<'a> {
    pub(super) budget: u32,
    pub(super) kind: BatchKind,
    pub(super) queue: &'a QueueName,
}

impl BatchKey {
    pub(super) fn by_ref(&self) -> KeyRef<'_> {
        KeyRef {
            budget: self.budget,
            kind: self.kind,
            queue: &self.queue,
        }
    }
}

impl KeyRef<'_> {
    pub(super) fn to_key(self) -> BatchKey {
        BatchKey {
            budget: self.budget,
            kind: self.kind,
            queue: self.queue.clone(),
        }
    }

    pub(super) fn is(self, key: &BatchKey) -> bool {
        (self.budget, self.kind) == (key.budget, key.kind) && same_queue(self.queue, &key.queue)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BatchKind {
    Enqueue,
    Ack,
    Nack,
}

/// What the table keeps with a request in flight.
#[derive(Debug)]
pub(super) enum InFlight<T> {
    // Boxed, as they change hands several times on their way into the table and out of it.
    Call(Box<Call<T>>),
    Batch(Box<Batch<T>>),
}

/// A frame in flight: the runs that share it, one at least.
#[derive(Debug)]
pub(super) struct Batch<T> {
    /// What it holds, run after run.
    pub(super) payloads: Payloads,
    /// Who waits for each of the runs.
    pub(super) tickets: Few<Ticket<T>>,
}

impl<T> Batch<T> {
    /// The batch queue that all of them belong to.
    pub(super) fn key(&self) -> KeyRef<'_> {
        KeyRef {
            budget: self.tickets.first().map_or(CLIENT, |first| first.call.budget),
            kind: self.payloads.kind(),
            queue: self.payloads.queue(),
        }
    }

    /// How many items the frame holds.
    pub(super) fn len(&self) -> usize {
        self.payloads.len()
    }

    /// Its runs, each with its payloads.
    pub(super) fn into_runs(self) -> impl Iterator<Item = Run<T>> {
        let Self { mut payloads, tickets } = self;
        tickets.into_iter().map(move |ticket| Run {
            payloads: payloads.split_front(ticket.items),
            ticket,
        })
    }
}

/// A list on its way in.
#[derive(Debug)]
pub(super) struct Many<T> {
    pub(super) call: CallId,
    pub(super) attempt: Attempt,
    pub(super) token: T,
    pub(super) payloads: Payloads,
    /// See [`Payloads::cost`].
    pub(super) cost: usize,
}

impl<T> Many<T> {
    /// The failure of all of them.
    pub(super) fn fail(self, error: &Error) -> Completion<T> {
        let error = self.attempt.judge(error.clone());
        Completion {
            token: self.token,
            reply: self.payloads.fail_all(&error),
        }
    }
}

impl BatchKind {
    pub(super) fn op(self) -> Op {
        match self {
            Self::Enqueue => Op::Enqueue,
            Self::Ack => Op::Ack,
            Self::Nack => Op::Nack,
        }
    }
}
