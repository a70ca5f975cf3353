//! Row 31: every setting has a test that fails when it is ignored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::config::{Backoff, Batching, Config, ConsumerSettings, OnFull, ProducerSettings, Reconnect, Replay};
use fibp_proto::event::Event;
use fibp_proto::{AdminRevision, Dialect, ErrorKind, Message, Outcome, Request, State};
use fila_conformance::adapter::Client;
use fila_conformance::broker::{FRAMED, P1};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce_skip, next};
use fila_conformance::proxy::{Flow, Plan, Proxy};
use fila_conformance::script::message_id;

/// Longer than anything a test waits for: a setting that is ignored in favour of it makes the test hang and fail.
const NEVER: Duration = Duration::from_secs(3600);

/// A client that hears nothing any more, another that does, and a queue.
async fn deaf(env: &Env, change: impl FnOnce(Config) -> Config) -> (Proxy, Arc<dyn Client>, Arc<dyn Client>, String) {
    let direct = env.client().await;
    let queue = env.queue(&direct).await;
    let proxy = env.proxy(|_| Plan::Pass);
    let client = env.connect(change(env.through(&proxy))).await.expect("a client");
    proxy.hold(Flow::Down);
    (proxy, client, direct, queue)
}

cases! {
    AnyServer;

    async fn row_31_request_timeout(env: &Env) {
        let (_proxy, client, _, queue) = deaf(env, |config| config.request_timeout(Duration::from_millis(50))).await;
        let error = client.enqueue(Message::new(queue.as_str(), "x")).await.expect_err("no answer");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        let error = client.list_queues().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }

    async fn row_31_with_timeout_overrides_request_timeout(env: &Env) {
        let (_proxy, client, ..) = deaf(env, |config| config.request_timeout(NEVER)).await;
        let error = client.with_timeout(Duration::from_millis(50)).list_queues().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        client.close(Duration::ZERO).await;
    }

    /// A server that accepts and says nothing: the connect timeout covers the handshake.
    async fn row_31_connect_timeout_covers_the_handshake(env: &Env) {
        let proxy = env.proxy(|_| Plan::Hold(Flow::Down));
        let config = env.through(&proxy).connect_timeout(Duration::from_millis(100));
        let error = env.connect(config).await.err().expect("no handshake");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error}");
    }

    /// A stalled server is noticed by its missing heartbeats alone.
    async fn row_31_heartbeat(env: &Env) {
        let heartbeat = |config: Config| config.request_timeout(NEVER).heartbeat(Duration::from_millis(100), 2);
        let (proxy, client, _, queue) = deaf(env, heartbeat).await;
        let before = env.frames_up(&proxy);
        let error = client.enqueue(Message::new(queue.as_str(), "x")).await.expect_err("the connection is given up");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{error}");
        if let Some(before) = before {
            assert!(env.frames_up(&proxy) >= Some(before + 2), "a heartbeat was sent");
        }
        env.eventually("a new connection serves", async || {
            client.enqueue(Message::new(queue.as_str(), "y")).await.is_ok()
        }).await;
        client.close(PATIENCE).await;
    }

    async fn row_31_max_in_flight_fails(env: &Env) {
        let limits = |config: Config| config.max_in_flight(2, 1 << 20).on_full(OnFull::Fail).no_heartbeat();
        let (proxy, client, _, queue) = deaf(env, limits).await;
        let (done, results) = std::sync::mpsc::channel();
        let calls: Vec<_> = (0..3).map(|_| {
            let (client, queue, done) = (client.clone(), queue.clone(), done.clone());
            env.spawn(async move {
                let result = client.queue_stats(&queue).await.map(drop);
                done.send(result).expect("the test waits");
            })
        }).collect();
        let mut refused = None;
        env.eventually("one is refused, while nothing is answered", async || {
            refused = results.try_recv().ok();
            refused.is_some()
        }).await;
        let error = refused.expect("a result").expect_err("two fit");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent), "{error}");
        proxy.release();
        for call in calls {
            call.join().await;
        }
        assert_eq!(results.try_iter().filter(Result::is_ok).count(), 2);
        client.close(PATIENCE).await;
    }

    /// What is queued or unanswered is bounded in bytes, too.
    async fn row_31_max_in_flight_bounds_bytes(env: &Env) {
        const CALLS: usize = 5;
        let limits = |config: Config| config.max_in_flight(4096, 2_500).on_full(OnFull::Fail).no_heartbeat();
        let (proxy, client, _, queue) = deaf(env, limits).await;
        let (done, results) = std::sync::mpsc::channel();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (client, queue, done) = (client.clone(), queue.clone(), done.clone());
                env.spawn(async move {
                    let sent = client.enqueue(Message::new(queue.as_str(), vec![0; 1_000])).await;
                    done.send(sent.map_err(|failed| failed.error)).expect("the test waits");
                })
            })
            .collect();
        let mut refused = Vec::new();
        env.eventually("all but two are refused, while nothing is answered", async || {
            refused.extend(results.try_iter());
            refused.len() == CALLS - 2
        })
        .await;
        for result in refused {
            let error = result.expect_err("two fit");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent), "{error}");
        }
        proxy.release();
        for call in calls {
            call.join().await;
        }
        assert_eq!(results.try_iter().filter(Result::is_ok).count(), 2);
        client.close(PATIENCE).await;
    }

    async fn row_31_max_in_flight_waits(env: &Env) {
        const LIMIT: usize = 2;
        let limits = |config: Config| config.max_in_flight(LIMIT, 1 << 20).no_heartbeat();
        let (proxy, client, _, queue) = deaf(env, limits).await;
        let before = env.frames_up(&proxy);
        let calls: Vec<_> = (0..3 * LIMIT).map(|_| {
            let (client, queue) = (client.clone(), queue.clone());
            env.spawn(async move { client.queue_stats(&queue).await.map(drop) })
        }).collect();
        env.until_sent(&proxy, before, LIMIT).await;
        // May overlook what comes later, never the reverse.
        env.sleep(Duration::from_millis(20)).await;
        assert_eq!(env.frames_up(&proxy), before.map(|before| before + LIMIT), "no more than {LIMIT} are sent");
        proxy.release();
        for call in calls {
            call.join().await.expect("it waited for room");
        }
        client.close(PATIENCE).await;
    }

    async fn row_31_producer_buffer_and_on_full(env: &Env) {
        let (_proxy, client, _, queue) = deaf(env, |config| config.request_timeout(NEVER)).await;
        let settings = ProducerSettings::default().max_bytes(1000).buffer(4000).on_full(OnFull::Fail);
        let producer = client.producer(settings).expect("a producer");
        let mut accepted = 0;
        let error = loop {
            match producer.send(Message::new(queue.as_str(), vec![0; 1000])).await {
                Ok(_receipt) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 10, "the buffer is not bounded");
        };
        assert!(accepted >= 1);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent), "{error}");
        assert_eq!(error.message.payload.len(), 1000, "the message comes back");

        let waiting = client.producer(ProducerSettings::default().max_bytes(1000).buffer(1500)).expect("a producer");
        drop(waiting.send(Message::new(queue.as_str(), vec![0; 1000])).await.expect("room for one"));
        let error = waiting.try_send(Message::new(queue.as_str(), vec![1; 1000])).err().expect("try_send never waits");
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        let (sender, message) = (Arc::new(waiting), Message::new(queue.as_str(), vec![2; 1000]));
        let blocked = env.spawn({
            let sender = sender.clone();
            async move { sender.send(message).await.map(drop).map_err(|error| error.kind()) }
        });
        client.close(Duration::from_millis(50)).await;
        let kind = blocked.join().await.expect_err("room never came");
        assert!(matches!(kind, ErrorKind::Closed | ErrorKind::Timeout), "{kind}");
    }

    async fn row_31_linger_gathers(env: &Env) {
        let client = env.connect(env.config().request_timeout(NEVER)).await.expect("a client");
        let queue = env.queue(&client).await;
        let linger = Batching::Linger { delay: NEVER, max_messages: 5 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..5u8 {
            receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
        }
        for receipt in receipts {
            receipt.wait().await.expect("the fifth ends the wait");
        }
        // Nodes of a cluster get one item per queue and frame (docs/protocol/clusters.md 3), or the first by itself.
        let frames = client.stats().enqueue_frames;
        let most = if env.is_in_cluster() { 5 } else { 1 };
        assert!(frames <= most, "{frames} frames for five messages");
    }

    async fn row_31_linger_ends(env: &Env) {
        if env.sends_one_each() {
            return announce_skip(env.test(), "a frame to a cluster holds one item, and lingers for no others");
        }
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let delay = Duration::from_millis(20);
        let linger = Batching::Linger { delay, max_messages: 1000 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        for n in 0..2u8 {
            let start = Instant::now();
            producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room").wait().await.expect("confirmed");
            assert!(start.elapsed() >= delay, "message {n} was held back");
        }
    }

    /// Lease deadlines follow from the visibility timeout that the consumer was given, and late acks are reported.
    async fn row_31_visibility_timeout_and_late_acks(env: &Env) {
        let timeout = Duration::from_secs(1);
        let client = env.client().await;
        let queue = env.queue_with(&client, |spec| spec.visibility_timeout(timeout)).await;
        let mut events = client.events();
        let before = Instant::now();
        for _ in 0..2 {
            client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        }
        let settings = ConsumerSettings::default().visibility_timeout(timeout);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        let in_time = next(&mut consumer).await;
        let late = next(&mut consumer).await;
        let late_id = late.received().id.clone();
        let deadline = late.lease_deadline().expect("a deadline");
        assert!(deadline >= before && deadline <= Instant::now() + timeout);
        in_time.ack().await.map_err(|(error, _)| error).expect("acked");
        env.sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(5)).await;
        drop(late.ack().await);
        loop {
            if let Event::LateSettle { id, .. } = events.next().await.expect("events go on") {
                break assert_eq!(id, late_id);
            }
        }
        assert_eq!(client.stats().late_settles, 1);
    }

    async fn row_31_reconnect_never(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy).reconnect(Reconnect::Never)).await.expect("a client");
        let accepted = proxy.accepted();
        proxy.cut();
        env.eventually("the loss is noticed", async || {
            matches!(client.state(), State::Closed | State::Failed)
        }).await;
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("closed for good");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
        assert_eq!(proxy.accepted(), accepted, "not dialed again");
    }

    async fn row_31_reconnect_attempts_are_bounded(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let backoff = Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(2), max_attempts: Some(3) };
        let config = env.through(&proxy).request_timeout(NEVER).reconnect(Reconnect::Backoff(backoff));
        let client = env.connect(config).await.expect("a client");
        proxy.refuse();
        proxy.cut();
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("given up");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
    }

    /// Whether a request of unknown outcome is sent again: one that was executed, and whose answer was lost.
    async fn row_31_replay(env: &Env) {
        if env.is_beyond_clusters("the statistics of clusters keep counting what was acked") {
            return;
        }
        for (replay, ack_survives, enqueue_survives) in [
            (Replay::Never, false, false),
            (Replay::SafeOps, true, false),
            (Replay::IncludingEnqueue, true, true),
        ] {
            let direct = env.client().await;
            let queue = env.queue(&direct).await;
            let depth = async || direct.queue_stats(&queue).await.expect("stats").depth;
            direct.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            let proxy = env.proxy(|_| Plan::Pass);
            let client = env.connect(env.through(&proxy).replay(replay)).await.expect("a client");
            let mut consumer = env.consumer(&client, &queue).await;
            let delivery = next(&mut consumer).await;
            proxy.hold(Flow::Down);
            let acking = env.spawn(async move { delivery.ack().await.map_err(|(error, _)| error) });
            env.eventually("it is acked", async || depth().await == 0).await;
            proxy.cut();
            let acked = acking.join().await;
            assert_eq!(acked.is_ok(), ack_survives, "{replay:?}: {acked:?}");
            drop(consumer);

            // The client is on its next connection, which is held, too.
            env.eventually("it is connected", async || client.ack(&queue, &message_id(1)).await.is_err_and(|error| {
                error.outcome() == Outcome::Rejected
            })).await;
            proxy.hold(Flow::Down);
            let sending = env.spawn({
                let (client, queue) = (client.clone(), queue.clone());
                async move { client.enqueue(Message::new(queue.as_str(), "y")).await }
            });
            env.eventually("it is stored", async || depth().await == 1).await;
            proxy.cut();
            let sent = sending.join().await;
            assert_eq!(sent.is_ok(), enqueue_survives, "{replay:?}: {sent:?}");
            if let Err(error) = sent {
                assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            }
            assert_eq!(depth().await, 1 + u64::from(enqueue_survives), "{replay:?}");
            client.close(PATIENCE).await;
            direct.close(PATIENCE).await;
        }
    }

    /// The dialect is spoken as configured: another one than the server's is an error.
    async fn row_31_dialect(env: &Env) {
        let client = env.connect(env.config().dialect(env.dialect())).await.expect("a client");
        env.queue(&client).await;
        client.close(PATIENCE).await;
        let other = if matches!(env.dialect(), Dialect::Preamble(_)) { FRAMED } else { P1 };
        let config = env.config().dialect(other).connect_timeout(Duration::from_secs(5));
        // Some servers speak both.
        assert!(env.connect(config).await.is_err() || env.is_external(), "{other} was not spoken");
    }
}

mod quiet {
    use super::*;

    cases! {
        QuietServer;

        /// A consumer that hears nothing subscribes again: the server may have forgotten it.
        async fn row_31_idle_resubscribe(env: &Env) {
            let proxy = env.proxy(|_| Plan::Pass);
            let (client, direct) = (env.connect(env.through(&proxy).no_heartbeat()).await.expect("a client"), env.client().await);
            // What a connection that was left has taken with it comes back soon.
            let queue = env.queue_here(&direct, |spec| spec.visibility_timeout(Duration::from_secs(1))).await;
            let settings = ConsumerSettings::default().idle_resubscribe(Duration::from_millis(500));
            let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
            proxy.hold(Flow::Down);
            let accepted = proxy.accepted();
            env.eventually("it subscribes again", async || proxy.accepted() > accepted).await;
            let id = direct.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            assert_eq!(next(&mut consumer).await.received().id, id);
        }
    }
}

mod seen {
    use super::*;

    cases! {
        PlainServer;

        async fn row_31_batching_disabled_and_batch_limits(env: &Env) {
            let direct = env.client().await;
            let queue = env.queue(&direct).await;
            for (settings, limit) in [
                (ProducerSettings::default().batching(Batching::Disabled), 1),
                (ProducerSettings::default().max_messages(3), 3),
                (ProducerSettings::default().max_bytes(4500), 4),
            ] {
                let proxy = env.proxy(|_| Plan::Pass);
                let client = env.connect(env.through(&proxy)).await.expect("a client");
                let producer = client.producer(settings).expect("a producer");
                for n in 0..50u8 {
                    drop(producer.send(Message::new(queue.as_str(), vec![n; 1000])).await.expect("room"));
                }
                producer.flush().await.expect("flushed");
                let sizes = env.requests_up(&proxy).into_iter().filter_map(|request| match request {
                    Request::Enqueue(messages) => Some(messages.len()),
                    _ => None,
                });
                let sizes: Vec<_> = sizes.collect();
                assert_eq!(sizes.iter().sum::<usize>(), 50);
                assert!(sizes.iter().all(|size| *size <= limit), "{sizes:?} messages in frames, {limit} allowed");
            }
        }

        /// Rows 8 and 31: on servers with the credit bug the balance never comes near a batch.
        async fn row_08_row_31_standing_credit(env: &Env) {
            if !matches!(env.dialect(), Dialect::Preamble(AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered)) {
                return announce_skip(env.test(), "the server has no such bug");
            }
            let proxy = env.proxy(|_| Plan::Pass);
            let client = env.connect(env.through(&proxy)).await.expect("a client");
            let queue = env.queue(&client).await;
            let mut consumer = env.consumer(&client, &queue).await;
            client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            next(&mut consumer).await;
            let credits = env.requests_up(&proxy).into_iter().filter_map(|request| match request {
                Request::Consume { credit, .. } => Some(credit),
                _ => None,
            });
            let credits: Vec<_> = credits.collect();
            assert!(credits.len() == 1 && credits[0] >= 1 << 20, "{credits:?}");
        }
    }
}
