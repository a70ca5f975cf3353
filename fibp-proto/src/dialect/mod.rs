//! The dialects of FIBP: how typed requests and answers become frames.
//!
//! Everything that differs between dialects lives below this module, behind the trait `Codec`; the machines above
//! it never ask which dialect is in use. Adding one means a folder here and a row in the detection.
//!
//! # Re-encoding
//!
//! What was decoded encodes to the bytes it came from, so that a proxy may decode and encode. The exceptions:
//!
//! * Bytes after a complete body, unknown flags, and the body of what has none (a heartbeat) are dropped.
//! * Protobuf bodies (admin operations of P1 and P2) come out in their canonical form: without unknown fields, and without a
//!   zero, whatever its sign.
//! * A yes-or-no byte other than 0 and 1 means yes, and is written as 1.
//! * The second count in P3's list of configuration entries, and the total in P1's and P2's, is that of the entries.
//! * The text of a preamble ERROR frame that is not UTF-8 gets replacement characters.
//! * A result of the framed dialect that is a refusal keeps its code, and the text of a queue's creation; what else
//!   stands behind the code is dropped.

pub(crate) mod contents;
pub(crate) mod encode;
pub(crate) mod framed;
pub(crate) mod opening;
pub(crate) mod preamble;
pub(crate) mod records;

use core::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind};
use crate::frame::{CONTINUATION, DecodeError, Frame, FrameHeader, FrameRef, Layout, Limits, OutBuf};
use crate::message::{Message, MessageId, QueueName, Received};
use crate::prelude::*;
use crate::request::{Op, Request};
#[cfg(feature = "std")]
use crate::requests::Settle;
use crate::response::{Push, Response, ServerError};
use contents::{Arena, Source};
use encode::Measure;
use records::encode_settled;

/// Which dialect to speak. docs/protocol/revisions.md says which servers speak which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Find out: by ALPN inside TLS, by the first bytes otherwise.
    #[default]
    Auto,
    /// Opens with the six bytes `FIBP 01 00`; admin operations in the given revision.
    Preamble(AdminRevision),
    /// Opens with a Handshake frame: current servers. The specification calls it framed, and this revision F2.
    Handshake,
    /// Opens with a Handshake frame; the opcodes of a few builds of early April 2026. F1 in the specification.
    HandshakeEarly,
}

/// The admin opcodes and bodies of a preamble server (docs/protocol/preamble.md 1.10 and 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AdminRevision {
    /// Protobuf bodies, redrive 0x16, config 0x17 to 0x19. P1 in the specification.
    #[default]
    Protobuf,
    /// Protobuf bodies, redrive 0x14, config 0x15 to 0x17. P2 in the specification.
    ProtobufRenumbered,
    /// FIBP's own encoding, opcodes of [`ProtobufRenumbered`](Self::ProtobufRenumbered). P3 in the specification.
    Binary,
}

impl AdminRevision {
    /// What the answer to the admin probe says (docs/protocol/revisions.md, "P1, P2 or P3").
    pub(crate) fn from_probe(text: &str) -> Option<Self> {
        if text == "operation 0x14 not implemented" || text == "unknown operation 0x14" {
            Some(Self::Protobuf)
        } else if text.starts_with("wire decode error") {
            Some(Self::Binary)
        // A key that is no admin is refused either way: the revision makes no difference to it.
        } else if text.starts_with("invalid payload: dlq_queue name") || text.starts_with("permission denied") {
            Some(Self::ProtobufRenumbered)
        } else {
            None
        }
    }
}

impl Dialect {
    /// The codec, or `None` for [`Dialect::Auto`].
    pub(crate) fn codec(self) -> Option<&'static dyn Codec> {
        match self {
            Self::Auto => None,
            Self::Preamble(revision) => Some(preamble::codec(revision)),
            Self::Handshake => Some(framed::codec(framed::Numbers::F2)),
            Self::HandshakeEarly => Some(framed::codec(framed::Numbers::F1)),
        }
    }

    fn concrete(self) -> Result<&'static dyn Codec, EncodeError> {
        self.codec()
            .ok_or(EncodeError::Unsupported("Dialect::Auto names no wire format"))
    }

    /// The header layout of the dialect's frames; that of the preamble dialect for [`Dialect::Auto`].
    #[must_use]
    pub fn layout(self) -> Layout {
        self.codec().map_or(Layout::FlagsFirst, |codec| codec.layout())
    }
}

/// What each dialect is called in settings (docs/protocol/names.md): first the name that is printed, then the other spellings.
const NAMES: [(Dialect, &[&str]); 6] = [
    (Dialect::Auto, &["auto"]),
    (
        Dialect::Preamble(AdminRevision::Protobuf),
        &["preamble-protobuf", "preamble", "protobuf", "preamble-p1", "p1"],
    ),
    (
        Dialect::Preamble(AdminRevision::ProtobufRenumbered),
        &[
            "preamble-protobuf-renumbered",
            "protobuf-renumbered",
            "preamble-p2",
            "p2",
        ],
    ),
    (
        Dialect::Preamble(AdminRevision::Binary),
        &["preamble-binary", "binary", "preamble-p3", "p3"],
    ),
    (Dialect::Handshake, &["handshake", "framed", "f2"]),
    (
        Dialect::HandshakeEarly,
        &["handshake-early", "handshake-f1", "framed-f1", "f1"],
    ),
];

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMES.iter().find(|(dialect, _)| dialect == self);
        f.write_str(named.and_then(|(_, names)| names.first()).copied().unwrap_or_default())
    }
}

/// Reads what `Display` writes, the names of the revisions without `preamble-` before them, and those of the specification:
/// `preamble-p1`, `preamble-p2`, `preamble-p3`, `framed` and `framed-f1`.
impl core::str::FromStr for Dialect {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let named = NAMES.iter().find(|(_, names)| names.contains(&name));
        named.map(|(dialect, _)| *dialect).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!(
                    "unknown dialect \"{name}\": expected auto, handshake, handshake-early, preamble-protobuf, \
                     preamble-protobuf-renumbered or preamble-binary"
                ),
            )
        })
    }
}

/// Why something cannot be put on the wire. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string is longer than its length field can say.
    #[error("{field} is {len} bytes long, at most {limit} fit")]
    StringTooLong {
        /// Which string.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// There are more items than the count field can say.
    #[error("{count} {field}, at most {limit} fit")]
    TooMany {
        /// Of what.
        field: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The frame would exceed the send limit.
    #[error("the frame would be {len} bytes long, at most {limit} are allowed")]
    FrameTooLarge {
        /// Its length field.
        len: usize,
        /// The limit.
        limit: u32,
    },
    /// Messages of different queues in a dialect whose enqueue frame names one queue.
    #[error("an enqueue frame of this dialect carries messages of one queue only")]
    MixedQueues,
    /// The dialect has no such operation.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// For servers that do their own IO, where what cannot be sent ends a connection as a failed write does.
#[cfg(feature = "std")]
impl From<EncodeError> for std::io::Error {
    fn from(error: EncodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, error)
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        let kind = match error {
            EncodeError::FrameTooLarge { .. } => ErrorKind::TooLarge,
            EncodeError::Unsupported(_) => ErrorKind::Unsupported,
            EncodeError::StringTooLong { .. } | EncodeError::TooMany { .. } | EncodeError::MixedQueues => {
                ErrorKind::InvalidArgument
            }
        };
        Self::new(kind, error.to_string())
    }
}

/// What a frame from the server is, by its header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// The answer to the request with the frame's id.
    Answer,
    /// Deliveries.
    Push,
    /// An answer to a heartbeat of ours if one with this id is open, else a heartbeat of the server's, to be
    /// answered with the same id.
    Heartbeat,
    /// A heartbeat of the server's own, to be answered with the same id.
    Ping,
    /// The server is leaving.
    Goodbye,
    /// An opcode to be ignored.
    Unknown,
}

/// What the machines must know of a dialect to batch, split and pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The most items in one batched frame.
    pub(crate) max_items: usize,
    /// A body larger than a frame may be continued in further frames.
    pub(crate) continuation: bool,
    /// Deliveries cost credit.
    pub(crate) credit: bool,
    /// With credit: whether surplus over the credit is kept (server bug 1 is fixed), so that a window works.
    pub(crate) credit_window: bool,
    /// Closing begins with a goodbye and waits for EOF.
    pub(crate) goodbye: bool,
    /// The API key is presented by a request of its own after the opening.
    pub(crate) authenticate: bool,
    /// The admin revision has to be probed when it is not configured.
    pub(crate) admin_revisions: bool,
}

/// One dialect's wire format.
pub(crate) trait Codec: fmt::Debug + Send + Sync {
    fn dialect(&self) -> Dialect;
    fn layout(&self) -> Layout;
    fn rules(&self) -> Rules;

    // ---- client side ----

    /// Writes what a client opens with.
    fn encode_opening(&self, key: Option<&str>, out: &mut OutBuf) -> Result<(), EncodeError>;

    /// Writes a request. On an error nothing is written. With `Rules::continuation`, bodies over
    /// `limit - 6` bytes are split.
    fn encode_request(&self, id: u32, request: &Request, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError>;

    /// As [`encode_request`](Self::encode_request), for [`Request::Enqueue`] of these messages. `items_len`: what
    /// [`enqueue_item_len`](Self::enqueue_item_len) says of them in all, if it was asked.
    fn encode_enqueue(
        &self,
        id: u32,
        messages: &[Message],
        items_len: Option<usize>,
        limit: u32,
        out: &mut OutBuf,
    ) -> Result<(), EncodeError>;

    /// Writes acks or nacks, as `op` says, from where the client keeps them; otherwise as
    /// [`encode_request`](Self::encode_request). `items_len`: what [`settle_item_len`](Self::settle_item_len) says of
    /// them in all.
    #[cfg(feature = "std")]
    fn encode_settles(
        &self,
        id: u32,
        op: Op,
        settles: &[Settle],
        items_len: usize,
        limit: u32,
        out: &mut OutBuf,
    ) -> Result<(), EncodeError>;

    /// Body bytes that an enqueue frame has before its first message.
    fn enqueue_base_len(&self, queue: &str) -> usize;

    /// Body bytes of one message of an enqueue frame.
    ///
    /// # Errors
    ///
    /// Whatever makes the message unsendable by itself, the frame limit aside.
    fn enqueue_item_len(&self, message: &Message) -> Result<usize, EncodeError>;

    /// Body bytes that an ack or nack frame has before its first item.
    fn settle_base_len(&self) -> usize;

    /// Body bytes of one ack (`error` is `None`) or nack.
    ///
    /// # Errors
    ///
    /// As for [`enqueue_item_len`](Self::enqueue_item_len).
    fn settle_item_len(&self, queue: &str, id: &MessageId, error: Option<&str>) -> Result<usize, EncodeError> {
        Measure::of(|to| encode_settled(to, queue, id, error))
    }

    /// What a frame from the server is.
    fn classify(&self, header: FrameHeader) -> Incoming;

    /// Reads the answer to `op`; refusals are [`Response::Error`]. Text in answers becomes typed here.
    fn decode_response(&self, op: Op, frame: FrameRef<'_>) -> Result<Response, DecodeError>;

    /// Reads deliveries to the back of `into`, all of them or, on an error, perhaps some. `queue` names them where the
    /// wire does not.
    fn decode_push(
        &self,
        queue: &QueueName,
        header: FrameHeader,
        from: Source<'_>,
        arena: &mut Arena,
        into: &mut Vec<Received>,
    ) -> Result<(), DecodeError>;

    /// Whether only a node of a cluster refuses like this, for a reason that may pass by itself.
    fn says_not_yet(&self, error: &ServerError) -> bool;

    /// The text of a goodbye. Some have none by the specification; whatever a later server says is shown.
    fn decode_goodbye(&self, frame: FrameRef<'_>) -> String {
        String::from_utf8_lossy(frame.body).into_owned()
    }

    // ---- server side ----

    /// The opcode that asks for `op`, if the dialect has it.
    fn opcode_of(&self, op: Op) -> Option<u8>;

    /// The opcode of the answer to `op` that is no refusal, if there is one.
    fn answer_opcode_of(&self, op: Op) -> Option<u8>;

    /// Reads the frame that opens a connection, if it is one.
    fn decode_opening(&self, _: &Frame) -> Option<Result<Request, DecodeError>> {
        None
    }

    /// Reads a request. An opcode that servers do not know is `Ok(None)`-like: a fault with its answer.
    fn decode_request(&self, frame: &Frame) -> Result<Request, MalformedRequest>;

    /// Writes an answer to a request of kind `op`. Servers do not limit their answers.
    fn encode_response(&self, id: u32, op: Op, response: &Response, out: &mut OutBuf) -> Result<(), EncodeError>;

    /// Writes deliveries. `id` is that of the consume; dialects that push with another id ignore it.
    fn encode_push(&self, id: u32, push: &Push, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError>;

    /// Writes a goodbye.
    fn encode_goodbye(&self, text: &str, out: &mut OutBuf);

    /// Writes a heartbeat from the server, which no server sends today.
    fn encode_server_heartbeat(&self, id: u32, out: &mut OutBuf);
}

// ---- the codec alone, for other tools ----

impl Request {
    /// The request as the bytes of one frame (several, where the framed dialect needs continuation).
    ///
    /// # Errors
    ///
    /// What the wire cannot carry, or what exceeds `limits.send`.
    pub fn encode(&self, dialect: Dialect, id: u32, limits: Limits) -> Result<Bytes, EncodeError> {
        let mut out = OutBuf::new();
        dialect.concrete()?.encode_request(id, self, limits.send, &mut out)?;
        Ok(out.take_bytes())
    }

    /// Reads a request, as a server would; the Handshake that opens a framed connection too. The frame's id is in its
    /// header.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, with the refusal that real servers answer. A frame that is a part of a continued one is
    /// refused as [`Malformed::Partial`]: join it with a [`Reassembler`](crate::frame::Reassembler) first.
    pub fn decode(dialect: Dialect, frame: &Frame) -> Result<Self, MalformedRequest> {
        let unreadable = |reason| MalformedRequest {
            op: None,
            reason,
            answer: None,
        };
        let Some(codec) = dialect.codec() else {
            return Err(unreadable(Malformed::NoWireFormat));
        };
        if codec.rules().continuation && frame.header.flags & CONTINUATION != 0 {
            return Err(unreadable(Malformed::Partial));
        }
        match codec.decode_opening(frame) {
            Some(Ok(handshake)) => Ok(handshake),
            // The answer of an open connection; before, real servers close without a frame.
            Some(Err(error)) => codec.decode_request(frame).map_err(|refused| MalformedRequest {
                op: Some(Op::Handshake),
                reason: Malformed::Body(error),
                ..refused
            }),
            None => codec.decode_request(frame),
        }
    }
}

/// A request that a server cannot read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("malformed request{}: {reason}", .op.map(|op| format!(" ({op:?})")).unwrap_or_default())]
#[non_exhaustive]
pub struct MalformedRequest {
    /// The operation, as far as the header says.
    pub op: Option<Op>,
    /// What is wrong with it.
    pub reason: Malformed,
    /// The refusal to send; `None` means that real servers close the connection without a frame.
    pub answer: Option<ServerError>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Servers of the dialect know no such opcode, or have no more than its name.
    #[error("unknown opcode 0x{opcode:02x}")]
    UnknownOpcode {
        /// The opcode.
        opcode: u8,
    },
    /// The body cannot be decoded.
    #[error("{0}")]
    Body(DecodeError),
    /// The frame is a part of a continued one (framed dialect).
    #[error("a part of a continued frame, which has to be joined first")]
    Partial,
    /// [`Dialect::Auto`] names no wire format.
    #[error("Dialect::Auto names no wire format")]
    NoWireFormat,
}

impl Response {
    /// The answer to a request of kind `op` as the bytes of one frame.
    ///
    /// # Errors
    ///
    /// What the wire cannot carry.
    pub fn encode(&self, dialect: Dialect, id: u32, op: Op) -> Result<Bytes, EncodeError> {
        let mut out = OutBuf::new();
        dialect.concrete()?.encode_response(id, op, self, &mut out)?;
        Ok(out.take_bytes())
    }

    /// Reads the answer to a request of kind `op`, as a client would.
    ///
    /// # Errors
    ///
    /// The body is malformed, or the opcode is not one that answers `op`.
    pub fn decode(dialect: Dialect, op: Op, frame: &Frame) -> Result<Self, DecodeError> {
        match dialect.codec() {
            Some(codec) => codec.decode_response(op, frame.as_frame_ref()),
            None => Err(DecodeError::Invalid("dialect")),
        }
    }
}

impl Push {
    /// The deliveries as the bytes of one frame. `id` is that of the consume request.
    ///
    /// # Errors
    ///
    /// What the wire cannot carry, or what exceeds `limits.send`.
    pub fn encode(&self, dialect: Dialect, id: u32, limits: Limits) -> Result<Bytes, EncodeError> {
        let mut out = OutBuf::new();
        dialect.concrete()?.encode_push(id, self, limits.send, &mut out)?;
        Ok(out.take_bytes())
    }

    /// Whether a frame from a server of this dialect is a push.
    #[must_use]
    pub fn is_push(dialect: Dialect, frame: &Frame) -> bool {
        dialect
            .codec()
            .is_some_and(|codec| codec.classify(frame.header) == Incoming::Push)
    }

    /// Reads deliveries. `queue` names them where the wire does not (preamble dialect).
    ///
    /// # Errors
    ///
    /// The body is malformed.
    pub fn decode(dialect: Dialect, queue: &QueueName, frame: &Frame) -> Result<Self, DecodeError> {
        match dialect.codec() {
            Some(codec) => {
                let (mut deliveries, from) = (Vec::new(), Source::shared(&frame.body));
                codec.decode_push(queue, frame.header, from, &mut Arena::default(), &mut deliveries)?;
                Ok(Self { deliveries })
            }
            None => Err(DecodeError::Invalid("dialect")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_dialect_is_read_and_none_names_two() {
        let mut seen = Vec::new();
        for (dialect, names) in NAMES {
            assert_eq!(dialect.to_string(), names[0]);
            for name in names {
                assert_eq!(name.parse::<Dialect>().expect("a name"), dialect);
                assert!(!seen.contains(name), "{name}");
                seen.push(*name);
            }
        }
        for name in ["", "P1", "preamble-p4", "handshake-f2", "protobuf ", "preamble-"] {
            let error = name.parse::<Dialect>().expect_err("no name");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(&format!("\"{name}\"")), "{error}");
        }
    }

    #[test]
    fn names_of_the_specification_mean_the_revisions() {
        for (names, dialect) in [
            (["preamble-p1", "p1"], Dialect::Preamble(AdminRevision::Protobuf)),
            (
                ["preamble-p2", "p2"],
                Dialect::Preamble(AdminRevision::ProtobufRenumbered),
            ),
            (["preamble-p3", "p3"], Dialect::Preamble(AdminRevision::Binary)),
            (["framed", "f2"], Dialect::Handshake),
            (["framed-f1", "f1"], Dialect::HandshakeEarly),
        ] {
            for name in names {
                assert_eq!(name.parse::<Dialect>().expect("a name"), dialect);
            }
        }
    }
}
