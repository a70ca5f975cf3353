//! The asynchronous client, for any [`Runtime`].

mod admin;
mod client;
mod consumer;
mod delivery;
mod dial;
mod driver;
mod events;
mod producer;
mod runtime;
#[cfg(feature = "sink")]
mod sink;

pub use admin::Admin;
pub use client::Client;
pub use consumer::{Consumer, ConsumerBuilder};
pub use delivery::{AckReceipt, Acker, Delivery};
pub use events::{Events, States};
pub use producer::{Producer, ProducerBuilder, Receipt};
pub use runtime::{Runtime, SocketOptions};
