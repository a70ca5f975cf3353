//! What decoding may hold: at most four times the frame (16 MiB for small ones), whatever the frame says, counted in heap
//! bytes. A test binary of its own, with one test, so that nobody else allocates.

use fibp_proto::frame::{Frame, FrameHeader};
use fibp_proto::{AdminRevision, Dialect, Op, Push, QueueName, Request, Response};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
const P2: Dialect = Dialect::Preamble(AdminRevision::ProtobufRenumbered);
const P3: Dialect = Dialect::Preamble(AdminRevision::Binary);
const PREAMBLES: [Dialect; 3] = [P1, P2, P3];
const PROTOBUF: [Dialect; 2] = [P1, P2];
const FRAMED: [Dialect; 2] = [Dialect::Handshake, Dialect::HandshakeEarly];

const SMALL: usize = 16 * 1024 * 1024;
const LARGE: usize = 6 * 1024 * 1024;

/// What may be held for a body of this length, with a little for what does not grow with it.
fn allowed(body: usize) -> usize {
    (4 * body).max(SMALL) + 64 * 1024
}

fn frame(opcode: u8, flags: u8, body: Vec<u8>) -> Frame {
    let header = FrameHeader { opcode, flags, id: 1 };
    Frame {
        header,
        body: body.into(),
    }
}

/// A body of a head and as many copies of an item as the announced count or the size allow.
fn list(head: &[u8], count_len: usize, item: &[u8], size: usize) -> Vec<u8> {
    let most = match count_len {
        2 => 65_535,
        4 => 1_000_000,
        _ => usize::MAX,
    };
    let count = ((size - head.len()) / item.len()).min(most);
    let mut body = head.to_vec();
    let announced = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    body.extend_from_slice(&announced[4 - count_len..]);
    body.extend(item.repeat(count));
    body
}

/// The most that `decode` held beyond what was there before.
fn held<T>(decode: impl FnOnce() -> T) -> (usize, T) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let decoded = decode();
    (HEAP.peak_usage().saturating_sub(before), decoded)
}

#[derive(Clone, Copy)]
enum As {
    Answer(Op),
    Request,
    Push,
}

fn check(what: &str, dialect: Dialect, kind: As, frame: &Frame) -> bool {
    let queue: QueueName = "orders".into();
    let (most, decoded) = held(|| match kind {
        As::Answer(op) => Response::decode(dialect, op, frame)
            .map(drop)
            .map_err(|error| error.to_string()),
        As::Request => Request::decode(dialect, frame)
            .map(drop)
            .map_err(|error| error.to_string()),
        As::Push => Push::decode(dialect, &queue, frame)
            .map(drop)
            .map_err(|error| error.to_string()),
    });
    let body = frame.body.len();
    assert!(
        most <= allowed(body),
        "{dialect} {what}: {most} bytes held for a body of {body}"
    );
    if let Err(error) = &decoded {
        assert!(error.contains("bytes of memory"), "{dialect} {what}: {error}");
    }
    decoded.is_ok()
}

/// Where the answer to an admin operation stands, and its body's first byte.
fn admin(dialect: Dialect, op: Op) -> (u8, &'static [u8]) {
    let answer = Response::encode(&empty(op), dialect, 1, op).expect("fits");
    let framed = FRAMED.contains(&dialect);
    (answer[if framed { 4 } else { 5 }], if framed { b"\0" } else { b"" })
}

fn empty(op: Op) -> Response {
    match op {
        Op::QueueStats => Response::QueueStats(Default::default()),
        Op::ListQueues => Response::ListQueues(Default::default()),
        Op::ListConfig => Response::ListConfig { entries: Vec::new() },
        Op::ListApiKeys => Response::ListApiKeys(Vec::new()),
        Op::GetAcl => Response::GetAcl(Default::default()),
        other => panic!("{other:?}"),
    }
}

fn answers_with_lists() {
    // Protobuf: any number of elements of two bytes.
    for dialect in PROTOBUF {
        for (op, element) in [
            (Op::ListQueues, &b"\x0a\0"[..]),
            (Op::ListQueues, b"\x0a\x03\x0a\x01q"),
            (Op::ListConfig, b"\x0a\0"),
            (Op::ListApiKeys, b"\x0a\0"),
            (Op::GetAcl, b"\x12\0"),
            (Op::GetAcl, b"\x12\x03\x0a\x01k"),
            (Op::QueueStats, b"\x32\0"),
            (Op::QueueStats, b"\x3a\0"),
            (Op::QueueStats, b"\x32\0\x3a\0"),
            // Another field, again and again.
            (Op::ListQueues, b"\x10\x01"),
            (Op::GetAcl, b"\x0a\x01k"),
        ] {
            let (opcode, _) = admin(dialect, op);
            let frame = frame(opcode, 0, list(b"", 0, element, LARGE));
            check(&format!("{op:?} of {element:x?}"), dialect, As::Answer(op), &frame);
        }
    }
    // Binary: as many as a count of two bytes can say, of the shortest items.
    for dialect in [P3, Dialect::Handshake, Dialect::HandshakeEarly] {
        let binary = dialect == P3;
        let stats: Vec<u8> = if binary { vec![0; 32] } else { vec![0; 44] };
        for (op, head, item) in [
            (Op::ListQueues, if binary { vec![] } else { vec![0; 4] }, vec![0; 30]),
            (Op::ListConfig, vec![], vec![0; 4]),
            (Op::ListApiKeys, vec![], vec![0; 21]),
            (Op::GetAcl, if binary { vec![0; 2] } else { vec![0; 3] }, vec![0; 4]),
            (Op::QueueStats, stats.clone(), vec![0; 22]),
        ] {
            let (opcode, code) = admin(dialect, op);
            let head = [code, &head].concat();
            let mut body = list(&head, 2, &item, LARGE);
            body.extend_from_slice(&[0; 16]);
            assert!(check(
                &format!("{op:?}"),
                dialect,
                As::Answer(op),
                &frame(opcode, 0, body)
            ));
        }
    }
}

fn answers_of_the_data_path() {
    for dialect in PREAMBLES {
        for (op, opcode) in [(Op::Enqueue, 1), (Op::Ack, 3), (Op::Nack, 4)] {
            let refused = list(b"", 2, &[0; 5], LARGE);
            assert!(check(
                "refused items",
                dialect,
                As::Answer(op),
                &frame(opcode, 0, refused)
            ));
        }
        let ids = list(b"", 2, b"\x01\0\0", LARGE);
        assert!(check("empty ids", dialect, As::Answer(Op::Enqueue), &frame(1, 0, ids)));
        let long = [&b"\x01\0\x27"[..], &[b'x'; 39]].concat();
        assert!(check(
            "long ids",
            dialect,
            As::Answer(Op::Enqueue),
            &frame(1, 0, list(b"", 2, &long, LARGE))
        ));
    }
    for dialect in FRAMED {
        let settled = if dialect == Dialect::Handshake { 0x17 } else { 0x16 };
        for code in [0, 2] {
            let results = list(b"", 4, &[code], LARGE);
            assert!(check(
                "settled items",
                dialect,
                As::Answer(Op::Ack),
                &frame(settled, 0, results)
            ));
            let results = list(b"", 4, &[code, 0, 0], LARGE);
            check(
                "enqueued items",
                dialect,
                As::Answer(Op::Enqueue),
                &frame(0x11, 0, results),
            );
        }
        let alternating = list(b"", 4, &[1, 2], LARGE);
        check(
            "settled items",
            dialect,
            As::Answer(Op::Ack),
            &frame(settled, 0, alternating),
        );
        let metadata = list(b"\x01\0\0", 2, &[0; 4], LARGE);
        assert!(check(
            "metadata",
            dialect,
            As::Answer(Op::Ack),
            &frame(0xFE, 0, metadata)
        ));
    }
}

fn pushes() {
    for dialect in PREAMBLES {
        let push = list(b"", 2, &[0; 13], LARGE);
        check("a push of empty messages", dialect, As::Push, &frame(2, 4, push));
        let keys = [&b"\0\0\0\x01a"[..], &[0; 9], b"\0\0\0\x01b", &[0; 9]].concat();
        let push = list(b"", 2, &keys, LARGE / 64);
        check("a push of alternating keys", dialect, As::Push, &frame(2, 4, push));
    }
    for dialect in FRAMED {
        let opcode = if dialect == Dialect::Handshake { 0x14 } else { 0x13 };
        let push = list(b"", 4, &[0; 38], LARGE);
        check("a push of empty messages", dialect, As::Push, &frame(opcode, 0, push));
        // 65,535 empty throttle keys for each of 250 messages.
        let mut one = vec![0; 16];
        one.extend_from_slice(&[0xFF, 0xFF]);
        one.extend(vec![0; 2 * 65_535]);
        one.extend_from_slice(&[0; 20]);
        let push = list(b"", 4, &one, LARGE);
        assert!(!check(
            "a push of throttle keys",
            dialect,
            As::Push,
            &frame(opcode, 0, push)
        ));
    }
}

fn requests() {
    for dialect in PREAMBLES {
        let head = b"\0\x01q";
        check(
            "an enqueue",
            dialect,
            As::Request,
            &frame(1, 0, list(head, 2, &[0; 5], LARGE)),
        );
        assert!(check(
            "acks",
            dialect,
            As::Request,
            &frame(3, 0, list(b"", 2, &[0; 4], LARGE))
        ));
        assert!(check(
            "nacks",
            dialect,
            As::Request,
            &frame(4, 0, list(b"", 2, &[0; 6], LARGE))
        ));
    }
    for dialect in PROTOBUF {
        check(
            "grants",
            dialect,
            As::Request,
            &frame(0x34, 0, list(b"", 0, b"\x12\0", LARGE)),
        );
    }
    assert!(check(
        "grants",
        P3,
        As::Request,
        &frame(0x34, 0, list(b"\0\0", 2, &[0; 4], LARGE))
    ));
    for dialect in FRAMED {
        let (ack, nack) = if dialect == Dialect::Handshake {
            (0x16, 0x18)
        } else {
            (0x15, 0x17)
        };
        check(
            "an enqueue",
            dialect,
            As::Request,
            &frame(0x10, 0, list(b"", 4, &[0; 8], LARGE)),
        );
        check(
            "acks",
            dialect,
            As::Request,
            &frame(ack, 0, list(b"", 4, &[0; 4], LARGE)),
        );
        check(
            "nacks",
            dialect,
            As::Request,
            &frame(nack, 0, list(b"", 4, &[0; 6], LARGE)),
        );
        assert!(check(
            "grants",
            dialect,
            As::Request,
            &frame(0xE7, 0, list(b"\0\0", 2, &[0; 4], LARGE))
        ));
    }
}

/// What real servers say, and much of it, is within the bounds.
fn large_and_honest() {
    // 200,000 empty queues with names of ten letters.
    let body = list(b"", 0, b"\x0a\x0c\x0a\x0atenletters", 200_000 * 14);
    assert!(check(
        "many queues",
        P1,
        As::Answer(Op::ListQueues),
        &frame(0x13, 0, body)
    ));
    // A full enqueue, all of whose messages meet no queue.
    let body = list(b"", 4, b"\x01\0\0", 300_000 * 3);
    assert!(check(
        "many refused",
        Dialect::Handshake,
        As::Answer(Op::Enqueue),
        &frame(0x11, 0, body)
    ));
    // A push of 65,535 messages of 36-byte ids and a key.
    let one = [&b"\0\x24"[..], &[b'x'; 36], b"\0\x07default\0\0\0\0\0\0\0\0\x05hello"].concat();
    assert!(check(
        "a full push",
        P1,
        As::Push,
        &frame(2, 4, list(b"", 2, &one, 62_000 * one.len()))
    ));
}

#[test]
fn decoding_holds_at_most_four_times_the_frame() {
    answers_with_lists();
    answers_of_the_data_path();
    pushes();
    requests();
    large_and_honest();
}
