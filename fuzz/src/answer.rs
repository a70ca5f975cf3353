//! A server that answers whatever it is asked, in a way the fuzzer decides.

use fibp_proto::server::{ServerConnection, ServerEvent};
use fibp_proto::{Dialect, ErrorKind, Response, ServerError};

use crate::input::Input;
use crate::values;

/// Handles one event.
pub(crate) fn answer(server: &mut ServerConnection, event: ServerEvent, input: &mut Input<'_>) {
    match event {
        ServerEvent::Opened { .. } => server.accept(),
        ServerEvent::Request { id, .. } => {
            let response = if input.below(16) == 9 {
                let framed = matches!(server.dialect(), Some(Dialect::Handshake | Dialect::HandshakeEarly));
                Response::Error(refer(framed, input))
            } else {
                values::response(input, id.op)
            };
            // What the wire cannot carry is not said.
            let _ = server.respond(id, &response);
        }
        ServerEvent::Malformed { id, answer, .. } => match answer {
            Some(error) => server.respond_error(id, &error),
            None => server.close(),
        },
        _ => {}
    }
}

/// Refers a client to another node, or to this one.
fn refer(framed: bool, input: &mut Input<'_>) -> ServerError {
    let address = format!("127.0.0.1:{}", 5555 + input.below(6));
    if framed {
        // docs/protocol/framed.md 4
        ServerError::new(ErrorKind::NotLeader, "not the leader for this queue")
            .with_code(0x0C)
            .with_metadata(vec![("leader_addr".to_owned(), address)])
    } else {
        // docs/protocol/clusters.md 3
        ServerError::new(ErrorKind::NotLeader, format!("leader_hint:{address}"))
    }
}
