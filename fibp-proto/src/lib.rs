#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Without `std` there is the codec alone; what only the machines above it use then lies idle.
#![cfg_attr(not(feature = "std"), no_std, allow(dead_code, unused_imports, unreachable_pub))]

#[macro_use]
extern crate alloc;

pub mod admin;
#[cfg(feature = "std")]
mod by_number;
#[cfg(feature = "std")]
mod channel;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "std")]
mod common;
#[cfg(feature = "std")]
pub mod config;
#[cfg(feature = "std")]
mod connection;
#[cfg(feature = "std")]
pub mod consumer;
#[cfg(feature = "std")]
pub mod dial;
pub mod dialect;
#[cfg(feature = "std")]
mod directory;
#[cfg(feature = "std")]
mod earliest_deadline;
mod endpoint;
pub mod error;
#[cfg(feature = "std")]
pub mod event;
#[cfg(feature = "std")]
pub mod fault;
pub mod frame;
#[cfg(feature = "std")]
pub mod machine;
pub mod message;
pub mod observe;
mod prelude;
#[cfg(feature = "std")]
mod random;
pub mod request;
#[cfg(feature = "std")]
pub mod requests;
pub mod response;
pub mod server;
#[cfg(feature = "std")]
pub mod shared;
#[cfg(all(feature = "std", not(feature = "simulation")))]
mod simulation;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
#[cfg(feature = "std")]
pub mod tls;
#[cfg(feature = "std")]
mod trace;
pub mod typed;

#[doc(hidden)]
pub use bytes::Bytes;
#[cfg(feature = "std")]
pub use config::{Config, Credit};
#[cfg(feature = "std")]
pub use connection::{ClientConfig, ClientConnection, ClientEvent};
pub use dialect::{AdminRevision, Dialect};
pub use endpoint::Endpoint;
pub use error::{AckError, Error, ErrorKind, Outcome, SendError};
#[cfg(feature = "std")]
pub use event::{ConnectionRole, Event, State, Stats};
#[cfg(feature = "std")]
pub use fault::{Fault, FaultKind};
pub use message::{Headers, Message, MessageId, QueueName, Received, Secret, TraceContext};
pub use request::{Op, Request};
pub use response::{Push, Response, ServerError};
#[cfg(feature = "tls")]
pub use rustls;
#[cfg(feature = "std")]
pub use shared::Shared;
#[cfg(feature = "std")]
pub use tls::Tls;
pub use typed::TypedRequest;

/// An instant to count from.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn tests_epoch() -> std::time::Instant {
    std::time::Instant::now()
}
