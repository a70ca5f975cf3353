//! The machine of one client: requests of every kind, batched, routed to the nodes of a cluster, answered, retried.
//!
//! It owns all channels that requests travel on: the main one, and one for each node that turned out to lead a queue.
//! Drivers see it through the [`Machine`] trait; callers through the methods here.
//!
//! # The life of a request
//!
//! `submit` lets a request in, as far as its `budget` has room, or parks it in line. What is let in waits at a
//! `route`, which the `router` chooses: a call by itself, messages and settles as a `run` in the `batch_queue` of their queue. When the route's driver is
//! ready to write, `encode` makes frames of what waits. `answers` ends what was answered, or sends it elsewhere;
//! `lost` does so with what was in flight on a lost connection; `deadlines` ends what is late. Whatever ends a
//! request, the `ledger` completes its waiter and gives its room back.
//!
//! # Invariants
//!
//! * Every request is in exactly one place: parked in its budget, waiting at one route, in flight on one route's
//!   channel, or, after an answer that may mean two things, in that route's `doubts`. It moves between routes under
//!   this machine's lock, and takes its place in its budget with it.
//! * Whatever waits in one place waits in the order of call ids; searches rely on it. What comes back from a connection
//!   is put where its id belongs, not at the end.
//! * Room is given back once for each time it was taken, whoever still waits.

mod abandon;
mod answers;
mod batch_queue;
mod batch_queues;
mod budget;
mod budgets;
mod closing;
mod deadlines;
mod doubts;
mod encode;
mod few;
mod item_results;
mod join;
mod ledger;
mod line;
mod lost;
mod places;
mod producers;
mod route;
mod router;
mod run;
mod settle;
mod submit;
mod unleased;
#[cfg(feature = "simulation")]
mod usage;
mod work;

pub use producers::ProducerId;
pub use settle::Settle;

use std::time::Instant;

use crate::channel::ChannelEvent;
use crate::earliest_deadline::EarliestDeadline;
use crate::error::{Error, ErrorKind};
use crate::event::{State, Stats};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{Action, CallId, ChannelId, Completion, DialId, Machine, Reply};
use crate::message::Secret;
use crate::shared::Shared;
use closing::Closing;
use ledger::Ledger;
use route::Route;
use router::Router;
#[cfg(feature = "client")]
pub(crate) use router::queue_of;
#[cfg(feature = "sink")]
pub(crate) use run::cost_of_message;
use work::InFlight;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Requests<T> {
    shared: Shared,
    router: Router<T>,
    ledger: Ledger<T>,
    /// Who waits for the first connection.
    opened: Option<(CallId, T)>,
    next_call: u64,
    /// The latest instant seen.
    latest: Instant,
}

impl<T> Requests<T> {
    /// A machine that dials at once. `opened` completes with [`Reply::Opened`] when the connection is ready for
    /// requests, or with the error when it can't be within the connect timeout.
    pub fn new(shared: &Shared, now: Instant, seed: u64, opened: Option<T>) -> Self {
        let mut requests = Self {
            shared: shared.clone(),
            router: Router::new(shared, seed),
            ledger: Ledger::new(shared),
            opened: None,
            next_call: 0,
            latest: now,
        };
        let timeout = shared.config().settings().connect_timeout;
        let open_by = opened.as_ref().and_then(|_| now.checked_add(timeout));
        requests.opened = opened.map(|token| (requests.next_call_id(), token));
        requests.router.main_mut().channel.begin(now, open_by);
        requests
    }

    fn next_call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId::new(self.next_call)
    }

    /// The id of a call that is charged to a producer's budget.
    fn next_call_id_of(&mut self, producer: ProducerId) -> CallId {
        CallId {
            budget: producer.0,
            ..self.next_call_id()
        }
    }

    /// The gauges of [`Stats`]: what the machine holds now.
    #[must_use]
    pub fn gauges(&self) -> Stats {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let ready = self.router.iter().filter(|route| route.channel.is_ready());
        let budgets = self.ledger.budgets.iter();
        Stats {
            open_connections: count(ready.count()),
            in_flight: count(self.router.iter().map(|route| route.channel.in_flight()).sum()),
            queued_bytes: count(budgets.map(|budget| budget.charged().1).sum()),
            ..Stats::default()
        }
    }

    // ---- routes ----

    /// Where a request about a queue goes now, as far as that is known: the server, and the dialect of the connection to
    /// it.
    #[cfg(feature = "client")]
    pub(crate) fn whereabouts(
        &self,
        op: crate::request::Op,
        queue: Option<&crate::message::QueueName>,
    ) -> Option<(crate::config::Endpoint, Option<crate::dialect::Dialect>)> {
        use crate::directory::Purpose;
        use crate::request::Op;

        let leader = match op {
            // They stay on the main route, whoever leads.
            Op::Ack | Op::Nack => None,
            _ => queue.and_then(|queue| self.shared.leader(Purpose::Requests, queue)),
        };
        let to_leader = leader.and_then(|leader| {
            let mut routes = self.router.iter();
            routes.find(|route| route.channel.endpoint() == Some(&leader))
        });
        to_leader.unwrap_or_else(|| self.router.main()).channel.whereabouts()
    }

    /// A route, and what is owed to those whose requests it ends.
    fn route_and_ledger(&mut self, channel: ChannelId) -> Option<(&mut Route<T>, &mut Ledger<T>)> {
        Some((self.router.get_mut(channel)?, &mut self.ledger))
    }

    // ---- events ----

    /// Lets `change` do something to a channel, then takes in what came of it.
    fn with_channel(&mut self, now: Instant, channel: ChannelId, change: impl FnOnce(&mut Route<T>)) {
        let Some(route) = self.router.get_mut(channel) else {
            return;
        };
        let _span = route.channel.span().enter();
        change(route);
        self.take_events(now, channel);
        self.finish_turn(now);
    }

    fn take_events(&mut self, now: Instant, channel: ChannelId) {
        // Looked up for each event: the last one may have ended the route.
        while let Some(event) = self
            .router
            .get_mut(channel)
            .and_then(|route| route.channel.poll_event(now, None, usize::MAX))
        {
            self.handle_event(now, channel, event);
        }
    }

    fn handle_event(&mut self, now: Instant, channel: ChannelId, event: ChannelEvent<InFlight<T>>) {
        match event {
            ChannelEvent::Ready => {
                if let Some(route) = self.router.get_mut(channel) {
                    route.note_peer(now);
                }
                if channel == ChannelId::MAIN {
                    self.shared.set_state(State::Connected);
                    self.complete_opened(Ok(()));
                }
            }
            ChannelEvent::Left { .. } => {}
            ChannelEvent::AdminRevision(result) => {
                if let Some((route, ledger)) = self.route_and_ledger(channel) {
                    match result {
                        Ok(()) => route.release_admin_calls(),
                        Err(error) => {
                            let error = route.channel.place(error);
                            route.fail_admin_calls(&error, ledger);
                        }
                    }
                }
            }
            ChannelEvent::Answer { work, response } => self.handle_answer(now, channel, work, response),
            ChannelEvent::Again(work) => self.send_again(now, channel, work),
            ChannelEvent::Push(_) => {
                let text = "deliveries arrived on a connection without a consumer";
                if let Some(route) = self.router.get_mut(channel) {
                    route.channel.fail(now, Error::new(ErrorKind::Protocol, text));
                }
            }
            ChannelEvent::Lost(lost) => self.handle_lost(now, channel, lost),
            ChannelEvent::OpenedLate(error) => self.end(now, error),
        }
    }

    fn complete_opened(&mut self, result: Result<(), Error>) {
        self.router.main_mut().channel.note_opened();
        if let Some((_, token)) = self.opened.take() {
            self.ledger.complete(token, Reply::Opened(result));
        }
    }

    /// Ends a turn: what has room now comes in, what is done ends, counters are handed over.
    fn finish_turn(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
        self.pursue_doubts(now);
        // In this order: what is let in now is work that keeps a route from retiring, and a close from ending.
        self.settle_budgets(now);
        self.router.check_retiring(now);
        self.check_closing(now);
        self.publish_stats();
    }

    fn publish_stats(&mut self) {
        for route in self.router.iter_mut() {
            self.ledger.stats.drain_traffic(&mut route.channel.traffic);
        }
        self.ledger.publish_stats();
    }

    /// Shows `see` when something is due on a route. What is no single route's is due on the main one.
    #[inline]
    fn each_timeout(&self, route: &Route<T>, mut see: impl FnMut(Option<Instant>)) {
        if self.ledger.has_completions() || route.channel.actions() > 0 {
            // What came up since they were drained, such as the refusal of a message that cannot be encoded, is
            // worth another turn.
            return see(Some(self.latest));
        }
        route.each_timeout(&mut see);
        if route.id == ChannelId::MAIN {
            see(self.ledger.closing.as_ref().and_then(Closing::poll_timeout));
            if !route.channel.is_closed() {
                see(self.ledger.budgets.poll_timeout());
            }
        }
    }
}

impl<T> Machine for Requests<T> {
    type Token = T;

    fn handle_dialed(&mut self, now: Instant, channel: ChannelId, id: DialId, key: Result<Option<Secret>, Error>) {
        self.with_channel(now, channel, |route| route.channel.handle_dialed(now, id, key));
    }

    fn handle_dial_failed(&mut self, now: Instant, channel: ChannelId, id: DialId, fault: Fault) {
        self.with_channel(now, channel, |route| route.channel.handle_dial_failed(now, id, fault));
    }

    fn handle_input(&mut self, now: Instant, channel: ChannelId, buffer: ReadBuffer) {
        // A full buffer says that the socket may hold more: the burst of deliveries goes on.
        let full = buffer.is_full();
        let mut taken = false;
        self.with_channel(now, channel, |route| taken = route.channel.handle_input(now, buffer));
        if taken && let Some(route) = self.router.get_mut(channel) {
            route.channel.note_read(now, full, true);
        }
    }

    fn handle_eof(&mut self, now: Instant, channel: ChannelId) {
        self.with_channel(now, channel, |route| route.channel.handle_eof(now));
    }

    fn handle_transport_error(&mut self, now: Instant, channel: ChannelId, fault: Fault) {
        self.with_channel(now, channel, |route| route.channel.handle_transport_error(now, fault));
    }

    fn transmitted(&mut self, now: Instant, channel: ChannelId, transmit: &mut Transmit, n: usize) {
        match self.router.get_mut(channel) {
            Some(route) => route.channel.transmitted(now, transmit, n),
            // The route is gone, and what it had in flight is settled.
            None => transmit.clear(),
        }
        if !transmit.is_empty() {
            // The socket is full: it may be long until something else happens.
            self.publish_stats();
        }
    }

    fn transmit_failed(&mut self, now: Instant, channel: ChannelId, transmit: Transmit, fault: Fault) {
        self.with_channel(now, channel, |route| {
            route.channel.transmit_failed(now, &transmit, fault);
        });
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
        // First: what is late fails for that reason, not because its connection ends in the same turn.
        self.expire(now);
        let channels: Vec<ChannelId> = self.channels().collect();
        for channel in channels {
            if let Some(route) = self.router.get_mut(channel) {
                let _span = route.channel.span().enter();
                route.channel.handle_timeout(now);
                self.take_events(now, channel);
            }
        }
        self.finish_turn(now);
    }

    fn abandon_channel(&mut self, now: Instant, channel: ChannelId) {
        if channel == ChannelId::MAIN {
            self.abort(now);
            return;
        }
        self.with_channel(now, channel, |route| {
            route.channel.fail(
                now,
                Error::new(ErrorKind::Disconnected, "the connection's driver is gone"),
            );
        });
        // Its work went to the main route with the loss. No driver will take the actions that are left.
        self.router.remove(channel, true);
    }

    fn poll_action(&mut self, channel: ChannelId) -> Option<Action> {
        let action = self.router.get_mut(channel)?.channel.poll_action();
        // The driver has seen everything: a route that is over may be forgotten.
        if action.is_none() && channel != ChannelId::MAIN {
            self.router.remove(channel, false);
        }
        action
    }

    fn take_transmit(&mut self, now: Instant, channel: ChannelId, max: usize, transmit: &mut Transmit) -> bool {
        self.route_and_ledger(channel)
            .is_some_and(|(route, ledger)| route.take_transmit(now, max, transmit, ledger))
    }

    fn take_read_buffer(&mut self, channel: ChannelId) -> Option<ReadBuffer> {
        self.router.get_mut(channel)?.channel.take_read_buffer(true)
    }

    fn poll_timeout(&self, channel: ChannelId) -> Option<Instant> {
        let Some(route) = self.router.get(channel) else {
            return self.ledger.has_completions().then_some(self.latest);
        };
        let mut earliest = EarliestDeadline::default();
        self.each_timeout(route, |at| earliest.add(at));
        earliest.at()
    }

    fn note_sleep(&mut self, channel: ChannelId, until: Option<Instant>) {
        if let Some(route) = self.router.get_mut(channel) {
            route.channel.note_sleep(until);
        }
        self.publish_stats();
    }

    fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        self.ledger.drain_completions(into);
    }

    fn poll_new_channel(&mut self) -> Option<ChannelId> {
        self.router.new_channels.pop_front()
    }

    fn abandon(&mut self, id: CallId) -> Option<T> {
        self.abandon(id)
    }

    fn channels(&self) -> impl Iterator<Item = ChannelId> + '_ {
        self.router.iter().map(|route| route.id)
    }

    fn needs_driver(&self, channel: ChannelId) -> bool {
        let Some(route) = self.router.get(channel) else {
            return false;
        };
        let starts_others = channel == ChannelId::MAIN && !self.router.new_channels.is_empty();
        if starts_others || route.channel.has_work() || route.wants_write() {
            return true;
        }
        // Whether any is due too early, not which is the earliest: this is asked after every call.
        let mut late = false;
        self.each_timeout(route, |at| late |= route.channel.sleeps_beyond(at));
        late
    }

    fn wants_read(&self, channel: ChannelId) -> bool {
        self.router
            .get(channel)
            .is_some_and(|route| route.channel.wants_read(true))
    }

    fn wants_write(&self, channel: ChannelId) -> bool {
        self.router.get(channel).is_some_and(Route::wants_write)
    }

    fn has_actions(&self, channel: ChannelId) -> bool {
        self.router
            .get(channel)
            .is_some_and(|route| route.channel.actions() > 0)
    }

    fn in_flight(&self, channel: ChannelId) -> usize {
        self.router.get(channel).map_or(0, |route| route.channel.in_flight())
    }

    fn frames_read(&self, channel: ChannelId) -> u64 {
        self.router.get(channel).map_or(0, |route| route.channel.frames_read())
    }

    fn is_terminated(&self, channel: ChannelId) -> bool {
        match self.router.get(channel) {
            Some(route) => {
                route.channel.is_terminated() && (channel != ChannelId::MAIN || !self.ledger.has_completions())
            }
            None => true,
        }
    }
}
