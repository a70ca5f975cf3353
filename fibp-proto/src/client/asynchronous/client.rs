//! The client.

use std::time::Duration;

use super::admin::Admin;
use super::consumer::{Consumer, ConsumerBuilder};
use super::driver::drivers;
use super::events::{Events, States};
use super::producer::ProducerBuilder;
use super::runtime::{HandleOf, Runtime};
use crate::client::clients::{Handle, Sources};
use crate::config::Config;
use crate::error::{Error, SendError};
use crate::event::{State, Stats};
use crate::machine::CloseReport;
use crate::message::{Message, MessageId};
use crate::request::NackItem;
use crate::requests::Settle;
use crate::shared::Shared;
use crate::typed as op;

/// A connection to a Fila broker, or to a cluster of them, that reconnects automatically.
///
/// Clones are cheap and share the connection, which stays open while a clone, a [`Producer`](super::Producer), a
/// [`Consumer`], a [`Receipt`](super::Receipt) or a [`Delivery`](super::Delivery) is left. When the last one is
/// dropped, what producers were given is still sent for a few seconds in the background; use
/// [`close`](Self::close) to know what became of it.
///
/// Calls made while there is no connection wait for one, until their timeout.
#[derive(Debug, Clone)]
pub struct Client<R: Runtime>(HandleOf<R>);

impl<R: Runtime> Client<R> {
    /// Connects, and waits until the broker is ready for requests.
    ///
    /// `config` is a [`Config`], or the text of a URL such as `"fila://localhost:5555"`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a bad configuration, or if there is no runtime that
    /// can serve connections ([`Runtime::current`]); otherwise why there is no connection within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect<C>(config: C) -> Result<Self, Error>
    where
        C: TryInto<Config>,
        C::Error: Into<Error>,
    {
        let config = config.try_into().map_err(Into::into)?;
        Self::connect_on(R::current()?, config).await
    }

    /// As [`connect`](Self::connect), on a runtime that the caller names.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect_on(runtime: R, config: Config) -> Result<Self, Error> {
        let shared = Shared::new(config.load_files(R::read_file)?)?;
        let (handle, opened) = Handle::open(shared, sources::<R>(), drivers(runtime));
        // Held while it waits: dropped with the future, it closes the connection.
        let client = Self(handle);
        opened.await?;
        Ok(client)
    }

    /// Begins to connect, and returns at once. The state and the events are there from the start; calls wait for the
    /// connection, until their timeout. The first attempt is repeated as [`Config::reconnect`] says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), as for [`connect`](Self::connect).
    pub fn connect_lazy<C>(config: C) -> Result<Self, Error>
    where
        C: TryInto<Config>,
        C::Error: Into<Error>,
    {
        let config = config.try_into().map_err(Into::into)?;
        let runtime = R::current()?;
        let shared = Shared::new(config.load_files(R::read_file)?)?;
        Ok(Self(Handle::open_lazily(shared, sources::<R>(), drivers(runtime))))
    }

    /// Waits until the server answers, for `deadline` at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if it does not; otherwise why there is no connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless.
    pub async fn ready(&self, deadline: Duration) -> Result<(), Error> {
        self.with_timeout(deadline).0.call(op::Heartbeat {}).await
    }

    /// Sends a heartbeat, and says how long its answer took. Where there is no connection, that includes the wait for one.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless.
    pub async fn ping(&self) -> Result<Duration, Error> {
        self.0.ping().await
    }

    /// Connects as the environment says: `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`,
    /// `FILA_CA_FILE`, `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE`. To add to it, pass
    /// `Config::from_env()?` of the adapter's trait `FromEnv` to [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`ErrorKind::Config`](crate::ErrorKind::Config) for a file that cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn from_env() -> Result<Self, Error> {
        Self::connect(Config::from_vars(R::var, R::read_file)?).await
    }

    /// Enqueues one message and waits for the broker's confirmation. Messages of concurrent calls share frames.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed, with the message. [`SendError::outcome`] says whether it may be in the
    /// queue nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws a message that is not sent yet. One that is sent may be in the queue.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # use fibp_proto::{Message, Outcome};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// match client.enqueue(Message::new("orders", "two apples")).await {
    ///     Ok(id) => println!("stored as {id}"),
    ///     Err(failed) if failed.outcome() == Outcome::Unknown => println!("perhaps stored: {failed}"),
    ///     Err(failed) => println!("not stored: {failed}; here it is: {:?}", failed.message.payload),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn enqueue(&self, message: Message) -> Result<MessageId, SendError> {
        let call = self.0.enqueue(message);
        call.await.map_err(|failed| *failed)
    }

    /// Enqueues many messages, for any mix of queues, and waits for all results, in input order.
    ///
    /// # Cancel safety
    ///
    /// As for [`enqueue`](Self::enqueue), for each message.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # use fibp_proto::{Message};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let messages = vec![Message::new("orders", "two apples"), Message::new("audit", "an order came in")];
    /// for result in client.enqueue_many(messages).await {
    ///     println!("stored as {}", result?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn enqueue_many(&self, messages: Vec<Message>) -> Vec<Result<MessageId, SendError>> {
        self.0.enqueue_many(messages).await
    }

    /// Acks a message by its id. [`Delivery::ack`](super::Delivery::ack) is the usual way.
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
        self.0.settle(Settle::ack(queue, id)).await
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
        self.0.settle(Settle::nack(queue, id, why)).await
    }

    /// Acks many messages, of any mix of queues; results in input order. Takes references to deliveries, and
    /// [`AckItem`](crate::client::AckItem)s where the deliveries are gone: both know their leases, as in [`Delivery::ack`](super::Delivery::ack).
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack), for each message.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Delivery, Runtime};
    /// # async fn example<R: Runtime>(client: &Client<R>, deliveries: Vec<Delivery<R>>) -> Result<(), Box<dyn std::error::Error>> {
    /// for result in client.ack_many(&deliveries).await {
    ///     result?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ack_many(&self, acks: impl IntoIterator<Item: Into<Settle>>) -> Vec<Result<(), Error>> {
        self.0.ack_many(acks).await
    }

    /// Nacks many messages, of any mix of queues; results in input order.
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack), for each message.
    pub async fn nack_many(&self, nacks: impl IntoIterator<Item = NackItem>) -> Vec<Result<(), Error>> {
        self.0.nack_many(nacks).await
    }

    /// The same client, whose calls have this timeout instead of the configured one; so have those of the producers
    /// and consumers that are made with it.
    ///
    /// A call that is late ends with its [`Outcome`](crate::Outcome), and a message comes back in the error. A timeout of the runtime drops the
    /// future instead: the client stays usable, but message and outcome are lost.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # use fibp_proto::{Message};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let hasty = client.with_timeout(std::time::Duration::from_millis(200));
    /// hasty.enqueue(Message::new("orders", "two apples")).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self(self.0.with_timeout(timeout))
    }

    /// A producer, with options.
    pub fn producer(&self) -> ProducerBuilder<R> {
        ProducerBuilder::new(self.0.clone())
    }

    /// A consumer, with options.
    pub fn consumer(&self, queue: &str) -> ConsumerBuilder<R> {
        ConsumerBuilder::new(self.0.clone(), queue)
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
    pub async fn consume(&self, queue: &str) -> Result<Consumer<R>, Error> {
        self.consumer(queue).open().await
    }

    /// Administration: queues, configuration, API keys.
    #[must_use]
    pub fn admin(&self) -> Admin<R> {
        Admin::new(self.0.clone())
    }

    /// Where the main connection is.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.clients().shared.state()
    }

    /// What happens to the client's connections from now on. Does not keep the client alive.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # use fibp_proto::{Event};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut events = client.events();
    /// while let Some(event) = events.next().await {
    ///     if let Event::Disconnected { cause, .. } = event {
    ///         println!("{cause}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.0.subscribe())
    }

    /// The state of the main connection now, then each change. Does not keep the client alive.
    #[must_use]
    pub fn watch_state(&self) -> States {
        States(self.0.watch_state())
    }

    /// The client's counters, and gauges of what it holds now.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let stats = client.stats();
    /// println!("{} confirmed, {} times disconnected", stats.messages_confirmed, stats.disconnects);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Closes the client for all its clones, producers and consumers: sends what waits, waits for the answers, and
    /// reports what became of it. Returns by the deadline; later calls fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// Once polled, the client closes even if the future is dropped.
    ///
    /// ```
    /// # use fibp_proto::client::{Client, Runtime};
    /// # async fn example<R: Runtime>(client: &Client<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let report = client.close(std::time::Duration::from_secs(5)).await;
    /// println!("{} flushed, {} failed, {} unknown", report.flushed, report.failed, report.unknown);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        self.0.close(deadline).await
    }
}

fn sources<R: Runtime>() -> Sources {
    Sources {
        now: R::now,
        seed: R::seed,
    }
}
