//! A machine and scripted servers, joined in memory on virtual time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fibp_proto::config::ConsumerSettings;
use fibp_proto::consumer::Consumer;
use fibp_proto::event::Cursor;
use fibp_proto::fault::{Fault, FaultKind};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{CallId, ChannelId, DialId, Machine, Reply};
use fibp_proto::requests::{ProducerId, Requests};
use fibp_proto::server::RequestId;
use fibp_proto::{
    AdminRevision, Config, Dialect, Endpoint, Event, Message, MessageId, Push, Received, Request, Response, Shared,
};

use crate::host::{Act, End as Ended, Host, Socket};
use crate::pair::random::Random;
use crate::pair::{Arrived, Dialed, Driver, Left, Network};

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

impl Mode {
    fn piece(self, rng: &mut Random, available: usize) -> usize {
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

type DialedHost = Box<dyn FnMut(&Endpoint, usize) -> Host>;
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
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    /// Senders that keep their messages until there is room, by the tokens of these waits.
    pub(crate) senders: BTreeMap<Token, Sender>,
    drivers: BTreeMap<ChannelId, Driver>,
    net: Net,
    cursor: Cursor,
    pub(crate) events: Vec<Event>,
    /// Set while a channel to a node or a stalled dial is deliberately left alone.
    pub(crate) opened: Token,
}

/// What the channels are connected to.
pub(crate) struct Net {
    mode: Mode,
    rng: Random,
    /// Which host answers which dial: the endpoint and the number of the dial.
    pub(crate) dialed: DialedHost,
    /// What servers do with a request: the request and the number of the connection.
    pub(crate) serve: Serve,
    pub(crate) socket: Option<Socket>,
    /// What the nodes of a cluster do with a request.
    pub(crate) serve_node: ServeNode,
    /// The sockets of further channels, and where they go.
    pub(crate) nodes: Nodes,
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
}

/// Cases look at the network as if it were the case's own.
impl<M> Deref for Sim<M> {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.net
    }
}

impl<M> DerefMut for Sim<M> {
    fn deref_mut(&mut self) -> &mut Net {
        &mut self.net
    }
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
        Sim::around(self.shared.clone(), self.base, self.now, self.net.mode, ledger, machine)
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
            ledger,
            senders: BTreeMap::new(),
            drivers: BTreeMap::new(),
            net: Net {
                mode,
                rng: Random::new(seed),
                dialed: Box::new(|_, _| Host::p1()),
                serve: Box::new(|request, _| crate::host::obliging(request)),
                socket: None,
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
            },
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
            self.drivers.retain(|channel, _| channels.contains(channel));
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

    fn driver(&mut self, channel: ChannelId) -> &mut Driver {
        self.drivers.entry(channel).or_insert_with(|| Driver::new(channel))
    }

    /// The buffer to read into.
    pub(crate) fn take_buffer(&mut self, channel: ChannelId) -> Option<ReadBuffer> {
        let kept = self.driver(channel).buffer.take();
        kept.or_else(|| self.machine.take_read_buffer(channel))
    }

    /// What is being written on the first channel.
    pub(crate) fn transmit(&mut self) -> &mut Transmit {
        &mut self.driver(ChannelId::MAIN).transmit
    }

    /// Lets a channel's driver do something.
    fn drive<R>(
        &mut self,
        channel: ChannelId,
        turn: impl FnOnce(&mut Driver, Instant, &mut M, &mut End<'_>) -> R,
    ) -> R {
        let (now, at) = (self.now, self.at());
        let driver = self.drivers.entry(channel).or_insert_with(|| Driver::new(channel));
        let mut end = End {
            net: &mut self.net,
            shared: &self.shared,
            channel,
            now,
            at,
        };
        turn(driver, now, &mut self.machine, &mut end)
    }

    fn act(&mut self, channel: ChannelId) -> bool {
        self.drive(channel, |driver, now, machine, end| driver.act(now, machine, end))
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
        if self.net.socket_of(channel).is_none() {
            return false;
        }
        self.drive(channel, |driver, now, machine, end| {
            driver.claim(now, machine, WRITE_AHEAD) && driver.write(now, machine, end)
        })
    }

    fn run_host(&mut self, channel: ChannelId) -> bool {
        let Net {
            socket,
            nodes,
            asked,
            asked_nodes,
            unanswered,
            serve,
            serve_node,
            connections,
            ..
        } = &mut self.net;
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
        if self.net.socket_of(channel).is_none() {
            return false;
        }
        self.drive(channel, |driver, now, machine, end| {
            driver.listen(machine) && driver.read(now, machine, end)
        })
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

impl Net {
    fn socket_of(&mut self, channel: ChannelId) -> Option<&mut Socket> {
        socket_at(&mut self.socket, &mut self.nodes, channel)
    }

    fn put_socket(&mut self, channel: ChannelId, endpoint: &Endpoint, socket: Option<Socket>) {
        if channel == ChannelId::MAIN {
            self.socket = socket;
        } else {
            self.nodes.insert(channel, (endpoint.clone(), socket));
        }
    }
}

type Nodes = BTreeMap<ChannelId, (Endpoint, Option<Socket>)>;

fn socket_at<'a>(main: &'a mut Option<Socket>, nodes: &'a mut Nodes, channel: ChannelId) -> Option<&'a mut Socket> {
    if channel == ChannelId::MAIN {
        return main.as_mut();
    }
    nodes.get_mut(&channel)?.1.as_mut()
}

/// The other end of a channel's socket.
struct End<'a> {
    net: &'a mut Net,
    shared: &'a Shared,
    channel: ChannelId,
    now: Instant,
    at: Duration,
}

impl<M: Machine> Network<M> for End<'_> {
    fn dial(&mut self, _: DialId, endpoint: &Endpoint, deadline: Option<Instant>) -> Dialed {
        let is_late = deadline.is_some_and(|deadline| deadline < self.now);
        assert!(!is_late, "a dial that is late already");
        let net = &mut *self.net;
        net.put_socket(self.channel, endpoint, None);
        net.dials.push((self.at, endpoint.clone()));
        match (net.dialed)(endpoint, net.dials.len()) {
            Host::Refused(kind) => Dialed::Failed(Fault::new(kind, "scripted")),
            Host::Unreachable => Dialed::Pending,
            host => {
                net.connections += 1;
                let socket = Socket::new(host, net.write_budget);
                net.put_socket(self.channel, endpoint, Some(socket));
                Dialed::Open(self.shared.config().settings().credentials.key())
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Net {
            mode,
            ref mut rng,
            ref mut socket,
            ref mut nodes,
            ..
        } = *self.net;
        let Some(socket) = socket_at(socket, nodes, self.channel) else {
            return Ok(0);
        };
        let room = socket.budget.unwrap_or(usize::MAX).min(bytes.len());
        if room == 0 {
            return Ok(0);
        }
        let n = mode.piece(rng, room).min(room);
        assert!(!socket.client_half_closed, "bytes after the half-close");
        socket.to_server.extend(&bytes[..n]);
        socket.sent += n;
        socket.budget = socket.budget.map(|budget| budget - n);
        Ok(n)
    }

    fn read(&mut self, into: &mut [u8]) -> Arrived {
        let Net {
            mode,
            ref mut rng,
            ref mut socket,
            ref mut nodes,
            ..
        } = *self.net;
        let Some(socket) = socket_at(socket, nodes, self.channel) else {
            return Arrived::Nothing;
        };
        if socket.cut_at == Some(socket.received) {
            socket.to_client.clear();
            socket.end = Some(socket.cut_end);
        }
        if (socket.to_client.is_empty() || socket.arrivals == Some(0)) && socket.end.is_none() {
            return Arrived::Nothing;
        }
        if socket.to_client.is_empty() {
            return match socket.end.take() {
                Some(Ended::Eof) => Arrived::End(None),
                _ => Arrived::End(Some(Fault::new(FaultKind::Reset, "reset by the script"))),
            };
        }
        let left = socket.cut_at.map_or(usize::MAX, |at| at - socket.received);
        let left = left.min(socket.arrivals.unwrap_or(usize::MAX));
        let available = socket.to_client.len().min(into.len()).min(left);
        let n = mode.piece(rng, available).min(available);
        for (place, byte) in into.iter_mut().zip(socket.to_client.drain(..n)) {
            *place = byte;
        }
        socket.received += n;
        socket.arrivals = socket.arrivals.map(|arrivals| arrivals - n);
        Arrived::Data(n)
    }

    fn half_close(&mut self) {
        self.net.half_closes += 1;
        if let Some(socket) = self.net.socket_of(self.channel) {
            socket.client_half_closed = true;
        }
    }

    fn hang_up(&mut self, _: &mut M, _: Left) {
        self.net.hangups += 1;
        if self.channel == ChannelId::MAIN {
            self.net.socket = None;
        } else if let Some((_, socket)) = self.net.nodes.get_mut(&self.channel) {
            *socket = None;
        }
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
