//! The handles, against an embedded broker.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use fila_client_blocking::{
    Batching, Client, Config, ErrorKind, Event, Message, OnFull, Outcome, Received, Reconnect, State,
};
use fila_test_broker::Broker;

const QUEUE: &str = "orders";
const SOON: Duration = Duration::from_secs(30);

fn broker() -> (Broker, Client) {
    let broker = Broker::builder().queue(QUEUE).start().unwrap();
    let client = Client::connect(broker.url().as_str()).unwrap();
    (broker, client)
}

fn messages(n: usize) -> Vec<Message> {
    (0..n).map(|n| Message::new(QUEUE, format!("{n}"))).collect()
}

#[test]
fn deliveries_are_waited_for_polled_and_drained() {
    let (_broker, client) = broker();
    let mut consumer = client.consume(QUEUE).unwrap();
    assert!(consumer.try_recv().unwrap().is_none());
    assert!(consumer.recv_timeout(Duration::from_millis(20)).unwrap().is_none());

    let id = client
        .enqueue(Message::new(QUEUE, "first").header("tenant", "acme"))
        .unwrap();
    let delivery = consumer.recv_timeout(SOON).unwrap().unwrap();
    assert_eq!((delivery.id(), &delivery.payload()[..]), (&id, &b"first"[..]));
    assert_eq!(delivery.headers().get("tenant"), Some("acme"));
    delivery.ack().unwrap();

    for result in client.enqueue_many(messages(10)) {
        result.unwrap();
    }
    let first = consumer.next().unwrap().unwrap();
    assert_eq!(&first.payload()[..], b"0");
    consumer.drain();
    let rest = consumer.by_ref().map(|delivery| delivery.unwrap().ack_queued());
    for receipt in rest.collect::<Vec<_>>() {
        receipt.wait().unwrap();
    }
    assert!(consumer.next().is_none());
    assert_eq!(consumer.recv_timeout(SOON).unwrap_err().kind(), ErrorKind::Closed);
    first.ack().unwrap();
}

#[test]
fn a_failed_ack_gives_the_delivery_back() {
    let (_broker, client) = broker();
    client.enqueue(Message::new(QUEUE, "once")).unwrap();
    let delivery = client.consume(QUEUE).unwrap().next().unwrap().unwrap();
    client.ack(QUEUE, delivery.id()).unwrap();
    let failed = delivery.ack().unwrap_err();
    assert!(matches!(
        failed.kind(),
        ErrorKind::LeaseLost | ErrorKind::MessageNotFound
    ));
    assert_eq!(&failed.delivery.payload()[..], b"once");
}

#[test]
fn parts_go_to_a_pool_of_workers() {
    let (broker, client) = broker();
    for result in client.enqueue_many(messages(60)) {
        result.unwrap();
    }
    let consumer = client.consume(QUEUE).unwrap();
    let (sender, parts) = std::sync::mpsc::channel();
    let parts = std::sync::Mutex::new(parts);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Ok((received, acker)) = parts.lock().unwrap().recv() else {
                        return;
                    };
                    let _: Received = received;
                    let acker: fila_client_blocking::Acker = acker;
                    acker.ack().unwrap();
                }
            });
        }
        for delivery in consumer.take(60) {
            sender.send(delivery.unwrap().into_parts()).unwrap();
        }
        drop(sender);
    });
    assert_eq!(broker.queue_depth(QUEUE), 0);
}

#[test]
fn producers_batch_linger_flush_and_refuse() {
    let (broker, client) = broker();
    let linger = Batching::Linger {
        delay: Duration::from_secs(600),
        max_messages: 1000,
    };
    let producer = client.producer().batching(linger).build().unwrap();
    let mut receipt = producer.send(Message::new(QUEUE, "held back")).unwrap();
    assert!(receipt.wait_timeout(Duration::from_millis(20)).is_none());
    assert!(receipt.try_wait().is_none());
    producer.flush().unwrap();
    let id = receipt.try_wait().unwrap().unwrap();
    assert_eq!(receipt.wait().unwrap(), id, "a result is given again");

    let soon = Batching::Linger {
        delay: Duration::from_millis(5),
        max_messages: 1000,
    };
    let prompt = client.producer().batching(soon).build().unwrap();
    drop(prompt.send(Message::new(QUEUE, "nobody waits")).unwrap());
    assert!(broker.wait_until(SOON, |broker| broker.queue(QUEUE).is_some_and(|queue| queue.depth == 2)));

    let tiny = client
        .producer()
        .batching(linger)
        .max_bytes(1000)
        .buffer(1000)
        .on_full(OnFull::Fail)
        .build()
        .unwrap();
    let mut refused = None;
    for n in 0..100 {
        match tiny.send(Message::new(QUEUE, vec![0; 100])) {
            Ok(receipt) => drop(receipt),
            Err(error) => {
                refused = Some((n, error));
                break;
            }
        }
    }
    let (_, refused) = refused.unwrap();
    assert_eq!(
        (refused.kind(), refused.outcome()),
        (ErrorKind::Overloaded, Outcome::NotSent)
    );
    assert_eq!(refused.message.payload.len(), 100);
}

#[test]
fn lost_connections_are_made_again() {
    let (broker, client) = broker();
    let mut events = client.events();
    let mut consumer = client.consume(QUEUE).unwrap();
    for round in 0..5 {
        broker.kill_connections();
        // Fails if it was under way; waits for the next connection otherwise.
        while client.enqueue(Message::new(QUEUE, format!("{round}"))).is_err() {}
        let delivery = consumer.next().unwrap().unwrap();
        assert_eq!(&delivery.payload()[..], format!("{round}").as_bytes());
        delivery.ack().unwrap();
    }
    assert_eq!(client.state(), State::Connected);
    let lost = |event: &Event| matches!(event, Event::Disconnected { .. });
    assert!(events.by_ref().any(|event| lost(&event)));
    client.close(SOON);
    assert!(events.by_ref().count() > 0, "more events, then the end");
    assert!(consumer.next().is_none());
}

#[test]
fn connecting_fails_in_time_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let config = Config::new(addr).connect_timeout(Duration::from_millis(100));
    // Accepted by the operating system, never answered.
    assert_eq!(Client::connect(config.clone()).unwrap_err().kind(), ErrorKind::Timeout);
    drop(listener);
    // One attempt: on a busy machine a second one may still be under way when the time is up.
    let refused = Client::connect(config.reconnect(Reconnect::Never)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Connect, "{refused}");
    assert_eq!(Client::connect("fila://").unwrap_err().kind(), ErrorKind::Config);
    let unknown = Config::new("no-such-host.invalid:1").connect_timeout(SOON);
    assert_eq!(Client::connect(unknown).unwrap_err().kind(), ErrorKind::Resolve);
}

#[test]
fn closing_does_not_wait_for_a_dial() {
    let (broker, client) = broker();
    let mut events = client.events();
    broker.stop();
    assert!(events.any(|event| matches!(event, Event::Reconnecting { .. })));
    let pending = {
        let client = client.clone();
        thread::spawn(move || client.enqueue(Message::new(QUEUE, "never")))
    };
    client.close(Duration::from_millis(50));
    let failed = pending.join().unwrap().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Closed);
}
