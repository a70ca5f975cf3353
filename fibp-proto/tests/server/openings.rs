//! Openings and their refusals.

use super::*;

/// What a server with these dialects writes to a client that opens with `bytes`, before it closes.
#[track_caller]
fn refusal(dialects: &[Dialect], bytes: &[u8]) -> Vec<u8> {
    let mut whole = Peer::new(config(dialects));
    whole.receive(bytes);
    let mut stepwise = Peer::new(config(dialects));
    for byte in bytes {
        stepwise.receive(&[*byte]);
    }
    for peer in [&whole, &stepwise] {
        assert_eq!(peer.events, [ServerEvent::Closed]);
        assert!(peer.server.is_finished());
    }
    assert_eq!(whole.written, stepwise.written);
    whole.written
}

fn goaway(text: &str) -> Bytes {
    raw(P1, 0xFF, 0, 0, text.to_owned())
}

#[test]
fn each_dialect_is_opened_and_told_apart() {
    for dialect in ALL {
        let other = if is_framed(dialect) { P1 } else { Dialect::Handshake };
        for dialects in [vec![dialect], vec![dialect, other], vec![other, dialect]] {
            let mut peer = Peer::new(config(&dialects));
            assert_eq!(peer.server.dialect(), None);
            peer.receive(opening(dialect));
            assert_eq!(peer.events, [ServerEvent::Opened { dialect, key: None }]);
            assert_eq!(peer.server.dialect(), Some(dialect));
            let echo = if is_framed(dialect) { HANDSHAKE_OK } else { PREAMBLE };
            assert_eq!(peer.written, echo);
        }
    }
}

#[test]
fn the_minor_version_is_ignored() {
    let mut peer = Peer::new(config(&[P1]));
    peer.receive(b"FIBP\x01\x2a");
    assert_eq!(peer.events, [ServerEvent::Opened { dialect: P1, key: None }]);
    assert_eq!(peer.written, PREAMBLE, "always its own 1.0");
}

#[test]
fn a_preamble_server_says_what_is_wrong() {
    assert_eq!(refusal(&[P1], HANDSHAKE), goaway("invalid magic"));
    assert_eq!(refusal(&[P1], b"GET / HTTP/1.1\r\n"), goaway("invalid magic"));
    assert_eq!(refusal(&[P1], b"\x16\x03\x01\x02\0\x01"), goaway("invalid magic"));
    for dialects in [&[P1][..], &[P1, Dialect::Handshake]] {
        assert_eq!(
            refusal(dialects, b"FIBP\x02\x00"),
            goaway("unsupported protocol version 2.x (server supports 1.x)")
        );
    }
}

#[test]
fn a_framed_server_closes_on_anything_else() {
    assert_eq!(refusal(&[Dialect::Handshake], PREAMBLE), b"");
    assert_eq!(refusal(&[Dialect::Handshake], b"\x16\x03\x01\x02\0\x01"), b"");
    assert_eq!(refusal(&[P1, Dialect::Handshake], b"GET / HTTP/1.1\r\n"), b"");
    // Too short, too long, truncated inside, not UTF-8.
    assert_eq!(refusal(&[Dialect::Handshake], b"\0\0\0\x05"), b"");
    assert_eq!(refusal(&[Dialect::Handshake], b"\x01\0\0\x01"), b"");
    assert_eq!(
        refusal(&[Dialect::Handshake], b"\0\0\0\x0b\x01\0\0\0\0\0\0\x01\x01\0\x08"),
        b""
    );
    assert_eq!(
        refusal(&[Dialect::Handshake], b"\0\0\0\x0c\x01\0\0\0\0\0\0\x01\x01\0\x01\xff"),
        b""
    );
}

#[test]
fn a_framed_server_refuses_versions_and_frames_before_the_handshake() {
    for dialects in [&[Dialect::Handshake][..], &[P1, Dialect::Handshake]] {
        assert_eq!(
            refusal(dialects, b"\0\0\0\x09\x01\0\0\0\0\0\0\x02\0"),
            b"\0\0\0\x3f\xfe\0\0\0\0\0\x0d\0\x24only protocol version 1 is supported\0\x01\0\x0bmax_version\0\x011"
        );
        assert_eq!(
            refusal(dialects, b"\0\0\0\x0a\x10\0\0\0\0\x07\0\0\0\0"),
            b"\0\0\0\x23\xfe\0\0\0\0\x07\x0e\0\x18expected Handshake frame\0\0"
        );
    }
}

#[test]
fn nothing_is_accepted_when_nothing_is_configured() {
    assert_eq!(refusal(&[], b"F"), b"");
    assert_eq!(refusal(&[Dialect::Auto], b"F"), b"");
}

#[test]
fn a_client_that_leaves_before_it_opened_is_forgotten() {
    for bytes in [&b""[..], b"FIBP\x01", b"\0\0\0\x09\x01"] {
        let mut peer = Peer::new(config(&[P1, Dialect::Handshake]));
        peer.receive(bytes);
        peer.eof();
        assert_eq!(peer.events, [ServerEvent::Closed]);
        assert!(peer.written.is_empty() && peer.server.is_finished());
    }
}

#[test]
fn a_handshake_waits_for_the_decision() {
    let mut peer = Peer::new(config(&[Dialect::Handshake]));
    let feed = |server: &mut ServerConnection, bytes: &[u8]| {
        assert_eq!(server.feed(bytes), bytes.len());
    };
    // A request is pipelined behind it.
    let mut bytes = HANDSHAKE_WITH_KEY.to_vec();
    bytes.extend_from_slice(&raw(Dialect::Handshake, 0x03, 0, 5, ""));
    feed(&mut peer.server, &bytes);
    let Some(ServerEvent::Opened { key: Some(key), .. }) = peer.server.poll_event() else {
        panic!("no opening");
    };
    assert_eq!(key.expose(), "test-key");
    assert_eq!(peer.server.poll_event(), None);
    assert!(peer.server.take_read_buffer().is_none());
    assert_eq!(peer.server.buffered(), 0);

    let mut other = ServerConnection::new(config(&[Dialect::Handshake]));
    feed(&mut other, &bytes);
    assert!(other.poll_event().is_some());
    other.refuse(ServerError::new(ErrorKind::Auth, "invalid API key"));
    assert_eq!(other.poll_event(), Some(ServerEvent::Closed));
    assert_eq!(other.poll_event(), None);
    let mut transmit = Transmit::new();
    assert!(other.take_transmit(&mut transmit));
    assert_eq!(
        transmit.chunk(),
        b"\0\0\0\x1a\xfe\0\0\0\0\0\x0a\0\x0finvalid API key\0\0"
    );
    let n = transmit.len();
    other.transmitted(&mut transmit, n);
    assert!(other.is_finished());

    peer.server.accept();
    peer.turn();
    assert_eq!(peer.written[..HANDSHAKE_OK.len()], *HANDSHAKE_OK);
    assert_eq!(
        peer.written[HANDSHAKE_OK.len()..],
        *raw(Dialect::Handshake, 0x04, 0, 5, "")
    );
}

#[test]
fn a_cluster_node_announces_itself() {
    let mut config = config(&[Dialect::Handshake]);
    config.node_id = 3;
    config.limits.receive = 0x0200_0000;
    let mut peer = Peer::new(config);
    peer.receive(HANDSHAKE);
    assert_eq!(
        peer.written,
        b"\0\0\0\x14\x02\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x03\x02\0\0\0"
    );
}
