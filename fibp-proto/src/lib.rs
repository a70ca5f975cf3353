#![doc = include_str!("../README.md")]

pub mod admin;
mod channel;
#[cfg(feature = "client")]
pub mod client;
mod common;
pub mod config;
mod connection;
pub mod consumer;
pub mod dial;
pub mod dialect;
mod directory;
mod earliest_deadline;
pub mod error;
pub mod event;
pub mod fault;
pub mod frame;
pub mod machine;
pub mod message;
pub mod observe;
pub mod operation;
mod random;
pub mod request;
pub mod requests;
pub mod response;
pub mod server;
pub mod shared;
#[cfg(not(feature = "simulation"))]
mod simulation;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
pub mod tls;
mod trace;

#[doc(hidden)]
pub use bytes::Bytes;
pub use config::{Config, Credit, Endpoint};
pub use connection::{ClientConfig, ClientConnection, ClientEvent};
pub use dialect::{AdminRevision, Dialect};
pub use error::{AckError, Error, ErrorKind, Outcome, SendError};
pub use event::{ConnectionRole, Event, State, Stats};
pub use fault::{Fault, FaultKind};
pub use message::{Headers, Message, MessageId, QueueName, Received, Secret};
pub use operation::Operation;
pub use request::{Op, Request};
pub use response::{Push, Response, ServerError};
pub use shared::Shared;
pub use tls::Tls;

/// An instant to count from.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn tests_epoch() -> std::time::Instant {
    std::time::Instant::now()
}
