//! The broker without IO: requests and instants in, answers and pushes out.

mod access;
mod admin;
mod answers;
mod cluster;
mod config_store;
mod connection;
mod data;
mod failover;
mod failure;
mod ids;
mod queue;
mod refusal;
mod render;
mod scheduler;
mod settings;
mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fibp_proto::server::RequestId;
use fibp_proto::{Dialect, Headers, MessageId, Op, Push, QueueName, Request, Response, Secret, ServerError};

use access::{Identity, KeyRing, is_same_key};
use cluster::{Cluster, Node};
use config_store::ConfigStore;
use connection::{CHANNEL_SLOTS, Connection, PushRules, Session};
use ids::IdSource;
use refusal::Refusal;
use render::Style;
use scheduler::{Scheduler, StoredQueues};

use crate::Faults;
pub use settings::Settings;

/// Names a connection. Chosen by the caller of [`BrokerMachine::connect`], and not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// By EOF or a goodbye.
    Clean,
    /// By a reset. Framed servers notice only when they next try to deliver.
    Reset,
}

/// What the broker wants sent or done, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Answer a request.
    Answer {
        /// Where.
        connection: ConnectionId,
        /// What it answers. Under some faults this id was never used.
        request: RequestId,
        /// The answer, refusals included.
        response: Response,
    },
    /// Refuse a request that could not be read.
    Refuse {
        /// Where.
        connection: ConnectionId,
        /// The id on the wire.
        id: u32,
        /// The refusal.
        error: ServerError,
    },
    /// Push deliveries. Report it with [`BrokerMachine::pushes_written`] when it was written.
    Push {
        /// Where.
        connection: ConnectionId,
        /// The id of the consume request.
        consume_id: u32,
        /// The deliveries.
        push: Push,
    },
    /// Close the connection once what was queued before is written.
    Close {
        /// Which.
        connection: ConnectionId,
    },
}

impl Output {
    /// The connection it is for.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        match self {
            Self::Answer { connection, .. }
            | Self::Refuse { connection, .. }
            | Self::Push { connection, .. }
            | Self::Close { connection } => *connection,
        }
    }
}

/// Figures of a queue, for assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueFigures {
    /// Messages stored: pending plus leased.
    pub depth: u64,
    /// Messages leased.
    pub in_flight: u64,
    /// Registered consumers.
    pub consumers: u32,
}

/// A message in a queue, for assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// Its id.
    pub id: MessageId,
    /// The key that it is scheduled under.
    pub fairness_key: String,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub payload: Bytes,
    /// How often it was nacked or its lease ended.
    pub attempt_count: u32,
    /// Whether somebody holds it.
    pub leased: bool,
}

/// What survives a restart: queues with their messages, configuration, API keys.
#[derive(Debug, Clone)]
pub struct Snapshot {
    queues: StoredQueues,
    cluster: Option<Cluster>,
    config: ConfigStore,
    keys: KeyRing,
    ids: IdSource,
}

/// A Fila broker that keeps everything in memory and does no IO: no clock, no randomness.
///
/// Tell it what happens with [`connect`](Self::connect), [`handle`](Self::handle),
/// [`pushes_written`](Self::pushes_written), [`disconnect`](Self::disconnect) and
/// [`handle_timeout`](Self::handle_timeout); after each call do what [`poll_output`](Self::poll_output) says until it
/// returns `None`, and see [`poll_timeout`](Self::poll_timeout) for when to call next. Instants never go back.
#[derive(Debug)]
pub struct BrokerMachine {
    settings: Settings,
    scheduler: Scheduler,
    /// `None` on a single node.
    cluster: Option<Cluster>,
    config: ConfigStore,
    keys: KeyRing,
    ids: IdSource,
    connections: BTreeMap<ConnectionId, Connection>,
    outputs: VecDeque<Output>,
    /// Answers held back by a fault.
    stalled: Vec<(ConnectionId, RequestId, Response)>,
    /// Requests that a fault delays, and when they are executed; `None` is never.
    delayed: Vec<(Option<Instant>, ConnectionId, RequestId, Request)>,
    /// The fairness key of messages that name none.
    default_key: Arc<str>,
    /// When the scheduler last had something to do.
    last_command: Instant,
    /// With slow refill: a consumer has room that the scheduler has not noticed.
    refill_waits: bool,
    /// When it last looked for room by itself.
    last_refill: Instant,
}

/// What a request comes to.
#[derive(Debug)]
enum Reaction {
    Answer(Response),
    Refuse(Refusal),
    /// Refuse, then close.
    Dismiss(Refusal),
    Close,
    Silence,
}

impl From<Result<Response, Refusal>> for Reaction {
    fn from(result: Result<Response, Refusal>) -> Self {
        match result {
            Ok(response) => Self::Answer(response),
            Err(refusal) => Self::Refuse(refusal),
        }
    }
}

impl BrokerMachine {
    /// An empty broker.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ids = IdSource::new(settings.seed);
        let empty = Snapshot {
            queues: Scheduler::default().stored(),
            cluster: Cluster::new(&settings.nodes),
            config: ConfigStore::default(),
            keys: KeyRing::default(),
            ids,
        };
        Self::from_snapshot(settings, empty)
    }

    /// A broker that starts with what another one left: leases stay as they were, or with
    /// [`Faults::leases_kept`] off return to their queues.
    #[must_use]
    pub fn from_snapshot(settings: Settings, snapshot: Snapshot) -> Self {
        Self {
            scheduler: Scheduler::restore(snapshot.queues, settings.faults.leases_kept),
            cluster: snapshot.cluster.map(|cluster| cluster.restarted(settings.start)),
            config: snapshot.config,
            keys: snapshot.keys,
            ids: snapshot.ids,
            connections: BTreeMap::new(),
            outputs: VecDeque::new(),
            stalled: Vec::new(),
            delayed: Vec::new(),
            default_key: "default".into(),
            last_command: settings.start,
            refill_waits: false,
            last_refill: settings.start,
            settings,
        }
    }

    /// What a restarted broker would find.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            queues: self.scheduler.stored(),
            cluster: self.cluster.clone(),
            config: self.config.clone(),
            keys: self.keys.clone(),
            ids: self.ids.clone(),
        }
    }

    /// The settings, faults as they are now.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the faults. Answers that are not stalled any more come out.
    pub fn set_faults(&mut self, faults: Faults) {
        self.settings.faults = faults;
        self.release_stalled();
    }

    /// Figures of a queue, if it exists.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueFigures> {
        self.scheduler.queue(name).map(|queue| QueueFigures {
            depth: queue.depth(),
            in_flight: queue.leases.len() as u64,
            consumers: self.scheduler.consumer_count(name),
        })
    }

    /// The messages in a queue, leased ones too, in the order of enqueueing; none if it does not exist.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        let stored = self
            .scheduler
            .queue(queue)
            .map(queue::Queue::messages)
            .unwrap_or_default();
        stored
            .into_iter()
            .map(|(message, leased)| StoredMessage {
                id: ids::message_id(message.id),
                fairness_key: message.fairness_key.as_ref().to_owned(),
                headers: message.headers.clone(),
                payload: message.payload.clone(),
                attempt_count: message.attempts,
                leased,
            })
            .collect()
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.values().filter(|connection| !connection.lost).count()
    }

    /// Creates a queue and its dead-letter queue, unless they exist. Every node of a cluster is ready for them at once.
    pub fn create_queue(&mut self, name: impl Into<QueueName>) {
        let (name, visibility) = (name.into(), self.settings.visibility_timeout);
        self.scheduler.create(&name, visibility, visibility);
        if let Some(cluster) = &mut self.cluster {
            cluster.create(&name, None);
        }
    }

    /// Whether to behave like a node of a cluster.
    fn is_cluster(&self) -> bool {
        self.cluster.is_some() || self.settings.faults.cluster
    }

    /// A client opened a connection, in a cluster to its first node. `key` is the API key of a framed handshake.
    ///
    /// # Errors
    ///
    /// The refusal to send before closing (docs/protocol/framed.md 2); the connection is not known then.
    pub fn connect(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        dialect: Dialect,
        key: Option<&Secret>,
    ) -> Result<(), ServerError> {
        self.open(now, 0, connection, dialect, key)
    }

    fn open(
        &mut self,
        now: Instant,
        node: Node,
        connection: ConnectionId,
        dialect: Dialect,
        key: Option<&Secret>,
    ) -> Result<(), ServerError> {
        let style = Style::new(dialect, false);
        let identity = match (&self.settings.api_key, style.is_framed(), key) {
            (None, ..) => Identity::Anyone,
            (Some(_), false, _) => Identity::Nobody,
            (Some(_), true, None) => return Err(style.refusal(&Refusal::MissingApiKey)),
            (Some(_), true, Some(key)) => self
                .identify(now, key)
                .ok_or_else(|| style.refusal(&Refusal::InvalidApiKey))?,
        };
        self.connections
            .insert(connection, Connection::new(node, dialect, identity));
        Ok(())
    }

    fn identify(&self, now: Instant, key: &Secret) -> Option<Identity> {
        if self
            .settings
            .api_key
            .as_ref()
            .is_some_and(|bootstrap| is_same_key(bootstrap, key))
        {
            return Some(Identity::Bootstrap);
        }
        let key_id = self.keys.identify(key, self.settings.wall_at(now))?;
        Some(Identity::Key(key_id.to_owned()))
    }

    /// A connection is over. Messages leased to it stay leased (docs/protocol/preamble.md 1.14), see [`Faults::leases_kept`].
    pub fn disconnect(&mut self, now: Instant, connection: ConnectionId, ending: Ending) {
        self.drop_outputs(connection);
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        let framed = Style::new(known.dialect, false).is_framed();
        if framed && ending == Ending::Reset && known.session.is_some() && self.settings.faults.leases_kept {
            known.lost = true;
            return;
        }
        self.forget(now, connection);
    }

    fn drop_outputs(&mut self, connection: ConnectionId) {
        self.stalled.retain(|(stalled, ..)| *stalled != connection);
        self.delayed.retain(|(_, delayed, ..)| *delayed != connection);
        self.outputs.retain(|output| output.connection() != connection);
    }

    fn forget(&mut self, now: Instant, connection: ConnectionId) {
        let Some(known) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(session) = known.session {
            self.scheduler.unregister(&session.queue, connection);
            self.last_command = now;
        }
        if !self.settings.faults.leases_kept {
            for queue in self.scheduler.unlease_all(connection) {
                self.pump(now, &queue);
            }
        }
    }

    /// A client's request.
    pub fn handle(&mut self, now: Instant, connection: ConnectionId, id: RequestId, request: Request) {
        match self.settings.faults.delay_of(id.op) {
            Some(by) => {
                let due = now.checked_add(by);
                self.delayed.push((due, connection, id, request));
            }
            None => self.handle_now(now, connection, id, request),
        }
    }

    /// Executes what was delayed until now.
    fn handle_delayed(&mut self, now: Instant) {
        let is_due = |(due, ..): &(Option<Instant>, _, _, _)| due.is_some_and(|due| due <= now);
        let due: Vec<_> = self.delayed.extract_if(.., |delayed| is_due(delayed)).collect();
        for (_, connection, id, request) in due {
            self.handle_now(now, connection, id, request);
        }
    }

    fn handle_now(&mut self, now: Instant, connection: ConnectionId, id: RequestId, request: Request) {
        let Some(known) = self.connections.get(&connection).filter(|known| !known.closing) else {
            return;
        };
        let authenticated = known.identity != Identity::Nobody;
        if !authenticated && !matches!(id.op, Op::Authenticate | Op::Heartbeat | Op::Goodbye) {
            self.react(connection, id, Reaction::Dismiss(Refusal::AuthenticationRequired));
            return;
        }
        if reaches_scheduler(id.op) {
            self.last_command = now;
        }
        let mut touched = Vec::new();
        let reaction = self.execute(now, connection, id, request, &mut touched);
        self.react(connection, id, reaction);
        if self.settings.faults.slow_refill && reaches_scheduler(id.op) {
            self.refill_waits = false;
            touched = self.scheduler.waiting();
        }
        for queue in touched {
            self.pump(now, &queue);
        }
    }

    /// A request that could not be read, with the refusal that servers of the dialect answer, if they do.
    pub fn handle_malformed(&mut self, connection: ConnectionId, id: u32, op: Option<Op>, answer: Option<ServerError>) {
        let Some(known) = self.connections.get(&connection).filter(|known| !known.closing) else {
            return;
        };
        let authenticated = known.identity != Identity::Nobody;
        let consuming = known.session.is_some();
        let style = self.style_of(known);
        if let Some(op) = op {
            let request = RequestId { id, op };
            if op == Op::Authenticate && authenticated {
                return self.react(connection, request, Reaction::Answer(Response::Authenticated));
            }
            if authenticated && op == Op::Consume && consuming && !style.is_framed() {
                return self.react(connection, request, Reaction::Refuse(Refusal::ConsumeActive));
            }
            if authenticated && let Err(refusal) = self.check_before_decoding(connection, op) {
                return self.react(connection, request, Reaction::Refuse(refusal));
            }
        }
        if !authenticated && op != Some(Op::Authenticate) {
            self.refuse(connection, id, style.refusal(&Refusal::AuthenticationRequired));
            return self.close(connection);
        }
        match answer {
            Some(error) => self.refuse(connection, id, error),
            None if self.settings.faults.malformed_closes => self.close(connection),
            None => self.refuse(connection, id, style.refusal(&Refusal::MalformedData)),
        }
    }

    fn style_of(&self, connection: &Connection) -> Style {
        Style::new(connection.dialect, self.settings.faults.tls_quirks)
    }

    fn style(&self, connection: ConnectionId) -> Style {
        self.connections
            .get(&connection)
            .map_or(Style::Framed, |connection| self.style_of(connection))
    }

    fn execute(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        id: RequestId,
        request: Request,
        touched: &mut Vec<QueueName>,
    ) -> Reaction {
        let style = self.style(connection);
        if let Some(kind) = self.settings.faults.take_failure(id.op) {
            return self.fail(style, kind, &request);
        }
        if self.settings.faults.overloaded && reaches_scheduler(id.op) {
            return self.overload(style, id.op);
        }
        match request {
            Request::Enqueue(messages) => self.enqueue(now, connection, messages, touched).into(),
            // Even of a queue that does not exist.
            Request::EnqueueNone { .. } => Reaction::Answer(Response::Enqueue(Vec::new())),
            Request::Consume { queue, credit } => self.consume(now, connection, id.id, queue, credit, touched).into(),
            Request::CancelConsume => {
                self.cancel(connection, touched);
                Reaction::Silence
            }
            Request::Flow { credit } => {
                self.flow(now, connection, credit);
                Reaction::Silence
            }
            Request::Ack(items) => self.ack(now, connection, &items, touched).into(),
            Request::Nack(items) => self.nack(now, connection, &items, touched).into(),
            Request::Heartbeat if self.settings.faults.heartbeats_ignored => Reaction::Silence,
            Request::Heartbeat => Reaction::Answer(Response::Heartbeat),
            Request::Authenticate(key) => self.authenticate(now, connection, &key),
            Request::Goodbye => Reaction::Close,
            request => self.administer(now, connection, request, touched).into(),
        }
    }

    /// What a request meets whose way to the scheduler is full.
    fn overload(&self, style: Style, op: Op) -> Reaction {
        let is_data = matches!(op, Op::Enqueue | Op::Consume | Op::Ack | Op::Nack);
        if op == Op::Consume || (is_data && !style.is_framed()) {
            Reaction::Close
        } else {
            Reaction::Refuse(Refusal::Overloaded)
        }
    }

    fn authenticate(&mut self, now: Instant, connection: ConnectionId, key: &Secret) -> Reaction {
        let identity = match self.connections.get(&connection) {
            Some(known) if known.identity == Identity::Nobody => self.identify(now, key),
            // No identity switch.
            _ => return Reaction::Answer(Response::Authenticated),
        };
        if self.settings.faults.storage_failing && identity != Some(Identity::Bootstrap) {
            // Stored keys cannot be looked up, and real servers do not say so.
            return Reaction::Close;
        }
        let (Some(identity), Some(known)) = (identity, self.connections.get_mut(&connection)) else {
            return Reaction::Dismiss(Refusal::InvalidApiKey);
        };
        known.identity = identity;
        Reaction::Answer(Response::Authenticated)
    }

    /// The next thing to send or do.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// This many [`Output::Push`] of the connection were written to its socket: there is room for more.
    pub fn pushes_written(&mut self, now: Instant, connection: ConnectionId, pushes: usize) {
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        known.written(pushes);
        let queue = known.session.as_ref().map(|session| QueueName::clone(&session.queue));
        self.push_from(now, connection);
        if let Some(queue) = queue {
            self.refill(now, &queue);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let election = self.cluster.as_ref().and_then(Cluster::next_election);
        let delayed = self.delayed.iter().filter_map(|(due, ..)| *due).min();
        [self.next_scheduling(), election, delayed].into_iter().flatten().min()
    }

    /// When the scheduler has something to do by itself.
    fn next_scheduling(&self) -> Option<Instant> {
        let after = |since: Instant| since.checked_add(self.settings.idle_timeout);
        let idle = after(self.last_command)?;
        let expiry = self.scheduler.next_expiry().map(|expiry| expiry.max(idle));
        let refill = match self.refill_waits {
            true => after(self.last_command.max(self.last_refill)),
            false => None,
        };
        [expiry, refill].into_iter().flatten().min()
    }

    /// Time has passed. Holds elections, executes what was delayed, and reclaims expired leases if the scheduler was idle for long enough; calls
    /// that come too early do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.hold_elections(now);
        self.handle_delayed(now);
        if self.next_scheduling().is_none_or(|due| now < due) {
            return;
        }
        let mut touched = self.scheduler.reclaim(now);
        if std::mem::take(&mut self.refill_waits) {
            self.last_refill = now;
            touched = self.scheduler.waiting();
        }
        for queue in touched {
            self.pump(now, &queue);
        }
    }

    /// Room appeared in the channel of one of the queue's consumers.
    fn refill(&mut self, now: Instant, queue: &QueueName) {
        if self.settings.faults.slow_refill {
            self.refill_waits = self.refill_waits || self.scheduler.has_pending(queue);
        } else {
            self.pump(now, queue);
        }
    }

    /// Hands out what the queue has to whoever has room.
    fn pump(&mut self, now: Instant, queue: &QueueName) {
        let mut given = Vec::new();
        while self.scheduler.has_pending(queue) {
            let Some(consumer) = self.next_consumer(now, queue) else {
                break;
            };
            let Some(delivery) = self.scheduler.lease(now, queue, consumer, self.settings.quantum) else {
                break;
            };
            if let Some(session) = self.session_mut(consumer) {
                session.channel.push_back(delivery);
            }
            if !given.contains(&consumer) {
                given.push(consumer);
            }
        }
        for consumer in given {
            self.push_from(now, consumer);
        }
        self.refill_waits |= self.settings.faults.slow_refill && self.scheduler.has_pending(queue);
    }

    fn next_consumer(&mut self, now: Instant, queue: &QueueName) -> Option<ConnectionId> {
        for attempt in 0..2 {
            let connections = &self.connections;
            let has_room = |consumer| {
                connections
                    .get(&consumer)
                    .filter(|connection| !connection.closing)
                    .and_then(|connection| connection.session.as_ref())
                    .is_some_and(Session::has_room)
            };
            let next = self.scheduler.next_consumer(queue, has_room);
            if next.is_some() || attempt > 0 || self.settings.faults.slow_refill {
                return next;
            }
            // All channels are full: make them flow.
            let consumers = self.scheduler.consumers(queue);
            for consumer in consumers {
                self.push_from(now, consumer);
            }
        }
        None
    }

    fn session_mut(&mut self, connection: ConnectionId) -> Option<&mut Session> {
        self.connections.get_mut(&connection)?.session.as_mut()
    }

    /// Moves deliveries from a consumer's channel towards the wire.
    fn push_from(&mut self, now: Instant, connection: ConnectionId) {
        let faults = &self.settings.faults;
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        let rules = PushRules {
            credit_loss: faults.credit_loss.unwrap_or(!matches!(
                known.dialect,
                Dialect::Preamble(fibp_proto::AdminRevision::Binary)
            )),
            oversized_push_kills: faults.oversized_push_kills,
            max_frame_size: self.settings.max_frame_size,
            deliveries_per_frame: faults.deliveries_per_frame,
        };
        while let Some(outgoing) = known.next_push(rules) {
            self.outputs.push_back(Output::Push {
                connection,
                consume_id: outgoing.consume_id,
                push: outgoing.push,
            });
        }
        let lost_and_full = known.lost
            && known
                .session
                .as_ref()
                .is_some_and(|session| session.channel.len() >= CHANNEL_SLOTS);
        if lost_and_full {
            self.forget(now, connection);
        }
    }

    /// Ends the consumer of a connection: unregisters it and sees to what it had queued.
    fn end_session(&mut self, connection: ConnectionId, touched: &mut Vec<QueueName>) {
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        let Some(session) = known.session.take() else {
            return;
        };
        self.scheduler.unregister(&session.queue, connection);
        if self.settings.faults.deliveries_after_cancel {
            known.retire(session);
        } else {
            let waiting: Vec<_> = session
                .waiting()
                .filter_map(|delivery| ids::parse(delivery.id.as_str()))
                .collect();
            self.scheduler.unlease(&session.queue, connection, Some(&waiting));
            touched.push(session.queue);
        }
    }
}

/// Whether real servers pass the operation to their scheduler, which it keeps from being idle.
fn reaches_scheduler(op: Op) -> bool {
    !matches!(
        op,
        Op::Heartbeat
            | Op::Authenticate
            | Op::Goodbye
            | Op::Flow
            | Op::ProbeAdmin
            | Op::CreateApiKey
            | Op::RevokeApiKey
            | Op::ListApiKeys
            | Op::SetAcl
            | Op::GetAcl
    )
}
