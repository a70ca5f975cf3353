//! The lock around a machine.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::attention::Attention;
use super::lock;
use super::locked::Locked;
use super::sync::{Mutex, MutexGuard};
use super::waiter::{Wait, Waiter, complete};
use crate::consumer::{Consumer, Lease, LeaseGuard, ReleaseDelivery};
use crate::error::{Error, ErrorKind, Outcome, SendError};
use crate::fault::Fault;
use crate::frame::Transmit;
use crate::machine::{CallId, ChannelId, CloseReport, Machine, Reply};
use crate::message::{Message, MessageId};
use crate::requests::{ProducerId, Requests};
use crate::response::Response;

/// The most bytes that a caller encodes and writes itself.
const CALLER_WRITE: usize = 16 * 1024;

/// A machine under its lock, with the waker of its main channel's driver. `S` is the adapter's socket.
///
/// The lock is never held while a task is woken or a socket is used.
pub struct Cell<M, S> {
    locked: Mutex<Locked<M, S>>,
    /// The main channel's driver, known without the lock.
    driver: Arc<Attention>,
    /// How a caller tries to write.
    write: TryWrite<S>,
    /// Callers write even if something is under way.
    eager: bool,
}

/// The cell of a client's requests.
pub type RequestsCell<S> = Cell<Requests<Waiter>, S>;

/// The cell of one subscription.
pub type ConsumerCell<S> = Cell<Consumer<Waiter>, S>;

/// One attempt to write without waiting, polled with the driver's waker, so that it is the driver who learns
/// when the socket takes more. Returns how many bytes were taken: none if the socket would block.
pub type TryWrite<S> = fn(&S, &mut Context<'_>, &Transmit) -> Result<usize, Fault>;

/// How callers write.
pub struct CallerWrites<S> {
    /// One attempt.
    pub write: TryWrite<S>,
    /// For callers that are threads and may wait a moment in `write`: they write whenever nobody else does, as waking a
    /// thread that writes for them costs more. They have no waker. This is told, with the machine locked, that a write
    /// begins: later callers travel in another one.
    pub claimed: Option<fn(&S)>,
}

impl<S> Clone for CallerWrites<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for CallerWrites<S> {}

impl<M: Machine<Token = Waiter>, S> Cell<M, S> {
    /// A cell for `machine`.
    pub fn new(machine: M, writes: CallerWrites<S>) -> Self {
        let mut locked = Locked::new(machine);
        if let Some(claimed) = writes.claimed {
            locked.claimed = claimed;
        }
        Self {
            driver: Arc::clone(&locked.port(ChannelId::MAIN).attention),
            locked: Mutex::new(locked),
            write: writes.write,
            eager: writes.claimed.is_some(),
        }
    }

    // ---- the drivers' side ----

    /// Locks the machine. Drain its completions, then [`complete`] them after unlocking.
    pub(super) fn lock(&self) -> MutexGuard<'_, Locked<M, S>> {
        lock(&self.locked)
    }

    /// What wakes the driver of a channel.
    pub(super) fn attention(&self, channel: ChannelId) -> Arc<Attention> {
        if channel == ChannelId::MAIN {
            return Arc::clone(&self.driver);
        }
        Arc::clone(&self.lock().port(channel).attention)
    }

    // ---- the callers' side ----

    /// Lets `change` do something to the machine, then wakes whom that concerns.
    pub fn with<R>(&self, change: impl FnOnce(&mut M) -> R) -> R {
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let result = change(&mut locked.machine);
        locked.machine.drain_completions(&mut completions);
        let kick = locked.machine.needs_driver(ChannelId::MAIN);
        let others = locked.needed(ChannelId::MAIN);
        drop(locked);
        complete(&mut completions);
        if kick {
            self.driver.kick();
        }
        others.iter().for_each(|driver| driver.kick());
        result
    }

    /// Makes a call whose bytes travel in the next frame.
    pub fn queue(self: &Arc<Self>, call: impl FnOnce(&mut M, Waiter) -> CallId) -> Call<M, S> {
        let (waiter, wait) = Waiter::pair();
        let id = self.with(|machine| call(machine, waiter));
        self.call(id, wait)
    }

    fn call(self: &Arc<Self>, id: CallId, wait: Wait) -> Call<M, S> {
        Call {
            cell: Arc::clone(self),
            wait,
            id,
            open: true,
        }
    }

    /// Tries to write once; true if the driver must see to the rest.
    fn write(&self, now: Instant, socket: &S, transmit: Transmit) -> bool {
        let driver = if self.eager { None } else { self.driver.waker() };
        let mut cx = Context::from_waker(driver.as_ref().unwrap_or(Waker::noop()));
        let result = (self.write)(socket, &mut cx, &transmit);
        let mut locked = self.lock();
        locked.written(now, ChannelId::MAIN, transmit, result);
        // A driver that is a task looks in any case: by the time it runs the answer may be there, and it is spared the
        // way through the reactor.
        !self.eager || locked.needs_driver_after_write(ChannelId::MAIN)
    }
}

impl<S> RequestsCell<S> {
    /// Makes a call. If nothing else is under way, its bytes are written at once, without waking the driver. Threads
    /// write them at once whenever they can.
    pub fn submit(
        self: &Arc<Self>,
        now: Instant,
        call: impl FnOnce(&mut Requests<Waiter>, Waiter) -> CallId,
    ) -> RequestCall<S> {
        let (waiter, wait) = Waiter::pair();
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let is_quiet = locked.machine.in_flight(ChannelId::MAIN) == 0 && !self.driver.is_awake();
        let id = call(&mut locked.machine, waiter);
        let claimed = if self.eager || is_quiet {
            locked.claim(now, ChannelId::MAIN, CALLER_WRITE)
        } else {
            None
        };
        locked.machine.drain_completions(&mut completions);
        // What is being written needs no driver any more, whoever looks meanwhile.
        let mut kick = locked.machine.needs_driver(ChannelId::MAIN);
        let others = locked.needed(ChannelId::MAIN);
        drop(locked);
        complete(&mut completions);
        if let Some((socket, transmit)) = claimed {
            kick |= self.write(now, &socket, transmit);
        }
        if kick {
            self.driver.kick();
        }
        others.iter().for_each(|driver| driver.kick());
        self.call(id, wait)
    }

    /// Waits for room for a producer's message, which the caller keeps until then.
    pub fn reserve(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
    ) -> RequestCall<S> {
        self.queue(|requests, waiter| requests.reserve(now, producer, message, timeout, waiter))
    }

    /// Hands a message to a producer, into room that was reserved for it: the wait for its confirmation.
    ///
    /// # Errors
    ///
    /// As for [`Requests::send_reserved`].
    pub fn send_reserved(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        room: CallId,
        message: Message,
    ) -> Result<RequestCall<S>, SendError> {
        let (receipt, confirmation) = Waiter::pair();
        match self.with(|requests| requests.send_reserved(now, producer, room, message, receipt)) {
            Ok(id) => Ok(self.call(id, confirmation)),
            Err((error, _receipt)) => Err(error),
        }
    }

    /// Hands a message to a producer that has room: the wait for its confirmation.
    ///
    /// # Errors
    ///
    /// As for [`Requests::try_send`].
    pub fn try_send(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
    ) -> Result<RequestCall<S>, SendError> {
        let (receipt, confirmation) = Waiter::pair();
        match self.with(|requests| requests.try_send(now, producer, message, timeout, receipt)) {
            Ok(id) => Ok(self.call(id, confirmation)),
            Err((error, _receipt)) => Err(error),
        }
    }
}

impl<S: Send + Sync + 'static> ConsumerCell<S> {
    /// Takes up to `max` deliveries, or begins to wait for some.
    pub fn take_deliveries(self: &Arc<Self>, now: Instant, max: usize, into: &mut VecDeque<Lease>) -> Taken<S> {
        let taken = self.with(|consumer| {
            if consumer.take_deliveries(now, consumer.worth_taking(max), into) > 0 {
                return Taken::Some;
            }
            if let Some(end) = consumer.poll_end() {
                return Taken::Ended(end);
            }
            let (waiter, wait) = Waiter::pair();
            let id = consumer.wait_delivery(now, waiter);
            Taken::Later(self.call(id, wait))
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

impl<S: Send + Sync> ReleaseDelivery for ConsumerCell<S> {
    fn release_delivery(&self, sequence: u64) {
        self.with(|consumer| consumer.release_delivery(sequence));
    }
}

/// What [`ConsumerCell::take_deliveries`](Cell::take_deliveries) found.
#[derive(Debug)]
pub enum Taken<S> {
    /// Deliveries.
    Some,
    /// None yet: look again after this wait.
    Later(Call<Consumer<Waiter>, S>),
    /// The consumer's end, and the error that ended it.
    Ended(Option<Error>),
}

impl<M, S> fmt::Debug for Cell<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").finish_non_exhaustive()
    }
}

/// A call to a client's requests.
pub type RequestCall<S> = Call<Requests<Waiter>, S>;

/// A call under way. Dropping it abandons the call.
#[must_use]
pub struct Call<M: Machine<Token = Waiter>, S> {
    cell: Arc<Cell<M, S>>,
    wait: Wait,
    id: CallId,
    open: bool,
}

impl<M: Machine<Token = Waiter>, S> Call<M, S> {
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

    /// Waits for room. It is kept for [`Cell::send_reserved`], to be called with no wait in between.
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

    /// Waits until the machine is closed.
    pub async fn closed(self) -> CloseReport {
        match self.await {
            Ok(Reply::Closed(report)) => report,
            _ => CloseReport::default(),
        }
    }
}

impl<M: Machine<Token = Waiter>, S> Future for Call<M, S> {
    /// An error only if the machine is gone.
    type Output = Result<Reply<Waiter>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.wait).poll(cx));
        self.open = false;
        Poll::Ready(
            reply.ok_or_else(|| Error::new(ErrorKind::Closed, "the client is gone").with_outcome(Outcome::Unknown)),
        )
    }
}

impl<M: Machine<Token = Waiter>, S> Drop for Call<M, S> {
    fn drop(&mut self) {
        if self.open {
            let waiter = self.cell.with(|machine| machine.abandon(self.id));
            drop(waiter);
        }
    }
}

impl<M: Machine<Token = Waiter>, S> fmt::Debug for Call<M, S> {
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
    Error::new(ErrorKind::Protocol, "the client answered another question").with_outcome(Outcome::Unknown)
}

/// For a wait whose machine is gone, and the message with it.
fn without_message(error: Error) -> SendError {
    SendError {
        message: Message::new("", ""),
        error,
    }
}
