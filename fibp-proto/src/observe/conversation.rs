//! Both directions together: the opening, the dialect, and which answer belongs to which request.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use super::stream::{Hole, Piece, Stream};
use super::{Event, Greeting, Observed, ObserverConfig, Offered, Opening, Side, recognise_client, recognise_server};
use crate::dialect::opening::{ClientOpening, shown};
use crate::dialect::{AdminRevision, Codec, Dialect, Incoming, Malformed, framed};
use crate::frame::{CONTINUATION, Frame, Layout, Limits, Reassembler};
use crate::message::QueueName;
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::{Push, Response};

/// Bytes of unfinished continuation sequences that are kept, for each side.
const MAX_REASSEMBLED: usize = 256 * 1024 * 1024;

/// Heartbeats of the server whose answer is awaited.
const MAX_SERVER_HEARTBEATS: usize = 64;

/// The admin opcode that has no effect when its body is empty (docs/protocol/revisions.md).
const PROBE: u8 = 0x14;

/// A request whose answer was not seen yet.
#[derive(Debug)]
struct Asked {
    op: Op,
    at: Duration,
    offset: u64,
}

/// One direction.
#[derive(Debug)]
struct Half {
    stream: Stream,
    /// The opening is over, or was not seen.
    opened: bool,
    reassembler: Reassembler,
    /// Where continued frames began, by id.
    began: BTreeMap<u32, u64>,
    ended: bool,
}

impl Half {
    fn new(side: Side, config: &ObserverConfig) -> Self {
        let mut stream = Stream::new(side, config.max_frame);
        if config.joined {
            stream.search();
        }
        Self {
            stream,
            opened: config.joined,
            reassembler: Reassembler::new(MAX_REASSEMBLED),
            began: BTreeMap::new(),
            ended: false,
        }
    }
}

/// Follows one connection from its bytes. See the [module](super).
///
/// Feed it with [`input`](Self::input), in the order in which the bytes came, and call
/// [`poll_event`](Self::poll_event) until it returns `None`. It holds the frame that is under way in each direction, the
/// requests that wait for their answer, and the events that were not taken.
#[derive(Debug)]
pub struct Conversation {
    config: ObserverConfig,
    client: Half,
    server: Half,
    codec: Option<&'static dyn Codec>,
    certain: bool,
    /// Neither side is read any further.
    dead: bool,
    /// When the client opened.
    opened_at: Option<Duration>,
    outstanding: BTreeMap<u32, VecDeque<Asked>>,
    unanswered: usize,
    /// Ids of the server's heartbeats.
    server_heartbeats: BTreeSet<u32>,
    queue: QueueName,
    events: VecDeque<Observed>,
    now: Duration,
}

impl Conversation {
    /// A conversation of which nothing was seen yet.
    #[must_use]
    pub fn new(config: ObserverConfig) -> Self {
        Self {
            client: Half::new(Side::Client, &config),
            server: Half::new(Side::Server, &config),
            codec: config.dialect.codec(),
            certain: config.dialect.codec().is_some(),
            dead: false,
            opened_at: None,
            outstanding: BTreeMap::new(),
            unanswered: 0,
            server_heartbeats: BTreeSet::new(),
            queue: QueueName::default(),
            events: VecDeque::new(),
            now: Duration::ZERO,
            config,
        }
    }

    /// The next bytes of one side. `now` is the time since any fixed instant, the same for both sides: latencies are
    /// differences of it.
    pub fn input(&mut self, from: Side, now: Duration, bytes: &[u8]) {
        self.now = now;
        if self.dead {
            return;
        }
        self.half(from).stream.feed(bytes);
        self.advance();
    }

    /// Bytes of one side are missing here: `len` of them, if that is known.
    pub fn hole(&mut self, from: Side, now: Duration, len: Option<u64>) {
        self.now = now;
        if self.dead {
            return;
        }
        let layout = self.layout();
        let half = self.half(from);
        let at = half.stream.offset().saturating_add(half.stream.pending().len() as u64);
        half.opened = true;
        let hole = half.stream.hole(layout, len);
        let (header, in_step) = match hole {
            Hole::Within(header) => (header, true),
            Hole::Beyond => (None, false),
        };
        self.tell(from, at, Event::Hole { len, header, in_step });
        self.advance();
    }

    /// One side closed.
    pub fn end(&mut self, from: Side, now: Duration) {
        self.now = now;
        let half = self.half(from);
        if core::mem::replace(&mut half.ended, true) {
            return;
        }
        // What a server said before its client spoke has to be read as it is.
        self.advance();
        let half = self.half(from);
        let at = half.stream.offset().saturating_add(half.stream.pending().len() as u64);
        // What was named as a refusal, or as no frames at all, is not the rest of one.
        let unfinished = if self.dead {
            0
        } else {
            self.half(from).stream.pending().len()
        };
        let unanswered = match from {
            Side::Client => 0,
            Side::Server => self.unanswered,
        };
        self.tell(from, at, Event::End { unfinished, unanswered });
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Observed> {
        self.events.pop_front()
    }

    /// What is spoken, and whether the bytes proved it.
    #[must_use]
    pub fn dialect(&self) -> Option<(Dialect, bool)> {
        self.codec.map(|codec| (codec.dialect(), self.certain))
    }

    /// Requests that wait for their answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.unanswered
    }

    // ---- inside ----

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn layout(&self) -> Option<Layout> {
        self.codec.map(|codec| codec.layout())
    }

    fn tell(&mut self, from: Side, offset: u64, event: Event) {
        self.events.push_back(Observed {
            from,
            offset,
            at: self.now,
            event,
        });
    }

    /// Something was learned of the dialect. What is certain is not guessed again.
    fn learn(&mut self, from: Side, offset: u64, dialect: Dialect, certain: bool) {
        if (self.certain && !certain) || self.dialect() == Some((dialect, certain)) {
            return;
        }
        self.codec = dialect.codec();
        self.certain = certain;
        self.tell(from, offset, Event::Dialect { dialect, certain });
    }

    fn advance(&mut self) {
        loop {
            let mut moved = false;
            for side in [Side::Client, Side::Server] {
                while !self.dead && self.step(side) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn step(&mut self, side: Side) -> bool {
        if !self.half(side).opened {
            return match side {
                Side::Client => self.client_opening(),
                Side::Server => self.server_opening(),
            };
        }
        let layout = self.layout();
        let Some((at, piece)) = self.half(side).stream.next_piece(layout) else {
            return false;
        };
        match piece {
            Piece::Frame(frame) => self.take_frame(side, at, frame),
            Piece::Oversized { header, length } => self.tell(side, at, Event::Oversized { header, length }),
            Piece::Broken(error) => self.tell(side, at, Event::BadFrame(error)),
            Piece::Found { dialect, skipped } => {
                self.tell(side, at, Event::Found { skipped });
                if self.codec.is_none() {
                    self.learn(side, at, dialect, false);
                }
            }
        }
        true
    }

    // ---- the opening ----

    fn client_opening(&mut self) -> bool {
        let at = self.client.stream.offset();
        let ended = self.client.ended;
        let pending = self.client.stream.pending();
        match recognise_client(pending) {
            ClientOpening::Incomplete if !ended || pending.is_empty() => return false,
            ClientOpening::Preamble { major, minor } => {
                self.client.stream.consume(6);
                self.client.opened = true;
                self.opened_at = Some(self.now);
                self.tell(Side::Client, at, Event::Opening(Opening::Preamble { major, minor }));
                self.learn(Side::Client, at, Dialect::Preamble(AdminRevision::Protobuf), false);
            }
            ClientOpening::FramedFrame => {
                self.client.opened = true;
                // The Handshake has opcode 1 and no flags; whatever else is a frame comes from the middle.
                match pending {
                    [_, _, _, _, 0x01, 0x00, ..] => self.learn(Side::Client, at, Dialect::Handshake, false),
                    _ => {
                        self.client.stream.search();
                        self.server.stream.search();
                        self.server.opened = true;
                    }
                }
            }
            ClientOpening::Tls => {
                self.end_unread(at, "a TLS ClientHello: what follows is encrypted".to_owned());
            }
            ClientOpening::Http2 => {
                self.end_unread(at, "an HTTP/2 client, as of gRPC".to_owned());
            }
            ClientOpening::Incomplete | ClientOpening::Unknown => {
                let text = format!("neither a preamble nor a frame: {}", shown(pending));
                self.end_unread(at, text);
            }
        }
        true
    }

    fn end_unread(&mut self, at: u64, what: String) {
        self.dead = true;
        self.tell(Side::Client, at, Event::NotFibp(what));
    }

    fn server_opening(&mut self) -> bool {
        let offered = match (self.layout(), self.client.ended) {
            (Some(Layout::FlagsFirst), _) => Offered::Preamble,
            (Some(Layout::OpcodeFirst), _) => Offered::Handshake,
            // A server that speaks first is none of this protocol, or its client was not seen.
            (None, true) => Offered::Preamble,
            (None, false) => return false,
        };
        let at = self.server.stream.offset();
        let limits = Limits::new(self.config.max_frame, self.config.max_frame);
        match recognise_server(offered, self.server.stream.pending(), limits) {
            Ok((Greeting::Incomplete, _)) => return false,
            Ok((greeting, len)) => {
                self.server.stream.consume(len);
                self.server.opened = true;
                let latency = self.opened_at.and_then(|opened| self.now.checked_sub(opened));
                self.tell(Side::Server, at, Event::Accepted { greeting, latency });
            }
            Err(error) => {
                self.dead = true;
                self.tell(Side::Server, at, Event::Refused(error));
            }
        }
        true
    }

    // ---- frames ----

    fn take_frame(&mut self, side: Side, mut at: u64, frame: Frame) {
        let Some(codec) = self.codec else { return };
        let (header, len) = (frame.header, frame.body.len());
        let frame = if codec.rules().continuation {
            let half = self.half(side);
            let goes_on = header.flags & CONTINUATION != 0;
            if goes_on {
                half.began.entry(header.id).or_insert(at);
            }
            match half.reassembler.push(frame) {
                Ok(Some(frame)) => {
                    at = half.began.remove(&header.id).unwrap_or(at);
                    frame
                }
                Ok(None) => return self.tell(side, at, Event::Continuation { header, len }),
                Err(error) => {
                    half.reassembler = Reassembler::new(MAX_REASSEMBLED);
                    half.began.clear();
                    let reason = error.to_string();
                    return self.tell(
                        side,
                        at,
                        Event::Malformed {
                            header,
                            op: None,
                            reason,
                        },
                    );
                }
            }
        } else {
            frame
        };
        match side {
            Side::Client => self.take_request(at, &frame),
            Side::Server => self.take_answer(at, &frame),
        }
    }

    fn take_request(&mut self, at: u64, frame: &Frame) {
        let header = frame.header;
        self.learn_numbers_from_client(at, frame);
        let Some(codec) = self.codec else { return };
        let request = if codec.layout() == Layout::FlagsFirst && header.opcode == PROBE && frame.body.is_empty() {
            Ok(Request::ProbeAdmin)
        } else {
            let decoded = self.revise(Side::Client, at, |dialect| Request::decode(dialect, frame));
            decoded.or_else(|malformed| match malformed.reason {
                // A heartbeat's answer is no request.
                Malformed::UnknownOpcode { .. } if self.server_heartbeats.contains(&header.id) => {
                    Ok(Request::Heartbeat)
                }
                _ => Err(malformed),
            })
        };
        let request = match request {
            Ok(request) => request,
            Err(malformed) => {
                let (op, reason) = (malformed.op, malformed.reason.to_string());
                return self.tell(Side::Client, at, Event::Malformed { header, op, reason });
            }
        };
        let id = header.id;
        let event = match request {
            Request::Handshake { version, key } => {
                self.opened_at = Some(self.now);
                Event::Opening(Opening::Handshake { version, key })
            }
            Request::Flow { credit } => Event::Credit { credit },
            Request::Goodbye => Event::Goodbye {
                text: String::from_utf8_lossy(&frame.body).into_owned(),
            },
            Request::Heartbeat if self.server_heartbeats.remove(&id) => Event::HeartbeatAnswer { id },
            request => {
                if let Request::Consume { queue, .. } = &request {
                    self.queue = queue.clone();
                }
                self.note_request(id, request.op(), at);
                Event::Request { id, request }
            }
        };
        self.tell(Side::Client, at, event);
    }

    fn note_request(&mut self, id: u32, op: Op, offset: u64) {
        if op.is_answered() && self.unanswered < self.config.max_outstanding {
            self.unanswered += 1;
            let asked = Asked {
                op,
                at: self.now,
                offset,
            };
            self.outstanding.entry(id).or_default().push_back(asked);
        }
    }

    fn asked_op(&self, id: u32) -> Option<Op> {
        self.outstanding.get(&id)?.front().map(|asked| asked.op)
    }

    fn take_asked(&mut self, id: u32) -> Option<Asked> {
        let waiting = self.outstanding.get_mut(&id)?;
        let asked = waiting.pop_front();
        if waiting.is_empty() {
            self.outstanding.remove(&id);
        }
        self.unanswered = self.unanswered.saturating_sub(usize::from(asked.is_some()));
        asked
    }

    fn take_answer(&mut self, at: u64, frame: &Frame) {
        let (header, id) = (frame.header, frame.header.id);
        self.learn_numbers_from_server(at, frame);
        let Some(codec) = self.codec else { return };
        let event = match codec.classify(header) {
            Incoming::Push => match Push::decode(codec.dialect(), &self.queue, frame) {
                Ok(push) => Event::Push { id, push },
                Err(error) => Event::Malformed {
                    header,
                    op: None,
                    reason: error.to_string(),
                },
            },
            Incoming::Goodbye => Event::Goodbye {
                text: codec.decode_goodbye(frame.as_frame_ref()),
            },
            Incoming::Ping => self.server_heartbeat(id),
            Incoming::Heartbeat if self.asked_op(id) != Some(Op::Heartbeat) => self.server_heartbeat(id),
            Incoming::Unknown => Event::Malformed {
                header,
                op: None,
                reason: format!("unknown opcode 0x{:02x}", header.opcode),
            },
            Incoming::Answer | Incoming::Heartbeat => self.answer(at, frame),
        };
        self.tell(Side::Server, at, event);
    }

    fn server_heartbeat(&mut self, id: u32) -> Event {
        if self.server_heartbeats.len() < MAX_SERVER_HEARTBEATS {
            self.server_heartbeats.insert(id);
        }
        Event::ServerHeartbeat { id }
    }

    fn answer(&mut self, at: u64, frame: &Frame) -> Event {
        let (header, id) = (frame.header, frame.header.id);
        let asked = self.take_asked(id);
        let op = asked.as_ref().map(|asked| asked.op);
        let decoded = match op {
            Some(op) => self.revise(Side::Server, at, |dialect| Response::decode(dialect, op, frame)),
            // The opcode tells, but for refusals, which read the same for every operation.
            None => self.revise(Side::Server, at, |dialect| {
                let codec = dialect.codec();
                let answered = |op: &Op| codec.is_some_and(|codec| codec.answer_opcode_of(*op) == Some(header.opcode));
                let op = Op::ALL.into_iter().find(answered).unwrap_or(Op::Heartbeat);
                Response::decode(dialect, op, frame)
            }),
        };
        let response = match decoded {
            Ok(response) => response,
            Err(error) => {
                let reason = error.to_string();
                return Event::Malformed { header, op, reason };
            }
        };
        if let (Some(Op::ProbeAdmin), Response::Error(refusal)) = (op, &response)
            && let Some(revision) = AdminRevision::from_probe(refusal.text())
        {
            self.learn(Side::Server, at, Dialect::Preamble(revision), true);
        }
        Event::Answer {
            id,
            op: op.or_else(|| response.op()),
            latency: asked.as_ref().and_then(|asked| self.now.checked_sub(asked.at)),
            request_offset: asked.map(|asked| asked.offset),
            response,
        }
    }

    // ---- guesses ----

    /// Decodes by the dialect as it is known; where that is a guess and fails, by the other revisions of the preamble
    /// dialect, the first of which that can be read is the better guess.
    fn revise<T, E>(&mut self, from: Side, at: u64, decode: impl Fn(Dialect) -> Result<T, E>) -> Result<T, E> {
        let current = self.codec.map_or(Dialect::Auto, |codec| codec.dialect());
        let first = decode(current);
        if first.is_ok() || self.certain || !matches!(current, Dialect::Preamble(_)) {
            return first;
        }
        for revision in [
            AdminRevision::Protobuf,
            AdminRevision::ProtobufRenumbered,
            AdminRevision::Binary,
        ] {
            let dialect = Dialect::Preamble(revision);
            if dialect != current
                && let Ok(decoded) = decode(dialect)
            {
                self.learn(from, at, dialect, false);
                return Ok(decoded);
            }
        }
        first
    }

    /// A client of F1 is recognised by opcodes that no client of F2 sends.
    fn learn_numbers_from_client(&mut self, at: u64, frame: &Frame) {
        let opcode = frame.header.opcode;
        match self.dialect() {
            // F2's CancelConsume is empty, F1's Ack is not.
            Some((Dialect::Handshake, false))
                if matches!(opcode, 0x14 | 0x17) || (opcode == 0x15 && !frame.body.is_empty()) =>
            {
                self.learn(Side::Client, at, Dialect::HandshakeEarly, false);
            }
            Some((Dialect::HandshakeEarly, false)) if matches!(opcode, 0x16 | 0x18) => {
                self.learn(Side::Client, at, Dialect::Handshake, false);
            }
            _ => {}
        }
    }

    /// The answer to a Consume, and a refusal of F2's numbers, are certain signs.
    fn learn_numbers_from_server(&mut self, at: u64, frame: &Frame) {
        let Some((Dialect::Handshake | Dialect::HandshakeEarly, false)) = self.dialect() else {
            return;
        };
        let Some(op) = self.asked_op(frame.header.id) else {
            return;
        };
        if framed::is_answer_of_f1(op, frame.as_frame_ref()) {
            self.learn(Side::Server, at, Dialect::HandshakeEarly, true);
        } else if op == Op::Consume && frame.header.opcode == 0x13 {
            self.learn(Side::Server, at, Dialect::Handshake, true);
        }
    }
}
