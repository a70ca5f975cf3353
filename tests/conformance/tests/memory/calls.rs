//! A hundred thousand calls leave nothing behind in memory, those included that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, ProducerSettings};
use fibp_proto::{ErrorKind, Message};
use fila_conformance::adapter::Client;
use fila_conformance::cases;
use fila_conformance::env::{Env, announce};
use fila_conformance::poll::{Polled, poll_times};

use crate::came_late;
use crate::heap::{self, Baseline, KIB};

const CALLS: u64 = 100_000;
/// Fills what is kept for reuse, before the heap is measured.
const WARM_UP: u64 = 10_000;
/// Of each ten calls, one has no others beside it.
const SEQUENTIAL: u64 = 10;
const CALLERS: u64 = 16;
const CONSUMERS: usize = 3;
/// What may be left over: buffers whose size depends on what arrived last. A leak of one byte a call exceeds it.
const LEFT_OVER: usize = 96 * KIB;

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    timed_out: AtomicU64,
    abandoned: AtomicU64,
    acked: AtomicU64,
    stop: AtomicBool,
}

impl Counts {
    fn add(&self, count: &AtomicU64) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whoever calls, and what they call on.
#[derive(Clone)]
struct Caller {
    client: Arc<dyn Client>,
    queue: String,
    /// Whether a call can be dropped before it is answered.
    can_drop: bool,
    counts: Arc<Counts>,
}

impl Caller {
    fn message(&self) -> Message {
        Message::new(self.queue.as_str(), "sixteen bytes of")
    }

    async fn call(&self, calls: u64) {
        let producer = self.client.producer(ProducerSettings::default()).expect("a producer");
        let hasty = self.client.with_timeout(Duration::from_micros(20));
        let counts = &*self.counts;
        for call in 0..calls {
            match call % 8 {
                0 if self.can_drop => {
                    let polls = 1 + usize::try_from(call / 8 % 3).unwrap_or_default();
                    match poll_times(self.client.enqueue(self.message()), polls).await {
                        Polled::Ready(sent) => {
                            sent.expect("confirmed");
                            counts.add(&counts.answered);
                        }
                        Polled::Dropped => counts.add(&counts.abandoned),
                    }
                }
                0 | 1 => match hasty.enqueue(self.message()).await {
                    Ok(_) => counts.add(&counts.answered),
                    Err(error) => {
                        assert_eq!(error.error.kind(), ErrorKind::Timeout, "{error}");
                        counts.add(&counts.timed_out);
                    }
                },
                2 => {
                    drop(producer.send(self.message()).await.expect("room"));
                    counts.add(&counts.abandoned);
                }
                3 => {
                    self.client.queue_stats(&self.queue).await.expect("stats");
                    counts.add(&counts.answered);
                }
                _ => {
                    self.client.enqueue(self.message()).await.expect("confirmed");
                    counts.add(&counts.answered);
                }
            }
        }
        producer.flush().await.expect("confirmed");
    }

    /// Takes and acks, waiting for the answer or not.
    async fn consume(self) {
        let settings = ConsumerSettings::default().prefetch(64);
        let mut consumer = self.client.consumer(&self.queue, settings).await.expect("a consumer");
        let counts = &*self.counts;
        let mut taken = 0usize;
        while !counts.stop.load(Ordering::SeqCst) {
            let Some(delivery) = consumer.next_within(Duration::from_millis(50)).await else {
                continue;
            };
            let delivery = delivery.expect("not ended").expect("a delivery");
            taken += 1;
            match taken % 4 {
                0 => {
                    let acked = delivery.ack().await.map_err(|(error, _)| error);
                    if let Err(error) = acked {
                        assert!(came_late(&error), "{error}");
                    }
                }
                // What comes back because of that is acked for good.
                1 if self.can_drop && delivery.received().attempt_count == 0 => {
                    drop(poll_times(delivery.ack(), 1 + taken / 4 % 3).await);
                }
                _ => drop(delivery.ack_queued()),
            }
            counts.add(&counts.acked);
        }
    }
}

/// Makes the calls, and waits until all that they sent is consumed.
async fn run(env: &Env, caller: &Caller, calls: u64, is_empty: impl Fn() -> bool) {
    let sequential = calls / SEQUENTIAL;
    caller.call(sequential).await;
    let share = (calls - sequential) / CALLERS;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let caller = caller.clone();
            env.spawn(async move { caller.call(share).await })
        })
        .collect();
    for caller in callers {
        caller.join().await;
    }
    env.eventually("everything is consumed", async || is_empty()).await;
}

cases! {
    Alone;

    /// The heap is as small after 100,000 calls as before: answered ones, timed out ones, and ones whose future or
    /// receipt was dropped; and as many deliveries and acks.
    async fn calls_leave_nothing_behind(env: &Env) {
        // What was leased when an ack was dropped comes back soon.
        let broker = heap::broker(env.dialect(), Duration::from_secs(2), false);
        let client = env.connect(heap::config(&broker)).await.expect("a client");
        let queue = env.queue(&client).await;
        let counts = Arc::new(Counts::default());
        let can_drop = env.adapter().is_async();
        let caller = Caller { client, queue, can_drop, counts };
        let consumers: Vec<_> = (0..CONSUMERS).map(|_| env.spawn(caller.clone().consume())).collect();
        let is_empty = || broker.queue(&caller.queue).depth == 0;

        run(env, &caller, WARM_UP, is_empty).await;
        let baseline = Baseline::at_rest(env).await;
        run(env, &caller, CALLS, is_empty).await;
        let growth = baseline.growth_at_rest(env).await;

        let counts = &caller.counts;
        counts.stop.store(true, Ordering::SeqCst);
        for consumer in consumers {
            consumer.join().await;
        }
        let load = |count: &AtomicU64| count.load(Ordering::SeqCst);
        announce(&format!(
            "{}: {} calls answered, {} timed out, {} abandoned, {} deliveries acked, heap {} KiB after {WARM_UP} calls, \
             grown after {CALLS} more by {growth}",
            env.test(),
            load(&counts.answered),
            load(&counts.timed_out),
            load(&counts.abandoned),
            load(&counts.acked),
            baseline.bytes() / KIB,
        ));
        assert!(load(&counts.abandoned) > 0, "every call was waited for");
        assert!(growth.live <= LEFT_OVER, "the heap grew by {growth}");
    }
}
