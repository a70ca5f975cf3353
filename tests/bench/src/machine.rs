//! The core without a socket: one machine, answered in memory by a server that cannot fail. All that the benchmark knows
//! of the core's machines is in this file.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::config::{Batching, Config, ConsumerSettings, ProducerSettings};
use fibp_proto::consumer::{Consumer, Lease, Leases};
use fibp_proto::frame::Transmit;
pub use fibp_proto::machine::CallId;
use fibp_proto::machine::{Action, ChannelId, Completion, Machine as _};
use fibp_proto::requests::{ProducerId, Requests, Settle};
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Dialect, Headers, Message, MessageId, Push, QueueName, Received, Request, Response, Shared};

/// Which part of the core works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A caller builds its message.
    Build,
    /// A caller hands its work over.
    Submit,
    /// Frames are encoded and handed to the socket.
    Transmit,
    /// Bytes of the socket are decoded and matched.
    Receive,
    /// The driver collects what is completed.
    Complete,
    /// The consumer takes deliveries.
    Take,
    /// A caller gives a call up.
    Abandon,
    /// A deadline passes.
    Timeout,
    /// The caller drops what it got.
    Drop,
}

impl Stage {
    /// Every stage, in the order of the tables.
    pub const ALL: [Self; 9] = [
        Self::Build,
        Self::Submit,
        Self::Transmit,
        Self::Receive,
        Self::Complete,
        Self::Take,
        Self::Abandon,
        Self::Timeout,
        Self::Drop,
    ];

    /// As the tables spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Submit => "submit",
            Self::Transmit => "transmit",
            Self::Receive => "receive",
            Self::Complete => "complete",
            Self::Take => "take",
            Self::Abandon => "abandon",
            Self::Timeout => "timeout",
            Self::Drop => "drop",
        }
    }
}

/// What looks on while the core works. Everything between two stages (servers, building messages) does not count.
pub trait Probe {
    /// Runs `work`, which belongs to `stage`.
    fn run(&mut self, stage: Stage, work: &mut dyn FnMut());

    /// The driver handed so many bytes to the socket with one write.
    fn wrote(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// The driver got so many bytes with one read.
    fn read(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

/// Looks away.
#[derive(Debug, Default)]
pub struct Unwatched;

impl Probe for Unwatched {
    fn run(&mut self, _: Stage, work: &mut dyn FnMut()) {
        work();
    }
}

/// The most bytes that a driver takes at a time.
const MOST: usize = 64 * 1024;

const MAIN: ChannelId = ChannelId::MAIN;

/// The machine that is measured.
#[derive(Debug)]
enum Core {
    Requests(Box<Requests<u64>>),
    Consumer(Box<Consumer<u64>>),
}

/// Calls a method of the drivers' contract.
macro_rules! drive {
    ($core:expr, $machine:ident => $call:expr) => {
        match &mut $core {
            Core::Requests($machine) => $call,
            Core::Consumer($machine) => $call,
        }
    };
}

impl Core {
    fn requests(&mut self) -> &mut Requests<u64> {
        match self {
            Self::Requests(requests) => requests,
            Self::Consumer(_) => panic!("a consumer takes no requests"),
        }
    }

    fn consumer(&mut self) -> &mut Consumer<u64> {
        match self {
            Self::Consumer(consumer) => consumer,
            Self::Requests(_) => panic!("requests have no deliveries"),
        }
    }
}

/// A machine, its server, and the wire between them.
#[derive(Debug)]
pub struct Machine {
    core: Core,
    now: Instant,
    completions: Vec<Completion<u64>>,
    transmit: Transmit,
    server: Peer,
}

impl Machine {
    /// Requests that are ready.
    #[must_use]
    pub fn requests(dialect: Dialect, batching: Batching) -> Self {
        let now = start();
        let requests = Requests::new(&shared(dialect, batching), now, 1, Some(0));
        Self::open(Core::Requests(Box::new(requests)), now, dialect)
    }

    /// A consumer that is subscribed.
    #[must_use]
    pub fn consumer(dialect: Dialect, queue: &QueueName) -> Self {
        Self::consumer_of(&shared(dialect, Batching::Auto), dialect, queue)
    }

    /// As [`consumer`](Self::consumer), so many of one client.
    #[must_use]
    pub fn consumers(dialect: Dialect, queue: &QueueName, count: usize) -> Vec<Self> {
        let shared = shared(dialect, Batching::Auto);
        let consumer = || Self::consumer_of(&shared, dialect, queue);
        std::iter::repeat_with(consumer).take(count).collect()
    }

    fn consumer_of(shared: &Shared, dialect: Dialect, queue: &QueueName) -> Self {
        let (now, settings) = (start(), ConsumerSettings::default());
        let consumer = Consumer::new(shared, queue.clone(), settings, now, 1, Some(0));
        Self::open(Core::Consumer(Box::new(consumer)), now, dialect)
    }

    fn open(core: Core, now: Instant, dialect: Dialect) -> Self {
        let mut machine = Self {
            core,
            now,
            completions: Vec::new(),
            transmit: Transmit::new(),
            server: Peer::new(dialect),
        };
        while let Some(action) = drive!(machine.core, core => core.poll_action(MAIN)) {
            if let Action::Dial { id, .. } = action {
                drive!(machine.core, core => core.handle_dialed(now, MAIN, id, Ok(None)));
            }
        }
        machine.exchange(&mut Unwatched);
        assert_eq!(machine.completed(&mut Unwatched), 1, "open");
        machine
    }

    /// One message.
    pub fn enqueue(&mut self, probe: &mut dyn Probe, message: Message) -> CallId {
        let (mut message, mut id) = (Some(message), None);
        probe.run(Stage::Submit, &mut || {
            id = message
                .take()
                .map(|message| self.core.requests().enqueue(self.now, message, None, 1));
        });
        id.expect("probes run the work")
    }

    /// One message each, by as many callers.
    pub fn enqueue_each(&mut self, probe: &mut dyn Probe, messages: Vec<Message>) {
        let mut messages = Some(messages);
        probe.run(Stage::Submit, &mut || {
            for message in messages.take().into_iter().flatten() {
                self.core.requests().enqueue(self.now, message, None, 1);
            }
        });
    }

    /// A list.
    pub fn enqueue_many(&mut self, probe: &mut dyn Probe, messages: Vec<Message>) {
        let mut messages = Some(messages);
        probe.run(Stage::Submit, &mut || {
            if let Some(messages) = messages.take() {
                self.core.requests().enqueue_many(self.now, messages, None, 1);
            }
        });
    }

    /// A producer with the default settings.
    pub fn open_producer(&mut self) -> ProducerId {
        self.core.requests().open_producer(ProducerSettings::default())
    }

    /// Messages of a producer, each with a receipt.
    pub fn send_each(&mut self, probe: &mut dyn Probe, producer: ProducerId, messages: Vec<Message>) {
        let mut messages = Some(messages);
        probe.run(Stage::Submit, &mut || {
            for message in messages.take().into_iter().flatten() {
                let sent = self.core.requests().try_send(self.now, producer, message, None, 1);
                assert!(sent.is_ok(), "the buffer has room");
            }
        });
    }

    /// Acks deliveries one after another.
    pub fn ack(&mut self, probe: &mut dyn Probe, deliveries: &mut VecDeque<Lease>) {
        probe.run(Stage::Submit, &mut || {
            while let Some(lease) = deliveries.pop_front() {
                self.core.requests().settle(self.now, lease.settle(None), None, 1);
            }
        });
    }

    /// Acks deliveries as one list.
    pub fn ack_many(&mut self, probe: &mut dyn Probe, deliveries: &mut VecDeque<Lease>) {
        probe.run(Stage::Submit, &mut || {
            let settles: Vec<Settle> = deliveries.drain(..).map(|lease| lease.settle(None)).collect();
            self.core.requests().settle_many(self.now, settles, None, 1);
        });
    }

    /// Gives a call up.
    pub fn abandon(&mut self, probe: &mut dyn Probe, id: CallId) {
        probe.run(Stage::Abandon, &mut || {
            self.core.requests().abandon(id);
            self.take_turn();
        });
    }

    /// Time passes, but no deadline.
    pub fn idle(&mut self, probe: &mut dyn Probe) {
        self.now += Duration::from_nanos(1);
        probe.run(Stage::Timeout, &mut || {
            drive!(self.core, core => core.handle_timeout(self.now));
            self.take_turn();
        });
    }

    /// Writes all there is to write; the server does not see it. Says whether there was anything.
    pub fn transmit(&mut self, probe: &mut dyn Probe) -> bool {
        let mut writes = Vec::new();
        let mut sent = std::mem::take(&mut self.server.input);
        // What is sent is copied, as a socket does it, but not measured as a cost: room for it is there.
        sent.reserve(16 * 1024 * 1024);
        writes.reserve(1024);
        probe.run(Stage::Transmit, &mut || {
            while drive!(self.core, core => core.take_transmit(self.now, MAIN, MOST, &mut self.transmit)) {
                while !self.transmit.is_empty() {
                    let chunk = self.transmit.chunk();
                    let n = chunk.len();
                    sent.extend_from_slice(chunk);
                    writes.push(n);
                    drive!(self.core, core => core.transmitted(self.now, MAIN, &mut self.transmit, n));
                }
            }
            self.take_turn();
        });
        self.server.input = sent;
        for n in &writes {
            probe.wrote(*n);
        }
        !writes.is_empty()
    }

    /// Forgets what was sent: the server never sees it.
    pub fn lose_sent(&mut self) {
        self.server.input.clear();
    }

    /// Reads these bytes.
    pub fn receive(&mut self, probe: &mut dyn Probe, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut read = 0;
            probe.run(Stage::Receive, &mut || {
                let mut buffer = drive!(self.core, core => core.take_read_buffer(MAIN)).expect("input is wanted");
                read = buffer.unfilled().len().min(bytes.len());
                buffer.unfilled()[..read].copy_from_slice(&bytes[..read]);
                buffer.advance(read);
                drive!(self.core, core => core.handle_input(self.now, MAIN, buffer));
                self.take_turn();
            });
            probe.read(read);
            bytes = &bytes[read..];
        }
    }

    /// Writes, and reads the answers, until nothing is left to write.
    pub fn exchange(&mut self, probe: &mut dyn Probe) {
        while self.transmit(probe) {
            let answers = self.server.answer();
            self.receive(probe, &answers);
        }
    }

    /// How many waiters are completed since the last time. Their results are dropped.
    pub fn completed(&mut self, probe: &mut dyn Probe) -> usize {
        probe.run(Stage::Complete, &mut || {
            drive!(self.core, core => core.drain_completions(&mut self.completions));
        });
        let completed = self.completions.len();
        probe.run(Stage::Drop, &mut || self.completions.clear());
        completed
    }

    /// Takes all deliveries there are.
    pub fn take(&mut self, probe: &mut dyn Probe, into: &mut VecDeque<Lease>) {
        probe.run(Stage::Take, &mut || {
            let mut taken = Leases::new();
            while self.core.consumer().take_leases(self.now, 64, &mut taken) > 0 {
                into.extend(taken.by_ref());
            }
        });
    }

    /// The bytes of a push of so many deliveries, as real servers send them: one frame in the preamble dialect, a frame
    /// for each in the framed dialect (docs/protocol/framed.md 5).
    #[must_use]
    pub fn push(&mut self, queue: &QueueName, deliveries: u32) -> Vec<u8> {
        let deliveries = (1..=deliveries).map(|n| delivery(queue, n));
        let pushes: Vec<Push> = match self.server.dialect {
            Dialect::Handshake => deliveries
                .map(|delivery| Push {
                    deliveries: vec![delivery],
                })
                .collect(),
            _ => vec![Push {
                deliveries: deliveries.collect(),
            }],
        };
        for push in pushes {
            self.server.connection.push(&push).expect("deliveries that fit a frame");
        }
        let mut output = Vec::new();
        self.server.write_to(&mut output);
        output
    }

    /// What a driver does at the end of each turn.
    fn take_turn(&mut self) {
        drive!(self.core, core => {
            let until = core.poll_timeout(MAIN);
            core.note_sleep(MAIN, until);
        });
    }
}

/// Virtual time needs some instant to begin with.
fn start() -> Instant {
    Instant::now()
}

fn shared(dialect: Dialect, batching: Batching) -> Shared {
    let config = Config::new("127.0.0.1:1")
        .dialect(dialect)
        .no_heartbeat()
        .batching(batching)
        .max_in_flight(200_000, usize::MAX);
    Shared::new(config).expect("a valid configuration")
}

/// A delivery of [`PAYLOAD`](crate::PAYLOAD) bytes.
#[must_use]
pub fn delivery(queue: &QueueName, n: u32) -> Received {
    let payload = vec![7; crate::PAYLOAD];
    Received::new(message_id(n), queue.clone(), Headers::new(), payload, "default", 0)
}

/// The id of the n-th message.
#[must_use]
pub fn message_id(n: u32) -> MessageId {
    format!("0195d3c8-5f2a-7abc-8def-{n:012x}").as_str().into()
}

/// A server in memory.
#[derive(Debug)]
struct Peer {
    dialect: Dialect,
    connection: ServerConnection,
    input: Vec<u8>,
}

impl Peer {
    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            connection: ServerConnection::new(ServerConfig::new([dialect])),
            input: Vec::new(),
        }
    }

    /// The answers to all that was sent.
    fn answer(&mut self) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.input);
        let (mut left, mut output) = (input.as_slice(), Vec::new());
        while !left.is_empty() {
            let n = self.connection.feed(left);
            assert!(n > 0, "a server that reads");
            left = &left[n..];
            while let Some(event) = self.connection.poll_event() {
                self.react(event);
                self.write_to(&mut output);
            }
            self.write_to(&mut output);
        }
        input.clear();
        self.input = input;
        output
    }

    fn react(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Opened { .. } => self.connection.accept(),
            ServerEvent::Request { id, request } => {
                if let Some(response) = confirm(&request) {
                    self.connection.respond(id, &response).expect("an answer that fits");
                }
            }
            event => panic!("the client misbehaves: {event:?}"),
        }
    }

    fn write_to(&mut self, output: &mut Vec<u8>) {
        self.connection.write_to(output).expect("memory takes everything");
    }
}

/// What a server without memory answers.
fn confirm(request: &Request) -> Option<Response> {
    Some(match request {
        Request::Enqueue(messages) => Response::Enqueue(vec![Ok(message_id(1)); messages.len()]),
        Request::Ack(acks) => Response::Ack(vec![Ok(()); acks.len()]),
        Request::Nack(nacks) => Response::Nack(vec![Ok(()); nacks.len()]),
        Request::Consume { .. } => Response::Consume {
            consumer_id: Some("consumer-1".to_owned()),
        },
        _ => return None,
    })
}
