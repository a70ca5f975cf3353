//! What a server says, and how much of it may wait.

use super::*;

#[test]
fn everything_a_server_says_is_understood() {
    for dialect in ALL {
        let mut peer = Peer::open(dialect);
        let queue = QueueName::from("orders");
        let consume = Request::Consume {
            queue: queue.clone(),
            credit: 1,
        };
        peer.receive(&consume.encode(dialect, 42, Limits::default()).expect("fits"));
        let push = Push {
            deliveries: vec![Received::new(
                "id".into(),
                "orders",
                Headers::new(),
                vec![1; 30_000],
                "default",
                2,
            )],
        };
        peer.server.push(&push).expect("fits");
        peer.server.heartbeat(9);
        peer.server
            .respond_error(7, &ServerError::new(ErrorKind::Forbidden, "permission denied"));
        peer.server.goodbye("bye");
        peer.server.close();
        assert!(!peer.server.is_finished(), "not before all is written");
        peer.turn();
        assert_eq!(peer.events.last(), Some(&ServerEvent::Closed));
        assert!(peer.server.is_finished());

        let frames = frames(dialect, &peer.written);
        assert_eq!(frames.len(), 5);
        assert!(matches!(
            Response::decode(dialect, Op::Consume, &frames[0]),
            Ok(Response::Consume { .. })
        ));
        assert!(Push::is_push(dialect, &frames[1]));
        assert_eq!(frames[1].header.id, if is_framed(dialect) { 42 } else { 0 });
        let decoded = Push::decode(dialect, &queue, &frames[1]).expect("well formed");
        assert_eq!(decoded.deliveries[0].payload, push.deliveries[0].payload);
        assert_eq!(frames[2].header.id, 9);
        assert_eq!(frames[2].header.opcode, if is_framed(dialect) { 0x03 } else { 0x21 });
        match Response::decode(dialect, Op::Ack, &frames[3]) {
            Ok(Response::Error(error)) => assert_eq!(error.kind(), ErrorKind::Forbidden),
            other => panic!("{other:?}"),
        }
        assert_eq!(frames[3].header.id, 7);
        assert_eq!(frames[4].header.opcode, if is_framed(dialect) { 0x05 } else { 0xFF });
    }
}

#[test]
fn what_cannot_be_encoded_is_refused_and_nothing_is_sent() {
    let mut peer = Peer::open(Dialect::Handshake);
    let id = RequestId {
        id: 1,
        op: Op::GetConfig,
    };
    let value = "x".repeat(65_536);
    assert!(matches!(
        peer.server.respond(id, &Response::GetConfig { value: value.clone() }),
        Err(EncodeError::StringTooLong { .. })
    ));
    assert!(
        peer.server.respond(id, &Response::SetConfig).is_err(),
        "the wrong answer"
    );
    assert_eq!(peer.server.buffered(), 0);
    // A refusal always gets through, if need be without its text.
    peer.server
        .respond_error(1, &ServerError::new(ErrorKind::Forbidden, value));
    peer.turn();
    assert_eq!(peer.written, b"\0\0\0\x0b\xfe\0\0\0\0\x01\x0b\0\0\0\0");
}

#[test]
fn a_server_that_is_blocked_writing_does_not_read() {
    for dialect in ALL {
        let mut peer = Peer::open(dialect);
        let ask = Request::GetConfig { key: "k".into() };
        let mut bytes = Vec::new();
        for id in 0..100 {
            bytes.extend_from_slice(&ask.encode(dialect, id, Limits::default()).expect("fits"));
        }
        assert_eq!(peer.server.feed(&bytes), bytes.len());

        let value = "x".repeat(60_000);
        let mut transmit = Transmit::new();
        let (mut answered, mut written) = (0, 0);
        while answered < 100 {
            let mut burst = 0;
            while let Some(event) = peer.server.poll_event() {
                let ServerEvent::Request { id, .. } = event else {
                    panic!("{event:?}");
                };
                let response = Response::GetConfig { value: value.clone() };
                peer.server.respond(id, &response).expect("fits");
                burst += 1;
            }
            assert!(burst <= 5, "bounded by 256 KiB of output");
            assert!(peer.server.take_read_buffer().is_none());
            answered += burst;
            // A slow client takes a little, then all.
            assert!(peer.server.take_transmit(&mut transmit));
            assert!(!peer.server.take_transmit(&mut Transmit::new()), "one writer at a time");
            peer.server.transmitted(&mut transmit, 1);
            assert_eq!(peer.server.buffered(), transmit.len());
            written += 1 + transmit.len();
            let n = transmit.len();
            peer.server.transmitted(&mut transmit, n);
        }
        assert_eq!(answered, 100);
        assert!(written > 6_000_000);
        assert!(peer.server.take_read_buffer().is_some());
    }
}

#[test]
fn nothing_is_read_while_requests_wait() {
    let mut server = ServerConnection::new(config(&[Dialect::Handshake]));
    let mut buffer = server.take_read_buffer().expect("reading");
    assert!(server.take_read_buffer().is_none(), "it is out");
    buffer.unfilled()[..HANDSHAKE.len()].copy_from_slice(HANDSHAKE);
    buffer.advance(HANDSHAKE.len());
    server.handle_input(buffer);
    assert!(server.take_read_buffer().is_none(), "an event waits");
    assert!(server.poll_event().is_some());
}

#[test]
fn deliveries_of_a_replaced_consumer_keep_its_id() {
    let mut peer = Peer::open(Dialect::Handshake);
    let consume = |name: &str| Request::Consume {
        queue: name.into(),
        credit: 0,
    };
    for (name, id) in [("first", 4), ("second", 5)] {
        let frame = consume(name)
            .encode(Dialect::Handshake, id, Limits::default())
            .expect("fits");
        peer.receive(&frame);
    }
    peer.written.clear();
    let nothing = Push { deliveries: Vec::new() };
    peer.server.push_to(4, &nothing).expect("fits");
    peer.server.push(&nothing).expect("fits");
    peer.turn();
    let ids: Vec<u32> = frames(Dialect::Handshake, &peer.written)
        .iter()
        .map(|frame| frame.header.id)
        .collect();
    assert_eq!(ids, [4, 5]);
}
