//! The client, and what its handles and drivers share.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fibp_proto::config::Config;
use fibp_proto::event::{Cursor, Event, State, Stats};
use fibp_proto::link::{CallId, CloseReport, Link, Nodes, Parcel, Settle};
use fibp_proto::operation::Operation;
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::task::{Call, Waiter, WatchId, Watchers};
use fibp_proto::{Endpoint, Error, ErrorKind, Message, MessageId, SendError, Shared};
use futures_core::Stream;
use tokio::runtime;

use crate::admin::Admin;
use crate::connect::seed;
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::driver::{Cell, Socket, spawn};
use crate::producer::ProducerBuilder;

/// How long the links of a client go on after its last handle is gone, to send what they were given.
const GRACE: Duration = Duration::from_secs(5);

/// A connection to a Fila broker, or to a cluster of them, that mends itself.
///
/// Clones are cheap and share the connection, which stays open while a clone, a [`Producer`](crate::Producer), a
/// [`Consumer`], a [`Receipt`](crate::Receipt) or a [`Delivery`](crate::Delivery) is left. When the last one is
/// dropped, what producers were given is still sent for a few seconds in the background; use
/// [`close`](Self::close) to know what became of it.
///
/// Calls made while there is no connection wait for one, until their timeout.
#[derive(Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
    /// Instead of the configured request timeout.
    pub(crate) timeout: Option<Duration>,
}

/// Held by everything that keeps a client alive.
pub(crate) struct Handle {
    pub(crate) hub: Arc<Hub>,
    pub(crate) main: Arc<Cell>,
}

/// Shared by a client's handles and drivers; does not keep the client alive.
pub(crate) struct Hub {
    pub(crate) shared: Shared,
    pub(crate) runtime: runtime::Handle,
    watchers: Watchers,
    main: OnceLock<Arc<Cell>>,
    nodes: Mutex<Nodes<Arc<Cell>>>,
    consumers: Mutex<Vec<Weak<Cell>>>,
    /// No link may stay open.
    closed: AtomicBool,
}

impl Client {
    /// Connects, and waits until the broker is ready for requests.
    ///
    /// `config` is a [`Config`], or the text of a URL such as `"fila://localhost:5555"`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a bad configuration or outside a tokio runtime; otherwise why there is no
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
        let runtime = runtime::Handle::try_current()
            .map_err(|error| Error::new(ErrorKind::Config, error.to_string()).with_source(Arc::new(error)))?;
        let hub = Arc::new(Hub {
            shared,
            runtime,
            watchers: Watchers::default(),
            main: OnceLock::new(),
            nodes: Mutex::default(),
            consumers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let (waiter, wait) = Waiter::pair();
        let link = Link::requests(&hub.shared, Instant::now(), seed(), Some(waiter));
        let main = spawn(&hub, link, None);
        let main = Arc::clone(hub.main.get_or_init(|| main));
        let client = Self {
            handle: Arc::new(Handle { hub, main }),
            timeout: None,
        };
        wait.opened().await?;
        Ok(client)
    }

    /// Connects as the environment says: `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`,
    /// `FILA_CA_FILE`, `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE`.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`ErrorKind::Config`] for a file that cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn from_env() -> Result<Self, Error> {
        Self::connect(Config::from_vars(
            |name| std::env::var(name).ok(),
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
    /// [`ErrorKind::LeaseLost`] or [`ErrorKind::MessageNotFound`] if it isn't leased any more; otherwise why there
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
            handle: Arc::clone(&self.handle),
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
        self.handle.hub.shared.state()
    }

    /// What happens to the client's connections from now on. Does not keep the client alive.
    #[must_use]
    pub fn events(&self) -> Events {
        let hub = Arc::clone(&self.handle.hub);
        Events {
            cursor: hub.shared.subscribe(),
            id: hub.watchers.join(),
            hub,
        }
    }

    /// The client's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.hub.shared.stats()
    }

    /// Closes the client for all its clones, producers and consumers: sends what waits, waits for the answers, and
    /// reports what became of it. Returns by the deadline; later calls fail with [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Once polled, the client closes even if the future is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let hub = &self.handle.hub;
        hub.closed.store(true, Ordering::Release);
        let start = Instant::now();
        let mut report = CloseReport::default();
        let mut links = hub.take_links();
        links.push(Arc::clone(&self.handle.main));
        // While links close, they may hand work to links that are opened for it.
        while !links.is_empty() {
            let now = Instant::now();
            let left = deadline.saturating_sub(now.saturating_duration_since(start));
            let closing: Vec<_> = links
                .iter()
                .map(|cell| cell.queue(|link, waiter| link.close(now, left, waiter)))
                .collect();
            for call in closing {
                report.merge(call.closed().await);
            }
            links = hub.take_links();
        }
        report
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
        self.handle
            .main
            .submit(now, |link, waiter| call(link, now, self.timeout, waiter))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.hub.closed.store(true, Ordering::Release);
        let mut links = self.hub.take_links();
        links.push(Arc::clone(&self.main));
        for cell in links {
            close_unattended(&cell);
        }
    }
}

/// Lets the driver finish and close, with nobody waiting for it.
fn close_unattended(cell: &Cell) {
    cell.with(|link| link.close(Instant::now(), GRACE, Waiter::detached()));
}

impl Hub {
    /// Gives work to the link of the node that asked for it.
    pub(crate) fn reroute(self: &Arc<Self>, endpoint: Option<Endpoint>, now: Instant, parcel: Parcel<Waiter>) {
        let (cell, evicted) = match (endpoint, self.main.get()) {
            (Some(endpoint), _) => self.node(endpoint, now),
            (None, Some(main)) => (Arc::clone(main), None),
            // The main link is there before any other.
            (None, None) => return,
        };
        cell.with(|link| link.accept(now, parcel));
        if self.closed.load(Ordering::Acquire) {
            close_unattended(&cell);
        }
        if let Some(evicted) = evicted {
            close_unattended(&evicted);
        }
    }

    /// The link to a node, and one that had to make room for it.
    fn node(self: &Arc<Self>, endpoint: Endpoint, now: Instant) -> (Arc<Cell>, Option<Arc<Cell>>) {
        let mut nodes = lock(&self.nodes);
        nodes.retain(|cell| !cell.lock().link.is_terminated());
        if let Some(cell) = nodes.find(&endpoint) {
            return (Arc::clone(cell), None);
        }
        let link = Link::requests_to(&self.shared, endpoint.clone(), now, seed());
        let cell = spawn(self, link, None);
        let evicted = nodes.insert(endpoint, Arc::clone(&cell));
        (cell, evicted)
    }

    /// Remembers a consumer's link, to close it with the client.
    pub(crate) fn add_consumer(&self, cell: &Arc<Cell>) {
        let mut consumers = lock(&self.consumers);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(cell));
        drop(consumers);
        if self.closed.load(Ordering::Acquire) {
            close_unattended(cell);
        }
    }

    /// All links but the main one, which are forgotten.
    fn take_links(&self) -> Vec<Arc<Cell>> {
        let nodes = std::mem::take(&mut *lock(&self.nodes));
        let consumers = std::mem::take(&mut *lock(&self.consumers));
        nodes
            .iter()
            .cloned()
            .chain(consumers.iter().filter_map(Weak::upgrade))
            .collect()
    }

    /// Wakes the subscribers of events if there are some they don't know.
    pub(crate) fn notify(&self) {
        self.watchers.notify(self.shared.event_count());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The events of a client's connections, from the moment of subscribing. Ends when the client is closed.
///
/// A subscriber that is too slow misses events, and is told how many ([`Event::Lagged`]).
pub struct Events {
    hub: Arc<Hub>,
    cursor: Cursor,
    id: WatchId,
}

impl Events {
    /// The next event; `None` after the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &Context<'_>) -> Poll<Option<Event>> {
        let Self { hub, cursor, id } = self;
        if let Some(event) = hub.shared.next_event(cursor) {
            return Poll::Ready(Some(event));
        }
        hub.watchers.register(id, cx.waker());
        let closed = hub.shared.state() == State::Closed;
        match hub.shared.next_event(cursor) {
            None if !closed => Poll::Pending,
            last => Poll::Ready(last),
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hub.watchers.leave(&self.id);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
