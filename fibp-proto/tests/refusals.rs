//! Refusals made by `ServerError`'s constructors, and what cannot be read as a request.

mod common;

use common::{ALL, frame};
use fibp_proto::dialect::Malformed;
use fibp_proto::frame::{CONTINUATION, Frame, FrameHeader, Limits};
use fibp_proto::request::Op;
use fibp_proto::response::ServerError;
use fibp_proto::{AdminRevision, Dialect, ErrorKind, Request, Response};

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

#[test]
fn a_refusal_arrives_as_the_same_kind_in_every_dialect() {
    let tricky = ["orders", "queue not found", "node not ready", ""];
    for name in tricky {
        let refusals = [
            (ServerError::queue_not_found(name), ErrorKind::QueueNotFound),
            (ServerError::queue_exists(name), ErrorKind::QueueExists),
            (
                ServerError::not_a_dead_letter_queue(name),
                ErrorKind::NotADeadLetterQueue,
            ),
            (ServerError::api_key_not_found(name), ErrorKind::ApiKeyNotFound),
            (ServerError::lua(name), ErrorKind::Lua),
            (ServerError::invalid_argument(name), ErrorKind::InvalidArgument),
            (ServerError::unauthorized(), ErrorKind::Auth),
            (ServerError::forbidden(name), ErrorKind::Forbidden),
            (ServerError::not_leader(Some("10.0.0.2:5555")), ErrorKind::NotLeader),
            (ServerError::not_leader(None), ErrorKind::NotLeader),
            (ServerError::overloaded(name), ErrorKind::Overloaded),
            (ServerError::unsupported(0x77), ErrorKind::Unsupported),
            (ServerError::storage(name), ErrorKind::Server),
        ];
        for dialect in ALL {
            for (refusal, kind) in &refusals {
                assert_eq!(refusal.kind(), *kind);
                for op in [
                    Op::Enqueue,
                    Op::Consume,
                    Op::CreateQueue,
                    Op::QueueStats,
                    Op::GetAcl,
                    Op::SetConfig,
                ] {
                    let bytes = Response::Error(refusal.clone()).encode(dialect, 1, op).expect("fits");
                    match Response::decode(dialect, op, &frame(dialect, &bytes)) {
                        Ok(Response::Error(arrived)) => {
                            assert_eq!(arrived.kind(), *kind, "{dialect} {op:?} {refusal:?}");
                            assert_eq!(arrived.leader(), refusal.leader(), "{dialect} {refusal:?}");
                            assert!(!arrived.is_in_doubt());
                        }
                        other => panic!("{dialect} {op:?} {refusal:?}: {other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_refused_item_arrives_as_the_same_kind_in_every_dialect() {
    for dialect in ALL {
        for refusal in [ServerError::queue_not_found("q"), ServerError::storage("disk")] {
            let kind = refusal.kind();
            let response = Response::Enqueue(vec![Err(Box::new(refusal))]);
            let bytes = response.encode(dialect, 1, Op::Enqueue).expect("fits");
            match Response::decode(dialect, Op::Enqueue, &frame(dialect, &bytes)) {
                Ok(Response::Enqueue(results)) => assert_eq!(results[0].as_ref().unwrap_err().kind(), kind),
                other => panic!("{other:?}"),
            }
        }
        for refusal in [ServerError::message_not_found("q", "m"), ServerError::storage("disk")] {
            let kind = refusal.kind();
            let response = Response::Ack(vec![Err(Box::new(refusal))]);
            let bytes = response.encode(dialect, 1, Op::Ack).expect("fits");
            match Response::decode(dialect, Op::Ack, &frame(dialect, &bytes)) {
                Ok(Response::Ack(results)) => assert_eq!(results[0].as_ref().unwrap_err().kind(), kind),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn raw(opcode: u8, flags: u8, body: &'static [u8]) -> Frame {
    Frame {
        header: FrameHeader { opcode, flags, id: 1 },
        body: body.into(),
    }
}

#[test]
fn handshakes_are_requests_and_encode_again() {
    for version in [1, 2] {
        for key in [None, Some("test-key".into())] {
            let handshake = Request::Handshake { version, key };
            let bytes = handshake
                .encode(Dialect::Handshake, 0, Limits::default())
                .expect("fits");
            let frame = frame(Dialect::Handshake, &bytes);
            assert_eq!(frame.header.opcode, 0x01);
            assert!(!format!("{handshake:?}").contains("test-key"));
            assert_eq!(Request::decode(Dialect::Handshake, &frame), Ok(handshake.clone()));
            assert!(handshake.encode(P1, 0, Limits::default()).is_err());
        }
    }
    let refused = Request::decode(Dialect::Handshake, &raw(0x01, 0, b"\0")).unwrap_err();
    assert_eq!(refused.op, Some(Op::Handshake));
    assert!(matches!(refused.reason, Malformed::Body(_)));
}

#[test]
fn a_request_that_cannot_be_read_says_why() {
    let refused = Request::decode(Dialect::Handshake, &raw(0x10, CONTINUATION, b"")).unwrap_err();
    assert_eq!((refused.op, &refused.reason), (None, &Malformed::Partial));
    assert!(refused.to_string().contains("part of a continued frame"), "{refused}");

    let refused = Request::decode(P1, &raw(0x77, 0, b"")).unwrap_err();
    assert_eq!(refused.reason, Malformed::UnknownOpcode { opcode: 0x77 });
    assert_eq!(refused.answer.expect("answered").text(), "unknown operation 0x77");

    let refused = Request::decode(P1, &raw(0x01, 0, b"\0\x05ord")).unwrap_err();
    assert_eq!(refused.op, Some(Op::Enqueue));
    assert_eq!(refused.answer, None, "real servers close");
    let text = refused.to_string();
    assert!(
        text.contains("Enqueue") && text.contains("5 bytes needed, 3 left"),
        "{text}"
    );

    let refused = Request::decode(Dialect::Auto, &raw(0x01, 0, b"")).unwrap_err();
    assert_eq!(refused.reason, Malformed::NoWireFormat);
}
