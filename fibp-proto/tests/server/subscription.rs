//! Servers that leave openings, unreadable requests and credit to the connection.

use super::*;

/// Hands over what a client sent, and answers its requests.
fn receive(server: &mut ServerConnection, bytes: &[u8]) -> Vec<Request> {
    assert_eq!(server.feed(bytes), bytes.len());
    let mut requests = Vec::new();
    while let Some((id, request)) = server.poll_request() {
        answer(server, id, &request);
        requests.push(request);
    }
    requests
}

fn written(server: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    server.write_to(&mut bytes).expect("it takes all");
    bytes
}

fn open(dialect: Dialect) -> ServerConnection {
    let mut server = ServerConnection::new(config(&[dialect]));
    assert_eq!(receive(&mut server, opening(dialect)), []);
    assert!(!written(&mut server).is_empty(), "the opening is answered");
    server
}

fn consume(credit: u32) -> Request {
    Request::Consume {
        queue: "orders".into(),
        credit,
    }
}

fn ask(server: &mut ServerConnection, dialect: Dialect, id: u32, request: &Request) {
    let bytes = request.encode(dialect, id, Limits::default()).expect("fits");
    let is_answered = request.op().is_answered();
    let asked = receive(server, &bytes);
    assert_eq!(
        asked.len(),
        usize::from(is_answered),
        "what is not answered is not reported"
    );
}

fn push(server: &mut ServerConnection, n: usize, size: usize) {
    let delivery = Received::new("id".into(), "orders", Headers::new(), vec![1; size], "default", 0);
    let deliveries = vec![delivery; n];
    server.push(&Push { deliveries }).expect("fits");
}

#[test]
fn what_cannot_be_read_is_refused_as_real_servers_do() {
    let mut server = open(Dialect::Handshake);
    assert_eq!(receive(&mut server, &raw(Dialect::Handshake, 0x77, 0, 29, "")), []);
    let refusal = frames(Dialect::Handshake, &written(&mut server));
    match Response::decode(Dialect::Handshake, Op::Heartbeat, &refusal[0]) {
        Ok(Response::Error(error)) => assert_eq!(error.text(), "unknown or unsupported opcode: 0x77"),
        other => panic!("{other:?}"),
    }
    let stats = Request::QueueStats { queue: "orders".into() };
    let bytes = stats.encode(Dialect::Handshake, 30, Limits::default()).expect("fits");
    assert_eq!(receive(&mut server, &bytes), [stats]);

    let mut server = open(P1);
    assert_eq!(receive(&mut server, &raw(P1, 0x01, 0, 2, &b"\0"[..])), []);
    assert!(server.is_finished(), "real servers close without a frame");
}

#[test]
fn keys_and_heartbeats_are_answered_without_asking() {
    for dialect in ALL {
        let mut server = open(dialect);
        let routine = [
            (Request::Authenticate("key".into()), Response::Authenticated),
            (Request::Heartbeat, Response::Heartbeat),
        ];
        for (request, response) in routine {
            // A key is part of the framed handshake.
            let Ok(bytes) = request.encode(dialect, 3, Limits::default()) else {
                continue;
            };
            assert_eq!(receive(&mut server, &bytes), []);
            let answers = frames(dialect, &written(&mut server));
            assert_eq!(answers[0].header.id, 3);
            assert_eq!(Response::decode(dialect, request.op(), &answers[0]), Ok(response));
        }
    }
}

#[test]
fn a_consumer_gets_what_it_has_credit_for() {
    for dialect in ALL {
        let mut server = open(dialect);
        assert_eq!(server.consumer_queue(), None);
        ask(&mut server, dialect, 1, &consume(2));
        assert_eq!(server.consumer_queue().map(|queue| &**queue), Some("orders"));
        push(&mut server, 1, 10);
        assert!(server.consumer_queue().is_some());
        push(&mut server, 1, 10);
        if is_framed(dialect) {
            assert!(server.consumer_queue().is_some(), "the framed dialect has no credit");
            ask(&mut server, dialect, 2, &Request::CancelConsume);
            assert_eq!(server.consumer_queue(), None);
        } else {
            assert_eq!(server.consumer_queue(), None);
            ask(&mut server, dialect, 2, &Request::Flow { credit: 1 });
            assert!(server.consumer_queue().is_some());
            push(&mut server, 3, 10);
            assert_eq!(server.consumer_queue(), None, "more than was granted is none left");
        }
        server.close();
        assert_eq!(server.consumer_queue(), None);
    }
}

#[test]
fn nothing_is_pushed_to_a_consumer_that_was_refused_or_does_not_read() {
    for dialect in ALL {
        let mut server = open(dialect);
        let bytes = consume(9).encode(dialect, 1, Limits::default()).expect("fits");
        assert_eq!(server.feed(&bytes), bytes.len());
        let (id, _) = server.poll_request().expect("a request");
        assert_eq!(server.consumer_queue(), None, "not answered yet");
        let refusal = Response::Error(ServerError::queue_not_found("orders"));
        server.respond(id, &refusal).expect("fits");
        assert_eq!(server.consumer_queue(), None);

        ask(&mut server, dialect, 2, &consume(9));
        push(&mut server, 1, 300_000);
        assert_eq!(server.consumer_queue(), None, "too much waits");
        written(&mut server);
        assert!(server.consumer_queue().is_some());
    }
}
