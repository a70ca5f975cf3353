//! The simulated servers: a node or a cluster, defects included, and the server's side of each connection.

mod outages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fibp_proto::server::{RequestId, ServerConfig};
use fibp_proto::{Dialect, Endpoint, MessageId, Op, QueueName, Received, Request, Response, Secret};
use fila_test_broker::{BrokerHost, BrokerMachine, ConnectionId, Ending, Faults, Settings, TraceEvent};

use super::network::{End, Pipe, Read, Weather};
use super::pair::random::Random;
use super::plan::Plan;
use super::security::{Plain, Records, Security, Tls};
use super::truth::{Tag, Truth};

/// The id of heartbeats from servers.
const BEAT: u32 = 7;

/// Both directions of a connection, and its server's end while that is there.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) node: usize,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// The server's end, while it is there.
    server: Option<Security>,
    /// The ids of the client's requests, from their arrival to their answers.
    unanswered: BTreeSet<u32>,
    /// The client's end is there.
    pub(super) client: bool,
    /// What was pushed, in order.
    pub(super) pushed: Vec<Pushed>,
    /// How much of what was sent the client's channel took in.
    pub(super) reached: u64,
    /// How much of that must be handed out.
    pub(super) owed: u64,
    /// Where in the stream the records end that the client can decrypt.
    records: Records,
}

impl Wire {
    /// The client's channel took in everything that was read so far. Of what arrives inside TLS after a goodbye, only as
    /// much is handed out as is decrypted before the end is said.
    pub(super) fn note_reached(&mut self, leaving: bool) {
        self.reached = self.records.plain(self.down.read);
        if !(leaving && self.records.is_secure()) {
            self.owed = self.reached;
        }
    }
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
pub(super) struct Cluster {
    settings: Settings,
    dialect: Dialect,
    queues: Vec<QueueName>,
    host: BrokerHost,
    tls: Option<Tls>,
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
    weather: Weather,
    /// Dials may fail, too.
    pub(super) stormy: bool,
}

impl Cluster {
    pub(super) fn new(plan: &Plan, start: Instant, seed: u64, ordered: bool) -> Result<Self, String> {
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
        let mut config = ServerConfig::new(vec![plan.server]);
        // The machine bounds pushes itself.
        config.limits.send = u32::MAX;
        let mut host = BrokerHost::new(machine, config);
        host.start_trace();
        let tls = plan.tls.map(|secure| {
            let alpn = secure.alpn.then_some(plan.server);
            Tls::new(alpn, secure.close_notify)
        });
        Ok(Self {
            host,
            tls: tls.transpose()?,
            up: vec![true; plan.nodes],
            settings,
            dialect: plan.server,
            queues,
            faults: healthy.clone(),
            healthy,
            asked: BTreeMap::new(),
            ordered,
            wires: BTreeMap::new(),
            weather: plan.weather,
            stormy: true,
        })
    }

    pub(super) fn queues(&self) -> &[QueueName] {
        &self.queues
    }

    /// The messages in a queue, whatever the statistics of its leader count.
    pub(super) fn depth(&self, queue: &QueueName) -> Option<usize> {
        let figures = self.host.machine().queue(queue)?;
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
        let id = self.host.connect_to(node_id(node));
        let server = match &self.tls {
            None => Security::Plain(Plain::default()),
            Some(tls) => Security::Tls(Box::new(tls.accept()?)),
        };
        self.wires.insert(
            id,
            Wire {
                node,
                up: Pipe::new(now, self.weather),
                down: Pipe::new(now, self.weather),
                server: Some(server),
                unanswered: BTreeSet::new(),
                client: true,
                pushed: Vec::new(),
                reached: 0,
                owed: 0,
                records: Records::default(),
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
        self.host.disconnect(now, id, ending);
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
        self.host.poll_timeout().filter(|_| self.up.contains(&true))
    }

    /// Lets every node and every connection do what it can.
    pub(super) fn run(&mut self, now: Instant, random: &mut Random, truth: &mut Truth) -> Result<bool, String> {
        let mut progress = false;
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.host.handle_timeout(now);
            progress = true;
        }
        self.follow(truth)?;
        let served = self.wires.iter().filter(|(_, wire)| wire.server.is_some());
        let ids: Vec<ConnectionId> = served.map(|(id, _)| *id).collect();
        for id in ids {
            progress |= self.serve(now, id, random, truth)?;
        }
        // Everybody was served.
        while self.host.poll_woken().is_some() {}
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
        loop {
            let Self { wires, host, .. } = self;
            let Some(wire) = wires.get_mut(&id) else { break };
            let Some(server) = &mut wire.server else { break };
            let mut again = false;
            match server.read(now, random, &mut wire.up, host, id)? {
                Read::Data(_) => again = true,
                Read::Nothing | Read::End(End::Fin) => {}
                Read::End(End::Reset) => {
                    self.leave(now, id, End::Reset);
                    return Ok(true);
                }
            }
            host.process(now, id);
            let Ok(wrote) = server.write(now, random, &mut wire.down, &mut wire.records, host, id) else {
                self.follow(truth)?;
                self.leave(now, id, End::Reset);
                return Ok(true);
            };
            again |= wrote;
            let finished = host.is_finished(id) && !server.is_writing();
            again |= self.follow(truth)?;
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

    /// Compares what passed with what must be; true if anything did.
    fn follow(&mut self, truth: &mut Truth) -> Result<bool, String> {
        let mut progress = false;
        while let Some(event) = self.host.poll_trace() {
            progress = true;
            match event {
                TraceEvent::Request {
                    connection,
                    id,
                    request,
                } => {
                    if let Some(wire) = self.wires.get_mut(&connection) {
                        check_id(wire, id)?;
                    }
                    if let Request::Enqueue(messages) = &request {
                        let tags = truth.executing(messages, self.ordered)?;
                        self.asked.insert((connection, id.id), tags);
                    }
                }
                // Other dialects' first bytes are no requests; a client of ours sends nothing else that is malformed.
                // The probe of the admin revision is malformed on purpose.
                TraceEvent::Malformed {
                    op: Some(Op::ProbeAdmin | Op::Redrive),
                    ..
                } => {}
                TraceEvent::Malformed { id, op, .. } => {
                    return Err(format!("a client sent a malformed {op:?} with id {id}"));
                }
                TraceEvent::Answer {
                    connection,
                    id,
                    response,
                } => {
                    // A heartbeat may be the answer to one of the server's own, whatever its id is in use for.
                    if let Some(wire) = self.wires.get_mut(&connection)
                        && id.op != Op::Heartbeat
                    {
                        wire.unanswered.remove(&id.id);
                    }
                    self.note_answer(connection, id.id, &response, truth);
                }
                TraceEvent::Unencodable { error, .. } => return Err(format!("an answer cannot be encoded: {error}")),
                TraceEvent::Push { connection, push, end } => {
                    if let Some(wire) = self.wires.get_mut(&connection) {
                        wire.pushed.extend(push.deliveries.into_iter().map(|delivery| Pushed {
                            id: delivery.id,
                            attempt: delivery.attempt_count,
                            end,
                        }));
                    }
                }
                other => return Err(format!("{other:?} is not known here")),
            }
        }
        Ok(progress)
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

/// A request arrived: its id is one that can be told from all others.
fn check_id(wire: &mut Wire, request: RequestId) -> Result<(), String> {
    if request.id == 0 {
        return Err(format!("{:?} has the id 0", request.op));
    }
    let is_answered = !matches!(
        request.op,
        Op::Heartbeat | Op::Flow | Op::CancelConsume | Op::Goodbye | Op::ProbeAdmin
    );
    if is_answered && !wire.unanswered.insert(request.id) {
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
