//! A machine and scripted servers, joined in memory on virtual time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fibp_proto::config::ConsumerSettings;
use fibp_proto::consumer::Consumer;
use fibp_proto::event::Cursor;
use fibp_proto::fault::{Fault, FaultKind};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{Action, CallId, ChannelId, Machine, Reply};
use fibp_proto::requests::{ProducerId, Requests};
use fibp_proto::server::RequestId;
use fibp_proto::{
    AdminRevision, Config, Dialect, Endpoint, Event, Message, MessageId, Push, Received, Request, Response, Shared,
};

use crate::host::{Act, End, Host, Socket};

pub(crate) const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
pub(crate) const P2: Dialect = Dialect::Preamble(AdminRevision::ProtobufRenumbered);
pub(crate) const P3: Dialect = Dialect::Preamble(AdminRevision::Binary);

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
pub(crate) fn in_every_mode<M: TestMachine>(case: impl Fn(Mode) -> Sim<M>) {
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
    pub(crate) replies: BTreeMap<Token, Reply>,
    transcript: BTreeMap<Token, String>,
}

impl Ledger {
    pub(crate) fn issue(&mut self) -> Token {
        self.next += 1;
        self.open.insert(self.next);
        self.next
    }

    pub(crate) fn complete(&mut self, at: Duration, token: Token, reply: Reply) {
        self.take_back(token, format!("{at:?} {reply:?}"));
        self.replies.insert(token, reply);
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

/// Somebody who keeps a message until there is room for it.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) producer: ProducerId,
    pub(crate) room: CallId,
    pub(crate) message: Message,
    pub(crate) receipt: Token,
}

type Dialed = Box<dyn FnMut(&Endpoint, usize) -> Host>;
type Serve = Box<dyn FnMut(&Request, usize) -> Act>;
type ServeNode = Box<dyn FnMut(&Request, &Endpoint) -> Act>;

/// What cases ask of both machines besides the contract.
pub(crate) trait TestMachine: Machine<Token = Token> {
    fn abort(&mut self, now: Instant);
    fn close(&mut self, now: Instant, deadline: Duration, token: Token) -> CallId;
    fn requests(&mut self) -> Option<&mut Requests<Token>>;
    /// Asks for something, which a machine that is over refuses.
    fn ask_late(sim: &mut Sim<Self>)
    where
        Self: Sized;
}

macro_rules! test_machine {
    ($($machine:ty, $requests:expr, $ask_late:expr;)*) => {$(
        impl TestMachine for $machine {
            fn abort(&mut self, now: Instant) {
                self.abort(now);
            }

            fn close(&mut self, now: Instant, deadline: Duration, token: Token) -> CallId {
                self.close(now, deadline, token)
            }

            fn requests(&mut self) -> Option<&mut Requests<Token>> {
                ($requests)(self)
            }

            fn ask_late(sim: &mut Sim<Self>) {
                ($ask_late)(sim);
            }
        }
    )*};
}

test_machine! {
    Requests<Token>, Some, |sim: &mut Sim| {
        let late = sim.enqueue("orders", "late");
        sim.settle();
        assert!(sim.enqueued(late).is_err());
    };
    Consumer<Token>, |_| None, |sim: &mut ConsumerSim| {
        let token = sim.token();
        sim.machine.wait_delivery(sim.now, token);
        sim.settle();
        assert!(matches!(sim.reply(token), Reply::Ready));
    };
}

/// A consumer and scripted servers.
pub(crate) type ConsumerSim = Sim<Consumer<Token>>;

pub(crate) struct Sim<M = Requests<Token>> {
    pub(crate) machine: M,
    pub(crate) shared: Shared,
    pub(crate) base: Instant,
    pub(crate) now: Instant,
    mode: Mode,
    rng: Rng,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    /// Senders that keep their messages until there is room, by the tokens of these waits.
    pub(crate) senders: BTreeMap<Token, Sender>,
    /// Which host answers which dial: the endpoint and the number of the dial.
    pub(crate) dialed: Dialed,
    /// What servers do with a request: the request and the number of the connection.
    pub(crate) serve: Serve,
    pub(crate) socket: Option<Socket>,
    /// What is read into as soon as something arrives.
    buffers: BTreeMap<ChannelId, ReadBuffer>,
    /// What the nodes of a cluster do with a request.
    pub(crate) serve_node: ServeNode,
    /// The sockets of further channels, and where they go.
    pub(crate) nodes: BTreeMap<ChannelId, (Endpoint, Option<Socket>)>,
    connections: usize,
    pub(crate) dials: Vec<(Duration, Endpoint)>,
    pub(crate) hangups: usize,
    pub(crate) half_closes: usize,
    pub(crate) asked: Vec<Asked>,
    /// What further channels were asked.
    pub(crate) asked_nodes: Vec<(Endpoint, Request)>,
    /// What nodes were asked and kept silent about.
    unanswered: Vec<Asked>,
    /// Bytes that new sockets accept before writes stall.
    pub(crate) write_budget: Option<usize>,
    cursor: Cursor,
    pub(crate) events: Vec<Event>,
    /// Set while a channel to a node or a stalled dial is deliberately left alone.
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
            Requests::new(shared, now, 7, Some(token))
        })
    }
}

impl ConsumerSim {
    pub(crate) fn consumer(config: Config, mode: Mode, settings: ConsumerSettings) -> Self {
        Self::new(config, mode, |shared, now, token| {
            Consumer::new(shared, "orders".into(), settings, now, 7, Some(token))
        })
    }
}

impl<M: TestMachine> Sim<M> {
    pub(crate) fn new(config: Config, mode: Mode, machine: impl FnOnce(&Shared, Instant, Token) -> M) -> Self {
        let shared = Shared::new(config).expect("a good configuration");
        let base = epoch();
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        Self::around(shared, base, base, mode, ledger, machine)
    }

    /// Another machine of the same client.
    fn beside<N: TestMachine>(&self, machine: impl FnOnce(&Shared, Instant, Token) -> N) -> Sim<N> {
        let ledger = Rc::clone(&self.ledger);
        Sim::around(self.shared.clone(), self.base, self.now, self.mode, ledger, machine)
    }

    /// Another client's requests, with what this one has learned.
    pub(crate) fn requests_beside(&self) -> Sim {
        self.beside(|shared, now, token| Requests::new(shared, now, 7, Some(token)))
    }

    /// A consumer of the same client.
    pub(crate) fn consumer_beside(&self, settings: ConsumerSettings) -> ConsumerSim {
        self.beside(|shared, now, token| Consumer::new(shared, "orders".into(), settings, now, 7, Some(token)))
    }

    fn around(
        shared: Shared,
        base: Instant,
        now: Instant,
        mode: Mode,
        ledger: Rc<RefCell<Ledger>>,
        machine: impl FnOnce(&Shared, Instant, Token) -> M,
    ) -> Self {
        let opened = ledger.borrow_mut().issue();
        let machine = machine(&shared, now, opened);
        let seed = match mode {
            Mode::Chunks(seed) => seed,
            Mode::Whole | Mode::Bytes => 0,
        };
        Self {
            machine,
            cursor: shared.subscribe(),
            shared,
            base,
            now,
            mode,
            rng: Rng(seed),
            ledger,
            senders: BTreeMap::new(),
            dialed: Box::new(|_, _| Host::p1()),
            serve: Box::new(|request, _| crate::host::obliging(request)),
            socket: None,
            buffers: BTreeMap::new(),
            serve_node: Box::new(|request, _| crate::host::obliging(request)),
            nodes: BTreeMap::new(),
            connections: 0,
            dials: Vec::new(),
            hangups: 0,
            half_closes: 0,
            asked: Vec::new(),
            asked_nodes: Vec::new(),
            unanswered: Vec::new(),
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
            while self.machine.poll_new_channel().is_some() {}
            let channels: Vec<_> = self.machine.channels().collect();
            self.nodes.retain(|channel, _| channels.contains(channel));
            let mut moved = false;
            for channel in channels {
                moved |= self.act(channel);
                moved |= self.drain();
                moved |= self.write(channel);
                moved |= self.run_host(channel);
                moved |= self.read(channel);
            }
            if moved {
                idle = 0;
                continue;
            }
            if self.poll_timeout().is_none_or(|at| at > self.now) {
                break;
            }
            idle += 1;
            assert!(idle < 50, "the timeout does not move from {:?}", self.at());
            self.machine.handle_timeout(self.now);
        }
        let sleeps: Vec<_> = self
            .machine
            .channels()
            .map(|channel| (channel, self.machine.poll_timeout(channel)))
            .collect();
        for (channel, until) in sleeps {
            self.machine.note_sleep(channel, until);
        }
        while let Some(event) = self.shared.next_event(&mut self.cursor) {
            self.events.push(event);
        }
        self
    }

    /// The earliest timeout of any channel.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.machine
            .channels()
            .filter_map(|channel| self.machine.poll_timeout(channel))
            .min()
    }

    /// Requests in flight on any channel.
    pub(crate) fn in_flight(&self) -> usize {
        self.machine
            .channels()
            .map(|channel| self.machine.in_flight(channel))
            .sum()
    }

    pub(crate) fn is_terminated(&self) -> bool {
        self.machine
            .channels()
            .all(|channel| self.machine.is_terminated(channel))
    }

    /// As far as the first accepted dial, before the server says anything.
    pub(crate) fn settle_until_socket(&mut self) {
        while self.socket.is_none() {
            assert!(self.act(ChannelId::MAIN), "no dial");
        }
    }

    /// Lets `by` pass, stopping wherever the machine wants to.
    pub(crate) fn advance(&mut self, by: Duration) -> &mut Self {
        let until = self.now + by;
        self.settle();
        while let Some(at) = self.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
        self.machine.handle_timeout(until);
        self.settle()
    }

    pub(crate) fn advance_ms(&mut self, ms: u64) -> &mut Self {
        self.advance(Duration::from_millis(ms))
    }

    pub(crate) fn advance_secs(&mut self, secs: u64) -> &mut Self {
        self.advance(Duration::from_secs(secs))
    }

    // ---- the drivers ----

    /// The buffer to read into.
    pub(crate) fn take_buffer(&mut self, channel: ChannelId) -> Option<ReadBuffer> {
        self.buffers
            .remove(&channel)
            .or_else(|| self.machine.take_read_buffer(channel))
    }

    fn socket_of(&mut self, channel: ChannelId) -> Option<&mut Socket> {
        if channel == ChannelId::MAIN {
            return self.socket.as_mut();
        }
        self.nodes.get_mut(&channel)?.1.as_mut()
    }

    fn put_socket(&mut self, channel: ChannelId, endpoint: &Endpoint, socket: Option<Socket>) {
        if channel == ChannelId::MAIN {
            self.socket = socket;
        } else {
            self.nodes.insert(channel, (endpoint.clone(), socket));
        }
    }

    fn act(&mut self, channel: ChannelId) -> bool {
        let mut moved = false;
        while let Some(action) = self.machine.poll_action(channel) {
            moved = true;
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    assert!(
                        deadline.is_none_or(|deadline| deadline >= self.now),
                        "a dial that is late already"
                    );
                    self.put_socket(channel, &endpoint, None);
                    self.buffers.remove(&channel);
                    self.dials.push((self.at(), endpoint.clone()));
                    match (self.dialed)(&endpoint, self.dials.len()) {
                        Host::Refused(kind) => {
                            let fault = Fault::new(kind, "scripted");
                            self.machine.handle_dial_failed(self.now, channel, id, fault);
                        }
                        Host::Unreachable => {}
                        host => {
                            self.connections += 1;
                            let key = self.shared.config().settings().credentials.key();
                            self.put_socket(channel, &endpoint, Some(Socket::new(host, self.write_budget)));
                            self.machine.handle_dialed(self.now, channel, id, key);
                        }
                    }
                }
                Action::HalfClose => {
                    self.half_closes += 1;
                    if let Some(socket) = self.socket_of(channel) {
                        socket.client_half_closed = true;
                    }
                }
                Action::Hangup => {
                    self.hangups += 1;
                    if channel == ChannelId::MAIN {
                        self.socket = None;
                    } else if let Some((_, socket)) = self.nodes.get_mut(&channel) {
                        *socket = None;
                    }
                    self.buffers.remove(&channel);
                }
                other => panic!("{other:?}"),
            }
        }
        moved
    }

    fn drain(&mut self) -> bool {
        let mut completions = Vec::new();
        self.machine.drain_completions(&mut completions);
        let at = self.at();
        let moved = !completions.is_empty();
        for completion in completions {
            if let Reply::Room(result) = &completion.reply
                && let Some(sender) = self.senders.remove(&completion.token)
            {
                self.got_room(sender, result);
            }
            self.ledger
                .borrow_mut()
                .complete(at, completion.token, completion.reply);
        }
        moved
    }

    fn write(&mut self, channel: ChannelId) -> bool {
        let Some(socket) = self.socket_of(channel) else {
            return false;
        };
        let mut transmit = std::mem::take(&mut socket.transmit);
        if transmit.is_empty()
            && !self
                .machine
                .take_transmit(self.now, channel, WRITE_AHEAD, &mut transmit)
        {
            return false;
        }
        let (mode, mut rng) = (self.mode, self.rng.clone());
        let now = self.now;
        let Some(socket) = self.socket_of(channel) else {
            return false;
        };
        let room = socket.budget.unwrap_or(usize::MAX).min(transmit.chunk().len());
        let n = mode.piece(&mut rng, room).min(room);
        if n == 0 {
            socket.transmit = transmit;
            return false;
        }
        assert!(!socket.client_half_closed, "bytes after the half-close");
        socket.to_server.extend(&transmit.chunk()[..n]);
        socket.sent += n;
        socket.budget = socket.budget.map(|budget| budget - n);
        self.rng = rng;
        self.machine.transmitted(now, channel, &mut transmit, n);
        if let Some(socket) = self.socket_of(channel) {
            socket.transmit = transmit;
        }
        true
    }

    fn run_host(&mut self, channel: ChannelId) -> bool {
        let Self {
            socket,
            nodes,
            asked,
            asked_nodes,
            unanswered,
            serve,
            serve_node,
            connections,
            ..
        } = self;
        let connection = *connections;
        let (endpoint, socket) = match nodes.get_mut(&channel) {
            Some((endpoint, socket)) => (Some(endpoint), socket),
            None => (None, socket),
        };
        let Some(socket) = socket else { return false };
        socket.run(|id, request| {
            let Some(endpoint) = &endpoint else {
                asked.push(Asked {
                    id,
                    request: request.clone(),
                });
                return serve(request, connection);
            };
            asked_nodes.push(((*endpoint).clone(), request.clone()));
            let act = serve_node(request, endpoint);
            if matches!(act, Act::Silence) {
                let request = request.clone();
                unanswered.push(Asked { id, request });
            }
            act
        })
    }

    fn read(&mut self, channel: ChannelId) -> bool {
        let Some(socket) = self.socket_of(channel) else {
            return false;
        };
        if socket.cut_at == Some(socket.received) {
            socket.to_client.clear();
            socket.end = Some(socket.cut_end);
        }
        if (socket.to_client.is_empty() || socket.arrivals == Some(0)) && socket.end.is_none() {
            // A reader that finds nothing says so where that is wanted, and sleeps.
            let Some(buffer) = self.take_buffer(channel) else {
                return false;
            };
            if !buffer.reports_empty() {
                self.buffers.insert(channel, buffer);
                return false;
            }
            self.machine.handle_input(self.now, channel, buffer);
            return true;
        }
        let Some(mut buffer) = self.take_buffer(channel) else {
            return false;
        };
        assert!(!buffer.unfilled().is_empty(), "a buffer without room");
        let (mode, mut rng) = (self.mode, self.rng.clone());
        let now = self.now;
        let Some(socket) = self.socket_of(channel) else {
            return false;
        };
        if socket.to_client.is_empty() {
            let end = socket.end.take();
            self.machine.handle_input(now, channel, buffer);
            match end {
                Some(End::Eof) => self.machine.handle_eof(now, channel),
                _ => {
                    let fault = Fault::new(FaultKind::Reset, "reset by the script");
                    self.machine.handle_transport_error(now, channel, fault);
                }
            }
            return true;
        }
        let left = socket.cut_at.map_or(usize::MAX, |at| at - socket.received);
        let left = left.min(socket.arrivals.unwrap_or(usize::MAX));
        let available = socket.to_client.len().min(buffer.unfilled().len()).min(left);
        let n = mode.piece(&mut rng, available).min(available);
        for (place, byte) in buffer.unfilled().iter_mut().zip(socket.to_client.drain(..n)) {
            *place = byte;
        }
        buffer.advance(n);
        socket.received += n;
        socket.arrivals = socket.arrivals.map(|arrivals| arrivals - n);
        self.rng = rng;
        self.machine.handle_input(now, channel, buffer);
        true
    }

    // ---- the server's side ----

    /// The socket of the one further channel.
    pub(crate) fn node_socket(&mut self) -> &mut Socket {
        let mut sockets = self.nodes.values_mut().filter_map(|(_, socket)| socket.as_mut());
        let socket = sockets.next().expect("a node's socket");
        assert!(sockets.next().is_none(), "there are several");
        socket
    }

    /// What the nodes left unanswered, with a good server's answers.
    pub(crate) fn node_answers(&mut self) -> Vec<(RequestId, Response)> {
        std::mem::take(&mut self.unanswered)
            .into_iter()
            .filter_map(|asked| match crate::host::obliging(&asked.request) {
                Act::Answer(response) => Some((asked.id, response)),
                _ => None,
            })
            .collect()
    }

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

    /// Ends the machine and checks that nothing is left of anything. Returns what became of every token.
    pub(crate) fn finish(mut self) -> String {
        self.settle();
        self.machine.abort(self.now);
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

    /// A machine that is over asks for nothing and keeps nothing.
    pub(crate) fn check_inert(&mut self) {
        let channel = ChannelId::MAIN;
        assert_eq!(self.in_flight(), 0);
        assert_eq!(self.poll_timeout(), None);
        assert!(self.is_terminated());
        assert!(!self.machine.wants_read(channel) && !self.machine.wants_write(channel));
        assert!(self.machine.take_read_buffer(channel).is_none());
        let mut transmit = Transmit::new();
        assert!(
            !self
                .machine
                .take_transmit(self.now, channel, WRITE_AHEAD, &mut transmit)
        );
        M::ask_late(self);
        assert!(self.is_terminated());
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
    config().dialect(Dialect::Handshake)
}
