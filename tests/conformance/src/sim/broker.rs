//! The simulated cluster: nodes, one of which leads, and the server's side of each connection.

mod outages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use fibp_proto::frame::Transmit;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{
    Dialect, Endpoint, ErrorKind, MessageId, Op, Push, QueueName, Received, Request, Response, Secret, ServerError,
};
use fila_test_broker::{BrokerMachine, ConnectionId, Ending, Faults, Output, Settings, Snapshot};

use super::network::{End, Pipe, Read, Weather};
use super::plan::Plan;
use super::random::Random;
use super::truth::{Tag, Truth};

/// Pushes are encoded only while less than this waits to be written.
const ENCODE_AHEAD: usize = 64 * 1024;

/// The id of heartbeats from servers.
const BEAT: u32 = 7;

/// Both directions of a connection, and its server's end while that is there.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) node: usize,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    server: Option<Server>,
    /// The client's end is there.
    pub(super) client: bool,
    /// What was pushed, in order.
    pub(super) pushed: Vec<Pushed>,
    /// How much of what was sent the client's link took in.
    pub(super) reached: u64,
}

/// A delivery on its way.
#[derive(Debug)]
pub(super) struct Pushed {
    id: MessageId,
    attempt: u32,
    /// Where in the stream it ends.
    pub(super) end: u64,
}

impl Pushed {
    pub(super) fn is(&self, received: &Received) -> bool {
        self.id == received.id && self.attempt == received.attempt_count
    }
}

#[derive(Debug)]
struct Server {
    connection: ServerConnection,
    opened: Option<(Dialect, Option<Secret>)>,
    /// The ids of the client's requests, from their arrival to their answers.
    unanswered: BTreeSet<u32>,
    pushes: VecDeque<(u32, Push)>,
    encoded: usize,
    transmit: Transmit,
    writing: bool,
}

#[derive(Debug)]
struct Node {
    machine: BrokerMachine,
    up: bool,
}

#[derive(Debug)]
pub(super) struct Cluster {
    settings: Settings,
    dialect: Dialect,
    queues: Vec<QueueName>,
    nodes: Vec<Node>,
    /// `None` while a leader is elected; what it will start with is kept meanwhile.
    leader: Option<usize>,
    limbo: Option<Snapshot>,
    /// What nodes do wrong now, and what they always do.
    faults: Faults,
    healthy: Faults,
    /// Connections to other nodes whose requests the leader executes, and which of those it has not answered.
    forwarded: BTreeMap<ConnectionId, BTreeSet<u32>>,
    /// Enqueues that were not answered yet.
    asked: BTreeMap<(ConnectionId, u32), Vec<Tag>>,
    /// Nodes refer requests to the leader instead of passing them on.
    refers: bool,
    /// Whether the order of a producer's messages is certain.
    ordered: bool,
    pub(super) wires: BTreeMap<ConnectionId, Wire>,
    next_wire: u64,
    weather: Weather,
    /// Dials may fail, too.
    pub(super) stormy: bool,
}

impl Cluster {
    pub(super) fn new(plan: &Plan, start: Instant, seed: u64, ordered: bool) -> Self {
        let mut settings = Settings::new(start, 1_700_000_000_000);
        settings.seed = seed;
        settings.visibility_timeout = plan.visibility;
        settings.api_key = plan.key.then(|| Secret::from("simulated-key"));
        let queues: Vec<QueueName> = (0..plan.queues).map(|n| format!("queue-{n}").into()).collect();
        let mut healthy = Faults::default()
            .deliveries_per_frame(plan.deliveries_per_frame)
            .leases_kept(plan.leases_kept);
        if let Some(on) = plan.credit_loss {
            healthy = healthy.credit_loss(on);
        }
        settings.faults = healthy.clone();
        let mut cluster = Self {
            nodes: Vec::new(),
            settings,
            dialect: plan.server,
            queues,
            leader: Some(0),
            limbo: None,
            faults: healthy.clone(),
            healthy,
            forwarded: BTreeMap::new(),
            asked: BTreeMap::new(),
            refers: plan.refers,
            ordered,
            wires: BTreeMap::new(),
            next_wire: 0,
            weather: plan.weather,
            stormy: true,
        };
        for _ in 0..plan.nodes {
            let machine = BrokerMachine::new(cluster.settings.clone());
            cluster.nodes.push(Node { machine, up: true });
        }
        cluster.create_queues();
        cluster.spread_faults();
        cluster
    }

    pub(super) fn queues(&self) -> &[QueueName] {
        &self.queues
    }

    fn create_queues(&mut self) {
        for node in &mut self.nodes {
            for queue in &self.queues {
                node.machine.create_queue(QueueName::clone(queue));
            }
        }
    }

    /// The messages in a queue, if the cluster is in a state to tell.
    pub(super) fn depth(&self, queue: &QueueName) -> Option<usize> {
        let leader = self.nodes.get(self.leader?).filter(|node| node.up)?;
        let figures = leader.machine.queue(queue)?;
        usize::try_from(figures.depth).ok()
    }

    // ---- connections ----

    /// A client connects: its wire, unless nobody listens.
    pub(super) fn accept(&mut self, now: Instant, endpoint: &Endpoint) -> Option<ConnectionId> {
        let node = (0..self.nodes.len()).find(|node| Plan::endpoint(*node) == *endpoint)?;
        self.nodes.get(node).filter(|node| node.up)?;
        self.next_wire += 1;
        let id = ConnectionId(self.next_wire);
        let server = Server {
            connection: ServerConnection::new(ServerConfig::new(vec![self.dialect])),
            opened: None,
            unanswered: BTreeSet::new(),
            pushes: VecDeque::new(),
            encoded: 0,
            transmit: Transmit::new(),
            writing: false,
        };
        self.wires.insert(
            id,
            Wire {
                node,
                up: Pipe::new(now, self.weather),
                down: Pipe::new(now, self.weather),
                server: Some(server),
                client: true,
                pushed: Vec::new(),
                reached: 0,
            },
        );
        Some(id)
    }

    /// The server's end goes away.
    fn leave(&mut self, now: Instant, id: ConnectionId, end: End) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.server.take().is_none() {
            return;
        }
        wire.down.end(now, end);
        if end == End::Reset {
            wire.up.end(now, End::Reset);
        }
        let node = wire.node;
        let ending = match end {
            End::Fin => Ending::Clean,
            End::Reset => Ending::Reset,
        };
        if let Some(node) = self.nodes.get_mut(node) {
            node.machine.disconnect(now, id, ending);
        }
        if self.forwarded.remove(&id).is_some()
            && let Some(node) = self.leader.and_then(|leader| self.nodes.get_mut(leader))
        {
            node.machine.disconnect(now, id, ending);
        }
        self.asked.retain(|(connection, _), _| *connection != id);
    }

    /// Forgets wires that nobody holds any more, except for those whose deliveries are `remembered`.
    pub(super) fn forget_abandoned(&mut self, remembered: impl Fn(ConnectionId) -> bool) {
        self.wires
            .retain(|id, wire| wire.client || wire.server.is_some() || remembered(*id));
    }

    // ---- running ----

    /// When a node has to look again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.nodes
            .iter()
            .filter(|node| node.up)
            .filter_map(|node| node.machine.poll_timeout())
            .min()
    }

    /// Lets every node and every connection do what it can.
    pub(super) fn run(&mut self, now: Instant, random: &mut Random, truth: &mut Truth) -> Result<bool, String> {
        let mut progress = false;
        for index in 0..self.nodes.len() {
            if let Some(node) = self.nodes.get_mut(index).filter(|node| node.up)
                && node.machine.poll_timeout().is_some_and(|at| at <= now)
            {
                node.machine.handle_timeout(now);
                progress = true;
            }
            self.route(index, truth)?;
        }
        let served = self.wires.iter().filter(|(_, wire)| wire.server.is_some());
        let ids: Vec<ConnectionId> = served.map(|(id, _)| *id).collect();
        for id in ids {
            progress |= self.serve(now, id, random, truth)?;
        }
        Ok(progress)
    }

    fn serve(
        &mut self,
        now: Instant,
        id: ConnectionId,
        random: &mut Random,
        truth: &mut Truth,
    ) -> Result<bool, String> {
        let mut progress = false;
        while let Some(wire) = self.wires.get_mut(&id) {
            let Some(server) = &mut wire.server else { break };
            let mut again = false;
            if wire.up.is_readable(now)
                && let Some(mut buffer) = server.connection.take_read_buffer()
            {
                let read = wire.up.read(now, random, buffer.unfilled());
                match read {
                    Read::Data(n) => {
                        buffer.advance(n);
                        again = true;
                    }
                    Read::Nothing => {}
                    Read::End(End::Fin) => server.connection.handle_eof(),
                    Read::End(End::Reset) => {
                        self.leave(now, id, End::Reset);
                        return Ok(true);
                    }
                }
                server.connection.handle_input(buffer);
            }
            while let Some(event) = self
                .wires
                .get_mut(&id)
                .and_then(|wire| wire.server.as_mut())
                .and_then(|server| server.connection.poll_event())
            {
                self.handle_event(now, id, event, truth)?;
                again = true;
            }
            again |= self.write(now, id, random);
            for node in 0..self.nodes.len() {
                self.route(node, truth)?;
            }
            let finished = self
                .wires
                .get(&id)
                .and_then(|wire| wire.server.as_ref())
                .is_some_and(|server| server.connection.is_finished() && !server.writing);
            if finished {
                self.leave(now, id, End::Fin);
                again = true;
            }
            progress |= again;
            if !again {
                break;
            }
        }
        Ok(progress)
    }

    fn write(&mut self, now: Instant, id: ConnectionId, random: &mut Random) -> bool {
        let Some(wire) = self.wires.get_mut(&id) else {
            return false;
        };
        let Some(server) = &mut wire.server else { return false };
        while server.connection.buffered() < ENCODE_AHEAD {
            let Some((consume, push)) = server.pushes.pop_front() else {
                break;
            };
            server.encoded += 1;
            let before = server.connection.buffered();
            if server.connection.push_to(consume, &push).is_err() {
                server.connection.close();
                break;
            }
            if server.connection.buffered() == before {
                // It is closing: nothing is said any more.
                break;
            }
            let end = wire.down.written + server.connection.buffered() as u64;
            wire.pushed.extend(push.deliveries.into_iter().map(|delivery| Pushed {
                id: delivery.id,
                attempt: delivery.attempt_count,
                end,
            }));
        }
        if !server.writing {
            server.writing = server.connection.take_transmit(&mut server.transmit);
        }
        let mut progress = false;
        let mut failed = false;
        while server.writing {
            match wire.down.write(now, random, server.transmit.chunk()) {
                Ok(0) => break,
                Ok(n) => {
                    server.connection.transmitted(&mut server.transmit, n);
                    progress = true;
                }
                Err(_) => {
                    failed = true;
                    break;
                }
            }
            server.writing = !server.transmit.is_empty();
        }
        if failed {
            self.leave(now, id, End::Reset);
            return true;
        }
        if !server.writing && server.connection.buffered() == 0 && server.encoded > 0 {
            let pushes = std::mem::take(&mut server.encoded);
            let node = wire.node;
            if let Some(node) = self.nodes.get_mut(node) {
                node.machine.pushes_written(now, id, pushes);
            }
            progress = true;
        }
        progress
    }

    fn handle_event(
        &mut self,
        now: Instant,
        id: ConnectionId,
        event: ServerEvent,
        truth: &mut Truth,
    ) -> Result<(), String> {
        let Some(wire) = self.wires.get_mut(&id) else {
            return Ok(());
        };
        let (index, dialect) = (wire.node, self.dialect);
        let Some(node) = self.nodes.get_mut(index) else {
            return Ok(());
        };
        let Some(server) = &mut wire.server else { return Ok(()) };
        match event {
            ServerEvent::Opened { dialect, key } => {
                match node.machine.connect(now, id, dialect, key.as_ref()) {
                    Ok(()) => server.connection.accept(),
                    Err(refusal) => server.connection.refuse(refusal),
                }
                server.opened = Some((dialect, key));
            }
            ServerEvent::Request {
                id: request,
                request: body,
            } => {
                check_id(server, request)?;
                self.handle_request(now, id, index, request, body, truth)?;
            }
            // Other dialects' first bytes are no requests; a client of ours sends nothing else that is malformed.
            // The probe of the admin revision is malformed on purpose.
            ServerEvent::Malformed {
                id: request,
                op: op @ Some(Op::ProbeAdmin | Op::Redrive),
                answer,
            } => node.machine.handle_malformed(id, request, op, answer),
            // The answer to a heartbeat, which no server sends today, is no request.
            ServerEvent::Malformed { op: None, .. } if !matches!(dialect, Dialect::Preamble(_)) => {}
            ServerEvent::Malformed { id: request, op, .. } => {
                return Err(format!("a client sent a malformed {op:?} with id {request}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_request(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        request: RequestId,
        body: Request,
        truth: &mut Truth,
    ) -> Result<(), String> {
        let local = matches!(
            request.op,
            Op::Consume | Op::CancelConsume | Op::Flow | Op::Heartbeat | Op::Authenticate | Op::ProbeAdmin
        );
        let here = local || self.leader == Some(index);
        let leader = self.leader.filter(|leader| self.is_up(*leader));
        let target = if here { Some(index) } else { leader };
        if self.refers
            && !here
            && let Some(leader) = leader
        {
            return self.respond(id, request, &not_leader(leader));
        }
        let Some(node) = target.and_then(|target| self.nodes.get_mut(target)) else {
            return self.respond(id, request, &no_leader(&body));
        };
        if let Request::Enqueue(messages) = &body {
            let tags = truth.executing(messages, self.ordered)?;
            self.asked.insert((id, request.id), tags);
        }
        if !here {
            self.forwarded
                .entry(id)
                .or_insert_with(|| {
                    // Clusters are simulated without keys.
                    let _ = node.machine.connect(now, id, self.dialect, None);
                    BTreeSet::new()
                })
                .insert(request.id);
        }
        node.machine.handle(now, id, request, body);
        Ok(())
    }

    fn respond(&mut self, id: ConnectionId, request: RequestId, response: &Response) -> Result<(), String> {
        match self.wires.get_mut(&id).and_then(|wire| wire.server.as_mut()) {
            Some(server) => server.respond(request, response),
            None => Ok(()),
        }
    }

    /// Hands a node's outputs to the connections.
    fn route(&mut self, index: usize, truth: &mut Truth) -> Result<(), String> {
        while let Some(output) = self.nodes.get_mut(index).and_then(|node| node.machine.poll_output()) {
            let id = output.connection();
            if let Output::Answer { request, response, .. } = &output {
                self.note_answer(id, request.id, response, truth);
            }
            let Some(server) = self.wires.get_mut(&id).and_then(|wire| wire.server.as_mut()) else {
                continue;
            };
            match output {
                Output::Answer { request, response, .. } => server.respond(request, &response)?,
                Output::Refuse { id, error, .. } => server.connection.respond_error(id, &error),
                Output::Push { consume_id, push, .. } => server.pushes.push_back((consume_id, push)),
                Output::Close { .. } => server.connection.close(),
                _ => {}
            }
        }
        Ok(())
    }

    fn note_answer(&mut self, id: ConnectionId, request: u32, response: &Response, truth: &mut Truth) {
        if let Some(unanswered) = self.forwarded.get_mut(&id) {
            unanswered.remove(&request);
        }
        // A heartbeat may have the same id.
        let Response::Enqueue(results) = response else { return };
        let Some(tags) = self.asked.remove(&(id, request)) else {
            return;
        };
        for (tag, result) in tags.into_iter().zip(results) {
            if let Ok(id) = result {
                truth.stored(tag, id);
            }
        }
    }
}

impl Server {
    fn respond(&mut self, request: RequestId, response: &Response) -> Result<(), String> {
        // A heartbeat may be the answer to one of the server's own, whatever its id is in use for.
        if request.op != Op::Heartbeat {
            self.unanswered.remove(&request.id);
        }
        self.connection
            .respond(request, response)
            .map_err(|error| format!("{response:?} cannot be encoded: {error}"))
    }
}

/// A request arrived: its id is one that can be told from all others.
fn check_id(server: &mut Server, request: RequestId) -> Result<(), String> {
    if request.id == 0 {
        return Err(format!("{:?} has the id 0", request.op));
    }
    let is_answered = !matches!(
        request.op,
        Op::Heartbeat | Op::Flow | Op::CancelConsume | Op::Goodbye | Op::ProbeAdmin
    );
    if is_answered && !server.unanswered.insert(request.id) {
        return Err(format!(
            "{:?} uses the id {} again before it was answered",
            request.op, request.id
        ));
    }
    Ok(())
}

/// How a framed server refers a client to the leader (docs/protocol/framed.md 4).
fn not_leader(leader: usize) -> Response {
    let address = Plan::endpoint(leader).to_string();
    Response::Error(
        ServerError::new(ErrorKind::NotLeader, "not the leader for this queue")
            .with_code(0x0C)
            .with_metadata(vec![("leader_addr".to_owned(), address.clone())])
            .with_leader(address),
    )
}

/// How servers of a cluster refuse what they would have forwarded (docs/protocol/preamble.md 2.4).
fn no_leader(request: &Request) -> Response {
    let item = || ServerError::new(ErrorKind::NotLeader, "no leader available").with_code(2);
    match request {
        Request::Enqueue(messages) => Response::Enqueue(messages.iter().map(|_| Err(Box::new(item()))).collect()),
        Request::Ack(items) => Response::Ack(items.iter().map(|_| Err(Box::new(item()))).collect()),
        Request::Nack(items) => Response::Nack(items.iter().map(|_| Err(Box::new(item()))).collect()),
        _ => Response::Error(
            ServerError::new(ErrorKind::NotLeader, "invalid payload: no leader available").with_code(0x10),
        ),
    }
}
