//! A link and scripted servers, joined in memory on virtual time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fibp_proto::config::ConsumerSettings;
use fibp_proto::event::Cursor;
use fibp_proto::fault::{Fault, FaultKind};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::link::{Action, Parcel, Reply};
use fibp_proto::server::RequestId;
use fibp_proto::{
    AdminRevision, Config, Dialect, Endpoint, Event, Link, MessageId, Push, Received, Request, Response, Shared,
};

use crate::host::{Act, End, Host, Socket};

pub(crate) const P1: Dialect = Dialect::Preamble(AdminRevision::P1);
pub(crate) const P2: Dialect = Dialect::Preamble(AdminRevision::P2);
pub(crate) const P3: Dialect = Dialect::Preamble(AdminRevision::P3);

pub(crate) type Token = u32;

/// More turns than this at one instant are a loop without progress.
const MAX_TURNS: usize = 4_000_000;

/// How much is encoded ahead.
const WRITE_AHEAD: usize = 64 * 1024;

/// In what pieces bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Whole,
    Bytes,
    Chunks(u64),
}

pub(crate) const MODES: [Mode; 4] = [Mode::Whole, Mode::Bytes, Mode::Chunks(1), Mode::Chunks(99)];

/// Runs a case in every mode: the completions must be the same, at the same instants.
pub(crate) fn in_every_mode(case: impl Fn(Mode) -> Sim) {
    let mut transcripts = MODES.map(|mode| (mode, case(mode).finish())).into_iter();
    let (_, first) = transcripts.next().expect("modes");
    for (mode, transcript) in transcripts {
        assert_eq!(transcript, first, "in mode {mode:?}");
    }
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).expect("below a usize")
    }
}

impl Mode {
    fn piece(self, rng: &mut Rng, available: usize) -> usize {
        match self {
            Self::Whole => available,
            Self::Bytes => 1,
            Self::Chunks(_) => 1 + rng.below(available.min(23)),
        }
    }
}

/// Which tokens are out, and what came back for them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: Token,
    pub(crate) open: BTreeSet<Token>,
    pub(crate) replies: BTreeMap<Token, Reply<Token>>,
    transcript: BTreeMap<Token, String>,
}

impl Ledger {
    pub(crate) fn issue(&mut self) -> Token {
        self.next += 1;
        self.open.insert(self.next);
        self.next
    }

    pub(crate) fn take_back(&mut self, token: Token, how: String) {
        assert!(self.open.remove(&token), "token {token} came back twice");
        self.transcript.insert(token, how);
    }
}

/// A request that reached a server.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
}

type Dialed = Box<dyn FnMut(&Endpoint, usize) -> Host>;
type Serve = Box<dyn FnMut(&Request, usize) -> Act>;

pub(crate) struct Sim {
    pub(crate) link: Link<Token>,
    pub(crate) shared: Shared,
    pub(crate) base: Instant,
    pub(crate) now: Instant,
    mode: Mode,
    rng: Rng,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    /// Which host answers which dial: the endpoint and the number of the dial.
    pub(crate) dialed: Dialed,
    /// What servers do with a request: the request and the number of the connection.
    pub(crate) serve: Serve,
    pub(crate) socket: Option<Socket>,
    /// What is read into as soon as something arrives.
    pub(crate) buffer: Option<ReadBuffer>,
    connections: usize,
    pub(crate) dials: Vec<(Duration, Endpoint)>,
    pub(crate) hangups: usize,
    pub(crate) half_closes: usize,
    pub(crate) asked: Vec<Asked>,
    pub(crate) parcels: Vec<(Option<Endpoint>, Parcel<Token>)>,
    /// Bytes that new sockets accept before writes stall.
    pub(crate) write_budget: Option<usize>,
    cursor: Cursor,
    pub(crate) events: Vec<Event>,
    /// Set while a node link or a stalled dial is deliberately left alone.
    pub(crate) opened: Token,
}

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

pub(crate) fn config() -> Config {
    Config::new("127.0.0.1:5555")
}

impl Sim {
    pub(crate) fn requests(config: Config, mode: Mode) -> Self {
        Self::new(config, mode, |shared, now, token| {
            Link::requests(shared, now, 7, Some(token))
        })
    }

    pub(crate) fn consumer(config: Config, mode: Mode, settings: ConsumerSettings) -> Self {
        Self::new(config, mode, |shared, now, token| {
            Link::consumer(shared, "orders".into(), settings, now, 7, Some(token))
        })
    }

    pub(crate) fn new(config: Config, mode: Mode, link: impl FnOnce(&Shared, Instant, Token) -> Link<Token>) -> Self {
        let shared = Shared::new(config).expect("a good configuration");
        let base = epoch();
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let opened = ledger.borrow_mut().issue();
        let link = link(&shared, base, opened);
        Self::around(link, shared, base, base, mode, ledger, opened)
    }

    /// A link to one node, for the same client.
    pub(crate) fn node(&self, endpoint: &Endpoint) -> Self {
        let link = Link::requests_to(&self.shared, endpoint.clone(), self.now, 7);
        Self::around(
            link,
            self.shared.clone(),
            self.base,
            self.now,
            self.mode,
            Rc::clone(&self.ledger),
            0,
        )
    }

    /// A consumer of the same client.
    pub(crate) fn consumer_beside(&self, settings: ConsumerSettings) -> Self {
        let opened = self.ledger.borrow_mut().issue();
        let link = Link::consumer(&self.shared, "orders".into(), settings, self.now, 7, Some(opened));
        let ledger = Rc::clone(&self.ledger);
        Self::around(
            link,
            self.shared.clone(),
            self.base,
            self.now,
            self.mode,
            ledger,
            opened,
        )
    }

    fn around(
        link: Link<Token>,
        shared: Shared,
        base: Instant,
        now: Instant,
        mode: Mode,
        ledger: Rc<RefCell<Ledger>>,
        opened: Token,
    ) -> Self {
        let seed = match mode {
            Mode::Chunks(seed) => seed,
            Mode::Whole | Mode::Bytes => 0,
        };
        Self {
            link,
            cursor: shared.subscribe(),
            shared,
            base,
            now,
            mode,
            rng: Rng(seed),
            ledger,
            dialed: Box::new(|_, _| Host::p1()),
            serve: Box::new(|request, _| crate::host::obliging(request)),
            socket: None,
            buffer: None,
            connections: 0,
            dials: Vec::new(),
            hangups: 0,
            half_closes: 0,
            asked: Vec::new(),
            parcels: Vec::new(),
            write_budget: None,
            events: Vec::new(),
            opened,
        }
    }

    // ---- time ----

    pub(crate) fn at(&self) -> Duration {
        self.now - self.base
    }

    /// Lets everything happen that needs no time to pass.
    pub(crate) fn settle(&mut self) -> &mut Self {
        let mut turns = 0;
        let mut idle = 0;
        loop {
            turns += 1;
            assert!(turns < MAX_TURNS, "no end of turns at {:?}", self.at());
            let mut moved = self.act();
            moved |= self.drain();
            moved |= self.write();
            moved |= self.run_host();
            moved |= self.read();
            if moved {
                idle = 0;
                continue;
            }
            if self.link.poll_timeout().is_none_or(|at| at > self.now) {
                break;
            }
            idle += 1;
            assert!(idle < 50, "the timeout does not move from {:?}", self.at());
            self.link.handle_timeout(self.now);
        }
        while let Some(event) = self.shared.next_event(&mut self.cursor) {
            self.events.push(event);
        }
        self
    }

    /// As far as the first accepted dial, before the server says anything.
    pub(crate) fn settle_until_socket(&mut self) {
        while self.socket.is_none() {
            assert!(self.act(), "no dial");
        }
    }

    /// Lets `by` pass, stopping wherever the link wants to.
    pub(crate) fn advance(&mut self, by: Duration) -> &mut Self {
        let until = self.now + by;
        self.settle();
        while let Some(at) = self.link.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.link.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
        self.link.handle_timeout(until);
        self.settle()
    }

    pub(crate) fn advance_ms(&mut self, ms: u64) -> &mut Self {
        self.advance(Duration::from_millis(ms))
    }

    pub(crate) fn advance_secs(&mut self, secs: u64) -> &mut Self {
        self.advance(Duration::from_secs(secs))
    }

    // ---- the driver ----

    fn act(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.link.poll_action() {
            moved = true;
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    assert!(deadline.is_none_or(|at| at >= self.now), "a dial that is late already");
                    self.socket = None;
                    self.buffer = None;
                    self.dials.push((self.at(), endpoint.clone()));
                    match (self.dialed)(&endpoint, self.dials.len()) {
                        Host::Refused(kind) => {
                            self.link.handle_dial_failed(self.now, id, Fault::new(kind, "scripted"));
                        }
                        Host::Unreachable => {}
                        host => {
                            self.connections += 1;
                            let key = self.shared.config().settings().credentials.key();
                            self.socket = Some(Socket::new(host, self.write_budget));
                            self.link.handle_dialed(self.now, id, key);
                        }
                    }
                }
                Action::HalfClose => {
                    self.half_closes += 1;
                    if let Some(socket) = &mut self.socket {
                        socket.client_half_closed = true;
                    }
                }
                Action::Hangup => {
                    self.hangups += 1;
                    self.socket = None;
                    self.buffer = None;
                }
                Action::Reroute { endpoint, parcel } => self.parcels.push((endpoint, parcel)),
                other => panic!("{other:?}"),
            }
        }
        moved
    }

    fn drain(&mut self) -> bool {
        let mut completions = Vec::new();
        self.link.drain_completions(&mut completions);
        let at = self.at();
        let mut ledger = self.ledger.borrow_mut();
        let moved = !completions.is_empty();
        for completion in completions {
            ledger.take_back(completion.token, format!("{at:?} {:?}", completion.reply));
            if let Reply::Admitted(Err(refused)) = &completion.reply {
                ledger.take_back(refused.1, format!("{at:?} with {}", completion.token));
            }
            ledger.replies.insert(completion.token, completion.reply);
        }
        moved
    }

    fn write(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if socket.transmit.is_empty() && !self.link.take_transmit(self.now, WRITE_AHEAD, &mut socket.transmit) {
            return false;
        }
        let mut transmit = std::mem::take(&mut socket.transmit);
        let room = socket.budget.unwrap_or(usize::MAX).min(transmit.chunk().len());
        let n = self.mode.piece(&mut self.rng, room).min(room);
        if n == 0 {
            socket.transmit = transmit;
            return false;
        }
        assert!(!socket.client_half_closed, "bytes after the half-close");
        socket.to_server.extend(&transmit.chunk()[..n]);
        socket.sent += n;
        socket.budget = socket.budget.map(|budget| budget - n);
        self.link.transmitted(self.now, &mut transmit, n);
        if let Some(socket) = &mut self.socket {
            socket.transmit = transmit;
        }
        true
    }

    fn run_host(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let asked = &mut self.asked;
        let connection = self.connections;
        let serve = &mut self.serve;
        socket.run(|id, request| {
            asked.push(Asked {
                id,
                request: request.clone(),
            });
            serve(request, connection)
        })
    }

    fn read(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if socket.cut_at == Some(socket.received) {
            socket.to_client.clear();
            socket.end = Some(socket.cut_end);
        }
        if (socket.to_client.is_empty() || socket.arrivals == Some(0)) && socket.end.is_none() {
            // A reader that finds nothing says so where that is wanted, and sleeps.
            let Some(buffer) = self.buffer.take().or_else(|| self.link.take_read_buffer()) else {
                return false;
            };
            if !buffer.reports_empty() {
                self.buffer = Some(buffer);
                return false;
            }
            self.link.handle_input(self.now, buffer);
            return true;
        }
        let Some(mut buffer) = self.buffer.take().or_else(|| self.link.take_read_buffer()) else {
            return false;
        };
        assert!(!buffer.unfilled().is_empty(), "a buffer without room");
        if socket.to_client.is_empty() {
            let end = socket.end.take();
            self.link.handle_input(self.now, buffer);
            match end {
                Some(End::Eof) => self.link.handle_eof(self.now),
                _ => self
                    .link
                    .handle_transport_error(self.now, Fault::new(FaultKind::Reset, "reset by the script")),
            }
            return true;
        }
        let left = socket.cut_at.map_or(usize::MAX, |at| at - socket.received);
        let left = left.min(socket.arrivals.unwrap_or(usize::MAX));
        let available = socket.to_client.len().min(buffer.unfilled().len()).min(left);
        let n = self.mode.piece(&mut self.rng, available).min(available);
        for (place, byte) in buffer.unfilled().iter_mut().zip(socket.to_client.drain(..n)) {
            *place = byte;
        }
        buffer.advance(n);
        socket.received += n;
        socket.arrivals = socket.arrivals.map(|arrivals| arrivals - n);
        self.link.handle_input(self.now, buffer);
        true
    }

    // ---- the server's side ----

    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("a socket")
    }

    /// Answers what was asked, however long ago.
    pub(crate) fn answer(&mut self, asked: &Asked, response: &Response) {
        self.socket().server().respond(asked.id, response).expect("encodes");
    }

    pub(crate) fn push(&mut self, payloads: &[&str]) {
        let push = deliveries(payloads);
        self.socket().server().push(&push).expect("encodes");
    }

    /// Requests of the servers' logs, by name, on all connections.
    pub(crate) fn asked_ops(&self) -> Vec<String> {
        self.asked.iter().map(|asked| format!("{:?}", asked.id.op)).collect()
    }

    pub(crate) fn last_asked(&self) -> Asked {
        self.asked.last().expect("a request").clone()
    }

    // ---- the end ----

    /// Ends the link and checks that nothing is left of anything. Returns what became of every token.
    pub(crate) fn finish(mut self) -> String {
        self.settle();
        self.link.abort(self.now);
        self.settle();
        self.advance_secs(2);
        self.check_inert();
        let ledger = self.ledger.borrow();
        assert!(ledger.open.is_empty(), "tokens never came back: {:?}", ledger.open);
        let mut text = String::new();
        for (token, how) in &ledger.transcript {
            let _ = writeln!(text, "{token}: {how}");
        }
        text
    }

    /// A link that is over asks for nothing and keeps nothing.
    pub(crate) fn check_inert(&mut self) {
        assert_eq!(self.link.in_flight(), 0);
        assert_eq!(self.link.poll_timeout(), None);
        assert!(self.link.is_terminated());
        assert!(!self.link.wants_read() && !self.link.wants_write());
        assert!(self.link.take_read_buffer().is_none());
        let mut transmit = Transmit::new();
        assert!(!self.link.take_transmit(self.now, WRITE_AHEAD, &mut transmit));
        let late = self.enqueue("orders", "late");
        self.settle();
        assert!(self.enqueued(late).is_err());
        assert!(self.link.is_terminated());
    }
}

/// Numbered ids, payloads as given.
pub(crate) fn deliveries(payloads: &[&str]) -> Push {
    let deliveries = payloads
        .iter()
        .map(|payload| {
            let id = MessageId::from(format!("id-{payload:.20}"));
            Received::new(
                id,
                "orders",
                fibp_proto::Headers::new(),
                (*payload).to_owned(),
                "default",
                0,
            )
        })
        .collect();
    Push { deliveries }
}

pub(crate) fn framed() -> Config {
    config().dialect(Dialect::Framed)
}
