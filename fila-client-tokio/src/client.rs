//! The client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fibp_proto::client::{Call, Handle, Subscription, Waiter};
use fibp_proto::config::Config;
use fibp_proto::event::{Event, State, Stats};
use fibp_proto::link::{CallId, CloseReport, Link, Settle};
use fibp_proto::operation::Operation;
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::{Error, Message, MessageId, SendError, Shared};
use futures_core::Stream;

use crate::admin::Admin;
use crate::connect::SOURCES;
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::driver::{Socket, spawner};
use crate::producer::ProducerBuilder;

/// A connection to a Fila broker, or to a cluster of them, that mends itself.
///
/// Clones are cheap and share the connection, which stays open while a clone, a [`Producer`](crate::Producer), a
/// [`Consumer`], a [`Receipt`](crate::Receipt) or a [`Delivery`](crate::Delivery) is left. When the last one is
/// dropped, what producers were given is still sent for a few seconds in the background; use
/// [`close`](Self::close) to know what became of it.
///
/// Calls made while there is no connection wait for one, until their timeout.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) handle: Handle<Socket>,
    /// Instead of the configured request timeout.
    pub(crate) timeout: Option<Duration>,
}

impl Client {
    /// Connects, and waits until the broker is ready for requests.
    ///
    /// `config` is a [`Config`], or the text of a URL such as `"fila://localhost:5555"`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a bad configuration or outside a tokio runtime; otherwise why there is no
    /// connection within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect<C>(config: C) -> Result<Self, Error>
    where
        C: TryInto<Config>,
        C::Error: Into<Error>,
    {
        let shared = Shared::new(config.try_into().map_err(Into::into)?)?;
        let (handle, wait) = Handle::open(shared, SOURCES, spawner()?);
        let client = Self { handle, timeout: None };
        wait.opened().await?;
        Ok(client)
    }

    /// Connects as the environment says: `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`,
    /// `FILA_CA_FILE`, `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE`.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`ErrorKind::Config`](crate::ErrorKind::Config) for a file that cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn from_env() -> Result<Self, Error> {
        Self::connect(Config::from_vars(
            |name| std::env::var_os(name),
            |file| std::fs::read(file),
        )?)
        .await
    }

    /// Enqueues one message and waits for the broker's confirmation. Messages of concurrent calls share frames.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed, with the message. [`SendError::outcome`] tells whether it may be in the
    /// queue nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws a message that is not sent yet. One that is sent may be in the queue.
    pub async fn enqueue(&self, message: Message) -> Result<MessageId, SendError> {
        self.submit(|link, now, timeout, waiter| link.enqueue(now, message, timeout, waiter))
            .enqueued()
            .await
    }

    /// Enqueues many messages, for any mix of queues, and waits for all results, in input order.
    ///
    /// # Cancel safety
    ///
    /// As for [`enqueue`](Self::enqueue), for each message.
    pub async fn enqueue_many(&self, messages: Vec<Message>) -> Vec<Result<MessageId, SendError>> {
        self.submit(|link, now, timeout, waiter| link.enqueue_many(now, messages, timeout, waiter))
            .enqueued_many()
            .await
    }

    /// Acks a message by its id. [`Delivery::ack`](crate::Delivery::ack) is the usual way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) or [`ErrorKind::MessageNotFound`](crate::ErrorKind::MessageNotFound) if it isn't leased any more; otherwise why there
    /// is no confirmation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws an ack that is not sent yet. One that is sent counts.
    pub async fn ack(&self, queue: &str, id: &MessageId) -> Result<(), Error> {
        self.settle(Settle::ack(queue, id)).await
    }

    /// Nacks a message by its id: it is delivered again, its attempt count one higher, or goes to the dead-letter
    /// queue.
    ///
    /// # Errors
    ///
    /// As for [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack).
    pub async fn nack(&self, queue: &str, id: &MessageId, why: &str) -> Result<(), Error> {
        self.settle(Settle::nack(queue, id, why)).await
    }

    /// Acks many messages, of any mix of queues; results in input order.
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack), for each message.
    pub async fn ack_many(&self, acks: impl IntoIterator<Item = AckItem>) -> Vec<Result<(), Error>> {
        self.settle_many(acks.into_iter().map(Settle::from).collect()).await
    }

    /// Nacks many messages, of any mix of queues; results in input order.
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack), for each message.
    pub async fn nack_many(&self, nacks: impl IntoIterator<Item = NackItem>) -> Vec<Result<(), Error>> {
        self.settle_many(nacks.into_iter().map(Settle::from).collect()).await
    }

    /// The same client, whose calls have this timeout instead of the configured one; so have those of the producers
    /// and consumers that are made with it.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            handle: self.handle.clone(),
            timeout: Some(timeout),
        }
    }

    /// A producer, with options.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// A consumer, with options.
    pub fn consumer(&self, queue: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), queue)
    }

    /// Opens a consumer with the default options.
    ///
    /// # Errors
    ///
    /// As for [`ConsumerBuilder::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the consumer's connection.
    pub async fn consume(&self, queue: &str) -> Result<Consumer, Error> {
        self.consumer(queue).open().await
    }

    /// Administration: queues, configuration, API keys.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Where the main connection is.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.clients().shared.state()
    }

    /// What happens to the client's connections from now on. Does not keep the client alive.
    #[must_use]
    pub fn events(&self) -> Events {
        let clients = self.handle.clients();
        Events(Subscription::new(&clients.shared, &clients.watchers))
    }

    /// The client's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.clients().shared.stats()
    }

    /// Closes the client for all its clones, producers and consumers: sends what waits, waits for the answers, and
    /// reports what became of it. Returns by the deadline; later calls fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// Once polled, the client closes even if the future is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        self.handle.close(deadline).await
    }

    pub(crate) async fn call<O: Operation>(&self, operation: O) -> Result<O::Output, Error> {
        let request = operation.into_request();
        let call = self.submit(|link, now, timeout, waiter| link.call(now, request, timeout, waiter));
        O::output(call.response().await?)
    }

    pub(crate) async fn settle(&self, settle: Settle) -> Result<(), Error> {
        self.submit(|link, now, timeout, waiter| link.settle(now, settle, timeout, waiter))
            .settled()
            .await
    }

    async fn settle_many(&self, settles: Vec<Settle>) -> Vec<Result<(), Error>> {
        self.submit(|link, now, timeout, waiter| link.settle_many(now, settles, timeout, waiter))
            .settled_many()
            .await
    }

    fn submit(
        &self,
        call: impl FnOnce(&mut Link<Waiter>, Instant, Option<Duration>, Waiter) -> CallId,
    ) -> Call<Socket> {
        let now = Instant::now();
        let main = self.handle.main();
        main.submit(now, |link, waiter| call(link, now, self.timeout, waiter))
    }
}

/// The events of a client's connections, from the moment of subscribing. Ends when the client is closed.
///
/// A subscriber that is too slow misses events, and is told how many ([`Event::Lagged`]).
#[derive(Debug)]
pub struct Events(Subscription);

impl Events {
    /// The next event; `None` after the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll(cx)
    }
}
