//! Servers that do not read, or read slowly: no deadline waits for a write. What must not take long is awaited before
//! the server is released, so a case that fails hangs until its limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::config::ProducerSettings;
use fibp_proto::{ErrorKind, Message, Outcome};
use fila_conformance::adapter::Client;
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, Task};
use fila_conformance::proxy::{Flow, Plan, Proxy};

/// Longer than any case may take.
const NEVER: Duration = Duration::from_secs(3600);

/// More than sockets take for a server that does not read.
const MESSAGES: usize = 16;
const PAYLOAD: usize = 1 << 20;

/// How servers read that keep a client waiting.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Never,
    AByteASecond,
    Slowly,
}

/// What passes freely: opening, authentication, what creates a queue.
const FREE: usize = 64 * 1024;

impl Reading {
    const ALL: [Self; 3] = [Self::Never, Self::AByteASecond, Self::Slowly];

    fn plan(self) -> Plan {
        match self {
            Self::Never => Plan::Pass,
            Self::AByteASecond => Plan::Trickle {
                after: FREE,
                size: 1,
                every: Duration::from_secs(1),
            },
            Self::Slowly => Plan::Trickle {
                after: FREE,
                size: 16 * 1024,
                every: Duration::from_millis(20),
            },
        }
    }
}

/// A client whose writes stall, and the calls that are to blame.
async fn stalled(env: &Env, reading: Reading) -> (Proxy, Arc<dyn Client>, String, Task<Vec<ErrorKind>>) {
    let proxy = env.narrow_proxy(move |_| reading.plan());
    let config = env.through(&proxy).request_timeout(NEVER).no_heartbeat();
    let client = env.connect(config).await.expect("a client");
    let queue = env.queue(&client).await;
    if matches!(reading, Reading::Never) {
        proxy.hold_after(Flow::Up, FREE);
    }
    let sending = env.spawn(send(client.clone(), queue.clone()));
    env.eventually("the server reads what it likes", async || proxy.count(Flow::Up) >= FREE)
        .await;
    (proxy, client, queue, sending)
}

/// Sends more than fits; why what was not confirmed was not.
async fn send(client: Arc<dyn Client>, queue: String) -> Vec<ErrorKind> {
    let messages = (0..MESSAGES)
        .map(|n| Message::new(queue.as_str(), vec![n as u8; PAYLOAD]))
        .collect();
    let results = client.enqueue_many(messages).await;
    results
        .into_iter()
        .filter_map(|result| result.err().map(|error| error.kind()))
        .collect()
}

cases! {
    AnyServer;

    /// Calls end by their deadlines, one after another, whether they are written, being written, or wait.
    async fn calls_end_by_their_deadlines(env: &Env) {
        for reading in Reading::ALL {
            let (proxy, client, queue, sending) = stalled(env, reading).await;
            for limit in [50, 100, 150].map(Duration::from_millis) {
                let impatient = client.with_timeout(limit);
                let start = Instant::now();
                let error = impatient.queue_stats(&queue).await.expect_err("no answer");
                assert_eq!(error.kind(), ErrorKind::Timeout, "{reading:?}: {error}");
                let error = impatient.enqueue(Message::new(queue.as_str(), "x")).await.expect_err("no answer");
                assert_eq!(error.kind(), ErrorKind::Timeout, "{reading:?}: {error}");
                assert!(start.elapsed() < PATIENCE, "{reading:?}: {:?} for twice {limit:?}", start.elapsed());
            }
            assert_eq!(client.stats().disconnects, 0, "{reading:?}: nobody gave up");
            drop(proxy);
            client.close(Duration::ZERO).await;
            sending.join().await;
        }
    }

    /// Waiting for a receipt ends in time, too, and does not take the message back.
    async fn receipts_are_waited_for_in_time(env: &Env) {
        let (proxy, client, queue, sending) = stalled(env, Reading::Never).await;
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let receipt = producer.send(Message::new(queue.as_str(), "x")).await.expect("room");
        assert!(receipt.wait_timeout(Duration::from_millis(100)).await.is_none(), "no answer yet");
        let receipt = producer.send(Message::new(queue.as_str(), "y")).await.expect("room");
        proxy.release();
        receipt.wait().await.expect("confirmed");
        assert_eq!(sending.join().await, []);
        drop(producer);
        client.close(PATIENCE).await;
    }

    /// Close returns by its deadline, and says what it does not know.
    async fn close_returns_by_its_deadline(env: &Env) {
        for reading in Reading::ALL {
            let (proxy, client, _, sending) = stalled(env, reading).await;
            let start = Instant::now();
            let report = client.close(Duration::from_millis(200)).await;
            assert!(start.elapsed() < PATIENCE, "{reading:?}: {:?}", start.elapsed());
            let failed = sending.join().await;
            assert!(failed.iter().all(|kind| *kind == ErrorKind::Closed), "{reading:?}: {failed:?}");
            assert_eq!(report.failed + report.unknown, failed.len() as u64, "{reading:?}: {report:?}");
            assert!(!failed.is_empty(), "{reading:?}: it cannot have read everything");
            drop(proxy);
        }
    }

    /// A server that reads nothing is given up by its missing heartbeats.
    async fn heartbeats_give_up_a_server_that_never_reads(env: &Env) {
        let proxy = env.narrow_proxy(|_| Plan::Pass);
        let config = env.through(&proxy).request_timeout(NEVER).heartbeat(Duration::from_millis(200), 2);
        let queue = env.queue(&env.client().await).await;
        let client = env.connect(config).await.expect("a client");
        proxy.hold(Flow::Up);
        let sending = env.spawn(send(client.clone(), queue.clone()));
        env.eventually("the server is given up", async || client.stats().disconnects > 0).await;
        // On its next connection, which is not held. A busy machine may take that one for dead, too.
        env.eventually("another connection serves", async || {
            client.enqueue(Message::new(queue.as_str(), "x")).await.is_ok()
        }).await;
        assert!(sending.join().await.iter().all(|kind| *kind == ErrorKind::Disconnected));
        client.close(PATIENCE).await;
    }

    /// The bound of connecting holds though the server never reads what opens a connection.
    async fn connecting_ends_by_its_deadline(env: &Env) {
        let proxy = env.narrow_proxy(|_| Plan::Hold(Flow::Up));
        let config = env.through(&proxy).connect_timeout(Duration::from_millis(200));
        let error = env.connect(config).await.err().expect("nobody reads");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error}");
    }

    /// A server that reads one large frame slowly is not given up, though it answers no heartbeat for long.
    async fn a_server_that_reads_slowly_is_not_given_up(env: &Env) {
        const EVERY: Duration = Duration::from_millis(700);
        const MISSED: u32 = 2;
        // As much as a client's socket may hold back before it tells that it has room again.
        let slowly = Plan::Trickle { after: FREE, size: 3 << 19, every: EVERY / 2 };
        let queue = env.queue(&env.client().await).await;
        let start = Instant::now();
        loop {
            let proxy = env.narrow_proxy(move |_| slowly);
            let config = env.through(&proxy).request_timeout(NEVER).heartbeat(EVERY, MISSED);
            let client = env.connect(config).await.expect("a client");
            let sent = Instant::now();
            let confirmed = client.enqueue(Message::new(queue.as_str(), vec![7; 15 << 20])).await;
            let (rested, took, disconnects) = (proxy.longest_rest(), sent.elapsed(), client.stats().disconnects);
            client.close(Duration::ZERO).await;
            // A machine that is too busy for the proxy makes it a server that does not read for so long.
            if rested >= EVERY {
                assert!(start.elapsed() < PATIENCE, "the proxy never reads in time: it rested for {rested:?}");
                continue;
            }
            confirmed.expect("confirmed");
            assert_eq!(disconnects, 0, "it never rested for more than {rested:?}");
            assert!(took > EVERY * (MISSED + 1), "{took:?} are not slow");
            break;
        }
    }

    /// Dropping the last handle returns at once; what is under way is over when the proxy's connections are.
    async fn dropping_a_client_does_not_wait(env: &Env) {
        let (proxy, client, _, sending) = stalled(env, Reading::Never).await;
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        drop((producer, client));
        proxy.release();
        assert_eq!(sending.join().await, [], "the calls kept it alive");
        env.eventually("the connections are closed", async || proxy.open() == 0).await;
    }
}
