//! What was decoded encodes to the same bytes again, for everything that decodes: recorded frames, generated ones, and
//! generated ones that were damaged. The exceptions are those that `fibp_proto::dialect` states, each with a test of its
//! own.

mod common;
#[path = "common/strategies.rs"]
mod strategies;

use common::{ALL, PREAMBLES, cases, frame};
use fibp_proto::frame::{Frame, FrameHeader, Limits};
use fibp_proto::{AdminRevision, Dialect, ErrorKind, Op, Push, QueueName, Request, Response};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const QUEUE: &str = "orders";
const LIMITS: Limits = Limits::new(u32::MAX, u32::MAX);

/// Whether the decoded value does not tell all of these bytes, by the stated exceptions.
fn is_excused(dialect: Dialect, op: Op, of_request: bool, original: &Frame, again: &Frame) -> bool {
    let (a, b) = (&original.body, &again.body);
    let protobuf = matches!(
        dialect,
        Dialect::Preamble(AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered) if op.is_admin()
    );
    if protobuf && original.header.opcode == again.header.opcode {
        return true;
    }
    // A flag byte other than 0 and 1 is a yes, and is written as 1.
    let flags_only = a.len() >= b.len()
        && a.iter().zip(b.iter()).all(|(a, b)| a == b || (*a > 1 && *b == 1))
        && matches!(
            (op, of_request),
            (Op::CreateApiKey, _) | (Op::ListApiKeys | Op::GetAcl, false) | (Op::CreateQueue | Op::Handshake, true)
        );
    // The count of entries that P3 gives a second time.
    let total_only = dialect == Dialect::Preamble(AdminRevision::Binary)
        && op == Op::ListConfig
        && !of_request
        && b.len() >= 4
        && a.get(..b.len() - 4) == b.get(..b.len() - 4);
    // The text of an ERROR frame that is not UTF-8.
    let text =
        matches!(dialect, Dialect::Preamble(_)) && original.header.opcode == 0xFE && std::str::from_utf8(a).is_err();
    // What follows the code of an admin result that is a refusal.
    let refused =
        !matches!(dialect, Dialect::Preamble(_)) && op.is_admin() && !of_request && a[..1] == b[..1] && a[0] != 0;
    flags_only || total_only || text || refused
}

#[track_caller]
fn check(dialect: Dialect, op: Op, of_request: bool, original: &Frame, again: &[u8]) {
    let again = frame(dialect, again);
    let same = original.header.opcode == again.header.opcode && original.body.starts_with(&again.body);
    if !same {
        assert!(
            is_excused(dialect, op, of_request, original, &again),
            "{dialect} {op:?}: {:02x} {:02x?} became {:02x} {:02x?}",
            original.header.opcode,
            original.body,
            again.header.opcode,
            again.body,
        );
    }
}

/// Reads the frame as everything it could be and writes that again.
fn read_and_write_again(dialect: Dialect, original: &Frame) {
    let id = original.header.id;
    if let Ok(request) = Request::decode(dialect, original) {
        let again = request.encode(dialect, id, LIMITS).expect("it was on the wire");
        check(dialect, request.op(), true, original, &again);
        let decoded = Request::decode(dialect, &frame(dialect, &again));
        assert_eq!(decoded, Ok(request), "it means the same");
    }
    for op in Op::ALL {
        if let Ok(response) = Response::decode(dialect, op, original) {
            let again = response.encode(dialect, id, op).expect("it was on the wire");
            check(dialect, op, false, original, &again);
        }
    }
    let queue: QueueName = QUEUE.into();
    if Push::is_push(dialect, original)
        && let Ok(push) = Push::decode(dialect, &queue, original)
    {
        let again = push.encode(dialect, id, LIMITS).expect("it was on the wire");
        check(dialect, Op::Consume, false, original, &again);
    }
}

fn a_frame() -> impl Strategy<Value = (Dialect, Vec<u8>)> {
    select(&ALL[..]).prop_flat_map(|dialect| {
        prop_oneof![
            strategies::request(dialect)
                .prop_map(move |request| (dialect, request.encode(dialect, 7, LIMITS).expect("fits").to_vec())),
            strategies::response(dialect)
                .prop_map(move |(op, response)| (dialect, response.encode(dialect, 7, op).expect("fits").to_vec())),
            strategies::push(dialect, QUEUE.into())
                .prop_map(move |push| (dialect, push.encode(dialect, 7, LIMITS).expect("fits").to_vec())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn damaged_frames_that_still_decode_are_kept(
        (dialect, bytes) in a_frame(),
        damage in prop::collection::vec((any::<Index>(), prop_oneof![0..4_u8, any::<u8>()]), 0..4),
        more in prop::collection::vec(any::<u8>(), 0..5),
        less in 0..3_usize,
    ) {
        let mut frame = frame(dialect, &bytes);
        let mut body = frame.body.to_vec();
        for (at, byte) in damage {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        body.truncate(body.len().saturating_sub(less));
        body.extend(more);
        frame.body = body.into();
        read_and_write_again(dialect, &frame);
    }

    #[test]
    fn generated_bytes_that_decode_are_kept(
        dialect in select(&ALL[..]),
        opcode in prop_oneof![0..0x40_u8, 0xE4..=0xFF_u8],
        push: bool,
        body in prop::collection::vec(prop_oneof![3 => 0..3_u8, 1 => any::<u8>()], 0..60),
    ) {
        let flags = if push && matches!(dialect, Dialect::Preamble(_)) { 4 } else { 0 };
        let header = FrameHeader { opcode, flags, id: 1 };
        read_and_write_again(dialect, &Frame { header, body: body.into() });
    }
}

fn raw(dialect: Dialect, opcode: u8, body: &[u8]) -> Frame {
    let _ = dialect;
    Frame {
        header: FrameHeader {
            opcode,
            flags: 0,
            id: 3,
        },
        body: body.to_vec().into(),
    }
}

#[track_caller]
fn request_again(dialect: Dialect, original: &Frame) -> Frame {
    let request = Request::decode(dialect, original).expect("it decodes");
    frame(dialect, &request.encode(dialect, 3, LIMITS).expect("fits"))
}

#[track_caller]
fn response_again(dialect: Dialect, op: Op, original: &Frame) -> Frame {
    let response = Response::decode(dialect, op, original).expect("it decodes");
    frame(dialect, &response.encode(dialect, 3, op).expect("fits"))
}

#[test]
fn an_enqueue_of_no_message_keeps_its_queue() {
    for dialect in PREAMBLES {
        for body in [&b"\0\x03foo\0\0"[..], b"\0\0\0\0"] {
            let original = raw(dialect, 0x01, body);
            assert_eq!(request_again(dialect, &original), original);
        }
    }
}

#[test]
fn a_refusal_keeps_its_form() {
    let framed = Dialect::Handshake;
    // Forbidden inside the result of a deletion, and an existing queue in a frame of its own.
    for (op, opcode, body) in [
        (Op::DeleteQueue, 0xFA, &b"\x0b"[..]),
        (Op::CreateQueue, 0xFE, b"\x03\0\x01q\0\0"),
        (Op::QueueStats, 0xF8, b"\x01"),
        (Op::QueueStats, 0xFE, b"\x01\0\x01q\0\0"),
    ] {
        let original = raw(framed, opcode, body);
        assert_eq!(response_again(framed, op, &original), original);
    }
}

// ---- the exceptions ----

#[test]
fn trailing_bytes_and_flags_are_dropped() {
    let mut original = raw(Dialect::Handshake, 0x12, b"\0\x01qmore");
    original.header.flags = 0x80;
    assert_eq!(
        request_again(Dialect::Handshake, &original),
        raw(Dialect::Handshake, 0x12, b"\0\x01q")
    );
}

#[test]
fn a_flag_is_written_as_one() {
    let original = raw(Dialect::Handshake, 0xED, b"\0\x01k\0\0\0\0\0\0\0\0\x07");
    assert_eq!(
        &request_again(Dialect::Handshake, &original).body[..],
        b"\0\x01k\0\0\0\0\0\0\0\0\x01"
    );
}

#[test]
fn protobuf_is_written_in_its_canonical_form() {
    let p1 = Dialect::Preamble(AdminRevision::Protobuf);
    // An unknown field, a default value that is spelled out, an empty message, and a varint with a superfluous byte.
    let original = raw(p1, 0x10, b"\x0a\x01q\x12\x00\x7a\x01x");
    assert_eq!(&request_again(p1, &original).body[..], b"\x0a\x01q");
    let original = raw(p1, 0x16, b"\x0a\x01q\x10\x00");
    assert_eq!(&request_again(p1, &original).body[..], b"\x0a\x01q");
    let original = raw(p1, 0x16, b"\x0a\x81\x00q");
    assert_eq!(&request_again(p1, &original).body[..], b"\x0a\x01q");
    // The total count is that of the entries.
    let original = raw(p1, 0x19, b"\x10\x05");
    assert_eq!(&response_again(p1, Op::ListConfig, &original).body[..], b"");
    let p3 = Dialect::Preamble(AdminRevision::Binary);
    let original = raw(p3, 0x17, b"\0\0\0\0\0\x05");
    assert_eq!(&response_again(p3, Op::ListConfig, &original).body[..], b"\0\0\0\0\0\0");
}

#[test]
fn text_that_is_not_utf8_is_shown_with_replacement_characters() {
    let p1 = Dialect::Preamble(AdminRevision::Protobuf);
    let original = raw(p1, 0xFE, b"bad \xff");
    assert_eq!(
        &response_again(p1, Op::Enqueue, &original).body[..],
        "bad \u{fffd}".as_bytes()
    );
}

#[test]
fn a_result_that_is_a_refusal_keeps_code_and_text() {
    let original = raw(Dialect::Handshake, 0xF8, b"\x05\0\0\0\0\0\0\0\x09");
    assert_eq!(
        &response_again(Dialect::Handshake, Op::QueueStats, &original).body[..],
        b"\x05"
    );
    let refused = Response::decode(Dialect::Handshake, Op::QueueStats, &original).expect("it decodes");
    assert!(matches!(refused, Response::Error(error) if error.kind() == ErrorKind::Server));
}
