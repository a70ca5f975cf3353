//! What the clients hold in memory: a process of its own that counts its live heap bytes, with the broker in another
//! one. The cases run one after another, so that each measures itself alone.

mod calls;
mod heap;
mod paused;
mod restarts;

use fibp_proto::{Error, ErrorKind};

/// Whether an ack was refused because it came late: the message is or was delivered again.
fn came_late(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::MessageNotFound)
}
