//! Sending without waiting for each confirmation.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::config::{Batching, OnFull, ProducerSettings};
use fibp_proto::link::{CallId, ProducerId};
use fibp_proto::{Error, ErrorKind, Message, MessageId, SendError};

use crate::Client;
use crate::call::Call;
use crate::waiter::Ticket;

/// Options of a [`Producer`]. The defaults are those of the client's configuration.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    settings: ProducerSettings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let settings = client.handle.links.shared.config().settings().producer;
        Self { client, settings }
    }

    /// When messages share a frame.
    pub fn batching(mut self, batching: Batching) -> Self {
        self.settings = self.settings.batching(batching);
        self
    }

    /// The most messages in one frame.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.settings = self.settings.max_messages(messages);
        self
    }

    /// The most bytes of messages in one frame; a single larger message has a frame of its own.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings = self.settings.max_bytes(bytes);
        self
    }

    /// The most bytes of messages that wait unconfirmed.
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.settings = self.settings.buffer(bytes);
        self
    }

    /// What [`Producer::send`] does when the buffer is full.
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.settings = self.settings.on_full(on_full);
        self
    }

    /// Makes the producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for an option that cannot work.
    pub fn build(self) -> Result<Producer, Error> {
        let Self { client, settings } = self;
        settings.validate()?;
        let id = client.main().lock().link.open_producer(settings);
        Ok(Producer(Arc::new(Inner { client, id })))
    }
}

/// Sends messages through a buffer of its own, in batches. Clones share the buffer.
///
/// When the last clone is dropped, what the buffer holds is still sent.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    client: Client,
    id: ProducerId,
}

impl Producer {
    /// Hands over a message, waiting for room in the buffer only. The receipt tells when it is confirmed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when the buffer is full and [`OnFull::Fail`] is set, [`ErrorKind::Timeout`] if
    /// there is no room in time, [`ErrorKind::Closed`], and [`ErrorKind::TooLarge`] or
    /// [`ErrorKind::InvalidArgument`] for a message that cannot be sent; with the message.
    pub fn send(&self, message: Message) -> Result<Receipt, SendError> {
        // Nearly always there is room, and one place for a reply is enough.
        let message = match self.try_send(message) {
            Err(refused) if refused.kind() == ErrorKind::Overloaded => refused.message,
            done => return done,
        };
        let Inner { client, id } = &*self.0;
        let main = client.main();
        let mut inner = main.lock();
        let (admitted, admission) = inner.pair();
        let (receipt, confirmation) = inner.pair();
        let now = Instant::now();
        let call = inner.link.send(now, *id, message, client.timeout, admitted, receipt);
        main.finish(inner, &admission).admitted()?;
        Ok(self.receipt(call, confirmation))
    }

    /// Hands over a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`ErrorKind::Overloaded`] whenever the buffer is full.
    pub fn try_send(&self, message: Message) -> Result<Receipt, SendError> {
        let Inner { client, id } = &*self.0;
        let (call, confirmation) = client
            .main()
            .post(|link, now, token| link.try_send(now, *id, message, client.timeout, token));
        match call {
            Ok(call) => Ok(self.receipt(call, confirmation)),
            Err((error, _token)) => Err(error),
        }
    }

    /// Sends what was handed over so far without lingering, and waits until all of it is confirmed or failed.
    ///
    /// # Errors
    ///
    /// The first failure among these messages.
    pub fn flush(&self) -> Result<(), Error> {
        let Inner { client, id } = &*self.0;
        client
            .ask(|link, now, timeout, token| link.flush(now, *id, timeout, token))
            .flushed()
    }

    fn receipt(&self, call: CallId, ticket: Ticket) -> Receipt {
        let client = self.0.client.clone();
        Receipt(Call::new(client, call, ticket, |answer| {
            answer.enqueued().map_err(Error::from)
        }))
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let main = self.client.main();
        let mut inner = main.lock();
        inner.link.close_producer(self.id);
        main.leave_to_driver(inner);
    }
}

/// A message under way. Keeps the client alive; if it is dropped, the message still goes, and its failure is an
/// event.
#[derive(Debug)]
#[must_use = "without the receipt, a failed message is only an event"]
pub struct Receipt(Call<Result<MessageId, Error>>);

impl Receipt {
    /// Waits until the broker has answered.
    ///
    /// # Errors
    ///
    /// Why the message is not confirmed.
    pub fn wait(self) -> Result<MessageId, Error> {
        self.0.wait()
    }

    /// Waits until the broker has answered, for `timeout` at most; `None` if it has not. The message goes on.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<MessageId, Error>> {
        self.0.wait_timeout(timeout)
    }

    /// The result, if the broker has answered.
    pub fn try_wait(&mut self) -> Option<Result<MessageId, Error>> {
        self.0.try_wait()
    }
}
