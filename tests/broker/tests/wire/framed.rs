//! The framed dialect.

use fila_test_broker::Broker;

use crate::raw::{Raw, bytes32, frame, hex, str16};

fn broker() -> Broker {
    Broker::builder().queue("orders").start().expect("loopback is there")
}

fn enqueue(queue: &str, payload: &[u8]) -> Vec<u8> {
    [hex("00000001"), str16(queue), hex("0000"), bytes32(payload)].concat()
}

/// The payload of a delivery that the test enqueued without headers.
fn payload_of(delivery: &[u8]) -> Vec<u8> {
    let queue_len = 2 + "orders".len();
    let at = 10 + 4 + 2 + 36 + queue_len + 2;
    let len = u32::from_be_bytes(delivery[at..at + 4].try_into().expect("four bytes")) as usize;
    delivery[at + 4..at + 4 + len].to_vec()
}

#[test]
fn handshakes() {
    let broker = Broker::builder()
        .api_key("test-key")
        .node_id(3)
        .start()
        .expect("loopback is there");
    let mut raw = Raw::connect(broker.addr());
    raw.send(&hex("00000013 01 00 00000000 0001 01 0008 746573742d6b6579"));
    assert_eq!(
        raw.frame(),
        hex("00000014 02 00 00000000 0001 0000000000000003 01000000")
    );

    for (handshake, refusal) in [
        (
            "00000009 01 00 00000000 0001 00",
            b"\x0a\x00\x10API key required\x00\x00".to_vec(),
        ),
        (
            "0000000c 01 00 00000000 0001 01 0001 78",
            b"\x0a\x00\x0finvalid API key\x00\x00".to_vec(),
        ),
        (
            "00000009 01 00 00000000 0002 00",
            [
                b"\x0d\x00\x24only protocol version 1 is supported\x00\x01".to_vec(),
                str16("max_version"),
                str16("1"),
            ]
            .concat(),
        ),
    ] {
        let mut raw = Raw::connect(broker.addr());
        raw.send(&hex(handshake));
        assert_eq!(raw.frame(), frame([0xfe, 0], 0, &refusal));
        raw.closed();
    }
    let mut raw = Raw::connect(broker.addr());
    raw.send(&frame([0x10, 0], 7, &[0; 4]));
    assert_eq!(
        raw.frame(),
        frame([0xfe, 0], 7, b"\x0e\x00\x18expected Handshake frame\x00\x00")
    );
    raw.closed();
}

#[test]
fn a_message_goes_round() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let (opcode, body) = raw.call_framed(0x10, &enqueue("orders", b"hello"));
    assert_eq!((opcode, &body[..7]), (0x11, &hex("00000001 00 0024")[..]));
    let id = String::from_utf8(body[7..].to_vec()).expect("ids are text");
    assert_eq!(
        raw.call_framed(0x10, &enqueue("nope", b"")),
        (0x11, hex("00000001 01 0000"))
    );

    let (opcode, body) = raw.call_framed(0x12, &str16("orders"));
    assert_eq!((opcode, body.len()), (0x13, 38));
    let delivery = raw.frame();
    let expected = [
        hex("00000001 0024"),
        id.clone().into_bytes(),
        str16("orders"),
        hex("0000"),
        bytes32(b"hello"),
        str16("default"),
        hex("00000001 0000 00000000 0000000000000000 0000000000000000"),
    ]
    .concat();
    assert_eq!(delivery, frame([0x14, 0], 3, &expected));

    let item = [hex("00000001"), str16("orders"), str16(&id)].concat();
    let nack = [item.clone(), str16("boom")].concat();
    assert_eq!(raw.call_framed(0x18, &nack), (0x19, hex("00000001 00")));
    assert_eq!(payload_of(&raw.frame()), b"hello");
    assert_eq!(raw.call_framed(0x16, &item), (0x17, hex("00000001 00")));
    assert_eq!(raw.call_framed(0x16, &item), (0x17, hex("00000001 02")));
}

#[test]
fn malformed_requests_are_answered() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let (opcode, body) = raw.call_framed(0x10, &hex("00000001"));
    assert_eq!((opcode, body[0]), (0xfe, 0x0e));
    assert_eq!(
        String::from_utf8_lossy(&body[3..body.len() - 2]),
        "invalid enqueue frame: incomplete frame: need 2 bytes, have 0"
    );
    let (opcode, body) = raw.call_framed(0x77, &[]);
    assert_eq!((opcode, body[0]), (0xfe, 0x0e));
    assert_eq!(
        String::from_utf8_lossy(&body[3..body.len() - 2]),
        "unknown or unsupported opcode: 0x77"
    );
    assert_eq!(raw.call_framed(0x03, &[]), (0x04, vec![]));
}

#[test]
fn disconnect_is_not_answered() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    raw.send(&hex("00000006 05 00 00000000"));
    raw.closed();
}

#[test]
fn a_second_consume_replaces_the_first() {
    let broker = broker();
    broker.create_queue("more");
    let mut raw = Raw::framed(&broker);
    raw.call_framed(0x12, &str16("more"));
    raw.call_framed(0x12, &str16("orders"));
    assert_eq!(broker.queue("more").expect("exists").consumers, 0);
    raw.call_framed(0x10, &enqueue("more", b"nobody"));
    raw.call_framed(0x10, &enqueue("orders", b"here"));
    let delivery = raw.frame();
    assert_eq!(delivery[4..10], hex("14 00 00000002"));
    assert_eq!(payload_of(&delivery), b"here");
}

#[test]
fn bodies_may_be_continued() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let body = enqueue("orders", b"in two parts");
    let (head, tail) = body.split_at(9);
    let mut first = frame([0x10, 1], 9, head);
    first.extend(frame([0x03, 0], 10, &[]));
    first.extend(frame([0x10, 0], 9, tail));
    raw.send(&first);
    assert_eq!(raw.frame(), frame([0x04, 0], 10, &[]));
    assert_eq!(raw.frame()[..10], hex("00000031 11 00 00000009"));
    assert_eq!(broker.queue_depth("orders"), 1);
}
