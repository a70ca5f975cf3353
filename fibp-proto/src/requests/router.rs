//! The routes, and which of them a request takes: the main one, or the one to the node that leads its queue.
//!
//! # Invariants
//!
//! * The first route is the main one, and stays.
//! * What moves from one route to another keeps its room, and takes its place in the ledger with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::batch_queue::Policy;
use super::batch_queues::BatchQueues;
use super::doubts::Doubts;
use super::ledger::Ledger;
use super::route::Route;
use super::run::{Payloads, Run};
use super::submit::closed;
use super::work::{Attempt, BatchKey, Call};
use crate::config::Endpoint;
use crate::directory::Purpose;
use crate::error::Error;
use crate::event::{Event, Stats};
use crate::machine::ChannelId;
use crate::message::QueueName;
use crate::random::Random;
use crate::request::Request;
use crate::shared::Shared;
use crate::simulation::TestHooks;

/// The place of the main route.
const MAIN: usize = 0;

/// How long to wait before asking again while a leader is being elected.
pub(super) const ELECTION_PAUSE: Duration = Duration::from_millis(200);

/// More routes than this to nodes are never kept: hints from servers cannot open any number of them.
const MAX_NODES: usize = 256;

/// As many routes as this stay open although nothing goes their way for a while.
const KEPT_NODES: usize = 16;

/// Beyond [`KEPT_NODES`], a route ends that was not chosen for this long. One that is used stays: in a cluster with more
/// leaders than that every request would end a route that the next one needs.
const IDLE: Duration = Duration::from_secs(10);

/// What becomes of a request that the node which got it does not lead.
pub(super) enum Next {
    Node(Endpoint),
    /// Back to the main route.
    Home,
    Later,
    GiveUp,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Router<T> {
    shared: Shared,
    random: Random,
    routes: Vec<Route<T>>,
    next_channel: u32,
    /// Channels that have no driver yet.
    pub(super) new_channels: VecDeque<ChannelId>,
    pub(super) hooks: TestHooks,
}

impl<T> Router<T> {
    pub(super) fn new(shared: &Shared, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            random: Random::new(seed),
            routes: vec![Route::main(shared, seed)],
            next_channel: 0,
            new_channels: VecDeque::new(),
            hooks: TestHooks::default(),
        }
    }

    // ---- the routes ----

    pub(super) fn main(&self) -> &Route<T> {
        #[expect(clippy::indexing_slicing, reason = "there is always a main route")]
        &self.routes[MAIN]
    }

    pub(super) fn main_mut(&mut self) -> &mut Route<T> {
        #[expect(clippy::indexing_slicing, reason = "there is always a main route")]
        &mut self.routes[MAIN]
    }

    pub(super) fn get(&self, channel: ChannelId) -> Option<&Route<T>> {
        self.routes.iter().find(|route| route.id == channel)
    }

    pub(super) fn get_mut(&mut self, channel: ChannelId) -> Option<&mut Route<T>> {
        self.routes.iter_mut().find(|route| route.id == channel)
    }

    /// The main one first, then those to nodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Route<T>> {
        self.routes.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Route<T>> {
        self.routes.iter_mut()
    }

    /// Forgets a route to a node if its channel is over, or `anyway`.
    pub(super) fn remove(&mut self, channel: ChannelId, anyway: bool) {
        // Invariant: a route whose channel is over holds nothing.
        self.routes.retain(|route| {
            route.id != channel || channel == ChannelId::MAIN || !(anyway || route.channel.is_terminated())
        });
    }

    /// Lets partial frames of a budget (or of all) go out now, on every route.
    pub(super) fn flush(&mut self, now: Instant, budget: Option<u32>) {
        for route in &mut self.routes {
            route.queues.flush(now, budget);
        }
    }

    /// The place of the route to a node, opened if there is none.
    fn route_to(&mut self, now: Instant, endpoint: Endpoint) -> usize {
        if self.main().channel.endpoint() == Some(&endpoint) {
            return MAIN;
        }
        let known = self.routes.iter().position(|route| {
            // One that is ending would lose what is put there: a new route to the same node is opened beside it.
            let takes_work = !route.channel.is_leaving();
            takes_work
                && route
                    .node
                    .as_ref()
                    .is_some_and(|node| !node.retiring && node.endpoint == endpoint)
        });
        let place = known.unwrap_or_else(|| self.open_route(now, endpoint));
        if let Some(node) = self.routes.get_mut(place).and_then(|route| route.node.as_mut()) {
            node.chosen = now;
        }
        place
    }

    fn open_route(&mut self, now: Instant, endpoint: Endpoint) -> usize {
        self.retire_idle(now);
        self.next_channel += 1;
        let id = ChannelId(self.next_channel);
        let mut route = Route::to_node(&self.shared, id, endpoint, now, self.random.seed());
        route.channel.set_test_hooks(self.hooks);
        // However long it takes: what waits here brings its deadlines along.
        route.channel.begin(now, None);
        self.routes.push(route);
        self.new_channels.push_back(id);
        self.routes.len() - 1
    }

    /// A further route is opened: those that are not used, or are too many, end once they have no work.
    fn retire_idle(&mut self, now: Instant) {
        let mut nodes: Vec<(Instant, ChannelId)> = self
            .routes
            .iter()
            .filter_map(|route| Some((route.node.as_ref().filter(|node| !node.retiring)?.chosen, route.id)))
            .collect();
        nodes.sort_unstable();
        // With the one that is opened.
        let count = nodes.len() + 1;
        let is_idle = |chosen: Instant| now.saturating_duration_since(chosen) >= IDLE;
        let idle = nodes.iter().take_while(|(chosen, _)| is_idle(*chosen)).count();
        let retired = idle
            .min(count.saturating_sub(KEPT_NODES))
            .max(count.saturating_sub(MAX_NODES));
        for (_, channel) in nodes.into_iter().take(retired) {
            if let Some(route) = self.get_mut(channel) {
                // What lingers there has nothing to wait for any more.
                route.queues.flush(now, None);
                if let Some(node) = &mut route.node {
                    node.retiring = true;
                }
            }
        }
    }

    /// Ends the routes that take no more work and have none.
    pub(super) fn check_retiring(&mut self, now: Instant) {
        for route in self.routes.iter_mut().skip(1) {
            if route.node.as_ref().is_some_and(|node| node.retiring)
                // Only then: what a channel has in flight is dropped when it is shut.
                && route.open_work() == 0
                && !route.channel.is_leaving()
            {
                route.channel.shut(now, closed("the connection"));
            }
        }
    }

    // ---- runs ----

    /// The batch queues of the route that leads to the queue of these.
    pub(super) fn queues_for(&mut self, now: Instant, payloads: &Payloads) -> Option<&mut BatchQueues<T>> {
        let place = match self.leader_elsewhere(payloads) {
            Some(leader) => self.route_to(now, leader),
            None => MAIN,
        };
        self.routes.get_mut(place).map(|route| &mut route.queues)
    }

    fn push_to(&mut self, now: Instant, place: usize, policy: Policy, run: Run<T>, ledger: &mut Ledger<T>) {
        if let Some(route) = self.routes.get_mut(place) {
            route.queues.push(now, policy, run, &mut ledger.places);
        }
    }

    /// Lets a run wait at the route to `endpoint`. It keeps its room.
    pub(super) fn send_run_to(&mut self, now: Instant, endpoint: Endpoint, run: Run<T>, ledger: &mut Ledger<T>) {
        let Some(policy) = ledger.budgets.policy(run.ticket.call.budget) else {
            return ledger.fail_closed(run);
        };
        let place = self.route_to(now, endpoint);
        self.push_to(now, place, policy, run, ledger);
    }

    /// A run comes back to the main route, which asks again: at once, as it may know better, but after a pause when
    /// that led nowhere before.
    pub(super) fn return_run(&mut self, now: Instant, run: Run<T>, ledger: &mut Ledger<T>) {
        if let Some(leader) = self.leader_elsewhere(&run.payloads) {
            return self.send_run_to(now, leader, run, ledger);
        }
        let Some(policy) = ledger.budgets.policy(run.ticket.call.budget) else {
            return ledger.fail_closed(run);
        };
        let held = run.ticket.attempt.is_in_circles().then(|| run.key().to_key());
        self.push_to(now, MAIN, policy, run, ledger);
        if let (Some(key), Some(until)) = (held, now.checked_add(ELECTION_PAUSE)) {
            self.main_mut().queues.hold(now, &key, until);
        }
    }

    /// Puts runs back where they came from.
    pub(super) fn put_back(
        &mut self,
        now: Instant,
        channel: ChannelId,
        key: BatchKey,
        runs: Vec<Run<T>>,
        ledger: &mut Ledger<T>,
    ) {
        match self.get_mut(channel) {
            Some(route) => route.put_back(now, key, runs, ledger),
            None => ledger.fail_runs(runs, &closed("the connection")),
        }
    }

    // ---- calls ----

    /// As [`send_run_to`](Self::send_run_to), for a call.
    pub(super) fn send_call_to(&mut self, now: Instant, endpoint: Endpoint, call: Call<T>) {
        let place = self.route_to(now, endpoint);
        if let Some(route) = self.routes.get_mut(place) {
            route.requeue_call(call);
        }
    }

    /// As [`return_run`](Self::return_run), for a call.
    pub(super) fn return_call(&mut self, now: Instant, call: Call<T>) {
        match now.checked_add(ELECTION_PAUSE).filter(|_| call.attempt.is_in_circles()) {
            Some(until) => self.main_mut().delay_call(Some(until), call),
            None => self.main_mut().requeue_call(call),
        }
    }

    /// The node at the end of `channel` is gone, or takes nothing: what waits there goes to the main route.
    pub(super) fn return_to_main(&mut self, now: Instant, channel: ChannelId, ledger: &mut Ledger<T>) {
        let Some(route) = self.get_mut(channel).filter(|route| route.id != ChannelId::MAIN) else {
            return;
        };
        let calls = route.take_calls();
        let runs = route.queues.drain();
        let doubts = std::mem::replace(&mut route.doubts, Doubts::new());
        self.main_mut().doubts.absorb(doubts);
        for mut call in calls {
            // The way that led nowhere counts, or nodes that name each other would pass it on for ever.
            call.attempt.hops += 1;
            self.return_call(now, call);
        }
        for mut run in runs {
            run.ticket.attempt.hops += 1;
            self.return_run(now, run, ledger);
        }
    }

    // ---- leaders ----

    /// The node that is known to lead a message's queue, if it is not the one that the main route goes to. Acks and nacks
    /// stay on the main route: every node takes them (docs/protocol/clusters.md 4).
    fn leader_elsewhere(&self, payloads: &Payloads) -> Option<Endpoint> {
        let Payloads::Messages(messages) = payloads else {
            return None;
        };
        let leader = self.shared.leader(Purpose::Requests, &messages.first()?.queue)?;
        (Some(&leader) != self.main().channel.endpoint()).then_some(leader)
    }

    /// Where a request goes that the node at the end of `channel` does not lead. `learned`: the leader that a consumer was
    /// sent to, as the framed dialect names none per item.
    pub(super) fn next_node(
        &mut self,
        channel: ChannelId,
        queue: Option<&QueueName>,
        error: &Error,
        attempt: Attempt,
        learned: Option<Endpoint>,
        stats: &mut Stats,
    ) -> Next {
        let Some((here, role)) = self
            .get(channel)
            .and_then(|route| Some((route.channel.endpoint()?.clone(), route.channel.role().clone())))
        else {
            return Next::Later;
        };
        let hinted = error
            .leader()
            .and_then(|hint| Endpoint::from_leader_hint(hint, &here).ok());
        match hinted.or(learned) {
            Some(leader) if leader != here => {
                if attempt.hops >= self.shared.config().settings().max_redirects {
                    return Next::GiveUp;
                }
                if let Some(queue) = queue {
                    self.shared.learn_leader(Purpose::Requests, queue, leader.clone());
                }
                stats.redirects += 1;
                self.shared.push_event(Event::Redirected {
                    connection: role,
                    to: leader.clone(),
                });
                Next::Node(leader)
            }
            // An election, or a node that names itself: the answer will change.
            _ => {
                if let (Some(queue), Some(route)) = (queue, self.get(channel)) {
                    route.channel.forget_stale_leader(queue);
                }
                // Work was sent here because this node was taken for the leader: the main server knows better.
                if channel == ChannelId::MAIN {
                    Next::Later
                } else {
                    Next::Home
                }
            }
        }
    }
}

/// The queue whose leader has to answer a request.
pub(crate) fn queue_of(request: &Request) -> Option<&QueueName> {
    match request {
        Request::QueueStats { queue } | Request::DeleteQueue { queue } => Some(queue),
        Request::Redrive { dlq, .. } => Some(dlq),
        Request::CreateQueue(spec) => Some(&spec.name),
        _ => None,
    }
}
