//! Clusters as they are, defects included (docs/protocol/clusters.md).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::config::{Config, ConsumerSettings, Expired, ProducerSettings};
use fibp_proto::{ErrorKind, Message, MessageId, Outcome};
use fila_conformance::adapter::{Client, Consumer};
use fila_conformance::broker::{Broker, BrokerBuilder, Faults, ManualClock};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, next, quick_reconnect};

/// Starts a cluster of three nodes that elects fast.
fn start(env: &Env) -> &Broker {
    start_with(env, |builder| builder)
}

fn start_with(env: &Env, change: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> &Broker {
    env.start_broker(|dialect| {
        let builder = Broker::cluster(3)
            .dialect(dialect)
            .election_timeout(Duration::from_millis(50));
        change(builder).start().expect("a cluster")
    })
}

/// The configurations under test: each node of the cluster alone, and all nodes.
fn entries(broker: &Broker) -> Vec<Config> {
    let all: Vec<String> = broker.addrs().iter().map(ToString::to_string).collect();
    let alone = all.iter().map(String::as_str);
    alone
        .chain([all.join(",").as_str()])
        .map(|addrs| Config::new(addrs).reconnect(quick_reconnect()))
        .collect()
}

fn all_nodes(broker: &Broker) -> Config {
    entries(broker).pop().expect("the last names all")
}

/// A client of the node that leads a queue.
async fn at_leader(env: &Env, broker: &Broker, queue: &str) -> Arc<dyn Client> {
    let leader = broker
        .leader(queue)
        .and_then(|leader| broker.addr_of(leader))
        .expect("it is led");
    let config = Config::new(leader).reconnect(quick_reconnect());
    env.connect(config).await.expect("a client")
}

/// A queue for attentive consumers: what was handed to a connection that was left comes back while they wait.
async fn lasting_queue(env: &Env, client: &Arc<dyn Client>) -> String {
    env.queue_with(client, |spec| spec.visibility_timeout(PATIENCE / 6))
        .await
}

/// A consumer that notices soon when it hears nothing from a former leader. On a busy machine it leaves connections on
/// which something is on its way.
async fn attentive(client: &Arc<dyn Client>, queue: &str) -> Box<dyn Consumer> {
    let settings = ConsumerSettings::default().idle_resubscribe(Duration::from_millis(200));
    client.consumer(queue, settings).await.expect("a consumer")
}

/// Takes and acks until every one of these messages was delivered.
async fn consume_all(consumer: &mut Box<dyn Consumer>, mut left: BTreeSet<MessageId>) {
    while !left.is_empty() {
        let delivery = next(consumer).await;
        left.remove(&delivery.received().id);
        delivery.ack().await.map_err(|(error, _)| error).expect("acked");
    }
}

async fn enqueue_list(client: &Arc<dyn Client>, queue: &str, count: u8) -> BTreeSet<MessageId> {
    let messages = (0..count).map(|n| Message::new(queue, vec![n])).collect();
    let results = client.enqueue_many(messages).await;
    results.into_iter().map(|result| result.expect("confirmed")).collect()
}

cases! {
    Peer, [p2 P2, p3 P3, framed FRAMED];

    /// A queue is created, filled and consumed at once, whichever node the client is configured with.
    async fn every_node_serves_everybody(env: &Env) {
        let broker = start(env);
        for config in entries(broker) {
            let client = env.connect(config).await.expect("a client");
            let queue = env.queue(&client).await;
            let sent = enqueue_list(&client, &queue, 20).await;
            let mut consumer = env.consumer(&client, &queue).await;
            client.queue_stats(&queue).await.expect("statistics");
            consume_all(&mut consumer, sent).await;
            assert_eq!(broker.queue_depth(&queue), 0, "all acks were done");
            drop(consumer);
            client.delete_queue(&queue).await.expect("deleted");
            client.close(PATIENCE).await;
        }
    }

    /// Rows 36 and 37: nothing that was confirmed is lost with the leader, however it was sent.
    async fn row_36_confirmed_lists_outlive_their_leader(env: &Env) {
        let broker = start(env);
        for node in 1..=3 {
            let alone = entries(broker).swap_remove(node - 1);
            let client = env.connect(alone).await.expect("a client");
            let queue = lasting_queue(env, &client).await;
            let mut sent = enqueue_list(&client, &queue, 30).await;
            let producer = client.producer(ProducerSettings::default()).expect("a producer");
            let mut receipts = Vec::new();
            for n in 0..30u8 {
                receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
            }
            for receipt in receipts {
                sent.insert(receipt.wait().await.expect("confirmed"));
            }
            client.close(PATIENCE).await;
            let leader = broker.leader(&queue).expect("it is led");
            broker.kill_node(leader);
            let client = env.connect(all_nodes(broker)).await.expect("a client");
            let mut consumer = attentive(&client, &queue).await;
            consume_all(&mut consumer, sent).await;
            broker.start_node(leader).expect("its port is free");
        }
    }

    /// Row 37: "not yet" is waited out by whoever uses a new queue first.
    async fn row_37_a_new_queue_is_waited_for(env: &Env) {
        let broker = start_with(env, |builder| builder.creation_delay(Duration::from_millis(400)));
        let mut clients = Vec::new();
        for config in entries(broker) {
            clients.push(env.connect(config).await.expect("a client"));
        }
        for creator in &clients {
            let queue = env.queue(creator).await;
            let uses: Vec<_> = clients.iter().map(|client| {
                let (client, queue) = (client.clone(), queue.clone());
                env.spawn(async move {
                    client.enqueue(Message::new(queue.as_str(), "x")).await.map_err(|failed| failed.error)?;
                    client.queue_stats(&queue).await.map(drop)
                })
            }).collect();
            let mut consumer = env.consumer(creator, &queue).await;
            for result in uses {
                result.join().await.expect("in the end");
            }
            for _ in &clients {
                next(&mut consumer).await;
            }
        }
    }

    /// Row 38: acks at the leader are done, whatever it answers.
    async fn row_38_acks_at_the_leader_are_done(env: &Env) {
        let broker = start(env);
        let client = env.connect(all_nodes(broker)).await.expect("a client");
        let queue = env.queue(&client).await;
        let sent = enqueue_list(&client, &queue, 10).await;
        let client = at_leader(env, broker, &queue).await;
        let mut consumer = env.consumer(&client, &queue).await;
        consume_all(&mut consumer, sent).await;
        assert_eq!(broker.queue_depth(&queue), 0);
    }

    /// Row 38: once the lease is over, "not found" means what it says.
    async fn row_38_acks_of_lost_leases_are_not_done(env: &Env) {
        const LEASE: Duration = Duration::from_secs(30);
        let clock = ManualClock::new();
        let broker = start_with(env, |builder| builder.manual_clock(clock.clone()).creation_delay(Duration::ZERO));
        let client = env.connect(all_nodes(broker)).await.expect("a client");
        let queue = env.queue_with(&client, |spec| spec.visibility_timeout(LEASE)).await;
        client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        let client = at_leader(env, broker, &queue).await;
        // The lease is over for the client at once, and for the broker when its clock says so.
        let settings = ConsumerSettings::default()
            .visibility_timeout(Duration::from_millis(1))
            .expired(Expired::Deliver);
        let mut consumer = client.consumer(&queue, settings).await.expect("a consumer");
        let held = next(&mut consumer).await;
        drop(consumer);
        env.eventually("nobody consumes", async || {
            broker.queue(&queue).is_some_and(|queue| queue.consumers == 0)
        }).await;
        clock.advance(LEASE);
        assert!(!broker.messages(&queue)[0].leased);
        let deadline = held.lease_deadline().expect("a deadline");
        env.sleep(deadline.saturating_duration_since(Instant::now())).await;
        let Err((error, _)) = held.ack().await else { panic!("its lease is over") };
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
        assert_eq!(broker.queue_depth(&queue), 1);
    }

    /// A consumer whose leader loses the lead, or its life, goes on at the next.
    async fn consumers_follow_their_leader(env: &Env) {
        let broker = start(env);
        let client = env.connect(all_nodes(broker)).await.expect("a client");
        let queue = lasting_queue(env, &client).await;
        let sent = enqueue_list(&client, &queue, 5).await;
        let mut consumer = attentive(&client, &queue).await;
        consume_all(&mut consumer, sent).await;
        for node in [1, 2, 3, 1] {
            broker.elect(&queue, node);
            let sent = enqueue_list(&client, &queue, 5).await;
            consume_all(&mut consumer, sent).await;
        }
        for node in 1..=3 {
            broker.kill_node(node);
            // What is safe to repeat finds the loss; an enqueue on its way would be in doubt.
            client.queue_stats(&queue).await.expect("elected");
            let sent = enqueue_list(&client, &queue, 5).await;
            consume_all(&mut consumer, sent).await;
            broker.start_node(node).expect("its port is free");
        }
        assert_eq!(broker.queue_depth(&queue), 0);
    }

    /// With a majority of the nodes gone nobody decides anything; calls wait for them within their deadlines.
    async fn calls_wait_for_a_majority(env: &Env) {
        let broker = start(env);
        let client = env.connect(all_nodes(broker)).await.expect("a client");
        let queue = env.queue(&client).await;
        client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        broker.kill_node(2);
        broker.kill_node(3);
        let impatient = client.with_timeout(Duration::from_millis(300));
        impatient.enqueue(Message::new(queue.as_str(), "y")).await.expect_err("nobody leads");
        let waiting = env.spawn({
            let (client, queue) = (client.clone(), queue.clone());
            async move { client.enqueue(Message::new(queue.as_str(), "z")).await }
        });
        broker.start_node(3).expect("its port is free");
        waiting.join().await.expect("elected");
    }

    /// Section 6: a Raft error leaves the outcome open.
    async fn a_raft_error_leaves_the_outcome_open(env: &Env) {
        let broker = start_with(env, |builder| builder.faults(Faults::default().snapshot_not_found(true)));
        let client = env.connect(all_nodes(broker)).await.expect("a client");
        let queue = env.queue(&client).await;
        client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        let leader = broker.leader(&queue).expect("it is led");
        let follower = leader % 3 + 1;
        broker.kill_node(follower);
        broker.start_node(follower).expect("its port is free");
        let error = client.enqueue(Message::new(queue.as_str(), "y")).await.expect_err("nothing is written");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Server, Outcome::Unknown), "{error}");
        // It stays away: were it back after the next was elected, that one would answer so, too.
        broker.kill_node(leader);
        env.eventually("another leader", async || {
            client.enqueue(Message::new(queue.as_str(), "z")).await.is_ok()
        }).await;
    }
}
