//! A fourth adapter, written on the trait alone, goes through the steps of the quickstart.

mod runtime;

use std::time::Duration;

use fibp_proto::client::AckItem;
use fibp_proto::client::{AckReceipt, Acker, Client, Consumer, Delivery, Producer, Receipt};
use fibp_proto::{Config, ErrorKind, Message, Outcome};
use fila_test_broker::Broker;
use runtime::Smol;

/// Long enough that reaching it is a failure.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn the_quickstart_runs_on_another_runtime() {
    let broker = Broker::builder().start().unwrap();
    let smol = Smol::default();
    smol.block_on(async {
        let config = Config::new(broker.addr()).request_timeout(LONG);
        let client = Client::connect_on(smol.clone(), config).await.unwrap();
        let admin = client.admin();
        admin.create_queue("tour").await.unwrap();

        let first = Message::new("tour", "first").header("tenant", "acme");
        client.enqueue(first).await.unwrap();
        let messages = ["second", "third"].map(|payload| Message::new("tour", payload));
        let results = client.enqueue_many(messages.into()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let producer: Producer<Smol> = client.producer().build().unwrap();
        let receipt: Receipt<Smol> = producer.send(Message::new("tour", "fourth")).await.unwrap();
        producer.flush().await.unwrap();
        receipt.await.unwrap();

        let builder = client.consumer("tour").prefetch(16).verify_queue(true);
        let mut consumer: Consumer<Smol> = builder.open().await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let delivery: Delivery<Smol> = consumer.next().await.unwrap().unwrap();
            let text = String::from_utf8(delivery.payload().to_vec()).unwrap();
            assert_eq!(delivery.headers().get("tenant"), (text == "first").then_some("acme"));
            seen.push((text.clone(), delivery.attempt_count()));
            match (text.as_str(), delivery.attempt_count()) {
                ("third", 0) => delivery.nack("not today").await.unwrap(),
                ("third", _) => {
                    let (_, acker): (_, Acker<Smol>) = delivery.into_parts();
                    acker.ack().await.unwrap();
                }
                ("fourth", _) => {
                    let receipt: AckReceipt<Smol> = delivery.ack_queued();
                    receipt.await.unwrap();
                }
                ("second", _) => {
                    let results = client.ack_many([AckItem::from(&delivery)]).await;
                    assert!(results.iter().all(Result::is_ok), "{results:?}");
                }
                _ => delivery.ack().await.unwrap(),
            }
        }
        seen.sort();
        let expected = [("first", 0), ("fourth", 0), ("second", 0), ("third", 0), ("third", 1)];
        assert_eq!(seen, expected.map(|(text, attempt)| (text.to_owned(), attempt)));

        let failed = client
            .enqueue(Message::new("no-such-queue", "lost?"))
            .await
            .unwrap_err();
        assert_eq!(
            (failed.kind(), failed.outcome()),
            (ErrorKind::QueueNotFound, Outcome::Rejected)
        );
        assert_eq!(failed.message.payload.as_ref(), b"lost?");
        drop(consumer);
        assert_eq!(admin.queue_stats("tour").await.unwrap().depth, 0);
        admin.delete_queue("tour").await.unwrap();
        let report = client.close(LONG).await;
        assert_eq!((report.failed, report.unknown), (0, 0));
        // The connections close in tasks of this executor, which runs no longer than this future.
        while !broker.wait_until(Duration::ZERO, |machine| machine.connections() == 0) {
            async_io::Timer::after(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn an_executor_must_be_named() {
    let error = Smol::default()
        .block_on(Client::<Smol>::connect("fila://localhost:1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
