//! The broker is killed and restarted in a loop while messages flow.
//!
//! `FILA_ENDURANCE_MESSAGES` says how many messages each adapter moves: by default 25,000, together 100,000.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fibp_proto::config::{Config, ConsumerSettings};
use fibp_proto::{ErrorKind, Message, Outcome};
use fila_conformance::adapter::Client;
use fila_conformance::broker::{Broker, start_with};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce};
use fila_conformance::memory;

const PRODUCERS: u64 = 16;
const CONSUMERS: usize = 3;
/// The bound of every call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// By how much a call may return late on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

fn messages() -> u64 {
    let wish = std::env::var("FILA_ENDURANCE_MESSAGES").ok();
    wish.and_then(|wish| wish.parse().ok()).unwrap_or(25_000)
}

#[derive(Debug, Default)]
struct Counts {
    confirmed: AtomicU64,
    unknown: AtomicU64,
    unsent: AtomicU64,
    acked: AtomicU64,
    unacked: AtomicU64,
    slowest_ms: AtomicU64,
    produced: AtomicBool,
}

impl Counts {
    /// No call outlives its deadline.
    fn check(&self, start: Instant) {
        let elapsed = start.elapsed();
        assert!(elapsed < TIMEOUT + SLACK, "a call took {elapsed:?}");
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.slowest_ms.fetch_max(ms, Ordering::Relaxed);
    }
}

/// Sends the numbers of one producer; returns those that were confirmed.
async fn produce(
    client: Arc<dyn Client>,
    queue: String,
    numbers: std::ops::Range<u64>,
    counts: Arc<Counts>,
) -> Vec<u64> {
    let mut confirmed = Vec::new();
    for number in numbers {
        loop {
            let start = Instant::now();
            let sent = client
                .enqueue(Message::new(queue.as_str(), number.to_be_bytes().to_vec()))
                .await;
            counts.check(start);
            match sent {
                Ok(_) => {
                    counts.confirmed.fetch_add(1, Ordering::SeqCst);
                    confirmed.push(number);
                    break;
                }
                Err(error) if error.outcome() == Outcome::Unknown => {
                    // Stored or not: not ours to say, and not to be sent again.
                    counts.unknown.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(error) => {
                    assert!(error.error.is_retryable(), "{error}");
                    counts.unsent.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
    confirmed
}

/// Takes and acks deliveries until told to stop.
async fn consume(
    client: Arc<dyn Client>,
    queue: String,
    seen: Arc<Mutex<BTreeSet<u64>>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let settings = ConsumerSettings::default()
        .visibility_timeout(Duration::from_secs(1))
        .prefetch(64);
    let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
    while !stop.load(Ordering::SeqCst) {
        // Looks up now and then: the last delivery may be another consumer's.
        let Some(taken) = consumer.next_within(Duration::from_millis(50)).await else {
            continue;
        };
        let delivery = taken.expect("consumers go on").expect("restarts are no errors");
        let number = delivery
            .received()
            .payload
            .as_ref()
            .try_into()
            .map(u64::from_be_bytes)
            .expect("as it was sent");
        seen.lock().expect("no panic").insert(number);
        let start = Instant::now();
        match delivery.ack().await {
            Ok(()) => counts.acked.fetch_add(1, Ordering::SeqCst),
            Err((error, _)) => {
                let kinds = [
                    ErrorKind::LeaseLost,
                    ErrorKind::MessageNotFound,
                    ErrorKind::Disconnected,
                    ErrorKind::Timeout,
                ];
                assert!(kinds.contains(&error.kind()), "{error}");
                counts.unacked.fetch_add(1, Ordering::SeqCst)
            }
        };
        counts.check(start);
    }
}

/// Kills and restarts the broker each time that another part of the messages went through.
fn restart_in_a_loop(broker: &Broker, total: u64, counts: &Counts) -> u64 {
    const RESTARTS: u64 = 40;
    let mut restarts = 0;
    while restarts < RESTARTS {
        // On a machine that leaves this thread waiting, the last messages are only consumed across a restart.
        let produced = counts.produced.load(Ordering::SeqCst);
        let through = counts.confirmed.load(Ordering::SeqCst) + counts.unknown.load(Ordering::SeqCst);
        if produced || through >= total * (restarts + 1) / (RESTARTS + 1) {
            broker.restart().expect("the same port");
            restarts += 1;
        }
        if produced {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    restarts
}

async fn endure(env: &Env) {
    let total = messages();
    let broker = Arc::new(start_with(env.dialect(), |builder| {
        builder.visibility_timeout(Duration::from_secs(1))
    }));
    let backoff = fila_conformance::env::quick_reconnect();
    let config = Config::new(broker.addr())
        .reconnect(backoff)
        .request_timeout(TIMEOUT)
        .connect_timeout(PATIENCE);
    let client = env.connect(config).await.expect("a client");
    let queue = env.queue(&client).await;
    let before = memory::resident().unwrap_or_default();

    let counts = Arc::new(Counts::default());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            env.spawn(consume(
                client.clone(),
                queue.clone(),
                seen.clone(),
                stop.clone(),
                counts.clone(),
            ))
        })
        .collect();
    let share = total / PRODUCERS;
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|n| {
            env.spawn(produce(
                client.clone(),
                queue.clone(),
                n * share..(n + 1) * share,
                counts.clone(),
            ))
        })
        .collect();
    let restarting = env.spawn_blocking({
        let (broker, counts) = (broker.clone(), counts.clone());
        move || restart_in_a_loop(&broker, total, &counts)
    });
    let mut confirmed = BTreeSet::new();
    for producer in producers {
        confirmed.extend(producer.join().await);
    }
    counts.produced.store(true, Ordering::SeqCst);
    let restarts = restarting.join().await;
    env.eventually("everything confirmed is consumed", async || {
        seen.lock().expect("no panic").is_superset(&confirmed)
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for consumer in consumers {
        consumer.join().await;
    }
    let load = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let after = memory::resident().unwrap_or_default();
    announce(&format!(
        "{}: {restarts} restarts, {} confirmed, {} unknown, {} failed unsent and sent again, {} consumed, {} acked, {} \
         not acked, slowest call {} ms, memory {} KiB before and {} KiB after",
        env.test(),
        confirmed.len(),
        load(&counts.unknown),
        load(&counts.unsent),
        seen.lock().expect("no panic").len(),
        load(&counts.acked),
        load(&counts.unacked),
        load(&counts.slowest_ms),
        before / 1024,
        after / 1024,
    ));
    assert!(restarts > 0, "nothing was restarted");
    assert_eq!(
        confirmed.len() as u64 + load(&counts.unknown),
        share * PRODUCERS,
        "every call has one outcome"
    );
    let report = client.close(PATIENCE).await;
    assert_eq!((report.failed, report.unknown), (0, 0), "nothing is left open");
}

cases! {
    Broker;

    /// Everything that was confirmed is consumed at least once, and no call outlives its deadline.
    async fn restarts_lose_nothing_that_was_confirmed(env: &Env) {
        endure(env).await;
    }
}
