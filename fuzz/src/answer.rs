//! A server that answers whatever it is asked, in a way the fuzzer decides.

use fibp_proto::server::{ServerConnection, ServerEvent};

use crate::input::Input;
use crate::values;

/// Handles one event.
pub(crate) fn answer(server: &mut ServerConnection, event: ServerEvent, input: &mut Input<'_>) {
    match event {
        ServerEvent::Opened { .. } => server.accept(),
        ServerEvent::Request { id, .. } => {
            let response = values::response(input, id.op);
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
