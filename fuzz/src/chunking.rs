//! The same bytes in different portions mean the same.

use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{AdminRevision, Dialect};

use crate::client_connection::{Setup, listen};
use crate::input::Input;

/// Feeds a server and a consumer the input whole and in pieces, and compares what they make of it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::new(&mut input).only_consumes();
    let n = 1 + input.below(15);
    let cuts = input.bytes(n);
    let portion = |at: usize| usize::from(*cuts.get(at % cuts.len().max(1)).unwrap_or(&0)) + 1;
    let stream = input.rest();

    let whole = serve(stream, |_| usize::MAX);
    assert_eq!(serve(stream, portion), whole);
    assert_eq!(serve(stream, |_| 1), whole);

    let whole = listen(&setup, stream, |_| usize::MAX);
    let pieces = listen(&setup, stream, portion);
    assert_eq!(pieces.completions, whole.completions);
    // What follows the end of a connection still counts if it was read along with it.
    assert!(
        whole.deliveries.starts_with(&pieces.deliveries),
        "{pieces:?} of {whole:?}"
    );
}

/// What a server makes of the bytes. It answers nothing, so that nothing depends on when.
fn serve(stream: &[u8], mut portion: impl FnMut(usize) -> usize) -> Vec<ServerEvent> {
    let mut server = ServerConnection::new(ServerConfig::new([
        Dialect::Preamble(AdminRevision::Protobuf),
        Dialect::Handshake,
    ]));
    let mut events = Vec::new();
    let mut at = 0;
    loop {
        while let Some(event) = server.poll_event() {
            if let ServerEvent::Opened { .. } = event {
                server.accept();
            }
            events.push(event);
        }
        if at >= stream.len() {
            break;
        }
        let rest = stream.get(at..).unwrap_or_default();
        match server.feed(&rest[..portion(at).clamp(1, rest.len())]) {
            0 => break,
            n => at += n,
        }
    }
    server.handle_eof();
    events.extend(std::iter::from_fn(|| server.poll_event()));
    events
}
