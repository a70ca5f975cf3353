//! Every operation, in every dialect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, Permission, PermissionKind, QueueSpec};
use fibp_proto::{ErrorKind, Message, Outcome};
use fila_conformance::cases;
use fila_conformance::env::{PATIENCE, next};

cases! {
    AnyServer, every_dialect;

    /// A message goes in and comes out whole, and is gone once acked.
    async fn a_message_travels_and_is_settled(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let sent = Message::new(queue.as_str(), "hello").header("tenant", "acme").header("größe", "10 €");
        let id = client.enqueue(sent.clone()).await.expect("confirmed");

        let mut consumer = env.consumer(&client, &queue).await;
        let delivery = next(&mut consumer).await;
        let received = delivery.received();
        assert_eq!(received.id, id);
        assert_eq!(&*received.queue, queue.as_str());
        assert_eq!(received.headers, sent.headers);
        assert_eq!(received.payload, sent.payload);
        assert_eq!(&*received.fairness_key, "default");
        assert_eq!(received.attempt_count, 0);
        delivery.ack().await.map_err(|(error, _)| error).expect("acked");

        env.until_empty(&client, &queue).await;
    }

    /// An empty payload and one of a MiB arrive as they were sent, in order.
    async fn payloads_of_any_size_arrive(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let payloads: Vec<Vec<u8>> = [0, 1, 100, 65_536, 1 << 20]
            .into_iter()
            .map(|len: usize| (0..len).map(|at| (at % 251) as u8).collect())
            .collect();
        for payload in &payloads {
            client.enqueue(Message::new(queue.as_str(), payload.clone())).await.expect("confirmed");
        }
        let mut consumer = env.consumer(&client, &queue).await;
        for payload in &payloads {
            let delivery = next(&mut consumer).await;
            assert!(delivery.received().payload == *payload, "{} bytes", payload.len());
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
        }
    }

    /// A nacked message comes back with one more attempt.
    async fn a_nacked_message_comes_back(env: &Env) {
        if env.is_beyond_clusters("the leader of a queue in a cluster does not deliver again what is nacked") {
            return;
        }
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let id = client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        let mut consumer = env.consumer(&client, &queue).await;
        let first = next(&mut consumer).await;
        assert_eq!(first.received().attempt_count, 0);
        first.nack("not today").await.map_err(|(error, _)| error).expect("nacked");
        let second = next(&mut consumer).await;
        assert_eq!(second.received().id, id);
        assert_eq!(second.received().attempt_count, 1);
        second.ack().await.map_err(|(error, _)| error).expect("acked");
    }

    /// Ids of any provenance can be settled through the client, one by one or many at a time.
    async fn deliveries_are_settled_by_id(env: &Env) {
        if env.is_beyond_clusters("the leader of a queue in a cluster does not deliver again what is nacked") {
            return;
        }
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let messages = (0..6).map(|n| Message::new(queue.as_str(), vec![n])).collect();
        for sent in client.enqueue_many(messages).await {
            sent.expect("confirmed");
        }
        let mut consumer = env.consumer(&client, &queue).await;
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(next(&mut consumer).await.received().id.clone());
        }
        client.ack(&queue, &ids[0]).await.expect("acked");
        client.nack(&queue, &ids[1], "again").await.expect("nacked");
        let twice = client.ack(&queue, &ids[0]).await.expect_err("settled already");
        assert!(matches!(twice.kind(), ErrorKind::MessageNotFound | ErrorKind::LeaseLost), "{twice}");
        assert_eq!(twice.outcome(), Outcome::Rejected);

        let pair = |n: usize| (queue.clone(), ids[n].clone());
        let results = client.ack_many(vec![pair(2), pair(0), pair(3)]).await;
        assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
        assert!(results[1].is_err(), "results in input order: {results:?}");
        let results = client.nack_many(vec![
            (queue.clone(), ids[4].clone(), "again".to_owned()),
            (queue.clone(), ids[5].clone(), "again".to_owned()),
        ]).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");

        let mut again = BTreeSet::new();
        for _ in 0..3 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.received().attempt_count, 1);
            again.insert(delivery.received().id.clone());
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
        }
        assert_eq!(again, BTreeSet::from([ids[1].clone(), ids[4].clone(), ids[5].clone()]));
    }

    /// The other ways to settle a delivery: without waiting, and apart from its contents.
    async fn deliveries_are_settled_without_waiting(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        for n in 0..3u8 {
            client.enqueue(Message::new(queue.as_str(), vec![n])).await.expect("confirmed");
        }
        let mut consumer = env.consumer(&client, &queue).await;
        let queued = next(&mut consumer).await.ack_queued();
        let forgotten = next(&mut consumer).await.ack_queued();
        drop(forgotten);
        let (received, ack) = next(&mut consumer).await.ack_by_parts();
        assert_eq!(received.payload.as_ref(), [2]);
        ack.await.expect("acked");
        queued.await.expect("acked");
        env.until_empty(&client, &queue).await;
    }

    /// Queued nacks come back, whole or from their parts; ackers tell what they settle.
    async fn deliveries_are_nacked_without_waiting(env: &Env) {
        if env.is_beyond_clusters("the leader of a queue in a cluster does not deliver again what is nacked") {
            return;
        }
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let id = client.enqueue(Message::new(queue.as_str(), "again")).await.expect("confirmed");
        let mut consumer = env.consumer(&client, &queue).await;
        next(&mut consumer).await.nack_queued("not yet").await.expect("nacked");
        let second = next(&mut consumer).await;
        assert_eq!(second.received().attempt_count, 1);
        second.settle_queued_by_parts(Some("nor now")).await.expect("nacked");
        let third = next(&mut consumer).await;
        assert_eq!(third.received().attempt_count, 2);

        let item = third.ack_item();
        assert_eq!((&*item.queue, &item.id), (queue.as_str(), &id));
        let lease_deadline = third.lease_deadline();
        assert!(lease_deadline.is_some());
        assert_eq!(third.acker(), (id.clone(), queue.clone(), lease_deadline));
        client.nack(&queue, &id, "once more").await.expect("nacked");
        let fourth = next(&mut consumer).await;
        fourth.settle_queued_by_parts(None).await.expect("acked");
        assert_eq!(client.queue_stats(&queue).await.expect("stats").depth, 0);
    }

    /// Row 30: messages for several queues travel together; each result is that of its own message.
    async fn row_30_enqueue_many_over_queues_keeps_input_order(env: &Env) {
        let client = env.client().await;
        let (a, b) = (env.queue(&client).await, env.queue(&client).await);
        let missing = env.queue_name();
        let order = [&a, &missing, &b, &a, &missing, &b, &a];
        let messages: Vec<_> = (0u8..).zip(order).map(|(n, queue)| Message::new(queue.as_str(), vec![n])).collect();
        let results = client.enqueue_many(messages.clone()).await;
        assert_eq!(results.len(), order.len());
        let mut ids = BTreeMap::new();
        for ((message, queue), result) in messages.iter().zip(order).zip(results) {
            if *queue == missing {
                let error = result.expect_err("there is no such queue");
                assert_eq!(error.kind(), ErrorKind::QueueNotFound, "{error}");
                assert_eq!(error.message.payload, message.payload, "the message comes back");
            } else {
                ids.insert(result.expect("confirmed"), message.payload.clone());
            }
        }
        for (queue, expected) in [(&a, [0u8, 3, 6].as_slice()), (&b, &[2, 5])] {
            let mut consumer = env.consumer(&client, queue).await;
            for payload in expected {
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.received().payload.as_ref(), [*payload], "order within a queue");
                assert_eq!(ids.get(&delivery.received().id), Some(&delivery.received().payload));
                delivery.ack().await.map_err(|(error, _)| error).expect("acked");
            }
        }
    }

    /// Queues are created, listed with their dead-letter queues, measured and deleted.
    async fn queues_are_administered(env: &Env) {
        let client = env.client().await;
        let queue = env.queue_with(&client, |spec| spec.visibility_timeout(Duration::from_secs(5))).await;
        let list = client.list_queues().await.expect("a list");
        let listed = |name: &str| list.queues.iter().find(|info| info.name == name).cloned();
        assert!(listed(&queue).is_some(), "{list:?}");
        assert!(listed(&format!("{queue}.dlq")).is_some(), "{list:?}");

        for n in 0..3u8 {
            client.enqueue(Message::new(queue.as_str(), vec![n])).await.expect("confirmed");
        }
        env.eventually("three messages are stored", async || {
            client.queue_stats(&queue).await.expect("stats").depth == 3
        }).await;
        let stats = client.queue_stats(&queue).await.expect("stats");
        assert_eq!(stats.in_flight, 0);
        let pending: u64 = stats.per_key.iter().map(|key| key.pending).sum();
        assert_eq!(pending, 3, "{stats:?}");

        client.delete_queue(&queue).await.expect("deleted");
        let list = client.list_queues().await.expect("a list");
        assert!(!list.queues.iter().any(|info| info.name == queue), "{list:?}");
        let gone = client.queue_stats(&queue).await.expect_err("deleted");
        assert_eq!(gone.kind(), ErrorKind::QueueNotFound, "{gone}");
    }

    /// What is refused says why, in the caller's terms, and leaves the connection usable.
    async fn refusals_are_typed(env: &Env) {
        let client = env.client().await;
        let missing = env.queue_name();
        let error = client.enqueue(Message::new(missing.as_str(), "kept")).await.expect_err("no such queue");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::QueueNotFound, Outcome::Rejected));
        assert_eq!(error.message.payload.as_ref(), b"kept");
        assert!(!error.error.is_retryable());

        let error = client.queue_stats(&missing).await.expect_err("no such queue");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::QueueNotFound, Outcome::Rejected));
        assert!(error.server_text().is_some() || error.server_code().is_some(), "{error:?}");

        let queue = env.queue(&client).await;
        let bad = QueueSpec::new(env.queue_name()).on_enqueue("this is not Lua (");
        let error = client.create_queue(bad).await.expect_err("a bad script");
        assert_eq!(error.kind(), ErrorKind::Lua, "{error}");

        let error = client.redrive(&queue, 0).await.expect_err("not a dead-letter queue");
        assert_eq!(error.kind(), ErrorKind::NotADeadLetterQueue, "{error}");

        let unknown = client.enqueue(Message::new(queue.as_str(), "y")).await.expect("still usable");
        match client.ack(&queue, &unknown).await {
            Ok(()) => assert!(env.is_in_cluster(), "not leased"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::MessageNotFound | ErrorKind::LeaseLost), "{error}");
            }
        }
    }

    /// Configuration values are set, read, listed and deleted.
    async fn configuration_is_administered(env: &Env) {
        let client = env.client().await;
        // Names nothing, but is unique to this run and deleted with the queues.
        let prefix = format!("{}.", env.queue_name());
        let (one, two) = (format!("{prefix}one"), format!("{prefix}two"));
        let set = client.set_config(&one, "1").await;
        if env.is_unsupported(&set) {
            return;
        }
        set.expect("set");
        client.set_config(&two, "zwei").await.expect("set");
        assert_eq!(client.get_config(&one).await.expect("a value"), "1");
        let entries = client.list_config(&prefix).await.expect("a list");
        assert_eq!(entries, [(one.clone(), "1".to_owned()), (two.clone(), "zwei".to_owned())]);
        client.set_config(&one, "").await.expect("deleted");
        client.set_config(&two, "").await.expect("deleted");
        assert_eq!(client.get_config(&one).await.expect("a value"), "");
        let error = client.set_config("throttle.x", "lots").await.expect_err("a malformed throttle");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::Rejected), "{error}");
    }

    /// API keys and their grants are created, listed, changed and revoked.
    async fn api_keys_are_administered(env: &Env) {
        let client = env.client().await;
        let name = env.queue_name();
        let created = client.create_api_key(ApiKeySpec::new(name.as_str())).await;
        if env.is_unsupported(&created) {
            return;
        }
        let created = created.expect("created");
        assert!(!created.key.is_empty() && !created.superadmin);
        assert!(!format!("{created:?}").contains(created.key.expose()), "redacted");

        let listed = client.list_api_keys().await.expect("a list");
        let info = listed.iter().find(|info| info.key_id == created.key_id).expect("listed");
        assert_eq!((info.name.as_str(), info.superadmin), (name.as_str(), false));

        let grants = vec![
            Permission::new(PermissionKind::Produce, "orders.*"),
            Permission::new(PermissionKind::Consume, "orders.eu"),
        ];
        client.set_acl(&created.key_id, grants.clone()).await.expect("set");
        let acl = client.get_acl(&created.key_id).await.expect("grants");
        let as_set = |grants: &[Permission]| grants.iter().map(|g| (g.kind.to_string(), g.pattern.clone())).collect::<BTreeSet<_>>();
        assert_eq!(as_set(&acl.permissions), as_set(&grants));

        client.revoke_api_key(&created.key_id).await.expect("revoked");
        let error = client.get_acl(&created.key_id).await.expect_err("revoked");
        assert_eq!(error.kind(), ErrorKind::ApiKeyNotFound, "{error}");
    }

    /// Producers: receipts in any order, a flush that covers what was sent before.
    async fn producers_confirm_by_receipt(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let producer = client.producer(Default::default()).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..100u8 {
            receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
        }
        producer.flush().await.expect("flushed");
        let mut ids = BTreeSet::new();
        for receipt in receipts.into_iter().rev() {
            ids.insert(receipt.wait().await.expect("confirmed"));
        }
        assert_eq!(ids.len(), 100);
        let receipt = producer.try_send(Message::new(queue.as_str(), "last")).expect("room");
        let id = receipt.wait_timeout(PATIENCE).await.expect("in time").expect("confirmed");
        assert!(!ids.contains(&id));

        let mut consumer = env.consumer(&client, &queue).await;
        for n in 0..100u8 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.received().payload.as_ref(), [n], "order within a queue");
            drop(delivery.ack_queued());
        }
    }
}
