//! Whatever a dialect can say is read back as it was meant, and whatever else arrives is refused without a
//! panic.

mod common;
#[path = "common/strategies.rs"]
mod strategies;

use common::{ALL, PREAMBLES, cases, frame, size};
use fibp_proto::frame::{Decoder, Frame, FrameHeader, Item, Limits};
use fibp_proto::{Dialect, Message, Op, Push, QueueName, Request, Response};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const QUEUE: &str = "orders";

/// The only frame in `bytes`, which no strict prefix of them is.
fn whole_frame(dialect: Dialect, bytes: &[u8], cuts: &[Index]) -> Frame {
    for cut in cuts {
        let mut decoder = Decoder::new(dialect.layout(), Limits::default());
        decoder.feed(&bytes[..cut.index(bytes.len())]);
        assert_eq!(decoder.next_item(), Ok(None), "more bytes are needed");
    }
    frame(dialect, bytes)
}

/// Reads the frame as everything it could be taken for: nothing of it may panic.
fn read_as_anything(dialect: Dialect, frame: &Frame) {
    let _ = Request::decode(dialect, frame);
    for op in Op::ALL {
        let _ = Response::decode(dialect, op, frame);
    }
    let _ = Push::decode(dialect, &QUEUE.into(), frame);
}

fn any_dialect() -> impl Strategy<Value = Dialect> {
    select(&ALL[..])
}

fn a_request() -> impl Strategy<Value = (Dialect, Request)> {
    any_dialect().prop_flat_map(|dialect| (Just(dialect), strategies::request(dialect)))
}

fn a_response() -> impl Strategy<Value = (Dialect, (Op, Response))> {
    any_dialect().prop_flat_map(|dialect| (Just(dialect), strategies::response(dialect)))
}

fn a_push() -> impl Strategy<Value = (Dialect, Push)> {
    any_dialect().prop_flat_map(|dialect| (Just(dialect), strategies::push(dialect, QUEUE.into())))
}

/// The frame of something of the three kinds.
fn a_frame() -> impl Strategy<Value = (Dialect, Vec<u8>)> {
    let encoded = |bytes: bytes::Bytes| bytes.to_vec();
    prop_oneof![
        a_request().prop_map(move |(dialect, request)| {
            let bytes = request.encode(dialect, 7, Limits::default()).expect("fits");
            (dialect, encoded(bytes))
        }),
        a_response().prop_map(move |(dialect, (op, response))| {
            (dialect, encoded(response.encode(dialect, 7, op).expect("fits")))
        }),
        a_push().prop_map(move |(dialect, push)| {
            (
                dialect,
                encoded(push.encode(dialect, 7, Limits::default()).expect("fits")),
            )
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn requests_come_back((dialect, request) in a_request(), id: u32, cuts: [Index; 4]) {
        let bytes = request.encode(dialect, id, Limits::default()).expect("fits");
        let frame = whole_frame(dialect, &bytes, &cuts);
        prop_assert_eq!(frame.header.id, id);
        prop_assert_eq!(Request::decode(dialect, &frame), Ok(request));
    }

    #[test]
    fn responses_come_back((dialect, (op, response)) in a_response(), id: u32, cuts: [Index; 4]) {
        let bytes = response.encode(dialect, id, op).expect("fits");
        let frame = whole_frame(dialect, &bytes, &cuts);
        prop_assert_eq!(frame.header.id, id);
        prop_assert!(!Push::is_push(dialect, &frame));
        prop_assert_eq!(Response::decode(dialect, op, &frame), Ok(response));
    }

    #[test]
    fn pushes_come_back((dialect, push) in a_push(), cuts: [Index; 4]) {
        let bytes = push.encode(dialect, 9, Limits::default()).expect("fits");
        let frame = whole_frame(dialect, &bytes, &cuts);
        prop_assert!(Push::is_push(dialect, &frame));
        let decoded = Push::decode(dialect, &QUEUE.into(), &frame).expect("well formed");
        prop_assert_eq!(&decoded, &push);
        // What was received is sent on as it is.
        prop_assert_eq!(decoded.encode(dialect, 9, Limits::default()), Ok(bytes));
    }

    #[test]
    fn what_was_received_can_be_enqueued_again((from, push) in a_push(), to in any_dialect()) {
        let bytes = push.encode(from, 9, Limits::default()).expect("fits");
        let received = Push::decode(from, &QUEUE.into(), &frame(from, &bytes)).expect("well formed");
        let messages: Vec<Message> = received.deliveries.into_iter().map(|delivery| {
            let mut message = Message::new(delivery.queue, delivery.payload);
            message.headers = delivery.headers;
            message
        }).collect();
        let request = Request::Enqueue(messages);
        let bytes = request.encode(to, 1, Limits::default()).expect("fits");
        prop_assert_eq!(Request::decode(to, &frame(to, &bytes)), Ok(request));
    }

    #[test]
    fn damaged_bodies_are_survived(
        (dialect, bytes) in a_frame(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = frame(dialect, &bytes);
        if !frame.body.is_empty() {
            let mut body = frame.body.to_vec();
            for (at, byte) in damage {
                body[at.index(frame.body.len())] = byte;
            }
            frame.body = body.into();
        }
        read_as_anything(dialect, &frame);
    }

    #[test]
    fn arbitrary_bodies_are_survived(
        dialect in any_dialect(),
        opcode: u8,
        flags: u8,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let header = FrameHeader { opcode, flags, id: 1 };
        read_as_anything(dialect, &Frame { header, body: body.into() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn truncation_at_every_byte_is_survived((dialect, bytes) in a_frame()) {
        let mut frame = frame(dialect, &bytes);
        let whole = frame.body.clone();
        // Long runs of payload are no more interesting than short ones.
        let stride = (whole.len() / size(512)).max(1);
        for len in (0..whole.len()).step_by(stride) {
            frame.body = whole.slice(..len);
            read_as_anything(dialect, &frame);
        }
    }
}

#[test]
fn lying_counts_are_refused() {
    for dialect in ALL {
        let framed = !PREAMBLES.contains(&dialect);
        let (enqueue, ack, nack) = if framed { (0x10, 0x16, 0x18) } else { (0x01, 0x03, 0x04) };
        let shift = u8::from(dialect == Dialect::HandshakeEarly);
        // Eight bytes that announce 65 535 items.
        let counts: &[u8] = if framed {
            b"\0\0\xff\xff\0\0\0\0"
        } else {
            b"\xff\xff\0\0\0\0\0\0"
        };
        for opcode in [ack - shift, nack - shift] {
            assert!(Request::decode(dialect, &raw(opcode, 0, counts)).is_err(), "{dialect}");
        }
        let unnamed: &[u8] = if framed { counts } else { b"\0\0\xff\xff\0\0\0\0" };
        assert!(
            Request::decode(dialect, &raw(enqueue, 0, unnamed)).is_err(),
            "{dialect}"
        );
        for opcode in 0..=u8::MAX {
            for op in [Op::Enqueue, Op::Ack, Op::Nack, Op::ListApiKeys, Op::ListConfig] {
                let answer = raw(opcode, 0, counts);
                let read = Response::decode(dialect, op, &answer);
                assert!(
                    matches!(read, Err(_) | Ok(Response::Error(_))),
                    "{dialect} {op:?} {opcode:#04x} {read:?}"
                );
            }
            let push = raw(opcode, 4, counts);
            assert!(Push::decode(dialect, &QueueName::from(QUEUE), &push).is_err());
        }
    }
}

fn raw(opcode: u8, flags: u8, body: &[u8]) -> Frame {
    Frame {
        header: FrameHeader { opcode, flags, id: 1 },
        body: body.to_vec().into(),
    }
}

/// Requests and answers whose every text is the marker.
const MARKER: &str = "Zz";

#[test]
fn text_that_is_not_utf8_is_refused_wherever_it_stands() {
    use fibp_proto::admin::{Permission, QueueSpec};
    use fibp_proto::request::{AckItem, NackItem};
    let text = || MARKER.to_owned();
    let queue = || QueueName::from(MARKER);
    let requests = [
        Request::Enqueue(vec![Message::new(MARKER, &b"x"[..]).header(MARKER, MARKER)]),
        Request::Consume {
            queue: queue(),
            credit: 1,
        },
        Request::Ack(vec![AckItem {
            queue: queue(),
            id: MARKER.into(),
        }]),
        Request::Nack(vec![NackItem {
            queue: queue(),
            id: MARKER.into(),
            error: text(),
        }]),
        Request::CreateQueue(QueueSpec::new(MARKER).on_enqueue(MARKER).on_failure(MARKER)),
        Request::SetConfig {
            key: text(),
            value: text(),
        },
        Request::SetAcl {
            key_id: text(),
            permissions: vec![Permission::new(MARKER, MARKER)],
        },
        Request::Redrive { dlq: queue(), count: 1 },
    ];
    for dialect in ALL {
        for request in &requests {
            let bytes = request.encode(dialect, 1, Limits::default()).expect("fits");
            let found = spoilt(&bytes);
            assert!(!found.is_empty());
            for bytes in found {
                assert!(
                    Request::decode(dialect, &frame(dialect, &bytes)).is_err(),
                    "{dialect} {request:?}"
                );
            }
        }
        let answers = [
            Response::Enqueue(vec![Ok(MARKER.into())]),
            Response::CreateQueue { queue_id: text() },
            Response::ListConfig {
                entries: vec![(text(), text())],
            },
        ];
        for answer in answers {
            let op = answer.op().expect("no refusal");
            let bytes = answer.encode(dialect, 1, op).expect("fits");
            for bytes in spoilt(&bytes) {
                assert!(
                    Response::decode(dialect, op, &frame(dialect, &bytes)).is_err(),
                    "{dialect} {answer:?}"
                );
            }
        }
    }
}

/// `bytes` with each marker in turn made bad UTF-8.
fn spoilt(bytes: &[u8]) -> Vec<Vec<u8>> {
    let places = bytes.windows(MARKER.len()).enumerate();
    places
        .filter(|(_, window)| *window == MARKER.as_bytes())
        .map(|(at, _)| {
            let mut bytes = bytes.to_vec();
            bytes[at] = 0xFF;
            bytes
        })
        .collect()
}

#[test]
fn a_frame_cut_anywhere_is_no_frame() {
    for dialect in ALL {
        let request = Request::Enqueue(vec![Message::new(QUEUE, &b"hello"[..]).header("tenant", "acme")]);
        let bytes = request.encode(dialect, 7, Limits::default()).expect("fits");
        let mut decoder = Decoder::new(dialect.layout(), Limits::default());
        for byte in &bytes[..bytes.len() - 1] {
            decoder.feed(&[*byte]);
            assert_eq!(decoder.next_item(), Ok(None));
        }
        decoder.feed(&bytes[bytes.len() - 1..]);
        let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
            panic!("no frame after the last byte");
        };
        assert_eq!(Request::decode(dialect, &frame), Ok(request));
    }
}
