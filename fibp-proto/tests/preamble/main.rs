//! Golden frames of the preamble dialect: each request, answer and push must encode to exactly these bytes
//! and decode from them, in every revision it belongs to. And what the wire cannot carry.

#[path = "../common/mod.rs"]
mod common;
mod golden;

use std::sync::Arc;

use ::bytes::Bytes;
use common::{PREAMBLES, bytes, frame};
use fibp_proto::admin::QueueSpec;
use fibp_proto::dialect::EncodeError;
use fibp_proto::frame::Limits;
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::{AdminRevision, Dialect, Message, Op, Push, QueueName, Request, Response};
use golden::{ANY, ID, P1, P1_P2, P2_P3, P3, answers, delivery, pushes, requests};

#[test]
fn requests_are_these_bytes() {
    for (dialects, text, request) in requests() {
        for dialect in dialects {
            let wire = bytes(&text);
            let frame = frame(*dialect, &wire);
            let encoded = request.encode(*dialect, frame.header.id, Limits::default());
            assert_eq!(encoded.as_deref(), Ok(&wire[..]), "{dialect} {request:?}");
            assert_eq!(Request::decode(*dialect, &frame), Ok(request.clone()), "{dialect}");
        }
    }
}

#[test]
fn answers_are_these_bytes() {
    for (dialects, op, text, answer) in answers() {
        for dialect in dialects {
            let wire = bytes(&text);
            let frame = frame(*dialect, &wire);
            let encoded = answer.encode(*dialect, frame.header.id, op);
            assert_eq!(encoded.as_deref(), Ok(&wire[..]), "{dialect} {op:?} {answer:?}");
            assert_eq!(
                Response::decode(*dialect, op, &frame),
                Ok(answer.clone()),
                "{dialect} {op:?}"
            );
        }
    }
}

#[test]
fn every_operation_has_a_golden_frame() {
    for dialect in PREAMBLES {
        for op in Op::ALL {
            let asked = requests()
                .iter()
                .any(|(dialects, _, request)| dialects.contains(&dialect) && request.op() == op);
            assert!(
                asked || matches!(op, Op::CancelConsume | Op::ProbeAdmin | Op::Handshake),
                "{dialect} {op:?}"
            );
            let answered = answers()
                .iter()
                .any(|(dialects, of, _, answer)| dialects.contains(&dialect) && *of == op && answer.op().is_some());
            // P2 has the bodies of P1 and the opcodes of P3.
            let covered = answered || dialect == PREAMBLES[1] || !op.is_answered() || op == Op::ProbeAdmin;
            assert!(covered, "{dialect} {op:?}");
        }
    }
}

#[test]
fn pushes_are_these_bytes() {
    for (text, push) in pushes() {
        for dialect in PREAMBLES {
            let wire = bytes(&text);
            let encoded = push.encode(dialect, 77, Limits::default());
            assert_eq!(encoded.as_deref(), Ok(&wire[..]), "{dialect}");
            let queue: QueueName = "orders".into();
            let mut frame = frame(dialect, &wire);
            // Real servers push with id 0; the id of the consume is accepted too.
            for id in [0, 77] {
                frame.header.id = id;
                assert!(Push::is_push(dialect, &frame));
                let decoded = Push::decode(dialect, &queue, &frame).expect("well formed");
                assert_eq!(decoded, push, "{dialect}");
                for pair in decoded.deliveries.windows(2) {
                    assert!(Arc::ptr_eq(&pair[0].fairness_key, &pair[1].fairness_key));
                    assert!(Arc::ptr_eq(&pair[0].queue, &queue));
                }
            }
            frame.header.flags = 0;
            assert!(!Push::is_push(dialect, &frame), "the answer to the consume");
        }
    }
}

#[test]
fn unreadable_requests_get_the_answers_of_real_servers() {
    let p1 = PREAMBLES[0];
    let p3 = PREAMBLES[2];
    for (dialects, text, answer) in [
        (ANY, "00 00 00 06 00 77 00 00 00 01", "unknown operation 0x77"),
        (ANY, "00 00 00 06 00 fe 00 00 00 01", "unknown operation 0xFE"),
        (P2_P3, "00 00 00 06 00 18 00 00 00 01", "unknown operation 0x18"),
        (P1, "00 00 00 06 00 14 00 00 00 01", "operation 0x14 not implemented"),
        (P1, "00 00 00 06 00 15 00 00 00 01", "operation 0x15 not implemented"),
        (
            P1_P2,
            "00 00 00 08 00 10 00 00 00 21 ff ff",
            "protobuf decode error: failed to decode Protobuf message: invalid varint",
        ),
        (
            P1_P2,
            "00 00 00 07 00 10 00 00 00 21 00",
            "protobuf decode error: failed to decode Protobuf message: invalid tag value: 0",
        ),
        (
            P1_P2,
            "00 00 00 08 00 10 00 00 00 21 0a 05",
            "protobuf decode error: failed to decode Protobuf message: CreateQueueRequest.name: buffer underflow",
        ),
        (
            P3,
            "00 00 00 06 00 14 00 00 00 01",
            "wire decode error: invalid payload: unexpected end of payload reading u16",
        ),
        (
            P3,
            "00 00 00 08 00 10 00 00 00 21 ff ff",
            "wire decode error: invalid payload: string length 65535 exceeds remaining 0 bytes",
        ),
        (
            P3,
            "00 00 00 0b 00 14 00 00 00 01 00 01 'q' 00 00",
            "wire decode error: invalid payload: unexpected end of payload reading u64",
        ),
        (
            P3,
            "00 00 00 11 00 31 00 00 00 01 00 01 'q' 00 00 00 00 00 00 00 00",
            "wire decode error: invalid payload: unexpected end of payload reading u8",
        ),
        (
            P3,
            "00 00 00 09 00 11 00 00 00 01 00 01 ff",
            "wire decode error: invalid payload: invalid utf8: invalid utf-8 sequence of 1 bytes from index 0",
        ),
    ] {
        for dialect in dialects {
            let fault = Request::decode(*dialect, &frame(*dialect, &bytes(text))).expect_err("unreadable");
            let refusal = fault.answer.expect("the connection stays");
            assert_eq!(refusal.text(), answer, "{dialect}");
        }
    }
    // What P1's answer to the probe means is for the detection; P2 finds an empty redrive in it.
    let probe = Request::ProbeAdmin.encode(p1, 1, Limits::default()).expect("empty");
    assert_eq!(&probe[..], bytes("00 00 00 06 00 14 00 00 00 01"));
    assert_eq!(Request::ProbeAdmin.encode(p3, 1, Limits::default()), Ok(probe.clone()));
    assert_eq!(
        Request::decode(PREAMBLES[1], &frame(PREAMBLES[1], &probe)),
        Ok(Request::Redrive {
            dlq: "".into(),
            count: 0
        })
    );
}

#[test]
fn malformed_message_operations_close_without_a_frame() {
    for dialect in PREAMBLES {
        for text in [
            "00 00 00 06 00 01 00 00 00 01",
            "00 00 00 0c 00 01 00 00 00 01 00 01 'q' 00 01 00",
            "00 00 00 09 00 01 00 00 00 01 00 01 ff",
            "00 00 00 09 00 02 00 00 00 01 00 01 'q'",
            "00 00 00 08 00 03 00 00 00 01 00 01",
            "00 00 00 08 00 04 00 00 00 01 00 01",
            "00 00 00 09 00 20 00 00 00 01 00 00 01",
            "00 00 00 07 00 30 00 00 00 01 ff",
        ] {
            let fault = Request::decode(dialect, &frame(dialect, &bytes(text))).expect_err("unreadable");
            assert_eq!(fault.answer, None, "{dialect} {text}");
        }
    }
}

#[test]
fn trailing_bytes_of_binary_bodies_are_ignored() {
    let binary = |dialect: Dialect, op: Op| !op.is_admin() || dialect == PREAMBLES[2];
    let longer = |dialect, text: &str| {
        let mut frame = frame(dialect, &bytes(text));
        frame.body = [&frame.body, &b"later"[..]].concat().into();
        frame
    };
    for dialect in PREAMBLES {
        for (dialects, text, request) in requests() {
            let op = request.op();
            if dialects.contains(&dialect) && binary(dialect, op) && op != Op::Authenticate {
                assert_eq!(Request::decode(dialect, &longer(dialect, &text)), Ok(request));
            }
        }
        for (dialects, op, text, answer) in answers() {
            if dialects.contains(&dialect) && binary(dialect, op) && answer.op().is_some() {
                assert_eq!(Response::decode(dialect, op, &longer(dialect, &text)), Ok(answer));
            }
        }
    }
}

#[test]
fn unknown_protobuf_fields_are_skipped() {
    let frame = frame(PREAMBLES[0], &bytes("00 00 00 0b 00 16 00 00 00 0a 08 02 7a 01 'x'"));
    assert_eq!(
        Response::decode(PREAMBLES[0], Op::Redrive, &frame),
        Ok(Response::Redrive { redriven: 2 })
    );
}

#[test]
fn an_answer_must_be_one_to_its_request() {
    let ok = frame(PREAMBLES[0], &bytes("00 00 00 06 00 21 00 00 00 07"));
    assert!(Response::decode(PREAMBLES[0], Op::Heartbeat, &ok).is_ok());
    for op in Op::ALL {
        if op != Op::Heartbeat {
            assert!(Response::decode(PREAMBLES[0], op, &ok).is_err(), "{op:?}");
            assert!(Response::Heartbeat.encode(PREAMBLES[0], 7, op).is_err(), "{op:?}");
        }
    }
    let flag = frame(PREAMBLES[0], &bytes("00 00 00 09 00 03 00 00 00 04 00 01 02"));
    assert!(Response::decode(PREAMBLES[0], Op::Ack, &flag).is_err());
}

#[test]
fn what_the_wire_cannot_carry_is_refused_before_it_is_written() {
    let dialect = Dialect::Preamble(AdminRevision::Binary);
    let encode = |request: Request| request.encode(dialect, 1, Limits::default()).unwrap_err();
    let long = "x".repeat(65_536);
    let too_long = |field| EncodeError::StringTooLong {
        field,
        len: 65_536,
        limit: 65_535,
    };
    let message = |queue: &str| Message::new(queue, Bytes::new());
    let enqueue = |message| Request::Enqueue(vec![message]);

    assert_eq!(encode(enqueue(message(&long))), too_long("queue name"));
    assert_eq!(encode(enqueue(message("q").header(&*long, ""))), too_long("header key"));
    assert_eq!(
        encode(enqueue(message("q").header("", &*long))),
        too_long("header value")
    );
    let consume = Request::Consume {
        queue: long.as_str().into(),
        credit: 1,
    };
    assert_eq!(encode(consume), too_long("queue name"));
    let acked = |queue: &str, id: &str| AckItem {
        queue: queue.into(),
        id: id.into(),
    };
    assert_eq!(encode(Request::Ack(vec![acked(&long, "i")])), too_long("queue name"));
    assert_eq!(encode(Request::Ack(vec![acked("q", &long)])), too_long("message id"));
    let nack = NackItem {
        queue: "q".into(),
        id: "i".into(),
        error: long.clone(),
    };
    assert_eq!(encode(Request::Nack(vec![nack])), too_long("error text"));
    let spec = QueueSpec::new("q").on_failure(&*long);
    assert_eq!(
        encode(Request::CreateQueue(spec.clone())),
        too_long("on_failure script")
    );
    // Protobuf has no such limit.
    let create = Request::CreateQueue(spec).encode(PREAMBLES[0], 1, Limits::default());
    assert!(create.is_ok_and(|bytes| bytes.len() > 65_536));

    let many_headers = (0..256).fold(message("q"), |message, n| message.header(n.to_string(), ""));
    assert_eq!(
        encode(enqueue(many_headers)),
        EncodeError::TooMany {
            field: "headers",
            count: 256,
            limit: 255
        }
    );
    assert_eq!(
        encode(Request::Enqueue(vec![message("q"); 65_536])),
        EncodeError::TooMany {
            field: "messages",
            count: 65_536,
            limit: 65_535
        }
    );
    assert_eq!(
        encode(Request::Enqueue(vec![message("q"), message("r")])),
        EncodeError::MixedQueues
    );
    assert!(matches!(encode(Request::CancelConsume), EncodeError::Unsupported(_)));
}

#[test]
fn what_just_fits_the_wire_is_carried() {
    let longest = "x".repeat(65_535);
    let message = (0..255).fold(Message::new(&*longest, Bytes::new()), |message, n| {
        message.header(format!("{n:03}"), "v")
    });
    let most = Request::Enqueue(vec![Message::new(&*longest, Bytes::new()); 65_535]);
    for request in [Request::Enqueue(vec![message]), most] {
        let wire = request.encode(PREAMBLES[0], 1, Limits::default()).expect("fits");
        assert_eq!(Request::decode(PREAMBLES[0], &frame(PREAMBLES[0], &wire)), Ok(request));
    }
}

#[test]
fn the_frame_limit_is_the_length_field() {
    // An enqueue of one message costs 15 bytes, the queue's name and the payload: 1021 (docs/protocol/preamble.md 1.7).
    let enqueue = Request::Enqueue(vec![Message::new("orders", vec![7; 1000])]);
    let send = |send| Limits::new(send, 2000);
    for dialect in PREAMBLES {
        let wire = enqueue.encode(dialect, 1, send(1021)).expect("fits");
        assert_eq!(wire.len(), 4 + 1021);
        assert_eq!(
            enqueue.encode(dialect, 1, send(1020)),
            Err(EncodeError::FrameTooLarge { len: 1021, limit: 1020 })
        );
        let push = Push {
            deliveries: vec![delivery(ID, &[], b"hello", "default", 0)],
        };
        // A push costs 64 bytes and the payload with the default key.
        let wire = push.encode(dialect, 0, Limits::default()).expect("fits");
        assert_eq!(frame(dialect, &wire).body.len(), 64 - 6 + 5);
        assert!(push.encode(dialect, 0, send(5)).is_err());
    }
}
