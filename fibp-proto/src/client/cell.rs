//! The lock around a machine.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::attention::Attention;
use super::clients::Driven;
use super::lock;
use super::locked::Locked;
use super::sync::{Mutex, MutexGuard};
use super::waiter::{Answer, Wait, Waiter, answer, complete};
use crate::config::Endpoint;
use crate::consumer::{Consumer, LeaseGuard, Leases, ReleaseDelivery};
use crate::dialect::Dialect;
use crate::error::{Error, SendError};
use crate::fault::Fault;
use crate::frame::Transmit;
use crate::machine::{CallId, ChannelId, Machine};
use crate::message::{Message, QueueName};
use crate::request::{Op, Request};
use crate::requests::{ProducerId, Requests, Settle, queue_of};
use crate::trace::CallSpan;

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

impl<M: Driven, S> Cell<M, S> {
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
        // Completed after unlocking: whoever is woken may lock the machine at once.
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let result = change(&mut locked.machine);
        locked.machine.drain_completions(&mut completions);
        let kick = self.needs_kick(&locked);
        let others = locked.needed(ChannelId::MAIN);
        drop(locked);
        complete(&mut completions);
        if kick {
            self.driver.kick();
        }
        others.iter().for_each(|driver| driver.kick());
        result
    }

    /// Whether the main channel's driver has something to do, and has to be told.
    ///
    /// A driver that is awake takes its mark off before it locks the machine: whoever sees the mark under the lock is seen
    /// by the turn that follows, and is spared a look at what there is to do.
    fn needs_kick(&self, locked: &Locked<M, S>) -> bool {
        !self.driver.is_awake() && locked.machine.needs_driver(ChannelId::MAIN)
    }

    /// Makes a call whose bytes travel in the next frame.
    pub(super) fn queue<A: Answer>(self: &Arc<Self>, call: impl FnOnce(&mut M, Waiter) -> CallId) -> Call<M, S, A> {
        let (waiter, wait) = Waiter::pair::<A>();
        let id = self.with(|machine| call(machine, waiter));
        self.under_way(id, wait, CallSpan::none())
    }

    fn under_way<A: Answer>(self: &Arc<Self>, id: CallId, wait: Wait<A::Output>, span: CallSpan) -> Call<M, S, A> {
        Call {
            cell: Arc::clone(self),
            wait,
            id,
            open: true,
            span,
        }
    }

    /// Ends the span of a call.
    pub(super) fn finish(&self, span: &CallSpan, error: Option<&Error>) {
        if span.is_recorded() {
            span.finish(self.whereabouts(span).as_ref(), error);
        }
    }

    fn whereabouts(&self, span: &CallSpan) -> Option<(Endpoint, Option<Dialect>)> {
        self.lock().machine.whereabouts(span.op(), span.queue())
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
    /// One request; see [`Requests::call`].
    pub fn call(
        self: &Arc<Self>,
        now: Instant,
        request: Request,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Answered> {
        let span = CallSpan::new(request.op(), || queue_of(&request));
        self.submit(now, span, |requests, waiter| {
            requests.call(now, request, timeout, waiter)
        })
    }

    /// One message; see [`Requests::enqueue`].
    pub fn enqueue(
        self: &Arc<Self>,
        now: Instant,
        message: Message,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Enqueued> {
        let span = CallSpan::new(Op::Enqueue, || Some(&message.queue));
        self.submit(now, span, |requests, waiter| {
            requests.enqueue(now, message, timeout, waiter)
        })
    }

    /// Many messages; see [`Requests::enqueue_many`].
    pub fn enqueue_many(
        self: &Arc<Self>,
        now: Instant,
        messages: Vec<Message>,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::EnqueuedMany> {
        let span = CallSpan::new(Op::Enqueue, || {
            common_queue(messages.iter().map(|message| &message.queue))
        });
        self.submit(now, span, |requests, waiter| {
            requests.enqueue_many(now, messages, timeout, waiter)
        })
    }

    /// One ack or nack; see [`Requests::settle`].
    pub fn settle(
        self: &Arc<Self>,
        now: Instant,
        settle: Settle,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Settled> {
        let span = CallSpan::new(op_of(&settle), || Some(&settle.queue));
        self.submit(now, span, |requests, waiter| {
            requests.settle(now, settle, timeout, waiter)
        })
    }

    /// One ack or nack that goes out in the next frame, even if the call is dropped.
    pub fn settle_queued(
        self: &Arc<Self>,
        now: Instant,
        settle: Settle,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Settled> {
        let span = CallSpan::new(op_of(&settle), || Some(&settle.queue));
        let (waiter, wait) = Waiter::pair::<answer::Settled>();
        let id = span.in_scope(|| self.with(|requests| requests.settle(now, settle, timeout, waiter)));
        self.under_way(id, wait, span).detached()
    }

    /// Many acks and nacks; see [`Requests::settle_many`].
    pub fn settle_many(
        self: &Arc<Self>,
        now: Instant,
        settles: Vec<Settle>,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::SettledMany> {
        let span = CallSpan::new(settles.first().map_or(Op::Ack, op_of), || {
            common_queue(settles.iter().map(|settle| &settle.queue))
        });
        self.submit(now, span, |requests, waiter| {
            requests.settle_many(now, settles, timeout, waiter)
        })
    }

    /// Sends what a producer holds; see [`Requests::flush`].
    pub fn flush(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Flushed> {
        self.submit(now, CallSpan::none(), |requests, waiter| {
            requests.flush(now, producer, timeout, waiter)
        })
    }

    /// Makes a call. If nothing else is under way, its bytes are written at once, without waking the driver. Threads
    /// write them at once whenever they can.
    fn submit<A: Answer>(
        self: &Arc<Self>,
        now: Instant,
        span: CallSpan,
        call: impl FnOnce(&mut Requests<Waiter>, Waiter) -> CallId,
    ) -> RequestCall<S, A> {
        // Made before the lock is taken, as it allocates.
        let (waiter, wait) = Waiter::pair::<A>();
        let mut completions = Vec::new();
        let mut locked = self.lock();
        // While an answer is due the driver will turn anyway, and what is called until then shares a frame.
        let is_quiet = locked.machine.in_flight(ChannelId::MAIN) == 0 && !self.driver.is_awake();
        let id = span.in_scope(|| call(&mut locked.machine, waiter));
        let claimed = if self.eager || is_quiet {
            locked.claim(now, ChannelId::MAIN, CALLER_WRITE)
        } else {
            None
        };
        locked.machine.drain_completions(&mut completions);
        // What is being written needs no driver any more, whoever looks meanwhile.
        let mut kick = self.needs_kick(&locked);
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
        self.under_way(id, wait, span)
    }

    /// Waits for room for a producer's message, which the caller keeps until then.
    pub fn reserve(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
    ) -> RequestCall<S, answer::Room> {
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
    ) -> Result<RequestCall<S, answer::Enqueued>, SendError> {
        self.hand_over(message, |requests, message, receipt| {
            requests.send_reserved(now, producer, room, message, receipt)
        })
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
    ) -> Result<RequestCall<S, answer::Enqueued>, SendError> {
        self.hand_over(message, |requests, message, receipt| {
            requests.try_send(now, producer, message, timeout, receipt)
        })
    }

    fn hand_over(
        self: &Arc<Self>,
        message: Message,
        send: impl FnOnce(&mut Requests<Waiter>, Message, Waiter) -> Result<CallId, (SendError, Waiter)>,
    ) -> Result<RequestCall<S, answer::Enqueued>, SendError> {
        let span = CallSpan::new(Op::Enqueue, || Some(&message.queue));
        let (receipt, confirmation) = Waiter::pair::<answer::Enqueued>();
        match span.in_scope(|| self.with(|requests| send(requests, message, receipt))) {
            Ok(id) => Ok(self.under_way(id, confirmation, span)),
            Err((failed, _receipt)) => {
                self.finish(&span, Some(&failed.error));
                Err(failed)
            }
        }
    }
}

impl<S: Send + Sync + 'static> ConsumerCell<S> {
    /// Takes up to `max` deliveries, or begins to wait for some.
    pub fn take_deliveries(self: &Arc<Self>, now: Instant, max: usize, into: &mut Leases) -> Taken<S> {
        self.with(|consumer| {
            if consumer.take_leases(now, consumer.worth_taking(max), into) > 0 {
                return Taken::Some;
            }
            if let Some(end) = consumer.poll_end() {
                return Taken::Ended(end);
            }
            let (waiter, wait) = Waiter::pair::<answer::Ready>();
            let id = consumer.wait_delivery(now, waiter);
            Taken::Later(self.under_way(id, wait, CallSpan::none()))
        })
    }

    /// Takes up to `max` deliveries that are to be handed out at once, if there are any.
    pub(super) fn take_ready(self: &Arc<Self>, now: Instant, max: usize, into: &mut Leases) {
        self.with(|consumer| consumer.take_leases(now, max, into));
    }

    /// The guard of a delivery that is handed out and counted.
    pub(super) fn guard(self: &Arc<Self>, sequence: u64) -> LeaseGuard {
        let cell = Arc::clone(self);
        LeaseGuard::new(sequence, cell)
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
    Later(Call<Consumer<Waiter>, S, answer::Ready>),
    /// The consumer's end, and the error that ended it.
    Ended(Option<Error>),
}

impl<M, S> fmt::Debug for Cell<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").finish_non_exhaustive()
    }
}

/// A call to a client's requests.
pub type RequestCall<S, A> = Call<Requests<Waiter>, S, A>;

/// A call under way, which is answered with `A`. Dropping it abandons the call. Like most futures it panics if it is
/// polled again after it was ready.
#[must_use]
pub struct Call<M: Driven, S, A: Answer> {
    cell: Arc<Cell<M, S>>,
    wait: Wait<A::Output>,
    id: CallId,
    open: bool,
    span: CallSpan,
}

impl<M: Driven, S, A: Answer> Call<M, S, A> {
    /// Lets the call go on when this is dropped.
    pub fn detached(mut self) -> Self {
        self.open = false;
        self
    }
}

impl<S> RequestCall<S, answer::Room> {
    /// Waits for room. It is kept for [`Cell::send_reserved`], to be called with no wait in between.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn room(mut self) -> Result<CallId, Error> {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    /// As [`room`](Self::room), for those who poll.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<CallId, Error>> {
        let id = self.id;
        Pin::new(self).poll(cx).map_ok(|()| id)
    }
}

impl<M: Driven, S, A: Answer> Future for Call<M, S, A> {
    type Output = A::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { wait, span, .. } = &mut *self;
        let reply = ready!(span.in_scope(|| Pin::new(wait).poll(cx)));
        // The machine has ended the call: there is nothing to abandon any more.
        self.open = false;
        // Invariant: a machine gives every token back, and `cell` keeps the machine. No reply means that it was taken.
        #[expect(clippy::expect_used, reason = "the caller's mistake, as for other futures")]
        let reply = reply.expect("a call is not polled again after it was ready");
        self.cell.finish(&self.span, A::error(&reply));
        self.span = CallSpan::none();
        Poll::Ready(reply)
    }
}

impl<M: Driven, S, A: Answer> Drop for Call<M, S, A> {
    fn drop(&mut self) {
        if self.open {
            // Dropped without the lock: its slot wakes whoever waits.
            let waiter = self.cell.with(|machine| machine.abandon(self.id));
            drop(waiter);
        }
        if self.span.is_recorded() {
            self.span.give_up(self.cell.whereabouts(&self.span).as_ref());
        }
    }
}

/// The queue that all of these are about, if it is one.
fn common_queue<'a>(mut queues: impl Iterator<Item = &'a QueueName>) -> Option<&'a QueueName> {
    let first = queues.next()?;
    queues.all(|queue| queue == first).then_some(first)
}

fn op_of(settle: &Settle) -> Op {
    if settle.nack.is_none() { Op::Ack } else { Op::Nack }
}

impl<M: Driven, S, A: Answer> fmt::Debug for Call<M, S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}
