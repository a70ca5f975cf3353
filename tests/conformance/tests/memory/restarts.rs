//! The broker is killed and restarted in a loop while messages flow, and memory stays flat.
//!
//! `FILA_ENDURANCE_MESSAGES` says how many messages each adapter moves: 100,000 by default.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fibp_proto::config::ConsumerSettings;
use fibp_proto::{Error, ErrorKind, Message, Outcome};
use fila_conformance::adapter::Client;
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, Task, announce};
use fila_conformance::remote::RemoteBroker;

use crate::came_late;
use crate::heap::{self, Baseline, KIB};

const PRODUCERS: u64 = 16;
const CONSUMERS: usize = 3;
/// Acks that each consumer has under way: together the consumers keep up with the producers.
const ACKS: usize = 8;
/// How soon what was lost on its way to a consumer comes back.
const VISIBILITY: Duration = Duration::from_secs(1);
/// The bound of every call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// By how much a call may return late on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// The broker is restarted each time that so many messages went through.
const MESSAGES_PER_RESTART: u64 = 625;
/// The first half of the messages fills what is kept for reuse, and most of the ring of the last 1024 events, before
/// the heap is measured.
const WARM_UP: u64 = 2;

/// What may be left over when everything is settled: buffers whose size depends on what arrived last on each of the
/// four connections. A leak of 3 bytes a message, or of 2 KiB a restart, exceeds it.
const LEFT_OVER: usize = 128 * KIB;
/// What may be in use at once: a read buffer of 256 KiB on each of four connections, as much for writing requests of 16
/// producers, and up to 127 prefetched deliveries for each of three consumers.
const IN_USE: usize = 2048 * KIB;

/// The message was confirmed.
const CONFIRMED: u8 = 1;
/// The message was consumed.
const CONSUMED: u8 = 2;

fn messages() -> u64 {
    let wish = std::env::var("FILA_ENDURANCE_MESSAGES").ok();
    wish.and_then(|wish| wish.parse().ok()).unwrap_or(100_000)
}

/// What became of the messages and calls. Of fixed size, as it lives in the heap that is measured.
#[derive(Debug)]
struct Ledger {
    /// By the number of a message.
    outcomes: Box<[AtomicU8]>,
    confirmed: AtomicU64,
    unknown: AtomicU64,
    unsent: AtomicU64,
    acked: AtomicU64,
    late: AtomicU64,
    unacked: AtomicU64,
    slowest_ms: AtomicU64,
    stop: AtomicBool,
}

impl Ledger {
    fn new(messages: u64) -> Self {
        Self {
            outcomes: (0..messages).map(|_| AtomicU8::new(0)).collect(),
            confirmed: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            late: AtomicU64::new(0),
            unacked: AtomicU64::new(0),
            slowest_ms: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn note(&self, number: u64, outcome: u8) {
        let place = usize::try_from(number).expect("a number of ours");
        self.outcomes[place].fetch_or(outcome, Ordering::SeqCst);
    }

    fn count(&self, outcome: u8) -> usize {
        let matches = |known: &&AtomicU8| known.load(Ordering::SeqCst) & outcome == outcome;
        self.outcomes.iter().filter(matches).count()
    }

    fn note_ack(&self, start: Instant, acked: Result<(), Error>) {
        self.check(start);
        let count = match acked {
            Ok(()) => &self.acked,
            Err(error) if came_late(&error) => &self.late,
            Err(error) => {
                let lost = matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Timeout);
                assert!(lost, "{error}");
                &self.unacked
            }
        };
        count.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls that have an outcome.
    fn through(&self) -> u64 {
        self.confirmed.load(Ordering::SeqCst) + self.unknown.load(Ordering::SeqCst)
    }

    /// No call outlives its deadline.
    fn check(&self, start: Instant) {
        let elapsed = start.elapsed();
        assert!(elapsed < TIMEOUT + SLACK, "a call took {elapsed:?}");
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.slowest_ms.fetch_max(ms, Ordering::Relaxed);
    }
}

/// Sends messages with these numbers.
async fn produce(client: Arc<dyn Client>, queue: String, numbers: std::ops::Range<u64>, ledger: Arc<Ledger>) {
    for number in numbers {
        loop {
            let start = Instant::now();
            let sent = client
                .enqueue(Message::new(queue.as_str(), number.to_be_bytes().to_vec()))
                .await;
            ledger.check(start);
            match sent {
                Ok(_) => {
                    ledger.note(number, CONFIRMED);
                    ledger.confirmed.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(error) if error.outcome() == Outcome::Unknown => {
                    // Stored or not: not ours to say, and not to be sent again.
                    ledger.unknown.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(error) => {
                    assert!(error.error.is_retryable(), "{error}");
                    ledger.unsent.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}

/// Takes and acks deliveries until told to stop.
async fn consume(client: Arc<dyn Client>, queue: String, ledger: Arc<Ledger>) {
    let settings = ConsumerSettings::default().visibility_timeout(VISIBILITY).prefetch(64);
    let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
    let mut acks = VecDeque::with_capacity(ACKS);
    while !ledger.stop.load(Ordering::SeqCst) {
        // Looks up now and then: the last delivery may be another consumer's.
        let taken = consumer.next_within(Duration::from_millis(50)).await;
        if taken.is_none() || acks.len() == ACKS {
            for (start, ack) in acks.drain(..) {
                ledger.note_ack(start, ack.await);
            }
        }
        let Some(taken) = taken else { continue };
        let delivery = taken.expect("consumers go on").expect("restarts are no errors");
        let payload = delivery.received().payload.as_ref();
        let number = payload.try_into().map(u64::from_be_bytes).expect("as it was sent");
        ledger.note(number, CONSUMED);
        acks.push_back((Instant::now(), delivery.ack_queued()));
    }
}

/// Restarts the broker, with and without resets, as messages go through.
fn restart_in_a_loop(broker: &RemoteBroker, ledger: &Ledger, produced: &AtomicBool) -> u64 {
    let mut next = ledger.through();
    let mut restarts = 0;
    loop {
        // On a machine that leaves this thread waiting, the last messages are only consumed across a restart.
        let last = produced.load(Ordering::SeqCst);
        if last || ledger.through() >= next {
            if restarts % 2 == 1 {
                broker.reset_connections();
            }
            broker.restart();
            restarts += 1;
            next += MESSAGES_PER_RESTART;
        }
        if last {
            return restarts;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Endurance<'a> {
    env: &'a Env,
    broker: Arc<RemoteBroker>,
    client: Arc<dyn Client>,
    queue: String,
    ledger: Arc<Ledger>,
}

impl Endurance<'_> {
    /// Moves the messages with these numbers, and waits until nothing is left of them. Returns how often the broker
    /// was restarted meanwhile.
    async fn run(&self, numbers: std::ops::Range<u64>) -> u64 {
        let produced = Arc::new(AtomicBool::new(false));
        let share = (numbers.end - numbers.start) / PRODUCERS;
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|n| {
                let from = numbers.start + n * share;
                let to = if n + 1 == PRODUCERS { numbers.end } else { from + share };
                let (client, queue) = (self.client.clone(), self.queue.clone());
                self.env.spawn(produce(client, queue, from..to, self.ledger.clone()))
            })
            .collect();
        let restarting = self.env.spawn_blocking({
            let (broker, ledger, produced) = (self.broker.clone(), self.ledger.clone(), produced.clone());
            move || restart_in_a_loop(&broker, &ledger, &produced)
        });
        for producer in producers {
            producer.join().await;
        }
        produced.store(true, Ordering::SeqCst);
        let restarts = restarting.join().await;
        self.env
            .eventually("everything confirmed is consumed", async || {
                self.ledger.count(CONFIRMED | CONSUMED) == self.ledger.count(CONFIRMED)
            })
            .await;
        self.env
            .eventually("everything is settled", async || {
                self.broker.queue(&self.queue).depth == 0
            })
            .await;
        restarts
    }

    fn consumers(&self) -> Vec<Task<()>> {
        let one = |_| {
            let (client, queue) = (self.client.clone(), self.queue.clone());
            self.env.spawn(consume(client, queue, self.ledger.clone()))
        };
        (0..CONSUMERS).map(one).collect()
    }
}

async fn endure(env: &Env) {
    let total = messages();
    let broker = Arc::new(heap::broker(env.dialect(), VISIBILITY, false));
    let config = heap::config(&broker).request_timeout(TIMEOUT).connect_timeout(PATIENCE);
    let client = env.connect(config).await.expect("a client");
    let queue = env.queue(&client).await;
    let ledger = Arc::new(Ledger::new(total));
    let endurance = Endurance {
        env,
        broker,
        client,
        queue,
        ledger,
    };
    let consumers = endurance.consumers();

    let warm_up = total / WARM_UP;
    let first = endurance.run(0..warm_up).await;
    let baseline = Baseline::at_rest(env).await;
    let restarts = first + endurance.run(warm_up..total).await;
    let growth = baseline.growth_at_rest(env).await;

    let Endurance { client, ledger, .. } = endurance;
    ledger.stop.store(true, Ordering::SeqCst);
    for consumer in consumers {
        consumer.join().await;
    }
    let load = |count: &AtomicU64| count.load(Ordering::SeqCst);
    announce(&format!(
        "{}: {restarts} restarts, {} confirmed, {} unknown, {} failed unsent and sent again, {} consumed, {} acked, \
         {} acked too late, {} not acked, slowest call {} ms, heap {} KiB after {warm_up} messages, grown since by {growth}",
        env.test(),
        load(&ledger.confirmed),
        load(&ledger.unknown),
        load(&ledger.unsent),
        ledger.count(CONSUMED),
        load(&ledger.acked),
        load(&ledger.late),
        load(&ledger.unacked),
        load(&ledger.slowest_ms),
        baseline.bytes() / KIB,
    ));
    assert!(restarts >= 2, "nothing was restarted");
    assert_eq!(ledger.through(), total, "every call has one outcome");
    assert_eq!(ledger.count(CONFIRMED) as u64, load(&ledger.confirmed));
    assert!(growth.live <= LEFT_OVER, "the heap grew by {growth}");
    assert!(growth.peak <= IN_USE, "the heap grew by {growth}");
    let report = client.close(PATIENCE).await;
    assert_eq!((report.failed, report.unknown), (0, 0), "nothing is left open");
}

cases! {
    Alone;

    /// Everything that was confirmed is consumed at least once, no call outlives its deadline, and the heap is as small
    /// after all messages as after half of them.
    async fn restarts_lose_nothing_that_was_confirmed(env: &Env) {
        endure(env).await;
    }
}
