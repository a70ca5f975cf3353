//! What the handles of every adapter offer besides the suite's operations: written once for the asynchronous ones, and once
//! for threads.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use fibp_proto::client::{AckItem, Client, Runtime};
use fibp_proto::config::Expired;
use fibp_proto::{AdminRevision, Dialect, ErrorKind, Message, State};
use fila_test_broker::Broker;

/// Long enough that reaching it is a failure.
const LONG: Duration = Duration::from_secs(30);

/// An address that nobody listens at.
fn vacant() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn lazy_url(address: SocketAddr) -> String {
    format!("fila://{address}?reconnect=backoff,5ms,20ms")
}

fn broker_at(address: SocketAddr) -> Broker {
    Broker::builder().listen(address).start().unwrap()
}

fn messages(n: usize) -> Vec<Message> {
    (0..n).map(|n| Message::new("orders", format!("{n}"))).collect()
}

const NO_FILE: &str = "fila+tls://localhost:1?ca_file=/nonexistent/ca.pem";

async fn handles<R: Runtime>() {
    let refused = Client::<R>::connect(NO_FILE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(
        refused.to_string().contains("cannot read \"/nonexistent/ca.pem\""),
        "{refused}"
    );

    let address = vacant();
    let client = Client::<R>::connect_lazy(lazy_url(address)).unwrap();
    let mut states = client.watch_state();
    assert_ne!(states.next().await, Some(State::Connected));
    let late = client.ready(Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(client.stats().open_connections, 0);
    let _broker = broker_at(address);
    client.ready(LONG).await.unwrap();
    while states.next().await != Some(State::Connected) {}
    assert!(client.ping().await.unwrap() < LONG);

    let name = String::from("orders");
    client.admin().create_queue(&name).await.unwrap();
    let mut consumer = client.consume(&name).await.unwrap();
    assert!(consumer.ready_chunk(10).is_empty());
    for result in client.enqueue_many(messages(5)).await {
        result.unwrap();
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < 5 {
        let chunk = consumer.next_many(2).await.unwrap().unwrap();
        assert!((1..=2).contains(&chunk.len()));
        deliveries.extend(chunk);
    }
    let payloads: Vec<_> = deliveries.iter().map(|delivery| delivery.payload().to_vec()).collect();
    assert_eq!(payloads, [b"0", b"1", b"2", b"3", b"4"]);
    assert_eq!(client.stats().open_connections, 2);
    for result in client.ack_many(&deliveries).await {
        result.unwrap();
    }
    let stats = client.stats();
    assert_eq!((stats.settled, stats.in_flight, stats.queued_bytes), (5, 0, 0));

    client.close(LONG).await;
    while states.next().await != Some(State::Closed) {}
    assert_eq!(states.next().await, None);
}

/// Whatever an ack is made of, it knows its lease.
async fn late_acks<R: Runtime>() {
    for broker in brokers() {
        let client = Client::<R>::connect(broker.url()).await.unwrap();
        client.enqueue(Message::new("orders", "one")).await.unwrap();
        let consumer = client.consumer("orders").visibility_timeout(SHORT);
        let mut consumer = consumer.expired(Expired::Deliver).open().await.unwrap();
        let delivery = consumer.next().await.unwrap().unwrap();
        client.ack("orders", delivery.id()).await.unwrap();
        while delivery.lease_deadline().unwrap() > Instant::now() {
            std::thread::yield_now();
        }
        let item = AckItem::from(&delivery);
        for results in [client.ack_many([&delivery]).await, client.ack_many([item]).await] {
            assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::LeaseLost);
        }
        let (_, acker) = delivery.into_parts();
        assert_eq!(acker.ack().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

const SHORT: Duration = Duration::from_millis(10);

fn brokers() -> impl Iterator<Item = Broker> {
    let dialects = [Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake].into_iter();
    dialects.map(|dialect| Broker::builder().dialect(dialect).queue("orders").start().unwrap())
}

/// Producers as the combinators of `futures` use them.
async fn sinks<R: Runtime>() {
    use futures::{SinkExt, StreamExt, stream};

    for broker in brokers() {
        let client = Client::<R>::connect(broker.url()).await.unwrap();
        // Room for a few messages only.
        let mut producer = client.producer().max_bytes(1000).buffer(1000).build().unwrap();
        let all = stream::iter(messages(1000)).map(Ok).forward(&mut producer).await;
        all.unwrap();
        let stored = broker.messages("orders");
        let payloads: Vec<_> = stored.iter().map(|message| message.payload.to_vec()).collect();
        let expected: Vec<_> = messages(1000).iter().map(|message| message.payload.to_vec()).collect();
        assert_eq!(payloads, expected, "in order, each once");

        // `forward` closed it; a clone is a sink of its own.
        let refused = SinkExt::send(&mut producer, Message::new("orders", "late"))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.kind(), &*refused.message.payload),
            (ErrorKind::Closed, b"late".as_slice())
        );
        let mut producer = producer.clone();
        producer.feed(Message::new("nowhere", "lost?")).await.unwrap();
        producer.feed(Message::new("orders", "last")).await.unwrap();
        let failed = SinkExt::flush(&mut producer).await.unwrap_err();
        assert_eq!(
            (failed.kind(), &*failed.message.payload),
            (ErrorKind::QueueNotFound, b"lost?".as_slice())
        );
        producer.close().await.unwrap();
        assert_eq!(broker.messages("orders").len(), 1001);
    }
}

async fn all<R: Runtime>() {
    handles::<R>().await;
    late_acks::<R>().await;
    sinks::<R>().await;
}

#[test]
fn tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(all::<fila_client_tokio::Tokio>());
}

#[test]
fn async_std() {
    async_std::task::block_on(all::<fila_client_asyncstd::AsyncStd>());
}

#[test]
fn blocking_late_acks() {
    for broker in brokers() {
        let client = fila_client_blocking::Client::connect(broker.url()).unwrap();
        client.enqueue(Message::new("orders", "one")).unwrap();
        let consumer = client.consumer("orders").visibility_timeout(SHORT);
        let mut consumer = consumer.expired(Expired::Deliver).open().unwrap();
        let delivery = consumer.next().unwrap().unwrap();
        client.ack("orders", delivery.id()).unwrap();
        while delivery.lease_deadline().unwrap() > Instant::now() {
            std::thread::yield_now();
        }
        let item = AckItem::from(&delivery);
        for results in [client.ack_many([&delivery]), client.ack_many([item])] {
            assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::LeaseLost);
        }
        let (_, acker) = delivery.into_parts();
        assert_eq!(acker.ack().unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

#[test]
fn blocking() {
    use fila_client_blocking::Client;

    let refused = Client::connect(NO_FILE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(
        refused.to_string().contains("cannot read \"/nonexistent/ca.pem\""),
        "{refused}"
    );

    let address = vacant();
    let client = Client::connect_lazy(lazy_url(address)).unwrap();
    let mut states = client.watch_state();
    assert_ne!(states.next(), Some(State::Connected));
    let late = client.ready(Duration::from_millis(20)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(client.stats().open_connections, 0);
    let _broker = broker_at(address);
    client.ready(LONG).unwrap();
    assert!(states.any(|state| state == State::Connected));
    assert!(client.ping().unwrap() < LONG);

    let name = String::from("orders");
    client.admin().create_queue(&name).unwrap();
    let mut consumer = client.consume(&name).unwrap();
    assert!(consumer.ready_chunk(10).is_empty());
    for result in client.enqueue_many(messages(5)) {
        result.unwrap();
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < 5 {
        let chunk = consumer.next_many(2).unwrap().unwrap();
        assert!((1..=2).contains(&chunk.len()));
        deliveries.extend(chunk);
    }
    let payloads: Vec<_> = deliveries.iter().map(|delivery| delivery.payload().to_vec()).collect();
    assert_eq!(payloads, [b"0", b"1", b"2", b"3", b"4"]);
    assert_eq!(client.stats().open_connections, 2);
    for result in client.ack_many(&deliveries) {
        result.unwrap();
    }
    let stats = client.stats();
    assert_eq!((stats.settled, stats.in_flight, stats.queued_bytes), (5, 0, 0));

    client.close(LONG);
    assert!(states.any(|state| state == State::Closed));
    assert_eq!(states.next(), None);
}
