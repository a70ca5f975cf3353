//! The simulated servers: a node or a cluster, defects included, and the server's side of each connection.

mod outages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use fibp_proto::frame::Transmit;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Dialect, Endpoint, MessageId, Op, Push, QueueName, Received, Request, Response, Secret};
use fila_test_broker::{BrokerMachine, ConnectionId, Ending, Faults, Output, Settings};

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
    /// How much of what was sent the client's channel took in.
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
    /// The ids of the client's requests, from their arrival to their answers.
    unanswered: BTreeSet<u32>,
    pushes: VecDeque<(u32, Push)>,
    encoded: usize,
    transmit: Transmit,
    writing: bool,
}

#[derive(Debug)]
pub(super) struct Cluster {
    settings: Settings,
    dialect: Dialect,
    queues: Vec<QueueName>,
    machine: BrokerMachine,
    /// Whether each node is up.
    up: Vec<bool>,
    /// What nodes do wrong now, and what they always do.
    faults: Faults,
    healthy: Faults,
    /// Enqueues that were not answered yet.
    asked: BTreeMap<(ConnectionId, u32), Vec<Tag>>,
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
            .leases_kept(plan.leases_kept)
            .cluster_refers(plan.refers)
            .snapshot_not_found(plan.sticks);
        if let Some(on) = plan.credit_loss {
            healthy = healthy.credit_loss(on);
        }
        settings.faults = healthy.clone();
        if plan.nodes > 1 {
            settings.nodes = (0..plan.nodes).map(|node| Plan::endpoint(node).to_string()).collect();
        }
        let mut machine = BrokerMachine::new(settings.clone());
        for queue in &queues {
            machine.create_queue(QueueName::clone(queue));
        }
        Self {
            machine,
            up: vec![true; plan.nodes],
            settings,
            dialect: plan.server,
            queues,
            faults: healthy.clone(),
            healthy,
            asked: BTreeMap::new(),
            ordered,
            wires: BTreeMap::new(),
            next_wire: 0,
            weather: plan.weather,
            stormy: true,
        }
    }

    pub(super) fn queues(&self) -> &[QueueName] {
        &self.queues
    }

    /// The messages in a queue, whatever the statistics of its leader count.
    pub(super) fn depth(&self, queue: &QueueName) -> Option<usize> {
        let figures = self.machine.queue(queue)?;
        usize::try_from(figures.depth).ok()
    }

    fn is_cluster(&self) -> bool {
        self.up.len() > 1
    }

    // ---- connections ----

    /// A client connects: its wire, unless nobody listens.
    pub(super) fn accept(&mut self, now: Instant, endpoint: &Endpoint) -> Option<ConnectionId> {
        let node = (0..self.up.len()).find(|node| Plan::endpoint(*node) == *endpoint)?;
        if !self.is_up(node) {
            return None;
        }
        let mut config = ServerConfig::new(vec![self.dialect]);
        if self.is_cluster() {
            config.node_id = node_id(node);
        }
        self.next_wire += 1;
        let id = ConnectionId(self.next_wire);
        let server = Server {
            connection: ServerConnection::new(config),
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
        let ending = match end {
            End::Fin => Ending::Clean,
            End::Reset => Ending::Reset,
        };
        self.machine.disconnect(now, id, ending);
        self.asked.retain(|(connection, _), _| *connection != id);
    }

    /// Forgets wires that nobody holds any more, except for those whose deliveries are `remembered`.
    pub(super) fn forget_abandoned(&mut self, remembered: impl Fn(ConnectionId) -> bool) {
        self.wires
            .retain(|id, wire| wire.client || wire.server.is_some() || remembered(*id));
    }

    // ---- running ----

    /// When the servers have to look again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout().filter(|_| self.up.contains(&true))
    }

    /// Lets every node and every connection do what it can.
    pub(super) fn run(&mut self, now: Instant, random: &mut Random, truth: &mut Truth) -> Result<bool, String> {
        let mut progress = false;
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.machine.handle_timeout(now);
            progress = true;
        }
        self.route(truth)?;
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
            self.route(truth)?;
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
            self.machine.pushes_written(now, id, pushes);
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
        let (node, dialect) = (node_id(wire.node), self.dialect);
        let Some(server) = &mut wire.server else { return Ok(()) };
        match event {
            ServerEvent::Opened { dialect, key } => {
                match self.machine.connect_to(now, node, id, dialect, key.as_ref()) {
                    Ok(()) => server.connection.accept(),
                    Err(refusal) => server.connection.refuse(refusal),
                }
            }
            ServerEvent::Request {
                id: request,
                request: body,
            } => {
                check_id(server, request)?;
                if let Request::Enqueue(messages) = &body {
                    let tags = truth.executing(messages, self.ordered)?;
                    self.asked.insert((id, request.id), tags);
                }
                self.machine.handle(now, id, request, body);
            }
            // Other dialects' first bytes are no requests; a client of ours sends nothing else that is malformed.
            // The probe of the admin revision is malformed on purpose.
            ServerEvent::Malformed {
                id: request,
                op: op @ Some(Op::ProbeAdmin | Op::Redrive),
                answer,
                ..
            } => self.machine.handle_malformed(id, request, op, answer),
            // The answer to a heartbeat, which no server sends today, is no request.
            ServerEvent::Malformed { op: None, .. } if !matches!(dialect, Dialect::Preamble(_)) => {}
            ServerEvent::Malformed { id: request, op, .. } => {
                return Err(format!("a client sent a malformed {op:?} with id {request}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands the outputs to the connections.
    fn route(&mut self, truth: &mut Truth) -> Result<(), String> {
        while let Some(output) = self.machine.poll_output() {
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

fn node_id(node: usize) -> u64 {
    node as u64 + 1
}
