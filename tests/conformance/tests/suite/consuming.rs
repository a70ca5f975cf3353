//! Taking deliveries and stopping.

use std::time::Instant;

use fibp_proto::Message;
use fila_conformance::cases;
use fila_conformance::env::{PATIENCE, next};
use fila_conformance::poll::{Polled, poll_times};

cases! {
    AnyServer;

    /// A consumer's `next` that is dropped at any point loses no delivery.
    async fn next_loses_nothing_when_dropped(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let mut consumer = env.consumer(&client, &queue).await;
        for n in 0..20u8 {
            client.enqueue(Message::new(queue.as_str(), vec![n])).await.expect("confirmed");
            for polls in 0.. {
                if let Polled::Ready(taken) = poll_times(consumer.next(), polls).await {
                    let delivery = taken.expect("not ended").expect("a delivery");
                    assert_eq!(delivery.received().payload.as_ref(), [n], "in order, none skipped");
                    delivery.ack().await.map_err(|(error, _)| error).expect("acked");
                    break;
                }
            }
        }
    }

    /// Draining stops the deliveries; those that were received can still be taken, then the consumer ends.
    async fn a_drained_consumer_hands_out_what_it_has_and_ends(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let messages = (0..10).map(|n| Message::new(queue.as_str(), vec![n])).collect();
        for sent in client.enqueue_many(messages).await {
            sent.expect("confirmed");
        }
        let mut consumer = env.consumer(&client, &queue).await;
        next(&mut consumer).await.ack().await.map_err(|(error, _)| error).expect("acked");
        consumer.drain().await;
        let start = Instant::now();
        let mut rest = 0;
        while let Some(taken) = consumer.next_within(PATIENCE).await.expect("a drained consumer does not block") {
            taken.expect("no error").ack().await.map_err(|(error, _)| error).expect("acked");
            rest += 1;
            assert!(start.elapsed() < PATIENCE, "never ends");
        }
        assert!(rest <= 9, "{rest}");
    }
}
