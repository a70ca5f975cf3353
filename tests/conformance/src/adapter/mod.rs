//! The one interface through which every case sees an adapter.
//!
//! The adapters have the same names and meaning, but differ in `async`, in their runtime and in their types. Here they
//! become trait objects, so that a case is written (and compiled) once. A call of the blocking adapter is a future
//! that blocks when it is polled: cases get concurrency from [`Adapter::spawn`] alone, which starts a task or a
//! thread, never from joining futures.

mod asyncstd;
mod blocking;
mod expand;
mod tokio;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::admin::{Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, QueueList, QueueSpec, QueueStats};
use fibp_proto::client::AckItem;
use fibp_proto::config::{Config, ConsumerSettings, ProducerSettings};
use fibp_proto::event::{Event, State, Stats};
use fibp_proto::machine::CloseReport;
use fibp_proto::{Error, Message, MessageId, Received, SendError};

/// What a call returns: awaiting it waits for the result.
pub type Wait<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a consumer yields.
pub type Taken = Option<Result<Box<dyn Delivery>, Error>>;

/// What settling a delivery comes to: the delivery comes back with the error.
pub type Settled = Result<(), (Error, Box<dyn Delivery>)>;

/// Which adapter, on which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `fila-client-tokio` on a current-thread runtime.
    Tokio,
    /// `fila-client-tokio` on a multi-thread runtime.
    TokioMulti,
    /// `fila-client-blocking`.
    Blocking,
    /// `fila-client-asyncstd`.
    AsyncStd,
}

impl Kind {
    /// Every adapter; tokio on its cheaper runtime only.
    pub const ALL: [Self; 3] = [Self::Tokio, Self::Blocking, Self::AsyncStd];

    /// Its name in the names of tests and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::TokioMulti => "tokio_multi",
            Self::Blocking => "blocking",
            Self::AsyncStd => "asyncstd",
        }
    }

    /// The adapter, with a runtime of its own where it needs one.
    pub fn start(self) -> Arc<dyn Adapter> {
        match self {
            Self::Tokio => Arc::new(tokio::Tokio::current_thread()),
            Self::TokioMulti => Arc::new(tokio::Tokio::multi_thread()),
            Self::Blocking => Arc::new(blocking::Blocking),
            Self::AsyncStd => Arc::new(asyncstd::AsyncStd),
        }
    }
}

/// An adapter and the runtime it runs on.
pub trait Adapter: Send + Sync {
    /// Connects a client.
    fn connect(&self, config: Config) -> Wait<'static, Result<Arc<dyn Client>, Error>>;

    /// Starts a task, or a thread.
    fn spawn(&self, task: Wait<'static, ()>);

    /// Runs a case on the calling thread.
    fn block_on(&self, case: Pin<Box<dyn Future<Output = ()> + '_>>);

    /// Waits.
    fn sleep(&self, duration: Duration) -> Wait<'static, ()>;

    /// A connected client whose runtime is gone, if there is such a thing; else an ordinary one. Not to be called
    /// inside a runtime.
    fn orphan(&self, config: Config) -> Result<Arc<dyn Client>, Error>;

    /// Whether dropping a future that is not finished cancels anything: not so where calls block.
    fn is_async(&self) -> bool;
}

/// See the adapters' `Client`. Clones of the `Arc` are clones of the client.
pub trait Client: Send + Sync {
    /// A clone made by the client itself, not by the `Arc`.
    fn duplicate(&self) -> Arc<dyn Client>;
    fn with_timeout(&self, timeout: Duration) -> Arc<dyn Client>;
    fn enqueue(&self, message: Message) -> Wait<'_, Result<MessageId, SendError>>;
    fn enqueue_many(&self, messages: Vec<Message>) -> Wait<'_, Vec<Result<MessageId, SendError>>>;
    fn ack<'a>(&'a self, queue: &'a str, id: &'a MessageId) -> Wait<'a, Result<(), Error>>;
    fn nack<'a>(&'a self, queue: &'a str, id: &'a MessageId, why: &'a str) -> Wait<'a, Result<(), Error>>;
    fn ack_many(&self, items: Vec<(String, MessageId)>) -> Wait<'_, Vec<Result<(), Error>>>;
    fn nack_many(&self, items: Vec<(String, MessageId, String)>) -> Wait<'_, Vec<Result<(), Error>>>;
    fn producer(&self, settings: ProducerSettings) -> Result<Box<dyn Producer>, Error>;
    fn consumer<'a>(&'a self, queue: &'a str, settings: ConsumerSettings)
    -> Wait<'a, Result<Box<dyn Consumer>, Error>>;
    fn create_queue(&self, spec: QueueSpec) -> Wait<'_, Result<String, Error>>;
    fn delete_queue<'a>(&'a self, queue: &'a str) -> Wait<'a, Result<(), Error>>;
    fn queue_stats<'a>(&'a self, queue: &'a str) -> Wait<'a, Result<QueueStats, Error>>;
    fn list_queues(&self) -> Wait<'_, Result<QueueList, Error>>;
    fn redrive<'a>(&'a self, dlq: &'a str, count: u64) -> Wait<'a, Result<u64, Error>>;
    fn set_config<'a>(&'a self, key: &'a str, value: &'a str) -> Wait<'a, Result<(), Error>>;
    fn get_config<'a>(&'a self, key: &'a str) -> Wait<'a, Result<String, Error>>;
    fn list_config<'a>(&'a self, prefix: &'a str) -> Wait<'a, Result<Vec<(String, String)>, Error>>;
    fn create_api_key(&self, spec: ApiKeySpec) -> Wait<'_, Result<CreatedApiKey, Error>>;
    fn revoke_api_key<'a>(&'a self, key_id: &'a str) -> Wait<'a, Result<(), Error>>;
    fn list_api_keys(&self) -> Wait<'_, Result<Vec<ApiKeyInfo>, Error>>;
    fn set_acl<'a>(&'a self, key_id: &'a str, permissions: Vec<Permission>) -> Wait<'a, Result<(), Error>>;
    fn get_acl<'a>(&'a self, key_id: &'a str) -> Wait<'a, Result<Acl, Error>>;
    fn state(&self) -> State;
    fn stats(&self) -> Stats;
    fn events(&self) -> Box<dyn Events>;
    fn close(&self, deadline: Duration) -> Wait<'_, CloseReport>;
}

/// See the adapters' `Producer`.
pub trait Producer: Send + Sync {
    fn send(&self, message: Message) -> Wait<'_, Result<Box<dyn Receipt>, SendError>>;
    fn try_send(&self, message: Message) -> Result<Box<dyn Receipt>, SendError>;
    fn flush(&self) -> Wait<'_, Result<(), Error>>;
}

/// See the adapters' `Receipt`.
pub trait Receipt: Send {
    fn wait(self: Box<Self>) -> Wait<'static, Result<MessageId, SendError>>;
    /// The result, if it comes in time; waiting goes no further after that.
    fn wait_timeout(self: Box<Self>, timeout: Duration) -> Wait<'static, Option<Result<MessageId, SendError>>>;
}

/// See the adapters' `Consumer`.
pub trait Consumer: Send {
    fn next(&mut self) -> Wait<'_, Taken>;
    /// `None` when nothing came in time.
    fn next_within(&mut self, timeout: Duration) -> Wait<'_, Option<Taken>>;
    fn drain(&mut self) -> Wait<'_, ()>;
}

/// See the adapters' `Delivery`.
pub trait Delivery: Send {
    fn received(&self) -> &Received;
    fn lease_deadline(&self) -> Option<Instant>;
    fn ack(self: Box<Self>) -> Wait<'static, Settled>;
    fn nack(self: Box<Self>, why: &'static str) -> Wait<'static, Settled>;
    /// The receipt is waited for by awaiting the inner value; dropping it does not take the ack back.
    fn ack_queued(self: Box<Self>) -> Wait<'static, Result<(), Error>>;
    /// As [`ack_queued`](Self::ack_queued), for a nack.
    fn nack_queued(self: Box<Self>, why: &str) -> Wait<'static, Result<(), Error>>;
    /// The same by the acker of the delivery.
    fn settle_queued_by_parts(self: Box<Self>, nack: Option<&str>) -> Wait<'static, Result<(), Error>>;
    /// What `ack_many` takes.
    fn ack_item(&self) -> AckItem;
    /// Id, queue and lease deadline that the acker of the delivery tells.
    fn acker(self: Box<Self>) -> (MessageId, String, Option<Instant>);
    /// Takes the delivery apart, and acks by the part that can.
    fn ack_by_parts(self: Box<Self>) -> (Received, Wait<'static, Result<(), Error>>);
}

/// See the adapters' `Events`.
pub trait Events: Send {
    fn next(&mut self) -> Wait<'_, Option<Event>>;
}

impl Events for fibp_proto::client::Events {
    fn next(&mut self) -> Wait<'_, Option<Event>> {
        Box::pin(Self::next(self))
    }
}
