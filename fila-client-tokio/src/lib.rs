//! Client for the Fila message broker, for tokio.
//!
//! ```no_run
//! use fila_client_tokio::{Client, Error, Message};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect("fila://localhost:5555").await?;
//! client.admin().create_queue("orders").await?;
//!
//! let message = Message::new("orders", "two apples").header("tenant", "acme");
//! let id = client.enqueue(message).await?;
//!
//! let mut consumer = client.consume("orders").await?;
//! while let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     println!("{}: {:?}", delivery.id(), delivery.payload());
//!     delivery.ack().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Which type does what
//!
//! * [`Client`] enqueues, acks and administers, and waits for each result.
//! * [`Producer`] takes messages without waiting for each confirmation, and sends them in batches.
//! * [`Consumer`] is the stream of one queue's deliveries, on a connection of its own.
//! * [`Events`], [`Client::state`] and [`Client::stats`] show what the connections do.
//!
//! A lost connection is made again by itself. What that means for calls under way is told by
//! [`Error::outcome`]; configure it with [`Config::replay`] and [`Config::reconnect`].
//!
//! # The runtime
//!
//! Clients are made inside a tokio runtime with IO and time enabled, and their connections are served by tasks on it. They
//! can be used and dropped anywhere. When the runtime ends, calls fail with [`ErrorKind::Closed`].
//!
//! # Features
//!
//! * `tls-ring` (default), `tls-aws-lc-rs`: TLS with that crypto provider; `tls`: with one that the program installed, or a
//!   ready rustls configuration.
//! * `tls-platform-roots` (default), `tls-webpki-roots`: what [`Tls::platform`] and [`Tls::webpki`] trust.
//! * `tracing`: spans and events; never a payload or a key.

mod admin;
mod client;
mod connect;
mod consumer;
mod driver;
mod producer;

pub use admin::Admin;
pub use client::{Client, Events};
pub use consumer::{AckError, AckReceipt, Acker, Consumer, ConsumerBuilder, Delivery};
pub use producer::{Producer, ProducerBuilder, Receipt};

pub use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, PermissionKind, QueueInfo, QueueList, QueueSpec,
    QueueStats, ThrottleStats,
};
pub use fibp_proto::config::{Backoff, Batching, Config, Credit, Endpoint, IntoEndpoints, OnFull, Reconnect, Replay};
pub use fibp_proto::link::CloseReport;
pub use fibp_proto::request::{AckItem, NackItem};
pub use fibp_proto::{
    AdminRevision, Dialect, Error, ErrorKind, Event, Headers, LinkName, Message, MessageId, Outcome, Received, Secret,
    SendError, State, Stats, Tls,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
