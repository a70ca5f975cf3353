//! Closing, dropping and cancelling.

use std::time::Duration;

use fibp_proto::config::{Batching, ConsumerSettings, ProducerSettings};
use fibp_proto::request::Op;
use fibp_proto::{ErrorKind, Message, Outcome, Request, State};
use fila_conformance::adapter::Wait;
use fila_conformance::broker::P1;
use fila_conformance::cases;
use fila_conformance::env::{self, PATIENCE};
use fila_conformance::poll::{Polled, poll_times};
use fila_conformance::script::{Scripted, healthy};

cases! {
    Script;

    /// Row 7: close returns by its deadline though the server answers nothing, and says what it does not know.
    async fn row_07_close_returns_by_its_deadline(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1).request_timeout(None)).await.expect("a client");
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..10u8 {
            receipts.push(producer.send(Message::new("q", vec![n])).await.expect("room"));
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
        drop((producer, client));
        env.finish(server).await;
    }

    /// Row 15: close flushes what a producer holds, lingering or not, before it closes.
    async fn row_15_close_flushes_then_reports(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let linger = Batching::Linger { delay: Duration::from_secs(3600), max_messages: 1000 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..50u8 {
            receipts.push(producer.send(Message::new("q", vec![n])).await.expect("room"));
        }
        let report = client.close(PATIENCE).await;
        assert_eq!((report.flushed, report.failed, report.unknown), (50, 0, 0));
        for receipt in receipts {
            receipt.wait().await.expect("confirmed");
        }
        drop((producer, client));
        env.finish(server).await;
    }

    /// After a close every call says so at once, on every clone.
    async fn calls_after_close_say_closed(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
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
        drop((producer, clone, client));
        env.finish(server).await;
    }

    /// A close while the server cannot be reached ends by its deadline, too.
    async fn close_does_not_wait_for_a_dial(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if number == 0 {
                conversation.open();
                return conversation.close();
            }
            // Later connections are accepted and never answered.
            conversation.read_to_end();
        });
        let config = env::config(server.addr()).dialect(P1).connect_timeout(Duration::from_secs(3600));
        let client = env.connect(config).await.expect("a client");
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        client.close(Duration::from_millis(200)).await;
        assert_eq!(client.state(), State::Closed);
        drop(client);
        env.finish(server).await;
    }

    /// The last handle's drop closes the connection in the background.
    async fn the_last_drop_closes_the_connection(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number == 0 {
                conversation.serve(|request| healthy(request, 1));
            } else {
                conversation.confirm_consume();
                conversation.read_to_end();
            }
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let clone = client.duplicate();
        let consumer = env.consumer(&client, "q").await;
        drop(client);
        clone.enqueue(Message::new("q", "x")).await.expect("a clone keeps the client alive");
        drop(consumer);
        drop(clone);
        // Drivers of a current-thread runtime run only while something waits.
        env.finish(server).await;
    }

    /// Row 18: a call dropped at any point leaves the client usable, whatever was sent already.
    async fn row_18_calls_dropped_at_every_await_point(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 && conversation.next_request().is_some_and(|asked| {
                let confirm = matches!(asked.request, Request::Consume { .. });
                let answer = healthy(&asked.request, 1).expect("an answered request");
                conversation.answer(&asked, &answer);
                confirm
            }) {
                conversation.push((1..=3).map(|n| fila_conformance::script::delivery("q", n, "x")).collect());
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        let id = fila_conformance::script::message_id(1);
        type Call<'a> = Box<dyn Fn() -> Wait<'a, bool> + 'a>;
        let calls: Vec<(&str, Call<'_>)> = vec![
            ("enqueue", Box::new(|| { let call = client.enqueue(Message::new("q", "x")); Box::pin(async { call.await.is_ok() }) })),
            ("enqueue_many", Box::new(|| {
                let call = client.enqueue_many(vec![Message::new("q", "x"), Message::new("p", "y")]);
                Box::pin(async { call.await.iter().all(Result::is_ok) })
            })),
            ("ack", Box::new(|| { let call = client.ack("q", &id); Box::pin(async { call.await.is_ok() }) })),
            ("nack", Box::new(|| { let call = client.nack("q", &id, "why"); Box::pin(async { call.await.is_ok() }) })),
            ("ack_many", Box::new(|| {
                let call = client.ack_many(vec![("q".to_owned(), id.clone())]);
                Box::pin(async { call.await.iter().all(Result::is_ok) })
            })),
            ("stats", Box::new(|| { let call = client.queue_stats("q"); Box::pin(async { call.await.is_ok() }) })),
            ("create_queue", Box::new(|| { let call = client.create_queue("q".into()); Box::pin(async { call.await.is_ok() }) })),
            ("send", Box::new(|| { let call = producer.send(Message::new("q", "x")); Box::pin(async { call.await.is_ok() }) })),
            ("flush", Box::new(|| { let call = producer.flush(); Box::pin(async { call.await.is_ok() }) })),
            ("consumer", Box::new(|| {
                let call = client.consumer("q", ConsumerSettings::default());
                Box::pin(async {
                    let Ok(mut consumer) = call.await else { return false };
                    matches!(consumer.next_within(PATIENCE).await, Some(Some(Ok(_))))
                })
            })),
        ];
        for (name, call) in &calls {
            for polls in 0.. {
                match poll_times(call(), polls).await {
                    Polled::Ready(succeeded) => {
                        assert!(succeeded, "{name} after {polls} polls");
                        break;
                    }
                    Polled::Dropped => {
                        client.enqueue(Message::new("q", "between")).await.unwrap_or_else(|error| {
                            panic!("{name} dropped after {polls} polls: {error}")
                        });
                    }
                }
            }
        }
        drop(calls);
        let report = client.close(PATIENCE).await;
        assert_eq!((report.failed, report.unknown), (0, 0), "nothing is left open");
        drop((producer, client));
        env.finish(server).await;
    }

    /// Row 18: calls that time out leave no trace: their late answers are nobody's.
    async fn row_18_late_answers_of_timed_out_calls_disturb_nothing(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let late: Vec<_> = (0..3).map(|_| conversation.expect(Op::QueueStats)).collect();
            let asked = conversation.expect(Op::Enqueue);
            for late in &late {
                conversation.answer(late, &healthy(&late.request, 1).expect("an answer"));
            }
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            conversation.serve(|request| healthy(request, 2));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let impatient = client.with_timeout(Duration::from_millis(50));
        for _ in 0..3 {
            let error = impatient.queue_stats("q").await.expect_err("no answer in time");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        }
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        assert_eq!(client.stats().disconnects, 0, "the same connection");
        client.close(PATIENCE).await;
        drop((impatient, client));
        env.finish(server).await;
    }

    /// A receipt that is no longer waited for does not take its message back.
    async fn a_dropped_receipt_does_not_take_its_message_back(env: &Env) {
        let (got, messages) = std::sync::mpsc::channel();
        let got = std::sync::Mutex::new(got);
        let server = Scripted::start(P1, move |_, conversation| {
            conversation.open();
            conversation.serve(|request| {
                if let Request::Enqueue(messages) = request {
                    for message in messages {
                        got.lock().expect("one script").send(message.payload.clone()).expect("the test waits");
                    }
                }
                healthy(request, 1)
            });
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let producer = client.producer(ProducerSettings::default()).expect("a producer");
        drop(producer.send(Message::new("q", "dropped")).await.expect("room"));
        let late = producer.send(Message::new("q", "waited for")).await.expect("room");
        drop(late.wait_timeout(Duration::ZERO).await);
        producer.flush().await.expect("flushed");
        let got: Vec<_> = messages.try_iter().collect();
        assert_eq!(got, ["dropped", "waited for"]);
        drop((producer, client));
        env.finish(server).await;
    }
}

/// Row 25: a client may be dropped outside any runtime, and may outlive its runtime. Its calls end then.
mod row_25_drop_needs_no_runtime {
    use std::time::Duration;

    use fibp_proto::Message;
    use fila_conformance::adapter::Kind;
    use fila_conformance::broker::P1;
    use fila_conformance::env;
    use fila_conformance::script::{Scripted, healthy};
    use futures::executor::block_on;

    fn orphan(kind: Kind) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let adapter = kind.start();
        let client = adapter
            .orphan(env::config(server.addr()).dialect(P1))
            .expect("a client");
        let clone = client.duplicate();
        // Whether a driver is left to serve it depends on the adapter; what matters is that it ends.
        let sent = block_on(clone.enqueue(Message::new("q", "x")));
        let sent_again = block_on(clone.enqueue(Message::new("q", "x")));
        assert_eq!(sent.is_ok(), sent_again.is_ok());
        block_on(clone.close(Duration::from_secs(1)));
        drop(clone);
        drop(client);
        drop(adapter);
        server.finish();
    }

    #[test]
    fn tokio() {
        orphan(Kind::Tokio);
    }

    #[test]
    fn tokio_multi() {
        orphan(Kind::TokioMulti);
    }

    #[test]
    fn blocking() {
        orphan(Kind::Blocking);
    }

    #[test]
    fn asyncstd() {
        orphan(Kind::AsyncStd);
    }
}
