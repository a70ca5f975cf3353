//! An embedded, in-memory Fila broker for tests.

mod faults;
mod machine;

pub use faults::{Faults, Leadership, UnknownFault};
pub use fibp_proto::{AdminRevision, Dialect, Op};
pub use machine::{BrokerMachine, ConnectionId, Ending, Output, QueueFigures, Settings, Snapshot};
