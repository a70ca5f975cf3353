//! The machine of one subscription: it keeps a consumer subscribed, and holds its deliveries until they are taken.
//!
//! It owns one channel, as preamble servers allow one consumer per connection and have no way to cancel it
//! (docs/protocol/preamble.md 1.6). Drivers see it through the [`Machine`] trait. Acks and nacks are not its
//! business: they are requests ([`Requests`](crate::requests::Requests)), so that a slow consumer never holds up its own
//! acks.
//!
//! # The life of a delivery
//!
//! A push arrives on the channel; `deliveries` counts it, starts its lease and wakes whoever waits. It is taken with
//! [`take_leases`](Consumer::take_leases), which makes room, so that the driver reads on, and may grant
//! `credit`.
//!
//! # Invariants
//!
//! * What was received is handed out, whatever becomes of the connection: a connection that is over is decoded to its
//!   last delivery before it is dropped, room or no room.
//! * While there is no room, nothing is read, and neither silence nor missing heartbeats count.
//! * Deliveries are numbered here: one message may be delivered again before the answer to its nack arrives on another
//!   connection, so (queue, id) does not identify a delivery.
//! * The consumer's end is reported once, after the last delivery.

mod credit;
mod deliveries;
mod expired;
mod lease;
mod leases;
mod subscribe;

pub use lease::{Lease, LeaseGuard, ReleaseDelivery};
pub use leases::Leases;

use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelEvent, Lost, Plan, Target, closed};
use crate::config::ConsumerSettings;
use crate::earliest_deadline::earlier;
use crate::error::{Doing, Error, ErrorKind};
use crate::event::{ConnectionRole, State, Stats};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{Action, CallId, ChannelId, CloseReport, Completion, DialId, Machine, Reply};
use crate::message::{QueueName, Secret};
use crate::request::Op;
use crate::shared::Shared;
use crate::simulation::TestHooks;
#[cfg(feature = "client")]
use crate::{config::Endpoint, dialect::Dialect};
use deliveries::Deliveries;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Shared,
    queue: QueueName,
    settings: ConsumerSettings,
    channel: Channel<Asked>,
    deliveries: Deliveries<T>,
    /// The server confirmed this connection's consumer.
    active: bool,
    /// A consumer was confirmed before.
    was_open: bool,
    /// When a cluster said first that it does not know the queue, perhaps not yet.
    absent_since: Option<Instant>,
    /// When silence has lasted too long: of the server which has to confirm the consumer, or of the queue.
    idle_at: Option<Instant>,
    /// Who waits for the first confirmation.
    opened: Option<(CallId, T)>,
    completions: Vec<Completion<T>>,
    next_call: u64,
    stats: Stats,
    /// The latest instant seen.
    latest: Instant,
    hooks: TestHooks,
}

/// What a consumer's channel asks the server.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Whether the queue exists ([`ConsumerSettings::verify_queue`]).
    Queue,
    /// To be sent deliveries.
    Subscribe,
}

impl<T> Consumer<T> {
    /// The server, and the dialect of the connection to it if there is one.
    #[cfg(feature = "client")]
    pub(crate) fn whereabouts(&self) -> Option<(Endpoint, Option<Dialect>)> {
        self.channel.whereabouts()
    }

    /// A machine that dials at once. `opened` completes with [`Reply::Opened`] when the server confirmed the consumer,
    /// or with the error when it has not within the connect timeout.
    pub fn new(
        shared: &Shared,
        queue: QueueName,
        settings: ConsumerSettings,
        now: Instant,
        seed: u64,
        opened: Option<T>,
    ) -> Self {
        let role = ConnectionRole::Consumer(queue.clone());
        let mut consumer = Self {
            shared: shared.clone(),
            channel: Channel::new(shared, role, Target::LeaderOf(queue.clone()), seed),
            queue,
            settings,
            deliveries: Deliveries::new(),
            active: false,
            was_open: false,
            absent_since: None,
            idle_at: None,
            opened: None,
            completions: Vec::new(),
            next_call: 0,
            stats: Stats::default(),
            latest: now,
            hooks: TestHooks::default(),
        };
        let open_by = opened
            .as_ref()
            .and_then(|_| now.checked_add(shared.config().settings().connect_timeout));
        consumer.opened = opened.map(|token| (consumer.next_call_id(), token));
        // Its driver is started in any case, and ends as soon as it looks.
        if shared.state() == State::Closed {
            consumer.end(now, closed("the client"));
        } else {
            consumer.channel.begin(now, open_by);
        }
        consumer
    }

    fn next_call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId::new(self.next_call)
    }

    fn complete(&mut self, token: T, reply: Reply) {
        self.completions.push(Completion { token, reply });
    }

    // ---- what callers ask ----

    /// The caller is gone. Its token, if what it waited for has not come.
    pub fn abandon(&mut self, id: CallId) -> Option<T> {
        if self.opened.as_ref().is_some_and(|(opened, _)| *opened == id) {
            return self.opened.take().map(|(_, token)| token);
        }
        self.deliveries.abandon(id)
    }

    /// Stops receiving: the connection is closed, deliveries that were received stay available, then the
    /// consumer ends cleanly. Completes with [`Reply::Drained`].
    pub fn stop_consuming(&mut self, now: Instant, token: T) -> CallId {
        let id = self.next_call_id();
        self.deliveries.drained.push((id, token));
        self.stop(now, &closed("the consumer"));
        self.finish_turn(now);
        id
    }

    /// Closes the consumer with its client; completes with [`Reply::Closed`] at once, as nothing of it is unanswered.
    pub fn close(&mut self, now: Instant, _deadline: Duration, token: T) -> CallId {
        let id = self.next_call_id();
        self.abort(now);
        self.complete(token, Reply::Closed(CloseReport::default()));
        id
    }

    /// Closes without waiting. Deliveries that were received stay available.
    pub fn abort(&mut self, now: Instant) {
        self.stop(now, &closed("the client"));
        self.finish_turn(now);
    }

    fn stop(&mut self, now: Instant, error: &Error) {
        // Before the connection is dropped: what arrived on it is still handed out.
        self.take_last_pushes(now);
        self.complete_opened(Err(error.clone()));
        self.channel.shut(now, error.clone());
        self.note_unsubscribed();
        // After a goodbye more may arrive until the server closes; then the end comes with `ChannelEvent::Left`.
        if self.channel.is_closed() {
            self.end_deliveries(None);
        }
    }

    // ---- events ----

    /// Lets `change` do something to the channel, then takes in what came of it.
    fn with_channel(&mut self, now: Instant, change: impl FnOnce(&mut Channel<Asked>)) {
        let _span = self.channel.span().enter();
        change(&mut self.channel);
        self.take_events(now);
        self.finish_turn(now);
    }

    fn take_events(&mut self, now: Instant) {
        loop {
            // Asked for each event: every push takes some of it.
            let room = self.room();
            let Some(event) = self.channel.poll_event(now, Some(&self.queue), room) else {
                break;
            };
            self.handle_event(now, event);
        }
    }

    fn handle_event(&mut self, now: Instant, event: ChannelEvent<Asked>) {
        match event {
            ChannelEvent::Ready => self.begin_subscription(now),
            // Only the check of the queue asks for it.
            ChannelEvent::AdminRevision(Ok(())) => self.begin_subscription(now),
            ChannelEvent::AdminRevision(Err(error)) => self.handle_refused(now, error),
            ChannelEvent::Answer { work, response } => match work {
                Asked::Queue => self.handle_verified(now, response),
                Asked::Subscribe => self.handle_subscribed(now, response),
            },
            // Both have one number in every framed revision.
            ChannelEvent::Again(_) => {}
            ChannelEvent::Push(push) => self.handle_push(now, push),
            ChannelEvent::Lost(lost) => self.handle_lost(now, lost),
            ChannelEvent::Left { redialing: true } => self.note_unsubscribed(),
            ChannelEvent::Left { redialing: false } => {
                self.note_unsubscribed();
                self.end_deliveries(None);
            }
            ChannelEvent::OpenedLate(error) => self.end(now, error),
        }
    }

    fn handle_lost(&mut self, now: Instant, lost: Lost<Asked>) {
        let Lost { error, was_ready, .. } = lost;
        self.note_unsubscribed();
        // The first subscription is tried again in any case: its caller asked for a consumer, not for this connection.
        let ends_with_connection = self.was_open && !self.settings.resubscribe;
        // Deliveries that cannot be taken in would come again and again.
        let spoilt = was_ready && matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Protocol);
        let plan = if ends_with_connection || spoilt {
            Plan::End
        } else {
            self.channel.plan_after(&error)
        };
        match plan {
            Plan::Again(backoff) => self.channel.retry(now, backoff),
            Plan::GiveUp | Plan::End => {
                let error = self.channel.summarise(error);
                self.end(now, error);
            }
        }
    }

    /// The consumer is over: after the deliveries that wait, it ends with `error`.
    fn end(&mut self, now: Instant, error: Error) {
        let error = error.during(|| Doing::on_queue(Op::Consume, &self.queue));
        self.complete_opened(Err(error.clone()));
        self.end_deliveries(Some(error.clone()));
        self.channel.shut(now, error);
        self.note_unsubscribed();
    }

    fn complete_opened(&mut self, result: Result<(), Error>) {
        self.channel.note_opened();
        if let Some((_, token)) = self.opened.take() {
            self.complete(token, Reply::Opened(result));
        }
    }

    fn finish_turn(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
        self.publish_stats();
    }

    fn publish_stats(&mut self) {
        self.stats.drain_traffic(&mut self.channel.traffic);
        if !self.stats.is_zero() {
            self.shared.add_stats(&mut self.stats);
        }
    }

    // ---- for simulations ----

    /// Sets the test hooks, for this and all later connections.
    #[cfg(feature = "simulation")]
    pub fn set_test_hooks(&mut self, hooks: TestHooks) {
        self.hooks = hooks;
        self.channel.set_test_hooks(hooks);
    }

    /// Whether it says goodbye to its connection, and whether what arrives there is decrypted no more.
    #[cfg(feature = "simulation")]
    pub(crate) fn leaving(&self) -> (bool, bool) {
        (self.channel.is_leaving(), self.channel.is_deaf())
    }

    /// What the machine holds right now.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn usage(&mut self) -> crate::simulation::Usage {
        let mut usage = crate::simulation::Usage {
            deliveries: self.deliveries.len(),
            unclaimed: self.completions.len() + self.channel.actions(),
            ..Default::default()
        };
        self.channel.add_usage(&mut usage);
        usage
    }
}

impl<T> Machine for Consumer<T> {
    type Token = T;

    fn handle_dialed(&mut self, now: Instant, _: ChannelId, id: DialId, key: Result<Option<Secret>, Error>) {
        self.with_channel(now, |channel| channel.handle_dialed(now, id, key));
    }

    fn handle_dial_failed(&mut self, now: Instant, _: ChannelId, id: DialId, fault: Fault) {
        self.with_channel(now, |channel| channel.handle_dial_failed(now, id, fault));
    }

    fn handle_input(&mut self, now: Instant, _: ChannelId, buffer: ReadBuffer) {
        // Asked before the channel takes the buffer.
        let full = buffer.is_full();
        let mut taken = false;
        self.with_channel(now, |channel| taken = channel.handle_input(now, buffer));
        // Part of a large delivery: the queue is not silent, even if the whole takes longer than `idle_resubscribe`.
        if self.channel.take_delivering() {
            self.rearm_silence(now);
        }
        if taken {
            let room = self.has_room();
            self.channel.note_read(now, full, room);
        }
    }

    fn handle_eof(&mut self, now: Instant, _: ChannelId) {
        self.with_channel(now, |channel| channel.handle_eof(now));
    }

    fn handle_transport_error(&mut self, now: Instant, _: ChannelId, fault: Fault) {
        self.with_channel(now, |channel| channel.handle_transport_error(now, fault));
    }

    fn transmitted(&mut self, now: Instant, _: ChannelId, transmit: &mut Transmit, n: usize) {
        self.channel.transmitted(now, transmit, n);
        if !transmit.is_empty() {
            // The socket is full: it may be long until something else happens.
            self.publish_stats();
        }
    }

    fn transmit_failed(&mut self, now: Instant, _: ChannelId, transmit: Transmit, fault: Fault) {
        self.with_channel(now, |channel| channel.transmit_failed(now, &transmit, fault));
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.with_channel(now, |channel| {
            // Nobody waits for what a consumer asked: silence ends it (`check_silence`). The connection still counts the
            // ids that stay unanswered.
            channel.expire(now, |_| crate::connection::Expiry::Never);
            channel.handle_timeout(now);
        });
        self.check_silence(now);
        self.finish_turn(now);
    }

    fn abandon_channel(&mut self, now: Instant, _: ChannelId) {
        self.abort(now);
    }

    fn poll_action(&mut self, _: ChannelId) -> Option<Action> {
        self.channel.poll_action()
    }

    fn take_transmit(&mut self, now: Instant, _: ChannelId, _max: usize, transmit: &mut Transmit) -> bool {
        self.channel.may_write() && self.channel.take_transmit(now, transmit)
    }

    fn take_read_buffer(&mut self, _: ChannelId) -> Option<ReadBuffer> {
        let room = self.has_room();
        self.channel.take_read_buffer(room)
    }

    fn poll_timeout(&self, _: ChannelId) -> Option<Instant> {
        if !self.completions.is_empty() || self.channel.actions() > 0 {
            // Something waits for the driver. An instant that has passed makes it look at once, and this may read no
            // clock.
            return Some(self.latest);
        }
        if self.channel.is_closed() {
            return None;
        }
        // Where nothing is read, nothing can be heard: silence counts from when there is room again (`resume`).
        let silence = self.idle_at.filter(|_| self.channel.is_ready() && self.has_room());
        earlier(silence, self.channel.poll_timeout())
    }

    fn note_sleep(&mut self, _: ChannelId, until: Option<Instant>) {
        self.channel.note_sleep(until);
        self.publish_stats();
    }

    fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        into.append(&mut self.completions);
    }

    fn poll_new_channel(&mut self) -> Option<ChannelId> {
        None
    }

    fn abandon(&mut self, id: CallId) -> Option<T> {
        self.abandon(id)
    }

    fn channels(&self) -> impl Iterator<Item = ChannelId> + '_ {
        std::iter::once(ChannelId::MAIN)
    }

    fn needs_driver(&self, channel: ChannelId) -> bool {
        self.channel.needs_driver(self.poll_timeout(channel)) || self.wants_write(channel)
    }

    fn wants_read(&self, _: ChannelId) -> bool {
        self.channel.wants_read(self.has_room())
    }

    fn wants_write(&self, _: ChannelId) -> bool {
        self.channel.may_write() && self.channel.has_output()
    }

    fn has_actions(&self, _: ChannelId) -> bool {
        self.channel.actions() > 0
    }

    fn in_flight(&self, _: ChannelId) -> usize {
        self.channel.in_flight()
    }

    fn frames_read(&self, _: ChannelId) -> u64 {
        self.channel.frames_read()
    }

    fn is_terminated(&self, _: ChannelId) -> bool {
        self.channel.is_terminated() && self.completions.is_empty()
    }
}
