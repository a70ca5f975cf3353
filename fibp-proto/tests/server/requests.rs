//! Requests, whole and in pieces, and how a connection ends.

use super::*;

#[test]
fn pieces_of_any_size_mean_the_same() {
    for dialect in ALL {
        let (expected, mut bytes) = script(dialect);
        bytes.splice(0..0, opening(dialect).iter().copied());
        let mut whole = Peer::new(config(&[dialect]));
        assert_eq!(whole.receive(&bytes), bytes.len());
        assert_eq!(whole.events[0], ServerEvent::Opened { dialect, key: None });
        assert_eq!(whole.events[1..], expected, "{dialect}");
        let answered = expected
            .iter()
            .filter(|event| matches!(event, ServerEvent::Request { id, .. } if id.op.is_answered()));
        assert_eq!(
            frames(
                dialect,
                &whole.written[if is_framed(dialect) { 0 } else { PREAMBLE.len() }..]
            )
            .len(),
            answered.count() + usize::from(is_framed(dialect))
        );

        for seed in 0..20 {
            let mut peer = Peer::new(config(&[dialect]));
            let mut state: u64 = seed;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                // Knuth's generator; its high bits are the better ones.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let most = if seed == 0 { 1 } else { 3000 };
                let n = (1 + (state >> 33) as usize % most).min(rest.len());
                peer.receive(&rest[..n]);
                rest = &rest[n..];
            }
            assert_eq!(peer.events, whole.events, "{dialect}, seed {seed}");
            assert_eq!(peer.written, whole.written, "{dialect}, seed {seed}");
        }
    }
}

#[test]
fn what_arrived_before_the_end_is_still_answered() {
    for dialect in ALL {
        let mut peer = Peer::open(dialect);
        let (mut expected, bytes) = script(dialect);
        peer.receive(&bytes);
        peer.receive(&raw(dialect, 0x10, 0, 1, "cut short")[..12]);
        peer.eof();
        expected.push(ServerEvent::Closed);
        assert_eq!(peer.events, expected);
        assert!(peer.server.is_finished());
        assert!(peer.server.take_read_buffer().is_none());
    }
}

#[test]
fn a_goodbye_ends_the_connection() {
    for dialect in ALL {
        let mut peer = Peer::open(dialect);
        let mut bytes = Request::Goodbye
            .encode(dialect, 0, Limits::default())
            .expect("every dialect has one")
            .to_vec();
        bytes.extend_from_slice(&script(dialect).1);
        peer.receive(&bytes);
        assert_eq!(peer.events, [ServerEvent::Closed], "{dialect}");
        assert!(peer.server.is_finished());
        assert_eq!(peer.written, b"");
    }
}

#[test]
fn unreadable_requests_come_with_the_answer_of_real_servers() {
    let mut peer = Peer::open(Dialect::Handshake);
    peer.receive(&raw(Dialect::Handshake, 0x77, 0, 29, ""));
    peer.receive(&raw(Dialect::Handshake, 0x10, 0, 30, &b"\0\0\0\x01"[..]));
    peer.receive(&raw(Dialect::Handshake, 0x03, 0, 31, ""));
    let mut expected = b"\0\0\0\x2e\xfe\0\0\0\0\x1d\x0e\0\x23unknown or unsupported opcode: 0x77\0\0".to_vec();
    expected.extend_from_slice(
        b"\0\0\0\x48\xfe\0\0\0\0\x1e\x0e\0\x3dinvalid enqueue frame: incomplete frame: need 2 bytes, have 0\0\0",
    );
    expected.extend_from_slice(&raw(Dialect::Handshake, 0x04, 0, 31, ""));
    assert_eq!(peer.written, expected);
    assert!(matches!(
        peer.events[1],
        ServerEvent::Malformed {
            id: 30,
            op: Some(Op::Enqueue),
            reason: Malformed::Body(_),
            answer: Some(_)
        }
    ));

    let mut peer = Peer::open(P1);
    peer.receive(&raw(P1, 0x77, 0, 1, ""));
    assert_eq!(peer.written, raw(P1, 0xFE, 0, 1, "unknown operation 0x77"));
    match &peer.events[0] {
        ServerEvent::Malformed { reason, .. } => assert_eq!(reason.to_string(), "unknown opcode 0x77"),
        other => panic!("{other:?}"),
    }
    peer.receive(&raw(P1, 0x01, 0, 2, &b"\0"[..]));
    let closed = ServerEvent::Malformed {
        id: 2,
        op: Some(Op::Enqueue),
        reason: Malformed::Body(DecodeError::UnexpectedEnd {
            field: "u16",
            needed: 2,
            available: 1,
        }),
        answer: None,
    };
    assert_eq!(peer.events[1..], [closed, ServerEvent::Closed]);
}

#[test]
fn a_frame_of_impossible_length_closes_without_a_frame() {
    for dialect in ALL {
        for length in [5_u32, frame::DEFAULT_MAX_LENGTH + 1, u32::MAX] {
            let mut peer = Peer::open(dialect);
            peer.receive(&length.to_be_bytes());
            assert_eq!(peer.events, [ServerEvent::Closed]);
            assert_eq!(peer.written, b"");
            assert!(peer.server.is_finished());
        }
        // A declared length alone reserves little.
        let mut peer = Peer::open(dialect);
        peer.receive(&frame::DEFAULT_MAX_LENGTH.to_be_bytes());
        let mut buffer = peer.server.take_read_buffer().expect("reading");
        assert!(buffer.unfilled().len() <= 64 * 1024);
    }
}
