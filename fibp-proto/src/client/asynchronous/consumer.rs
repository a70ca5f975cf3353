//! Receiving.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use super::delivery::Delivery;
use super::runtime::{HandleOf, Runtime};
use crate::client::common::Deliveries;
use crate::config::ConsumerSettings;
use crate::error::Error;
use crate::message::QueueName;

/// Options of a [`Consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder<R: Runtime> {
    handle: HandleOf<R>,
    queue: QueueName,
    settings: ConsumerSettings,
}

impl<R: Runtime> ConsumerBuilder<R> {
    pub(super) fn new(handle: HandleOf<R>, queue: &str) -> Self {
        Self {
            handle,
            queue: queue.into(),
            settings: ConsumerSettings::default(),
        }
    }

    crate::consumer_options!();

    /// Opens the consumer, on a connection of its own, and waits for the server's confirmation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an option that cannot work, the server's refusal ([`ErrorKind::Forbidden`](crate::ErrorKind::Forbidden), [`ErrorKind::QueueNotFound`](crate::ErrorKind::QueueNotFound) where servers check), or why there
    /// is no connection within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the consumer's connection. Messages it was sent already come back when their leases
    /// expire.
    pub async fn open(self) -> Result<Consumer<R>, Error> {
        let Self {
            handle,
            queue,
            settings,
        } = self;
        let (deliveries, opening) = handle.open_consumer(queue, settings)?;
        // Held while it waits: dropped with the future, it closes the connection.
        let consumer = Consumer { deliveries };
        opening.await?;
        Ok(consumer)
    }
}

/// The deliveries of one queue: a stream, on a connection of its own.
///
/// After a lost connection the consumer reconnects and subscribes again; both are [events](super::Events), not items. An `Err` item
/// is final, and `None` follows. When the consumer is dropped its connection is closed, and the messages it holds
/// come back to the queue when their leases expire.
#[derive(Debug)]
pub struct Consumer<R: Runtime> {
    deliveries: Deliveries<R::Writer>,
}

impl<R: Runtime> Consumer<R> {
    /// The next delivery; `None` after the consumer has ended.
    ///
    /// # Errors
    ///
    /// What ended the consumer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// ```
    /// # use fibp_proto::client::{Consumer, Runtime};
    /// # async fn example<R: Runtime>(consumer: &mut Consumer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(delivery) = consumer.next().await {
    ///     let delivery = delivery?;
    ///     println!("{:?}", delivery.payload());
    ///     delivery.ack().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Delivery<R>, Error>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// The deliveries that are there, `max` at most; waits until there is one at least. `None` after the consumer has ended.
    ///
    /// # Errors
    ///
    /// What ended the consumer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next_many(&mut self, max: usize) -> Option<Result<Vec<Delivery<R>>, Error>> {
        poll_fn(|cx| self.deliveries.poll_many(max, cx, Delivery::new)).await
    }

    /// The deliveries that are there, `max` at most, without waiting: perhaps none.
    pub fn ready_chunk(&mut self, max: usize) -> Vec<Delivery<R>> {
        self.deliveries.take_many(max, Delivery::new)
    }

    /// Stops receiving: closes the consumer's connection. What was received is still delivered, then comes `None`.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the consumer stops even if the future is dropped.
    ///
    /// ```
    /// # use fibp_proto::client::{Consumer, Runtime};
    /// # async fn example<R: Runtime>(consumer: &mut Consumer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.drain().await;
    /// while let Some(delivery) = consumer.next().await {
    ///     delivery?.ack().await?; // what was received before
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain(&mut self) {
        self.deliveries.drain().await;
    }

    #[inline]
    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery<R>, Error>>> {
        // Most are there, and a delivery is large: waiting for it would move it once more.
        if let Some(delivery) = self.deliveries.take() {
            return Poll::Ready(Some(Ok(Delivery::new(delivery))));
        }
        self.deliveries.poll(cx).map_ok(Delivery::new)
    }
}

impl<R: Runtime> Stream for Consumer<R> {
    type Item = Result<Delivery<R>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

impl<R: Runtime> FusedStream for Consumer<R> {
    fn is_terminated(&self) -> bool {
        self.deliveries.is_terminated()
    }
}
