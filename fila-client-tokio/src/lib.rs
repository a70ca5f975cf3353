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
//! The client reconnects automatically. [`Error::outcome`] says what a lost connection means for a call under way;
//! [`Config::replay`] and [`Config::reconnect`] configure both.
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
//! * `tracing`: spans of connections and calls, and events; never a payload or a key.
//! * `sink`: [`Producer`] is a `Sink<Message>` of the crate `futures-sink`.
//! * `serde`: [`MessageId`] as a text of serde.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connect;
mod environment;
mod runtime;

pub use environment::FromEnv;
pub use runtime::Tokio;

pub use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, PermissionKind, QueueInfo, QueueList, QueueSpec,
    QueueStats, ThrottleStats,
};
pub use fibp_proto::client::{AckItem, Events, States};
pub use fibp_proto::config::{
    Backoff, Batching, Config, Credit, Endpoint, Expired, IntoEndpoints, OnFull, Reconnect, Replay,
};
pub use fibp_proto::event::StatKind;
pub use fibp_proto::machine::CloseReport;
pub use fibp_proto::request::NackItem;
#[cfg(feature = "tls")]
pub use fibp_proto::rustls;
pub use fibp_proto::{
    AdminRevision, Bytes, ConnectionRole, Dialect, Error, ErrorKind, Event, Headers, Message, MessageId, Op, Outcome,
    QueueName, Received, Secret, SendError, State, Stats, Tls, TraceContext,
};

/// A connection to a Fila broker, or to a cluster of them, that reconnects automatically.
///
/// Clones are cheap and share the connection. All methods are documented at [`fibp_proto::client::Client`].
///
/// ```no_run
/// use fila_client_tokio::{Client, Config, Error, Message};
///
/// # async fn example() -> Result<(), Error> {
/// let client = Client::connect(Config::new("localhost:5555").api_key("secret")).await?;
/// let id = client.enqueue(Message::new("orders", "two apples")).await?;
/// println!("stored as {id}");
/// client.close(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
pub type Client = fibp_proto::client::Client<Tokio>;

/// Administrative operations; see [`Client::admin`].
///
/// ```no_run
/// # async fn example(client: fila_client_tokio::Client) -> Result<(), fila_client_tokio::Error> {
/// let admin = client.admin();
/// admin.create_queue("orders").await?;
/// println!("{} messages wait", admin.queue_stats("orders").await?.depth);
/// # Ok(())
/// # }
/// ```
pub type Admin = fibp_proto::client::Admin<Tokio>;

/// Sends messages through a buffer of its own, in batches. Clones share the buffer.
///
/// ```no_run
/// use fila_client_tokio::{Client, Error, Message};
///
/// # async fn example(client: Client) -> Result<(), Error> {
/// let producer = client.producer().max_messages(100).build()?;
/// let mut receipts = Vec::new();
/// for n in 0..1_000 {
///     receipts.push(producer.send(Message::new("orders", format!("order {n}"))).await?);
/// }
/// for receipt in receipts {
///     if let Err(failed) = receipt.await {
///         eprintln!("{} for {}: not stored: {failed}", failed.kind(), failed.message.queue);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub type Producer = fibp_proto::client::Producer<Tokio>;

/// Options of a [`Producer`].
pub type ProducerBuilder = fibp_proto::client::ProducerBuilder<Tokio>;

/// A message being sent: a future that is ready when the broker has answered. A failure gives the message back.
pub type Receipt = fibp_proto::client::Receipt<Tokio>;

/// The deliveries of one queue: a stream, on a connection of its own.
///
/// ```no_run
/// # async fn example(client: fila_client_tokio::Client) -> Result<(), fila_client_tokio::Error> {
/// let mut consumer = client.consumer("orders").prefetch(32).open().await?;
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     match delivery.payload().is_empty() {
///         true => delivery.nack("nothing in it").await?,
///         false => delivery.ack().await?,
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub type Consumer = fibp_proto::client::Consumer<Tokio>;

/// Options of a [`Consumer`].
pub type ConsumerBuilder = fibp_proto::client::ConsumerBuilder<Tokio>;

/// A message leased to a [`Consumer`], to be acked or nacked before its lease ends.
pub type Delivery = fibp_proto::client::Delivery<Tokio>;

/// Settles the message of a [`Delivery`] that was taken apart.
///
/// ```no_run
/// use fila_client_tokio::{Delivery, Error};
///
/// # async fn example(delivery: Delivery) -> Result<(), Error> {
/// let (received, acker) = delivery.into_parts();
/// println!("{} bytes", received.payload.len());
/// acker.ack().await?;
/// # Ok(())
/// # }
/// ```
pub type Acker = fibp_proto::client::Acker<Tokio>;

/// A queued ack or nack: a future that is ready when the broker has answered.
pub type AckReceipt = fibp_proto::client::AckReceipt<Tokio>;

/// Why an ack or a nack is not confirmed, with the delivery (or its acker), to try again with.
pub type AckError<D = Delivery> = fibp_proto::AckError<D>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
