//! Sending without waiting for each confirmation.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::caller::Caller;
use super::runtime::Runtime;
use crate::client::cell::RequestCall;
use crate::client::waiter::answer;
use crate::config::ProducerSettings;
use crate::error::{Error, ErrorKind, SendError};
use crate::message::{Message, MessageId};
use crate::requests::ProducerId;

/// Options of a [`Producer`]. The defaults are those of the client's configuration.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder<R: Runtime> {
    caller: Caller<R>,
    settings: ProducerSettings,
}

impl<R: Runtime> ProducerBuilder<R> {
    pub(super) fn new(caller: Caller<R>) -> Self {
        let settings = caller.handle.clients().shared.config().settings().producer;
        Self { caller, settings }
    }

    crate::producer_options!();

    /// Makes the producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for options that contradict each other.
    pub fn build(self) -> Result<Producer<R>, Error> {
        let Self { caller, settings } = self;
        settings.validate()?;
        let id = caller.handle.main().with(|requests| requests.open_producer(settings));
        Ok(Producer {
            inner: Arc::new(Inner { caller, id, settings }),
            #[cfg(feature = "sink")]
            sunk: super::sink::Sunk::default(),
        })
    }
}

/// Sends messages through a buffer of its own, in batches. Clones share the buffer.
///
/// When the last clone is dropped, what the buffer holds is still sent.
///
/// With the feature `sink` it is a `Sink<Message>` of the crate `futures-sink`, too.
#[derive(Debug)]
pub struct Producer<R: Runtime> {
    pub(super) inner: Arc<Inner<R>>,
    /// What this handle took as a sink.
    #[cfg(feature = "sink")]
    pub(super) sunk: super::sink::Sunk<R>,
}

#[derive(Debug)]
pub(super) struct Inner<R: Runtime> {
    pub(super) caller: Caller<R>,
    pub(super) id: ProducerId,
    #[cfg_attr(not(feature = "sink"), expect(dead_code, reason = "sinks ask"))]
    pub(super) settings: ProducerSettings,
}

impl<R: Runtime> Producer<R> {
    /// Hands over a message, waiting for room in the buffer only. The receipt is ready when it is confirmed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when the buffer is full and [`OnFull::Fail`](crate::config::OnFull::Fail) is set, [`ErrorKind::Timeout`] if
    /// there is no room in time, [`ErrorKind::Closed`], and [`ErrorKind::TooLarge`] or
    /// [`ErrorKind::InvalidArgument`] for a message that cannot be sent; with the message.
    ///
    /// # Cancel safety
    ///
    /// A message whose future is dropped before it is ready is not sent.
    ///
    /// ```
    /// # use fibp_proto::client::{Producer, Runtime};
    /// # use fibp_proto::{Message};
    /// # async fn example<R: Runtime>(producer: &Producer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let receipt = producer.send(Message::new("orders", "two apples")).await?;
    /// println!("stored as {}", receipt.await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, message: Message) -> Result<Receipt<R>, SendError> {
        // Nearly always there is room, and one waiter is enough.
        let message = match self.try_send(message) {
            Err(refused) if refused.kind() == ErrorKind::Overloaded => refused.message,
            done => return done,
        };
        let Inner { caller, id, .. } = &*self.inner;
        let main = caller.handle.main();
        let room = main.reserve(R::now(), *id, &message, caller.timeout);
        match room.room().await {
            Ok(room) => Ok(self.receipt(main.send_reserved(R::now(), *id, room, message)?)),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Hands over a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`ErrorKind::Overloaded`] whenever the buffer is full.
    ///
    /// ```
    /// # use fibp_proto::client::{Producer, Runtime};
    /// # use fibp_proto::{ErrorKind, Message};
    /// # async fn example<R: Runtime>(producer: &Producer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// match producer.try_send(Message::new("orders", "two apples")) {
    ///     Ok(receipt) => drop(receipt), // a failure is an event
    ///     Err(failed) if failed.error.kind() == ErrorKind::Overloaded => println!("the buffer is full"),
    ///     Err(failed) => return Err(failed.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, message: Message) -> Result<Receipt<R>, SendError> {
        let Inner { caller, id, .. } = &*self.inner;
        let main = caller.handle.main();
        let call = main.try_send(R::now(), *id, message, caller.timeout)?;
        Ok(self.receipt(call))
    }

    /// Sends what was handed over so far without lingering, and waits until all of it is confirmed or failed.
    ///
    /// # Errors
    ///
    /// The first failure among these messages, and those before that no other flush reported.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting; the messages still go.
    ///
    /// ```
    /// # use fibp_proto::client::{Producer, Runtime};
    /// # use fibp_proto::{Message};
    /// # async fn example<R: Runtime>(producer: &Producer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// for n in 0..100 {
    ///     drop(producer.send(Message::new("orders", format!("order {n}"))).await?);
    /// }
    /// producer.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&self) -> Result<(), Error> {
        let Inner { caller, id, .. } = &*self.inner;
        caller.handle.main().flush(R::now(), *id, caller.timeout).await
    }

    fn receipt(&self, call: RequestCall<R::Writer, answer::Enqueued>) -> Receipt<R> {
        Receipt {
            call,
            _caller: self.inner.caller.clone(),
        }
    }
}

// What one handle took as a sink is its own.
impl<R: Runtime> Clone for Producer<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            #[cfg(feature = "sink")]
            sunk: super::sink::Sunk::default(),
        }
    }
}

impl<R: Runtime> Drop for Inner<R> {
    fn drop(&mut self) {
        self.caller
            .handle
            .main()
            .with(|requests| requests.close_producer(self.id));
    }
}

/// A message under way: ready when the broker has answered. Keeps the client alive; if it is dropped, the message
/// still goes, and its failure is an event.
#[derive(Debug)]
#[must_use = "without the receipt, a failed message is only an event"]
pub struct Receipt<R: Runtime> {
    call: RequestCall<R::Writer, answer::Enqueued>,
    _caller: Caller<R>,
}

impl<R: Runtime> Future for Receipt<R> {
    /// The message's id, or why it is not confirmed, with the message.
    type Output = Result<MessageId, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx).map_err(|failed| *failed)
    }
}
