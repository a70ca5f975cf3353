//! The client side of one connection as it is, for tools: opposite [`ServerConnection`](crate::server::ServerConnection).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Arrival, Broken, Connection, Expiry, Options};
use crate::dialect::Dialect;
use crate::error::{Error, ErrorKind, Outcome};
use crate::fault::{Fault, FaultKind};
use crate::frame::{Limits, Pool, ReadBuffer, Transmit};
use crate::message::{QueueName, Secret};
use crate::request::Request;
use crate::response::{Push, Response};

/// How a [`ClientConnection`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// What to speak. One connection cannot find out, which may take several: [`Requests`](crate::requests::Requests) does.
    pub dialect: Dialect,
    /// The API key to present, if any.
    pub key: Option<Secret>,
    /// The largest length fields to send and to accept.
    pub limits: Limits,
    /// Silence after which a heartbeat is sent. None by default.
    pub heartbeat: Option<Duration>,
    /// Heartbeats without an answer after which the connection is given up. 2.
    pub heartbeat_missed: u32,
}

impl ClientConfig {
    /// No key, no heartbeats, the limits of real servers.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            key: None,
            limits: Limits::default(),
            heartbeat: None,
            heartbeat_missed: 2,
        }
    }
}

/// What a server did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The connection is open and the key accepted: requests may be sent.
    Opened,
    /// A request was answered, refused, late, or lost with the connection.
    Answer {
        /// What [`ClientConnection::request`] returned.
        id: u32,
        /// The answer; a refusal is an error.
        response: Result<Response, Error>,
    },
    /// Deliveries.
    Push(Push),
    /// The connection is over. Reported once, as the last event.
    Closed(Error),
}

/// One connection to a server. Does no IO: bytes and instants come in, bytes and events go out.
///
/// * Input: [`take_read_buffer`](Self::take_read_buffer), read into it, [`handle_input`](Self::handle_input);
///   [`handle_eof`](Self::handle_eof) or [`handle_transport_error`](Self::handle_transport_error) at the end.
/// * Events: [`poll_event`](Self::poll_event) until it returns `None`, after any call.
/// * Output: [`take_transmit`](Self::take_transmit), write, [`transmitted`](Self::transmitted).
/// * Time: [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due.
///
/// It does not reconnect, batch, or find out the dialect. Calls in any order are safe; once the connection is over they
/// do nothing.
#[derive(Debug)]
pub struct ClientConnection {
    connection: Connection<u32>,
    queue: QueueName,
    events: VecDeque<ClientEvent>,
    writing: bool,
    over: bool,
}

impl ClientConnection {
    /// A connection whose transport just opened.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for [`Dialect::Auto`]; a key that the wire cannot carry.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let Some(codec) = config.dialect.codec() else {
            return Err(Error::new(ErrorKind::Config, "a connection needs a dialect to speak"));
        };
        let connection = Connection::new(Options {
            codec,
            admin_known: true,
            may_be_f1: false,
            key: config.key,
            limits: config.limits,
            heartbeat: config.heartbeat,
            heartbeat_missed: config.heartbeat_missed,
            pool: Pool::default(),
        })?;
        Ok(Self {
            connection,
            queue: QueueName::default(),
            events: VecDeque::new(),
            writing: false,
            over: false,
        })
    }

    /// Sends a request; its answer is [`ClientEvent::Answer`] with the id that is returned. With a `deadline`, an answer
    /// that did not come by then is an error, and dropped when it comes.
    ///
    /// # Errors
    ///
    /// What the wire cannot carry, or [`ErrorKind::Disconnected`] unless the connection is open; nothing is sent then.
    pub fn request(&mut self, request: &Request, deadline: Option<Instant>) -> Result<u32, Error> {
        if self.over || !self.connection.is_ready() {
            return Err(Error::new(ErrorKind::Disconnected, "the connection is not open"));
        }
        let id = self.connection.encode(request)?;
        if let Request::Consume { queue, .. } = request {
            self.queue = queue.clone();
        }
        if request.op().is_answered() {
            self.connection.register(id, request.op(), id, deadline);
        }
        Ok(id)
    }

    /// The buffer to read into; `None` while it is out, or when the connection is over.
    #[must_use]
    pub fn take_read_buffer(&mut self) -> Option<ReadBuffer> {
        if self.over {
            None
        } else {
            self.connection.decoder().take_buffer()
        }
    }

    /// Returns the buffer with what was read.
    pub fn handle_input(&mut self, now: Instant, buffer: ReadBuffer) {
        if self.over {
            return;
        }
        self.connection.decoder().give_buffer(buffer);
        while !self.over {
            match self.connection.next_arrival(now, Some(&self.queue), 1) {
                Ok(Some(Arrival::Ready)) => self.events.push_back(ClientEvent::Opened),
                Ok(Some(Arrival::Answer { work: id, response })) => {
                    self.events.push_back(ClientEvent::Answer { id, response });
                }
                Ok(Some(Arrival::Push { push, .. })) => self.events.push_back(ClientEvent::Push(push)),
                Ok(Some(Arrival::Goodbye(text))) => {
                    let text = format!("the server says goodbye: {text}");
                    self.end(Error::new(ErrorKind::Disconnected, text));
                }
                // None is asked for: the dialect is given, and this is one connection.
                Ok(Some(Arrival::AdminRevision(_) | Arrival::Cluster(_) | Arrival::Again(_))) => {}
                Ok(None) => break,
                Err(broken) => self.end(broken.error),
            }
        }
    }

    /// The server closed its side.
    pub fn handle_eof(&mut self) {
        let text = if self.connection.is_mid_frame() {
            "the server closed the connection in the middle of a frame"
        } else {
            "the server closed the connection"
        };
        self.ended(false, Error::new(ErrorKind::Disconnected, text));
    }

    /// Reading or writing failed.
    pub fn handle_transport_error(&mut self, fault: Fault) {
        let reset = fault.kind == FaultKind::Reset;
        self.ended(reset, fault.into_error(ErrorKind::Disconnected, Outcome::NotSent));
    }

    fn ended(&mut self, reset: bool, error: Error) {
        let error = self.connection.closed_early(reset).map_or(error, |broken| broken.error);
        self.end(error);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            None
        } else {
            self.connection.poll_timeout()
        }
    }

    /// Lets requests expire and heartbeats go out that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        let late = Error::new(ErrorKind::Timeout, "no answer within the deadline").with_outcome(Outcome::Unknown);
        let events = &mut self.events;
        let expired = self.connection.expire(now, |id| {
            let response = Err(late.clone());
            events.push_back(ClientEvent::Answer { id: *id, response });
            Expiry::Expired
        });
        if let Err(Broken { error, .. }) = expired.and_then(|()| self.connection.heartbeat(now)) {
            self.end(error);
        }
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Moves what is to be written to `transmit`; false if there is nothing, or a write is under way.
    #[must_use]
    pub fn take_transmit(&mut self, transmit: &mut Transmit) -> bool {
        if self.writing || self.connection.out.is_empty() {
            return false;
        }
        transmit.clear();
        self.connection.out.take_into(transmit);
        self.connection.note_handed(transmit.len());
        self.writing = true;
        true
    }

    /// Reports that the first `n` bytes of `transmit` were written.
    pub fn transmitted(&mut self, transmit: &mut Transmit, n: usize) {
        let n = n.min(transmit.len());
        transmit.advance(n);
        self.connection.note_written(n);
        if self.writing && transmit.is_empty() {
            self.writing = false;
            self.connection.out.recycle(transmit);
        }
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Says goodbye, where the dialect has one, and ends the connection: write what is left, then close the transport.
    pub fn close(&mut self) {
        if !self.over && self.connection.is_ready() && self.connection.rules().goodbye {
            // It has no part that could fail to encode.
            let _ = self.connection.encode(&Request::Goodbye);
        }
        self.end(Error::new(ErrorKind::Closed, "the connection was closed"));
    }

    /// Everything in flight is lost with the connection.
    fn end(&mut self, error: Error) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        for (id, sent) in self.connection.drain() {
            let outcome = if sent { Outcome::Unknown } else { Outcome::NotSent };
            let response = Err(error.clone().with_outcome(outcome));
            self.events.push_back(ClientEvent::Answer { id, response });
        }
        self.events.push_back(ClientEvent::Closed(error));
    }
}
