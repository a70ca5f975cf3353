//! What a link tells its driver.

use std::time::Instant;

use super::Parcel;
use crate::config::Endpoint;
use crate::error::{Error, SendError};
use crate::message::MessageId;
use crate::response::Response;

/// Names a call until it completes, for [`Link::abandon`](super::Link::abandon).
///
/// What waits for the same thing waits in the order of these ids. Those of calls count up from one. Work that
/// another link handed over, which was submitted before whatever waits here now, has ids below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub(crate) i64);

/// Names a dial attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DialId(pub(crate) u32);

/// Something to do to the transport.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action<T> {
    /// Resolve the endpoint and open a TCP connection, until `deadline` if there is one. Give up a dial that is
    /// under way. Answer with [`Link::handle_dialed`](super::Link::handle_dialed) or
    /// [`Link::handle_dial_failed`](super::Link::handle_dial_failed).
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
    /// Give this work to the requests link of another node with [`Link::accept`](super::Link::accept), opening
    /// that link if there is none ([`Link::requests_to`](super::Link::requests_to)).
    Reroute {
        /// The node; `None` for the client's main link.
        endpoint: Option<Endpoint>,
        /// The work.
        parcel: Parcel<T>,
    },
}

/// A waiter's result, with the token that waited for it.
#[derive(Debug)]
#[must_use]
pub struct Completion<T> {
    /// The adapter's token.
    pub token: T,
    /// What it waited for.
    pub reply: Reply<T>,
}

/// What a waiter waited for. Small, because most replies are: what is large and rare is boxed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply<T> {
    /// The link is open (or the consumer confirmed).
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
    /// The message is in the producer's buffer; or it is not, and comes back with the receipt's token.
    Admitted(Result<(), Box<(SendError, T)>>),
    /// There is room for a producer's message, and it is reserved; or why there is none.
    Room(Result<(), Error>),
    /// Everything handed to the producer before is settled: the first failure since the last flush, if any.
    Flushed(Result<(), Error>),
    /// A delivery waits, or the consumer has ended.
    Ready,
    /// The consumer stopped receiving.
    Drained,
    /// The link is closed.
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
    /// Adds another link's report.
    pub fn merge(&mut self, other: Self) {
        self.flushed = self.flushed.saturating_add(other.flushed);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}
