//! Row 29: nodes that name others as leaders.

use std::time::Duration;

use fibp_proto::config::ConsumerSettings;
use fibp_proto::{ErrorKind, Message};
use fila_conformance::broker::{Broker, Faults, Leadership, start, start_with};
use fila_conformance::cases;
use fila_conformance::env::{self, next};

cases! {
    Peer;

    /// Row 29: a consumer follows the leader hint, with the same key.
    async fn row_29_a_consumer_follows_the_leader(env: &Env) {
        let key = "bootstrap-key";
        let dialect = env.dialect();
        let leader = start_with(dialect, |builder| builder.api_key(key));
        env.start_broker(|dialect| start_with(dialect, |builder| builder.api_key(key)));
        let on_leader = env.connect(env::config(leader.addr()).api_key(key)).await.expect("a client");
        let queue = env.queue(&on_leader).await;
        on_leader.enqueue(Message::new(queue.as_str(), "led")).await.expect("confirmed");

        let elsewhere = Leadership::Elsewhere(leader.addr().to_string());
        env.broker().set_faults(Faults::default().leader(queue.as_str(), elsewhere));
        let client = env.connect(env.config().api_key(key)).await.expect("a client");
        let mut consumer = env.consumer(&client, &queue).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.received().payload.as_ref(), b"led");
        drop((consumer, client));
    }

    /// Row 29: two nodes that name each other are left after a few hops.
    async fn row_29_a_redirect_loop_ends(env: &Env) {
        let other = start(env.dialect());
        let queue = "looped";
        let faults = |to: &Broker| Faults::default().leader(queue, Leadership::Elsewhere(to.addr().to_string()));
        env.broker().set_faults(faults(&other));
        other.set_faults(faults(env.broker()));
        let config = env.config().connect_timeout(Duration::from_secs(2)).request_timeout(Duration::from_secs(2));
        let client = env.connect(config).await.expect("a client");
        let Err(error) = client.consumer(queue, ConsumerSettings::default()).await else { panic!("nobody leads") };
        assert_eq!(error.kind(), ErrorKind::NotLeader, "{error}");
    }

    /// Row 29: an election is waited out.
    async fn row_29_an_election_is_waited_out(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        client.enqueue(Message::new(queue.as_str(), "x")).await.expect("confirmed");
        env.broker().set_faults(Faults::default().leader(queue.as_str(), Leadership::Electing));
        let before = client.stats().frames_received;
        let opening = env.spawn({
            let (client, queue) = (client.clone(), queue.clone());
            async move { client.consumer(&queue, ConsumerSettings::default()).await }
        });
        env.eventually("the first refusal", async || client.stats().frames_received > before).await;
        env.broker().set_faults(Faults::default());
        let mut consumer = opening.join().await.expect("elected");
        next(&mut consumer).await;
    }

    /// Row 3: in a cluster an unknown queue is refused when a consumer opens.
    async fn row_03_a_refused_consume_is_the_result_of_opening(env: &Env) {
        let client = env.client().await;
        env.broker().set_faults(Faults::default().cluster(true));
        let Err(error) = client.consumer("nowhere", ConsumerSettings::default()).await else { panic!("no queue") };
        assert_eq!(error.kind(), ErrorKind::QueueNotFound, "{error}");
    }
}
