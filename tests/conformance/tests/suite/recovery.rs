//! Outages, lost answers, leases that end, and faults of a broker: restarts, redirects, permissions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, Permission, PermissionKind};
use fibp_proto::config::{Config, ConsumerSettings, Reconnect, Replay};
use fibp_proto::event::Event;
use fibp_proto::request::Op;
use fibp_proto::{Dialect, ErrorKind, Message, Outcome, Secret, State};
use fila_conformance::adapter::Client;
use fila_conformance::broker::{Faults, P1, P2, P3, start, start_with};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, next};
use fila_conformance::proxy::{Flow, Plan, Proxy};

/// A server that goes away and comes back: the embedded broker itself; of an external one, all ways to it.
struct Outage<'a> {
    env: &'a Env,
    proxy: Option<Proxy>,
}

impl<'a> Outage<'a> {
    fn new(env: &'a Env) -> Self {
        let proxy = env.is_external().then(|| env.proxy(|_| Plan::Pass));
        Self { env, proxy }
    }

    fn config(&self) -> Config {
        match &self.proxy {
            Some(proxy) => self.env.through(proxy),
            None => self.env.config(),
        }
    }

    fn stop(&self) {
        match &self.proxy {
            Some(proxy) => {
                proxy.refuse();
                proxy.cut();
            }
            None => self.env.broker().stop(),
        }
    }

    fn restart(&self) {
        match &self.proxy {
            Some(proxy) => proxy.accept(),
            None => self.env.broker().restart().expect("the same port"),
        }
    }
}

/// How many messages a queue holds.
async fn depth(client: &Arc<dyn Client>, queue: &str) -> u64 {
    client.queue_stats(queue).await.expect("stats").depth
}

cases! {
    AnyServer;

    /// Calls made while there is no connection wait for one.
    async fn calls_wait_for_the_broker_to_come_back(env: &Env) {
        let outage = Outage::new(env);
        let client = env.connect(outage.config().request_timeout(PATIENCE)).await.expect("a client");
        let queue = env.queue(&client).await;
        outage.stop();
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        let waiting: Vec<_> = (0..5u8).map(|n| {
            let (client, queue) = (client.clone(), queue.clone());
            env.spawn(async move { client.enqueue(Message::new(queue.as_str(), vec![n])).await })
        }).collect();
        outage.restart();
        let mut ids = BTreeSet::new();
        for call in waiting {
            ids.insert(call.join().await.expect("confirmed"));
        }
        assert_eq!(ids.len(), 5);
    }

    /// Without a server, calls fail by their deadline, and say that nothing was sent.
    async fn calls_without_a_broker_fail_unsent(env: &Env) {
        let outage = Outage::new(env);
        let client = env.connect(outage.config()).await.expect("a client");
        outage.stop();
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        let impatient = client.with_timeout(Duration::from_millis(50));
        let error = impatient.enqueue(Message::new("q", "kept")).await.expect_err("nobody there");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
        assert!(error.error.is_retryable(), "{error}");
        assert_eq!(error.message.payload.as_ref(), b"kept");
        let config = outage.config().connect_timeout(Duration::from_millis(200));
        let error = env.connect(config).await.err().expect("nobody there");
        assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Timeout), "{error}");
    }

    /// An enqueue that was executed but not answered: unknown by default, sent again on request.
    async fn an_unanswered_enqueue_is_unknown_or_replayed(env: &Env) {
        let direct = env.client().await;
        let queue = env.queue(&direct).await;
        for (replay, stored) in [(Replay::default(), 1), (Replay::IncludingEnqueue, 2)] {
            let proxy = env.proxy(|_| Plan::Pass);
            let client = env.connect(env.through(&proxy).replay(replay)).await.expect("a client");
            proxy.hold(Flow::Down);
            let sending = env.spawn({
                let (client, queue) = (client.clone(), queue.clone());
                async move { client.enqueue(Message::new(queue.as_str(), "x")).await }
            });
            env.eventually("it is stored", async || depth(&direct, &queue).await == stored).await;
            proxy.cut();
            match sending.join().await {
                Ok(_) => assert_eq!(replay, Replay::IncludingEnqueue, "sent again"),
                Err(error) => {
                    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{error}");
                    assert_ne!(replay, Replay::IncludingEnqueue, "not sent again");
                }
            }
            client.close(PATIENCE).await;
        }
        assert_eq!(depth(&direct, &queue).await, 3, "one of them twice");
    }

    /// An ack that was executed but not answered is repeated; its second answer counts as done.
    async fn an_unanswered_ack_is_repeated(env: &Env) {
        if env.is_beyond_clusters("the statistics of clusters keep counting what was acked") {
            return;
        }
        let direct = env.client().await;
        let queue = env.queue(&direct).await;
        direct.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let mut consumer = env.consumer(&client, &queue).await;
        let delivery = next(&mut consumer).await;
        proxy.hold(Flow::Down);
        let acking = env.spawn(async move { delivery.ack().await.map_err(|(error, _)| error) });
        env.eventually("it is acked", async || depth(&direct, &queue).await == 0).await;
        proxy.cut();
        acking.join().await.expect("done, one way or the other");
    }

    /// Server bug 1: with the balance kept high, no message waits for its visibility timeout, also when the
    /// application pauses.
    async fn server_bug_1_delays_nothing(env: &Env) {
        const MESSAGES: usize = 500;
        if !env.is_external() {
            env.start_broker(|dialect| start_with(dialect, |builder| builder.faults(Faults::default().credit_loss(true))));
        }
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let mut consumer = env.consumer(&client, &queue).await;
        for half in 0..2 {
            let messages = (0..MESSAGES / 2).map(|n| Message::new(queue.as_str(), format!("{n}"))).collect();
            for sent in client.enqueue_many(messages).await {
                sent.expect("confirmed");
            }
            for n in 0..MESSAGES / 2 {
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.received().payload, format!("{n}"), "half {half}");
                assert_eq!(delivery.received().attempt_count, 0, "not one was lost to a timeout");
                drop(delivery.ack_queued());
            }
        }
    }

    /// Whatever listens: the dialect is found out.
    async fn the_dialect_is_found_out(env: &Env) {
        if env.is_external() {
            let client = env.connect(env.config().dialect(Dialect::Auto)).await.expect("a client");
            let queue = env.queue(&client).await;
            client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            return;
        }
        for dialect in fila_conformance::broker::DIALECTS {
            let broker = start(dialect);
            let config = Config::new(broker.addr()).reconnect(Reconnect::Never);
            let client = env.connect(config).await.expect("a client");
            client.create_queue("q".into()).await.expect("created");
            client.enqueue(Message::new("q", "x")).await.expect("confirmed");
            client.set_config("key", "value").await.expect("set");
            assert_eq!(client.get_config("key").await.expect("a value"), "value", "{dialect}");
            client.close(PATIENCE).await;
        }
    }
}

mod quiet {
    use super::*;

    cases! {
        QuietServer;

        /// Row 2: a restart of the broker is an event, not an end: client and consumer go on.
        async fn row_02_a_restart_interrupts_nobody(env: &Env) {
            let outage = Outage::new(env);
            let client = env.connect(outage.config()).await.expect("a client");
            // What is handed to a connection that is gone comes back soon.
            let queue = env.queue_here(&client, |spec| spec.visibility_timeout(Duration::from_secs(1))).await;
            let mut events = client.events();
            let mut consumer = env.consumer(&client, &queue).await;
            client.enqueue(Message::new(queue.as_str(), "before")).await.expect("confirmed");
            next(&mut consumer).await.ack().await.map_err(|(error, _)| error).expect("acked");

            outage.stop();
            outage.restart();
            // The client's and the consumer's: a message on a connection whose end nobody has read yet would be lost with it.
            env.eventually("both losses are noticed", async || client.stats().disconnects > 1).await;
            client.enqueue(Message::new(queue.as_str(), "after")).await.expect("confirmed by the new one");
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.received().payload.as_ref(), b"after");
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
            assert_eq!(client.state(), State::Connected);

            let (mut lost, mut resubscribed) = (false, false);
            while !(lost && resubscribed) {
                match events.next().await.expect("events go on") {
                    Event::Disconnected { .. } => lost = true,
                    Event::Resubscribed { queue: of } => resubscribed = *of == *queue,
                    _ => {}
                }
            }
        }

        /// Server bug 2: a session that died silently is replaced when it has been idle for too long.
        async fn server_bug_2_is_survived(env: &Env) {
            // The limit of external servers is taken to be the default, 16 MiB.
            let (client, payload) = if env.is_external() {
                (env.client().await, 1 << 20)
            } else {
                env.start_broker(|dialect| start_with(dialect, |builder| builder.max_frame_size(64 * 1024)));
                (env.connect(env.config().max_frame_size(64 * 1024, 1 << 20)).await.expect("a client"), 8 * 1024)
            };
            let queue = env.queue_with(&client, |spec| spec.visibility_timeout(Duration::from_secs(1))).await;
            let settings = ConsumerSettings::default().idle_resubscribe(Duration::from_millis(300));
            let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
            // Each fits a push; all together, as the server batches them, they do not.
            let messages = (0..20u8).map(|n| Message::new(queue.as_str(), vec![n; payload])).collect();
            for sent in client.enqueue_many(messages).await {
                sent.expect("confirmed");
            }
            let mut left: BTreeSet<u8> = (0..20).collect();
            while !left.is_empty() {
                let delivery = next(&mut consumer).await;
                left.remove(&delivery.received().payload[0]);
                drop(delivery.ack_queued());
            }
        }

        /// An expired lease brings its message back with one more attempt; the late ack is refused.
        async fn an_expired_lease_comes_back(env: &Env) {
            let client = env.client().await;
            let queue = env.queue_with(&client, |spec| spec.visibility_timeout(Duration::from_secs(1))).await;
            let id = client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            let settings = ConsumerSettings::default().visibility_timeout(Duration::from_secs(1));
            let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
            let held = next(&mut consumer).await;
            let again = next(&mut consumer).await;
            assert_eq!((&again.received().id, again.received().attempt_count), (&id, 1));
            again.ack().await.map_err(|(error, _)| error).expect("acked");
            match held.ack().await {
                // A node that does not lead the queue confirms every ack.
                Ok(()) => assert!(env.is_in_cluster(), "its lease is gone"),
                Err((error, returned)) => {
                    assert!(matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::MessageNotFound), "{error}");
                    assert_eq!(returned.received().id, id, "the delivery comes back with the error");
                }
            }
        }
    }
}

mod keys {
    use super::*;

    cases! {
        Keyed;

        /// Row 27: a missing or wrong key is an authentication error, and is not retried for ever.
        async fn row_27_wrong_keys_are_refused(env: &Env) {
            for config in [env.keyless(), env.keyless().api_key("wrong")] {
                // Without a key, preamble servers refuse the first request, not the connection.
                let error = match env.connect(config).await {
                    Err(error) => error,
                    Ok(client) => client.enqueue(Message::new("q", "x")).await.expect_err("no key").error,
                };
                assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
                assert!(!error.is_retryable());
                assert!(!format!("{error:?} {error}").contains("wrong\""), "{error:?}");
            }
            let client = env.connect(env.keyless().api_key(env.key())).await.expect("a client");
            env.queue(&client).await;
        }

        /// What a key may not do is forbidden, operation by operation; a revoked key may nothing.
        async fn permissions_are_enforced(env: &Env) {
            let root = env.connect(env.keyless().api_key(env.key())).await.expect("a client");
            let (open, closed) = (env.queue(&root).await, env.queue(&root).await);
            let key = root.create_api_key(ApiKeySpec::new("limited")).await;
            if env.is_unsupported(&key) {
                return;
            }
            let key = key.expect("created");
            let grants = [PermissionKind::Produce, PermissionKind::Consume];
            let grants = grants.into_iter().map(|kind| Permission::new(kind, open.as_str())).collect();
            root.set_acl(&key.key_id, grants).await.expect("granted");

            let limited = env.connect(env.keyless().api_key(Secret::from(key.key.expose()))).await.expect("a client");
            let id = limited.enqueue(Message::new(open.as_str(), "x")).await.expect("allowed");
            let forbidden = |error: fibp_proto::Error| {
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Forbidden, Outcome::Rejected), "{error}");
            };
            forbidden(limited.enqueue(Message::new(closed.as_str(), "x")).await.expect_err("forbidden").error);
            forbidden(limited.ack(&closed, &id).await.expect_err("forbidden"));
            forbidden(limited.consumer(&closed, ConsumerSettings::default()).await.err().expect("forbidden"));
            forbidden(limited.create_queue(env.queue_name().as_str().into()).await.expect_err("forbidden"));
            let mut consumer = env.consumer(&limited, &open).await;
            next(&mut consumer).await.ack().await.map_err(|(error, _)| error).expect("allowed");

            root.revoke_api_key(&key.key_id).await.expect("revoked");
            let error = limited.enqueue(Message::new(open.as_str(), "x")).await.expect_err("revoked").error;
            assert!(matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Auth), "{error}");
        }
    }
}

mod faults {
    use super::*;

    cases! {
        Faults;

        /// Row 10: results that are missing are unknown; the connection is not.
        async fn row_10_missing_results_are_unknown(env: &Env) {
            let config = env.config().replay(Replay::Never);
            let client = env.connect(config).await.expect("a client");
            let queue = env.queue(&client).await;
            env.broker().set_faults(Faults::default().missing_results(2));
            let messages = (0..5u8).map(|n| Message::new(queue.as_str(), vec![n])).collect();
            let results = client.enqueue_many(messages).await;
            let unknown = results.iter().filter(|result| {
                result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown)
            }).count();
            assert_eq!((results.len(), unknown), (5, 2), "{results:?}");
            env.broker().set_faults(Faults::default());
            client.enqueue(Message::new(queue.as_str(), "x")).await.expect("still usable");
        }

        /// Overload and failing storage have kinds of their own.
        async fn server_trouble_is_typed(env: &Env) {
            let client = env.client().await;
            let queue = env.queue(&client).await;
            env.broker().set_faults(Faults::default().storage_failing(true));
            let error = client.enqueue(Message::new(queue.as_str(), "x")).await.expect_err("the disk is full");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Server, Outcome::Rejected), "{error}");
            env.broker().set_faults(Faults::default().overloaded(true));
            let error = client.list_queues().await.expect_err("overloaded");
            assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
            assert!(error.is_retryable());
            env.broker().set_faults(Faults::default());
            client.enqueue(Message::new(queue.as_str(), "x")).await.expect("recovered");
        }

        /// Answers under ids that nobody used, or twice, disturb nothing.
        async fn stray_and_repeated_answers_are_ignored(env: &Env) {
            let client = env.client().await;
            let queue = env.queue(&client).await;
            env.broker().set_faults(
                Faults::default().unknown_answer_first(Op::Enqueue).duplicate_answer(Op::Enqueue).duplicate_answer(Op::Ack),
            );
            let mut consumer = env.consumer(&client, &queue).await;
            for n in 0..20u8 {
                client.enqueue(Message::new(queue.as_str(), vec![n])).await.expect("confirmed");
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.received().payload.as_ref(), [n]);
                delivery.ack().await.map_err(|(error, _)| error).expect("acked");
            }
            assert_eq!(client.stats().disconnects, 0);
        }

        /// Messages that failed too often are redriven from the dead-letter queue.
        async fn dead_letters_are_redriven(env: &Env) {
            env.start_broker(|dialect| start_with(dialect, |builder| builder.dead_letter_after(1)));
            let client = env.client().await;
            let queue = env.queue(&client).await;
            let id = client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
            let mut consumer = env.consumer(&client, &queue).await;
            next(&mut consumer).await.nack("poison").await.map_err(|(error, _)| error).expect("nacked");
            let dlq = format!("{queue}.dlq");
            env.eventually("it is dead", async || client.queue_stats(&dlq).await.expect("stats").depth == 1).await;
            assert_eq!(client.redrive(&dlq, 0).await.expect("redriven"), 1);
            let delivery = next(&mut consumer).await;
            assert_eq!((&delivery.received().id, delivery.received().attempt_count), (&id, 0));
        }
    }
}

mod replaced {
    use super::*;

    cases! {
        Successor;

        /// A server of another revision that takes the place of one is asked in its own words: what reads for one revision
        /// deletes for another.
        async fn another_revision_at_the_same_address(env: &Env) {
            for (old, new) in [(P1, P2), (P2, P1), (P2, P3), (P3, P1)] {
                let first = start(old);
                let addr = first.addr();
                let client = env.connect(Config::new(addr)).await.expect("connected");
                client.set_config("k", "old").await.expect("set");
                drop(first);
                env.eventually("the loss is noticed", async || client.stats().disconnects > 0).await;
                let _second = start_with(new, |builder| builder.listen(addr));
                client.set_config("k", "new").await.expect("set");
                let entries = client.list_config("k").await.expect("a list");
                assert_eq!(entries, [("k".to_owned(), "new".to_owned())], "{old} gave way to {new}");
                assert_eq!(client.list_config("k").await.expect("still there"), entries);
                client.redrive("missing", 1).await.expect_err("not a dead-letter queue");
            }
        }
    }
}
