//! What a server may do on the wire, played by a scripted server.

use std::sync::mpsc;
use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, Replay};
use fibp_proto::request::Op;
use fibp_proto::response::ServerError;
use fibp_proto::{ErrorKind, Message, Outcome, Request, Response};
use fila_conformance::broker::P1;
use fila_conformance::cases;
use fila_conformance::env::{self, PATIENCE, next};
use fila_conformance::script::{
    Conversation, Scripted, consume_ok, delivery, frame_bytes, healthy, message_id, refusal,
};

/// Serves a main connection that answers everything.
fn serve(conversation: &mut Conversation) {
    conversation.open();
    conversation.serve(|request| healthy(request, 1));
}

cases! {
    Peer;

    /// Row 3: the error that answers a consume is the result of opening the consumer.
    async fn row_03_an_error_that_answers_a_consume_is_its_result(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number == 0 {
                return conversation.read_to_end();
            }
            let asked = conversation.expect(Op::Consume);
            let text = "permission denied: key does not have consume permission on queue \"q\"";
            conversation.answer(&asked, &refusal(ErrorKind::Forbidden, text));
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let Err(error) = client.consumer("q", ConsumerSettings::default()).await else { panic!("forbidden") };
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Forbidden, Outcome::Rejected), "{error}");
        drop(client);
        env.finish(server).await;
    }

    /// Row 10: a server that answers fewer results than there were messages leaves none without an outcome.
    async fn row_10_fewer_results_than_messages(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let asked = conversation.expect(Op::Enqueue);
            conversation.answer(&asked, &Response::Enqueue(vec![Ok(message_id(1)), Ok(message_id(2))]));
            conversation.serve(|request| match request {
                Request::Ack(_) => Some(Response::Ack(vec![Ok(())])),
                other => healthy(other, 3),
            });
        });
        let config = env::config(server.addr()).dialect(P1).replay(Replay::Never);
        let client = env.connect(config).await.expect("a client");
        let results = client.enqueue_many((0..5).map(|n| Message::new("q", vec![n])).collect()).await;
        assert_eq!(results.len(), 5);
        assert_eq!(results[0].as_ref().expect("confirmed"), &message_id(1));
        assert_eq!(results[1].as_ref().expect("confirmed"), &message_id(2));
        for result in &results[2..] {
            let error = result.as_ref().expect_err("no result came");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Unknown), "{error}");
        }
        let items = (1..=3).map(|n| ("q".to_owned(), message_id(n))).collect();
        let results = client.ack_many(items).await;
        assert!(results.len() == 3 && results[0].is_ok() && results[1].is_err() && results[2].is_err());
        client.enqueue(Message::new("q", "x")).await.expect("still usable");
        drop(client);
        env.finish(server).await;
    }

    /// Row 13: a push that cannot be decoded is an error that names the queue; what came before is not lost.
    async fn row_13_an_undecodable_push_is_an_error(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number == 0 {
                return conversation.read_to_end();
            }
            conversation.confirm_consume();
            let mut both = conversation.encode_push(vec![delivery("orders", 1, "x")]);
            // One delivery is announced, but its id is cut short.
            both.extend(frame_bytes(0x04, 0x02, 0, &[0, 1, 0, 36, b'x']));
            conversation.write(&both);
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let settings = ConsumerSettings::default().resubscribe(false);
        let mut consumer = client.consumer("orders", settings).await.expect("a consumer");
        assert_eq!(next(&mut consumer).await.received().id, message_id(1));
        let Some(Some(Err(error))) = consumer.next_within(PATIENCE).await else { panic!("no error") };
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.to_string().contains("orders"), "names the queue: {error}");
        drop((consumer, client));
        env.finish(server).await;
    }

    /// Row 14: answers are matched by id, whatever their order; unknown and repeated ids disturb nothing.
    async fn row_14_answers_match_by_id_alone(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let asked: Vec<_> = (0..3).map(|_| conversation.expect(Op::QueueStats)).collect();
            let stray = frame_bytes(0, 0x12, 0xDEAD_BEEF, &[]);
            conversation.write(&stray);
            for asked in asked.iter().rev() {
                let Request::QueueStats { queue } = &asked.request else { unreachable!("expected above") };
                let stats = fibp_proto::admin::QueueStats::default().depth(queue.len() as u64);
                let answer = conversation.encode(asked, &Response::QueueStats(stats));
                conversation.write(&answer);
                conversation.write(&answer);
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let calls: Vec<_> = ["a", "bb", "ccc"].into_iter().map(|queue| {
            let client = client.clone();
            env.spawn(async move { client.queue_stats(queue).await.map(|stats| (queue.len() as u64, stats.depth)) })
        }).collect();
        for call in calls {
            let (expected, depth) = call.join().await.expect("stats");
            assert_eq!(depth, expected);
        }
        client.enqueue(Message::new("q", "x")).await.expect("still usable");
        drop(client);
        env.finish(server).await;
    }

    /// Row 17: the codes of single results mean what the specification says.
    async fn row_17_item_errors_have_the_kinds_of_the_specification(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| {
                let item = |code, text: &str| Box::new(ServerError::new(ErrorKind::Server, text).with_code(code));
                Some(match request {
                    Request::Ack(_) => Response::Ack(vec![Err(item(1, "no lease"))]),
                    Request::Nack(_) => Response::Nack(vec![Err(item(2, "storage engine error: disk"))]),
                    Request::Enqueue(_) => Response::Enqueue(vec![Err(item(1, "queue name must not be empty"))]),
                    other => return healthy(other, 1),
                })
            });
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let id = message_id(1);
        let error = client.ack("q", &id).await.expect_err("no lease");
        assert!(matches!(error.kind(), ErrorKind::MessageNotFound | ErrorKind::LeaseLost), "{error}");
        let error = client.nack("q", &id, "why").await.expect_err("a failing disk");
        assert_eq!(error.kind(), ErrorKind::Server, "{error}");
        assert_eq!(error.server_text(), Some("storage engine error: disk"));
        let error = client.enqueue(Message::new("", "x")).await.expect_err("no name");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        drop(client);
        env.finish(server).await;
    }

    /// Row 26: preamble pushes carry id 0; the consume's own id is accepted too.
    async fn row_26_pushes_are_accepted_under_both_ids(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 {
                let asked = conversation.confirm_consume();
                conversation.push(vec![delivery("q", 1, "x")]);
                let mut under_consume_id = conversation.encode_push(vec![delivery("q", 2, "x")]);
                under_consume_id[6..10].copy_from_slice(&asked.id.to_be_bytes());
                conversation.write(&under_consume_id);
            }
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let mut consumer = env.consumer(&client, "q").await;
        assert_eq!(next(&mut consumer).await.received().id, message_id(1));
        assert_eq!(next(&mut consumer).await.received().id, message_id(2));
        drop((consumer, client));
        env.finish(server).await;
    }

    /// The consume's confirmation and the first push in one segment: nothing is lost.
    async fn a_push_may_come_with_the_confirmation(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            conversation.open();
            if number > 0 {
                let asked = conversation.expect(Op::Consume);
                let mut bytes = conversation.encode(&asked, &consume_ok());
                bytes.extend(conversation.encode_push(vec![delivery("q", 1, "x")]));
                conversation.write(&bytes);
            }
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        let mut consumer = env.consumer(&client, "q").await;
        assert_eq!(next(&mut consumer).await.received().id, message_id(1));
        drop((consumer, client));
        env.finish(server).await;
    }

    /// A server that says goodbye is left, and dialed again.
    async fn a_goodbye_is_a_lost_connection(env: &Env) {
        let (said, heard) = mpsc::channel();
        let said = std::sync::Mutex::new(said);
        let server = Scripted::start(P1, move |number, conversation| {
            conversation.open();
            if number == 0 {
                let asked = conversation.expect(Op::Enqueue);
                conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
                conversation.goaway("maintenance");
                said.lock().expect("one script").send(()).expect("the test waits");
                return conversation.read_to_end();
            }
            conversation.serve(|request| healthy(request, 2));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        heard.recv_timeout(PATIENCE).expect("the goodbye is sent");
        env.eventually("the goodbye is heeded", async || client.stats().disconnects > 0).await;
        assert_eq!(client.enqueue(Message::new("q", "y")).await.expect("elsewhere"), message_id(2));
        drop(client);
        env.finish(server).await;
    }

    /// A heartbeat of the server's is answered under its id, and is nobody's answer.
    async fn a_server_heartbeat_is_answered(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            conversation.open();
            let asked = conversation.expect(Op::Enqueue);
            conversation.heartbeat(0x7777_0001);
            let beat = conversation.expect(Op::Heartbeat);
            assert_eq!(beat.id, 0x7777_0001);
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            conversation.serve(|request| healthy(request, 2));
        });
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

    /// The healthy default of these tests is healthy.
    async fn a_scripted_server_serves(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| serve(conversation));
        let client = env.connect(env::config(server.addr()).dialect(P1)).await.expect("a client");
        assert_eq!(client.enqueue(Message::new("q", "x")).await.expect("confirmed"), message_id(1));
        let report = client.close(PATIENCE).await;
        assert_eq!((report.failed, report.unknown), (0, 0));
        env.finish(server).await;
    }
}

mod strangers {
    use super::*;

    cases! {
        Peer;

        /// Row 28: what else may listen there is named in the error.
        async fn row_28_other_servers_are_named(env: &Env) {
            let strangers: [(&[u8], &[ErrorKind], &str); 4] = [
                (&[0, 0, 0x12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0, 0, 6, 0, 0, 0x40, 0],
                    &[ErrorKind::NotFila, ErrorKind::WrongDialect], "gRPC"),
                (&[0x15, 3, 3, 0, 2, 2, 50], &[ErrorKind::Tls, ErrorKind::NotFila, ErrorKind::WrongDialect], "TLS"),
                (b"SSH-2.0-OpenSSH_9.2\r\n", &[ErrorKind::NotFila], "53 53 48"),
                (&frame_bytes(0, 0xFF, 0, b"unsupported protocol version 2.x (server supports 1.x)"),
                    &[ErrorKind::WrongDialect, ErrorKind::NotFila], "server supports 1.x"),
            ];
            for (bytes, kinds, hint) in strangers {
                let bytes = bytes.to_vec();
                let server = Scripted::start(P1, move |_, conversation| {
                    if !conversation.wait_for_bytes(4) {
     return;
     }
                    conversation.write(&bytes);
                    conversation.half_close();
                    conversation.read_to_end();
                });
                let config = env::config(server.addr()).connect_timeout(Duration::from_secs(5));
                let Err(error) = env.connect(config).await else { panic!("connected to a stranger") };
                assert!(kinds.contains(&error.kind()), "{error:?}");
                assert!(error.to_string().contains(hint), "{hint}: {error}");
                env.finish(server).await;
            }
        }
    }
}
