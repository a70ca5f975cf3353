//! Producers as sinks.
//!
//! Invariants: a message that a sink took is in one place: waiting here for room, in the producer's buffer with its receipt
//! here, or failed and not reported yet. `poll_ready` reports no failure, because combinators drop the message that they
//! hold when it does.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_sink::Sink;

use super::producer::Producer;
use super::runtime::Runtime;
use crate::client::cell::RequestCall;
use crate::client::common;
use crate::client::waiter::answer;
use crate::config::OnFull;
use crate::error::{Doing, Error, ErrorKind, SendError};
use crate::event::Event;
use crate::message::Message;
use crate::request::Op;

/// With fewer receipts than this it isn't worth looking for those that are ready behind others.
const SWEEP_AT: usize = 64;

/// What one handle of a producer took as a sink.
pub(super) struct Sunk<R: Runtime> {
    /// A message that there was no room for yet.
    waiting: Option<Waiting<R>>,
    /// Those under way, in the order of sending.
    receipts: VecDeque<RequestCall<'static, R::Writer, answer::Enqueued>>,
    /// With so many receipts, those that are ready are looked for: always twice as many as were left the last time.
    sweep_at: usize,
    /// Failures that were not reported yet.
    failed: VecDeque<SendError>,
    /// The bytes of their messages.
    failed_bytes: usize,
    /// Nothing was handed over since the buffer was last told not to linger.
    hurried: bool,
    closed: bool,
}

struct Waiting<R: Runtime> {
    message: Message,
    room: RequestCall<'static, R::Writer, answer::Room>,
}

/// For streams: `stream.forward(producer)`. What [`Producer`] promises holds: messages travel in batches, [`poll_ready`] waits
/// while the buffer is full, and each message that was taken is confirmed, or comes back in the error of a flush or a close.
///
/// * [`start_send`] gives a message back that cannot be sent at all, or for which there is no room if
///   [`OnFull::Fail`] is set. So it does ([`ErrorKind::Overloaded`]) while the failures of earlier messages that no
///   flush reported take up as much as the buffer may: flush first.
/// * [`poll_flush`] sends without lingering, and is ready when all messages that this handle took are settled. Each failure
///   is an error of its own, with its message, and the sink stays usable: flush again until it is `Ok`.
/// * [`poll_close`] is a last flush; afterwards the sink takes nothing more. Other clones of the producer do.
///
/// If the handle is dropped before, messages in the buffer still go; each failure that was not reported, and a message that
/// still waited for room, is an [`Event::Unconfirmed`].
///
/// The methods of the producer itself, such as [`send`](Producer::send) and [`flush`](Producer::flush), come first in a call:
/// write `SinkExt::flush(&mut producer)` for that of the sink. Clones share the buffer, not what they took as sinks.
///
/// [`poll_ready`]: Sink::poll_ready
/// [`start_send`]: Sink::start_send
/// [`poll_flush`]: Sink::poll_flush
/// [`poll_close`]: Sink::poll_close
///
/// ```
/// # use fibp_proto::client::{Producer, Runtime};
/// # use fibp_proto::{Message, SendError};
/// use std::future::poll_fn;
/// use std::pin::Pin;
///
/// use futures_sink::Sink;
///
/// # async fn example<R: Runtime>(mut producer: Producer<R>) -> Result<(), SendError> {
/// poll_fn(|cx| Pin::new(&mut producer).poll_ready(cx)).await?;
/// Pin::new(&mut producer).start_send(Message::new("orders", "two apples"))?;
/// while let Err(failed) = poll_fn(|cx| Pin::new(&mut producer).poll_close(cx)).await {
///     println!("not stored: {failed}; here it is: {:?}", failed.message.payload);
/// }
/// # Ok(())
/// # }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "sink")))]
impl<R: Runtime> Sink<Message> for Producer<R> {
    type Error = SendError;

    /// Waits until the message before has room in the buffer. Never fails.
    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Self { common, sunk } = &mut *self;
        ready!(sunk.poll_room(common, cx));
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), SendError> {
        let Self { common, sunk } = &mut *self;
        sunk.start(common, message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Self { common, sunk } = &mut *self;
        let has_room = sunk.poll_room(common, cx).is_ready();
        sunk.hurry(common);
        sunk.reap(cx);
        if let Some(failed) = sunk.take_failed() {
            return Poll::Ready(Err(failed));
        }
        if has_room && sunk.receipts.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.sunk.closed = true;
        self.poll_flush(cx)
    }
}

impl<R: Runtime> Sunk<R> {
    fn start(&mut self, producer: &common::Producer<R::Writer>, message: Message) -> Result<(), SendError> {
        if let Some(error) = self.refusal(producer) {
            let error = error.during(|| Doing::on_queue(Op::Enqueue, &message.queue));
            return Err(SendError { message, error });
        }
        match producer.try_send(message) {
            Ok(receipt) => self.push(receipt),
            Err(refused) if refused.kind() == ErrorKind::Overloaded && producer.settings().on_full == OnFull::Wait => {
                let message = refused.message;
                // In line from now on, whenever this is polled next.
                let room = producer.reserve(&message).owned();
                self.waiting = Some(Waiting { message, room });
            }
            Err(refused) => return Err(refused),
        }
        Ok(())
    }

    /// Why nothing is taken, if so.
    fn refusal(&self, producer: &common::Producer<R::Writer>) -> Option<Error> {
        if self.closed {
            return Some(crate::channel::closed("the sink"));
        }
        if self.waiting.is_some() {
            let text = "start_send was called although poll_ready was not ready";
            return Some(Error::new(ErrorKind::InvalidArgument, text));
        }
        (self.failed_bytes >= producer.settings().buffer).then(|| {
            Error::new(
                ErrorKind::Overloaded,
                "too many failures of earlier messages are not reported yet",
            )
            .with_remedy("flush the sink, which reports them")
        })
    }

    /// Hands over the message that waits for room, if there is one and room for it.
    fn poll_room(&mut self, producer: &common::Producer<R::Writer>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(());
        };
        let room = ready!(waiting.room.poll_room(cx));
        if let Some(Waiting { message, .. }) = self.waiting.take() {
            let sent = match room {
                Ok(room) => producer.send_reserved(room, message),
                Err(error) => Err(SendError { message, error }),
            };
            match sent {
                Ok(receipt) => self.push(receipt),
                Err(failed) => self.fail(failed),
            }
        }
        Poll::Ready(())
    }

    fn push(&mut self, receipt: RequestCall<'_, R::Writer, answer::Enqueued>) {
        self.hurried = false;
        if self.receipts.len() >= self.sweep_at.max(SWEEP_AT) {
            self.sweep();
        }
        self.receipts.push_back(receipt.owned());
    }

    /// Takes what is ready from behind what is not, so that this holds no more than is under way, twice. Whoever flushes
    /// polls again.
    fn sweep(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..self.receipts.len() {
            let Some(mut receipt) = self.receipts.pop_front() else {
                break;
            };
            match Pin::new(&mut receipt).poll(&mut cx) {
                Poll::Pending => self.receipts.push_back(receipt),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(failed)) => self.fail(*failed),
            }
        }
        self.sweep_at = 2 * self.receipts.len();
    }

    /// Takes the results of those in front.
    fn reap(&mut self, cx: &mut Context<'_>) {
        while let Some(first) = self.receipts.front_mut() {
            let Poll::Ready(result) = Pin::new(first).poll(cx) else {
                break;
            };
            self.receipts.pop_front();
            if let Err(failed) = result {
                self.fail(*failed);
            }
        }
    }

    fn hurry(&mut self, producer: &common::Producer<R::Writer>) {
        if !self.hurried {
            producer.hurry();
            self.hurried = true;
        }
    }

    fn fail(&mut self, failed: SendError) {
        self.failed_bytes += cost(&failed.message);
        self.failed.push_back(failed);
    }

    fn take_failed(&mut self) -> Option<SendError> {
        let failed = self.failed.pop_front()?;
        self.failed_bytes -= cost(&failed.message);
        Some(failed)
    }

    /// The failures that nobody will ask for. Receipts that are not ready stand for themselves.
    fn unreported(&mut self) -> impl Iterator<Item = SendError> {
        if let Some(Waiting { message, room }) = self.waiting.take() {
            drop(room);
            let error = Error::new(ErrorKind::Closed, "the sink was dropped before there was room")
                .during(|| Doing::on_queue(Op::Enqueue, &message.queue));
            self.fail(SendError { message, error });
        }
        self.sweep();
        self.failed.drain(..)
    }
}

fn cost(message: &Message) -> usize {
    crate::requests::cost_of_message(message)
}

impl<R: Runtime> Drop for Producer<R> {
    fn drop(&mut self) {
        let clients = self.common.handle().clients();
        let mut any = false;
        for SendError { message, error } in self.sunk.unreported() {
            let queue = message.queue;
            clients.shared.push_event(Event::Unconfirmed { queue, error });
            any = true;
        }
        if any {
            clients.notify();
        }
    }
}

impl<R: Runtime> Default for Sunk<R> {
    fn default() -> Self {
        Self {
            waiting: None,
            receipts: VecDeque::new(),
            sweep_at: 0,
            failed: VecDeque::new(),
            failed_bytes: 0,
            hurried: true,
            closed: false,
        }
    }
}

impl<R: Runtime> fmt::Debug for Sunk<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            waiting,
            receipts,
            failed,
            closed,
            ..
        } = self;
        let under_way = receipts.len() + usize::from(waiting.is_some());
        f.debug_struct("Sunk")
            .field("under_way", &under_way)
            .field("failed", &failed.len())
            .field("closed", closed)
            .finish()
    }
}
