//! Requests over several frames.

use super::*;

fn part(opcode: u8, flags: u8, id: u32, body: impl Into<Bytes>) -> Bytes {
    raw(Dialect::Handshake, opcode, flags, id, body)
}

#[test]
fn fifty_mebibytes_in_one_request() {
    let payload: Vec<u8> = (0..50 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    let request = Request::Enqueue(vec![Message::new("q", payload)]);
    let bytes = request
        .encode(Dialect::Handshake, 3, Limits::default())
        .expect("split over frames");
    let mut peer = Peer::open(Dialect::Handshake);
    assert_eq!(peer.receive(&bytes), bytes.len());
    let id = RequestId { id: 3, op: Op::Enqueue };
    // Compared without printing 50 MiB on failure.
    assert!(peer.events == [ServerEvent::Request { id, request }]);
    // The preamble dialect cannot.
    let limits = Limits::default();
    let ServerEvent::Request { request, .. } = &peer.events[0] else {
        panic!("no request");
    };
    assert!(matches!(
        request.encode(P1, 3, limits),
        Err(EncodeError::FrameTooLarge { .. })
    ));
}

#[test]
fn continued_requests_may_be_interleaved_byte_by_byte() {
    let ack = b"\0\0\0\x01\0\x01q\0\x01i";
    let nack = b"\0\0\0\x01\0\x01q\0\x01i\0\x04boom";
    let mut bytes = Vec::new();
    for at in 0..nack.len() {
        if let Some(byte) = ack.get(at) {
            let flags = if at + 1 < ack.len() { CONTINUATION } else { 0 };
            bytes.extend_from_slice(&part(0x16, flags, 1, vec![*byte]));
        }
        let flags = if at + 1 < nack.len() { CONTINUATION } else { 0 };
        bytes.extend_from_slice(&part(0x18, flags, 2, vec![nack[at]]));
        bytes.extend_from_slice(&part(0x03, 0, 3, ""));
    }
    let mut peer = Peer::open(Dialect::Handshake);
    peer.receive(&bytes);
    let of = |op| {
        let is = |event: &&ServerEvent| matches!(event, ServerEvent::Request { id, .. } if id.op == op);
        peer.events.iter().filter(is).count()
    };
    assert_eq!((of(Op::Ack), of(Op::Nack), of(Op::Heartbeat)), (1, 1, nack.len()));
    assert_eq!(peer.events.len(), 2 + nack.len());
}

#[test]
fn broken_sequences_close_without_a_frame() {
    let closes = |bytes: &[u8], config: ServerConfig| {
        let mut peer = Peer::new(config);
        peer.receive(HANDSHAKE);
        peer.receive(bytes);
        assert_eq!(peer.events[1..], [ServerEvent::Closed]);
        assert_eq!(peer.written, HANDSHAKE_OK);
        assert!(peer.server.is_finished());
    };
    // Another opcode under the id, be it a Ping or a CancelConsume.
    for opcode in [0x03, 0x15, 0x18] {
        let mut bytes = part(0x16, CONTINUATION, 1, "x").to_vec();
        bytes.extend_from_slice(&part(opcode, 0, 1, ""));
        closes(&bytes, config(&[Dialect::Handshake]));
    }
    // 65 unfinished sequences.
    let bytes: Vec<u8> = (0..65)
        .flat_map(|id| part(0x16, CONTINUATION, id, "x").to_vec())
        .collect();
    closes(&bytes, config(&[Dialect::Handshake]));
    // More than may be kept.
    let mut small = config(&[Dialect::Handshake]);
    small.max_reassembled = 1000;
    let bytes: Vec<u8> = (0..11)
        .flat_map(|id| part(0x16, CONTINUATION, id, vec![0; 100]).to_vec())
        .collect();
    closes(&bytes, small);
}

#[test]
fn the_preamble_dialect_ignores_flags() {
    let mut peer = Peer::open(P1);
    peer.receive(&raw(P1, 0x21, 0xFF, 1, ""));
    assert_eq!(peer.written, raw(P1, 0x21, 0, 1, ""));
}
