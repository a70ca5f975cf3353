//! Receiving and settling.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use fibp_proto::client::{Call, Deliveries, settled};
use fibp_proto::config::ConsumerSettings;
use fibp_proto::link::{Lease, Settle};
use fibp_proto::{Error, QueueName, Received};
use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::client::Client;
use crate::driver::Socket;

/// Options of a [`Consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    client: Client,
    queue: QueueName,
    settings: ConsumerSettings,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: &str) -> Self {
        Self {
            client,
            queue: queue.into(),
            settings: ConsumerSettings::default(),
        }
    }

    fibp_proto::consumer_options!();

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
    pub async fn open(self) -> Result<Consumer, Error> {
        let Self {
            client,
            queue,
            settings,
        } = self;
        settings.validate()?;
        if settings.verify_queue {
            client.admin().queue_stats(&queue).await?;
        }
        let (cell, wait) = client.handle.clients().open_consumer(queue, settings);
        let consumer = Consumer {
            client,
            deliveries: Deliveries::new(cell, settings.prefetch),
        };
        wait.opened().await?;
        Ok(consumer)
    }
}

/// The deliveries of one queue: a stream, on a connection of its own.
///
/// A lost connection is mended and the subscription renewed; both are [events](crate::Events), not items. An `Err` item
/// is final, and `None` follows. When the consumer is dropped its connection is closed, and the messages it holds
/// come back to the queue when their leases expire.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    deliveries: Deliveries<Socket>,
}

impl Consumer {
    /// The next delivery; `None` after the consumer has ended.
    ///
    /// # Errors
    ///
    /// What ended the consumer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// Stops receiving: closes the consumer's connection. What was received is still delivered, then comes `None`.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the consumer stops even if the future is dropped.
    pub async fn drain(&mut self) {
        self.deliveries.drain(Instant::now()).await;
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, Error>>> {
        let Self { client, deliveries } = self;
        deliveries.poll(Instant::now, cx).map_ok(|lease| Delivery {
            lease,
            client: client.clone(),
        })
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

impl FusedStream for Consumer {
    fn is_terminated(&self) -> bool {
        self.deliveries.is_terminated()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.deliveries.abort(Instant::now());
    }
}

/// A message leased to this consumer. Settle it with [`ack`](Self::ack) or [`nack`](Self::nack) before
/// [`lease_deadline`](Self::lease_deadline); if it is dropped, it comes back to the queue when the lease expires.
#[derive(Debug)]
#[must_use = "a delivery that is not settled comes back"]
pub struct Delivery {
    lease: Lease,
    client: Client,
}

impl Delivery {
    fibp_proto::delivery_accessors!();

    /// Tells the server that the message is done, and waits for the confirmation.
    ///
    /// # Errors
    ///
    /// Why it is not confirmed, with the delivery. [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) or [`ErrorKind::MessageNotFound`](crate::ErrorKind::MessageNotFound): the lease
    /// has ended, and the message is or was delivered again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws an ack that is not sent yet, and drops the delivery.
    pub async fn ack(self) -> Result<(), AckError> {
        self.settle(None).await
    }

    /// Tells the server that handling the message failed, and why: it is delivered again, its attempt count one higher, or
    /// goes to the dead-letter queue.
    ///
    /// # Errors
    ///
    /// As for [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack).
    pub async fn nack(self, why: &str) -> Result<(), AckError> {
        self.settle(Some(why)).await
    }

    async fn settle(self, nack: Option<&str>) -> Result<(), AckError> {
        let settle = self.lease.settle(nack);
        match self.client.settle(settle).await {
            Ok(()) => Ok(()),
            Err(error) => Err(AckError { delivery: self, error }),
        }
    }

    /// Acks without waiting: the ack travels in the next frame of acks, even if the receipt is dropped.
    pub fn ack_queued(self) -> AckReceipt {
        let settle = self.lease.settle(None);
        let (now, timeout) = (Instant::now(), self.client.timeout);
        let main = self.client.handle.main();
        let call = main.queue(|link, waiter| link.settle(now, settle, timeout, waiter));
        AckReceipt {
            call: call.detached(),
            _client: self.client,
        }
    }

    /// The message, and what settles it: for handing them to different tasks.
    pub fn into_parts(self) -> (Received, Acker) {
        let Self { lease, client } = self;
        let ack = lease.settle(None);
        let acker = Acker { ack, client };
        (lease.received, acker)
    }
}

/// Settles the message of a [`Delivery`] that was taken apart.
#[derive(Debug)]
pub struct Acker {
    ack: Settle,
    client: Client,
}

impl Acker {
    /// As [`Delivery::ack`].
    ///
    /// # Errors
    ///
    /// As for [`Delivery::ack`], with this acker.
    ///
    /// # Cancel safety
    ///
    /// As for [`Delivery::ack`].
    pub async fn ack(self) -> Result<(), AckError<Self>> {
        self.settle(None).await
    }

    /// As [`Delivery::nack`].
    ///
    /// # Errors
    ///
    /// As for [`Delivery::nack`], with this acker.
    ///
    /// # Cancel safety
    ///
    /// As for [`Delivery::nack`].
    pub async fn nack(self, why: &str) -> Result<(), AckError<Self>> {
        self.settle(Some(why)).await
    }

    async fn settle(self, nack: Option<&str>) -> Result<(), AckError<Self>> {
        let mut settle = self.ack.clone();
        settle.nack = nack.map(str::to_owned);
        match self.client.settle(settle).await {
            Ok(()) => Ok(()),
            Err(error) => Err(AckError { delivery: self, error }),
        }
    }
}

/// Why an ack or a nack is not confirmed, with the delivery (or its acker), to try again with.
pub type AckError<D = Delivery> = fibp_proto::AckError<D>;

/// A queued ack: ready when the server has answered. Keeps the client alive; if it is dropped, the ack still goes.
#[derive(Debug)]
#[must_use = "without the receipt, nobody learns of a failed ack"]
pub struct AckReceipt {
    call: Call<Socket>,
    _client: Client,
}

impl Future for AckReceipt {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx).map(settled)
    }
}
