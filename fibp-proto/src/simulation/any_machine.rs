//! Either machine, for drivers that serve both.

use std::time::{Duration, Instant};

use super::{TestHooks, Usage};
use crate::consumer::Consumer;
use crate::error::Error;
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{Action, CallId, ChannelId, Completion, DialId, Machine};
use crate::message::Secret;
use crate::requests::Requests;

/// Either machine. Everything is passed on to it.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyMachine<T> {
    /// A client's requests.
    Requests(Box<Requests<T>>),
    /// A subscription.
    Consumer(Box<Consumer<T>>),
}

/// Evaluates an expression with the machine that is there.
macro_rules! with {
    ($any:expr, $machine:ident => $value:expr) => {
        match $any {
            AnyMachine::Requests($machine) => $value,
            AnyMachine::Consumer($machine) => $value,
        }
    };
}

impl<T> From<Requests<T>> for AnyMachine<T> {
    fn from(requests: Requests<T>) -> Self {
        Self::Requests(Box::new(requests))
    }
}

impl<T> From<Consumer<T>> for AnyMachine<T> {
    fn from(consumer: Consumer<T>) -> Self {
        Self::Consumer(Box::new(consumer))
    }
}

impl<T> AnyMachine<T> {
    /// The machine, if it is that of a client's requests.
    pub fn requests(&mut self) -> Option<&mut Requests<T>> {
        match self {
            Self::Requests(requests) => Some(requests),
            Self::Consumer(_) => None,
        }
    }

    /// The machine, if it is that of a subscription.
    pub fn consumer(&mut self) -> Option<&mut Consumer<T>> {
        match self {
            Self::Requests(_) => None,
            Self::Consumer(consumer) => Some(consumer),
        }
    }

    /// Whether it is the machine of a subscription.
    #[must_use]
    pub const fn is_consumer(&self) -> bool {
        matches!(self, Self::Consumer(_))
    }

    /// Whether every channel is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        with!(self, machine => machine.channels().all(|channel| machine.is_terminated(channel)))
    }

    /// Whether it is the machine of a subscription that says goodbye to its connection, and whether its TLS has said the
    /// end, so that what arrives there is decrypted no more.
    #[must_use]
    pub fn leaving(&self) -> (bool, bool) {
        match self {
            Self::Requests(_) => (false, false),
            Self::Consumer(consumer) => consumer.leaving(),
        }
    }

    /// Closes the machine within `deadline`.
    pub fn close(&mut self, now: Instant, deadline: Duration, token: T) -> CallId {
        with!(self, machine => machine.close(now, deadline, token))
    }

    /// Closes the machine without waiting.
    pub fn abort(&mut self, now: Instant) {
        with!(self, machine => machine.abort(now));
    }

    /// Sets the test hooks, for this and all later connections.
    pub fn set_test_hooks(&mut self, hooks: TestHooks) {
        with!(self, machine => machine.set_test_hooks(hooks));
    }

    /// What the machine holds right now.
    #[must_use]
    pub fn usage(&mut self) -> Usage {
        with!(self, machine => machine.usage())
    }
}

impl<T> Machine for AnyMachine<T> {
    type Token = T;

    fn handle_dialed(&mut self, now: Instant, channel: ChannelId, id: DialId, key: Result<Option<Secret>, Error>) {
        with!(self, machine => machine.handle_dialed(now, channel, id, key));
    }

    fn handle_dial_failed(&mut self, now: Instant, channel: ChannelId, id: DialId, fault: Fault) {
        with!(self, machine => machine.handle_dial_failed(now, channel, id, fault));
    }

    fn handle_input(&mut self, now: Instant, channel: ChannelId, buffer: ReadBuffer) {
        with!(self, machine => machine.handle_input(now, channel, buffer));
    }

    fn handle_eof(&mut self, now: Instant, channel: ChannelId) {
        with!(self, machine => machine.handle_eof(now, channel));
    }

    fn handle_transport_error(&mut self, now: Instant, channel: ChannelId, fault: Fault) {
        with!(self, machine => machine.handle_transport_error(now, channel, fault));
    }

    fn transmitted(&mut self, now: Instant, channel: ChannelId, transmit: &mut Transmit, n: usize) {
        with!(self, machine => machine.transmitted(now, channel, transmit, n));
    }

    fn transmit_failed(&mut self, now: Instant, channel: ChannelId, transmit: Transmit, fault: Fault) {
        with!(self, machine => machine.transmit_failed(now, channel, transmit, fault));
    }

    fn handle_timeout(&mut self, now: Instant) {
        with!(self, machine => machine.handle_timeout(now));
    }

    fn abandon_channel(&mut self, now: Instant, channel: ChannelId) {
        with!(self, machine => machine.abandon_channel(now, channel));
    }

    fn poll_action(&mut self, channel: ChannelId) -> Option<Action> {
        with!(self, machine => machine.poll_action(channel))
    }

    fn take_transmit(&mut self, now: Instant, channel: ChannelId, max: usize, transmit: &mut Transmit) -> bool {
        with!(self, machine => machine.take_transmit(now, channel, max, transmit))
    }

    fn take_read_buffer(&mut self, channel: ChannelId) -> Option<ReadBuffer> {
        with!(self, machine => machine.take_read_buffer(channel))
    }

    fn poll_timeout(&self, channel: ChannelId) -> Option<Instant> {
        with!(self, machine => machine.poll_timeout(channel))
    }

    fn note_sleep(&mut self, channel: ChannelId, until: Option<Instant>) {
        with!(self, machine => machine.note_sleep(channel, until));
    }

    fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        with!(self, machine => machine.drain_completions(into));
    }

    fn poll_new_channel(&mut self) -> Option<ChannelId> {
        with!(self, machine => machine.poll_new_channel())
    }

    fn abandon(&mut self, id: CallId) -> Option<T> {
        with!(self, machine => machine.abandon(id))
    }

    fn channels(&self) -> impl Iterator<Item = ChannelId> + '_ {
        let channels: Vec<ChannelId> = with!(self, machine => machine.channels().collect());
        channels.into_iter()
    }

    fn needs_driver(&self, channel: ChannelId) -> bool {
        with!(self, machine => machine.needs_driver(channel))
    }

    fn wants_read(&self, channel: ChannelId) -> bool {
        with!(self, machine => machine.wants_read(channel))
    }

    fn wants_write(&self, channel: ChannelId) -> bool {
        with!(self, machine => machine.wants_write(channel))
    }

    fn has_actions(&self, channel: ChannelId) -> bool {
        with!(self, machine => machine.has_actions(channel))
    }

    fn in_flight(&self, channel: ChannelId) -> usize {
        with!(self, machine => machine.in_flight(channel))
    }

    fn frames_read(&self, channel: ChannelId) -> u64 {
        with!(self, machine => machine.frames_read(channel))
    }

    fn is_terminated(&self, channel: ChannelId) -> bool {
        with!(self, machine => machine.is_terminated(channel))
    }
}
