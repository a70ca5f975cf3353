//! Sending without waiting for each confirmation.

use std::time::Duration;

use fibp_proto::client::{RequestCall, answer, common};
use fibp_proto::config::ProducerSettings;
use fibp_proto::{Error, ErrorKind, Message, MessageId, SendError};

use crate::connect::Stream;
use crate::pending::Pending;
use crate::wait::{Handle, wait};

/// Options of a [`Producer`]. The defaults are those of the client's configuration.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    handle: Handle,
    settings: ProducerSettings,
}

impl ProducerBuilder {
    pub(crate) fn new(handle: Handle) -> Self {
        let settings = handle.clients().shared.config().settings().producer;
        Self { handle, settings }
    }

    fibp_proto::producer_options!();

    /// Makes the producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for an option that cannot work.
    pub fn build(self) -> Result<Producer, Error> {
        self.handle.open_producer(self.settings).map(Producer)
    }
}

/// Sends messages through a buffer of its own, in batches. Clones share the buffer.
///
/// When the last clone is dropped, what the buffer holds is still sent.
#[derive(Debug, Clone)]
pub struct Producer(common::Producer<Stream>);

impl Producer {
    /// Hands over a message, waiting for room in the buffer only. The receipt is ready when it is confirmed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when the buffer is full and [`OnFull::Fail`](crate::OnFull::Fail) is set, [`ErrorKind::Timeout`] if
    /// there is no room in time, [`ErrorKind::Closed`], and [`ErrorKind::TooLarge`] or
    /// [`ErrorKind::InvalidArgument`] for a message that cannot be sent; with the message.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Producer, Message};
    /// # fn example(producer: &Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// let receipt = producer.send(Message::new("orders", "two apples"))?;
    /// println!("stored as {}", receipt.wait()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(&self, message: Message) -> Result<Receipt, SendError> {
        match self.try_send(message) {
            Err(refused) if refused.kind() == ErrorKind::Overloaded => {
                let sent = self.0.send_when_room(refused.message);
                Ok(self.receipt(wait(self.0.handle(), sent)?))
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
    /// ```no_run
    /// # use fila_client_blocking::{Producer, ErrorKind, Message};
    /// # fn example(producer: &Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// match producer.try_send(Message::new("orders", "two apples")) {
    ///     Ok(receipt) => drop(receipt), // a failure is an event
    ///     Err(failed) if failed.error.kind() == ErrorKind::Overloaded => println!("the buffer is full"),
    ///     Err(failed) => return Err(failed.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, message: Message) -> Result<Receipt, SendError> {
        Ok(self.receipt(self.0.try_send(message)?))
    }

    /// Sends what was handed over so far without lingering, and waits until all of it is confirmed or failed.
    ///
    /// # Errors
    ///
    /// The first failure among these messages, and those before that no other flush reported.
    ///
    /// ```no_run
    /// # use fila_client_blocking::{Producer, Message};
    /// # fn example(producer: &Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// for n in 0..100 {
    ///     drop(producer.send(Message::new("orders", format!("order {n}")))?);
    /// }
    /// producer.flush()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn flush(&self) -> Result<(), Error> {
        wait(self.0.handle(), self.0.flush())
    }

    fn receipt(&self, call: RequestCall<'_, Stream, answer::Enqueued>) -> Receipt {
        Receipt(Pending::new(self.0.receipt(call)))
    }
}

/// A message under way. Keeps the client alive; if it is dropped, the message still goes, and its failure is an
/// event.
#[derive(Debug)]
#[must_use = "without the receipt, a failed message is only an event"]
pub struct Receipt(Pending<answer::Enqueued>);

impl Receipt {
    /// Waits until the broker has answered.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed, with the message.
    pub fn wait(self) -> Result<MessageId, SendError> {
        self.0.wait().map_err(|failed| *failed)
    }

    /// Waits until the broker has answered, for `timeout` at most; `None` if it has not. The message goes on.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<MessageId, SendError>> {
        let result = self.0.wait_timeout(timeout)?;
        Some(result.map_err(|failed| *failed))
    }

    /// The result, if the broker has answered.
    pub fn try_wait(&mut self) -> Option<Result<MessageId, SendError>> {
        self.wait_timeout(Duration::ZERO)
    }
}
