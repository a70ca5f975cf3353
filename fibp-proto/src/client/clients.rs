//! The links of one client.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::cell::LinkCell;
use super::lock;
use super::sync::{AtomicBool, Mutex, Ordering};
use super::waiter::{Wait, Waiter};
use super::watchers::Watchers;
use crate::config::{ConsumerSettings, Endpoint};
use crate::link::{CloseReport, Link, Nodes, Parcel};
use crate::message::QueueName;
use crate::shared::Shared;

/// How long the links of a client go on after its last handle is gone, to send what they were given.
const GRACE: Duration = Duration::from_secs(5);

/// What an adapter lends to a clients. The core itself has neither.
#[derive(Clone, Copy)]
pub struct Sources {
    /// The clock.
    pub now: fn() -> Instant,
    /// A source of seeds: another one at each call, and in each process.
    pub seed: fn() -> u64,
}

/// Starts a driver for a link; the number is the size of the socket's receive buffer.
pub type Spawn<S> = Box<dyn Fn(&Arc<Clients<S>>, Link<Waiter>, Option<u32>) -> Arc<LinkCell<S>> + Send + Sync>;

/// Everything that a client's handles and drivers share. It does not keep the client alive: [`Handle`] does.
pub struct Clients<S> {
    /// What the links share.
    pub shared: Shared,
    /// Who waits for events.
    pub watchers: Arc<Watchers>,
    sources: Sources,
    spawn: Spawn<S>,
    main: OnceLock<Arc<LinkCell<S>>>,
    nodes: Mutex<Nodes<Arc<LinkCell<S>>>>,
    consumers: Mutex<Vec<Weak<LinkCell<S>>>>,
    /// No link may stay open.
    closed: AtomicBool,
}

/// Held by everything that keeps a client alive. When the last clone is dropped, the links send what they were given and
/// close, in the background.
pub struct Handle<S>(Arc<Owner<S>>);

struct Owner<S> {
    clients: Arc<Clients<S>>,
    main: Arc<LinkCell<S>>,
}

impl<S> Handle<S> {
    /// Opens a client's main link, and the wait until it is ready.
    pub fn open(shared: Shared, sources: Sources, spawn: Spawn<S>) -> (Self, Wait) {
        let clients = Arc::new(Clients {
            shared,
            watchers: Arc::default(),
            sources,
            spawn,
            main: OnceLock::new(),
            nodes: Mutex::default(),
            consumers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let (waiter, wait) = Waiter::pair();
        let link = Link::requests(&clients.shared, (sources.now)(), (sources.seed)(), Some(waiter));
        let main = (clients.spawn)(&clients, link, None);
        let main = Arc::clone(clients.main.get_or_init(|| main));
        (Self(Arc::new(Owner { clients, main })), wait)
    }

    /// The main link.
    #[must_use]
    pub fn main(&self) -> &Arc<LinkCell<S>> {
        &self.0.main
    }

    /// What the links share.
    #[must_use]
    pub fn clients(&self) -> &Arc<Clients<S>> {
        &self.0.clients
    }

    /// Closes all links by the deadline, and reports what became of their work. Once polled, they close even if the
    /// future is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let Owner { clients, main } = &*self.0;
        clients.closed.store(true, Ordering::Release);
        let start = (clients.sources.now)();
        let mut report = CloseReport::default();
        let mut links = clients.take_links();
        links.push(Arc::clone(main));
        // While links close, they may hand work to links that are opened for it.
        while !links.is_empty() {
            let now = (clients.sources.now)();
            let left = deadline.saturating_sub(now.saturating_duration_since(start));
            let close = |cell: &Arc<LinkCell<S>>| cell.queue(|link, waiter| link.close(now, left, waiter));
            let closing: Vec<_> = links.iter().map(close).collect();
            for call in closing {
                report.merge(call.closed().await);
            }
            links = clients.take_links();
        }
        report
    }
}

impl<S> Clients<S> {
    /// Opens a consumer's link, and the wait until the server has confirmed it.
    pub fn open_consumer(self: &Arc<Self>, queue: QueueName, settings: ConsumerSettings) -> (Arc<LinkCell<S>>, Wait) {
        let Sources { now, seed } = self.sources;
        let (waiter, wait) = Waiter::pair();
        let link = Link::consumer(&self.shared, queue, settings, now(), seed(), Some(waiter));
        let cell = (self.spawn)(self, link, settings.receive_buffer);
        let mut consumers = lock(&self.consumers);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(&cell));
        drop(consumers);
        if self.closed.load(Ordering::Acquire) {
            self.abandon_link(&cell);
        }
        (cell, wait)
    }

    /// Gives work to the link of a node, or to the main link. Call it with no link locked.
    pub fn reroute(self: &Arc<Self>, endpoint: Option<Endpoint>, now: Instant, parcel: Parcel<Waiter>) {
        let (cell, evicted) = match (endpoint, self.main.get()) {
            (Some(endpoint), _) => self.node(endpoint, now),
            (None, Some(main)) => (Arc::clone(main), Vec::new()),
            // The main link is there before any other; the parcel's waiters are told when it is dropped.
            (None, None) => return,
        };
        let refused = cell.with(|link| link.accept(now, parcel));
        if let (Some(parcel), Some(main)) = (refused, self.main.get()) {
            // The main link takes everything.
            let _nothing = main.with(|link| link.accept(now, parcel));
        }
        if self.closed.load(Ordering::Acquire) {
            self.abandon_link(&cell);
        }
        for evicted in evicted {
            self.abandon_link(&evicted);
        }
    }

    /// Wakes the subscribers of events if there are some they have not seen. Call it with no link locked.
    pub fn notify(&self) {
        self.watchers.notify(self.shared.event_count());
    }

    /// The link to a node, and those that end for it.
    fn node(self: &Arc<Self>, endpoint: Endpoint, now: Instant) -> (Arc<LinkCell<S>>, Vec<Arc<LinkCell<S>>>) {
        let mut nodes = lock(&self.nodes);
        if let Some(cell) = nodes.find(now, &endpoint)
            && cell.lock().link.takes_parcels()
        {
            return (Arc::clone(cell), Vec::new());
        }
        nodes.retain(|cell| cell.lock().link.takes_parcels());
        let link = Link::requests_to(&self.shared, endpoint.clone(), now, (self.sources.seed)());
        let cell = (self.spawn)(self, link, None);
        let evicted = nodes.insert(now, endpoint, Arc::clone(&cell));
        (cell, evicted)
    }

    /// All links but the main one, which are forgotten.
    fn take_links(&self) -> Vec<Arc<LinkCell<S>>> {
        let nodes = std::mem::take(&mut *lock(&self.nodes));
        let consumers = std::mem::take(&mut *lock(&self.consumers));
        let consumers = consumers.iter().filter_map(Weak::upgrade);
        nodes.iter().cloned().chain(consumers).collect()
    }

    /// Lets a link's driver finish and close, with nobody waiting for it.
    fn abandon_link(&self, cell: &LinkCell<S>) {
        cell.with(|link| link.close((self.sources.now)(), GRACE, Waiter::detached()));
    }
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        self.clients.closed.store(true, Ordering::Release);
        for cell in self.clients.take_links() {
            self.clients.abandon_link(&cell);
        }
        self.clients.abandon_link(&self.main);
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.clients().shared.state()).finish()
    }
}

impl<S> fmt::Debug for Clients<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}
