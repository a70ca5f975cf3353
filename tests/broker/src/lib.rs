#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "tls")]
pub mod certs;
mod clock;
mod faults;
mod host;
mod machine;
mod shell;

pub use clock::ManualClock;
pub use faults::{Faults, Leadership, UnknownFault};
pub use fibp_proto::{AdminRevision, Dialect, ErrorKind, Op};
pub use host::{BrokerHost, TraceEvent};
pub use machine::{BrokerMachine, ConnectionId, Ending, Output, QueueFigures, Settings, Snapshot, StoredMessage};
#[cfg(feature = "tls")]
pub use shell::ServerTls;
pub use shell::{Broker, BrokerBuilder};
