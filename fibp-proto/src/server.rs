//! The server side of a connection, for brokers, proxies and tests.

use crate::dialect::{Dialect, EncodeError};
use crate::frame::{DEFAULT_MAX_LENGTH, Limits, ReadBuffer, Transmit};
use crate::message::Secret;
use crate::request::{Op, Request};
use crate::response::{Push, Response, ServerError};

/// How a [`ServerConnection`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The dialects to accept, told apart by the client's first bytes: at most one revision of each.
    pub dialects: Vec<Dialect>,
    /// `receive` bounds requests (a longer one closes without a frame), `send` bounds preamble pushes.
    pub limits: Limits,
    /// The node id that the framed handshake announces.
    pub node_id: u64,
    /// The most bytes that unfinished continuation sequences may hold together (framed dialect). Real servers
    /// allow 4 GiB.
    pub max_reassembled: usize,
}

impl ServerConfig {
    /// The settings of real servers: 16 MiB per frame, node id 0; but at most 256 MiB of unfinished
    /// continuation sequences.
    #[must_use]
    pub fn new(dialects: impl Into<Vec<Dialect>>) -> Self {
        Self {
            dialects: dialects.into(),
            limits: Limits {
                send: DEFAULT_MAX_LENGTH,
                receive: DEFAULT_MAX_LENGTH,
            },
            node_id: 0,
            max_reassembled: 256 * 1024 * 1024,
        }
    }
}

/// Names a request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The id on the wire. Clients may repeat it.
    pub id: u32,
    /// The operation asked for.
    pub op: Op,
}

/// What a client did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// The client opened in this dialect. Framed: decide with [`ServerConnection::accept`] or
    /// [`ServerConnection::refuse`]; preamble: the opening was echoed already.
    Opened {
        /// The dialect.
        dialect: Dialect,
        /// The API key of a framed handshake.
        key: Option<Secret>,
    },
    /// A request.
    Request {
        /// What to answer to.
        id: RequestId,
        /// The request.
        request: Request,
    },
    /// A request that cannot be read. Real servers send `answer`, or close without a frame if it is `None`.
    Malformed {
        /// The id on the wire.
        id: u32,
        /// The operation, as far as the header tells.
        op: Option<Op>,
        /// The refusal.
        answer: Option<ServerError>,
    },
    /// The connection is over: EOF, a goodbye, or bytes that no client of this protocol sends.
    Closed,
}

/// One accepted connection. Does no IO: bytes come in and go out through owned buffers.
#[derive(Debug)]
pub struct ServerConnection {}

#[allow(unused_variables)]
impl ServerConnection {
    /// A connection that was just accepted.
    pub fn new(config: ServerConfig) -> Self {
        todo!()
    }
    /// The buffer to read into; `None` while it is out or when no more input is wanted.
    pub fn take_read_buffer(&mut self) -> Option<ReadBuffer> {
        todo!()
    }
    /// Returns the buffer with what was read.
    pub fn handle_input(&mut self, buffer: ReadBuffer) {
        todo!()
    }
    /// The client closed its side, or the transport failed.
    pub fn handle_eof(&mut self) {
        todo!()
    }
    /// The next thing the client did. One request at a time is decoded, on demand.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        todo!()
    }
    /// The dialect, once the client opened.
    pub fn dialect(&self) -> Option<Dialect> {
        todo!()
    }
    /// Accepts a framed handshake.
    pub fn accept(&mut self) {
        todo!()
    }
    /// Refuses a framed handshake and closes.
    pub fn refuse(&mut self, error: ServerError) {
        todo!()
    }
    /// Answers a request.
    pub fn respond(&mut self, id: RequestId, response: &Response) -> Result<(), EncodeError> {
        todo!()
    }
    /// Answers whatever had this id on the wire with a refusal.
    pub fn respond_error(&mut self, id: u32, error: &ServerError) {
        todo!()
    }
    /// Pushes deliveries to the consumer that was opened last.
    pub fn push(&mut self, push: &Push) -> Result<(), EncodeError> {
        todo!()
    }
    /// Sends a goodbye (no server does today; clients must handle it).
    pub fn goodbye(&mut self, text: &str) {
        todo!()
    }
    /// Sends a heartbeat (no server does today; clients must answer it).
    pub fn heartbeat(&mut self, id: u32) {
        todo!()
    }
    /// Closes once everything queued is written.
    pub fn close(&mut self) {
        todo!()
    }
    /// Moves what is to be written to `transmit`; false if there is nothing, or a write is under way.
    pub fn take_transmit(&mut self, transmit: &mut Transmit) -> bool {
        todo!()
    }
    /// Reports that the first `n` bytes of `transmit` were written.
    pub fn transmitted(&mut self, transmit: &mut Transmit, n: usize) {
        todo!()
    }
    /// Bytes that are encoded and not written yet.
    pub fn buffered(&self) -> usize {
        todo!()
    }
    /// Whether the transport should be closed now: the connection is over and everything was written.
    pub fn is_finished(&self) -> bool {
        todo!()
    }
}
