//! The machines of one client.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cell::{CallerWrites, Cell, ConsumerCall, ConsumerCell, RequestCall, RequestsCell};
use super::lock;
use super::sync::{AtomicBool, Mutex, Ordering};
use super::waiter::{Waiter, Waiters, answer};
use super::watchers::Watchers;
use crate::config::{ConsumerSettings, Endpoint};
use crate::consumer::Consumer;
use crate::dialect::Dialect;
use crate::event::Stats;
use crate::machine::{ChannelId, CloseReport, Machine};
use crate::message::QueueName;
use crate::request::Op;
use crate::requests::Requests;
use crate::shared::Shared;
use crate::trace::CallSpan;

/// How long a client's requests go on after its last handle is gone, to send what they were given.
const GRACE: Duration = Duration::from_secs(5);

/// What an adapter lends to a client. The core itself has neither.
#[derive(Clone, Copy)]
pub struct Sources {
    /// The clock.
    pub now: fn() -> Instant,
    /// A source of seeds: another one at each call, and in each process.
    pub seed: fn() -> u64,
}

/// Starts a driver for a channel of a machine; the number is the size of the socket's receive buffer.
pub type StartDriver<M, S> = Box<dyn Fn(&Arc<Clients<S>>, &Arc<Cell<M, S>>, ChannelId, Option<u32>) + Send + Sync>;

/// How an adapter drives channels.
pub struct Drivers<S> {
    /// How callers write.
    pub writes: CallerWrites<S>,
    /// Starts a driver for a channel of a client's requests.
    pub start_requests: StartDriver<Requests<Waiter>, S>,
    /// Starts a driver for the channel of a consumer.
    pub start_consumer: StartDriver<Consumer<Waiter>, S>,
}

/// A machine of a client, as drivers know it.
pub trait Driven: Machine<Token = Waiter> + Send + Sized {
    /// What starts drivers for its channels.
    fn start<S>(drivers: &Drivers<S>) -> &StartDriver<Self, S>;

    /// Where a request about a queue goes now, as far as that is known: the server, and the dialect of the connection to
    /// it. For `tracing`.
    fn whereabouts(&self, op: Op, queue: Option<&QueueName>) -> Option<(Endpoint, Option<Dialect>)>;
}

impl Driven for Requests<Waiter> {
    fn start<S>(drivers: &Drivers<S>) -> &StartDriver<Self, S> {
        &drivers.start_requests
    }

    fn whereabouts(&self, op: Op, queue: Option<&QueueName>) -> Option<(Endpoint, Option<Dialect>)> {
        Self::whereabouts(self, op, queue)
    }
}

impl Driven for Consumer<Waiter> {
    fn start<S>(drivers: &Drivers<S>) -> &StartDriver<Self, S> {
        &drivers.start_consumer
    }

    fn whereabouts(&self, _: Op, _: Option<&QueueName>) -> Option<(Endpoint, Option<Dialect>)> {
        Self::whereabouts(self)
    }
}

/// Everything that a client's handles and drivers share. It does not keep the client alive: [`Handle`] does.
pub struct Clients<S> {
    /// What the machines share.
    pub shared: Shared,
    /// Who waits for events.
    pub watchers: Arc<Watchers>,
    sources: Sources,
    drivers: Drivers<S>,
    consumers: Mutex<Opened<ConsumerCell<S>>>,
    /// No machine may stay open.
    closed: AtomicBool,
}

/// Makes a client's calls, and keeps it alive: held by everything that does. When the last clone is dropped, what was handed
/// over is sent and the machines close, in the background.
pub struct Handle<S> {
    owner: Arc<Owner<S>>,
    /// Of its calls, instead of the configured request timeout.
    pub(super) timeout: Option<Duration>,
}

struct Owner<S> {
    clients: Arc<Clients<S>>,
    main: Arc<RequestsCell<S>>,
}

impl<S> Handle<S> {
    /// Opens a client's requests, and the wait until they are ready.
    pub fn open(
        shared: Shared,
        sources: Sources,
        drivers: Drivers<S>,
    ) -> (Self, RequestCall<'static, S, answer::Opened>) {
        let mut waiters = Waiters::default();
        let (waiter, number) = waiters.next();
        let handle = Self::start(shared, sources, drivers, waiters, Some(waiter));
        let opening = handle.main().opening(number, CallSpan::none());
        (handle, opening)
    }

    /// Opens a client's requests, which connect by themselves: the first attempt is repeated like a later one.
    #[must_use]
    pub fn open_lazily(shared: Shared, sources: Sources, drivers: Drivers<S>) -> Self {
        Self::start(shared, sources, drivers, Waiters::default(), None)
    }

    fn start(shared: Shared, sources: Sources, drivers: Drivers<S>, waiters: Waiters, opened: Option<Waiter>) -> Self {
        let clients = Arc::new(Clients {
            shared,
            watchers: Arc::default(),
            sources,
            drivers,
            consumers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let requests = Requests::new(&clients.shared, (sources.now)(), (sources.seed)(), opened);
        let main = clients.start(requests, waiters, None);
        Self {
            owner: Arc::new(Owner { clients, main }),
            timeout: None,
        }
    }

    /// The same, whose calls have this timeout instead of the configured one.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self.clone()
        }
    }

    /// The client's requests.
    #[must_use]
    pub fn main(&self) -> &Arc<RequestsCell<S>> {
        &self.owner.main
    }

    /// What the client's machines share.
    #[must_use]
    pub fn clients(&self) -> &Arc<Clients<S>> {
        &self.owner.clients
    }

    /// The counters, and what the machines hold now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Owner { clients, main } = &*self.owner;
        let mut stats = clients.shared.stats();
        stats.drain(&mut main.lock().machine.gauges());
        // Collected first: no machine is locked while the list is.
        let consumers: Vec<_> = lock(&clients.consumers).open().collect();
        for consumer in consumers {
            stats.drain(&mut consumer.lock().machine.gauges());
        }
        stats
    }

    /// Closes all machines by the deadline, and reports what became of their work. Once polled, they close even if the
    /// future is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let Owner { clients, main } = &*self.owner;
        // Before the consumers are taken: one that is opened meanwhile is among them, or sees this (`open_consumer`).
        clients.closed.store(true, Ordering::Release);
        let now = clients.now();
        let closed = main.queue::<answer::Closed>(|requests, waiter| requests.close(now, deadline, waiter));
        for consumer in clients.take_consumers() {
            consumer.with(|consumer| consumer.abort(now));
        }
        closed.await
    }
}

impl<S> Clients<S> {
    /// Puts a machine under its lock and starts the driver of its main channel.
    fn start<M: Driven>(
        self: &Arc<Self>,
        machine: M,
        waiters: Waiters,
        receive_buffer: Option<u32>,
    ) -> Arc<Cell<M, S>> {
        // The driver is started with no lock held: it may run, and lock the machine, before this returns.
        let cell = Arc::new(Cell::new(machine, waiters, self.drivers.writes));
        M::start(&self.drivers)(self, &cell, ChannelId::MAIN, receive_buffer);
        cell
    }

    /// Starts the driver of a further channel.
    pub(super) fn start_further<M: Driven>(self: &Arc<Self>, cell: &Arc<Cell<M, S>>, channel: ChannelId) {
        M::start(&self.drivers)(self, cell, channel, None);
    }

    /// Opens a consumer, and the wait until the server has confirmed it.
    pub fn open_consumer(
        self: &Arc<Self>,
        queue: QueueName,
        settings: ConsumerSettings,
    ) -> (Arc<ConsumerCell<S>>, ConsumerCall<'static, S, answer::Opened>) {
        let span = CallSpan::new(Op::Consume, || Some(&queue));
        let Sources { now, seed } = self.sources;
        let mut waiters = Waiters::default();
        let (waiter, number) = waiters.next();
        let consumer = Consumer::new(&self.shared, queue, settings, now(), seed(), Some(waiter));
        let cell = self.start(consumer, waiters, settings.receive_buffer);
        // Added first, then looked: `close` says it first, then looks. So one of the two sees the other.
        lock(&self.consumers).add(&cell);
        if self.closed.load(Ordering::Acquire) {
            cell.with(|consumer| consumer.abort(now()));
        }
        let opening = cell.opening(number, span);
        (cell, opening)
    }

    /// The adapter's clock.
    pub(super) fn now(&self) -> Instant {
        (self.sources.now)()
    }

    /// Wakes the subscribers of events if there are some they have not seen. Call it with no machine locked.
    pub fn notify(&self) {
        self.watchers.notify(self.shared.event_count());
    }

    /// All consumers, which are forgotten.
    fn take_consumers(&self) -> Vec<Arc<ConsumerCell<S>>> {
        let consumers = std::mem::take(&mut *lock(&self.consumers));
        consumers.open().collect()
    }
}

/// What was opened, and may be gone since. To add one costs the same however many there are.
struct Opened<C> {
    known: Vec<Weak<C>>,
    /// With so many known, those that are gone are forgotten: always twice as many as there were after the last time.
    sweep_at: usize,
}

impl<C> Opened<C> {
    fn add(&mut self, cell: &Arc<C>) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| known.strong_count() > 0);
            self.sweep_at = 2 * self.known.len().max(8);
        }
        self.known.push(Arc::downgrade(cell));
    }

    /// Those that are not gone.
    fn open(&self) -> impl Iterator<Item = Arc<C>> {
        self.known.iter().filter_map(Weak::upgrade)
    }
}

impl<C> Default for Opened<C> {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            sweep_at: 0,
        }
    }
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        let Self { clients, main } = self;
        clients.closed.store(true, Ordering::Release);
        let now = clients.now();
        for consumer in clients.take_consumers() {
            consumer.with(|consumer| consumer.abort(now));
        }
        // The driver finishes and closes, with nobody waiting for it.
        main.with(|requests| requests.close(now, GRACE, Waiter::NOBODY));
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
            timeout: self.timeout,
        }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("state", &self.clients().shared.state())
            .field("timeout", &self.timeout)
            .finish()
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

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_forgotten_without_a_look_at_all_for_each() {
        let mut opened = Opened::default();
        let (mut sweeps, mut looked_at) = (0, 0);
        let mut add = |opened: &mut Opened<()>, cell: &Arc<()>| {
            let (known, sweep_at) = (opened.known.len(), opened.sweep_at);
            opened.add(cell);
            if opened.sweep_at != sweep_at || opened.known.len() <= known {
                sweeps += 1;
                looked_at += known;
            }
        };
        let kept: Vec<_> = (0..10_000).map(|_| Arc::new(())).collect();
        for cell in &kept {
            add(&mut opened, cell);
        }
        assert_eq!(opened.known.len(), 10_000);
        assert!(sweeps < 20 && looked_at < 2 * 10_000, "{sweeps} times, {looked_at}");
        drop(kept);
        let last = Arc::new(());
        for _ in 0..10_000 {
            opened.add(&Arc::new(()));
        }
        opened.add(&last);
        assert!(opened.known.len() < 5_000, "{}", opened.known.len());
        assert_eq!(opened.known.iter().filter_map(Weak::upgrade).count(), 1);
    }
}
