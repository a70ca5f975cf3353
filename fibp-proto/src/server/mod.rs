//! The server side of a connection, for brokers, proxies and tests.

mod opening;
#[cfg(feature = "std")]
mod stream;
mod subscription;

use crate::dialect::{Codec, Dialect, EncodeError, Malformed, MalformedRequest};
use crate::frame::{
    DEFAULT_MAX_LENGTH, Decoder, HEADER_LEN, Item, Layout, Limits, OutBuf, Oversize, PREFIX_LEN, ReadBuffer,
    Reassembler, Transmit,
};
use crate::message::Secret;
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::{Push, Response, ServerError};
use subscription::Subscription;

/// While more output than this waits, nothing is read and no request is decoded: a server that is blocked
/// writing does not read.
const MAX_OUTPUT: usize = 256 * 1024;

/// How a [`ServerConnection`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The dialects to accept, distinguished by the client's first bytes: at most one revision of each.
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
            limits: Limits::new(DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH),
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
        /// The operation, as far as the header says.
        op: Option<Op>,
        /// What is wrong with it.
        reason: Malformed,
        /// The refusal.
        answer: Option<ServerError>,
    },
    /// The connection is over: EOF, a goodbye, bytes that no client of this protocol sends, or
    /// [`ServerConnection::close`]. Reported once, as the last event.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first bytes are awaited.
    Opening,
    /// The dialect is framed; its first frame is awaited.
    Handshake,
    /// A Handshake waits for the caller's decision.
    Deciding,
    /// Requests are read.
    Open,
    /// Nothing is read any more; what is encoded is still to be written.
    Over,
}

/// One accepted connection. Does no IO: bytes come in and go out through owned buffers.
///
/// * Input: [`take_read_buffer`](Self::take_read_buffer), read into it, [`handle_input`](Self::handle_input);
///   [`handle_eof`](Self::handle_eof).
/// * Events: after any input, and whenever output was written, call [`poll_event`](Self::poll_event) until it
///   returns `None`, and answer each request.
///   [`poll_request`](Self::poll_request) does this but for the answers, for servers that have nothing else to decide.
/// * Output: [`take_transmit`](Self::take_transmit), write, [`transmitted`](Self::transmitted).
///
/// Over a blocking socket `read_from` and `write_to` are all of input and output; input that is in memory already can be
/// [fed](Self::feed). Examples: `miniq`, a queue server of about a hundred lines.
///
/// While more than 256 KiB of output wait, no event and no read buffer is given out. Calls in any order are
/// safe; once the connection is over, all of them but those for output do nothing.
#[derive(Debug)]
pub struct ServerConnection {
    config: ServerConfig,
    state: State,
    /// What the client opened in.
    codec: Option<&'static dyn Codec>,
    decoder: Decoder,
    reassembler: Reassembler,
    out: OutBuf,
    /// Bytes in the transmit that is out for writing, if one is.
    writing: Option<usize>,
    /// What `write_to` took and the stream did not take yet.
    #[cfg(feature = "std")]
    unwritten: Transmit,
    /// The id of the consume that was accepted last; deliveries carry it in the framed dialect.
    consumer: u32,
    subscription: Subscription,
    eof: bool,
    /// Whether [`ServerEvent::Closed`] was reported.
    reported: bool,
}

impl ServerConnection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            state: State::Opening,
            codec: None,
            decoder: Decoder::new(Layout::FlagsFirst, config.limits).oversize(Oversize::Refuse),
            reassembler: Reassembler::new(config.max_reassembled),
            out: OutBuf::new(),
            writing: None,
            #[cfg(feature = "std")]
            unwritten: Transmit::new(),
            consumer: 0,
            subscription: Subscription::default(),
            eof: false,
            reported: false,
            config,
        }
    }

    // ---- input ----

    /// The buffer to read into; `None` while it is out or when no more input is wanted: the connection is
    /// over, too much output waits, or requests wait for [`poll_event`](Self::poll_event).
    #[must_use]
    pub fn take_read_buffer(&mut self) -> Option<ReadBuffer> {
        let wanted = match self.state {
            // What this is, the first bytes do not tell before they are complete.
            State::Opening => self.decoder.pending().len() < opening::PREAMBLE_LEN,
            State::Handshake | State::Open => !self.is_blocked() && !self.frame_waits(),
            State::Deciding | State::Over => false,
        };
        if wanted && !self.eof {
            self.decoder.take_buffer()
        } else {
            None
        }
    }

    /// Returns the buffer with what was read.
    pub fn handle_input(&mut self, buffer: ReadBuffer) {
        if self.state != State::Over {
            self.decoder.give_buffer(buffer);
        }
    }

    /// Hands over input that is in memory already and says how much of it was taken: less than all if a buffer's room is used
    /// up, or if no more input is wanted before events are polled or output is written.
    #[must_use = "what is left is to be fed later"]
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let Some(mut buffer) = self.take_read_buffer() else {
            return 0;
        };
        let n = buffer.copy_from(bytes);
        self.handle_input(buffer);
        n
    }

    /// The client closed its side, or the transport failed. What arrived before is still processed. (After a
    /// failed write, drop the connection: what it would still write has nowhere to go.)
    pub fn handle_eof(&mut self) {
        self.eof = true;
    }

    // ---- events ----

    /// The next thing the client did. One request at a time is decoded, on demand.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        if self.state != State::Over {
            if self.is_blocked() {
                return None;
            }
            let event = match (self.state, self.codec) {
                (State::Open, Some(codec)) => self.read_request(codec),
                (State::Deciding, _) => return None,
                _ => self.poll_opening(),
            };
            if event.is_some() {
                return event;
            }
            if self.eof {
                self.end();
            }
        }
        if self.state != State::Over || core::mem::replace(&mut self.reported, true) {
            return None;
        }
        Some(ServerEvent::Closed)
    }

    /// The dialect, once the client opened.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.codec.map(|codec| codec.dialect())
    }

    fn read_request(&mut self, codec: &'static dyn Codec) -> Option<ServerEvent> {
        loop {
            let Ok(item) = self.decoder.next_item() else {
                self.end();
                return None;
            };
            let Item::Frame(frame) = item? else {
                // Never: oversized frames are refused.
                continue;
            };
            let whole = if codec.rules().continuation {
                self.reassembler.push(frame)
            } else {
                Ok(Some(frame))
            };
            let frame = match whole {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(_) => {
                    self.end();
                    return None;
                }
            };
            let id = frame.header.id;
            return match codec.decode_request(&frame) {
                Ok(Request::Goodbye) => {
                    self.end();
                    None
                }
                Ok(request) => {
                    self.subscription.note_request(id, &request, codec.rules().credit);
                    let id = RequestId { id, op: request.op() };
                    Some(ServerEvent::Request { id, request })
                }
                Err(MalformedRequest { op, reason, answer }) => Some(ServerEvent::Malformed { id, op, reason, answer }),
            };
        }
    }

    // ---- output ----

    /// Accepts a framed handshake.
    pub fn accept(&mut self) {
        if self.state == State::Deciding {
            self.accept_handshake();
        }
    }

    /// Refuses a framed handshake and closes.
    pub fn refuse(&mut self, error: ServerError) {
        if self.state == State::Deciding {
            self.refuse_opening(0, &error);
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// What the wire cannot carry; nothing is sent then.
    pub fn respond(&mut self, id: RequestId, response: &Response) -> Result<(), EncodeError> {
        let Some(codec) = self.open_codec() else { return Ok(()) };
        codec.encode_response(id.id, id.op, response, &mut self.out)?;
        if let Response::Consume { .. } = response {
            self.consumer = id.id;
        }
        self.subscription.note_response(id.id, response);
        Ok(())
    }

    /// Answers whatever had this id on the wire with a refusal. A text that the wire cannot carry is left out.
    pub fn respond_error(&mut self, id: u32, error: &ServerError) {
        if let Some(codec) = self.open_codec() {
            encode_error(codec, id, error, &mut self.out);
        }
    }

    /// Pushes deliveries to the consumer that was opened last.
    ///
    /// # Errors
    ///
    /// What the wire cannot carry, or what exceeds `limits.send` (preamble dialect); nothing is sent then.
    pub fn push(&mut self, push: &Push) -> Result<(), EncodeError> {
        self.push_to(self.consumer, push)
    }

    /// Pushes deliveries to the consumer that was opened by the request `consume`: what was queued for a consumer
    /// that was cancelled or replaced since (framed dialect; the preamble dialect has one consumer and no id).
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn push_to(&mut self, consume: u32, push: &Push) -> Result<(), EncodeError> {
        let Some(codec) = self.open_codec() else { return Ok(()) };
        codec.encode_push(consume, push, self.config.limits.send, &mut self.out)?;
        self.subscription.note_push(consume, push);
        Ok(())
    }

    /// Sends a goodbye (no server does today; clients must handle it).
    pub fn goodbye(&mut self, text: &str) {
        if let Some(codec) = self.open_codec() {
            codec.encode_goodbye(text, &mut self.out);
        }
    }

    /// Sends a heartbeat (no server does today; clients must answer it).
    pub fn heartbeat(&mut self, id: u32) {
        if let Some(codec) = self.open_codec() {
            codec.encode_server_heartbeat(id, &mut self.out);
        }
    }

    /// Closes once everything queued is written.
    pub fn close(&mut self) {
        self.end();
    }

    /// Moves what is to be written to `transmit`; false if there is nothing, or a write is under way.
    #[must_use]
    pub fn take_transmit(&mut self, transmit: &mut Transmit) -> bool {
        if self.writing.is_some() || self.out.is_empty() {
            return false;
        }
        // What a caller left in it belongs to no one.
        transmit.clear();
        self.out.take_into(transmit);
        self.writing = Some(transmit.len());
        true
    }

    /// Reports that the first `n` bytes of `transmit` were written.
    pub fn transmitted(&mut self, transmit: &mut Transmit, n: usize) {
        transmit.advance(n);
        if self.writing.is_none() {
            return;
        }
        self.writing = Some(transmit.len()).filter(|left| *left > 0);
        if self.writing.is_none() {
            self.out.recycle(transmit);
        }
    }

    /// Bytes that are encoded and not written yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.out.len().saturating_add(self.writing.unwrap_or(0))
    }

    /// Whether the transport should be closed now: the connection is over and everything was written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Over && self.buffered() == 0
    }

    // ---- inside ----

    fn open_codec(&self) -> Option<&'static dyn Codec> {
        self.codec.filter(|_| self.state == State::Open)
    }

    fn is_blocked(&self) -> bool {
        self.buffered() > MAX_OUTPUT
    }

    /// Whether the decoder has something to decide on without further input.
    fn frame_waits(&self) -> bool {
        let pending = self.decoder.pending();
        pending.first_chunk::<PREFIX_LEN>().is_some_and(|prefix| {
            let length = u32::from_be_bytes(*prefix);
            let fits = length as usize >= HEADER_LEN && length <= self.config.limits.receive;
            !fits || pending.len() - PREFIX_LEN >= length as usize
        })
    }

    /// Reads nothing more and lets go of what was read.
    fn end(&mut self) {
        if self.state != State::Over {
            self.state = State::Over;
            self.decoder = Decoder::new(Layout::FlagsFirst, self.config.limits);
            self.reassembler = Reassembler::new(0);
        }
    }
}

/// Writes a refusal in a frame of its own, never inside the result of an operation.
fn encode_error(codec: &dyn Codec, id: u32, error: &ServerError, out: &mut OutBuf) {
    // No operation reports less inside its result than a heartbeat.
    let mut put = |error: ServerError| codec.encode_response(id, Op::Heartbeat, &Response::Error(error), out);
    if put(error.clone()).is_err() {
        let mut bare = ServerError::new(error.kind(), "");
        if let Some(code) = error.code() {
            bare = bare.with_code(code);
        }
        // Never fails: it has neither text nor metadata.
        let _ = put(bare);
    }
}
