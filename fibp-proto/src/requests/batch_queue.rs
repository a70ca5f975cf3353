//! One batch queue: the runs of one queue, one kind and one producer, so that order per queue is kept and one queue's
//! refusal touches no other queue's messages. When a frame of them goes out is decided here.
//!
//! # Order
//!
//! Messages of one batch queue reach the server in the order of their calls. A single node answers every frame for good,
//! so frames in flight keep that order. A node of a cluster may answer "not yet" to one frame and accept the next
//! (docs/protocol/clusters.md 2), so there a batch queue of messages *probes*: until the node has answered for good, one
//! message is in flight and the others wait. After that frames follow each other without waiting; the next answer that
//! is to be asked for again makes it probe again, once what is in flight was answered. What was in flight behind such
//! an answer can still overtake it: a cluster that elects a leader may reorder up to that many messages.

use std::time::Instant;

use super::line::Line;
use super::run::{Run, Ticket};
use super::work::{BatchKey, BatchKind};
use crate::config::Batching;
use crate::machine::CallId;

/// With no more messages than this waiting and in flight there are few callers, and their frames need not wait for one
/// another: nothing is saved by letting two callers take turns. With more, waiting makes larger frames.
const FEW: usize = 8;

/// When frames of a producer go out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) batching: Batching,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
}

/// Items of one queue, kind and producer.
#[derive(Debug)]
pub(super) struct BatchQueue<T> {
    pub(super) key: BatchKey,
    pub(super) policy: Policy,
    line: Line<T>,
    bytes: usize,
    /// Items in frames that are not answered.
    pub(super) in_flight: usize,
    /// When the first of the waiting items arrived.
    waiting_since: Option<Instant>,
    /// Not before: an election is going on.
    pub(super) not_before: Option<Instant>,
    /// Send partial frames too: somebody flushes or closes.
    pub(super) flushing: bool,
    pub(super) queued: bool,
    /// Its place among the queues with items.
    pub(super) busy_at: Option<usize>,
    /// When it became idle last.
    pub(super) idle_since: Option<Instant>,
    /// It is among the queues that may be idle.
    pub(super) in_idle: bool,
    pub(super) peer: Peer,
    /// The last answer to a frame was final: what follows may be sent before the next answer.
    pub(super) confirmed: bool,
}

/// What is known of the server at the other end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// It is a node of a cluster.
    pub(super) in_cluster: bool,
    /// A frame holds one item only: then nothing is gained by waiting for more, or for answers.
    pub(super) one_each: bool,
}

/// What an answer says of the frames behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// Whatever it says is the server's last word.
    Finally,
    /// Some of it is to be asked again.
    NotYet,
    /// There was none within the deadline.
    Never,
}

impl<T> BatchQueue<T> {
    pub(super) fn new(key: BatchKey, policy: Policy, peer: Peer) -> Self {
        Self {
            key,
            policy,
            line: Line::new(),
            bytes: 0,
            in_flight: 0,
            waiting_since: None,
            not_before: None,
            flushing: false,
            queued: false,
            busy_at: None,
            idle_since: None,
            in_idle: false,
            peer,
            confirmed: false,
        }
    }

    // ---- what waits ----

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// What waits, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run<T>> {
        self.line.iter()
    }

    /// The call of the first run.
    pub(super) fn first_call(&self) -> Option<CallId> {
        self.line.front().map(|run| run.ticket.call)
    }

    /// Takes so many items off the first run, or all it has.
    pub(super) fn take_front(&mut self, items: usize) -> Option<Run<T>> {
        let run = self.line.take_front(items)?;
        self.bytes = self.bytes.saturating_sub(run.ticket.cost);
        self.note_emptied();
        Some(run)
    }

    /// Takes so many items off the front, run by run.
    #[inline]
    pub(super) fn take(&mut self, items: usize, mut take: impl FnMut(Run<T>)) {
        self.line.take(items, |run| {
            self.bytes = self.bytes.saturating_sub(run.ticket.cost);
            take(run);
        });
        self.note_emptied();
    }

    /// Adds a run behind what waits already, in the order of call ids.
    pub(super) fn push(&mut self, now: Instant, run: Run<T>) {
        // The time of a pause without items may be over.
        self.not_before = self.not_before.filter(|at| *at > now);
        self.bytes = self.bytes.saturating_add(run.ticket.cost);
        self.line.push(run);
        self.waiting_since = self.waiting_since.or(Some(now));
    }

    /// Puts a run back before what waits already, in the order of call ids. It has lingered before.
    pub(super) fn put_back(&mut self, now: Instant, run: Run<T>) {
        self.bytes = self.bytes.saturating_add(run.ticket.cost);
        self.line.put_back(run);
        self.waiting_since = self.waiting_since.or(Some(now));
        self.flushing = true;
    }

    /// Takes out the runs of a call.
    pub(super) fn withdraw(&mut self, call: CallId) -> Vec<Run<T>> {
        let runs = self.line.withdraw(call);
        self.note_left(&runs);
        runs
    }

    /// Takes out the runs whose deadline passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Run<T>> {
        self.not_before = self.not_before.filter(|at| *at > now);
        let due = self.line.take_due(now);
        self.note_left(&due);
        due
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Run<T>> {
        let runs = self.line.take_all();
        self.note_left(&runs);
        runs
    }

    pub(super) fn into_runs(self) -> impl Iterator<Item = Run<T>> {
        self.line.into_runs()
    }

    /// The ticket of the first run of a call.
    pub(super) fn ticket_mut(&mut self, call: CallId) -> Option<&mut Ticket<T>> {
        self.line.ticket_mut(call)
    }

    /// The server does not know the queue of what waits, since then.
    pub(super) fn note_absent(&mut self, since: Instant) {
        for run in self.line.iter_mut() {
            run.ticket.attempt.absent_since.get_or_insert(since);
        }
    }

    pub(super) fn soonest_deadline(&self) -> Option<Instant> {
        self.line.iter().filter_map(|run| run.ticket.attempt.deadline).min()
    }

    fn note_left(&mut self, runs: &[Run<T>]) {
        for run in runs {
            self.bytes = self.bytes.saturating_sub(run.ticket.cost);
        }
        self.note_emptied();
    }

    fn note_emptied(&mut self) {
        if self.line.is_empty() {
            self.waiting_since = None;
            // A flush is for what waited when it was asked for. What comes next lingers again.
            self.flushing = false;
            self.line.rewind();
        }
    }

    // ---- when it goes out ----

    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty() && self.in_flight == 0
    }

    /// Whether the node has not yet answered for good: one message at a time, to keep their order. The order of acks
    /// does not matter.
    pub(super) fn is_probing(&self) -> bool {
        self.peer.in_cluster && self.key.kind == BatchKind::Enqueue && !self.confirmed
    }

    /// Lets what waits go out in partial frames, too.
    pub(super) fn flush(&mut self) {
        self.flushing = !self.line.is_empty();
    }

    /// A frame with so many items was answered, or given up.
    pub(super) fn answered(&mut self, items: usize, answered: Answered) {
        self.in_flight = self.in_flight.saturating_sub(items);
        match answered {
            // While others are in flight they may be answered otherwise.
            Answered::Finally => self.confirmed |= self.in_flight == 0,
            Answered::NotYet => self.confirmed = false,
            Answered::Never => {}
        }
    }

    fn is_full(&self) -> bool {
        let messages = match self.policy.batching {
            Batching::Linger { max_messages, .. } => max_messages.min(self.policy.max_messages),
            Batching::Auto => self.policy.max_messages,
            Batching::Disabled => 1,
        };
        self.line.len() >= messages || self.bytes >= self.policy.max_bytes
    }

    /// When a frame may go out: now (`Some(None)`), at an instant, or only after something else happens.
    pub(super) fn due(&self) -> Option<Option<Instant>> {
        // A probe has to be answered first, however long others have lingered: their order depends on what it says.
        if self.line.is_empty() || (self.is_probing() && self.in_flight > 0) {
            return None;
        }
        // Before anything that hurries: a flush does not end an election.
        if self.not_before.is_some() {
            return Some(self.not_before);
        }
        if self.flushing || self.peer.one_each || self.is_full() {
            return Some(None);
        }
        match self.policy.batching {
            Batching::Auto if self.in_flight == 0 || self.in_flight + self.line.len() <= FEW => Some(None),
            Batching::Auto => None,
            Batching::Disabled => Some(None),
            // A delay beyond the clock's range waits for the other conditions.
            Batching::Linger { delay, .. } => self.waiting_since.and_then(|since| since.checked_add(delay)).map(Some),
        }
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at.is_none_or(|at| at <= now))
    }
}
