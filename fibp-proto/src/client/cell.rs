//! The lock around a link.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::lock;
use super::locked::Locked;
use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use super::waiter::{Wait, Waiter, complete};
use crate::error::{Error, ErrorKind, Outcome, SendError};
use crate::fault::Fault;
use crate::frame::Transmit;
use crate::link::{CallId, CloseReport, Lease, LeaseGuard, Link, ProducerId, ReleaseDelivery, Reply};
use crate::message::{Message, MessageId};
use crate::response::Response;

/// The most bytes that a caller encodes and writes itself.
const CALLER_WRITE: usize = 16 * 1024;

/// A link under its lock, with the waker of its driver. `S` is the adapter's socket.
///
/// The lock is never held while a task is woken or a socket is used.
pub struct LinkCell<S> {
    locked: Mutex<Locked<S>>,
    /// The driver was woken, or is about to take a turn anyway: waking it again would be waste.
    awake: AtomicBool,
    driver: Mutex<Option<Waker>>,
    /// How a caller tries to write.
    write: TryWrite<S>,
    /// Callers write even if something is under way.
    eager: bool,
}

/// One attempt to write without waiting, polled with the driver's waker, so that it is the driver who learns
/// when the socket takes more. Returns how many bytes were taken: none if the socket would block.
pub type TryWrite<S> = fn(&S, &mut Context<'_>, &Transmit) -> Result<usize, Fault>;

impl<S> LinkCell<S> {
    /// A cell for `link`, whose callers write with `write`.
    pub fn new(link: Link<Waiter>, write: TryWrite<S>) -> Self {
        Self::with_callers(Locked::new(link), write, false)
    }

    /// A cell for `link`, whose callers are threads and may wait a moment in `write`: they write whenever nobody else
    /// does, as waking a thread that writes for them costs more. They have no waker. `claimed` is told, with the link
    /// locked, that a write begins: later callers travel in another one.
    pub fn for_threads(link: Link<Waiter>, write: TryWrite<S>, claimed: fn(&S)) -> Self {
        let mut locked = Locked::new(link);
        locked.claimed = claimed;
        Self::with_callers(locked, write, true)
    }

    fn with_callers(locked: Locked<S>, write: TryWrite<S>, eager: bool) -> Self {
        Self {
            locked: Mutex::new(locked),
            // A driver is about to be started.
            awake: AtomicBool::new(true),
            driver: Mutex::new(None),
            write,
            eager,
        }
    }

    // ---- the driver's side ----

    /// Locks the link. Drain its completions, then [`complete`] them after unlocking.
    pub fn lock(&self) -> MutexGuard<'_, Locked<S>> {
        lock(&self.locked)
    }

    /// Begins a driver's poll: from here on a kick wakes `waker`. True if there was a kick since the last time.
    pub fn attend(&self, waker: &Waker) -> bool {
        {
            let mut driver = lock(&self.driver);
            match &mut *driver {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        self.take_kick()
    }

    /// Whether there was a kick since the last time.
    pub fn take_kick(&self) -> bool {
        self.awake.load(Ordering::Relaxed) && self.awake.swap(false, Ordering::AcqRel)
    }

    /// Announces that the driver takes another turn after the tasks it is about to wake have run: until then
    /// their calls are collected, to travel together.
    pub fn collect_calls(&self) {
        self.awake.store(true, Ordering::Release);
    }

    // ---- the callers' side ----

    /// Has the driver take a turn.
    pub fn kick(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            let waker = lock(&self.driver).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Lets `change` do something to the link, then wakes whom that concerns.
    pub fn with<R>(&self, change: impl FnOnce(&mut Link<Waiter>) -> R) -> R {
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let result = change(&mut locked.link);
        locked.link.drain_completions(&mut completions);
        let kick = locked.link.needs_driver();
        drop(locked);
        complete(&mut completions);
        if kick {
            self.kick();
        }
        result
    }

    /// Makes a call. If nothing else is under way, its bytes are written at once, without waking the driver. Threads
    /// write them at once whenever they can.
    pub fn submit(self: &Arc<Self>, now: Instant, call: impl FnOnce(&mut Link<Waiter>, Waiter) -> CallId) -> Call<S> {
        let (waiter, wait) = Waiter::pair();
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let writes = self.eager || (locked.link.in_flight() == 0 && !self.awake.load(Ordering::Acquire));
        let id = call(&mut locked.link, waiter);
        let claimed = if writes { locked.claim(now, CALLER_WRITE) } else { None };
        locked.link.drain_completions(&mut completions);
        // What is being written needs no driver any more, whoever looks meanwhile.
        let mut kick = match &claimed {
            Some(_) if self.eager => locked.link.still_needs_driver(),
            _ => locked.link.needs_driver(),
        };
        drop(locked);
        complete(&mut completions);
        if let Some((socket, transmit)) = claimed {
            kick |= self.write(now, &socket, transmit);
        }
        if kick {
            self.kick();
        }
        self.call(id, wait)
    }

    /// Makes a call whose bytes travel in the next frame.
    pub fn queue(self: &Arc<Self>, call: impl FnOnce(&mut Link<Waiter>, Waiter) -> CallId) -> Call<S> {
        let (waiter, wait) = Waiter::pair();
        let id = self.with(|link| call(link, waiter));
        self.call(id, wait)
    }

    /// Waits for room for a producer's message, which the caller keeps until then.
    pub fn reserve(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
    ) -> Call<S> {
        self.queue(|link, waiter| link.reserve(now, producer, message, timeout, waiter))
    }

    /// Hands a message to a producer, into room that was reserved for it: the wait for its confirmation.
    ///
    /// # Errors
    ///
    /// As for [`Link::send_reserved`].
    pub fn send_reserved(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        room: CallId,
        message: Message,
    ) -> Result<Call<S>, SendError> {
        let (receipt, confirmation) = Waiter::pair();
        match self.with(|link| link.send_reserved(now, producer, room, message, receipt)) {
            Ok(id) => Ok(self.call(id, confirmation)),
            Err((error, _receipt)) => Err(error),
        }
    }

    /// Hands a message to a producer that has room: the wait for its confirmation.
    ///
    /// # Errors
    ///
    /// As for [`Link::try_send`].
    pub fn try_send(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
    ) -> Result<Call<S>, SendError> {
        let (receipt, confirmation) = Waiter::pair();
        match self.with(|link| link.try_send(now, producer, message, timeout, receipt)) {
            Ok(id) => Ok(self.call(id, confirmation)),
            Err((error, _receipt)) => Err(error),
        }
    }

    fn call(self: &Arc<Self>, id: CallId, wait: Wait) -> Call<S> {
        Call {
            cell: Arc::clone(self),
            wait,
            id,
            open: true,
        }
    }

    /// Tries to write once; true if the driver must see to the rest.
    fn write(&self, now: Instant, socket: &S, transmit: Transmit) -> bool {
        let driver = if self.eager { None } else { lock(&self.driver).clone() };
        let mut cx = Context::from_waker(driver.as_ref().unwrap_or(Waker::noop()));
        let result = (self.write)(socket, &mut cx, &transmit);
        let mut locked = self.lock();
        locked.written(now, transmit, result);
        // A driver that is a task looks in any case: by the time it runs the answer may be there, and it is spared the
        // way through the reactor.
        !self.eager || locked.needs_driver_after_write()
    }
}

impl<S: Send + Sync + 'static> LinkCell<S> {
    /// Takes up to `max` deliveries, or begins to wait for some.
    pub fn take_deliveries(self: &Arc<Self>, now: Instant, max: usize, into: &mut VecDeque<Lease>) -> Arrival<S> {
        let taken = self.with(|link| {
            if link.take_deliveries(now, link.worth_taking(max), into) > 0 {
                return Arrival::Taken;
            }
            if let Some(end) = link.poll_consumer_end() {
                return Arrival::Ended(end);
            }
            let (waiter, wait) = Waiter::pair();
            let id = link.wait_delivery(now, waiter);
            Arrival::Later(self.call(id, wait))
        });
        for lease in into
            .iter_mut()
            .filter(|lease| lease.is_counted && lease.guard.is_none())
        {
            let cell = Arc::clone(self);
            lease.guard = Some(LeaseGuard::new(lease.sequence, cell));
        }
        taken
    }
}

impl<S: Send + Sync> ReleaseDelivery for LinkCell<S> {
    fn release_delivery(&self, sequence: u64) {
        self.with(|link| link.release_delivery(sequence));
    }
}

/// What [`LinkCell::take_deliveries`] found.
#[derive(Debug)]
pub enum Arrival<S> {
    /// Deliveries.
    Taken,
    /// None yet: look again after this wait.
    Later(Call<S>),
    /// The consumer's end, and the error that ended it.
    Ended(Option<Error>),
}

impl<S> fmt::Debug for LinkCell<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkCell").finish_non_exhaustive()
    }
}

/// A call under way. Dropping it abandons the call.
#[must_use]
pub struct Call<S> {
    cell: Arc<LinkCell<S>>,
    wait: Wait,
    id: CallId,
    open: bool,
}

impl<S> Call<S> {
    /// Lets the call go on when this is dropped.
    pub fn detached(mut self) -> Self {
        self.open = false;
        self
    }

    /// Waits for a request's answer.
    ///
    /// # Errors
    ///
    /// Why there is none, or the server's refusal.
    pub async fn response(self) -> Result<Response, Error> {
        match self.await? {
            Reply::Response(result) => result.map(|response| *response),
            _ => Err(mismatch()),
        }
    }

    /// Waits for one message's result.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed, with the message.
    pub async fn enqueued(self) -> Result<MessageId, SendError> {
        enqueued(self.await)
    }

    /// Waits for the results of many messages.
    pub async fn enqueued_many(self) -> Vec<Result<MessageId, SendError>> {
        match self.await {
            Ok(Reply::EnqueuedMany(results)) => results,
            Ok(_) => vec![Err(without_message(mismatch()))],
            Err(error) => vec![Err(without_message(error))],
        }
    }

    /// Waits for one ack's or nack's result.
    ///
    /// # Errors
    ///
    /// Why it is not done.
    pub async fn settled(self) -> Result<(), Error> {
        settled(self.await)
    }

    /// Waits for the results of many acks or nacks.
    pub async fn settled_many(self) -> Vec<Result<(), Error>> {
        match self.await {
            Ok(Reply::SettledMany(results)) => results,
            Ok(_) => vec![Err(mismatch())],
            Err(error) => vec![Err(error)],
        }
    }

    /// Waits for room. It is kept for [`LinkCell::send_reserved`], to be called with no wait in between.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn room(self) -> Result<CallId, Error> {
        let id = self.id;
        match self.await? {
            Reply::Room(result) => result.map(|()| id),
            _ => Err(mismatch()),
        }
    }

    /// Waits until a producer's messages are settled.
    ///
    /// # Errors
    ///
    /// The first failure among them.
    pub async fn flushed(self) -> Result<(), Error> {
        match self.await? {
            Reply::Flushed(result) => result,
            _ => Err(mismatch()),
        }
    }

    /// Waits until the link is closed.
    pub async fn closed(self) -> CloseReport {
        match self.await {
            Ok(Reply::Closed(report)) => report,
            _ => CloseReport::default(),
        }
    }
}

impl<S> Future for Call<S> {
    /// An error only if the link is gone.
    type Output = Result<Reply<Waiter>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.wait).poll(cx));
        self.open = false;
        Poll::Ready(
            reply.ok_or_else(|| Error::new(ErrorKind::Closed, "the link is gone").with_outcome(Outcome::Unknown)),
        )
    }
}

impl<S> Drop for Call<S> {
    fn drop(&mut self) {
        if self.open {
            let waiter = self.cell.with(|link| link.abandon(self.id));
            drop(waiter);
        }
    }
}

impl<S> fmt::Debug for Call<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One message's result, out of what a [`Call`] ended with.
///
/// # Errors
///
/// Why the message is not confirmed, with the message.
pub fn enqueued(reply: Result<Reply<Waiter>, Error>) -> Result<MessageId, SendError> {
    match reply {
        Ok(Reply::Enqueued(result)) => result.map_err(|failed| *failed),
        Ok(_) => Err(without_message(mismatch())),
        Err(error) => Err(without_message(error)),
    }
}

/// One ack's or nack's result, out of what a [`Call`] ended with.
///
/// # Errors
///
/// Why it is not done.
pub fn settled(reply: Result<Reply<Waiter>, Error>) -> Result<(), Error> {
    match reply? {
        Reply::Settled(result) => result,
        _ => Err(mismatch()),
    }
}

fn mismatch() -> Error {
    Error::new(ErrorKind::Protocol, "the link answered another question").with_outcome(Outcome::Unknown)
}

/// For a wait whose link is gone, and the message with it.
fn without_message(error: Error) -> SendError {
    SendError {
        message: Message::new("", ""),
        error,
    }
}
