//! The bytes of a session as the core alone produces them: no adapter, no socket, no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::config::{Config, ConsumerSettings};
use fibp_proto::consumer::{Consumer, Leases};
use fibp_proto::frame::{Decoder, Item, Limits, Transmit};
use fibp_proto::machine::{Action, ChannelId, Completion, Machine};
use fibp_proto::request::Op;
use fibp_proto::requests::{Requests, Settle};
use fibp_proto::{Dialect, Message, Push, QueueName, Request, Shared};

use crate::adapter::Client;
use crate::env::next;
use crate::script::{Conversation, PREAMBLE, delivery, healthy, message_id};

/// The queue of the session.
const QUEUE: &str = "orders";
/// The one channel of each of its machines.
const CHANNEL: ChannelId = ChannelId::MAIN;
/// How many deliveries the session's consumer is pushed.
const DELIVERIES: u32 = 3;

/// One call of the session. The next one is made when it has returned.
#[derive(Debug, Clone)]
enum Step {
    Enqueue(Message),
    EnqueueMany(Vec<Message>),
    Request(Request),
    Settle(Option<&'static str>),
    AckMany(u32),
}

fn steps() -> Vec<Step> {
    vec![
        Step::Request(Request::CreateQueue(QUEUE.into())),
        Step::Enqueue(Message::new(QUEUE, "hello").header("tenant", "acme")),
        Step::Enqueue(Message::new(QUEUE, vec![0xA5; 100_000])),
        Step::EnqueueMany(vec![
            Message::new(QUEUE, "a"),
            Message::new(QUEUE, "b").header("n", "2"),
        ]),
        Step::Settle(None),
        Step::Settle(Some("broken")),
        Step::AckMany(3),
        Step::Request(Request::QueueStats { queue: QUEUE.into() }),
        Step::Request(Request::SetConfig {
            key: "throttle.api".to_owned(),
            value: "10,20".to_owned(),
        }),
        Step::Request(Request::DeleteQueue { queue: QUEUE.into() }),
    ]
}

/// The operations that a transcript of the session's requests holds.
pub fn expected_operations() -> Vec<Op> {
    use Op::{Ack, CreateQueue, DeleteQueue, Enqueue, Nack, QueueStats, SetConfig};
    vec![
        CreateQueue,
        Enqueue,
        Enqueue,
        Enqueue,
        Ack,
        Nack,
        Ack,
        QueueStats,
        SetConfig,
        DeleteQueue,
        // The deliveries of the consumer, acked one by one.
        Ack,
        Ack,
        Ack,
    ]
}

/// Makes the session's calls through an adapter.
///
/// # Panics
///
/// A call fails.
pub async fn perform(client: &dyn Client) {
    for step in steps() {
        match step {
            Step::Enqueue(message) => drop(client.enqueue(message).await.expect("confirmed")),
            Step::EnqueueMany(messages) => {
                assert!(client.enqueue_many(messages).await.iter().all(Result::is_ok));
            }
            Step::Settle(None) => client.ack(QUEUE, &message_id(1)).await.expect("acked"),
            Step::Settle(Some(why)) => client.nack(QUEUE, &message_id(1), why).await.expect("nacked"),
            Step::AckMany(count) => {
                let items = (0..count).map(|n| (QUEUE.to_owned(), message_id(n))).collect();
                assert!(client.ack_many(items).await.iter().all(Result::is_ok));
            }
            Step::Request(Request::CreateQueue(spec)) => drop(client.create_queue(spec).await.expect("created")),
            Step::Request(Request::QueueStats { queue }) => drop(client.queue_stats(&queue).await.expect("stats")),
            Step::Request(Request::SetConfig { key, value }) => client.set_config(&key, &value).await.expect("set"),
            Step::Request(Request::DeleteQueue { queue }) => client.delete_queue(&queue).await.expect("deleted"),
            Step::Request(other) => unreachable!("the session has no {other:?}"),
        }
    }
    let mut consumer = client
        .consumer(QUEUE, ConsumerSettings::default())
        .await
        .expect("a consumer");
    for _ in 0..DELIVERIES {
        next(&mut consumer)
            .await
            .ack()
            .await
            .map_err(|(error, _)| error)
            .expect("acked");
    }
}

/// The server's part, for a scripted server. Connection 0 is for requests, 1 for the consumer.
pub fn play(number: usize, conversation: &mut Conversation) {
    if !conversation.open() {
        return;
    }
    if number > 0 {
        conversation.confirm_consume();
        conversation.push(deliveries());
    }
    conversation.serve(|request| healthy(request, 1));
}

fn deliveries() -> Vec<fibp_proto::Received> {
    (1..=DELIVERIES).map(|n| delivery(QUEUE, n, "payload")).collect()
}

/// The bytes that the core sends in this session, by connection.
///
/// # Panics
///
/// The core fails.
pub fn transcript(config: &Config, dialect: Dialect) -> Vec<Vec<u8>> {
    let now = Instant::now();
    let shared = Shared::new(config.clone()).expect("a valid configuration");
    let mut requests = Session::new(Requests::new(&shared, now, 1, Some(())), dialect, now);
    requests.complete();
    for step in steps() {
        let machine = &mut requests.machine;
        let ack = |n: u32, nack: Option<&str>| Settle {
            queue: QueueName::from(QUEUE),
            id: message_id(n),
            nack: nack.map(str::to_owned),
            lease_deadline: None,
        };
        match step {
            Step::Enqueue(message) => machine.enqueue(now, message, None, ()),
            Step::EnqueueMany(messages) => machine.enqueue_many(now, messages, None, ()),
            Step::Settle(nack) => machine.settle(now, ack(1, nack), None, ()),
            Step::AckMany(count) => machine.settle_many(now, (0..count).map(|n| ack(n, None)).collect(), None, ()),
            Step::Request(request) => machine.call(now, request, None, ()),
        };
        requests.complete();
    }
    let settings = ConsumerSettings::default();
    let machine = Consumer::new(&shared, QUEUE.into(), settings, now, 2, Some(()));
    let mut consumer = Session::new(machine, dialect, now);
    consumer.complete();
    for n in 1..=DELIVERIES {
        let mut taken = Leases::new();
        consumer.machine.take_leases(now, 1, &mut taken);
        let lease = taken.next().expect("a delivery");
        assert_eq!(lease.received.id, message_id(n));
        let settle = Settle {
            queue: lease.received.queue,
            id: lease.received.id,
            nack: None,
            lease_deadline: lease.deadline,
        };
        requests.machine.settle(now, settle, None, ());
        requests.complete();
    }
    // An adapter's consumer is dropped, then its client is closed.
    consumer.machine.abort(now);
    consumer.turn();
    requests.machine.close(now, Duration::from_secs(1), ());
    requests.complete();
    vec![requests.sent, consumer.sent]
}

/// A machine and the server it talks to, in memory, at one instant.
struct Session<M> {
    machine: M,
    now: Instant,
    dialect: Dialect,
    decoder: Decoder,
    opened: bool,
    sent: Vec<u8>,
    answers: VecDeque<u8>,
    completions: Vec<Completion<()>>,
}

impl<M: Machine<Token = ()>> Session<M> {
    fn new(machine: M, dialect: Dialect, now: Instant) -> Self {
        Self {
            machine,
            now,
            dialect,
            decoder: Decoder::new(dialect.layout(), Limits::default()),
            opened: false,
            sent: Vec::new(),
            answers: VecDeque::new(),
            completions: Vec::new(),
        }
    }

    /// Takes turns until the one call that is open completes.
    fn complete(&mut self) {
        for _ in 0..1000 {
            self.turn();
            if self.completions.pop().is_some() {
                assert!(self.completions.is_empty(), "one call at a time");
                return;
            }
        }
        panic!("the call does not complete");
    }

    fn turn(&mut self) {
        while let Some(action) = self.machine.poll_action(CHANNEL) {
            match action {
                Action::Dial { id, .. } => self.machine.handle_dialed(self.now, CHANNEL, id, Ok(None)),
                Action::HalfClose => self.machine.handle_eof(self.now, CHANNEL),
                _ => {}
            }
        }
        let mut transmit = Transmit::new();
        while self.machine.take_transmit(self.now, CHANNEL, 64 * 1024, &mut transmit) {
            while !transmit.is_empty() {
                let chunk = transmit.chunk().to_vec();
                self.receive(&chunk);
                self.machine.transmitted(self.now, CHANNEL, &mut transmit, chunk.len());
            }
        }
        if !self.answers.is_empty()
            && let Some(mut buffer) = self.machine.take_read_buffer(CHANNEL)
        {
            let n = buffer.copy_from(self.answers.make_contiguous());
            self.answers.drain(..n);
            self.machine.handle_input(self.now, CHANNEL, buffer);
        }
        self.machine.drain_completions(&mut self.completions);
    }

    /// What [`play`] does, without a socket.
    fn receive(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        self.decoder.feed(bytes);
        let framed = matches!(self.dialect, Dialect::Handshake | Dialect::HandshakeEarly);
        if !self.opened && !framed && self.decoder.pending().len() >= PREAMBLE.len() {
            self.decoder.consume(PREAMBLE.len());
            self.opened = true;
            self.answers.extend(PREAMBLE);
        }
        if !self.opened && !framed {
            return;
        }
        while let Some(Item::Frame(frame)) = self.decoder.next_item().expect("the core sends frames") {
            if !self.opened {
                self.opened = true;
                self.answers.extend(crate::script::handshake_ok());
                continue;
            }
            let request = Request::decode(self.dialect, &frame).expect("a well-formed request");
            let id = frame.header.id;
            if let Some(response) = healthy(&request, 1) {
                let answer = response.encode(self.dialect, id, request.op()).expect("encodable");
                self.answers.extend(answer);
            }
            if let Request::Consume { .. } = request {
                let deliveries = deliveries();
                let push = Push { deliveries }.encode(self.dialect, id, Limits::default());
                self.answers.extend(push.expect("encodable"));
            }
        }
    }
}
