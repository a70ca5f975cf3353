//! One logical connection that survives reconnects: the only thing an adapter drives.
//!
//! # Driving a link
//!
//! Inputs carry `now`; outputs never do. Any call order is safe. A driver repeats, under one lock:
//!
//! 1. feed what happened: [`handle_dialed`](Link::handle_dialed), [`handle_input`](Link::handle_input),
//!    [`handle_eof`](Link::handle_eof), [`transmitted`](Link::transmitted),
//!    [`handle_timeout`](Link::handle_timeout), …
//! 2. take what is to be done: [`poll_action`](Link::poll_action) until `None`,
//!    [`drain_completions`](Link::drain_completions), [`take_transmit`](Link::take_transmit),
//!    [`take_read_buffer`](Link::take_read_buffer), [`poll_timeout`](Link::poll_timeout);
//!
//! and then, unlocked, wakes the completed waiters, dials, writes, reads and sleeps. Calls from user code
//! ([`call`](Link::call), [`enqueue`](Link::enqueue), …) may come at any moment between; after one, the driver
//! must take another turn if [`needs_driver`](Link::needs_driver).
//!
//! # Waiters
//!
//! `T` is the adapter's waiter token. Every token given to a link comes back exactly once: in a
//! [`Completion`], from [`abandon`](Link::abandon), or never only if the link itself is dropped (then the
//! token is dropped with it).

mod completion;
mod nodes;
mod settle;

pub use completion::{Action, CallId, CloseReport, Completion, DialId, Reply};
pub use nodes::Nodes;

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::config::{ConsumerSettings, Endpoint, ProducerSettings};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::message::{Message, QueueName};
use crate::request::Request;
use crate::shared::Shared;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Link<T> {
    token: PhantomData<T>,
}

#[allow(unused_variables)]
impl<T> Link<T> {
    // ---- construction ----

    /// A link for requests. It dials at once; `opened` completes with [`Reply::Opened`] when the connection
    /// is ready for requests, or with the error when it can't be within the connect timeout.
    pub fn requests(shared: &Shared, now: Instant, seed: u64, opened: Option<T>) -> Self {
        todo!()
    }

    /// A further link for requests, to one node of the cluster ([`Action::Reroute`]).
    pub fn requests_to(shared: &Shared, endpoint: Endpoint, now: Instant, seed: u64) -> Self {
        todo!()
    }

    /// A link for one consumer. `opened` completes with [`Reply::Opened`] when the server confirmed it.
    pub fn consumer(
        shared: &Shared,
        queue: QueueName,
        settings: ConsumerSettings,
        now: Instant,
        seed: u64,
        opened: Option<T>,
    ) -> Self {
        todo!()
    }

    // ---- what happened ----

    /// The dial `id` succeeded: a TCP connection is open. `key` is what the configuration's credentials say now
    /// ([`Credentials::key`](crate::config::Credentials::key)); ask them before taking the lock this link is under.
    pub fn handle_dialed(&mut self, now: Instant, id: DialId, key: Result<Option<crate::Secret>, crate::Error>) {
        todo!()
    }

    /// The dial `id` failed.
    pub fn handle_dial_failed(&mut self, now: Instant, id: DialId, fault: Fault) {
        todo!()
    }

    /// Bytes were read into the buffer from [`take_read_buffer`](Self::take_read_buffer). Return the buffer
    /// with this call even if nothing was read.
    pub fn handle_input(&mut self, now: Instant, buffer: ReadBuffer) {
        todo!()
    }

    /// The peer closed its side.
    pub fn handle_eof(&mut self, now: Instant) {
        todo!()
    }

    /// Reading or writing failed.
    pub fn handle_transport_error(&mut self, now: Instant, fault: Fault) {
        todo!()
    }

    /// `n` bytes of `transmit` were taken by the socket. When `transmit` is empty afterwards, the writer slot
    /// is free again.
    pub fn transmitted(&mut self, now: Instant, transmit: &mut Transmit, n: usize) {
        todo!()
    }

    /// Writing failed; returns the writer slot. What `transmit` still holds is not sent.
    pub fn transmit_failed(&mut self, now: Instant, transmit: Transmit, fault: Fault) {
        todo!()
    }

    /// Time passed. Calling it early, late or often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    // ---- what to do ----

    /// The next thing to do to the transport.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        todo!()
    }

    /// Moves up to about `max` bytes to write into `transmit` (encoding them now) and claims the writer slot;
    /// false when there is nothing to write, no connection, or the slot is taken.
    #[must_use]
    pub fn take_transmit(&mut self, now: Instant, max: usize, transmit: &mut Transmit) -> bool {
        todo!()
    }

    /// Whether [`take_transmit`](Self::take_transmit) would have something to write now.
    pub fn wants_write(&self, now: Instant) -> bool {
        todo!()
    }

    /// The buffer to read into; `None` while it is out, without a connection, or while input is not wanted
    /// (backpressure).
    #[must_use]
    pub fn take_read_buffer(&mut self) -> Option<ReadBuffer> {
        todo!()
    }

    /// Whether input is wanted: there is a connection and room for what it brings.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        todo!()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        todo!()
    }

    /// Moves all completions to the back of `into`. Wake their tokens after unlocking.
    pub fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        todo!()
    }

    /// Whether a call from user code left something for the driver: an action, a write, completions, an
    /// earlier timeout, or input wanted again. Cleared by the driver's next turn
    /// ([`poll_timeout`](Self::poll_timeout) ends a turn).
    #[must_use]
    pub fn needs_driver(&self) -> bool {
        todo!()
    }

    /// How many requests were sent, or are being sent, and are not answered; abandoned ones count until their
    /// answer or deadline.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        todo!()
    }

    /// Whether the link is done for good: the driver may end once completions and actions are drained.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        todo!()
    }

    // ---- what callers ask ----

    /// One request; completes with [`Reply::Response`]. `timeout` overrides the configured request timeout.
    pub fn call(&mut self, now: Instant, request: Request, timeout: Option<Duration>, token: T) -> CallId {
        todo!()
    }

    /// One message through the client's own accumulator; completes with [`Reply::Enqueued`].
    pub fn enqueue(&mut self, now: Instant, message: Message, timeout: Option<Duration>, token: T) -> CallId {
        todo!()
    }

    /// Many messages, any mix of queues; completes with [`Reply::EnqueuedMany`], results in input order.
    pub fn enqueue_many(
        &mut self,
        now: Instant,
        messages: Vec<Message>,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        todo!()
    }

    /// One ack or nack; completes with [`Reply::Settled`].
    pub fn settle(&mut self, now: Instant, settle: Settle, timeout: Option<Duration>, token: T) -> CallId {
        todo!()
    }

    /// Many acks and nacks; completes with [`Reply::SettledMany`], results in input order.
    pub fn settle_many(&mut self, now: Instant, settles: Vec<Settle>, timeout: Option<Duration>, token: T) -> CallId {
        todo!()
    }

    /// A producer with an accumulator of its own.
    pub fn open_producer(&mut self, settings: ProducerSettings) -> ProducerId {
        todo!()
    }

    /// The producer's last handle is gone: what it holds is still sent.
    pub fn close_producer(&mut self, producer: ProducerId) {
        todo!()
    }

    /// Hands a message to a producer. `admitted` completes with [`Reply::Admitted`] once the message is in the
    /// buffer (at once if there is room, later or with an error per `on_full`), `receipt` with
    /// [`Reply::Enqueued`] when the broker answered. If admission fails, only `admitted` completes, and
    /// `receipt` comes back inside it.
    pub fn send(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
        admitted: T,
        receipt: T,
    ) -> CallId {
        todo!()
    }

    /// Hands a message to a producer if there is room right now.
    ///
    /// # Errors
    ///
    /// The message and the token back: `Overloaded` when the buffer is full, `Closed` after a close.
    pub fn try_send(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
        receipt: T,
    ) -> Result<CallId, (crate::SendError, T)> {
        todo!()
    }

    /// Sends what the producer holds without lingering; completes with [`Reply::Flushed`] when everything
    /// handed to it before this call is settled.
    pub fn flush(&mut self, now: Instant, producer: ProducerId, timeout: Option<Duration>, token: T) -> CallId {
        todo!()
    }

    /// The caller is gone. Its token, if the call was still open; what was not sent yet is withdrawn, except
    /// for receipts of producers.
    pub fn abandon(&mut self, id: CallId) -> Option<T> {
        todo!()
    }

    /// Accepts work that another link handed over with [`Action::Reroute`].
    pub fn accept(&mut self, now: Instant, parcel: Parcel<T>) {
        todo!()
    }

    /// Flushes, waits for answers, then closes; completes with [`Reply::Closed`] by `now + deadline` at the
    /// latest. Later calls fail with `Closed`.
    pub fn close(&mut self, now: Instant, deadline: Duration, token: T) -> CallId {
        todo!()
    }

    /// Closes without waiting: everything open fails with `Closed`. For the last handle's drop.
    pub fn abort(&mut self, now: Instant) {
        todo!()
    }

    // ---- consumers ----

    /// Takes up to `max` received deliveries, oldest first. Frees room, so the driver may have to read again.
    pub fn take_deliveries(&mut self, now: Instant, max: usize, into: &mut std::collections::VecDeque<Lease>) -> usize {
        todo!()
    }

    /// The state of the consumer when no delivery waits: `None` while more may come, `Some(None)` after a clean
    /// end, `Some(Some(error))` once after a terminal error.
    pub fn poll_consumer_end(&mut self) -> Option<Option<crate::Error>> {
        todo!()
    }

    /// Completes with [`Reply::Ready`] when a delivery waits or the consumer has ended; at once if so.
    pub fn wait_delivery(&mut self, now: Instant, token: T) -> CallId {
        todo!()
    }

    /// Stops receiving: the connection is closed, deliveries that were received stay available, then the
    /// consumer ends cleanly. Completes with [`Reply::Drained`].
    pub fn stop_consuming(&mut self, now: Instant, token: T) -> CallId {
        todo!()
    }
}

/// Names a producer of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerId(u32);

/// An ack or a nack.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub id: crate::MessageId,
    /// `None` acks; `Some(why)` nacks.
    pub nack: Option<String>,
    /// When the lease ends, if known: to notice late acks.
    pub lease_deadline: Option<Instant>,
}

/// A received message and its lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The message.
    pub received: crate::Received,
    /// When the lease ends at the earliest, by the client's clock and the configured visibility timeout.
    pub deadline: Option<Instant>,
    /// Counts deliveries of this consumer: tells redeliveries of one id apart.
    pub sequence: u64,
}

/// Work on its way to another link: opaque to the adapter.
#[derive(Debug)]
pub struct Parcel<T> {
    token: PhantomData<T>,
}
