//! What handles and futures do when they are dropped, and where they can be used. The broker's behaviour is
//! the conformance suite's business.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fibp_proto::Op;
use fila_client_tokio::{Client, Config, ErrorKind, Event, Message, OnFull, State, Tokio};
use fila_test_broker::{Broker, Faults};
use tokio::runtime::{Builder, Runtime};

/// Long enough that reaching it is a failure.
const LONG: Duration = Duration::from_secs(20);

fn broker() -> Broker {
    Broker::builder().queue("orders").start().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn message(payload: &'static str) -> Message {
    Message::new("orders", payload)
}

/// Polls once, with a waker that does nothing.
fn poll_now<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls once and drops the future if it is not ready: what a `select!` does to the branch that loses.
async fn give_up<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn connecting_outside_a_runtime_is_an_error() {
    let Poll::Ready(Err(error)) = poll_now(Client::connect("fila://localhost:1")) else {
        panic!("connected");
    };
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[test]
fn connecting_on_a_runtime_without_time_or_io_is_an_error() {
    let without_time = Builder::new_current_thread().enable_io().build().unwrap();
    let without_io = Builder::new_current_thread().enable_time().build().unwrap();
    for (runtime, missing) in [(without_time, "time"), (without_io, "IO")] {
        let error = runtime.block_on(Client::connect("fila://localhost:1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&format!("without {missing}")), "{error}");
    }
}

#[test]
fn a_client_is_made_on_the_runtime_that_is_named() {
    let broker = broker();
    let served = runtime();
    let tokio = Tokio::new(served.handle().clone()).unwrap();
    let bare = Builder::new_current_thread().build().unwrap();
    let config = Config::new(broker.addr().to_string());
    let client = bare.block_on(Client::connect_on(tokio, config)).unwrap();
    assert!(bare.block_on(client.enqueue(message("one"))).is_ok());
}

#[test]
fn handles_are_used_and_dropped_outside_a_runtime() {
    let broker = broker();
    let runtime = runtime();
    let (client, producer, mut consumer) = runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let producer = client.producer().build().unwrap();
        let consumer = client.consume("orders").await.unwrap();
        (client, producer, consumer)
    });
    let receipt = producer.try_send(message("one")).unwrap();
    let delivery = runtime.block_on(consumer.next()).unwrap().unwrap();
    assert!(runtime.block_on(receipt).is_ok());
    drop((consumer, producer, client));
    drop(delivery);
    assert!(broker.wait_until(LONG, |machine| machine.connections() == 0));
}

#[test]
fn calls_fail_when_the_runtime_ends() {
    let broker = broker();
    broker.set_faults(Faults::default().stall(Op::Enqueue));
    let runtime = runtime();
    let (client, mut consumer, mut events) = runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let consumer = client.consume("orders").await.unwrap();
        let events = client.events();
        (client, consumer, events)
    });
    // First: the message below is stored, and delivered as soon as it is.
    assert!(poll_now(consumer.next()).is_pending());
    let mut under_way = pin!(client.enqueue(message("unanswered")));
    assert!(poll_now(under_way.as_mut()).is_pending());
    assert!(broker.wait_until(LONG, |machine| machine.queue("orders").unwrap().depth == 1));

    drop(runtime);
    let Poll::Ready(Err(failed)) = poll_now(under_way) else {
        panic!("still waiting");
    };
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert_eq!(failed.message, message("unanswered"));
    let Poll::Ready(Err(failed)) = poll_now(client.enqueue(message("late"))) else {
        panic!("waiting for nobody");
    };
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert!(poll_now(consumer.next()).is_ready());
    assert_eq!(client.state(), State::Closed);
    while let Poll::Ready(event) = poll_now(events.next()) {
        if event.is_none() {
            return;
        }
    }
    panic!("the events go on");
}

#[test]
fn the_last_handle_closes_the_connections() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let mut events = client.events();
        let view = client.with_timeout(LONG);
        let receipt = {
            let producer = client.producer().build().unwrap();
            drop(client);
            producer.send(message("last words")).await.unwrap()
        };
        drop(view);
        assert!(receipt.await.is_ok(), "the receipt kept the client");
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Lagged { .. }));
        }
    });
    assert!(broker.wait_until(LONG, |machine| machine.connections() == 0));
    assert_eq!(broker.queue_depth("orders"), 1);
}

#[test]
fn what_producers_hold_is_sent_after_the_last_handle_is_gone() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let producer = client.producer().build().unwrap();
        for _ in 0..100 {
            drop(producer.send(message("unattended")).await.unwrap());
        }
    });
    assert!(broker.wait_until(LONG, |machine| machine.queue("orders").unwrap().depth == 100));
}

#[test]
fn abandoned_calls_leave_the_client_usable() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let admin = client.admin();
        let id = client.enqueue(message("kept")).await.unwrap();
        let everything = [Op::Enqueue, Op::Ack, Op::Nack, Op::QueueStats, Op::ListQueues];
        let stalled = everything.into_iter().fold(Faults::default(), Faults::stall);
        broker.set_faults(stalled);
        for _ in 0..50 {
            assert!(give_up(client.enqueue(message("maybe"))).await.is_none());
            assert!(give_up(client.enqueue_many(vec![message("maybe"); 3])).await.is_none());
            assert!(give_up(client.nack("orders", &id, "no")).await.is_none());
            assert!(give_up(client.ack("orders", &id)).await.is_none());
            assert!(give_up(admin.queue_stats("orders")).await.is_none());
            assert!(give_up(admin.list_queues()).await.is_none());
            tokio::task::yield_now().await;
        }
        broker.set_faults(Faults::default());
        let last = client.enqueue(message("last")).await.unwrap();
        assert_ne!(last, id);
        assert!(admin.queue_stats("orders").await.unwrap().depth >= 2);
        assert_eq!(client.stats().disconnects, 0);
    });
}

#[test]
fn a_dropped_next_loses_nothing() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let mut consumer = client.consumer("orders").prefetch(4).open().await.unwrap();
        let sent = 200;
        let messages = (0..sent).map(|n| Message::new("orders", n.to_string())).collect();
        let results = client.enqueue_many(messages).await;
        assert!(results.iter().all(Result::is_ok));
        for n in 0..sent {
            let delivery = loop {
                match give_up(consumer.next()).await {
                    Some(item) => break item.unwrap().unwrap(),
                    None => tokio::task::yield_now().await,
                }
            };
            assert_eq!(delivery.payload(), n.to_string().as_bytes());
            drop(delivery.ack_queued());
        }
    });
    assert!(broker.wait_until(LONG, |machine| machine.queue("orders").unwrap().depth == 0));
}

#[test]
fn a_send_dropped_before_it_is_ready_sends_nothing() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let builder = client.producer().buffer(100).max_bytes(100);
        let producer = builder.clone().build().unwrap();
        broker.set_faults(Faults::default().stall(Op::Enqueue));
        let first = producer.send(Message::new("orders", vec![0; 90])).await.unwrap();
        assert!(give_up(producer.send(message("withdrawn"))).await.is_none());
        let refused = producer.try_send(message("refused")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert_eq!(refused.message, message("refused"));
        assert!(give_up(producer.flush()).await.is_none());
        broker.set_faults(Faults::default());
        first.await.unwrap();
        producer.flush().await.unwrap();
        assert_eq!(broker.queue_depth("orders"), 1);

        let failing = builder.on_full(OnFull::Fail).build().unwrap();
        broker.set_faults(Faults::default().stall(Op::Enqueue));
        let first = failing.send(Message::new("orders", vec![0; 90])).await.unwrap();
        let refused = failing.send(message("refused")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        broker.set_faults(Faults::default());
        first.await.unwrap();
    });
}

#[test]
fn a_send_dropped_when_there_is_room_but_before_it_is_polled_sends_nothing() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let producer = client.producer().buffer(100).max_bytes(100).build().unwrap();
        broker.set_faults(Faults::default().stall(Op::Enqueue));
        let first = producer.send(Message::new("orders", vec![0; 90])).await.unwrap();
        let mut dropped = Box::pin(producer.send(message("withdrawn")));
        assert!(give_up(dropped.as_mut()).await.is_none());
        let mut next = Box::pin(producer.send(Message::new("orders", vec![2; 90])));
        assert!(give_up(next.as_mut()).await.is_none());
        broker.set_faults(Faults::default());
        // Its answer makes room for the one that waits, which is not polled any more.
        first.await.unwrap();
        drop(dropped);
        let second = next.await.unwrap();
        second.await.unwrap();
        producer.flush().await.unwrap();
        assert_eq!(broker.queue_depth("orders"), 2);
    });
}

#[test]
fn a_dropped_close_closes() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(broker.url().as_str()).await.unwrap();
        let mut consumer = client.consume("orders").await.unwrap();
        broker.set_faults(Faults::default().stall(Op::Enqueue));
        let mut under_way = pin!(client.enqueue(message("flushed")));
        assert!(give_up(under_way.as_mut()).await.is_none());
        assert!(give_up(client.close(LONG)).await.is_none());
        let refused = client.enqueue(message("late")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
        broker.set_faults(Faults::default());
        under_way.await.unwrap();
        // It may have received the message; then it ends.
        while let Some(Ok(delivery)) = consumer.next().await {
            assert_eq!(delivery.payload(), "flushed");
        }
        assert!(consumer.next().await.is_none());
        let refused = client.consume("orders").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
    });
}

#[test]
fn an_abandoned_connect_leaves_nothing_behind() {
    let broker = broker();
    let runtime = runtime();
    runtime.block_on(async {
        let url = broker.url();
        for _ in 0..20 {
            drop(give_up(Client::connect(url.as_str())).await);
        }
        let client = Client::connect(url.as_str()).await.unwrap();
        drop(give_up(client.consume("orders")).await);
        assert!(client.close(LONG).await.unknown == 0);
    });
    assert!(broker.wait_until(LONG, |machine| machine.connections() == 0));
}
