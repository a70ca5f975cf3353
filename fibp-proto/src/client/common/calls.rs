//! Calls.

use std::time::Duration;

use super::deliveries::Deliveries;
use super::pending::Pending;
use super::producer::Producer;
use crate::client::cell::{ConsumerCall, RequestCall};
use crate::client::clients::Handle;
use crate::client::waiter::answer;
use crate::client::watchers::{StateWatch, Subscription};
use crate::config::{ConsumerSettings, ProducerSettings};
use crate::error::Error;
use crate::message::{Message, QueueName};
use crate::requests::Settle;
use crate::typed::{self, TypedRequest};

impl<S: Send + Sync + 'static> Handle<S> {
    /// Makes a call and waits for its answer.
    ///
    /// # Errors
    ///
    /// The server's refusal, or why there is no answer.
    pub async fn call<O: TypedRequest>(&self, request: O) -> Result<O::Output, Error> {
        let call = self
            .main()
            .call(self.clients().now(), request.into_request(), self.timeout);
        O::output(*call.await?)
    }

    /// Sends a heartbeat; how long its answer took.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let sent = self.clients().now();
        self.call(typed::Heartbeat {}).await?;
        Ok(self.clients().now().saturating_duration_since(sent))
    }

    /// One message.
    pub fn enqueue(&self, message: Message) -> RequestCall<'_, S, answer::Enqueued> {
        self.main().enqueue(self.clients().now(), message, self.timeout)
    }

    /// Many messages.
    pub fn enqueue_many(&self, messages: Vec<Message>) -> RequestCall<'_, S, answer::EnqueuedMany> {
        self.main().enqueue_many(self.clients().now(), messages, self.timeout)
    }

    /// One ack or nack.
    pub fn settle(&self, settle: Settle) -> RequestCall<'_, S, answer::Settled> {
        self.main().settle(self.clients().now(), settle, self.timeout)
    }

    /// One ack or nack that goes out in the next frame, even if the receipt is dropped.
    pub fn settle_queued(self, settle: Settle) -> Pending<S, answer::Settled> {
        let call = self.main().settle_queued(self.clients().now(), settle, self.timeout);
        Pending::new(call.owned(), self)
    }

    /// Acks of many messages, whatever made them.
    pub fn ack_many(&self, acks: impl IntoIterator<Item: Into<Settle>>) -> RequestCall<'_, S, answer::SettledMany> {
        self.settle_many(acks.into_iter().map(|ack| ack.into().into_ack()).collect())
    }

    /// Nacks of many messages.
    pub fn nack_many(&self, nacks: impl IntoIterator<Item: Into<Settle>>) -> RequestCall<'_, S, answer::SettledMany> {
        self.settle_many(nacks.into_iter().map(Into::into).collect())
    }

    fn settle_many(&self, settles: Vec<Settle>) -> RequestCall<'_, S, answer::SettledMany> {
        self.main().settle_many(self.clients().now(), settles, self.timeout)
    }

    /// Makes a producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an option that cannot work.
    pub fn open_producer(self, settings: ProducerSettings) -> Result<Producer<S>, Error> {
        settings.validate()?;
        Ok(Producer::new(self, settings))
    }

    /// Opens a consumer, and the wait until the server has confirmed it. Dropping its deliveries closes it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an option that cannot work.
    pub fn open_consumer(
        self,
        queue: QueueName,
        settings: ConsumerSettings,
    ) -> Result<(Deliveries<S>, ConsumerCall<'static, S, answer::Opened>), Error> {
        settings.validate()?;
        // Nothing may fail from here on: the deliveries close what is opened now.
        let (cell, opening) = self.clients().open_consumer(queue, settings);
        Ok((Deliveries::new(self, cell, settings.prefetch), opening))
    }

    /// The state, then its changes.
    #[must_use]
    pub fn watch_state(&self) -> StateWatch {
        let clients = self.clients();
        StateWatch::new(&clients.shared, &clients.watchers)
    }

    /// The events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let clients = self.clients();
        Subscription::new(&clients.shared, &clients.watchers)
    }
}
