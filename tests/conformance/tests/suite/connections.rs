//! What may become of a connection, and of the bytes on it, before any server.

use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, ProducerSettings, Reconnect};
use fibp_proto::{Dialect, ErrorKind, Message, Outcome};
use fila_conformance::cases;
use fila_conformance::env::{PATIENCE, next};
use fila_conformance::proxy::{Flow, Plan};

cases! {
    AnyServer;

    /// Row 1: every call that waits when the connection dies gets one typed error, and says what is known.
    async fn row_01_waiters_complete_when_the_connection_dies(env: &Env) {
        const CALLS: usize = 8;
        let proxy = env.proxy(|_| Plan::Pass);
        let config = env.through(&proxy).reconnect(Reconnect::Never).no_heartbeat();
        let client = env.connect(config).await.expect("a client");
        let queue = env.queue(&client).await;
        let before = env.frames_up(&proxy);
        proxy.hold(Flow::Down);
        let calls: Vec<_> = (0..CALLS).map(|n| {
            let (client, queue) = (client.clone(), queue.clone());
            // Enqueues would share one frame.
            env.spawn(async move {
                match n {
                    0 => client.enqueue(Message::new(queue.as_str(), "x")).await.map(drop).map_err(|error| error.error),
                    _ => client.queue_stats(&queue).await.map(drop),
                }
            })
        }).collect();
        env.until_sent(&proxy, before, CALLS).await;
        proxy.reset();
        for call in calls {
            let error = call.join().await.expect_err("the connection died");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{error}");
        }
        let error = client.enqueue(Message::new(queue.as_str(), "late")).await.expect_err("closed for good");
        assert!(matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Closed), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);
    }

    /// Row 2: a consumer that must not resubscribe hands out what it received, yields one error, then ends.
    async fn row_02_a_consumer_ends_with_one_error(env: &Env) {
        const PAYLOAD: usize = 100_000;
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue_here(&client, |spec| spec).await;
        for n in 0..2u8 {
            client.enqueue(Message::new(queue.as_str(), vec![n; PAYLOAD])).await.expect("confirmed");
        }
        let settings = ConsumerSettings::default().resubscribe(false);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        env.eventually("both have passed", async || {
            proxy.count(Flow::Down) > 2 * PAYLOAD
        }).await;
        // What has passed is read before the end.
        proxy.cut();
        for n in 0..2u8 {
            assert_eq!(next(&mut consumer).await.received().payload[0], n);
        }
        let Some(Some(Err(error))) = consumer.next_within(PATIENCE).await else { panic!("no error") };
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        assert!(matches!(consumer.next_within(PATIENCE).await, Some(None)), "fused");
    }

    /// Rows 6 and 12: all deliveries that come at once can be taken, though nothing follows.
    async fn row_06_row_12_all_that_comes_is_deliverable_at_once(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let (client, direct) = (env.connect(env.through(&proxy)).await.expect("a client"), env.client().await);
        let queue = env.queue(&direct).await;
        let mut consumer = client.consumer(&queue, ConsumerSettings::default().prefetch(4)).await.expect("a consumer");
        proxy.hold(Flow::Down);
        let messages = (0..64u8).map(|n| Message::new(queue.as_str(), vec![n; 100])).collect();
        for sent in direct.enqueue_many(messages).await {
            sent.expect("confirmed");
        }
        env.eventually("they are handed out", async || direct.queue_stats(&queue).await.expect("stats").in_flight > 0).await;
        proxy.release();
        for n in 0..64u8 {
            assert_eq!(next(&mut consumer).await.received().payload[0], n);
        }
    }

    /// Bytes that come one by one make the same frames, in both directions.
    async fn one_byte_reads(env: &Env) {
        let proxy = env.proxy(|_| Plan::Split(1));
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue(&client).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(client.enqueue(Message::new(queue.as_str(), "payload")).await.expect("confirmed"));
        }
        let mut consumer = env.consumer(&client, &queue).await;
        for id in ids {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.received().payload.as_ref(), b"payload");
            assert_eq!(delivery.received().id, id);
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
        }
    }

    /// A server that closes in the middle of a frame is a lost connection, not half an answer.
    async fn the_server_closes_mid_frame(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue(&client).await;
        for after in [1, 5, 15] {
            proxy.cut_after(Flow::Down, after);
            let error = client.enqueue(Message::new(queue.as_str(), "x")).await.expect_err("half an answer");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{after}: {error}");
            client.enqueue(Message::new(queue.as_str(), "y")).await.expect("reconnected");
        }
        assert_eq!(client.queue_stats(&queue).await.expect("stats").depth, 6, "each was stored");
        client.close(PATIENCE).await;
    }

    /// A half-closed connection is lost, too: what waits is answered, what comes later goes elsewhere.
    async fn the_server_half_closes(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let (client, direct) = (env.connect(env.through(&proxy)).await.expect("a client"), env.client().await);
        let queue = env.queue(&direct).await;
        proxy.hold(Flow::Down);
        let waiting = env.spawn({
            let (client, queue) = (client.clone(), queue.clone());
            async move { client.enqueue(Message::new(queue.as_str(), "x")).await }
        });
        env.eventually("it is stored", async || direct.queue_stats(&queue).await.expect("stats").depth == 1).await;
        proxy.half_close();
        let error = waiting.join().await.expect_err("no answer will come");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{error}");
        client.enqueue(Message::new(queue.as_str(), "y")).await.expect("reconnected");
        client.close(PATIENCE).await;
    }

    /// An answer over the receive limit fails its own call, and nothing else.
    async fn an_oversized_answer_fails_its_own_call(env: &Env) {
        let direct = env.client().await;
        // Names nothing, but is unique to this run.
        let key = env.queue_name();
        let set = direct.set_config(&key, &"v".repeat(10_000)).await;
        if env.is_unsupported(&set) {
            return;
        }
        set.expect("set");
        let queue = env.queue(&direct).await;
        let client = env.connect(env.config().max_frame_size(4096, 8192)).await.expect("a client");
        let error = client.get_config(&key).await.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        client.enqueue(Message::new(queue.as_str(), "x")).await.expect("the same connection");
        assert_eq!(client.stats().disconnects, 0);
        direct.set_config(&key, "").await.expect("deleted");
    }

    /// Row 5: what cannot be encoded fails before anything is sent, and comes back.
    async fn row_05_an_unencodable_message_comes_back(env: &Env) {
        let direct = env.client().await;
        let queue = env.queue(&direct).await;
        let client = env.connect(env.config().max_frame_size(1024, 4096)).await.expect("a client");
        // Framed servers take what exceeds a frame in several.
        if matches!(env.dialect(), Dialect::Preamble(_)) {
            let large = vec![7; 2000];
            let error = client.enqueue(Message::new(queue.as_str(), large.clone())).await.expect_err("too large");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent), "{error}");
            assert_eq!(error.message.payload.as_ref(), large.as_slice());
            let producer = client.producer(ProducerSettings::default()).expect("a producer");
            let refused = producer.send(Message::new(queue.as_str(), large.clone())).await.err().expect("too large");
            assert_eq!(refused.kind(), ErrorKind::TooLarge, "{refused}");
            assert_eq!(refused.message.payload.as_ref(), large.as_slice());
        }
        let long = "k".repeat(70_000);
        let error = client.enqueue(Message::new(queue.as_str(), "x").header(long, "v")).await.expect_err("no such header");
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);

        client.enqueue(Message::new(queue.as_str(), "small")).await.expect("still usable");
        let mut consumer = env.consumer(&direct, &queue).await;
        assert_eq!(next(&mut consumer).await.received().payload.as_ref(), b"small", "nothing else was sent");
        assert_eq!(direct.queue_stats(&queue).await.expect("stats").depth, 1);
    }

    /// Row 20: frames of many callers never interleave, though they come in pieces.
    async fn row_20_frames_of_many_callers_stay_whole(env: &Env) {
        const CALLERS: usize = 16;
        const CALLS: usize = 20;
        let proxy = env.proxy(|_| Plan::Split(1000));
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue(&client).await;
        let callers: Vec<_> = (0..CALLERS).map(|caller| {
            let (client, queue) = (client.clone(), queue.clone());
            env.spawn(async move {
                for call in 0..CALLS {
                    let payload = vec![caller as u8; 1 + (call * 7919) % 50_000];
                    client.enqueue(Message::new(queue.as_str(), payload)).await.expect("confirmed");
                }
            })
        }).collect();
        for caller in callers {
            caller.join().await;
        }
        let mut consumer = env.consumer(&client, &queue).await;
        let mut calls = [0; CALLERS];
        for _ in 0..CALLERS * CALLS {
            let delivery = next(&mut consumer).await;
            let payload = &delivery.received().payload;
            let caller = payload[0];
            assert!(payload.iter().all(|byte| *byte == caller), "torn");
            let call = &mut calls[usize::from(caller)];
            assert_eq!(payload.len(), 1 + (*call * 7919) % 50_000, "each caller's are in order");
            *call += 1;
            drop(delivery.ack_queued());
        }
        assert_eq!(client.stats().disconnects, 0);
    }

    /// A producer's messages that wait for a connection are sent once there is one.
    async fn a_producer_survives_an_outage(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy).request_timeout(PATIENCE)).await.expect("a client");
        let queue = env.queue(&client).await;
        proxy.refuse();
        proxy.cut();
        env.eventually("the loss is noticed", async || client.stats().disconnects > 0).await;
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..10u8 {
            receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
        }
        proxy.accept();
        for receipt in receipts {
            receipt.wait().await.expect("confirmed");
        }
        assert_eq!(client.queue_stats(&queue).await.expect("stats").depth, 10, "each once");
        client.close(PATIENCE).await;
    }
}

mod consumers {
    use super::*;

    cases! {
        QuietServer;

        /// Row 2: a consumer whose connection dies subscribes again by itself.
        async fn row_02_a_consumer_resubscribes_when_its_connection_dies(env: &Env) {
            let proxy = env.proxy(|_| Plan::Pass);
            let (client, direct) = (env.connect(env.through(&proxy)).await.expect("a client"), env.client().await);
            // What a connection that died took with it comes back soon.
            let queue = env.queue_with(&direct, |spec| spec.visibility_timeout(Duration::from_secs(1))).await;
            let mut consumer = env.consumer(&client, &queue).await;
            for n in 0..3 {
                let id = direct.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.received().id, id);
                delivery.ack().await.map_err(|(error, _)| error).expect("acked");
                if n == 0 { proxy.cut() } else { proxy.reset() }
            }
        }
    }
}
