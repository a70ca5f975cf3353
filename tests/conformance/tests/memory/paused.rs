//! A consumer that nobody asks: what it holds in memory, what the server leases ahead for it, and that it loses
//! nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fibp_proto::config::ConsumerSettings;
use fibp_proto::{Dialect, Message};
use fila_conformance::adapter::{Client, Consumer};
use fila_conformance::broker::{FRAMED, P3};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce, config};
use fila_conformance::remote::RemoteBroker;

use crate::came_late;
use crate::heap::{self, Baseline, KIB};

/// The visibility timeout of the queue.
const VISIBILITY: Duration = Duration::from_secs(30);
/// How long the consumer sleeps by the broker's clock.
const MINUTE: Duration = Duration::from_secs(60);
/// The client's minute is shorter: its heartbeats are faster by as much, and a connection is given up after 0.8 s in
/// which the peer says nothing.
const BEAT: Duration = Duration::from_millis(20);
const MISSED: u32 = 40;
/// How many heartbeats the client sleeps.
const BEATS: u64 = 60;
/// Bytes of a heartbeat's frame.
const BEAT_SIZE: u64 = 10;
/// The silence after which the consumer would subscribe anew, if it had room for deliveries.
const IDLE: Duration = Duration::from_millis(500);
/// Most messages of one pushed frame, and of what a server has leased for a frame in the making (docs/protocol/preamble.md 1.7).
const BATCH: usize = 64;
/// Messages in a server's channel to a consumer.
const CHANNEL: usize = 64;
/// Encoded frames that wait in a preamble server for the socket.
const FRAMES: usize = 64;
/// Deliveries that wait in a framed server for the socket (docs/protocol/framed.md 3).
const DELIVERIES: usize = 256;
/// Acks under way while everything is taken.
const ACKS: usize = 64;

/// A read buffer of 256 KiB on each of two connections, the write buffer that acks go through (256 KiB is the most that
/// is kept), and calls under way.
const BUFFERS: usize = 1024 * KIB;
/// What may be left over of a consumer that is gone: buffers of the main connection, which its acks have used since.
const LEFT_OVER: usize = 160 * KIB;
/// The least that a message takes on the wire besides its payload.
const OVERHEAD: usize = 56;

/// What waits for a consumer.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Bytes of each message.
    payload: usize,
    messages: usize,
    /// How many a server leases ahead at most.
    bound: usize,
}

impl Load {
    /// Enough messages for some to be left in the queue.
    fn new(dialect: Dialect, settings: &ConsumerSettings, payload: usize, at_least: usize) -> Self {
        let bound = bound(dialect, settings, payload);
        let messages = at_least.max(bound + bound / 4);
        Self {
            payload,
            messages,
            bound,
        }
    }

    /// What one delivery holds at most: its payload, or, where that stays a slice of the read buffer, as much again of what
    /// the buffer held besides; its id, key and lease.
    fn held_by_one(self) -> usize {
        2 * self.payload + 512
    }

    /// Enqueues the messages, numbered.
    async fn send(self, client: &Arc<dyn Client>, queue: &str) {
        // About a mebibyte at once.
        let chunk = 1024 * KIB / self.payload;
        let numbers: Vec<usize> = (0..self.messages).collect();
        for numbers in numbers.chunks(chunk) {
            let message = |number: &usize| {
                let mut payload = vec![7; self.payload];
                payload[..8].copy_from_slice(&(*number as u64).to_be_bytes());
                Message::new(queue, payload)
            };
            for sent in client.enqueue_many(numbers.iter().map(message).collect()).await {
                sent.expect("confirmed");
            }
        }
    }
}

/// A consumer, and what it reads from.
struct Scene<'a> {
    env: &'a Env,
    broker: RemoteBroker,
    client: Arc<dyn Client>,
    queue: String,
}

impl Scene<'_> {
    /// Waits until the server leases nothing more, and says how much it has leased.
    async fn leased_at_rest(&self) -> usize {
        const LOOKS: u32 = 30;
        let (mut leased, mut same) = (0, 0);
        self.env
            .eventually("nothing more is leased", async || {
                let now = self.broker.queue(&self.queue).leased;
                same = if now == leased { same + 1 } else { 0 };
                leased = now;
                same >= LOOKS
            })
            .await;
        usize::try_from(leased).expect("not that many")
    }

    /// A minute goes by: by the broker's clock at once, by the client's in heartbeats of its main connection.
    async fn sleep(&self) {
        let before = self.client.stats().bytes_sent;
        self.env
            .eventually("the client lives on", async || {
                self.client.stats().bytes_sent >= before + BEATS * BEAT_SIZE
            })
            .await;
        self.broker.advance(MINUTE);
    }

    /// Takes and acks everything. Returns how many deliveries that took.
    async fn drain(&self, consumer: &mut Box<dyn Consumer>, messages: usize) -> usize {
        let mut seen = vec![false; messages];
        let mut acks = VecDeque::with_capacity(ACKS);
        let mut taken = 0;
        loop {
            let delivery = consumer.next_within(Duration::from_millis(200)).await;
            if delivery.is_none() || acks.len() == ACKS {
                for ack in acks.drain(..) {
                    if let Err(error) = ack.await {
                        assert!(came_late(&error), "{error}");
                    }
                }
            }
            let Some(delivery) = delivery else {
                if self.broker.queue(&self.queue).depth == 0 {
                    break;
                }
                // All that is left was leased again while its first delivery waited in the consumer.
                self.broker.advance(VISIBILITY);
                continue;
            };
            let delivery = delivery.expect("not ended").expect("a delivery");
            let number = delivery.received().payload[..8].try_into().map(u64::from_be_bytes);
            let number = number.ok().and_then(|number| usize::try_from(number).ok());
            *number.and_then(|number| seen.get_mut(number)).expect("as it was sent") = true;
            taken += 1;
            acks.push_back(delivery.ack_queued());
        }
        assert!(seen.iter().all(|seen| *seen), "acked without having been delivered");
        taken
    }
}

/// What a consumer that does not read may have leased at most.
fn bound(dialect: Dialect, settings: &ConsumerSettings, payload: usize) -> usize {
    let in_server = match dialect {
        // The window is kept exactly: credit is for what is taken.
        P3 => return settings.prefetch + CHANNEL + BATCH,
        FRAMED => CHANNEL + DELIVERIES,
        _ => CHANNEL + BATCH + FRAMES * BATCH,
    };
    // Linux doubles what is asked for, and overshoots.
    let in_sockets = 2 * settings.receive_buffer.map_or(0, |bytes| bytes as usize) + largest_send_buffer() + 1024 * KIB;
    settings.prefetch + BATCH + in_server + in_sockets / (payload + OVERHEAD)
}

/// The most that the system gives to a socket that does not ask, in bytes.
fn largest_send_buffer() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
    let largest = limits.split_whitespace().nth(2).and_then(|bytes| bytes.parse().ok());
    largest.unwrap_or(4096 * KIB)
}

async fn sleep_and_wake(env: &Env, payload: usize, at_least: usize) {
    let settings = ConsumerSettings::default().idle_resubscribe(IDLE);
    let load = Load::new(env.dialect(), &settings, payload, at_least);
    let broker = heap::broker(env.dialect(), VISIBILITY, true);
    let producer = env.connect(config(broker.addr())).await.expect("a client");
    let queue = env.queue(&producer).await;
    load.send(&producer, &queue).await;
    producer.close(PATIENCE).await;
    drop(producer);
    // Named, so that the revision that has windows is known from the start.
    let beating = config(broker.addr()).heartbeat(BEAT, MISSED).dialect(env.dialect());
    let client = env.connect(beating).await.expect("a client");
    let scene = Scene {
        env,
        broker,
        client,
        queue,
    };
    let baseline = Baseline::at_rest(env).await;
    let mut consumer = scene.client.consumer(&scene.queue, settings).await.expect("a consumer");
    env.eventually("the consumer is full", async || {
        scene.client.stats().deliveries >= settings.prefetch as u64
    })
    .await;
    let leased = scene.leased_at_rest().await;
    let full = scene.client.stats();
    scene.sleep().await;
    let slept = scene.client.stats();
    let asleep = baseline.growth();
    let taken = scene.drain(&mut consumer, load.messages).await;
    let awake = baseline.growth();
    drop(consumer);
    let after = baseline.growth_at_rest(env).await;

    announce(&format!(
        "{}: {} messages of {} bytes: {} read ahead, {leased} leased ahead (bound {}); heap grown asleep by {asleep}, \
         awake by at most {} KiB in {taken} deliveries, afterwards by {} KiB",
        env.test(),
        load.messages,
        load.payload,
        full.deliveries,
        load.bound,
        awake.peak / KIB,
        after.live / KIB,
    ));
    let read_ahead = usize::try_from(full.deliveries).expect("not that many");
    assert!(
        read_ahead < settings.prefetch + BATCH,
        "{read_ahead} deliveries read ahead"
    );
    assert!(leased <= load.bound, "{leased} messages leased ahead");
    assert_eq!(slept.deliveries, full.deliveries, "nothing is read asleep");
    assert_eq!(
        (slept.connections, slept.disconnects),
        (full.connections, full.disconnects),
        "a consumer that sleeps is not dead"
    );
    let in_use = (settings.prefetch + BATCH) * load.held_by_one() + BUFFERS;
    assert!(asleep.peak <= in_use, "the heap grew by {asleep}");
    assert!(awake.peak <= in_use + load.messages, "the heap grew by {awake}");
    assert!(after.live <= LEFT_OVER, "the heap grew by {after}");
}

cases! {
    Alone, [p1 P1, p3 P3, framed FRAMED];

    /// 64 MiB or more wait for a consumer that is not asked for a minute.
    async fn a_consumer_that_sleeps_stays_small_and_loses_nothing(env: &Env) {
        sleep_and_wake(env, 16 * KIB, 4096).await;
    }

    /// The sockets hold many small messages.
    async fn small_messages_are_leased_ahead_by_the_thousand(env: &Env) {
        sleep_and_wake(env, 128, 10_000).await;
    }
}
