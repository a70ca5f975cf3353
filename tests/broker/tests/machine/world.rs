//! A broker machine, its clock, and clients that call it directly.

use std::time::{Duration, Instant};

use fibp_proto::admin::QueueSpec;
use fibp_proto::message::{Message, MessageId, Received};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::ItemResult;
use fibp_proto::server::RequestId;
use fibp_proto::{AdminRevision, Dialect, Request, Response, ServerError};
use fila_test_broker::{BrokerMachine, ConnectionId, Ending, Faults, Output, Settings, Snapshot};

pub(crate) const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
pub(crate) const P2: Dialect = Dialect::Preamble(AdminRevision::ProtobufRenumbered);
pub(crate) const P3: Dialect = Dialect::Preamble(AdminRevision::Binary);
pub(crate) const FRAMED: Dialect = Dialect::Handshake;

/// The wall clock at the start.
pub(crate) const WALL_MS: u64 = 1_774_000_000_000;

pub(crate) struct World {
    pub(crate) machine: BrokerMachine,
    pub(crate) now: Instant,
    next: u32,
    connections: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let now = Instant::now();
        let mut settings = Settings::new(now, WALL_MS);
        change(&mut settings);
        Self::start(now, BrokerMachine::new(settings))
    }

    /// A cluster of three nodes, with a queue "orders" that node 1 leads, and `more` that node 2 leads.
    pub(crate) fn cluster() -> Self {
        Self::cluster_with(Faults::default())
    }

    pub(crate) fn cluster_with(faults: Faults) -> Self {
        let mut world = Self::with(|settings| {
            settings.nodes = (1..=3).map(|node| format!("10.0.0.{node}:5555")).collect();
            settings.faults = faults;
        });
        world.machine.create_queue("orders");
        world.machine.create_queue("more");
        world
    }

    /// With an API key, and a queue "orders".
    pub(crate) fn guarded() -> Self {
        let mut world = Self::with(|settings| settings.api_key = Some("root".into()));
        world.machine.create_queue("orders");
        world
    }

    /// With a queue "orders".
    pub(crate) fn orders() -> Self {
        let mut world = Self::new();
        world.machine.create_queue("orders");
        world
    }

    pub(crate) fn faulty(faults: Faults) -> Self {
        let mut world = Self::orders();
        world.machine.set_faults(faults);
        world
    }

    pub(crate) fn restarted(&self, snapshot: Snapshot) -> Self {
        Self::start(
            self.now,
            BrokerMachine::from_snapshot(self.machine.settings().clone(), snapshot),
        )
    }

    fn start(now: Instant, machine: BrokerMachine) -> Self {
        Self {
            machine,
            now,
            next: 0,
            connections: 0,
        }
    }

    pub(crate) fn connect(&mut self, dialect: Dialect) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let opened = self.machine.connect(self.now, connection, dialect, None);
        assert_eq!(opened, Ok(()));
        connection
    }

    /// Connects to a node of a cluster.
    pub(crate) fn connect_to(&mut self, node: u64, dialect: Dialect) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let opened = self.machine.connect_to(self.now, node, connection, dialect, None);
        assert_eq!(opened, Ok(()));
        connection
    }

    /// Connects with an API key, in either dialect.
    pub(crate) fn login(&mut self, dialect: Dialect, key: &str) -> Result<ConnectionId, ServerError> {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.machine.connect(self.now, connection, dialect, Some(&key.into()))?;
        if dialect != FRAMED {
            match self.call(connection, Request::Authenticate(key.into())) {
                Response::Authenticated => {}
                Response::Error(error) => return Err(error),
                other => panic!("{other:?}"),
            }
        }
        Ok(connection)
    }

    pub(crate) fn send(&mut self, connection: ConnectionId, request: Request) -> RequestId {
        self.next += 1;
        let id = RequestId {
            id: self.next,
            op: request.op(),
        };
        self.machine.handle(self.now, connection, id, request);
        id
    }

    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    /// Sends a request and returns its answer; other outputs must not have come before.
    pub(crate) fn call(&mut self, connection: ConnectionId, request: Request) -> Response {
        let id = self.send(connection, request);
        match self.machine.poll_output() {
            Some(Output::Answer {
                connection: to,
                request,
                response,
            }) if to == connection && request == id => response,
            other => panic!("no answer but {other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, connection: ConnectionId, request: Request) -> ServerError {
        match self.call(connection, request) {
            Response::Error(error) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Enqueues messages with these payloads and returns their ids.
    pub(crate) fn enqueue(&mut self, connection: ConnectionId, queue: &str, payloads: &[&str]) -> Vec<MessageId> {
        let messages = payloads
            .iter()
            .map(|payload| Message::new(queue, payload.as_bytes().to_vec()))
            .collect();
        self.enqueue_results(connection, messages)
            .into_iter()
            .map(|result| result.expect("enqueued"))
            .collect()
    }

    pub(crate) fn enqueue_results(
        &mut self,
        connection: ConnectionId,
        messages: Vec<Message>,
    ) -> Vec<ItemResult<MessageId>> {
        match self.call(connection, Request::Enqueue(messages)) {
            Response::Enqueue(results) => results,
            other => panic!("{other:?}"),
        }
    }

    /// Enqueues `count` numbered messages.
    pub(crate) fn fill(&mut self, connection: ConnectionId, queue: &str, count: usize) {
        let messages = (0..count)
            .map(|number| Message::new(queue, number.to_string()))
            .collect();
        self.enqueue_results(connection, messages);
    }

    pub(crate) fn consume(&mut self, connection: ConnectionId, queue: &str, credit: u32) {
        let queue = queue.into();
        let answer = self.call(connection, Request::Consume { queue, credit });
        assert!(matches!(answer, Response::Consume { .. }), "{answer:?}");
    }

    pub(crate) fn flow(&mut self, connection: ConnectionId, credit: u32) {
        self.send(connection, Request::Flow { credit });
    }

    pub(crate) fn ack(&mut self, connection: ConnectionId, queue: &str, id: &MessageId) -> ItemResult<()> {
        let item = AckItem {
            queue: queue.into(),
            id: id.clone(),
        };
        match self.call(connection, Request::Ack(vec![item])) {
            Response::Ack(results) => results.into_iter().next().expect("one result"),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn nack(&mut self, connection: ConnectionId, queue: &str, id: &MessageId) -> ItemResult<()> {
        let item = NackItem {
            queue: queue.into(),
            id: id.clone(),
            error: "boom".to_owned(),
        };
        match self.call(connection, Request::Nack(vec![item])) {
            Response::Nack(results) => results.into_iter().next().expect("one result"),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn create(&mut self, connection: ConnectionId, spec: QueueSpec) -> Response {
        self.call(connection, Request::CreateQueue(spec))
    }

    /// The pushes that are out, without reporting them as written.
    pub(crate) fn unwritten_pushes(&mut self) -> Vec<(ConnectionId, u32, Vec<Received>)> {
        self.outputs()
            .into_iter()
            .map(|output| match output {
                Output::Push {
                    connection,
                    consume_id,
                    push,
                } => (connection, consume_id, push.deliveries),
                other => panic!("not a push: {other:?}"),
            })
            .collect()
    }

    /// All pushes, as to clients that read at once.
    pub(crate) fn pushes(&mut self) -> Vec<(ConnectionId, u32, Vec<Received>)> {
        let mut pushes = Vec::new();
        loop {
            let written = self.unwritten_pushes();
            if written.is_empty() {
                return pushes;
            }
            for (connection, ..) in &written {
                self.machine.pushes_written(self.now, *connection, 1);
            }
            pushes.extend(written);
        }
    }

    /// All deliveries, whoever gets them.
    pub(crate) fn deliveries(&mut self) -> Vec<Received> {
        self.pushes()
            .into_iter()
            .flat_map(|(.., deliveries)| deliveries)
            .collect()
    }

    /// The payloads of all deliveries, as text.
    pub(crate) fn payloads(&mut self) -> Vec<String> {
        self.deliveries()
            .iter()
            .map(|delivery| String::from_utf8_lossy(&delivery.payload).into_owned())
            .collect()
    }

    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        self.machine.disconnect(self.now, connection, Ending::Clean);
    }

    /// Lets time pass, timers included.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.machine.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Depth, messages in flight, consumers.
    pub(crate) fn figures(&self, queue: &str) -> (u64, u64, u32) {
        let figures = self.machine.queue(queue).expect("queue exists");
        (figures.depth, figures.in_flight, figures.consumers)
    }
}
