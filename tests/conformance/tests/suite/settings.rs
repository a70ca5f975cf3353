//! Row 31: every setting has a test that fails when it is ignored.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fibp_proto::config::{Backoff, Batching, ConsumerSettings, Credit, OnFull, ProducerSettings, Reconnect, Replay};
use fibp_proto::event::Event;
use fibp_proto::request::Op;
use fibp_proto::{ErrorKind, Message, Outcome, Request, Secret, State};
use fila_conformance::broker::{FRAMED, P1, P3};
use fila_conformance::cases;
use fila_conformance::env::{self, PATIENCE, next};
use fila_conformance::script::{Scripted, delivery, healthy, message_id};

/// Longer than anything a test waits for: a setting that is ignored in favour of it makes the test hang and fail.
const NEVER: Duration = Duration::from_secs(3600);

fn stalled() -> Scripted {
    Scripted::start(P1, |_, conversation| {
        conversation.open();
        conversation.read_to_end();
    })
}

cases! {
    Script;

    async fn row_31_request_timeout(env: &Env) {
        let server = stalled();
        let config = env::config(server.addr()).dialect(P1).request_timeout(Duration::from_millis(50));
        let client = env.connect(config).await.expect("a client");
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("no answer");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        let error = client.list_queues().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        drop(client);
        env.finish(server).await;
    }

    async fn row_31_with_timeout_overrides_request_timeout(env: &Env) {
        let server = stalled();
        let client = env.connect(env::config(server.addr()).dialect(P1).request_timeout(NEVER)).await.expect("a client");
        let error = client.with_timeout(Duration::from_millis(50)).list_queues().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        drop(client);
        env.finish(server).await;
    }

    /// A server that accepts and says nothing: the connect timeout covers the handshake.
    async fn row_31_connect_timeout_covers_the_handshake(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.read_to_end();
        });
        let config = env::config(server.addr()).dialect(P1).connect_timeout(Duration::from_millis(100));
        let error = env.connect(config).await.err().expect("no handshake");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error}");
        env.finish(server).await;
    }

    /// An address that swallows packets: a listener whose backlog is full.
    async fn row_31_connect_timeout_covers_a_black_hole(env: &Env) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any_port = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any_port.into()).expect("a free port");
        socket.listen(0).expect("listening");
        let addr = socket.local_addr().expect("bound").as_socket().expect("an internet address");
        // Fills the backlog; whatever comes later is not even refused.
        let filling: Vec<_> = (0..4)
            .map(|_| std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(50)))
            .collect();
        let config = env::config(addr).connect_timeout(Duration::from_millis(200));
        let error = env.connect(config).await.err().expect("nobody accepts");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error}");
        drop(filling);
    }

    /// A stalled server is noticed by its missing heartbeats alone.
    async fn row_31_heartbeat(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 {
                return conversation.serve(|request| healthy(request, 1));
            }
            conversation.expect(Op::Enqueue);
            conversation.expect(Op::Heartbeat);
            conversation.read_to_end();
        });
        let config = env::config(server.addr()).dialect(P1).request_timeout(NEVER).heartbeat(Duration::from_millis(30), 2);
        let client = env.connect(config).await.expect("a client");
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("the connection is given up");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Disconnected, Outcome::Unknown), "{error}");
        client.enqueue(Message::new("q", "y")).await.expect("a new connection");
        drop(client);
        env.finish(server).await;
    }

    async fn row_31_max_in_flight_fails(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let first = [conversation.expect(Op::QueueStats), conversation.expect(Op::QueueStats)];
            // Only once the third was refused does the test ask for something else.
            for asked in &first {
                conversation.answer(asked, &healthy(&asked.request, 1).expect("an answer"));
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let config = env::config(server.addr()).dialect(P1).max_in_flight(2, 1 << 20).on_full(OnFull::Fail);
        let client = env.connect(config).await.expect("a client");
        let calls: Vec<_> = (0..3).map(|_| {
            let client = client.clone();
            env.spawn(async move { client.queue_stats("q").await.map(drop) })
        }).collect();
        let mut refused = 0;
        for call in calls {
            if let Err(error) = call.join().await {
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent), "{error}");
                refused += 1;
            }
        }
        assert!(refused <= 1, "two fit");
        drop(client);
        env.finish(server).await;
    }

    async fn row_31_max_in_flight_waits(env: &Env) {
        const LIMIT: usize = 2;
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            for _ in 0..3 {
                let batch: Vec<_> = (0..LIMIT).map(|_| conversation.expect(Op::QueueStats)).collect();
                assert!(conversation.is_quiet(), "no more than {LIMIT} are sent");
                for asked in &batch {
                    conversation.answer(asked, &healthy(&asked.request, 1).expect("an answer"));
                }
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let config = env::config(server.addr()).dialect(P1).max_in_flight(LIMIT, 1 << 20).no_heartbeat();
        let client = env.connect(config).await.expect("a client");
        let calls: Vec<_> = (0..3 * LIMIT).map(|_| {
            let client = client.clone();
            env.spawn(async move { client.queue_stats("q").await.map(drop) })
        }).collect();
        for call in calls {
            call.join().await.expect("it waited for room");
        }
        drop(client);
        env.finish(server).await;
    }

    async fn row_31_producer_buffer_and_on_full(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.expect(Op::Enqueue);
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1).request_timeout(NEVER)).await.expect("a client");
        let settings = ProducerSettings::default().max_bytes(1000).buffer(4000).on_full(OnFull::Fail);
        let producer = client.producer(settings).expect("a producer");
        let mut accepted = 0;
        let error = loop {
            match producer.send(Message::new("q", vec![0; 1000])).await {
                Ok(_receipt) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 10, "the buffer is not bounded");
        };
        assert!(accepted >= 1);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent), "{error}");
        assert_eq!(error.message.payload.len(), 1000, "the message comes back");

        let waiting = client.producer(ProducerSettings::default().max_bytes(1000).buffer(1500)).expect("a producer");
        drop(waiting.send(Message::new("q", vec![0; 1000])).await.expect("room for one"));
        let error = waiting.try_send(Message::new("q", vec![1; 1000])).err().expect("try_send never waits");
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        let (sender, message) = (Arc::new(waiting), Message::new("q", vec![2; 1000]));
        let blocked = env.spawn({
            let sender = sender.clone();
            async move { sender.send(message).await.map(drop).map_err(|error| error.kind()) }
        });
        client.close(Duration::from_millis(50)).await;
        let kind = blocked.join().await.expect_err("room never came");
        assert!(matches!(kind, ErrorKind::Closed | ErrorKind::Timeout), "{kind}");
        drop((sender, producer, client));
        env.finish(server).await;
    }

    async fn row_31_linger_gathers(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let asked = conversation.expect(Op::Enqueue);
            let Request::Enqueue(messages) = &asked.request else { unreachable!("expected above") };
            assert_eq!(messages.len(), 5, "one frame for five messages");
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1).request_timeout(NEVER)).await.expect("a client");
        let linger = Batching::Linger { delay: NEVER, max_messages: 5 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        let mut receipts = Vec::new();
        for n in 0..5u8 {
            receipts.push(producer.send(Message::new("q", vec![n])).await.expect("room"));
        }
        for receipt in receipts {
            receipt.wait().await.expect("the fifth ends the wait");
        }
        drop((producer, client));
        env.finish(server).await;
    }

    async fn row_31_linger_ends(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let delay = Duration::from_millis(20);
        let linger = Batching::Linger { delay, max_messages: 1000 };
        let producer = client.producer(ProducerSettings::default().batching(linger)).expect("a producer");
        let start = Instant::now();
        producer.send(Message::new("q", "x")).await.expect("room").wait().await.expect("confirmed");
        assert!(start.elapsed() >= delay, "it was held back");
        drop((producer, client));
        env.finish(server).await;
    }

    async fn row_31_batching_disabled_and_batch_limits(env: &Env) {
        let largest = Arc::new(AtomicU32::new(0));
        let seen = largest.clone();
        let server = Scripted::start(P1, move |_, conversation| {
            conversation.open();
            conversation.serve(|request| {
                if let Request::Enqueue(messages) = request {
                    seen.fetch_max(u32::try_from(messages.len()).unwrap_or(u32::MAX), Ordering::SeqCst);
                }
                healthy(request, 1)
            });
        });
        for (settings, limit) in [
            (ProducerSettings::default().batching(Batching::Disabled), 1),
            (ProducerSettings::default().max_messages(3), 3),
            (ProducerSettings::default().max_bytes(4500), 4),
        ] {
            largest.store(0, Ordering::SeqCst);
            let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
            let producer = client.producer(settings).expect("a producer");
            for n in 0..50u8 {
                drop(producer.send(Message::new("q", vec![n; 1000])).await.expect("room"));
            }
            producer.flush().await.expect("flushed");
            let largest = largest.load(Ordering::SeqCst);
            assert!((1..=limit).contains(&largest), "{largest} messages in a frame, {limit} allowed");
        }
        env.finish(server).await;
    }

    /// Deliveries that are not taken bound what is read: `prefetch` decides how many may wait.
    async fn row_31_prefetch_is_the_window(env: &Env) {
        const PREFETCH: u32 = 8;
        let server = Scripted::start(P3, |number, conversation| {
            conversation.open();
            if number == 0 {
                return conversation.serve(|request| healthy(request, 1));
            }
            let asked = conversation.confirm_consume();
            let Request::Consume { credit, .. } = asked.request else { unreachable!("expected above") };
            assert_eq!(credit, PREFETCH, "the window is the prefetch");
            let (mut balance, mut sent) = (credit, 0);
            // Sends exactly what it is paid for, as a server without bug 1 does; 100 messages need top-ups.
            while sent < 100 {
                while balance > 0 && sent < 100 {
                    sent += 1;
                    balance -= 1;
                    conversation.push(vec![delivery("q", sent, "x")]);
                }
                if sent < 100 {
                    let Request::Flow { credit } = conversation.expect(Op::Flow).request else { unreachable!() };
                    balance += credit;
                    assert!(balance <= PREFETCH, "{balance}");
                }
            }
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P3)).await.expect("a client");
        let settings = ConsumerSettings::default().prefetch(PREFETCH as usize).credit(Credit::Window);
        let mut consumer = client.consumer("q", settings).await.expect("a consumer");
        for n in 1..=100 {
            assert_eq!(next(&mut consumer).await.received().id, message_id(n));
        }
        drop((consumer, client));
        env.finish(server).await;
    }

    /// Rows 8 and 31: on servers with the credit bug the balance never comes near a batch.
    async fn row_08_row_31_standing_credit(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 {
                let asked = conversation.confirm_consume();
                let Request::Consume { credit, .. } = asked.request else { unreachable!("expected above") };
                assert!(credit >= 1 << 20, "{credit}");
                conversation.push(vec![delivery("q", 1, "x")]);
            }
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let mut consumer = env.consumer(&client, "q").await;
        next(&mut consumer).await;
        drop((consumer, client));
        env.finish(server).await;
    }

    /// A consumer that hears nothing subscribes anew: the server may have forgotten it.
    async fn row_31_idle_resubscribe(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if !conversation.open() || number == 0 {
                return conversation.read_to_end();
            }
            conversation.confirm_consume();
            if number >= 2 {
                conversation.push(vec![delivery("q", 1, "x")]);
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let settings = ConsumerSettings::default().idle_resubscribe(Duration::from_millis(50));
        let mut consumer = client.consumer("q", settings).await.expect("a consumer");
        assert_eq!(next(&mut consumer).await.received().id, message_id(1));
        drop((consumer, client));
        env.finish(server).await;
    }

    /// Lease deadlines are reckoned by the visibility timeout that the consumer was told, and late acks are reported.
    async fn row_31_visibility_timeout_and_late_acks(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 {
                conversation.confirm_consume();
                conversation.push(vec![delivery("q", 1, "x"), delivery("q", 2, "x")]);
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let mut events = client.events();
        let before = Instant::now();
        let settings = ConsumerSettings::default().visibility_timeout(Duration::from_millis(1000));
        let mut consumer = client.consumer("q", settings).await.expect("a consumer");
        let in_time = next(&mut consumer).await;
        let late = next(&mut consumer).await;
        let deadline = late.lease_deadline().expect("a reckoned deadline");
        assert!(deadline >= before && deadline <= Instant::now() + Duration::from_millis(1000));
        in_time.ack().await.map_err(|(error, _)| error).expect("acked");
        env.sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(5)).await;
        drop(late.ack().await);
        loop {
            if let Event::LateSettle { id, .. } = events.next().await.expect("events go on") {
                break assert_eq!(id, message_id(2));
            }
        }
        assert_eq!(client.stats().late_settles, 1);
        drop((events, consumer, client));
        env.finish(server).await;
    }

    async fn row_31_reconnect_never(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            assert_eq!(number, 0, "dialed again");
            conversation.open();
            conversation.close();
        });
        let config = env::config(server.addr()).dialect(P1).reconnect(Reconnect::Never);
        let client = env.connect(config).await.expect("a client");
        env.eventually("the loss is noticed", async || {
            matches!(client.state(), State::Closed | State::Failed)
        }).await;
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("closed for good");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
        drop(client);
        env.finish(server).await;
    }

    async fn row_31_reconnect_attempts_are_bounded(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if number == 0 {
                conversation.open();
            }
            conversation.close();
        });
        let backoff = Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(2), max_attempts: Some(3) };
        let config = env::config(server.addr()).dialect(P1).request_timeout(NEVER).reconnect(Reconnect::Backoff(backoff));
        let client = env.connect(config).await.expect("a client");
        env.eventually("the loss is noticed", async || client.state() != State::Connected).await;
        let error = client.enqueue(Message::new("q", "x")).await.expect_err("given up");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
        drop(client);
        env.finish(server).await;
    }

    /// Whether a request of unknown outcome is sent again.
    async fn row_31_replay(env: &Env) {
        for (replay, ack_survives, enqueue_survives) in [
            (Replay::Never, false, false),
            (Replay::SafeOps, true, false),
            (Replay::IncludingEnqueue, true, true),
        ] {
            let server = Scripted::start(P1, |number, conversation| {
                if !conversation.open() {
                    return;
                }
                // Every other connection dies with the request it was given.
                if number % 2 == 0 {
                    conversation.next_request();
                    return conversation.close();
                }
                let Some(asked) = conversation.next_request() else { return };
                conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
                conversation.close();
            });
            let config = env::config(server.addr()).dialect(P1).replay(replay);
            let client = env.connect(config.clone()).await.expect("a client");
            let acked = client.ack("q", &message_id(1)).await;
            assert_eq!(acked.is_ok(), ack_survives, "{replay:?}: {acked:?}");
            client.close(PATIENCE).await;
            env.finish(server).await;

            let server = Scripted::start(P1, |number, conversation| {
                if !conversation.open() {
                    return;
                }
                if number == 0 {
                    conversation.next_request();
                    return conversation.close();
                }
                conversation.serve(|request| healthy(request, 1));
            });
            let client = env.connect(env::config(server.addr()).dialect(P1).replay(replay)).await.expect("a client");
            let sent = client.enqueue(Message::new("q", "x")).await;
            assert_eq!(sent.is_ok(), enqueue_survives, "{replay:?}: {sent:?}");
            if let Err(error) = sent {
                assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            }
            client.close(PATIENCE).await;
            env.finish(server).await;
        }
    }

    /// The dialect is spoken as configured, and found out otherwise.
    async fn row_31_dialect(env: &Env) {
        let server = Scripted::start(FRAMED, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(FRAMED)).await.expect("a client");
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

    /// The key is asked for at each dial, and presented raw.
    async fn row_27_row_31_credentials(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if !conversation.open() {
                return;
            }
            let asked = conversation.expect(Op::Authenticate);
            let Request::Authenticate(key) = &asked.request else { unreachable!("expected above") };
            assert_eq!(key.expose(), format!("key-{number}"));
            assert!(conversation.is_quiet(), "the answer is awaited");
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            if number == 0 {
                return conversation.close();
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let asked = AtomicU32::new(0);
        let config = env::config(server.addr()).dialect(P1).credentials(move || {
            Secret::from(format!("key-{}", asked.fetch_add(1, Ordering::SeqCst)))
        });
        assert!(!format!("{config:?}").contains("key-"), "{config:?}");
        let client = env.connect(config).await.expect("a client");
        env.eventually("a second connection", async || client.stats().connections > 1).await;
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

    /// A credentials closure that panics fails one dial, not the client: the next dial asks again.
    async fn a_credentials_closure_may_panic(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if !conversation.open() {
                return;
            }
            let asked = conversation.expect(Op::Authenticate);
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            if number == 0 {
                return conversation.close();
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let asked = AtomicU32::new(0);
        let config = env::config(server.addr()).dialect(P1).credentials(move || {
            // The first dial of the client, and the first after a loss.
            let count = asked.fetch_add(1, Ordering::SeqCst);
            assert!(![0, 2].contains(&count), "no key at hand");
            Secret::from("key")
        });
        let client = env.connect(config).await.expect("a client");
        env.eventually("a second connection", async || client.stats().connections > 1).await;
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }
}
