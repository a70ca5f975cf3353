//! Golden frames of the framed dialect, written by hand from docs/protocol/framed.md: each request, answer and push
//! must encode to exactly these bytes and decode from them, in both sets of opcode numbers.

mod common;

use std::sync::Arc;

use ::bytes::Bytes;
use common::bytes;
use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, PermissionKind, QueueInfo, QueueList, QueueSpec,
    QueueStats, ThrottleStats,
};
use fibp_proto::dialect::EncodeError;
use fibp_proto::frame::{Decoder, Frame, Item, Layout, Limits};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::{
    Dialect, ErrorKind, Headers, Message, Op, Push, QueueName, Received, Request, Response, Secret, ServerError,
};
use proptest::prelude::*;

const ID: &str = "0195d3c8-5f2a-7abc-8def-0123456789ab";

/// A whole frame: `length | opcode | flags 0 | id 7 | body`.
fn wire(opcode: u8, body: &str) -> Vec<u8> {
    let body = bytes(body);
    let length = u32::try_from(6 + body.len()).expect("small");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&[opcode, 0, 0, 0, 0, 7]);
    frame.extend_from_slice(&body);
    frame
}

fn frame(bytes: &[u8]) -> Frame {
    common::frame(Dialect::Handshake, bytes)
}

/// What the dialect has for an opcode of F2.
fn number(dialect: Dialect, opcode: u8) -> u8 {
    match opcode {
        0x13 if dialect == Dialect::HandshakeEarly => 0x19,
        0x14..=0x19 if dialect == Dialect::HandshakeEarly => opcode - 1,
        same => same,
    }
}

fn queue(name: &str) -> QueueName {
    name.into()
}

/// Every request: F2 opcode, body, meaning.
fn requests() -> Vec<(u8, String, Request)> {
    let orders = "00 06 'orders'";
    let key_id = "00 02 'k1'";
    vec![
        (0x03, String::new(), Request::Heartbeat),
        (0x05, String::new(), Request::Goodbye),
        (
            0x10,
            format!(
                "00 00 00 03  {orders} 00 01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello'
                 00 04 'nope' 00 00 00 00 00 01 'x'  {orders} 00 00 00 00 00 00"
            ),
            Request::Enqueue(vec![
                Message::new("orders", &b"hello"[..]).header("tenant", "acme"),
                Message::new("nope", &b"x"[..]),
                Message::new("orders", Bytes::new()),
            ]),
        ),
        (0x10, "00 00 00 00".into(), Request::Enqueue(Vec::new())),
        (
            0x12,
            orders.into(),
            Request::Consume {
                queue: queue("orders"),
                credit: 0,
            },
        ),
        (0x15, String::new(), Request::CancelConsume),
        (
            0x16,
            format!("00 00 00 02 {orders} 00 24 '{ID}' 00 00 00 05 'bogus'"),
            Request::Ack(vec![
                AckItem {
                    queue: queue("orders"),
                    id: ID.into(),
                },
                AckItem {
                    queue: queue(""),
                    id: "bogus".into(),
                },
            ]),
        ),
        (0x16, "00 00 00 00".into(), Request::Ack(Vec::new())),
        (
            0x18,
            format!("00 00 00 01 {orders} 00 24 '{ID}' 00 04 'boom'"),
            Request::Nack(vec![NackItem {
                queue: queue("orders"),
                id: ID.into(),
                error: "boom".into(),
            }]),
        ),
        (
            0xFD,
            format!("{orders} 00 00 00 00 00 00 00 00 13 88"),
            Request::CreateQueue(QueueSpec::new("orders").visibility_timeout(std::time::Duration::from_secs(5))),
        ),
        (
            0xFD,
            format!("{orders} 01 00 01 'a' 01 00 00 00 00 00 00 00 00 00 00"),
            Request::CreateQueue(QueueSpec::new("orders").on_enqueue("a").on_failure("")),
        ),
        (0xFB, orders.into(), Request::DeleteQueue { queue: queue("orders") }),
        (0xF9, orders.into(), Request::QueueStats { queue: queue("orders") }),
        (0xF7, String::new(), Request::ListQueues),
        (
            0xF5,
            "00 01 'k' 00 05 '10,20'".into(),
            Request::SetConfig {
                key: "k".into(),
                value: "10,20".into(),
            },
        ),
        (0xF3, "00 01 'k'".into(), Request::GetConfig { key: "k".into() }),
        (0xF1, "00 02 't.'".into(), Request::ListConfig { prefix: "t.".into() }),
        (
            0xEF,
            "00 0a 'orders.dlq' 00 00 00 00 00 00 00 09".into(),
            Request::Redrive {
                dlq: queue("orders.dlq"),
                count: 9,
            },
        ),
        (
            0xED,
            "00 03 'svc' 00 00 00 00 00 00 00 05 01".into(),
            Request::CreateApiKey(ApiKeySpec::new("svc").expires_at_ms(5).superadmin(true)),
        ),
        (0xEB, key_id.into(), Request::RevokeApiKey { key_id: "k1".into() }),
        (0xE9, String::new(), Request::ListApiKeys),
        (
            0xE7,
            format!("{key_id} 00 02 00 07 'produce' 00 08 'orders.*' 00 03 'fly' 00 01 '*'"),
            Request::SetAcl {
                key_id: "k1".into(),
                permissions: vec![
                    Permission::new(PermissionKind::Produce, "orders.*"),
                    Permission::new("fly", "*"),
                ],
            },
        ),
        (0xE5, key_id.into(), Request::GetAcl { key_id: "k1".into() }),
    ]
}

fn refused(kind: ErrorKind, code: u16, text: &str) -> ServerError {
    ServerError::new(kind, text).with_code(code)
}

/// Every answer: operation, F2 opcode, body, meaning.
fn answers() -> Vec<(Op, u8, String, Response)> {
    let refusal = |kind, code, text| Response::Error(refused(kind, code, text));
    let mut all = vec![
        (Op::Heartbeat, 0x04, String::new(), Response::Heartbeat),
        (
            Op::Enqueue,
            0x11,
            format!("00 00 00 04  00 00 24 '{ID}'  01 00 00  0c 00 03 'not'  ff 00 0b 'raft error:'"),
            Response::Enqueue(vec![
                Ok(ID.into()),
                Err(refused(ErrorKind::QueueNotFound, 1, "").into()),
                Err(refused(ErrorKind::NotLeader, 0x0C, "not").into()),
                Err(refused(ErrorKind::Server, 0xFF, "raft error:").into()),
            ]),
        ),
        (
            Op::Consume,
            0x13,
            format!("00 24 '{ID}'"),
            Response::Consume {
                consumer_id: Some(ID.into()),
            },
        ),
        (
            Op::Ack,
            0x17,
            "00 00 00 02 00 02".into(),
            Response::Ack(vec![
                Ok(()),
                Err(refused(ErrorKind::MessageNotFound, 2, "").into()),
            ]),
        ),
        (Op::Nack, 0x19, "00 00 00 01 00".into(), Response::Nack(vec![Ok(())])),
        (
            Op::CreateQueue,
            0xFC,
            "00 00 06 'orders'".into(),
            Response::CreateQueue {
                queue_id: "orders".into(),
            },
        ),
        (
            Op::CreateQueue,
            0xFC,
            "03 00 06 'orders'".into(),
            refusal(ErrorKind::QueueExists, 3, "orders"),
        ),
        (
            Op::CreateQueue,
            0xFC,
            "04 00 0a 'lua error:'".into(),
            refusal(ErrorKind::Lua, 4, "lua error:"),
        ),
        (Op::DeleteQueue, 0xFA, "00".into(), Response::DeleteQueue),
        (
            Op::DeleteQueue,
            0xFA,
            "01".into(),
            refusal(ErrorKind::QueueNotFound, 1, ""),
        ),
        (Op::SetConfig, 0xF4, "00".into(), Response::SetConfig),
        (
            Op::SetConfig,
            0xF4,
            "08".into(),
            refusal(ErrorKind::InvalidArgument, 8, ""),
        ),
        (
            Op::GetConfig,
            0xF2,
            "00 00 05 '10,20'".into(),
            Response::GetConfig { value: "10,20".into() },
        ),
        (
            Op::ListConfig,
            0xF0,
            "00 00 02 00 01 'a' 00 01 'b' 00 01 'c' 00 00".into(),
            Response::ListConfig {
                entries: vec![("a".into(), "b".into()), ("c".into(), String::new())],
            },
        ),
        (
            Op::Redrive,
            0xEE,
            "00 00 00 00 00 00 00 00 02".into(),
            Response::Redrive { redriven: 2 },
        ),
        (
            Op::CreateApiKey,
            0xEC,
            "00 00 02 'k1' 00 03 'key' 01".into(),
            Response::CreateApiKey(CreatedApiKey::new("k1", Secret::from("key"), true)),
        ),
        (Op::RevokeApiKey, 0xEA, "00".into(), Response::RevokeApiKey),
        (
            Op::RevokeApiKey,
            0xEA,
            "0f".into(),
            refusal(ErrorKind::ApiKeyNotFound, 0x0F, ""),
        ),
        (
            Op::ListApiKeys,
            0xE8,
            "00 00 01 00 02 'k1' 00 03 'svc' 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 06 01".into(),
            Response::ListApiKeys(vec![ApiKeyInfo::default().key_id("k1".into()).name("svc".into()).created_at_ms(5).expires_at_ms(6).superadmin(true)]),
        ),
        (Op::SetAcl, 0xE6, "00".into(), Response::SetAcl),
        (
            Op::SetAcl,
            0xE6,
            "0f".into(),
            refusal(ErrorKind::ApiKeyNotFound, 0x0F, ""),
        ),
        (
            Op::SetAcl,
            0xFE,
            "08 00 0a 'wrong kind' 00 00".into(),
            refusal(ErrorKind::InvalidArgument, 8, "wrong kind"),
        ),
        (
            Op::GetAcl,
            0xE4,
            "00 00 02 'k1' 01 00 01 00 05 'admin' 00 01 '*'".into(),
            Response::GetAcl(Acl::default().key_id("k1".into()).permissions(vec![Permission::new(PermissionKind::Admin, "*")]).superadmin(true)),
        ),
        (
            Op::GetAcl,
            0xE4,
            "0f 00 00 00 00 00".into(),
            refusal(ErrorKind::ApiKeyNotFound, 0x0F, ""),
        ),
        (
            Op::Consume,
            0xFE,
            "0c 00 1d 'not the leader for this queue' 00 02 00 0b 'leader_addr' 00 0d '10.0.0.2:5555' 00 03 'new' 00 00"
                .into(),
            Response::Error(
                refused(ErrorKind::NotLeader, 0x0C, "not the leader for this queue")
                    .with_metadata(vec![
                        ("leader_addr".into(), "10.0.0.2:5555".into()),
                        ("new".into(), String::new()),
                    ])
                    .with_leader("10.0.0.2:5555"),
            ),
        ),
    ];
    all.extend(figures());
    all
}

/// The answers with many figures.
fn figures() -> Vec<(Op, u8, String, Response)> {
    vec![
        (
            Op::QueueStats,
            0xF8,
            "00  00 00 00 00 00 00 00 03  00 00 00 00 00 00 00 01  00 00 00 00 00 00 00 02  00 00 00 04
             00 00 03 e8  00 00 00 00 00 00 00 05  00 00 00 06
             00 01 00 07 'default' 00 00 00 00 00 00 00 02 ff ff ff ff ff ff ff fe 00 00 00 01
             00 01 00 03 'api' 40 34 00 00 00 00 00 00 40 24 00 00 00 00 00 00 3f e0 00 00 00 00 00 00"
                .into(),
            Response::QueueStats(
                QueueStats::default()
                    .depth(3)
                    .in_flight(1)
                    .active_fairness_keys(2)
                    .active_consumers(4)
                    .quantum(1000)
                    .leader_node_id(5)
                    .replication_count(6)
                    .per_key(vec![
                        KeyStats::default()
                            .key("default".into())
                            .pending(2)
                            .deficit(-2)
                            .weight(1),
                    ])
                    .per_throttle(vec![
                        ThrottleStats::default()
                            .key("api".into())
                            .tokens(20.0)
                            .rate_per_second(10.0)
                            .burst(0.5),
                    ]),
            ),
        ),
        (
            Op::QueueStats,
            0xFE,
            "01 00 0f 'queue not found' 00 00".into(),
            Response::Error(refused(ErrorKind::QueueNotFound, 1, "queue not found")),
        ),
        (
            Op::ListQueues,
            0xF6,
            "00  00 00 00 03  00 01  00 06 'orders' 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 01 00 00 00 04
             00 00 00 00 00 00 00 05"
                .into(),
            Response::ListQueues(
                QueueList::default()
                    .queues(vec![
                        QueueInfo::default()
                            .name("orders".into())
                            .depth(2)
                            .in_flight(1)
                            .active_consumers(4)
                            .leader_node_id(5),
                    ])
                    .cluster_node_count(3),
            ),
        ),
    ]
}

fn push() -> (String, Push) {
    let mut first = Received::new(
        ID.into(),
        "orders",
        Headers::from_iter([("tenant", "acme")]),
        &b"hello"[..],
        "default",
        0,
    );
    first.weight = Some(1);
    first.throttle_keys = Some(Vec::new());
    let mut second = Received::new("x".into(), "other", Headers::new(), Bytes::new(), "vip", 3);
    second.weight = Some(9);
    second.throttle_keys = Some(vec!["a".into(), "b".into()]);
    second.enqueued_at_ms = Some(5);
    second.leased_at_ms = Some(6);
    let body = format!(
        "00 00 00 02
         00 24 '{ID}' 00 06 'orders' 00 01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello' 00 07 'default' 00 00 00 01
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         00 01 'x' 00 05 'other' 00 00 00 00 00 00 00 03 'vip' 00 00 00 09 00 02 00 01 'a' 00 01 'b' 00 00 00 03
         00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 06"
    );
    let deliveries = vec![first, second];
    (body, Push { deliveries })
}

const BOTH: [Dialect; 2] = [Dialect::Handshake, Dialect::HandshakeEarly];

#[test]
fn requests_are_these_bytes() {
    for dialect in BOTH {
        for (opcode, body, request) in requests() {
            let expected = wire(number(dialect, opcode), &body);
            let encoded = request.encode(dialect, 7, Limits::default());
            assert_eq!(encoded.as_deref(), Ok(&expected[..]), "{dialect} {request:?}");
            assert_eq!(Request::decode(dialect, &frame(&expected)), Ok(request), "{dialect}");
        }
    }
}

#[test]
fn answers_are_these_bytes() {
    for dialect in BOTH {
        for (op, opcode, body, answer) in answers() {
            let expected = wire(number(dialect, opcode), &body);
            let encoded = answer.encode(dialect, 7, op);
            assert_eq!(encoded.as_deref(), Ok(&expected[..]), "{dialect} {op:?} {answer:?}");
            assert_eq!(
                Response::decode(dialect, op, &frame(&expected)),
                Ok(answer),
                "{dialect}"
            );
        }
    }
}

#[test]
fn deliveries_are_these_bytes() {
    let (body, push) = push();
    for dialect in BOTH {
        let expected = wire(number(dialect, 0x14), &body);
        assert_eq!(
            push.encode(dialect, 7, Limits::default()).as_deref(),
            Ok(&expected[..]),
            "{dialect}"
        );
        let frame = frame(&expected);
        assert!(Push::is_push(dialect, &frame));
        let orders = queue("orders");
        let decoded = Push::decode(dialect, &orders, &frame).expect("well formed");
        assert_eq!(decoded, push, "{dialect}");
        assert!(Arc::ptr_eq(&decoded.deliveries[0].queue, &orders), "the name is shared");
    }
}

#[test]
fn trailing_bytes_are_ignored_and_missing_ones_are_not() {
    for (opcode, body, request) in requests() {
        let mut frame = frame(&wire(opcode, &body));
        let whole = frame.body.clone();
        let mut longer = whole.to_vec();
        longer.extend_from_slice(b"later");
        frame.body = longer.into();
        assert_eq!(Request::decode(Dialect::Handshake, &frame), Ok(request));
        for len in 0..whole.len() {
            frame.body = whole.slice(..len);
            let text = Request::decode(Dialect::Handshake, &frame)
                .expect_err("truncated")
                .answer
                .expect("the connection stays")
                .text()
                .to_owned();
            assert!(text.contains(" frame: incomplete frame: need "), "{text}");
        }
    }
    for (op, opcode, body, answer) in answers() {
        let mut frame = frame(&wire(opcode, &body));
        let whole = frame.body.clone();
        let mut longer = whole.to_vec();
        longer.extend_from_slice(b"later");
        frame.body = longer.into();
        assert_eq!(Response::decode(Dialect::Handshake, op, &frame), Ok(answer.clone()));
        for len in 0..whole.len() {
            frame.body = whole.slice(..len);
            let result = Response::decode(Dialect::Handshake, op, &frame);
            // A refusal is known from its code alone where nothing else of the result is read.
            assert!(
                result.is_err() || result == Ok(answer.clone()),
                "{op:?} {len} {result:?}"
            );
        }
    }
    let (body, _) = push();
    let mut frame = frame(&wire(0x14, &body));
    let whole = frame.body.clone();
    for len in 0..whole.len() {
        frame.body = whole.slice(..len);
        assert!(
            Push::decode(Dialect::Handshake, &queue("orders"), &frame).is_err(),
            "{len}"
        );
    }
}

#[test]
fn unreadable_requests_get_the_answers_of_real_servers() {
    let answer = |bytes: &[u8]| {
        let refusal = Request::decode(Dialect::Handshake, &frame(bytes)).expect_err("unreadable");
        refusal.answer.expect("the connection stays")
    };
    let unknown = answer(&wire(0x77, ""));
    assert_eq!(
        unknown,
        refused(ErrorKind::Unsupported, 0x0E, "unknown or unsupported opcode: 0x77")
    );
    // What only servers send is just as unknown to them; so is a second Handshake.
    for opcode in [0x01, 0x02, 0x04, 0x11, 0x13, 0x14, 0xFE, 0xFC] {
        let text = format!("unknown or unsupported opcode: 0x{opcode:02x}");
        assert_eq!(answer(&wire(opcode, "")).text(), text);
    }
    assert_eq!(
        answer(&wire(0x10, "00 00 00 01")),
        refused(
            ErrorKind::Protocol,
            0x0E,
            "invalid enqueue frame: incomplete frame: need 2 bytes, have 0"
        )
    );
    assert_eq!(
        answer(&wire(0x12, "00 06 'ord'")).text(),
        "invalid consume frame: incomplete frame: need 6 bytes, have 3"
    );
    assert!(
        answer(&wire(0x16, "00 0f 42 41"))
            .text()
            .starts_with("invalid ack frame: 1000001 items")
    );
}

#[test]
fn what_the_wire_cannot_carry_is_refused_before_it_is_written() {
    let encode = |request: Request| request.encode(Dialect::Handshake, 1, Limits::default()).unwrap_err();
    let long = "x".repeat(65_536);
    let too_long = |field| EncodeError::StringTooLong {
        field,
        len: 65_536,
        limit: 65_535,
    };
    let message = |queue: &str| Message::new(queue, Bytes::new());
    assert_eq!(
        encode(Request::Enqueue(vec![message("q"), message(&long)])),
        too_long("queue name")
    );
    assert_eq!(
        encode(Request::Enqueue(vec![message("q").header(&*long, "")])),
        too_long("header key")
    );
    assert_eq!(
        encode(Request::CreateQueue(QueueSpec::new("q").on_failure(&*long))),
        too_long("on_failure script")
    );
    let ack = AckItem {
        queue: queue("q"),
        id: "i".into(),
    };
    assert!(matches!(
        encode(Request::Ack(vec![ack; 1_000_001])),
        EncodeError::TooMany {
            count: 1_000_001,
            limit: 1_000_000,
            ..
        }
    ));
    for request in [
        Request::Flow { credit: 1 },
        Request::Authenticate(Secret::from("key")),
        Request::ProbeAdmin,
    ] {
        assert!(matches!(encode(request), EncodeError::Unsupported(_)));
    }
    assert!(matches!(
        Response::Authenticated.encode(Dialect::Handshake, 1, Op::Authenticate),
        Err(EncodeError::Unsupported(_))
    ));
    // A limit that no frame fits in.
    let limits = Limits::new(6, 6);
    assert_eq!(
        Request::Enqueue(Vec::new()).encode(Dialect::Handshake, 1, limits),
        Err(EncodeError::FrameTooLarge { len: 10, limit: 6 })
    );
    assert!(Request::Heartbeat.encode(Dialect::Handshake, 1, limits).is_ok());
}

#[test]
fn a_large_body_goes_on_in_further_frames() {
    let request = Request::Enqueue(vec![Message::new("q", vec![5; 100])]);
    let limits = Limits::new(56, 56);
    let bytes = request.encode(Dialect::Handshake, 9, limits).expect("split");
    let mut decoder = Decoder::new(Layout::OpcodeFirst, limits);
    decoder.feed(&bytes);
    let mut reassembler = fibp_proto::frame::Reassembler::new(1000);
    let (mut headers, mut whole) = (Vec::new(), None);
    while let Ok(Some(Item::Frame(frame))) = decoder.next_item() {
        headers.push((
            frame.header.opcode,
            frame.header.flags,
            frame.header.id,
            frame.body.len(),
        ));
        whole = reassembler.push(frame).expect("in order");
    }
    assert_eq!(headers, [(0x10, 1, 9, 50), (0x10, 1, 9, 50), (0x10, 0, 9, 13)]);
    assert_eq!(
        Request::decode(Dialect::Handshake, &whole.expect("complete")),
        Ok(request)
    );
}

#[test]
fn item_refusals_without_a_code_say_what_a_single_node_says() {
    let results = vec![
        Err(ServerError::new(ErrorKind::QueueNotFound, "orders").into()),
        Err(ServerError::new(ErrorKind::Server, "storage error: disk").into()),
        Err(ServerError::new(ErrorKind::NotLeader, "no leader").into()),
    ];
    let encoded = Response::Enqueue(results).encode(Dialect::Handshake, 7, Op::Enqueue);
    let expected = wire(0x11, "00 00 00 03  01 00 00  05 00 00  0c 00 09 'no leader'");
    assert_eq!(encoded.as_deref(), Ok(&expected[..]));
}

/// A golden frame with some of its body overwritten, cut off or added.
fn damaged(bodies: Vec<(Op, u8, String)>) -> impl Strategy<Value = (Op, Frame)> {
    let patches = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tail = proptest::collection::vec(any::<u8>(), 0..4);
    (prop::sample::select(bodies), patches, any::<bool>(), tail).prop_map(|((op, opcode, body), patches, cut, tail)| {
        let mut body = bytes(&body);
        for (at, value) in patches {
            if body.is_empty() {
                break;
            }
            let at = at.index(body.len());
            body[at] = value;
            if cut && value == 0 {
                body.truncate(at);
            }
        }
        body.extend(tail);
        let mut damaged = frame(&wire(opcode, ""));
        damaged.body = body.into();
        (op, damaged)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Whatever can be read says the same when it is written and read again; nothing panics.
    #[test]
    fn damaged_frames_are_harmless(
        (_, request) in damaged(requests().into_iter().map(|(opcode, body, it)| (it.op(), opcode, body)).collect()),
        (op, answer) in damaged(answers().into_iter().map(|(op, opcode, body, _)| (op, opcode, body)).collect()),
        (_, pushed) in damaged(vec![(Op::Consume, 0x14, push().0)]),
    ) {
        let (dialect, limits) = (Dialect::Handshake, Limits::default());
        if let Ok(decoded) = Request::decode(dialect, &request) {
            let again = decoded.encode(dialect, 7, limits).expect("came from the wire");
            let twice = Request::decode(dialect, &frame(&again)).expect("was just written");
            prop_assert_eq!(twice.encode(dialect, 7, limits), Ok(again));
        }
        if let Ok(decoded) = Response::decode(dialect, op, &answer) {
            let again = decoded.encode(dialect, 7, op).expect("came from the wire");
            let twice = Response::decode(dialect, op, &frame(&again)).expect("was just written");
            prop_assert_eq!(twice.encode(dialect, 7, op), Ok(again));
        }
        let orders = queue("orders");
        if let Ok(decoded) = Push::decode(dialect, &orders, &pushed) {
            let again = decoded.encode(dialect, 7, limits).expect("came from the wire");
            let twice = Push::decode(dialect, &orders, &frame(&again)).expect("was just written");
            prop_assert_eq!(twice.encode(dialect, 7, limits), Ok(again));
        }
    }
}
