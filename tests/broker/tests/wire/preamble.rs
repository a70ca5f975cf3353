//! The preamble dialect.

use fila_test_broker::{AdminRevision, Broker, Dialect};

use crate::raw::{Raw, consume, enqueue, frame, hex, push, settle, str16};

fn broker() -> Broker {
    Broker::builder().queue("orders").start().expect("loopback is there")
}

#[test]
fn openings() {
    let broker = broker();
    // The minor version is ignored.
    let mut raw = Raw::connect(broker.addr());
    raw.send(&hex("464942500109"));
    assert_eq!(raw.receive(6), hex("464942500100"));

    let mut raw = Raw::connect(broker.addr());
    raw.send(&hex("464942500200"));
    let text = b"unsupported protocol version 2.x (server supports 1.x)";
    assert_eq!(raw.frame(), frame([0, 0xff], 0, text));
    raw.closed();

    let preamble_only = Broker::builder()
        .dialect(Dialect::Preamble(AdminRevision::Protobuf))
        .start()
        .expect("loopback is there");
    let mut raw = Raw::connect(preamble_only.addr());
    raw.send(b"GET / ");
    assert_eq!(raw.frame(), frame([0, 0xff], 0, b"invalid magic"));
    raw.closed();

    // EOF in the middle.
    let mut raw = Raw::connect(broker.addr());
    raw.send(b"FIB");
    raw.finish();
    raw.closed();
}

#[test]
fn a_message_goes_round() {
    let broker = broker();
    let mut raw = Raw::preamble(&broker);
    let (opcode, body) = raw.call(0x01, &enqueue("orders", &[b"hello", b""]));
    assert_eq!((opcode, &body[..5]), (0x01, &[0, 2, 1, 0, 36][..]));
    let id = String::from_utf8(body[5..41].to_vec()).expect("ids are text");
    assert_eq!((&id[8..9], &id[14..15]), ("-", "7"), "{id}");

    assert_eq!(raw.call(0x02, &consume("orders", 256)), (0x02, vec![]));
    let messages = push(&raw.frame());
    assert_eq!(messages[0], (id.clone(), 0, b"hello".to_vec()));
    assert_eq!(messages.len(), 2);

    assert_eq!(
        raw.call(0x04, &settle("orders", &id, Some("boom"))),
        (0x04, vec![0, 1, 1])
    );
    assert_eq!(push(&raw.frame()), [(id.clone(), 1, b"hello".to_vec())]);
    assert_eq!(raw.call(0x03, &settle("orders", &id, None)), (0x03, vec![0, 1, 1]));
    let text = format!("no lease for message {id} in queue orders");
    let refused = [vec![0, 1, 0, 0, 1], str16(&text)].concat();
    assert_eq!(raw.call(0x03, &settle("orders", &id, None)), (0x03, refused));
    assert_eq!(broker.queue_depth("orders"), 1);
}

#[test]
fn flow_is_not_answered_and_adds_credit() {
    let broker = broker();
    let mut raw = Raw::preamble(&broker);
    // Without a consumer it is ignored.
    raw.request(0x20, &hex("00000040"));
    raw.silent_preamble();
    raw.call(0x01, &enqueue("orders", &[b"a"]));
    assert_eq!(raw.call(0x02, &consume("orders", 0)), (0x02, vec![]));
    raw.silent_preamble();
    assert_eq!(broker.queue("orders").expect("exists").in_flight, 1);
    raw.request(0x20, &hex("00000001"));
    assert_eq!(push(&raw.frame()).len(), 1);
}

#[test]
fn authentication() {
    let broker = Broker::builder()
        .api_key("test-key")
        .queue("orders")
        .start()
        .expect("loopback is there");
    let mut raw = Raw::preamble(&broker);
    // Allowed before.
    raw.silent_preamble();
    raw.send(&hex("0000000e 00 30 00000001 746573742d6b6579"));
    assert_eq!(raw.frame(), hex("00000006 00 30 00000001"));
    // Again: no effect.
    assert_eq!(raw.call(0x30, b"wrong"), (0x30, vec![]));
    raw.call(0x01, &enqueue("orders", &[b"a"]));

    for wrong in [&b"wrong"[..], b""] {
        let mut raw = Raw::preamble(&broker);
        assert_eq!(raw.refused(0x30, wrong), "invalid or missing api key");
        raw.closed();
    }
    let mut raw = Raw::preamble(&broker);
    raw.request(0x30, &[0xff]);
    raw.closed();
    // Any other operation, unknown and unanswered ones included.
    for opcode in [0x01, 0x13, 0x20, 0x77] {
        let mut raw = Raw::preamble(&broker);
        assert_eq!(
            raw.refused(opcode, &[0; 4]),
            "authentication required: send OP_AUTH frame first"
        );
        raw.closed();
    }

    let open = self::broker();
    let mut raw = Raw::preamble(&open);
    assert_eq!(raw.call(0x30, &[0xff]), (0x30, vec![]));
}

#[test]
fn malformed_message_operations_close_without_a_frame() {
    let broker = broker();
    for opcode in [0x01, 0x02, 0x03, 0x04, 0x20] {
        let mut raw = Raw::preamble(&broker);
        raw.request(opcode, &[0xff]);
        raw.closed();
    }
    // So do lengths out of range, and a goodbye.
    for bytes in ["00000005 00 21 000000", "01000001", "00000006 00 ff 00000001"] {
        let mut raw = Raw::preamble(&broker);
        raw.send(&hex(bytes));
        raw.closed();
    }
}

#[test]
fn other_refusals_leave_the_connection_open() {
    let broker = broker();
    let mut raw = Raw::preamble(&broker);
    assert_eq!(raw.refused(0x14, &[]), "operation 0x14 not implemented");
    assert_eq!(raw.refused(0x15, &[]), "operation 0x15 not implemented");
    assert_eq!(raw.refused(0x77, &[]), "unknown operation 0x77");
    assert_eq!(raw.refused(0x02, &consume("", 1)), "queue name must not be empty");
    raw.call(0x02, &consume("orders", 1));
    let active = "consume session already active on this connection";
    assert_eq!(raw.refused(0x02, &consume("orders", 1)), active);
    assert_eq!(raw.refused(0x02, &[]), active, "checked before decoding");
    assert!(
        raw.refused(0x10, &hex("0a ff"))
            .starts_with("protobuf decode error: failed to decode Protobuf message: ")
    );
    raw.silent_preamble();
}

#[test]
fn the_probe_tells_revisions_apart() {
    for (revision, answer) in [
        (AdminRevision::Protobuf, "operation 0x14 not implemented"),
        (
            AdminRevision::ProtobufRenumbered,
            "invalid payload: dlq_queue name must not be empty",
        ),
        (
            AdminRevision::Binary,
            "wire decode error: invalid payload: unexpected end of payload reading u16",
        ),
    ] {
        let broker = Broker::builder()
            .dialect(Dialect::Preamble(revision))
            .start()
            .expect("loopback is there");
        let mut raw = Raw::preamble(&broker);
        assert_eq!(raw.refused(0x14, &[]), answer);
        raw.silent_preamble();
    }
}

#[test]
fn frames_split_anywhere_are_read() {
    let broker = broker();
    let mut raw = Raw::connect(broker.addr());
    let mut bytes = hex("464942500100");
    bytes.extend(frame([0, 0x01], 7, &enqueue("orders", &[b"split"])));
    for byte in bytes {
        raw.send(&[byte]);
    }
    assert_eq!(raw.receive(6), hex("464942500100"));
    assert_eq!(raw.frame()[4..13], hex("00 01 00000007 0001 01"));
}

#[test]
fn answers_come_in_the_order_of_requests() {
    let broker = broker();
    let mut raw = Raw::preamble(&broker);
    let mut bytes = Vec::new();
    for id in 1..=500 {
        bytes.extend(frame([0, 0x01], id, &enqueue("orders", &[b"x"])));
        bytes.extend(frame([0, 0x21], id + 1000, &[]));
    }
    raw.send(&bytes);
    for id in 1..=500_u32 {
        assert_eq!(raw.frame()[6..10], id.to_be_bytes());
        assert_eq!(raw.frame()[6..10], (id + 1000).to_be_bytes());
    }
    assert_eq!(broker.queue_depth("orders"), 500);
}
