//! One socket's life: dialing, opening, TLS, the connection on it, its loss, and the next dial.
//!
//! A channel serves one machine ([`Requests`](crate::requests::Requests) or [`Consumer`](crate::consumer::Consumer)),
//! which decides what a loss means. `W` is what the machine keeps with a request until it is answered. Bytes and
//! instants come in through the `handle_*` methods; what they mean comes out of [`poll_event`](Channel::poll_event).
//!
//! # Invariants
//!
//! * The machine polls events after every input, under the same lock, until there are none: between an input and its
//!   events a channel may hold a connection that is over already (`ending`).
//! * A connection's end is reported once, by [`ChannelEvent::Lost`] or [`ChannelEvent::Left`], with everything that was
//!   in flight. Until the machine answers [`ChannelEvent::Lost`] with [`retry`](Channel::retry),
//!   [`give_up`](Channel::give_up) or [`shut`](Channel::shut), the channel does not dial.
//! * Sockets are counted (`Transport::epoch`). Buffers that belong to an earlier socket change nothing: what was written
//!   on it is settled when it is lost, and must not be counted on the next one.
//! * The writer slot has one owner. What it was handed counts as possibly written until it reports
//!   (`Connection::maybe_written`), so nothing that may have reached the server is ever reported as not sent.

mod burst;
mod cluster;
mod dialer;
mod leaving;
mod opening;
mod transport;
mod wire;

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::Endpoint;
use crate::connection::{Arrival, Broken, Connection, Expiry};
#[cfg(feature = "client")]
use crate::dialect::Dialect;
use crate::earliest_deadline::{earlier, is_due};
use crate::error::{Error, ErrorKind};
use crate::event::{ConnectionRole, Event, Traffic};
use crate::machine::Action;
use crate::message::QueueName;
use crate::random::Random;
use crate::response::{Push, Response};
use crate::shared::Shared;
use crate::simulation::TestHooks;
use crate::trace::ConnectionSpan;
use dialer::{Dialer, Phase};
use transport::Transport;

pub(crate) use dialer::{Plan, Target};

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Channel<W> {
    shared: Shared,
    /// For events and traces only: what the channel does follows from its `Target` and its machine.
    role: ConnectionRole,
    span: ConnectionSpan,
    random: Random,
    dialer: Dialer,
    transport: Transport,
    /// Boxed, as it is large and absent most of the time.
    connection: Option<Box<Connection<W>>>,
    /// The connection is over: what arrived before comes out first.
    ending: Option<Ending>,
    actions: VecDeque<Action>,
    /// What the driver sleeps until, so that only an earlier timeout has to wake it.
    sleeping_until: Option<Instant>,
    /// A silent connection was left for a new one: no news, unless the new one cannot be had.
    renewing: bool,
    hooks: TestHooks,
    pub(crate) traffic: Traffic,
}

/// How a connection ends.
#[derive(Debug)]
enum Ending {
    /// Lost, or never made.
    Lost(Error),
    /// After our goodbye.
    Left,
    /// There is no connection within the time that the first one may take.
    OpenedLate(Error),
}

/// What happened on a channel.
#[derive(Debug)]
pub(crate) enum ChannelEvent<W> {
    /// Opened and authenticated: requests may be sent.
    Ready,
    /// The admin revision is known now, or the probe did not say.
    AdminRevision(Result<(), Error>),
    /// A request was answered, or its answer is unusable.
    Answer { work: W, response: Result<Response, Error> },
    /// A request was refused without an effect, for a reason that no longer holds: send it again.
    Again(W),
    /// Deliveries.
    Push(Push),
    /// The connection, or the attempt to make one, is over.
    Lost(Lost<W>),
    /// The goodbye is done. Where another server was to be dialed then, that began.
    Left { redialing: bool },
    /// The first connection is late: there will be none.
    OpenedLate(Error),
}

/// A connection that is over.
#[derive(Debug)]
pub(crate) struct Lost<W> {
    pub(crate) error: Error,
    /// It was ready for requests.
    pub(crate) was_ready: bool,
    /// What was in flight, in the order in which it was encoded, and whether it may have been sent in full.
    pub(crate) works: Vec<(W, bool)>,
}

impl<W> Channel<W> {
    /// A channel that does not dial yet.
    pub(crate) fn new(shared: &Shared, role: ConnectionRole, target: Target, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            span: ConnectionSpan::new(&role),
            role,
            random: Random::new(seed),
            dialer: Dialer::new(target),
            transport: Transport::default(),
            connection: None,
            ending: None,
            actions: VecDeque::new(),
            sleeping_until: None,
            renewing: false,
            hooks: TestHooks::default(),
            traffic: Traffic::default(),
        }
    }

    // ---- looking in ----

    pub(crate) fn role(&self) -> &ConnectionRole {
        &self.role
    }

    pub(crate) fn span(&self) -> &ConnectionSpan {
        &self.span
    }

    /// The node of the current attempt or connection.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.dialer.endpoint()
    }

    /// The server, and the dialect of the connection to it if there is one.
    #[cfg(feature = "client")]
    pub(crate) fn whereabouts(&self) -> Option<(Endpoint, Option<Dialect>)> {
        let dialect = self.connection().map(Connection::dialect);
        Some((self.endpoint()?.clone(), dialect))
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.dialer.last_error.as_ref()
    }

    /// Requests can be encoded now.
    pub(crate) fn is_ready(&self) -> bool {
        self.dialer.is_ready()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.dialer.is_leaving()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.dialer.is_closed()
    }

    /// Whether the end was said inside TLS: nothing that arrives is decrypted any more.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_deaf(&self) -> bool {
        self.transport.tls.is_some() && self.transport.has_said_end()
    }

    pub(crate) fn connection(&self) -> Option<&Connection<W>> {
        self.connection.as_deref()
    }

    pub(crate) fn connection_mut(&mut self) -> Option<&mut Connection<W>> {
        self.connection.as_deref_mut()
    }

    /// Requests that were sent, or are being sent, and are not answered; abandoned ones do not count.
    pub(crate) fn in_flight(&self) -> usize {
        self.connection.as_deref().map_or(0, Connection::in_flight)
    }

    /// Whether the channel is over and its driver knows everything.
    pub(crate) fn is_terminated(&self) -> bool {
        // A driver ends as soon as this is true: with an action left, it would leave its socket open.
        self.is_closed() && self.connection.is_none() && self.actions.is_empty()
    }

    /// How many frames were read on this connection, including those that cause no event.
    pub(crate) fn frames_read(&self) -> u64 {
        self.connection.as_deref().map_or(0, Connection::frames)
    }

    pub(crate) fn set_test_hooks(&mut self, hooks: TestHooks) {
        self.hooks = hooks;
        if let Some(connection) = &mut self.connection {
            connection.set_test_hooks(hooks);
        }
    }

    /// What the channel holds, for simulations.
    #[cfg(feature = "simulation")]
    pub(crate) fn add_usage(&mut self, usage: &mut crate::simulation::Usage) {
        if let Some(connection) = &mut self.connection {
            usage.in_flight += Connection::in_flight(connection);
            usage.tombstones += connection.tombstones();
            usage.output += connection.out.len();
            usage.decoder += connection.decoder().capacity();
        }
    }

    // ---- what to do ----

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn actions(&self) -> usize {
        self.actions.len()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        earlier(
            self.dialer.poll_timeout(),
            self.connection.as_deref().and_then(Connection::poll_timeout),
        )
    }

    /// The driver's turn is over: it sleeps until then.
    pub(crate) fn note_sleep(&mut self, until: Option<Instant>) {
        self.sleeping_until = until;
    }

    /// Whether the driver has something to do for this channel, or has to wake before it planned to. `timeout`:
    /// [`poll_timeout`](Self::poll_timeout) and what the machine adds.
    pub(crate) fn needs_driver(&self, timeout: Option<Instant>) -> bool {
        self.sleeps_beyond(timeout) || self.has_work()
    }

    /// Whether the driver has something to do for this channel now.
    pub(crate) fn has_work(&self) -> bool {
        // The end counts as work, or a sleeping driver would not notice it, and never end.
        !self.actions.is_empty() || self.transport.wants_read_again() || self.is_terminated()
    }

    /// Whether the driver is to sleep when this is due.
    pub(crate) fn sleeps_beyond(&self, due: Option<Instant>) -> bool {
        // A driver that sleeps without a limit is woken for the first deadline there is.
        due.is_some_and(|at| self.sleeping_until.is_none_or(|until| at < until))
    }

    /// What happened, one thing at a time. `queue`: the consumer's, which names deliveries where the wire does not; none
    /// where nothing is consumed. `room`: for how many deliveries there is room.
    pub(crate) fn poll_event(
        &mut self,
        now: Instant,
        queue: Option<&QueueName>,
        room: usize,
    ) -> Option<ChannelEvent<W>> {
        // Without room nothing is decoded: what was read stays in the decoder, and the socket fills up behind it.
        while room > 0 && self.ending.is_none() {
            let arrival = match &mut self.connection {
                Some(connection) => connection.next_arrival(now, queue, room),
                None => Ok(None),
            };
            match arrival {
                Ok(Some(arrival)) => {
                    self.traffic.frames_received += match &arrival {
                        Arrival::Push { frames, .. } => *frames,
                        _ => 1,
                    };
                    if let Some(event) = self.take_arrival(now, arrival) {
                        return Some(event);
                    }
                }
                Ok(None) => match self.decrypt(now) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => self.break_off(now, Broken::new(error)),
                },
                Err(broken) => self.break_off(now, broken),
            }
        }
        // The end comes in the turn in which it was noted: callers see no connection between the two that is over and
        // looks usable.
        if self.ending.is_some() {
            return self.poll_ending(now, queue);
        }
        self.update_heartbeat(now, room > 0);
        None
    }

    fn take_arrival(&mut self, now: Instant, arrival: Arrival<W>) -> Option<ChannelEvent<W>> {
        Some(match arrival {
            Arrival::Ready => return self.note_ready(now).then_some(ChannelEvent::Ready),
            Arrival::AdminRevision(result) => ChannelEvent::AdminRevision(result),
            Arrival::Answer { work, response } => ChannelEvent::Answer { work, response },
            Arrival::Cluster(response) => {
                self.note_cluster(&response);
                return None;
            }
            Arrival::Again(work) => ChannelEvent::Again(work),
            Arrival::Push { push, .. } => ChannelEvent::Push(push),
            Arrival::Goodbye(text) => {
                let text = if text.is_empty() {
                    "the server says goodbye".to_owned()
                } else {
                    format!("the server says goodbye: {text}")
                };
                self.break_off(now, Broken::new(Error::new(ErrorKind::Disconnected, text)));
                return None;
            }
        })
    }

    /// The end of a connection, after the deliveries that arrived on it.
    fn poll_ending(&mut self, now: Instant, queue: Option<&QueueName>) -> Option<ChannelEvent<W>> {
        if let Some(push) = queue.and_then(|queue| self.poll_last_push(now, queue)) {
            return Some(ChannelEvent::Push(push));
        }
        match self.ending.take()? {
            Ending::Lost(error) => Some(ChannelEvent::Lost(self.finish_lost(now, error))),
            Ending::Left => Some(self.finish_leaving(now)),
            Ending::OpenedLate(error) => Some(ChannelEvent::OpenedLate(error)),
        }
    }

    /// Deliveries that arrived on a connection that is over, or about to be: room or no room, as they would be lost
    /// with it.
    pub(crate) fn poll_last_push(&mut self, now: Instant, queue: &QueueName) -> Option<Push> {
        while let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_ready()) {
            let pending = connection.decoder().pending().len();
            match connection.next_arrival(now, Some(queue), 1) {
                Ok(Some(Arrival::Push { push, .. })) => return Some(push),
                // Answers have no reader here: what a consumer asked is asked again on the next connection.
                Ok(Some(_)) => {}
                // One that cannot be decoded does not hide the next.
                Err(_) if connection.decoder().pending().len() < pending => {}
                Err(_) => return None,
                Ok(None) => {
                    if !matches!(self.decrypt(now), Ok(true)) {
                        return None;
                    }
                }
            }
        }
        None
    }

    // ---- time ----

    /// Time passed. Events may follow.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        // Before the deadline of the attempt, which is never later than this one: whoever waits for the first connection
        // is to hear of all attempts, and none is to follow.
        if is_due(self.dialer.open_by, now) {
            let error = self.late();
            self.dialer.last_error = Some(error.clone());
            self.dialer.open_by = None;
            self.ending = Some(Ending::OpenedLate(error));
            return;
        }
        match &self.dialer.phase {
            Phase::Pausing { until } if is_due(*until, now) => self.dial(now),
            Phase::Dialing { deadline, .. } | Phase::Opening { deadline, .. } if is_due(*deadline, now) => {
                // Earlier failures are in the summary.
                let error = self.late_attempt();
                self.break_off(now, Broken::new(error));
            }
            Phase::Leaving { until, .. } if is_due(*until, now) => self.ending = Some(Ending::Left),
            _ => {}
        }
        // The phase may have ended the connection just now. Then this changes nothing: the first reason stays.
        match self.connection_mut().map(|connection| connection.heartbeat(now)) {
            Some(Ok(true)) => self.transport.shrink(),
            Some(Err(broken)) => self.break_off(now, broken),
            Some(Ok(false)) | None => {}
        }
    }

    /// Lets `expire` settle requests whose deadline has passed. Events may follow.
    pub(crate) fn expire(&mut self, now: Instant, expire: impl FnMut(&mut W) -> Expiry) {
        if let Some(Err(broken)) = self.connection_mut().map(|connection| connection.expire(now, expire)) {
            self.break_off(now, broken);
        }
    }

    /// What the machine itself found wrong with the connection. Events follow.
    pub(crate) fn fail(&mut self, now: Instant, error: Error) {
        self.break_off(now, Broken::new(error));
    }

    /// The server does what it is asked: past failures count no more.
    pub(crate) fn note_success(&mut self) {
        self.dialer.note_success();
    }

    fn push_event(&self, event: Event) {
        self.shared.push_event(event);
    }
}

pub(crate) fn closed(what: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("{what} is closed"))
}
