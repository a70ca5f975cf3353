//! One way to the servers: a channel, and the requests that wait to travel on it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::batch_queue::Peer;
use super::batch_queues::BatchQueues;
use super::doubts::Doubts;
use super::ledger::Ledger;
use super::work::{Call, InFlight};
use crate::channel::{Channel, Target};
use crate::config::Endpoint;
use crate::connection::Connection;
use crate::earliest_deadline::{EarliestDeadline, earlier};
use crate::error::Error;
use crate::event::ConnectionRole;
use crate::machine::{CallId, ChannelId};
use crate::shared::Shared;

/// A channel, and what waits to travel on it.
#[derive(Debug)]
pub(super) struct Route<T> {
    pub(super) id: ChannelId,
    pub(super) channel: Channel<InFlight<T>>,
    /// Calls that are not encoded, in the order of their ids.
    pub(super) calls: BTreeMap<CallId, Call<T>>,
    /// A lower bound on the deadlines of `calls` and `delayed`.
    pub(super) calls_deadline: EarliestDeadline,
    /// Calls that wait for an instant, or (`None`) for the admin revision.
    pub(super) delayed: BTreeMap<CallId, (Option<Instant>, Call<T>)>,
    pub(super) queues: BatchQueues<T>,
    pub(super) doubts: Doubts<T>,
    /// The bound of unanswered requests.
    pub(super) max_in_flight: usize,
    /// For a node: the node, and when it was last chosen.
    pub(super) node: Option<Node>,
}

/// What a route to a node of the cluster is for.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    /// When work was sent this way last: the least recently chosen routes make room for others.
    pub(super) chosen: Instant,
    /// It takes no more work, and ends when it has none.
    pub(super) retiring: bool,
}

impl<T> Route<T> {
    pub(super) fn main(shared: &Shared, seed: u64) -> Self {
        Self::new(
            shared,
            ChannelId::MAIN,
            ConnectionRole::Main,
            Target::Configured,
            None,
            seed,
        )
    }

    pub(super) fn to_node(shared: &Shared, id: ChannelId, endpoint: Endpoint, now: Instant, seed: u64) -> Self {
        let node = Node {
            endpoint: endpoint.clone(),
            chosen: now,
            retiring: false,
        };
        let role = ConnectionRole::Node(endpoint.clone());
        Self::new(shared, id, role, Target::Node(endpoint), Some(node), seed)
    }

    fn new(
        shared: &Shared,
        id: ChannelId,
        role: ConnectionRole,
        target: Target,
        node: Option<Node>,
        seed: u64,
    ) -> Self {
        Self {
            id,
            channel: Channel::new(shared, role, target, seed),
            calls: BTreeMap::new(),
            calls_deadline: EarliestDeadline::default(),
            delayed: BTreeMap::new(),
            queues: BatchQueues::new(),
            doubts: Doubts::new(),
            max_in_flight: shared.config().settings().in_flight.requests.max(1),
            node,
        }
    }

    /// The connection is ready, or an answer may have said that its server belongs to a cluster.
    pub(super) fn note_peer(&mut self, now: Instant) {
        let peer = Peer {
            in_cluster: self.channel.is_in_cluster(),
            one_each: self
                .channel
                .connection()
                .is_some_and(|connection| connection.is_cluster()),
        };
        self.queues.set_peer(now, peer);
    }

    /// Shows `see` when something is due.
    #[inline]
    pub(super) fn each_timeout(&self, mut see: impl FnMut(Option<Instant>)) {
        if self.channel.is_closed() {
            return;
        }
        // Bounds from below: a timeout that finds nothing due costs a turn, one that comes too late a promise.
        see(self.queues.earliest_deadline());
        see(self.calls_deadline.at());
        see(self.doubts.poll_timeout());
        see(self.channel.poll_timeout());
    }

    /// Whether something is encoded, or could be.
    pub(super) fn wants_write(&self) -> bool {
        if !self.channel.may_write() {
            return false;
        }
        self.channel.has_output()
            || (self.channel.is_ready() && (!self.calls.is_empty() || (self.queues.has_ready() && self.has_window())))
    }

    fn has_window(&self) -> bool {
        self.channel
            .connection()
            .is_some_and(|connection| has_window(connection, self.max_in_flight))
    }

    /// How many calls and items wait here, or are in flight, or in doubt.
    pub(super) fn open_work(&self) -> usize {
        let waiting = self.calls.len() + self.delayed.len() + self.queues.len();
        waiting + self.channel.in_flight() + self.doubts.len()
    }

    // ---- calls ----

    /// Lets a call wait, in the order of ids.
    pub(super) fn requeue_call(&mut self, call: Call<T>) {
        self.calls_deadline.add(call.attempt.deadline);
        self.calls.insert(call.id, call);
    }

    /// Lets a call wait until then.
    pub(super) fn delay_call(&mut self, until: Option<Instant>, call: Call<T>) {
        self.calls_deadline.add(earlier(until, call.attempt.deadline));
        self.delayed.insert(call.id, (until, call));
    }

    /// All calls that wait, in the order of their ids.
    pub(super) fn take_calls(&mut self) -> Vec<Call<T>> {
        let mut calls = std::mem::take(&mut self.calls);
        let delayed = std::mem::take(&mut self.delayed).into_iter();
        calls.extend(delayed.map(|(id, (_, call))| (id, call)));
        calls.into_values().collect()
    }

    /// The calls that waited for the admin revision go on.
    pub(super) fn release_admin_calls(&mut self) {
        for (id, (until, call)) in std::mem::take(&mut self.delayed) {
            match until {
                None => self.requeue_call(call),
                Some(_) => drop(self.delayed.insert(id, (until, call))),
            }
        }
    }

    /// The calls that waited for the admin revision wait in vain.
    pub(super) fn fail_admin_calls(&mut self, error: &Error, ledger: &mut Ledger<T>) {
        for (id, (until, call)) in std::mem::take(&mut self.delayed) {
            match until {
                None => ledger.finish_call(call, Err(error.clone())),
                Some(_) => drop(self.delayed.insert(id, (until, call))),
            }
        }
    }
}

/// Whether one more batch may be in flight. Where a frame holds one item, a call with many items has as many frames: it
/// is admitted as one request, so the bound of unanswered requests is kept here.
pub(super) fn has_window<W>(connection: &Connection<W>, max_in_flight: usize) -> bool {
    !connection.is_cluster() || connection.in_flight() < max_in_flight
}
