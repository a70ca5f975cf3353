//! The lock around a machine.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::attention::Attention;
use super::clients::Driven;
use super::lock;
use super::locked::Locked;
use super::replies::Replies;
use super::sync::{Mutex, MutexGuard};
use super::waiter::{Answer, Waiter, Waiters, answer};
use crate::config::Endpoint;
use crate::consumer::{Consumer, LeaseGuard, Leases, ReleaseDelivery};
use crate::dialect::Dialect;
use crate::error::{Error, SendError};
use crate::fault::Fault;
use crate::frame::Transmit;
use crate::machine::{CallId, ChannelId, Completion, Machine};
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
    replies: Replies,
    /// The main channel's driver, known without the lock.
    driver: Arc<Attention>,
    /// How a caller tries to write.
    write: TryWrite<S>,
    /// Callers write even if something is under way.
    eager: bool,
    /// The driver is woken after each write of a caller.
    wake_after_write: bool,
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
    /// Whether the driver is woken after each write, to look whether the answer is there. It is woken for what is left in
    /// any case.
    pub wake_driver: bool,
}

impl<S> Clone for CallerWrites<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for CallerWrites<S> {}

impl<M: Driven, S> Cell<M, S> {
    /// A cell for `machine`, some of whose calls may have these waiters.
    pub(super) fn new(machine: M, waiters: Waiters, writes: CallerWrites<S>) -> Self {
        let mut locked = Locked::new(machine, waiters);
        if let Some(claimed) = writes.claimed {
            locked.claimed = claimed;
        }
        Self {
            driver: Arc::clone(&locked.port(ChannelId::MAIN).attention),
            locked: Mutex::new(locked),
            replies: Replies::default(),
            write: writes.write,
            eager: writes.claimed.is_some(),
            wake_after_write: writes.wake_driver,
        }
    }

    // ---- the drivers' side ----

    /// Locks the machine. Drain its completions, then [`deliver`](Self::deliver) them after unlocking.
    pub(super) fn lock(&self) -> MutexGuard<'_, Locked<M, S>> {
        lock(&self.locked)
    }

    /// Delivers the replies to calls, leaving `completions` empty, and wakes who waits. Returns how many were waited for.
    /// Call it with the machine unlocked.
    pub(super) fn deliver(&self, completions: &mut Vec<Completion<Waiter>>) -> usize {
        self.replies.deliver(completions)
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
        self.with_locked(|locked| change(&mut locked.machine))
    }

    fn with_locked<R>(&self, change: impl FnOnce(&mut Locked<M, S>) -> R) -> R {
        // Delivered after unlocking: whoever is woken may lock the machine at once.
        let mut completions = Vec::new();
        let mut locked = self.lock();
        let result = change(&mut locked);
        locked.machine.drain_completions(&mut completions);
        let kick = self.needs_kick(&locked);
        let others = locked.needed(ChannelId::MAIN);
        drop(locked);
        self.deliver(&mut completions);
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
    pub(super) fn queue<A: Answer>(self: &Arc<Self>, call: impl FnOnce(&mut M, Waiter) -> CallId) -> Call<'_, M, S, A> {
        let (id, number) = self.with_locked(|locked| locked.call(call));
        self.under_way(id, number, CallSpan::none())
    }

    /// The wait for a call whose waiter has this number.
    fn under_way<A: Answer>(self: &Arc<Self>, id: CallId, number: u64, span: CallSpan) -> Call<'_, M, S, A> {
        Call::new(Kept::Elsewhere(self), id, number, span)
    }

    /// The wait until the machine is open; its waiter has this number. Nothing is abandoned with it: the machine ends
    /// with its handles.
    pub(super) fn opening(self: &Arc<Self>, number: u64, span: CallSpan) -> Call<'static, M, S, answer::Opened> {
        Call::new(Kept::Here(Arc::clone(self)), CallId::new(0), number, span).detached()
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

    /// Tries to write once; true if the driver is to be woken.
    fn write(&self, now: Instant, socket: &S, transmit: Transmit) -> bool {
        let driver = if self.eager { None } else { self.driver.waker() };
        let mut cx = Context::from_waker(driver.as_ref().unwrap_or(Waker::noop()));
        let result = (self.write)(socket, &mut cx, &transmit);
        // Whatever a lost connection leaves to be done is the driver's.
        let failed = result.is_err();
        let mut locked = self.lock();
        locked.written(now, ChannelId::MAIN, transmit, result);
        self.wake_after_write || failed || locked.needs_driver_after_write(ChannelId::MAIN)
    }
}

impl<S> RequestsCell<S> {
    /// One request; see [`Requests::call`].
    pub fn call(
        self: &Arc<Self>,
        now: Instant,
        request: Request,
        timeout: Option<Duration>,
    ) -> RequestCall<'_, S, answer::Answered> {
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
    ) -> RequestCall<'_, S, answer::Enqueued> {
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
    ) -> RequestCall<'_, S, answer::EnqueuedMany> {
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
    ) -> RequestCall<'_, S, answer::Settled> {
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
    ) -> RequestCall<'_, S, answer::Settled> {
        let span = CallSpan::new(op_of(&settle), || Some(&settle.queue));
        let settle = |requests: &mut Requests<Waiter>, waiter| requests.settle(now, settle, timeout, waiter);
        let (id, number) = span.in_scope(|| self.with_locked(|locked| locked.call(settle)));
        self.under_way(id, number, span).detached()
    }

    /// Many acks and nacks; see [`Requests::settle_many`].
    pub fn settle_many(
        self: &Arc<Self>,
        now: Instant,
        settles: Vec<Settle>,
        timeout: Option<Duration>,
    ) -> RequestCall<'_, S, answer::SettledMany> {
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
    ) -> RequestCall<'_, S, answer::Flushed> {
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
    ) -> RequestCall<'_, S, A> {
        let mut completions = Vec::new();
        let mut locked = self.lock();
        // While an answer is due the driver will turn anyway, and what is called until then shares a frame.
        let is_quiet = locked.machine.in_flight(ChannelId::MAIN) == 0 && !self.driver.is_awake();
        let (id, number) = span.in_scope(|| locked.call(call));
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
        self.deliver(&mut completions);
        if let Some((socket, transmit)) = claimed {
            kick |= self.write(now, &socket, transmit);
        }
        if kick {
            self.driver.kick();
        }
        others.iter().for_each(|driver| driver.kick());
        self.under_way(id, number, span)
    }

    /// Waits for room for a producer's message, which the caller keeps until then.
    pub fn reserve(
        self: &Arc<Self>,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
    ) -> RequestCall<'_, S, answer::Room> {
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
    ) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
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
    ) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
        self.hand_over(message, |requests, message, receipt| {
            requests.try_send(now, producer, message, timeout, receipt)
        })
    }

    fn hand_over(
        self: &Arc<Self>,
        message: Message,
        send: impl FnOnce(&mut Requests<Waiter>, Message, Waiter) -> Result<CallId, (SendError, Waiter)>,
    ) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
        let span = CallSpan::new(Op::Enqueue, || Some(&message.queue));
        let sent = span.in_scope(|| {
            self.with_locked(|locked| {
                let (receipt, number) = locked.waiters.next();
                send(&mut locked.machine, message, receipt).map(|id| (id, number))
            })
        });
        match sent {
            Ok((id, number)) => Ok(self.under_way(id, number, span)),
            // Nobody has asked for the receipt's reply yet, and there will be none.
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
        self.with_locked(|locked| {
            let consumer = &mut locked.machine;
            if consumer.take_leases(now, consumer.worth_taking(max), into) > 0 {
                return Taken::Some;
            }
            if let Some(end) = consumer.poll_end() {
                return Taken::Ended(end);
            }
            let (id, number) = locked.call(|consumer, waiter| consumer.wait_delivery(now, waiter));
            Taken::Later(self.under_way(id, number, CallSpan::none()).owned())
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
pub enum Taken<S: 'static> {
    /// Deliveries.
    Some,
    /// None yet: look again after this wait.
    Later(ConsumerCall<'static, S, answer::Ready>),
    /// The consumer's end, and the error that ended it.
    Ended(Option<Error>),
}

impl<M, S> fmt::Debug for Cell<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").finish_non_exhaustive()
    }
}

/// A call to a client's requests.
pub type RequestCall<'a, S, A> = Call<'a, Requests<Waiter>, S, A>;

/// A call to a consumer.
pub type ConsumerCall<'a, S, A> = Call<'a, Consumer<Waiter>, S, A>;

/// A call under way, which is answered with `A`. Dropping it abandons the call. Like most futures it panics if it is
/// polled again after it was ready.
#[must_use]
pub struct Call<'a, M: Driven, S, A: Answer> {
    cell: Kept<'a, M, S>,
    /// That of its waiter, until it has the reply.
    number: Option<u64>,
    id: CallId,
    open: bool,
    span: CallSpan,
    answer: PhantomData<fn() -> A>,
}

/// A cell, kept by whoever made a call, or by the call itself: that costs a reference count.
enum Kept<'a, M, S> {
    Elsewhere(&'a Arc<Cell<M, S>>),
    Here(Arc<Cell<M, S>>),
}

impl<M, S> Deref for Kept<'_, M, S> {
    type Target = Cell<M, S>;

    fn deref(&self) -> &Cell<M, S> {
        match self {
            Self::Elsewhere(cell) => cell,
            Self::Here(cell) => cell,
        }
    }
}

impl<'a, M: Driven, S, A: Answer> Call<'a, M, S, A> {
    fn new(cell: Kept<'a, M, S>, id: CallId, number: u64, span: CallSpan) -> Self {
        Self {
            cell,
            number: Some(number),
            id,
            open: true,
            span,
            answer: PhantomData,
        }
    }

    /// Lets the call go on when this is dropped.
    pub fn detached(mut self) -> Self {
        self.open = false;
        self
    }

    /// The same call, to be kept for as long as one likes.
    pub fn owned(mut self) -> Call<'static, M, S, A> {
        let cell = match &self.cell {
            Kept::Elsewhere(cell) => Arc::clone(cell),
            Kept::Here(cell) => Arc::clone(cell),
        };
        Call {
            cell: Kept::Here(cell),
            // Taken: what is left is dropped, and leaves nothing.
            number: self.number.take(),
            id: self.id,
            open: self.open,
            span: std::mem::replace(&mut self.span, CallSpan::none()),
            answer: PhantomData,
        }
    }
}

impl<S> RequestCall<'_, S, answer::Room> {
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

impl<M: Driven, S, A: Answer> Future for Call<'_, M, S, A> {
    type Output = A::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { cell, number, span, .. } = &mut *self;
        #[expect(clippy::expect_used, reason = "the caller's mistake, as for other futures")]
        let waiter = number.expect("a call is not polled again after it was ready");
        let reply = ready!(span.in_scope(|| cell.replies.poll(waiter, cx)));
        // The machine has ended the call: there is nothing to abandon any more.
        *number = None;
        // Invariant: calls are made where it is plain what answers them.
        #[expect(clippy::expect_used, reason = "a machine's defect")]
        let output = A::output(reply).expect("a machine answers what it was asked");
        cell.finish(span, A::error(&output));
        *span = CallSpan::none();
        Poll::Ready(output)
    }
}

impl<M: Driven, S, A: Answer> Drop for Call<'_, M, S, A> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let abandoned = if self.open {
                self.cell.with(|machine| machine.abandon(self.id))
            } else {
                None
            };
            self.cell.replies.leave(number, abandoned);
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

impl<M: Driven, S, A: Answer> fmt::Debug for Call<'_, M, S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}
