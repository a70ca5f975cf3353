//! Closing, dropping and cancelling.

use std::time::Duration;

use fibp_proto::config::{Batching, ConsumerSettings, ProducerSettings};
use fibp_proto::{Error, ErrorKind, Message, MessageId, Outcome, State};
use fila_conformance::adapter::Wait;
use fila_conformance::cases;
use fila_conformance::env::{PATIENCE, next};
use fila_conformance::poll::{Polled, poll_times};
use fila_conformance::proxy::{Flow, Plan};

cases! {
    AnyServer;

    /// Row 7: close returns by its deadline though the server answers nothing, and says what it does not know.
    async fn row_07_close_returns_by_its_deadline(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy).request_timeout(None)).await.expect("a client");
        let queue = env.queue(&client).await;
        proxy.hold(Flow::Down);
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..10u8 {
            receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
        }
        let deadline = Duration::from_millis(300);
        let report = client.close(deadline).await;
        assert_eq!(report.flushed, 0);
        assert_eq!(report.failed + report.unknown, 10, "{report:?}");
        let mut unknown = 0;
        for (n, receipt) in (0u8..).zip(receipts) {
            let error = receipt.wait().await.expect_err("never answered");
            assert_eq!(error.message.payload.as_ref(), [n], "the message comes back");
            assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Timeout), "{error}");
            unknown += u64::from(error.outcome() == Outcome::Unknown);
        }
        assert_eq!(report.unknown, unknown, "the report agrees with the receipts");
    }

    /// Row 15: close flushes what a producer holds, lingering or not, before it closes.
    async fn row_15_close_flushes_then_reports(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let linger = Batching::Linger { delay: Duration::from_secs(3600), max_messages: 1000 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..50u8 {
            receipts.push(producer.send(Message::new(queue.as_str(), vec![n])).await.expect("room"));
        }
        let report = client.close(PATIENCE).await;
        if env.sends_one_each() {
            // There nothing lingers: what was confirmed before the close is none of its business.
            assert!(report.flushed <= 50, "{report:?}");
        } else {
            assert_eq!(report.flushed, 50);
        }
        assert_eq!((report.failed, report.unknown), (0, 0));
        for receipt in receipts {
            receipt.wait().await.expect("confirmed");
        }
        let other = env.client().await;
        assert_eq!(other.queue_stats(&queue).await.expect("stats").depth, 50);
    }

    /// After a close every call says so at once, on every clone.
    async fn calls_after_close_say_closed(env: &Env) {
        let client = env.client().await;
        let clone = client.duplicate();
        let producer = clone.producer(ProducerSettings::default()).expect("a producer");
        client.close(PATIENCE).await;
        assert_eq!(clone.state(), State::Closed);
        let error = clone.enqueue(Message::new("q", "x")).await.expect_err("closed");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotSent), "{error}");
        assert_eq!(error.message.payload.as_ref(), b"x");
        let error = producer.try_send(Message::new("q", "y")).err().expect("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let error = clone.list_queues().await.expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let Err(error) = clone.consumer("q", ConsumerSettings::default()).await else { panic!("closed") };
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let again = clone.close(PATIENCE).await;
        assert_eq!((again.flushed, again.failed, again.unknown), (0, 0, 0), "closing twice is no harm");
    }

    /// A close while the server cannot be reached ends by its deadline, too.
    async fn close_does_not_wait_for_a_dial(env: &Env) {
        // Later connections are accepted and never answered.
        let proxy = env.proxy(|number| if number == 0 { Plan::Pass } else { Plan::Hold(Flow::Down) });
        let config = env.through(&proxy).connect_timeout(Duration::from_secs(3600));
        let client = env.connect(config).await.expect("a client");
        proxy.cut();
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        client.close(Duration::from_millis(200)).await;
        assert_eq!(client.state(), State::Closed);
    }

    /// The last handle's drop closes the connections in the background.
    async fn the_last_drop_closes_the_connection(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue(&client).await;
        let clone = client.duplicate();
        let consumer = env.consumer(&client, &queue).await;
        drop(client);
        clone.enqueue(Message::new(queue.as_str(), "x")).await.expect("a clone keeps the client alive");
        assert!(proxy.open() > 0);
        drop(consumer);
        drop(clone);
        // Drivers of a current-thread runtime run only while something waits.
        env.eventually("the connections are closed", async || proxy.open() == 0).await;
    }

    /// Row 18: calls that time out leave no trace: their late answers are nobody's.
    async fn row_18_late_answers_of_timed_out_calls_disturb_nothing(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.through(&proxy)).await.expect("a client");
        let queue = env.queue(&client).await;
        proxy.hold(Flow::Down);
        let impatient = client.with_timeout(Duration::from_millis(50));
        for _ in 0..3 {
            let error = impatient.queue_stats(&queue).await.expect_err("no answer in time");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        }
        let enqueued = env.spawn({
            let (client, queue) = (client.clone(), queue.clone());
            async move { client.enqueue(Message::new(queue.as_str(), "x")).await }
        });
        proxy.release();
        enqueued.join().await.expect("confirmed");
        assert_eq!(client.queue_stats(&queue).await.expect("stats").depth, 1);
        assert_eq!(client.stats().disconnects, 0, "the same connection");
        client.close(PATIENCE).await;
    }

    /// A receipt that is no longer waited for does not take its message back.
    async fn a_dropped_receipt_does_not_take_its_message_back(env: &Env) {
        let client = env.client().await;
        let queue = env.queue(&client).await;
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        drop(producer.send(Message::new(queue.as_str(), "dropped")).await.expect("room"));
        let late = producer.send(Message::new(queue.as_str(), "waited for")).await.expect("room");
        drop(late.wait_timeout(Duration::ZERO).await);
        producer.flush().await.expect("flushed");
        let mut consumer = env.consumer(&client, &queue).await;
        for payload in ["dropped", "waited for"] {
            assert_eq!(next(&mut consumer).await.received().payload, payload);
        }
    }
}

mod dropped {
    use super::*;

    /// What a server says of a message or a queue that is gone or there already is an answer, too.
    fn is_answered<T>(result: Result<T, Error>) -> bool {
        let kinds = [ErrorKind::MessageNotFound, ErrorKind::LeaseLost, ErrorKind::QueueExists];
        result.map_or_else(|error| kinds.contains(&error.kind()), |_| true)
    }

    cases! {
        QuietServer;

        /// Row 18: a call dropped at any point leaves the client usable, whatever was sent already.
        async fn row_18_calls_dropped_at_every_await_point(env: &Env) {
            let client = env.client().await;
            let soon = Duration::from_secs(1);
            let queue = env.queue(&client).await;
            let (other, created) = (env.queue(&client).await, env.queue_name());
            // What a consumer that was dropped had leased comes back soon.
            let consumed = env.queue_with(&client, |spec| spec.visibility_timeout(soon)).await;
            let producer = client.producer(ProducerSettings::default()).expect("a producer");
            let id = MessageId::from("0195d3c8-5f2a-7abc-8def-000000000001");
            let message = || Message::new(queue.as_str(), "x");
            type Call<'a> = Box<dyn Fn() -> Wait<'a, bool> + 'a>;
            let calls: Vec<(&str, Call<'_>)> = vec![
                ("enqueue", Box::new(|| { let call = client.enqueue(message()); Box::pin(async { call.await.is_ok() }) })),
                ("enqueue_many", Box::new(|| {
                    let call = client.enqueue_many(vec![message(), Message::new(other.as_str(), "y")]);
                    Box::pin(async { call.await.iter().all(Result::is_ok) })
                })),
                ("ack", Box::new(|| { let call = client.ack(&queue, &id); Box::pin(async { is_answered(call.await) }) })),
                ("nack", Box::new(|| { let call = client.nack(&queue, &id, "why"); Box::pin(async { is_answered(call.await) }) })),
                ("ack_many", Box::new(|| {
                    let call = client.ack_many(vec![(queue.clone(), id.clone())]);
                    Box::pin(async { call.await.into_iter().all(is_answered) })
                })),
                ("stats", Box::new(|| { let call = client.queue_stats(&queue); Box::pin(async { call.await.is_ok() }) })),
                ("create_queue", Box::new(|| { let call = client.create_queue(created.as_str().into()); Box::pin(async { is_answered(call.await) }) })),
                ("send", Box::new(|| { let call = producer.send(message()); Box::pin(async { call.await.is_ok() }) })),
                ("flush", Box::new(|| { let call = producer.flush(); Box::pin(async { call.await.is_ok() }) })),
                ("consumer", Box::new(|| {
                    let call = client.consumer(&consumed, ConsumerSettings::default());
                    Box::pin(async {
                        let Ok(mut consumer) = call.await else { return false };
                        matches!(consumer.next_within(PATIENCE).await, Some(Some(Ok(_))))
                    })
                })),
            ];
            client.enqueue(Message::new(consumed.as_str(), "first")).await.expect("confirmed");
            for (name, call) in &calls {
                for polls in 0.. {
                    match poll_times(call(), polls).await {
                        Polled::Ready(succeeded) => {
                            assert!(succeeded, "{name} after {polls} polls");
                            break;
                        }
                        Polled::Dropped => {
                            client.enqueue(Message::new(consumed.as_str(), "between")).await.unwrap_or_else(|error| {
                                panic!("{name} dropped after {polls} polls: {error}")
                            });
                        }
                    }
                }
            }
            drop(calls);
            let report = client.close(PATIENCE).await;
            assert_eq!((report.failed, report.unknown), (0, 0), "nothing is left open");
        }
    }
}
