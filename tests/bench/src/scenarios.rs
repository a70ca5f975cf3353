//! What clients do all day, on the core alone: the same work for the exact counts (`tests/counts.rs`) and for
//! `fila-instructions`.

use std::collections::VecDeque;

use fibp_proto::config::Batching;
use fibp_proto::{Dialect, Message, QueueName};

use crate::machine::{CallId, Machine, Probe, Stage, Unwatched};
use crate::target::{P1, message};

/// One kind of work.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As the tables spell it.
    pub name: &'static str,
    /// How many messages one round handles: counts are printed per message.
    pub messages: u64,
    open: fn() -> Round,
}

/// Handles a round of messages each time it is called.
pub type Round = Box<dyn FnMut(&mut dyn Probe)>;

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Scenario {
    /// Opens the connections.
    #[must_use]
    pub fn open(&self) -> Round {
        (self.open)()
    }

    /// The scenario of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().chain(&SCALING).find(|scenario| scenario.name == name)
    }
}

const fn scenario(name: &'static str, messages: u64, open: fn() -> Round) -> Scenario {
    Scenario { name, messages, open }
}

/// The work whose costs are recorded, stage by stage.
pub const SCENARIOS: [Scenario; 15] = [
    scenario("one", 1, || singles(P1, 1, 0)),
    scenario("one_with_8_headers", 1, || singles(P1, 1, 8)),
    scenario("fanin_64", 64, || singles(P1, 64, 0)),
    scenario("fanin_1000", 1000, || singles(P1, 1000, 0)),
    scenario("producer_64", 64, producer),
    scenario("many_100", 100, || lists(P1, 100, 1)),
    scenario("many_1000_of_10_queues", 1000, || lists(P1, 1000, 10)),
    scenario("consume_64", 64, || consume(P1, Settling::None)),
    scenario("consume_64_ack_each", 64, || consume(P1, Settling::Each)),
    scenario("consume_64_ack_many", 64, || consume(P1, Settling::Many)),
    scenario("framed_one", 1, || singles(Dialect::Handshake, 1, 0)),
    scenario("framed_fanin_64", 64, || singles(Dialect::Handshake, 64, 0)),
    scenario("framed_many_100", 100, || lists(Dialect::Handshake, 100, 1)),
    scenario("framed_consume_64", 64, || consume(Dialect::Handshake, Settling::None)),
    scenario("framed_consume_64_ack_each", 64, || {
        consume(Dialect::Handshake, Settling::Each)
    }),
];

/// The same work twice, once with little and once with much around it: what must not grow.
pub const SCALING: [Scenario; 16] = [
    scenario("one_beside_1_producer", 1, || beside_producers(1)),
    scenario("one_beside_10000_producers", 1, || beside_producers(10_000)),
    scenario("timeout_beside_1_producer", 1, || timeout_beside_producers(1)),
    scenario("timeout_beside_10000_producers", 1, || timeout_beside_producers(10_000)),
    scenario("one_after_1_queue", 1, || after_queues(1)),
    scenario("one_after_10000_queues", 1, || after_queues(10_000)),
    scenario("timeout_after_1_queue", 1, || timeout_after_queues(1)),
    scenario("timeout_after_10000_queues", 1, || timeout_after_queues(10_000)),
    scenario("busy_10_queues", 10, || busy_queues(10)),
    scenario("busy_10000_queues", 10_000, || busy_queues(10_000)),
    scenario("one_of_1_in_flight", 1, || in_flight(1)),
    scenario("one_of_50000_in_flight", 1, || in_flight(50_000)),
    scenario("abandon_1_of_10_in_flight", 1, || abandon(10)),
    scenario("abandon_1_of_50000_in_flight", 1, || abandon(50_000)),
    scenario("headers_16", 16, || headers(16)),
    scenario("headers_128", 128, || headers(128)),
];

/// The pairs of [`SCALING`]: the cost of the first, times the bound, is what the second may cost.
pub const BOUND: f64 = 1.5;

fn queue() -> QueueName {
    "bench".into()
}

fn with_headers(message: Message, headers: usize) -> Message {
    (0..headers).fold(message, |message, n| {
        message.header(format!("header-{n}"), format!("value-{n}"))
    })
}

/// Single calls, all made before the driver takes its turn.
fn singles(dialect: Dialect, calls: usize, headers: usize) -> Round {
    let mut machine = Machine::requests(dialect, Batching::Auto);
    let template = with_headers(message(&queue()), headers);
    Box::new(move |probe| {
        machine.enqueue_each(probe, vec![template.clone(); calls]);
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), calls);
    })
}

/// A message whose headers are added one by one; counted per header.
fn headers(headers: usize) -> Round {
    let mut machine = Machine::requests(P1, Batching::Auto);
    let plain = message(&queue());
    Box::new(move |probe| {
        let mut built = Vec::new();
        probe.run(Stage::Build, &mut || {
            built.push(with_headers(plain.clone(), headers));
        });
        machine.enqueue_each(probe, built);
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), 1);
    })
}

/// Receipts of a producer.
fn producer() -> Round {
    let mut machine = Machine::requests(P1, Batching::Auto);
    let producer = machine.open_producer();
    let queue = queue();
    Box::new(move |probe| {
        machine.send_each(probe, producer, vec![message(&queue); 64]);
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), 64);
    })
}

/// One list at a time.
fn lists(dialect: Dialect, messages: usize, queues: usize) -> Round {
    let mut machine = Machine::requests(dialect, Batching::Auto);
    let queues: Vec<QueueName> = (0..queues).map(|n| format!("bench-{n}").into()).collect();
    Box::new(move |probe| {
        let list = queues.iter().cycle().take(messages).map(message).collect();
        machine.enqueue_many(probe, list);
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), 1);
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settling {
    None,
    Each,
    Many,
}

/// Pushes of 64, taken and settled.
fn consume(dialect: Dialect, settling: Settling) -> Round {
    let queue = queue();
    let mut consumer = Machine::consumer(dialect, &queue);
    let mut requests = Machine::requests(dialect, Batching::Auto);
    let push = consumer.push(&queue, 64);
    let mut deliveries = VecDeque::new();
    Box::new(move |probe| {
        consumer.receive(probe, &push);
        consumer.take(probe, &mut deliveries);
        assert_eq!(deliveries.len(), 64);
        // Credit, where the dialect has it.
        consumer.exchange(probe);
        let waiters = match settling {
            Settling::None => {
                probe.run(Stage::Drop, &mut || deliveries.clear());
                return;
            }
            Settling::Each => {
                requests.ack(probe, &mut deliveries);
                64
            }
            Settling::Many => {
                requests.ack_many(probe, &mut deliveries);
                1
            }
        };
        requests.exchange(probe);
        assert_eq!(requests.completed(probe), waiters);
    })
}

/// One call after another of a machine.
fn one_at_a_time(mut machine: Machine) -> Round {
    let queue = queue();
    Box::new(move |probe| {
        machine.enqueue(probe, message(&queue));
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), 1);
    })
}

fn timeouts(mut machine: Machine) -> Round {
    Box::new(move |probe| machine.idle(probe))
}

fn with_producers(producers: usize) -> Machine {
    let mut machine = Machine::requests(P1, Batching::Auto);
    for _ in 0..producers {
        machine.open_producer();
    }
    machine
}

fn beside_producers(producers: usize) -> Round {
    one_at_a_time(with_producers(producers))
}

fn timeout_beside_producers(producers: usize) -> Round {
    timeouts(with_producers(producers))
}

fn names(queues: usize) -> Vec<QueueName> {
    (0..queues).map(|n| format!("bench-{n}").into()).collect()
}

/// A machine that has had a call for each of so many queues.
fn with_used_queues(queues: usize) -> Machine {
    let mut machine = Machine::requests(P1, Batching::Auto);
    machine.enqueue_each(&mut Unwatched, names(queues).iter().map(message).collect());
    machine.exchange(&mut Unwatched);
    assert_eq!(machine.completed(&mut Unwatched), queues);
    machine
}

fn after_queues(queues: usize) -> Round {
    one_at_a_time(with_used_queues(queues))
}

fn timeout_after_queues(queues: usize) -> Round {
    timeouts(with_used_queues(queues))
}

/// A call for each queue at the same time.
fn busy_queues(queues: usize) -> Round {
    let mut machine = Machine::requests(P1, Batching::Auto);
    let names = names(queues);
    Box::new(move |probe| {
        machine.enqueue_each(probe, names.iter().map(message).collect());
        machine.exchange(probe);
        assert_eq!(machine.completed(probe), queues);
    })
}

/// A machine with calls that are never answered.
fn with_in_flight(calls: usize) -> (Machine, Vec<CallId>) {
    let mut machine = Machine::requests(P1, Batching::Disabled);
    let queue = queue();
    let ids = (0..calls)
        .map(|_| machine.enqueue(&mut Unwatched, message(&queue)))
        .collect();
    machine.transmit(&mut Unwatched);
    machine.lose_sent();
    (machine, ids)
}

fn in_flight(calls: usize) -> Round {
    one_at_a_time(with_in_flight(calls).0)
}

/// Gives one of many calls up and makes another instead.
fn abandon(calls: usize) -> Round {
    let (mut machine, ids) = with_in_flight(calls);
    // From the middle: neither the first nor the last is hard to find.
    let mut ids = VecDeque::from(ids);
    ids.rotate_left(calls / 2);
    let queue = queue();
    Box::new(move |probe| {
        let id = ids.pop_front().expect("calls are in flight");
        machine.abandon(probe, id);
        ids.push_back(machine.enqueue(&mut Unwatched, message(&queue)));
        machine.transmit(&mut Unwatched);
        machine.lose_sent();
    })
}
