//! The client.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fibp_proto::client::{StateWatch, Subscription};
use fibp_proto::config::Config;
use fibp_proto::event::{Event, State, Stats};
use fibp_proto::machine::CloseReport;
use fibp_proto::request::NackItem;
use fibp_proto::requests::Settle;
use fibp_proto::typed as op;
use fibp_proto::{Error, Message, MessageId, SendError, Shared};

use crate::admin::Admin;
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::driver::{SOURCES, drivers};
use crate::environment::FromEnv;
use crate::producer::ProducerBuilder;
use crate::wait::{Handle, Notifier, call, wait};

/// A connection to a Fila broker, or to a cluster of them, that reconnects automatically.
///
/// Clones are cheap, share the connection and may be used from many threads at once. It stays open while a
/// clone, a [`Producer`](crate::Producer), a [`Consumer`], a [`Receipt`](crate::Receipt) or a
/// [`Delivery`](crate::Delivery) is left. When the last one is dropped, what producers were given is still sent
/// for a few seconds in the background; use [`close`](Self::close) to know what became of it.
///
/// Calls made while there is no connection wait for one, until their timeout.
#[derive(Debug, Clone)]
pub struct Client(Handle);

impl Client {
    /// Connects, and waits until the broker is ready for requests.
    ///
    /// `config` is a [`Config`], or the text of a URL such as `"fila://localhost:5555"`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a bad configuration; otherwise why there is no
    /// connection within `connect_timeout`.
    pub fn connect<C>(config: C) -> Result<Self, Error>
    where
        C: TryInto<Config>,
        C::Error: Into<Error>,
    {
        let shared = shared(config.try_into().map_err(Into::into)?)?;
        let (handle, opened) = Handle::open(shared, SOURCES, drivers());
        wait(&handle, opened)?;
        Ok(Self(handle))
    }

    /// Connects as the environment says: `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`,
    /// `FILA_CA_FILE`, `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE`. To add to it, pass `Config::from_env()?` of the
    /// trait [`FromEnv`] to [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`ErrorKind::Config`](crate::ErrorKind::Config) for a file that
    /// cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Self::connect(Config::from_env()?)
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
        let shared = shared(config.try_into().map_err(Into::into)?)?;
        Ok(Self(Handle::open_lazily(shared, SOURCES, drivers())))
    }

    /// Waits until the server answers, for `deadline` at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if it does not; otherwise why there is no connection.
    pub fn ready(&self, deadline: Duration) -> Result<(), Error> {
        call(&self.0.with_timeout(deadline), op::Heartbeat {})
    }

    /// Sends a heartbeat, and says how long its answer took. Where there is no connection, that includes the wait for one.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub fn ping(&self) -> Result<Duration, Error> {
        wait(&self.0, self.0.ping())
    }

    /// Enqueues one message and waits for the broker's confirmation. Messages of concurrent calls share frames.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed, with the message. [`SendError::outcome`] says whether it may be in the
    /// queue nevertheless.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Client, Message, Outcome};
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// match client.enqueue(Message::new("orders", "two apples")) {
    ///     Ok(id) => println!("stored as {id}"),
    ///     Err(failed) if failed.outcome() == Outcome::Unknown => println!("perhaps stored: {failed}"),
    ///     Err(failed) => println!("not stored: {failed}; here it is: {:?}", failed.message.payload),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn enqueue(&self, message: Message) -> Result<MessageId, SendError> {
        wait(&self.0, self.0.enqueue(message)).map_err(|failed| *failed)
    }

    /// Enqueues many messages, for any mix of queues, and waits for all results, in input order.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Client, Message};
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let messages = vec![Message::new("orders", "two apples"), Message::new("audit", "an order came in")];
    /// for result in client.enqueue_many(messages) {
    ///     println!("stored as {}", result?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn enqueue_many(&self, messages: Vec<Message>) -> Vec<Result<MessageId, SendError>> {
        wait(&self.0, self.0.enqueue_many(messages))
    }

    /// Acks a message by its id. [`Delivery::ack`](crate::Delivery::ack) is the usual way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) or
    /// [`ErrorKind::MessageNotFound`](crate::ErrorKind::MessageNotFound) if it isn't leased any more; otherwise
    /// why there is no confirmation.
    pub fn ack(&self, queue: &str, id: &MessageId) -> Result<(), Error> {
        wait(&self.0, self.0.settle(Settle::ack(queue, id)))
    }

    /// Nacks a message by its id: it is delivered again, its attempt count one higher, or goes to the
    /// dead-letter queue.
    ///
    /// # Errors
    ///
    /// As for [`ack`](Self::ack).
    pub fn nack(&self, queue: &str, id: &MessageId, why: &str) -> Result<(), Error> {
        wait(&self.0, self.0.settle(Settle::nack(queue, id, why)))
    }

    /// Acks many messages, of any mix of queues; results in input order. Takes references to deliveries, and
    /// [`AckItem`](crate::AckItem)s where the deliveries are gone: both know their leases, as in [`Delivery::ack`](crate::Delivery::ack).
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Client, Delivery};
    /// # fn example(client: &Client, deliveries: Vec<Delivery>) -> Result<(), Box<dyn std::error::Error>> {
    /// for result in client.ack_many(&deliveries) {
    ///     result?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn ack_many(&self, acks: impl IntoIterator<Item: Into<Settle>>) -> Vec<Result<(), Error>> {
        wait(&self.0, self.0.ack_many(acks))
    }

    /// Nacks many messages, of any mix of queues; results in input order.
    pub fn nack_many(&self, nacks: impl IntoIterator<Item = NackItem>) -> Vec<Result<(), Error>> {
        wait(&self.0, self.0.nack_many(nacks))
    }

    /// The same client, whose calls have this timeout instead of the configured one; so have those of the
    /// producers and consumers that are made with it.
    ///
    /// A call that is late ends with its [`Outcome`](crate::Outcome), and a message comes back in the error.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Client, Message};
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let hasty = client.with_timeout(std::time::Duration::from_millis(200));
    /// hasty.enqueue(Message::new("orders", "two apples"))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self(self.0.with_timeout(timeout))
    }

    /// A producer, with options.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.0.clone())
    }

    /// A consumer, with options.
    pub fn consumer(&self, queue: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.0.clone(), queue)
    }

    /// Opens a consumer with the default options.
    ///
    /// # Errors
    ///
    /// As for [`ConsumerBuilder::open`].
    pub fn consume(&self, queue: &str) -> Result<Consumer, Error> {
        self.consumer(queue).open()
    }

    /// Administration: queues, configuration, API keys.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { handle: self.0.clone() }
    }

    /// Where the main connection is.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.clients().shared.state()
    }

    /// What happens to the client's connections from now on. Does not keep the client alive.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Client, Event};
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for event in client.events() {
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
    /// ```no_run
    /// # use fila_client_blocking::Client;
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let stats = client.stats();
    /// println!("{} confirmed, {} times disconnected", stats.messages_confirmed, stats.disconnects);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Closes the client for all its clones, producers and consumers: sends what waits, waits for the answers,
    /// and reports what became of it. Returns by the deadline; later calls fail with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    ///
    /// ```no_run
    /// # use fila_client_blocking::Client;
    /// # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let report = client.close(std::time::Duration::from_secs(5));
    /// println!("{} flushed, {} failed, {} unknown", report.flushed, report.failed, report.unknown);
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self, deadline: Duration) -> CloseReport {
        wait(&self.0, self.0.close(deadline))
    }
}

/// What a client's machines share. Files that the configuration names are read now.
fn shared(config: Config) -> Result<Shared, Error> {
    Shared::new(config.load_files(|file| std::fs::read(file))?)
}

/// Polls until there is something, or until `until`.
fn recv_until<T>(until: Option<Instant>, mut poll: impl FnMut(&Context<'_>) -> Poll<Option<T>>) -> Option<T> {
    let notifier = Arc::new(Notifier::default());
    loop {
        match notifier.poll(until, |cx| poll(cx)) {
            Poll::Ready(event) => return event,
            Poll::Pending if until.is_some_and(|until| until <= Instant::now()) => return None,
            Poll::Pending => {}
        }
    }
}

/// The states of a client's main connection, an iterator that blocks: the present one first, then each change, and `None`
/// after [`State::Closed`]. One that is left again before it is asked for is passed over.
#[derive(Debug)]
pub struct States(StateWatch);

impl States {
    /// The next state, if there is one within `timeout`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<State> {
        recv_until(Instant::now().checked_add(timeout), |cx| self.0.poll(cx))
    }
}

impl Iterator for States {
    type Item = State;

    fn next(&mut self) -> Option<State> {
        recv_until(None, |cx| self.0.poll(cx))
    }
}

impl FusedIterator for States {}

/// The events of a client from the moment of [`Client::events`] on: an iterator that blocks.
///
/// It does not keep the client alive: after the last handle is gone, or after [`Client::close`], it gives what is left
/// and then `None`. A subscriber that is 1024 events behind loses the oldest, which is reported by [`Event::Lagged`].
#[derive(Debug)]
pub struct Events(Subscription);

impl Events {
    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.recv_timeout(Duration::ZERO)
    }

    /// The next event, if there is one within `timeout`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Event> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&mut self, until: Option<Instant>) -> Option<Event> {
        recv_until(until, |cx| self.0.poll(cx))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv_until(None)
    }
}

impl FusedIterator for Events {}
