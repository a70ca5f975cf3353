//! The client side of one connection: opening, authentication, correlation, heartbeats.
//!
//! Knows nothing of sockets, TLS or reconnecting. Plain bytes come in through the decoder's buffers and go out
//! through [`Connection::out`].

mod client;
mod heartbeat;
mod own;
mod pushes;
mod table;

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::dialect::contents::Arena;
use crate::dialect::opening::{self, Greeting, Offered, OpeningFailure};
use crate::dialect::{Codec, Dialect, EncodeError, Incoming, Rules, framed};
use crate::error::{Error, ErrorKind, Outcome};
use crate::frame::{Decoder, Found, Frame, FrameHeader, FrameRef, Layout, Limits, OutBuf, Oversize, Pool, Reassembler};
use crate::message::{Message, QueueName, Secret};
use crate::request::{Op, Request};
use crate::requests::Settle;
use crate::response::{Push, Response};
use crate::simulation::TestHooks;
use heartbeat::{Beat, Heartbeat};
use own::{Admin, Cluster, Own};
use table::{Entry, Table};

pub use client::{ClientConfig, ClientConnection, ClientEvent};
pub(crate) use table::Expiry;

/// A server that leaves this many abandoned requests unanswered is not answering at all.
const MAX_TOMBSTONES: usize = 65_536;

/// With more output waiting than this, in bytes, heartbeats of the server stay unanswered.
const MAX_OUTPUT_OF_ECHOES: usize = 16 * 1024;

/// So many answers to heartbeats of the server are remembered, in case that they are answered in turn.
const MAX_ECHOES: usize = 16;

/// Where there is no queue to be named.
pub(crate) static NOWHERE: LazyLock<QueueName> = LazyLock::new(QueueName::default);

/// What a connection needs to know.
#[derive(Debug)]
pub(crate) struct Options {
    /// What to open with.
    pub(crate) codec: &'static dyn Codec,
    /// Whether the admin revision of a preamble server was configured: then it is not probed.
    pub(crate) admin_known: bool,
    /// Whether the dialect is a guess, so that a framed server may turn out to have the opcode numbers of F1.
    pub(crate) may_be_f1: bool,
    pub(crate) key: Option<Secret>,
    pub(crate) limits: Limits,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) heartbeat_missed: u32,
    /// Where free places for the read buffer are found.
    pub(crate) pool: Pool,
}

/// One connection. `W` is what the machine keeps with a request until it is answered.
#[derive(Debug)]
pub(crate) struct Connection<W> {
    codec: &'static dyn Codec,
    numbers: Numbers,
    admin: Admin,
    cluster: Cluster,
    key: Option<Secret>,
    limits: Limits,
    /// What the framed handshake announces: 0 outside a cluster.
    node_id: u64,
    decoder: Decoder,
    /// Joins continued frames, in dialects that have them.
    reassembler: Option<Reassembler>,
    /// Where parts of deliveries are copied to; empty while nothing is being read.
    arena: Arena,
    pub(crate) out: OutBuf,
    /// Bytes encoded, bytes handed to the writer, and bytes that the transport took, since the connection began.
    encoded: u64,
    handed: u64,
    written: u64,
    phase: Phase,
    table: Table<Ticket<W>>,
    /// How many requests in the table are the connection's own.
    own: usize,
    heartbeat: Heartbeat,
    /// Part of a push arrived since it was asked last.
    delivering: bool,
    /// Frames taken out of what was read, whatever became of them.
    frames: u64,
    /// The heartbeats of the server that were answered last, oldest first.
    echoed: VecDeque<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Authenticating,
    Ready,
}

/// What is known of a framed server's opcode numbers (docs/protocol/framed.md 3). Learned for each connection: another
/// server may stand at the address by then, and an Ack of F1 cancels the consumer of F2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Known,
    /// F2 is spoken; the server may teach otherwise.
    Assumed,
    /// The server taught F1 when so many bytes were encoded: what was encoded before has the numbers of F2.
    Learned {
        at: u64,
    },
}

/// Where a frame lies.
enum Place {
    /// At the front of the read buffer, so long with its prefix.
    InBuffer(usize),
    /// By itself.
    Own(Frame),
}

/// Who waits for an answer.
#[derive(Debug)]
enum Ticket<W> {
    User(W),
    Own(Own),
}

/// What arrived.
#[derive(Debug)]
pub(crate) enum Arrival<W> {
    /// Opened and authenticated: requests may be sent.
    Ready,
    /// The admin revision is known now, or the probe did not say.
    AdminRevision(Result<(), Error>),
    /// A request was answered, or its answer is unusable.
    Answer { work: W, response: Result<Response, Error> },
    /// The server did not know the request's opcode, so that it had no effect, and taught its own: send it again.
    Again(W),
    /// What was asked to learn of a cluster.
    Cluster(Result<Response, Error>),
    /// Deliveries that arrived together, in so many frames.
    Push { push: Push, frames: u64 },
    /// The server is leaving.
    Goodbye(String),
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// The server may accept another dialect's opening.
    pub(crate) try_other_dialect: bool,
}

impl Broken {
    pub(crate) fn new(error: Error) -> Self {
        Self {
            error,
            try_other_dialect: false,
        }
    }

    fn protocol(text: impl Into<String>) -> Self {
        Self::new(Error::new(ErrorKind::Protocol, text))
    }
}

impl From<OpeningFailure> for Broken {
    fn from(failure: OpeningFailure) -> Self {
        Self {
            error: failure.error,
            try_other_dialect: failure.try_other,
        }
    }
}

impl<W> Connection<W> {
    /// A connection whose transport just opened: encodes the opening.
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let Options {
            codec,
            admin_known,
            may_be_f1,
            key,
            limits,
            heartbeat,
            heartbeat_missed,
            pool,
        } = options;
        let rules = codec.rules();
        let mut out = OutBuf::new();
        let opening_key = key.as_ref().filter(|_| !rules.authenticate).map(Secret::expose);
        codec.encode_opening(opening_key, &mut out)?;
        Ok(Self {
            codec,
            numbers: if may_be_f1 && codec.dialect() == Dialect::Handshake {
                Numbers::Assumed
            } else {
                Numbers::Known
            },
            admin: if admin_known || !rules.admin_revisions {
                Admin::Known
            } else {
                Admin::Unknown
            },
            cluster: Cluster::Unknown,
            key: key.filter(|_| rules.authenticate),
            limits,
            node_id: 0,
            reassembler: rules.continuation.then(|| Reassembler::new(limits.receive as usize)),
            decoder: Decoder::new(codec.layout(), limits).oversize(Oversize::Skip).pool(pool),
            arena: Arena::default(),
            encoded: out.len() as u64,
            out,
            handed: 0,
            written: 0,
            phase: Phase::Opening,
            table: Table::new(),
            own: 0,
            heartbeat: Heartbeat::new(heartbeat, heartbeat_missed),
            delivering: false,
            frames: 0,
            echoed: VecDeque::new(),
        })
    }

    pub(crate) fn codec(&self) -> &'static dyn Codec {
        self.codec
    }

    pub(crate) fn rules(&self) -> Rules {
        self.codec.rules()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.codec.dialect()
    }

    /// Whether the handshake announced the node of a cluster (docs/protocol/clusters.md 1). The preamble dialect
    /// announces nothing.
    pub(crate) fn is_cluster(&self) -> bool {
        self.node_id != 0
    }

    /// Whether the handshake says nothing of clusters.
    pub(crate) fn hides_cluster(&self) -> bool {
        self.rules().admin_revisions
    }

    /// Whether an error is one that only clusters give of a queue, and that may soon be out of date
    /// (docs/protocol/clusters.md 2).
    pub(crate) fn says_not_yet(&self, error: &Error) -> bool {
        error.server().is_some_and(|error| self.codec.says_not_yet(error))
    }

    /// The most items of one queue in one batched frame. A cluster confirms all items of a list and keeps the first
    /// (docs/protocol/clusters.md 3), so there a frame holds one.
    pub(crate) fn max_items(&self) -> usize {
        if self.is_cluster() { 1 } else { self.rules().max_items }
    }

    pub(crate) fn send_limit(&self) -> u32 {
        self.limits.send
    }

    pub(crate) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    pub(crate) fn set_test_hooks(&mut self, hooks: TestHooks) {
        self.table.set_test_hooks(hooks);
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn tombstones(&self) -> usize {
        self.table.tombstones()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(crate) fn admin_known(&self) -> bool {
        self.admin == Admin::Known
    }

    /// Requests that somebody waits for; the connection's own do not count.
    pub(crate) fn in_flight(&self) -> usize {
        self.table.live().saturating_sub(self.own)
    }

    /// `n` more bytes of [`out`](Self::out) are with the writer, which has not said yet how many the transport took.
    pub(crate) fn note_handed(&mut self, n: usize) {
        self.handed = self.handed.saturating_add(n as u64);
    }

    /// `n` more bytes of [`out`](Self::out) were taken by the transport.
    pub(crate) fn note_written(&mut self, n: usize) {
        self.written = self.written.saturating_add(n as u64);
    }

    /// The writer has reported everything: what it was handed beyond that is not written.
    pub(crate) fn note_returned(&mut self) {
        self.handed = self.written;
    }

    /// How far the stream may have gone: a writer that has not reported yet may have written all it was handed.
    fn maybe_written(&self) -> u64 {
        self.handed.max(self.written)
    }

    /// Encodes a request; [`register`](Self::register) what waits for its answer, if it has one.
    pub(crate) fn encode(&mut self, request: &Request) -> Result<u32, EncodeError> {
        let limit = self.limits.send;
        self.encode_with(|codec, id, out| codec.encode_request(id, request, limit, out))
    }

    /// As [`encode`](Self::encode), for acks or nacks, which take up so many bytes ([`Codec::settle_item_len`]).
    pub(crate) fn encode_settles(&mut self, op: Op, settles: &[Settle], items_len: usize) -> Result<u32, EncodeError> {
        let limit = self.limits.send;
        self.encode_with(|codec, id, out| codec.encode_settles(id, op, settles, items_len, limit, out))
    }

    /// As [`encode`](Self::encode), for an enqueue of these messages, which take up so many bytes
    /// ([`Codec::enqueue_item_len`]).
    pub(crate) fn encode_enqueue(&mut self, messages: &[Message], items_len: usize) -> Result<u32, EncodeError> {
        let limit = self.limits.send;
        self.encode_with(|codec, id, out| codec.encode_enqueue(id, messages, Some(items_len), limit, out))
    }

    fn encode_with(
        &mut self,
        encode: impl FnOnce(&dyn Codec, u32, &mut OutBuf) -> Result<(), EncodeError>,
    ) -> Result<u32, EncodeError> {
        let id = self.table.next_id();
        let before = self.out.len();
        encode(self.codec, id, &mut self.out)?;
        // Every byte of `out` counts, answers to heartbeats too: offsets in the stream tell what was sent.
        self.encoded = self.encoded.saturating_add((self.out.len() - before) as u64);
        Ok(id)
    }

    /// Registers work for a request that [`encode`](Self::encode) just wrote.
    pub(crate) fn register(&mut self, id: u32, op: Op, work: W, deadline: Option<Instant>) {
        // The request ends where the stream ends now, so nothing may be encoded in between.
        self.table.insert(id, op, Ticket::User(work), self.encoded, deadline);
    }

    /// Ends the entry that an answer belongs to.
    fn answered(&mut self, id: u32) -> Option<Entry<Ticket<W>>> {
        let entry = self.table.answer(id)?;
        if matches!(entry.work, Some(Ticket::Own(_))) {
            self.own = self.own.saturating_sub(1);
        }
        Some(entry)
    }

    /// The next thing that arrived; `None` when more bytes are needed. `queue` names deliveries where the wire
    /// does not; none where nothing is consumed. Frames of deliveries are passed on together while there is `room` for
    /// more deliveries.
    pub(crate) fn next_arrival(
        &mut self,
        now: Instant,
        queue: Option<&QueueName>,
        room: usize,
    ) -> Result<Option<Arrival<W>>, Broken> {
        let queue = queue.unwrap_or(&NOWHERE);
        if self.phase == Phase::Opening {
            if !self.greet()? {
                return Ok(None);
            }
            // Where a key has to be accepted first, its answer says so: `deliver_own`.
            if self.phase == Phase::Ready {
                self.heartbeat.restart(now);
                return Ok(Some(Arrival::Ready));
            }
        }
        loop {
            // A second preamble would be taken for the length of a frame of more than a gigabyte. What is skipped may
            // hold the same bytes at any place.
            if self.codec.layout() == Layout::FlagsFirst
                && !self.decoder.is_skipping()
                && self.decoder.pending().starts_with(b"FIBP")
            {
                return Err(Broken::protocol("the server sent its preamble twice"));
            }
            let found = match self.decoder.look() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.delivering |= self.is_push(self.decoder.next_header());
                    // What is left of it would be held while nothing arrives.
                    self.arena.clear();
                    return Ok(None);
                }
                Err(error) => return Err(Broken::protocol(error.to_string())),
            };
            self.frames = self.frames.wrapping_add(1);
            let arrival = match found {
                Found::Frame { header, wire_len } if self.is_in_place(header, wire_len) => {
                    if self.is_push(Some(header)) {
                        Some(self.take_pushes(header, wire_len, queue, room)?)
                    } else {
                        let arrival = self.take_frame(header, &Place::InBuffer(wire_len));
                        self.decoder.pass(wire_len);
                        arrival?
                    }
                }
                Found::Frame { header, wire_len } => {
                    let frame = self.decoder.take_frame(header, wire_len);
                    match self.join(frame)? {
                        Some(frame) if self.is_push(Some(frame.header)) => Some(self.take_push(&frame, queue)?),
                        Some(frame) => self.take_frame(frame.header, &Place::Own(frame))?,
                        None => {
                            self.delivering |= self.is_push(Some(header));
                            None
                        }
                    }
                }
                Found::Oversized { header, length } => self.take_oversized(header, length)?,
            };
            // Until then the deadline of the attempt watches over the peer.
            if self.is_ready() {
                self.heartbeat.restart(now);
            }
            if arrival.is_some() {
                return Ok(arrival);
            }
        }
    }

    fn is_push(&self, header: Option<FrameHeader>) -> bool {
        header.is_some_and(|header| matches!(self.codec.classify(header), Incoming::Push))
    }

    /// How many frames it has read.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether part of a push arrived since this was asked last.
    pub(crate) fn take_delivering(&mut self) -> bool {
        std::mem::take(&mut self.delivering)
    }

    /// The peer sent or took bytes, if only some of a frame.
    pub(crate) fn note_life(&mut self, now: Instant) {
        if self.heartbeat.poll_timeout().is_some() {
            self.heartbeat.restart(now);
        }
    }

    /// The peer closed, or the transport failed, at this point of the stream.
    pub(crate) fn closed_early(&self, reset: bool) -> Option<Broken> {
        (self.phase == Phase::Opening)
            .then(|| opening::closed_before_greeting(self.offered(), self.decoder.pending(), reset).into())
    }

    /// Whether the stream ends inside a frame.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.decoder.pending().is_empty()
    }

    fn offered(&self) -> Offered {
        match self.codec.layout() {
            Layout::FlagsFirst => Offered::Preamble,
            Layout::OpcodeFirst => Offered::Handshake,
        }
    }

    fn greet(&mut self) -> Result<bool, Broken> {
        match opening::recognise(self.offered(), &mut self.decoder, self.limits)? {
            Greeting::Incomplete => return Ok(false),
            Greeting::Preamble { .. } => {}
            Greeting::Handshake {
                node_id,
                max_frame_size,
                ..
            } => {
                self.node_id = node_id;
                // Before anything else is encoded: what is too large for this server is refused here.
                self.limits.send = self.limits.send.min(max_frame_size);
            }
        }
        self.phase = match self.key.take() {
            None => Phase::Ready,
            Some(key) => {
                self.request_own(&Request::Authenticate(key), Own::Authentication)
                    .map_err(|error| Broken::new(error.into()))?;
                Phase::Authenticating
            }
        };
        Ok(true)
    }

    /// The frame, whole; `None` while it goes on in further ones.
    fn join(&mut self, frame: Frame) -> Result<Option<Frame>, Broken> {
        match &mut self.reassembler {
            Some(reassembler) => reassembler
                .push(frame)
                .map_err(|error| Broken::protocol(error.to_string())),
            None => Ok(Some(frame)),
        }
    }

    fn frame_at<'a>(&'a self, header: FrameHeader, place: &'a Place) -> FrameRef<'a> {
        match place {
            Place::InBuffer(wire_len) => self.decoder.frame(header, *wire_len),
            Place::Own(frame) => frame.as_frame_ref(),
        }
    }

    /// Reads a frame that is no push.
    fn take_frame(&mut self, header: FrameHeader, place: &Place) -> Result<Option<Arrival<W>>, Broken> {
        match self.codec.classify(header) {
            Incoming::Goodbye => {
                let text = self.codec.decode_goodbye(self.frame_at(header, place));
                Ok(Some(Arrival::Goodbye(text)))
            }
            Incoming::Ping => {
                self.answer_heartbeat(header.id);
                Ok(None)
            }
            Incoming::Heartbeat if self.table.op(header.id) != Some(Op::Heartbeat) => {
                // Where an answer looks like a question, servers answer every one: their answers to ours must not have
                // answers, or both go on for ever.
                match self.echoed.iter().position(|echoed| *echoed == header.id) {
                    Some(place) => drop(self.echoed.remove(place)),
                    None => {
                        self.answer_heartbeat(header.id);
                        self.echoed.push_back(header.id);
                        if self.echoed.len() > MAX_ECHOES {
                            self.echoed.pop_front();
                        }
                    }
                }
                Ok(None)
            }
            Incoming::Push | Incoming::Unknown => Ok(None),
            Incoming::Answer | Incoming::Heartbeat => {
                // Answers to unknown ids are answers to nobody: there is no one to tell.
                let Some(entry) = self.answered(header.id) else {
                    return Ok(None);
                };
                // Before the answer is decoded: it has the numbers that it teaches.
                self.learn_numbers(entry.op, header, place);
                let frame = self.frame_at(header, place);
                let again = self.has_unknown_number(&entry, frame);
                let ticket = match entry.work {
                    Some(Ticket::User(work)) if again => return Ok(Some(Arrival::Again(work))),
                    Some(ticket) => ticket,
                    None => return Ok(None),
                };
                let response = self.codec.decode_response(entry.op, frame).map_err(|error| {
                    Error::new(
                        ErrorKind::Protocol,
                        format!("the answer to {:?} cannot be decoded: {error}", entry.op),
                    )
                    .with_outcome(Outcome::Unknown)
                });
                self.deliver(ticket, response)
            }
        }
    }

    /// Two answers are certain signs of F1: its ConsumeOk, whose number answers no Consume on F2, and the refusal of
    /// F2's numbers of Ack and Nack.
    fn learn_numbers(&mut self, op: Op, header: FrameHeader, place: &Place) {
        if self.numbers == Numbers::Assumed
            && framed::is_answer_of_f1(op, self.frame_at(header, place))
            && let Some(codec) = Dialect::HandshakeEarly.codec()
        {
            self.codec = codec;
            // What is on its way has the numbers of F2, and is sent again when it is refused (`has_unknown_number`).
            self.numbers = Numbers::Learned { at: self.encoded };
        }
    }

    /// Whether the answer refuses the number of a request that was encoded before F1 was learned.
    fn has_unknown_number<T>(&self, entry: &Entry<T>, frame: FrameRef<'_>) -> bool {
        matches!(self.numbers, Numbers::Learned { at } if entry.end <= at) && framed::refuses_f2_number(entry.op, frame)
    }

    /// Answers a heartbeat of the server's own.
    fn answer_heartbeat(&mut self, id: u32) {
        let before = self.out.len();
        // A server that sends but does not read must not fill our memory.
        if before > MAX_OUTPUT_OF_ECHOES {
            return;
        }
        // A heartbeat's answer has no part that could fail to encode.
        let _ = self
            .codec
            .encode_response(id, Op::Heartbeat, &Response::Heartbeat, &mut self.out);
        self.encoded = self.encoded.saturating_add((self.out.len() - before) as u64);
    }

    fn deliver(&mut self, ticket: Ticket<W>, response: Result<Response, Error>) -> Result<Option<Arrival<W>>, Broken> {
        match ticket {
            Ticket::User(work) => {
                let response = accepted(response);
                Ok(Some(Arrival::Answer { work, response }))
            }
            Ticket::Own(own) => self.deliver_own(own, response),
        }
    }

    fn take_oversized(&mut self, header: FrameHeader, length: u32) -> Result<Option<Arrival<W>>, Broken> {
        let limit = self.limits.receive;
        let too_large = || {
            Error::new(
                ErrorKind::TooLarge,
                format!("the answer is {length} bytes long, at most {limit} are accepted"),
            )
            .with_outcome(Outcome::Unknown)
        };
        match self.codec.classify(header) {
            Incoming::Answer | Incoming::Heartbeat => match self.answered(header.id) {
                Some(entry) => match entry.work {
                    Some(Ticket::User(work)) => Ok(Some(Arrival::Answer {
                        work,
                        response: Err(too_large()),
                    })),
                    // As many queues as there are: to list them was the client's own idea.
                    Some(Ticket::Own(Own::Cluster)) => {
                        self.note_cluster_told();
                        Ok(None)
                    }
                    Some(Ticket::Own(_)) => Err(Broken::new(too_large())),
                    None => Ok(None),
                },
                // Passing over gigabytes for nobody would look like a hang.
                None => Err(Broken::protocol(format!(
                    "a frame of {length} bytes that answers no request"
                ))),
            },
            Incoming::Push => Err(Broken::new(Error::new(
                ErrorKind::TooLarge,
                format!("deliveries of {length} bytes arrived, at most {limit} are accepted (max_frame_size)"),
            ))),
            Incoming::Ping | Incoming::Goodbye | Incoming::Unknown => Err(Broken::protocol(format!(
                "a frame of {length} bytes with opcode 0x{:02x}",
                header.opcode
            ))),
        }
    }

    // ---- time ----

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        crate::earliest_deadline::earlier(self.table.earliest_deadline(), self.heartbeat.poll_timeout())
    }

    /// Lets `expire` settle requests whose deadline has passed (see [`Table::expire`]).
    pub(crate) fn expire(&mut self, now: Instant, mut expire: impl FnMut(&mut W) -> Expiry) -> Result<(), Broken> {
        self.table.expire(now, |ticket| match ticket {
            Ticket::User(work) => expire(work),
            // They have no caller. Missing heartbeats, and the deadline of the attempt, end a connection that does not
            // answer.
            Ticket::Own(_) => Expiry::Never,
        });
        // Ids stay taken until they are answered, so a server that never answers would fill the memory.
        if self.table.tombstones() > MAX_TOMBSTONES {
            return Err(Broken::new(Error::new(
                ErrorKind::Disconnected,
                "the server leaves too many requests unanswered",
            )));
        }
        Ok(())
    }

    /// Sends a heartbeat if one is due, and says so: the connection is quiet.
    pub(crate) fn heartbeat(&mut self, now: Instant) -> Result<bool, Broken> {
        match self.heartbeat.handle_timeout(now) {
            None => Ok(false),
            Some(Beat::Dead) => Err(Broken::new(Error::new(
                ErrorKind::Disconnected,
                "the server answers no heartbeats",
            ))),
            Some(Beat::Send) => {
                // A quiet connection keeps no memory of its busy times.
                self.out.shrink();
                self.decoder.shrink();
                self.request_own(&Request::Heartbeat, Own::Heartbeat)
                    .map_err(|error| Broken::new(error.into()))?;
                Ok(true)
            }
        }
    }

    /// Input is not read for now: silence means nothing.
    pub(crate) fn suspend_heartbeat(&mut self) {
        self.heartbeat.suspend();
    }

    /// Input is read again.
    pub(crate) fn resume_heartbeat(&mut self, now: Instant) {
        if self.is_ready() && self.heartbeat.poll_timeout().is_none() {
            self.heartbeat.restart(now);
        }
    }

    // ---- the end, and looking in ----

    /// The work of a request in flight that somebody waits for.
    pub(crate) fn work_mut(&mut self, id: u32) -> Option<&mut W> {
        match self.table.work_mut(id)? {
            Ticket::User(work) => Some(work),
            Ticket::Own(_) => None,
        }
    }

    /// Nobody waits for a request any more.
    pub(crate) fn give_up(&mut self, id: u32) {
        self.table.give_up(id);
    }

    /// Everything that was not answered, in the order in which it was encoded, and whether it may have been
    /// sent in full.
    pub(crate) fn drain(&mut self) -> Vec<(W, bool)> {
        let written = self.maybe_written();
        self.own = 0;
        self.table
            .drain()
            .into_iter()
            .filter_map(|(ticket, end)| match ticket {
                // Whole or not at all: servers act on whole frames.
                Ticket::User(work) => Some((work, end <= written)),
                Ticket::Own(_) => None,
            })
            .collect()
    }
}

/// The answer, unless it is a refusal.
fn accepted(response: Result<Response, Error>) -> Result<Response, Error> {
    match response? {
        Response::Error(error) => Err(Error::from_server(error)),
        response => Ok(response),
    }
}
