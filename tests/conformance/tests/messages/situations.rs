//! The situations, each as a user would get into it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, QueueSpec};
use fibp_proto::config::{Backoff, Batching, Config, ConsumerSettings, OnFull, ProducerSettings, Reconnect};
use fibp_proto::event::State;
use fibp_proto::request::Op;
use fibp_proto::tls::Tls;
use fibp_proto::{Error, ErrorKind, Message, MessageId};
use fila_conformance::adapter::Client;
use fila_conformance::broker::{Broker, FRAMED, Faults, P3, ServerTls, start, start_with};
use fila_conformance::env::{Env, PATIENCE};
use fila_conformance::script::Scripted;
use fila_test_broker::certs::Authority;

use crate::report::Report;

const SHORT: Duration = Duration::from_millis(300);
const LONGER: Duration = Duration::from_secs(1);

async fn client(env: &Env, addr: SocketAddr) -> Arc<dyn Client> {
    env.connect(config(addr)).await.expect("a client")
}

fn config(addr: impl ToString) -> Config {
    Config::new(addr.to_string().as_str())
}

async fn refused(env: &Env, config: Config) -> Error {
    env.connect(config).await.err().expect("no connection")
}

fn message(queue: &str) -> Message {
    Message::new(queue, "x")
}

fn unknown_id() -> MessageId {
    MessageId::from("018f0000-0000-7000-8000-000000000001")
}

/// An address where nothing listens.
fn closed_port() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").to_string()
}

fn attempts(max_attempts: u32) -> Reconnect {
    Reconnect::Backoff(Backoff {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(2),
        max_attempts: Some(max_attempts),
    })
}

/// A server that answers every connection with these bytes.
fn stranger(bytes: &'static [u8]) -> Scripted {
    Scripted::start(P3, move |_, conversation| {
        if conversation.wait_for_bytes(4) {
            conversation.write(bytes);
            conversation.half_close();
            conversation.read_to_end();
        }
    })
}

pub(crate) async fn connecting(env: &Env, report: &mut Report) {
    let (one, two) = (closed_port(), closed_port());
    let error = refused(env, config(&one).reconnect(Reconnect::Never)).await;
    report.add("Nothing listens there", &[(&one, "broker:5555")], &error);
    let error = refused(env, config(&one).reconnect(attempts(3))).await;
    report.add(
        "Nothing listens there, three attempts",
        &[(&one, "broker:5555")],
        &error,
    );
    let error = refused(env, config(format!("{one},{two}")).reconnect(Reconnect::Never)).await;
    report.add(
        "Two servers, both refuse",
        &[(&one, "one:5555"), (&two, "two:5555")],
        &error,
    );

    let error = refused(env, config("nowhere.invalid:5555").reconnect(Reconnect::Never)).await;
    let text = error.to_string();
    // The words are the resolver's, and differ between machines.
    let words = text
        .split("failed: ")
        .nth(1)
        .and_then(|rest| rest.split(" (1 attempt)").next());
    let words = words.unwrap_or_default().to_owned();
    assert!(!words.is_empty(), "{text}");
    report.add("An unknown host name", &[(&words, "RESOLVER'S WORDS")], &error);

    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = silent.local_addr().expect("bound").to_string();
    let error = refused(env, config(&addr).connect_timeout(LONGER)).await;
    report.add(
        "A black hole: accepted, then silence",
        &[(&addr, "broker:5555")],
        &error,
    );
    let error = refused(
        env,
        config(&addr)
            .tls(Tls::ca_pem(authority().pem()))
            .connect_timeout(LONGER),
    )
    .await;
    report.add("A black hole, with TLS", &[(&addr, "broker:5555")], &error);

    for (name, bytes) in [
        ("An HTTP server", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        (
            "A gRPC server",
            &[
                0, 0, 0x12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0, 0, 6, 0, 0, 0x40, 0,
            ],
        ),
    ] {
        let server = stranger(bytes);
        let addr = server.addr().to_string();
        let error = refused(env, config(&addr)).await;
        report.add(name, &[(&addr, "broker:5555")], &error);
        env.finish(server).await;
    }

    let broker = start(P3);
    let addr = broker.addr().to_string();
    let error = refused(env, config(&addr).dialect(FRAMED).reconnect(Reconnect::Never)).await;
    report.add(
        "The configured dialect is not the server's",
        &[(&addr, "broker:5555")],
        &error,
    );

    let error = "fila://broker?colour=red"
        .parse::<Config>()
        .expect_err("no such option");
    report.add("A URL with an unknown option", &[], &error);
}

fn authority() -> Authority {
    Authority::new().expect("an authority")
}

fn with_tls(identity: &fila_test_broker::certs::Identity) -> Broker {
    let tls = ServerTls::from_pem(&identity.chain_pem, &identity.key_pem).expect("an identity");
    start_with(P3, |builder| builder.tls(tls))
}

pub(crate) async fn tls(env: &Env, report: &mut Report) {
    let authority = authority();
    let trusting = Tls::ca_pem(authority.pem());
    let broker = with_tls(&authority.server(&["localhost", "127.0.0.1"]).expect("a certificate"));
    let addr = broker.addr().to_string();
    let places = [(&*addr, "broker:5555")];

    let error = refused(env, config(&addr)).await;
    report.add("A TLS server and a plaintext URL", &places, &error);
    let stranger = Tls::ca_pem(self::authority().pem());
    let error = refused(env, config(&addr).tls(stranger)).await;
    report.add("A certificate of an unknown authority", &places, &error);
    let elsewhere = trusting.clone().server_name("elsewhere.example");
    let error = refused(env, config(&addr).tls(elsewhere)).await;
    report.add("A certificate for other names", &places, &error);

    let expired = with_tls(&authority.expired_server(&["127.0.0.1"]).expect("a certificate"));
    let addr = expired.addr().to_string();
    let error = refused(env, config(&addr).tls(trusting.clone())).await;
    let text = error.to_string();
    let now = text.split("clock says ").nth(1).and_then(|rest| rest.split(')').next());
    let now = now.expect("the text says what the clock says").to_owned();
    report.add(
        "An expired certificate",
        &[(&addr, "broker:5555"), (&now, "2026-11-26 10:30:00 UTC")],
        &error,
    );

    let plain = start(FRAMED);
    let addr = plain.addr().to_string();
    let error = refused(env, config(&addr).tls(trusting)).await;
    report.add("A plaintext server and a TLS URL", &[(&addr, "broker:5555")], &error);
}

pub(crate) async fn keys(env: &Env, report: &mut Report) {
    for dialect in [P3, FRAMED] {
        let broker = start_with(dialect, |builder| builder.api_key("secret").queue("orders"));
        let addr = broker.addr().to_string();
        let places = [(&*addr, "broker:5555")];
        let error = match env.connect(config(&addr)).await {
            // A preamble server says so only when it is asked for something.
            Ok(client) => {
                let error = client.list_queues().await.expect_err("no key");
                report.add(&format!("No API key, for administration ({dialect})"), &places, &error);
                // That refusal ends the connection, which the next call of the same client may learn too late.
                let client = env.connect(config(&addr)).await.expect("a client");
                client.enqueue(message("orders")).await.expect_err("no key").error
            }
            Err(error) => error,
        };
        report.add(&format!("No API key ({dialect})"), &places, &error);
        let error = refused(env, config(&addr).api_key("wrong")).await;
        report.add(&format!("A wrong API key ({dialect})"), &places, &error);

        let superuser = env.connect(config(&addr).api_key("secret")).await.expect("a client");
        let key = superuser
            .create_api_key(ApiKeySpec::new("worker"))
            .await
            .expect("a key");
        let worker = env.connect(config(&addr).api_key(key.key)).await.expect("a client");
        let error = worker.enqueue(message("orders")).await.expect_err("forbidden").error;
        report.add(&format!("A key without the permission ({dialect})"), &places, &error);
    }
    let broker = start(FRAMED);
    let addr = format!("0.0.0.0:{}", broker.addr().port());
    let error = refused(env, config(&addr).api_key("secret")).await;
    report.add(
        "A key for a framed server without TLS, over a network",
        &[(&addr, "broker:5555"), ("0.0.0.0", "broker")],
        &error,
    );
}

pub(crate) async fn messages(env: &Env, report: &mut Report) {
    for dialect in [P3, FRAMED] {
        let faults = Faults::default().fail_once(Op::Enqueue, ErrorKind::Server);
        let broker = start_with(dialect, |builder| builder.queue("orders").faults(faults));
        let addr = broker.addr().to_string();
        let places = [(&*addr, "broker:5555")];
        let client = client(env, broker.addr()).await;
        let error = client.enqueue(message("orders")).await.expect_err("storage").error;
        report.add(&format!("The server's storage fails ({dialect})"), &places, &error);
        let error = client.enqueue(message("ordesr")).await.expect_err("unknown").error;
        report.add(&format!("Enqueue to an unknown queue ({dialect})"), &places, &error);
        let error = client.ack("orders", &unknown_id()).await.expect_err("unknown");
        report.add(&format!("Ack of an unknown message ({dialect})"), &places, &error);
        let error = client.nack("orders", &unknown_id(), "why").await.expect_err("unknown");
        report.add(&format!("Nack of an unknown message ({dialect})"), &places, &error);
        let error = client
            .enqueue(message("a\0b\nERROR forged"))
            .await
            .expect_err("unknown")
            .error;
        report.add(
            &format!("A queue's name forges a line of a log ({dialect})"),
            &places,
            &error,
        );
        client.close(PATIENCE).await;
        let error = client.enqueue(message("orders")).await.expect_err("closed").error;
        report.add(&format!("A call after close ({dialect})"), &places, &error);
    }

    let broker = start_with(P3, |builder| {
        builder.queue("orders").faults(Faults::default().stall(Op::Enqueue))
    });
    let addr = broker.addr().to_string();
    let places = [(&*addr, "broker:5555")];
    let client = env
        .connect(config(&addr).request_timeout(SHORT).max_frame_size(10_000, 10_000))
        .await
        .expect("a client");
    let error = client.enqueue(message("orders")).await.expect_err("late").error;
    report.add("No answer in time", &places, &error);
    let large = Message::new("orders", vec![0; 20_000]);
    let error = client.enqueue(large).await.expect_err("too large").error;
    report.add("A message over the size limit", &places, &error);
    let settings = ProducerSettings::default()
        .batching(Batching::Disabled)
        .max_bytes(400)
        .buffer(500)
        .on_full(OnFull::Fail);
    let producer = client.producer(settings).expect("a producer");
    let mut full = None;
    let mut receipts = Vec::new();
    while full.is_none() {
        match producer.try_send(message("orders")) {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => full = Some(error.error),
        }
    }
    report.add("A producer's buffer is full", &places, &full.expect("full"));
}

pub(crate) async fn administration(env: &Env, report: &mut Report) {
    for dialect in [P3, FRAMED] {
        let broker = start_with(dialect, |builder| builder.queue("orders"));
        let addr = broker.addr().to_string();
        let places = [(&*addr, "broker:5555")];
        let client = client(env, broker.addr()).await;
        let mut add = |situation: &str, error: Error| report.add(&format!("{situation} ({dialect})"), &places, &error);
        let error = client.create_queue(QueueSpec::new("orders")).await.expect_err("exists");
        add("Create a queue that exists", error);
        let error = client.delete_queue("ordesr").await.expect_err("unknown");
        add("Delete an unknown queue", error);
        let error = client.queue_stats("ordesr").await.expect_err("unknown");
        add("Statistics of an unknown queue", error);
        let error = client.redrive("orders", 1).await.expect_err("no dead-letter queue");
        add("Redrive a queue that is no dead-letter queue", error);
        let spec = QueueSpec::new("scripted").on_enqueue("function on_enqueue(");
        let error = client.create_queue(spec).await.expect_err("no Lua");
        add("A script that does not compile", error);
        let error = client.revoke_api_key("no-such-key").await.expect_err("unknown");
        add("Revoke an unknown API key", error);
    }
}

pub(crate) async fn lifetimes(env: &Env, report: &mut Report) {
    let server = Scripted::start(P3, |_, conversation| {
        if conversation.open() {
            let _asked = conversation.next_request();
            conversation.close();
        }
    });
    let addr = server.addr().to_string();
    let places = [(&*addr, "broker:5555")];
    let config_never = config(&addr).dialect(P3).reconnect(Reconnect::Never);
    let client_lost = env.connect(config_never).await.expect("a client");
    let error = client_lost.enqueue(message("orders")).await.expect_err("lost").error;
    report.add("The connection is lost before the answer", &places, &error);
    env.eventually("it is closed for good", async || client_lost.state() == State::Closed)
        .await;
    let error = client_lost.enqueue(message("orders")).await.expect_err("closed").error;
    report.add("A later call, with Reconnect::Never", &places, &error);
    env.finish(server).await;

    let broker = start_with(P3, |builder| builder.queue("orders"));
    let addr = broker.addr().to_string();
    let places = [(&*addr, "broker:5555")];
    let client = client(env, broker.addr()).await;
    let settings = ConsumerSettings::default()
        .verify_queue(true)
        .idle_resubscribe(Some(SHORT));
    let error = client.consumer("ordesr", settings).await.err().expect("unknown");
    report.add("Consume from an unknown queue, verified", &places, &error);
    let mut consumer = client.consumer("orders", settings).await.expect("a consumer");
    client.delete_queue("orders").await.expect("deleted");
    let Some(Err(error)) = consumer.next().await else {
        panic!("the queue is gone")
    };
    report.add("A queue is deleted while it is consumed, verified", &places, &error);
    assert!(consumer.next().await.is_none(), "an error is the end");
}
