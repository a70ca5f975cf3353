//! An embedded, in-memory Fila broker for tests.

mod clock;
mod faults;
mod machine;
mod shell;

pub use clock::ManualClock;
pub use faults::{Faults, Leadership, UnknownFault};
pub use fibp_proto::{AdminRevision, Dialect, Op};
pub use machine::{BrokerMachine, ConnectionId, Ending, Output, QueueFigures, Settings, Snapshot};
pub use shell::{Broker, BrokerBuilder};
