//! Batching, backpressure, many callers, slow consumers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, ProducerSettings};
use fibp_proto::{ErrorKind, Message, MessageId};
use fila_conformance::adapter::Client;
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, next};
use fila_conformance::proxy::{Flow, Plan};

/// What the bulk cases move: less where nothing is optimised.
const BULK: usize = if cfg!(debug_assertions) { 4_000 } else { 20_000 };

/// Waits until what waits for answers grows no more.
async fn until_all_called(env: &Env, client: &Arc<dyn Client>) {
    let mut known = 0;
    let settled = async || {
        env.sleep(Duration::from_millis(100)).await;
        let now = client.stats().queued_bytes;
        now > 0 && std::mem::replace(&mut known, now) == now
    };
    env.eventually("all have called", settled).await;
}

cases! {
    AnyServer;

    /// 10 MiB in each direction at once on one client: neither side waits for the other.
    async fn ten_mib_both_ways_at_once(env: &Env) {
        const MESSAGES: usize = 40;
        const PAYLOAD: usize = 256 * 1024;
        let client = env.client().await;
        let (up, down) = (env.queue(&client).await, env.queue(&client).await);
        for n in 0..MESSAGES {
            client.enqueue(Message::new(down.as_str(), vec![n as u8; PAYLOAD])).await.expect("confirmed");
        }
        let sending = env.spawn({
            let (client, up) = (client.clone(), up.clone());
            async move {
                let messages = (0..MESSAGES).map(|n| Message::new(up.as_str(), vec![n as u8; PAYLOAD])).collect();
                client.enqueue_many(messages).await.into_iter().filter(Result::is_ok).count()
            }
        });
        let mut consumer = env.consumer(&client, &down).await;
        for n in 0..MESSAGES {
            let delivery = next(&mut consumer).await;
            assert!(delivery.received().payload == vec![n as u8; PAYLOAD], "delivery {n}");
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
        }
        assert_eq!(sending.join().await, MESSAGES);
    }

    /// Many tasks or threads share one client; every call gets its own answer.
    async fn many_callers_share_one_client(env: &Env) {
        const CALLERS: usize = 32;
        const CALLS: usize = 25;
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let callers: Vec<_> = (0..CALLERS).map(|caller| {
            let (client, queue) = (client.clone(), queue.clone());
            env.spawn(async move {
                let mut ids = Vec::new();
                for call in 0..CALLS {
                    let message = Message::new(queue.as_str(), format!("{caller}/{call}"));
                    ids.push((client.enqueue(message).await.expect("confirmed"), format!("{caller}/{call}")));
                }
                ids
            })
        }).collect();
        let mut sent = BTreeSet::new();
        for caller in callers {
            sent.extend(caller.join().await);
        }
        assert_eq!(sent.len(), CALLERS * CALLS, "every message has an id of its own");
        let mut consumer = env.consumer(&client, &queue).await;
        let mut got = BTreeSet::new();
        while got.len() < sent.len() {
            let delivery = next(&mut consumer).await;
            let payload = String::from_utf8(delivery.received().payload.to_vec()).expect("as it was sent");
            got.insert((delivery.received().id.clone(), payload));
            drop(delivery.ack_queued());
        }
        assert_eq!(got, sent, "each id belongs to its message");
    }

    /// With many callers, single calls share frames: enqueues as well as acks. All of them call while nothing is answered.
    async fn single_calls_share_frames(env: &Env) {
        const CALLERS: u64 = 64;
        let proxy = env.proxy(|_| Plan::Pass);
        let config = env.through(&proxy).request_timeout(PATIENCE).no_heartbeat();
        let client = env.connect(config).await.expect("a client");
        let queue = env.queue(&client).await;
        let mut consumer = env.consumer(&client, &queue).await;
        let check = |what: &str, frames: u64| match env.sends_one_each() {
            true => assert!(frames >= CALLERS, "one of the {what} per frame"),
            false => assert!(frames * 4 <= CALLERS, "{frames} frames for {CALLERS} {what}"),
        };

        proxy.hold(Flow::Down);
        let callers: Vec<_> = (0..CALLERS).map(|_| {
            let (client, queue) = (client.clone(), queue.clone());
            env.spawn(async move { client.enqueue(Message::new(queue.as_str(), "x")).await.map(drop) })
        }).collect();
        until_all_called(env, &client).await;
        proxy.release();
        for caller in callers {
            caller.join().await.expect("confirmed");
        }
        let stats = client.stats();
        assert_eq!(stats.messages_confirmed, CALLERS);
        check("messages", stats.enqueue_frames);

        // A delivery is acked by whichever worker takes it; the workers wait for each ack.
        let mut deliveries = Vec::new();
        for _ in 0..CALLERS {
            deliveries.push(next(&mut consumer).await);
        }
        proxy.hold(Flow::Down);
        let callers: Vec<_> = deliveries.into_iter().map(|delivery| {
            let (_, ack) = delivery.ack_by_parts();
            env.spawn(ack)
        }).collect();
        until_all_called(env, &client).await;
        proxy.release();
        for caller in callers {
            caller.join().await.expect("acked");
        }
        let stats = client.stats();
        assert_eq!(stats.settled, CALLERS);
        check("acks", stats.settle_frames);
        client.close(PATIENCE).await;
    }

    /// Row 4: acks are answered while a consumer that nobody reads fills up.
    async fn row_04_a_slow_consumer_does_not_block_acks(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let payload = vec![7u8; 64 * 1024];
        for _ in 0..4 {
            let messages = (0..50).map(|_| Message::new(queue.as_str(), payload.clone())).collect();
            for sent in client.enqueue_many(messages).await {
                sent.expect("confirmed");
            }
        }
        let settings = ConsumerSettings::default().prefetch(4);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        // 12 MiB wait behind a window of four; one delivery at a time is acked over the shared connection.
        for _ in 0..20 {
            next(&mut consumer).await.ack().await.map_err(|(error, _)| error).expect("answered");
        }
        assert_eq!(client.stats().timeouts, 0);
    }

    /// Rows 8, 9 and 11: a long stream goes on beyond any grant, faster than a timer could pace it, and skips nothing.
    async fn row_08_row_09_row_11_a_long_stream_neither_stops_nor_skips(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let mut sent = Vec::new();
        let indices: Vec<u32> = (0..).take(BULK).collect();
        for chunk in indices.chunks(1000) {
            let messages = chunk.iter().map(|n| Message::new(queue.as_str(), n.to_be_bytes().to_vec())).collect();
            for result in client.enqueue_many(messages).await {
                sent.push(result.expect("confirmed"));
            }
        }
        let settings = ConsumerSettings::default().prefetch(16);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        for (n, id) in sent.iter().enumerate() {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.received().payload.as_ref(), (n as u32).to_be_bytes(), "in order, none skipped");
            assert_eq!(delivery.received().id, *id);
            drop(delivery.ack_queued());
        }
        env.eventually("everything is acked", async || client.stats().settled == BULK as u64).await;
    }

    /// Row 11: a consumer that lags while others produce loses nothing.
    async fn row_11_a_lagging_consumer_loses_nothing(env: &Env) {
        const MESSAGES: usize = 600;
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let settings = ConsumerSettings::default().prefetch(2);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        let producing = env.spawn({
            let (client, queue) = (client.clone(), queue.clone());
            async move {
                let mut ids = BTreeSet::new();
                for n in 0..MESSAGES {
                    let message = Message::new(queue.as_str(), format!("{n}"));
                    ids.insert(client.enqueue(message).await.expect("confirmed"));
                }
                ids
            }
        });
        let sent = producing.join().await;
        let mut got: BTreeSet<MessageId> = BTreeSet::new();
        while got.len() < sent.len() {
            let delivery = next(&mut consumer).await;
            got.insert(delivery.received().id.clone());
            drop(delivery.ack_queued());
        }
        assert_eq!(got, sent);
    }

    /// Row 16: a message of a batch that fails has the error of a single call; its neighbours are not touched.
    async fn row_16_batched_messages_fail_with_their_own_error(env: &Env) {
        let client = env.client().await;
        let (queue, missing) = (env.queue(&client).await, env.queue_name());
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..40u8 {
            let name = if n % 4 == 3 { missing.as_str() } else { queue.as_str() };
            receipts.push(producer.send(Message::new(name, vec![n])).await.expect("room"));
        }
        let flushed = producer.flush().await;
        assert_eq!(flushed.expect_err("ten were refused").kind(), ErrorKind::QueueNotFound);
        for (n, receipt) in receipts.into_iter().enumerate() {
            match receipt.wait().await {
                Ok(_) => assert_ne!(n % 4, 3),
                Err(error) => {
                    assert_eq!(n % 4, 3, "{error}");
                    assert_eq!(error.kind(), ErrorKind::QueueNotFound, "{error}");
                }
            }
        }
    }

    /// Row 19: what was confirmed is in the queue.
    async fn row_19_confirmed_means_stored(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let messages = (0..200u8).map(|n| Message::new(queue.as_str(), vec![n])).collect();
        let mut confirmed = BTreeSet::new();
        for result in client.enqueue_many(messages).await {
            confirmed.insert(result.expect("confirmed"));
        }
        drop(client);
        let other = env.client().await;
        let mut consumer = env.consumer(&other, &queue).await;
        while !confirmed.is_empty() {
            let delivery = next(&mut consumer).await;
            assert!(confirmed.remove(&delivery.received().id), "delivered twice or never sent");
            drop(delivery.ack_queued());
        }
    }

    /// Lists beyond what one frame can carry, in bytes or in number, are split; the results are in input order.
    async fn lists_beyond_a_frame_are_split(env: &Env) {
        let client = env.client().await;
        for (count, size) in [(20, 1 << 20), (66_000, 1)] {
            let queue = env.queue(&client).await;
            let payload = bytes::Bytes::from(vec![7u8; size]);
            let messages = (0..count).map(|_| Message::new(queue.as_str(), payload.clone())).collect();
            let ids: Vec<_> = client.enqueue_many(messages).await.into_iter().map(|result| result.expect("confirmed")).collect();
            assert_eq!(ids.len(), count);
            assert!(ids.is_sorted(), "a server's ids grow: the results are in input order");
            env.eventually("all are stored", async || {
                client.queue_stats(&queue).await.expect("stats").depth == count as u64
            }).await;
        }
    }

    /// Several consumers of one queue share its messages.
    async fn consumers_share_a_queue(env: &Env) {
        const MESSAGES: usize = 300;
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let taken = Arc::new(AtomicUsize::new(0));
        let mut workers = Vec::new();
        for _ in 0..3 {
            let mut consumer = env.consumer(&client, &queue).await;
            let taken = taken.clone();
            workers.push(env.spawn(async move {
                let mut ids = Vec::new();
                while taken.load(Ordering::SeqCst) < MESSAGES {
                    // Looks up now and then: the last message may have gone to another worker.
                    let within = PATIENCE / 100;
                    let Some(item) = consumer.next_within(within).await else { continue };
                    let delivery = item.expect("not ended").expect("a delivery");
                    ids.push(delivery.received().id.clone());
                    taken.fetch_add(1, Ordering::SeqCst);
                    delivery.ack().await.map_err(|(error, _)| error).expect("acked");
                }
                ids
            }));
        }
        let messages = (0..MESSAGES).map(|n| Message::new(queue.as_str(), format!("{n}"))).collect();
        for sent in client.enqueue_many(messages).await {
            sent.expect("confirmed");
        }
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().await);
        }
        assert_eq!(all.len(), MESSAGES);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), MESSAGES, "none twice");
    }
}
