//! Bytes from a hostile client.

use fibp_proto::frame::{Limits, Transmit};
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{AdminRevision, Dialect};

use crate::answer::answer;
use crate::input::Input;
use crate::values;

/// The most bytes of a frame that the server accepts.
const LIMIT: u32 = 64 * 1024;

/// Feeds a server what a client may send, and checks what it keeps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let revision = [
        AdminRevision::Protobuf,
        AdminRevision::ProtobufRenumbered,
        AdminRevision::Binary,
    ][input.below(3)];
    let mut config = ServerConfig::new([Dialect::Preamble(revision), Dialect::Handshake]);
    config.limits = Limits::new(LIMIT, LIMIT);
    config.max_reassembled = LIMIT as usize;
    let mut server = ServerConnection::new(config);
    let portion = 1 + input.below(255);
    let reads = input.flag();
    let n = input.below(64);
    let mut decisions = Input::new(input.bytes(n));
    let mut transmit = Transmit::new();
    let mut closed = 0;
    let stream = input.rest();
    let mut at = 0;
    while at < stream.len() {
        let piece = stream.get(at..).unwrap_or_default();
        let n = server.feed(&piece[..piece.len().min(portion)]);
        if n == 0 {
            if transmit.is_empty() && !server.take_transmit(&mut transmit) {
                break;
            }
            let n = transmit.len();
            server.transmitted(&mut transmit, n);
            closed += drain(&mut server, &mut decisions);
            continue;
        }
        at += n;
        closed += drain(&mut server, &mut decisions);
        if decisions.below(8) == 7 {
            let push = values::push(&mut decisions, &"queue".into());
            let _ = server.push(&push);
        }
        if reads && (!transmit.is_empty() || server.take_transmit(&mut transmit)) {
            let n = transmit.len().div_ceil(2);
            server.transmitted(&mut transmit, n);
        }
        // Blocked at a quarter of a mebibyte, plus what one answer or push may add.
        assert!(server.buffered() <= 512 * 1024, "{} bytes wait", server.buffered());
    }
    server.handle_eof();
    for _ in 0..1000 {
        closed += drain(&mut server, &mut decisions);
        if transmit.is_empty() && !server.take_transmit(&mut transmit) {
            break;
        }
        let n = transmit.len();
        server.transmitted(&mut transmit, n);
    }
    closed += drain(&mut server, &mut decisions);
    assert_eq!(closed, 1, "Closed is the last event, once");
    assert!(server.is_finished());
}

/// Handles all events; how often the server was closed.
fn drain(server: &mut ServerConnection, decisions: &mut Input<'_>) -> usize {
    let mut closed = 0;
    while let Some(event) = server.poll_event() {
        assert_eq!(closed, 0, "an event after Closed");
        closed += usize::from(event == ServerEvent::Closed);
        answer(server, event, decisions);
    }
    closed
}
