//! A passive observer of connections: what a packet capture or a proxy saw, as typed events.
//!
//! [`Conversation`] takes the bytes of both directions, in pieces of any size, with holes, or joined in the middle, and
//! reports the opening, requests paired with their answers, deliveries, credit, heartbeats and errors, each with the offset
//! of its first byte in the stream of its direction. It sends nothing and decides nothing.
//!
//! What a connection speaks is found by the code that the client and the servers use ([`recognise_client`],
//! [`recognise_server`]), or guessed where the bytes do not say, and marked as a guess ([`Event::Dialect`]).
//!
//! Frames carry no marker. After a hole that hides where a frame ends, and in a conversation that was joined in the
//! middle, the observer looks for the next place where a frame begins that can be read ([`Event::Found`]); this is a
//! guess too.
//!
//! API keys are [`Secret`], so that no event prints them.

mod conversation;
mod stream;

use core::fmt;
use core::time::Duration;

use crate::dialect::Dialect;
pub use crate::dialect::opening::{ClientOpening, Greeting, Offered, recognise_client, recognise_server};
use crate::error::Error;
use crate::frame::{DEFAULT_MAX_LENGTH, FrameError, FrameHeader};
use crate::message::Secret;
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::{Push, Response};
pub use conversation::Conversation;

/// Who sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The side that opened the connection.
    Client,
    /// The side that accepted it.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// How to observe.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ObserverConfig {
    /// The dialect, where it is known. [`Dialect::Auto`] finds out.
    pub dialect: Dialect,
    /// The observation began after the connection did, so that its opening was not seen. Off.
    pub joined: bool,
    /// Of a frame with a larger length field only the header is reported. 64 MiB.
    pub max_frame: u32,
    /// Requests that wait for their answer; further ones are reported without their latency. 65,536.
    pub max_outstanding: usize,
}

impl Default for ObserverConfig {
    fn default() -> Self {
        Self {
            dialect: Dialect::Auto,
            joined: false,
            max_frame: 4 * DEFAULT_MAX_LENGTH,
            max_outstanding: 65_536,
        }
    }
}

/// Something that was observed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Observed {
    /// Who sent it.
    pub from: Side,
    /// The offset of its first byte in the stream of that side.
    pub offset: u64,
    /// When its last byte came, by the clock of [`Conversation::input`].
    pub at: Duration,
    /// What it is.
    pub event: Event,
}

/// What a client opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opening {
    /// The six bytes of the preamble dialect.
    Preamble {
        /// The major version.
        major: u8,
        /// The minor version, which servers ignore.
        minor: u8,
    },
    /// The Handshake frame of the framed dialect.
    Handshake {
        /// The version.
        version: u16,
        /// The API key.
        key: Option<Secret>,
    },
}

/// What was observed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The client opened the connection.
    Opening(Opening),
    /// The server accepted.
    Accepted {
        /// What it said.
        greeting: Greeting,
        /// The time since the opening, where that was seen.
        latency: Option<Duration>,
    },
    /// The server did not accept, or is none of this protocol. The error says what it is, in the words of the client.
    Refused(Error),
    /// The client's bytes are none of this protocol, as a TLS ClientHello. Nothing more is read in either direction.
    NotFibp(String),
    /// What is spoken, from here on.
    Dialect {
        /// The dialect with its revision.
        dialect: Dialect,
        /// Whether the bytes proved it; otherwise it is the best guess.
        certain: bool,
    },
    /// A request.
    Request {
        /// Its id.
        id: u32,
        /// The request.
        request: Request,
    },
    /// An answer.
    Answer {
        /// Its id.
        id: u32,
        /// What it answers: the request that was seen, or what the opcode says; `None` for a refusal whose request was
        /// not seen.
        op: Option<Op>,
        /// The answer.
        response: Response,
        /// The time since the request, where that was seen.
        latency: Option<Duration>,
        /// The offset of the request in the client's stream, where it was seen.
        request_offset: Option<u64>,
    },
    /// The client granted credit (preamble dialect).
    Credit {
        /// How many messages more.
        credit: u32,
    },
    /// Deliveries. Their queue is that of the last Consume where the wire does not name it, and empty if none was seen.
    Push {
        /// The frame's id: that of the Consume in the framed dialect, 0 in the preamble dialect.
        id: u32,
        /// The deliveries.
        push: Push,
    },
    /// A heartbeat of the server's own.
    ServerHeartbeat {
        /// Its id.
        id: u32,
    },
    /// The client's answer to a heartbeat of the server.
    HeartbeatAnswer {
        /// Its id.
        id: u32,
    },
    /// A part of a frame that goes on (framed dialect). The whole is reported when the last part came, with the offset of
    /// the first.
    Continuation {
        /// The part's header.
        header: FrameHeader,
        /// Bytes of its body.
        len: usize,
    },
    /// One side says goodbye.
    Goodbye {
        /// What it says.
        text: String,
    },
    /// A frame whose meaning cannot be read.
    Malformed {
        /// Its header.
        header: FrameHeader,
        /// The operation, as far as it is known.
        op: Option<Op>,
        /// What is wrong with it.
        reason: String,
    },
    /// A frame above the limit, of which only the header was read.
    Oversized {
        /// Its header.
        header: FrameHeader,
        /// Its length field.
        length: u32,
    },
    /// Bytes are missing.
    Hole {
        /// How many; `None` if unknown.
        len: Option<u64>,
        /// The frame they belong to, if they belong to one whose header was seen.
        header: Option<FrameHeader>,
        /// Whether it is known where the next frame begins.
        in_step: bool,
    },
    /// A frame of impossible length: the next one is searched for.
    BadFrame(FrameError),
    /// A frame was found again.
    Found {
        /// Bytes since the last frame, which are not understood.
        skipped: u64,
    },
    /// One side closed.
    End {
        /// Bytes of a frame that was not completed.
        unfinished: usize,
        /// Requests without an answer, on the server's side.
        unanswered: usize,
    },
}
