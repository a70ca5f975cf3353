//! Sending without waiting for each confirmation.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::runtime::{HandleOf, Runtime};
use crate::client::cell::RequestCall;
use crate::client::common::{self, Pending};
use crate::client::waiter::answer;
use crate::config::ProducerSettings;
use crate::error::{Error, ErrorKind, SendError};
use crate::message::{Message, MessageId};

/// Options of a [`Producer`]. The defaults are those of the client's configuration.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder<R: Runtime> {
    handle: HandleOf<R>,
    settings: ProducerSettings,
}

impl<R: Runtime> ProducerBuilder<R> {
    pub(super) fn new(handle: HandleOf<R>) -> Self {
        let settings = handle.clients().shared.config().settings().producer;
        Self { handle, settings }
    }

    crate::producer_options!();

    /// Makes the producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for options that contradict each other.
    pub fn build(self) -> Result<Producer<R>, Error> {
        Ok(Producer {
            common: self.handle.open_producer(self.settings)?,
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
    pub(super) common: common::Producer<R::Writer>,
    /// What this handle took as a sink.
    #[cfg(feature = "sink")]
    pub(super) sunk: super::sink::Sunk<R>,
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
        match self.try_send(message) {
            Err(refused) if refused.kind() == ErrorKind::Overloaded => {
                let call = self.common.send_when_room(refused.message).await?;
                Ok(self.receipt(call))
            }
            done => done,
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
        let call = self.common.try_send(message)?;
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
        self.common.flush().await
    }

    fn receipt(&self, call: RequestCall<'_, R::Writer, answer::Enqueued>) -> Receipt<R> {
        Receipt {
            call: self.common.receipt(call),
        }
    }
}

// What one handle took as a sink is its own.
impl<R: Runtime> Clone for Producer<R> {
    fn clone(&self) -> Self {
        Self {
            common: self.common.clone(),
            #[cfg(feature = "sink")]
            sunk: super::sink::Sunk::default(),
        }
    }
}

/// A message under way: ready when the broker has answered. Keeps the client alive; if it is dropped, the message
/// still goes, and its failure is an event.
#[derive(Debug)]
#[must_use = "without the receipt, a failed message is only an event"]
pub struct Receipt<R: Runtime> {
    call: Pending<R::Writer, answer::Enqueued>,
}

impl<R: Runtime> Future for Receipt<R> {
    /// The message's id, or why it is not confirmed, with the message.
    type Output = Result<MessageId, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx).map_err(|failed| *failed)
    }
}
