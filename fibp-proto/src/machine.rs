//! The contract between a machine and the drivers of its channels.
//!
//! A machine does no IO. One driver serves each of its channels: it opens sockets, moves bytes and sleeps. Both
//! machines, [`Requests`](crate::requests::Requests) and [`Consumer`](crate::consumer::Consumer), offer drivers the same
//! [`Machine`] trait.
//!
//! # A driver's turn
//!
//! Inputs carry `now`; outputs never do. Any call order is safe. A driver repeats, under the machine's one lock:
//!
//! 1. feed what happened to its channel: [`handle_dialed`](Machine::handle_dialed),
//!    [`handle_input`](Machine::handle_input), [`handle_eof`](Machine::handle_eof),
//!    [`transmitted`](Machine::transmitted), [`handle_timeout`](Machine::handle_timeout), …
//! 2. take what is to be done: [`poll_action`](Machine::poll_action) until `None`,
//!    [`drain_completions`](Machine::drain_completions), [`take_transmit`](Machine::take_transmit),
//!    [`take_read_buffer`](Machine::take_read_buffer), then [`poll_timeout`](Machine::poll_timeout) and
//!    [`note_sleep`](Machine::note_sleep);
//!
//! and then, unlocked, delivers the completions, dials, writes, reads and sleeps. Whoever had the lock, driver or
//! caller, then wakes the other drivers that [`needs_driver`](Machine::needs_driver) names, and starts one for each
//! channel that [`poll_new_channel`](Machine::poll_new_channel) names.
//!
//! # Waiters
//!
//! `Token` is the adapter's waiter. Every token that a machine is given comes back exactly once: in a [`Completion`],
//! from `abandon`, or never only if the machine itself is dropped (then the token is dropped with it). No machine drops
//! or wakes a token by itself, so none is woken while the lock is held.

use std::time::Instant;

use crate::config::Endpoint;
use crate::error::{Error, SendError};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::message::{MessageId, Secret};
use crate::response::Response;

/// About how much [`Machine::next_step`] encodes at a time, in bytes.
const STEP_SIZE: usize = 64 * 1024;

/// See the [module documentation](self).
pub trait Machine {
    /// The adapter's waiter.
    type Token;

    // ---- what happened ----

    /// The dial `id` succeeded: a TCP connection is open. `key` is what the configuration's credentials say now
    /// ([`Credentials::key`](crate::config::Credentials::key)); ask them before taking the machine's lock.
    fn handle_dialed(&mut self, now: Instant, channel: ChannelId, id: DialId, key: Result<Option<Secret>, Error>);

    /// The dial `id` failed.
    fn handle_dial_failed(&mut self, now: Instant, channel: ChannelId, id: DialId, fault: Fault);

    /// Bytes were read into the buffer from [`take_read_buffer`](Self::take_read_buffer). Return the buffer
    /// with this call even if nothing was read, which says that the socket had nothing; a buffer that
    /// [reports an empty socket](ReadBuffer::reports_empty) at once. `now` is when the reader was woken.
    fn handle_input(&mut self, now: Instant, channel: ChannelId, buffer: ReadBuffer);

    /// The peer closed its side.
    fn handle_eof(&mut self, now: Instant, channel: ChannelId);

    /// Reading or writing failed.
    fn handle_transport_error(&mut self, now: Instant, channel: ChannelId, fault: Fault);

    /// `n` bytes of `transmit` were taken by the socket. When `transmit` is empty afterwards, the writer slot
    /// is free again.
    fn transmitted(&mut self, now: Instant, channel: ChannelId, transmit: &mut Transmit, n: usize);

    /// Writing failed; returns the writer slot. What `transmit` still holds is not sent.
    fn transmit_failed(&mut self, now: Instant, channel: ChannelId, transmit: Transmit, fault: Fault);

    /// Time passed. Calling it early, late or often does no harm.
    fn handle_timeout(&mut self, now: Instant);

    /// The channel's driver is gone, as when its runtime is shut down: what waits for this channel fails or goes
    /// elsewhere.
    fn abandon_channel(&mut self, now: Instant, channel: ChannelId);

    // ---- what to do ----

    /// The next thing to do to the channel's socket.
    #[must_use]
    fn poll_action(&mut self, channel: ChannelId) -> Option<Action>;

    /// Moves up to about `max` bytes to write into `transmit` (encoding them now) and claims the writer slot;
    /// false when there is nothing to write, no connection, or the slot is taken.
    #[must_use]
    fn take_transmit(&mut self, now: Instant, channel: ChannelId, max: usize, transmit: &mut Transmit) -> bool;

    /// The buffer to read into; `None` while it is out, without a connection, or while input is not wanted
    /// (backpressure).
    #[must_use]
    fn take_read_buffer(&mut self, channel: ChannelId) -> Option<ReadBuffer>;

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    #[must_use]
    fn poll_timeout(&self, channel: ChannelId) -> Option<Instant>;

    /// Ends a driver's turn: it sleeps until `until` unless it is woken.
    fn note_sleep(&mut self, channel: ChannelId, until: Option<Instant>);

    /// Moves all completions to the back of `into`. Wake their tokens after unlocking.
    fn drain_completions(&mut self, into: &mut Vec<Completion<Self::Token>>);

    /// A channel that was opened since and has no driver yet.
    #[must_use]
    fn poll_new_channel(&mut self) -> Option<ChannelId>;

    // ---- both at once, for a driver that has one thread and a blocking socket ----

    /// All of a driver's turn but what it does without the lock: the next of the steps above, in their order. `transmit`
    /// is the driver's own, from one call to the next.
    #[must_use]
    fn next_step(&mut self, now: Instant, channel: ChannelId, transmit: &mut Transmit) -> Step<Self::Token> {
        if self.poll_timeout(channel).is_some_and(|due| due <= now) {
            self.handle_timeout(now);
        }
        let mut completions = Vec::new();
        self.drain_completions(&mut completions);
        if !completions.is_empty() {
            return Step::Complete(completions);
        }
        if let Some(action) = self.poll_action(channel) {
            if matches!(action, Action::Hangup) {
                // What was not written belongs to the connection that is gone.
                *transmit = Transmit::new();
            }
            return Step::Act(action);
        }
        if let Some(further) = self.poll_new_channel() {
            return Step::Serve(further);
        }
        if self.is_terminated(channel) {
            return Step::End;
        }
        if !transmit.is_empty() || self.take_transmit(now, channel, STEP_SIZE, transmit) {
            return Step::Write;
        }
        let buffer = self.take_read_buffer(channel);
        let until = self.poll_timeout(channel);
        self.note_sleep(channel, until);
        match buffer {
            Some(buffer) => Step::Read { buffer, until },
            None => Step::Sleep(until),
        }
    }

    /// A write ended: the socket took `n` bytes of `transmit`, which may be 0, or it failed.
    fn handle_written(
        &mut self,
        now: Instant,
        channel: ChannelId,
        transmit: &mut Transmit,
        result: Result<usize, Fault>,
    ) {
        match result {
            Ok(n) => self.transmitted(now, channel, transmit, n),
            Err(fault) => self.transmit_failed(now, channel, std::mem::take(transmit), fault),
        }
    }

    /// A read ended: the buffer with what it brought, and how many bytes that is: 0 at the end of the stream, `None` if there
    /// was nothing yet.
    fn handle_read(
        &mut self,
        now: Instant,
        channel: ChannelId,
        buffer: ReadBuffer,
        result: Result<Option<usize>, Fault>,
    ) {
        // Whatever happened: only a buffer that came back is handed out again.
        self.handle_input(now, channel, buffer);
        match result {
            Ok(Some(0)) => self.handle_eof(now, channel),
            Ok(_) => {}
            Err(fault) => self.handle_transport_error(now, channel, fault),
        }
    }

    // ---- callers ----

    /// The caller is gone. Its token, if what it waited for has not come; what was not sent yet is withdrawn, except for
    /// what promised to go out all the same.
    fn abandon(&mut self, id: CallId) -> Option<Self::Token>;

    // ---- looking in ----

    /// The channels that have, or are to have, a driver. The first is [`ChannelId::MAIN`].
    fn channels(&self) -> impl Iterator<Item = ChannelId> + '_;

    /// Whether the channel's driver has something to do that it does not know of yet: an action, a write,
    /// completions, an earlier timeout, input that is wanted again, or its own end.
    #[must_use]
    fn needs_driver(&self, channel: ChannelId) -> bool;

    /// Whether input is wanted: there is a connection and room for what it brings.
    #[must_use]
    fn wants_read(&self, channel: ChannelId) -> bool;

    /// Whether [`take_transmit`](Self::take_transmit) would have something to write.
    #[must_use]
    fn wants_write(&self, channel: ChannelId) -> bool;

    /// Whether there is something to do to the channel's socket.
    #[must_use]
    fn has_actions(&self, channel: ChannelId) -> bool;

    /// How many requests were sent, or are being sent, and are not answered; abandoned ones do not count.
    #[must_use]
    fn in_flight(&self, channel: ChannelId) -> usize;

    /// How many frames were read on the channel's connection, including those that cause no event: by this a driver knows
    /// when it has worked long enough at a time.
    #[must_use]
    fn frames_read(&self, channel: ChannelId) -> u64;

    /// Whether the channel is over for good: its driver may end once actions and completions are drained.
    #[must_use]
    fn is_terminated(&self, channel: ChannelId) -> bool;
}

/// Names a channel of a machine. Never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(crate) u32);

impl ChannelId {
    /// A machine's first channel, which is there from the start.
    pub const MAIN: Self = Self(0);
}

/// Names a call until it completes, for `abandon`. What waits for the same thing waits in the order of these ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// One more for each call of a machine.
    pub(crate) number: u64,
    /// The budget that the call is charged to, if its machine has several: where to look for it.
    pub(crate) budget: u32,
}

impl CallId {
    /// A call of a machine's own budget, the first.
    pub(crate) const fn new(number: u64) -> Self {
        Self { number, budget: 0 }
    }
}

/// Names a dial attempt of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DialId(pub(crate) u32);

/// Something to do to a channel's socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Resolve the endpoint and open a TCP connection, until `deadline` if there is one. Give up a dial that is
    /// under way. Answer with [`Machine::handle_dialed`] or [`Machine::handle_dial_failed`].
    Dial {
        /// To be returned with the result.
        id: DialId,
        /// Where to.
        endpoint: Endpoint,
        /// When to give up; `None`: no limit.
        deadline: Option<Instant>,
    },
    /// Shut down the writing half; go on reading.
    HalfClose,
    /// Close the socket, or give up the dial that is under way.
    Hangup,
}

/// What a driver with one thread and a blocking socket does next, without the lock ([`Machine::next_step`]).
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<T> {
    /// Wake these waiters.
    Complete(Vec<Completion<T>>),
    /// Do this to the socket. After a [`Hangup`](Action::Hangup) drop what is left of it; buffers that are out may be
    /// returned, which does nothing, or dropped.
    Act(Action),
    /// Begin another loop like this one, for a channel that is new.
    Serve(ChannelId),
    /// Write the driver's `transmit` once, then [`Machine::handle_written`].
    Write,
    /// Read once, until `until` at the latest, then [`Machine::handle_read`].
    Read {
        /// Where to.
        buffer: ReadBuffer,
        /// When to look again; `None`: when something comes.
        until: Option<Instant>,
    },
    /// Sleep until then, or until a caller asks the machine for something.
    Sleep(Option<Instant>),
    /// The channel is over for good.
    End,
}

/// A waiter's result, with the token that waited for it.
#[derive(Debug)]
#[must_use]
pub struct Completion<T> {
    /// The adapter's token.
    pub token: T,
    /// What it waited for.
    pub reply: Reply,
}

/// What a waiter waited for. Small, because most replies are: what is large and rare is boxed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The client is connected (or the consumer confirmed).
    Opened(Result<(), Error>),
    /// A request's answer; never [`Response::Error`].
    Response(Result<Box<Response>, Error>),
    /// One message's result.
    Enqueued(Result<MessageId, Box<SendError>>),
    /// Results in input order.
    EnqueuedMany(Vec<Result<MessageId, SendError>>),
    /// One ack's or nack's result.
    Settled(Result<(), Error>),
    /// Results in input order.
    SettledMany(Vec<Result<(), Error>>),
    /// There is room for a producer's message, and it is reserved; or why there is none.
    Room(Result<(), Error>),
    /// Everything handed to the producer before is settled: the first failure since the last flush, if any.
    Flushed(Result<(), Error>),
    /// A delivery waits, or the consumer has ended.
    Ready,
    /// The consumer stopped receiving.
    Drained,
    /// The machine is closed.
    Closed(CloseReport),
}

/// What became of the work that was open when a client was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// Confirmed by the broker.
    pub flushed: u64,
    /// Refused, or certainly not sent.
    pub failed: u64,
    /// Sent and not answered by the deadline.
    pub unknown: u64,
}

impl CloseReport {
    /// Adds another machine's report.
    pub fn merge(&mut self, other: Self) {
        self.flushed = self.flushed.saturating_add(other.flushed);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}
