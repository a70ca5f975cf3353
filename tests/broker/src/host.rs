//! The broker down to bytes, still without IO: the machine, and the protocol state of its connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use fibp_proto::dialect::EncodeError;
use fibp_proto::frame::Transmit;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Op, Push, Request, Response};

use crate::machine::{BrokerMachine, ConnectionId, Ending, Output};

/// Pushes are encoded only while less than this waits to be written.
const ENCODE_AHEAD: usize = 64 * 1024;

/// A broker that takes and gives bytes, for simulations on virtual time and for other ways to move bytes than
/// [`Broker`](crate::Broker)'s.
///
/// After [`connect`](Self::connect), either hand over bytes with [`receive`](Self::receive) and fetch answers with
/// [`send`](Self::send), or drive the [`connection`](Self::connection) with buffers that change hands: put input into
/// it, call [`process`](Self::process), and write what [`take_transmit`](Self::take_transmit) gives.
/// [`poll_woken`](Self::poll_woken) names connections that have something to write because of others, or of time.
/// When a connection [`is_finished`](Self::is_finished), close it and [`disconnect`](Self::disconnect).
#[derive(Debug)]
pub struct BrokerHost {
    machine: BrokerMachine,
    config: ServerConfig,
    wires: BTreeMap<ConnectionId, Wire>,
    last: u64,
    woken: VecDeque<ConnectionId>,
    /// What happened, if somebody asked for it.
    trace: Option<VecDeque<TraceEvent>>,
}

/// What passed between a broker and its connections, for tests that compare it with what clients are told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TraceEvent {
    /// A request arrived.
    Request {
        /// Where.
        connection: ConnectionId,
        /// Its id on the wire.
        id: RequestId,
        /// The request.
        request: Request,
    },
    /// A request arrived that cannot be read.
    Malformed {
        /// Where.
        connection: ConnectionId,
        /// Its id on the wire.
        id: u32,
        /// The operation, as far as the header says.
        op: Option<Op>,
    },
    /// A request was answered; its connection may be gone.
    Answer {
        /// Where it had arrived.
        connection: ConnectionId,
        /// Its id on the wire.
        id: RequestId,
        /// The answer.
        response: Response,
    },
    /// An answer or a push cannot be encoded: the connection is closed.
    Unencodable {
        /// Which.
        connection: ConnectionId,
        /// What the wire cannot carry.
        error: EncodeError,
    },
    /// Deliveries were encoded.
    Push {
        /// Where.
        connection: ConnectionId,
        /// The deliveries.
        push: Push,
        /// How many bytes the connection has been given to send up to their end.
        end: u64,
    },
}

/// One connection's protocol state.
#[derive(Debug)]
struct Wire {
    /// The id of the node that serves it.
    node: u64,
    server: ServerConnection,
    pushes: VecDeque<(u32, Push)>,
    /// Pushes encoded and not taken for writing.
    encoded: usize,
    /// Pushes taken for writing.
    taken: usize,
    /// Bytes that were written.
    written: u64,
    /// The ids of heartbeats that were sent to the client.
    heartbeats: BTreeSet<u32>,
    /// Pushes stay back until what is encoded is on its way in a segment of its own.
    held: bool,
}

impl Wire {
    fn take_transmit(&mut self, transmit: &mut Transmit, mut encoded: impl FnMut(Encoded)) -> bool {
        if !std::mem::take(&mut self.held) {
            self.encode_pushes(&mut encoded);
        }
        if !self.server.take_transmit(transmit) {
            self.encode_pushes(&mut encoded);
            if !self.server.take_transmit(transmit) {
                return false;
            }
        }
        self.taken += std::mem::take(&mut self.encoded);
        true
    }

    fn encode_pushes(&mut self, encoded: &mut impl FnMut(Encoded)) {
        while self.server.buffered() < ENCODE_AHEAD {
            let Some((consume_id, push)) = self.pushes.pop_front() else {
                return;
            };
            self.encoded += 1;
            let before = self.server.buffered();
            match self.server.push_to(consume_id, &push) {
                // On a connection that is over nothing is said any more.
                Ok(()) if self.server.buffered() == before => {}
                Ok(()) => {
                    let end = self.written.saturating_add(self.server.buffered() as u64);
                    encoded(Ok((push, end)));
                }
                Err(error) => {
                    self.server.close();
                    encoded(Err(error));
                }
            }
        }
    }
}

/// A push and where it ends, or why it has none.
type Encoded = Result<(Push, u64), EncodeError>;

impl BrokerHost {
    /// Serves `machine` to connections with these settings. Set `config.limits.send` to [`u32::MAX`]: the machine
    /// bounds pushes itself.
    #[must_use]
    pub fn new(machine: BrokerMachine, config: ServerConfig) -> Self {
        Self {
            machine,
            config,
            wires: BTreeMap::new(),
            last: 0,
            woken: VecDeque::new(),
            trace: None,
        }
    }

    /// Keeps what happens from now on for [`poll_trace`](Self::poll_trace), which is to be called often.
    pub fn start_trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_trace(&mut self) -> Option<TraceEvent> {
        self.trace.as_mut()?.pop_front()
    }

    fn note(&mut self, event: impl FnOnce() -> TraceEvent) {
        if let Some(trace) = &mut self.trace {
            trace.push_back(event());
        }
    }

    /// The machine, to look at.
    #[must_use]
    pub fn machine(&self) -> &BrokerMachine {
        &self.machine
    }

    /// Changes the machine, between what connections do.
    pub fn with_machine<R>(&mut self, change: impl FnOnce(&mut BrokerMachine) -> R) -> R {
        let result = change(&mut self.machine);
        self.route(None);
        result
    }

    /// A client connected, in a cluster to its first node.
    pub fn connect(&mut self) -> ConnectionId {
        self.connect_to(1)
    }

    /// A client connected to a node of a cluster, which announces its own id.
    pub fn connect_to(&mut self, node: u64) -> ConnectionId {
        self.last += 1;
        let connection = ConnectionId(self.last);
        let mut config = self.config.clone();
        if self.machine.nodes() > 1 {
            config.node_id = node;
        }
        let wire = Wire {
            node,
            server: ServerConnection::new(config),
            pushes: VecDeque::new(),
            encoded: 0,
            taken: 0,
            written: 0,
            heartbeats: BTreeSet::new(),
            held: false,
        };
        self.wires.insert(connection, wire);
        connection
    }

    /// The connections that are served by a node.
    pub fn connections_of(&self, node: u64) -> impl Iterator<Item = ConnectionId> {
        self.wires
            .iter()
            .filter(move |(_, wire)| wire.node == node)
            .map(|(connection, _)| *connection)
    }

    /// The connections that are known.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.wires.keys().copied()
    }

    /// The protocol state of a connection: to put input into, or to send what no server sends.
    pub fn connection(&mut self, connection: ConnectionId) -> Option<&mut ServerConnection> {
        self.wires.get_mut(&connection).map(|wire| &mut wire.server)
    }

    /// Sends a heartbeat with this id (no server does today; clients must answer it).
    pub fn heartbeat(&mut self, connection: ConnectionId, id: u32) {
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.heartbeats.insert(id);
            wire.server.heartbeat(id);
        }
    }

    /// Serves what a connection's client did.
    pub fn process(&mut self, now: Instant, connection: ConnectionId) {
        while let Some(event) = self.connection(connection).and_then(ServerConnection::poll_event) {
            match event {
                ServerEvent::Opened { dialect, key } => {
                    let node = self.wires.get(&connection).map_or(1, |wire| wire.node);
                    let opened = self.machine.connect_to(now, node, connection, dialect, key.as_ref());
                    if let Some(server) = self.connection(connection) {
                        match opened {
                            Ok(()) => server.accept(),
                            Err(refusal) => server.refuse(refusal),
                        }
                    }
                }
                ServerEvent::Request { id, request } => {
                    self.note(|| TraceEvent::Request {
                        connection,
                        id,
                        request: request.clone(),
                    });
                    self.machine.handle(now, connection, id, request);
                }
                ServerEvent::Malformed { id, op: None, .. } if self.has_beaten(connection, id) => {
                    // The answer to a heartbeat is no request.
                }
                ServerEvent::Malformed { id, op, answer, .. } => {
                    self.note(|| TraceEvent::Malformed { connection, id, op });
                    self.machine.handle_malformed(connection, id, op, answer);
                }
                // What is left to write is written; `is_finished` tells when.
                ServerEvent::Closed => {}
                _ => {}
            }
            self.route(Some(connection));
        }
    }

    fn has_beaten(&self, connection: ConnectionId, id: u32) -> bool {
        self.wires
            .get(&connection)
            .is_some_and(|wire| wire.heartbeats.contains(&id))
    }

    /// Takes what is to be written to a connection; false if there is nothing, or a write is under way.
    #[must_use]
    pub fn take_transmit(&mut self, connection: ConnectionId, transmit: &mut Transmit) -> bool {
        let Self { wires, trace, .. } = self;
        wires.get_mut(&connection).is_some_and(|wire| {
            wire.take_transmit(transmit, |encoded| {
                if let Some(trace) = trace {
                    trace.push_back(match encoded {
                        Ok((push, end)) => TraceEvent::Push { connection, push, end },
                        Err(error) => TraceEvent::Unencodable { connection, error },
                    });
                }
            })
        })
    }

    /// The first `n` bytes of `transmit` were written.
    pub fn transmitted(&mut self, now: Instant, connection: ConnectionId, transmit: &mut Transmit, n: usize) {
        let Some(wire) = self.wires.get_mut(&connection) else {
            return;
        };
        wire.written = wire.written.saturating_add(n as u64);
        wire.server.transmitted(transmit, n);
        if transmit.is_empty() && wire.taken > 0 {
            let pushes = std::mem::take(&mut wire.taken);
            self.machine.pushes_written(now, connection, pushes);
            self.route(Some(connection));
        }
    }

    /// Whether a connection is over, with everything written.
    #[must_use]
    pub fn is_finished(&self, connection: ConnectionId) -> bool {
        self.wires.get(&connection).is_none_or(|wire| wire.server.is_finished())
    }

    /// A connection was closed.
    pub fn disconnect(&mut self, now: Instant, connection: ConnectionId, ending: Ending) {
        self.wires.remove(&connection);
        self.woken.retain(|woken| *woken != connection);
        self.machine.disconnect(now, connection, ending);
        self.route(None);
    }

    /// A connection that has something to write although its own client did nothing.
    #[must_use]
    pub fn poll_woken(&mut self) -> Option<ConnectionId> {
        self.woken.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        self.route(None);
    }

    /// Bytes came from a client; none at all means EOF.
    pub fn receive(&mut self, now: Instant, connection: ConnectionId, mut bytes: &[u8]) {
        if bytes.is_empty()
            && let Some(server) = self.connection(connection)
        {
            server.handle_eof();
        }
        while !bytes.is_empty() {
            let Some(server) = self.connection(connection) else {
                return;
            };
            match server.feed(bytes) {
                // Over, or the caller does not fetch the answers.
                0 => return,
                taken => bytes = &bytes[taken..],
            }
            self.process(now, connection);
        }
        self.process(now, connection);
    }

    /// Everything there is to send to a client.
    pub fn send(&mut self, now: Instant, connection: ConnectionId) -> Vec<u8> {
        let mut sent = Vec::new();
        let mut transmit = Transmit::new();
        while self.take_transmit(connection, &mut transmit) {
            while !transmit.is_empty() {
                let chunk = transmit.chunk();
                let written = chunk.len();
                sent.extend_from_slice(chunk);
                self.transmitted(now, connection, &mut transmit, written);
            }
            // Room for output may let further requests through.
            self.process(now, connection);
        }
        sent
    }

    /// Hands the machine's outputs to the connections. Others than `own` are woken.
    fn route(&mut self, own: Option<ConnectionId>) {
        while let Some(output) = self.machine.poll_output() {
            let connection = output.connection();
            if let Output::Answer { request, response, .. } = &output {
                self.note(|| TraceEvent::Answer {
                    connection,
                    id: *request,
                    response: response.clone(),
                });
            }
            let Some(wire) = self.wires.get_mut(&connection) else {
                continue;
            };
            match output {
                Output::Answer { request, response, .. } => {
                    let coalesced = self.machine.settings().faults.consume_ack_coalesced;
                    wire.held |= matches!(response, Response::Consume { .. }) && !coalesced;
                    if let Err(error) = wire.server.respond(request, &response) {
                        // Real servers have no better idea either.
                        wire.server.close();
                        self.note(|| TraceEvent::Unencodable { connection, error });
                    }
                }
                Output::Refuse { id, error, .. } => wire.server.respond_error(id, &error),
                Output::Push { consume_id, push, .. } => wire.pushes.push_back((consume_id, push)),
                Output::Close { .. } => wire.server.close(),
            }
            if own != Some(connection) && !self.woken.contains(&connection) {
                self.woken.push_back(connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fibp_proto::{AdminRevision, Dialect};

    use super::*;
    use crate::Faults;
    use crate::machine::Settings;

    const OPENING: &[u8] = b"FIBP\x01\0";
    /// One message without headers, with an empty payload.
    const ENQUEUE: &[u8] = b"\0\0\0\x10\0\x01\0\0\0\x01\0\x01q\0\x01\0\0\0\0\0";
    const CONSUME: &[u8] = b"\0\0\0\x0d\0\x02\0\0\0\x07\0\x01q\0\0\0\x09";

    fn host(faults: Faults) -> (BrokerHost, Instant) {
        let now = Instant::now();
        let mut settings = Settings::new(now, 0);
        settings.faults = faults;
        let mut machine = BrokerMachine::new(settings);
        machine.create_queue("q");
        let config = ServerConfig::new([Dialect::Preamble(AdminRevision::Protobuf)]);
        (BrokerHost::new(machine, config), now)
    }

    /// Opens and enqueues; returns the connection.
    fn producer(host: &mut BrokerHost, now: Instant) -> ConnectionId {
        let connection = host.connect();
        host.receive(now, connection, OPENING);
        assert_eq!(host.send(now, connection), OPENING);
        host.receive(now, connection, ENQUEUE);
        assert!(host.send(now, connection).len() > 10);
        connection
    }

    #[test]
    fn pushes_share_a_segment_with_the_answer_only_on_demand() {
        for coalesced in [true, false] {
            let (mut host, now) = host(Faults::default().consume_ack_coalesced(coalesced));
            let connection = producer(&mut host, now);
            host.receive(now, connection, CONSUME);
            let mut transmit = Transmit::new();
            assert!(host.take_transmit(connection, &mut transmit));
            let answer = 10;
            assert_eq!(transmit.len() > answer, coalesced);
        }
    }

    #[test]
    fn others_are_woken() {
        let (mut host, now) = host(Faults::default());
        let consumer = host.connect();
        host.receive(now, consumer, OPENING);
        host.receive(now, consumer, CONSUME);
        host.send(now, consumer);
        assert_eq!(host.poll_woken(), None);
        producer(&mut host, now);
        assert_eq!(host.poll_woken(), Some(consumer));
        assert_eq!(host.poll_woken(), None);
        assert!(!host.send(now, consumer).is_empty());
    }

    #[test]
    fn a_connection_ends() {
        let (mut host, now) = host(Faults::default());
        let connection = host.connect();
        host.receive(now, connection, OPENING);
        host.receive(now, connection, &[]);
        assert!(!host.is_finished(connection), "the echo is not written");
        host.send(now, connection);
        assert!(host.is_finished(connection));
        host.disconnect(now, connection, Ending::Clean);
        assert_eq!(host.machine().connections(), 0);
    }
}
