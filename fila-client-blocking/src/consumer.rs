//! Receiving and settling.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fibp_proto::client::common::{self, Deliveries};
use fibp_proto::client::{AckItem, Input, answer};
use fibp_proto::config::ConsumerSettings;
use fibp_proto::requests::Settle;
use fibp_proto::{Error, ErrorKind, QueueName, Received};

use crate::connect::Stream;
use crate::pending::Pending;
use crate::wait::{Handle, wait, wait_on, wait_until};

/// Options of a [`Consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    handle: Handle,
    queue: QueueName,
    settings: ConsumerSettings,
}

impl ConsumerBuilder {
    pub(crate) fn new(handle: Handle, queue: &str) -> Self {
        Self {
            handle,
            queue: queue.into(),
            settings: ConsumerSettings::default(),
        }
    }

    fibp_proto::consumer_options!();

    /// Opens the consumer, on a connection of its own, and waits for the server's confirmation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for an option that cannot work, the server's refusal ([`ErrorKind::Forbidden`],
    /// [`ErrorKind::QueueNotFound`] where servers check), or why there is no connection within `connect_timeout`.
    pub fn open(self) -> Result<Consumer, Error> {
        let Self {
            handle,
            queue,
            settings,
        } = self;
        let (deliveries, opening) = handle.open_consumer(queue, settings)?;
        wait_on(deliveries.handle().clients(), deliveries.cell(), opening)?;
        Ok(Consumer { deliveries })
    }
}

/// The deliveries of one queue: an iterator that blocks, on a connection of its own.
///
/// After a lost connection the consumer reconnects and subscribes again; both are [events](crate::Events), not items. An `Err`
/// item is final, and `None` follows. When the consumer is dropped its connection is closed, and the messages it
/// holds come back to the queue when their leases expire.
#[derive(Debug)]
pub struct Consumer {
    deliveries: Deliveries<Stream>,
}

impl Consumer {
    /// The next delivery, if there is one within `timeout`; `None` if not.
    ///
    /// # Errors
    ///
    /// What ended the consumer; [`ErrorKind::Closed`] from then on, and after [`drain`](Self::drain).
    ///
    /// ```no_run
    /// # fn example(consumer: &mut fila_client_blocking::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(delivery) = consumer.recv_timeout(std::time::Duration::from_secs(1))? {
    ///     delivery.ack()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Delivery>, Error> {
        match self.recv_until(Instant::now().checked_add(timeout)) {
            Some(Some(delivery)) => delivery.map(Some),
            Some(None) => Err(Error::new(ErrorKind::Closed, "the consumer has ended")),
            None => Ok(None),
        }
    }

    /// The next delivery, if one waits already.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    pub fn try_recv(&mut self) -> Result<Option<Delivery>, Error> {
        self.recv_timeout(Duration::ZERO)
    }

    /// The deliveries that are there, `max` at most; waits until there is one at least. `None` after the consumer has ended.
    ///
    /// # Errors
    ///
    /// What ended the consumer.
    pub fn next_many(&mut self, max: usize) -> Option<Result<Vec<Delivery>, Error>> {
        self.wait(None, |deliveries, cx| deliveries.poll_many(max, cx, Delivery::new))
            .flatten()
    }

    /// The deliveries that were received, `max` at most, without waiting: perhaps none.
    pub fn ready_chunk(&mut self, max: usize) -> Vec<Delivery> {
        self.deliveries.take_many(max, Delivery::new)
    }

    /// Stops receiving: closes the consumer's connection. What was received is still delivered, then comes `None`.
    ///
    /// ```no_run
    /// # use fila_client_blocking::Consumer;
    /// # fn example(consumer: &mut Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.drain();
    /// for delivery in consumer {
    ///     delivery?.ack()?; // what was received before
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn drain(&mut self) {
        let deliveries = &self.deliveries;
        wait_on(deliveries.handle().clients(), deliveries.cell(), deliveries.drain());
    }

    /// `None` at `until`; else what a stream would give.
    fn recv_until(&mut self, until: Option<Instant>) -> Option<Option<Result<Delivery, Error>>> {
        // Most are there.
        if let Some(delivery) = self.deliveries.take() {
            return Some(Some(Ok(Delivery::new(delivery))));
        }
        self.wait(until, |deliveries, cx| deliveries.poll(cx).map_ok(Delivery::new))
    }

    fn wait<T>(
        &mut self,
        until: Option<Instant>,
        mut poll: impl FnMut(&mut Deliveries<Stream>, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let deliveries = &mut self.deliveries;
        let clients = Arc::clone(deliveries.handle().clients());
        let cell = Arc::clone(deliveries.cell());
        wait_until(&clients, &cell, Input::Push, until, |cx| poll(deliveries, cx))
    }
}

impl Iterator for Consumer {
    type Item = Result<Delivery, Error>;

    /// Waits for the next delivery; `None` after the consumer has ended.
    fn next(&mut self) -> Option<Self::Item> {
        self.recv_until(None).flatten()
    }
}

impl FusedIterator for Consumer {}

/// A message leased to this consumer. Settle it with [`ack`](Self::ack) or [`nack`](Self::nack) before
/// [`lease_deadline`](Self::lease_deadline); if it is dropped, it comes back to the queue when the lease expires.
#[derive(Debug)]
#[must_use = "a delivery that is not settled comes back"]
pub struct Delivery {
    common: common::Delivery<Stream>,
}

#[expect(clippy::result_large_err, reason = "the error gives the delivery back")]
impl Delivery {
    #[inline]
    fn new(common: common::Delivery<Stream>) -> Self {
        Self { common }
    }

    fibp_proto::delivery_accessors!();

    /// Acknowledges the message, and waits for the confirmation.
    ///
    /// # Errors
    ///
    /// Why it is not confirmed, with the delivery. [`ErrorKind::LeaseLost`] or [`ErrorKind::MessageNotFound`]: the lease
    /// has ended, and the message is or was delivered again.
    pub fn ack(self) -> Result<(), AckError> {
        self.settle(None)
    }

    /// Reports to the server that handling the message failed, and why: it is delivered again, its attempt count one higher, or
    /// goes to the dead-letter queue.
    ///
    /// # Errors
    ///
    /// As for [`ack`](Self::ack).
    ///
    /// ```no_run
    /// # use fila_client_blocking::Delivery;
    /// # fn example(delivery: Delivery) -> Result<(), Box<dyn std::error::Error>> {
    /// delivery.nack("the warehouse is closed")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn nack(self, why: &str) -> Result<(), AckError> {
        self.settle(Some(why))
    }

    fn settle(self, nack: Option<&str>) -> Result<(), AckError> {
        let result = wait(self.common.handle(), self.common.settle(nack));
        result.map_err(|error| AckError { delivery: self, error })
    }

    /// Acks without waiting: the ack travels in the next frame of acks, even if the receipt is dropped.
    ///
    /// ```no_run
    /// # use fila_client_blocking::Delivery;
    /// # fn example(delivery: Delivery) -> Result<(), Box<dyn std::error::Error>> {
    /// let receipt = delivery.ack_queued(); // the next delivery can be handled meanwhile
    /// receipt.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn ack_queued(self) -> AckReceipt {
        AckReceipt(Pending::new(self.common.settle_queued(None)))
    }

    /// Nacks without waiting: the nack travels in the next frame of nacks, even if the receipt is dropped.
    pub fn nack_queued(self, why: &str) -> AckReceipt {
        AckReceipt(Pending::new(self.common.settle_queued(Some(why))))
    }

    /// The message, and what settles it: for handing them to different threads.
    ///
    /// ```no_run
    /// # use fila_client_blocking::Delivery;
    /// # fn example(delivery: Delivery) -> Result<(), Box<dyn std::error::Error>> {
    /// let (received, acker) = delivery.into_parts();
    /// println!("{} bytes", received.payload.len());
    /// acker.ack()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_parts(self) -> (Received, Acker) {
        let (received, common) = self.common.into_parts();
        (received, Acker { common })
    }
}

impl From<&Delivery> for Settle {
    /// For [`Client::ack_many`](crate::Client::ack_many), which settles many deliveries in one call.
    fn from(delivery: &Delivery) -> Self {
        Self::from(&delivery.common)
    }
}

impl From<&Delivery> for AckItem {
    /// For an ack after the delivery itself is gone.
    fn from(delivery: &Delivery) -> Self {
        Self::from(&delivery.common)
    }
}

/// Settles the message of a [`Delivery`] that was taken apart.
#[derive(Debug)]
pub struct Acker {
    common: common::Acker<Stream>,
}

#[expect(clippy::result_large_err, reason = "the error gives the acker back")]
impl Acker {
    fibp_proto::acker_accessors!();

    /// As [`Delivery::ack`].
    ///
    /// # Errors
    ///
    /// As for [`Delivery::ack`], with this acker.
    pub fn ack(self) -> Result<(), AckError<Self>> {
        self.settle(None)
    }

    /// As [`Delivery::nack`].
    ///
    /// # Errors
    ///
    /// As for [`Delivery::nack`], with this acker.
    pub fn nack(self, why: &str) -> Result<(), AckError<Self>> {
        self.settle(Some(why))
    }

    /// As [`Delivery::ack_queued`].
    pub fn ack_queued(self) -> AckReceipt {
        AckReceipt(Pending::new(self.common.settle_queued(None)))
    }

    /// As [`Delivery::nack_queued`].
    pub fn nack_queued(self, why: &str) -> AckReceipt {
        AckReceipt(Pending::new(self.common.settle_queued(Some(why))))
    }

    fn settle(self, nack: Option<&str>) -> Result<(), AckError<Self>> {
        let result = wait(self.common.handle(), self.common.settle(nack));
        result.map_err(|error| AckError { delivery: self, error })
    }
}

/// Why an ack or a nack is not confirmed, with the delivery (or its acker), to try again with.
pub type AckError<D = Delivery> = fibp_proto::AckError<D>;

/// A queued ack or nack. Keeps the client alive; if it is dropped, the ack still goes.
#[derive(Debug)]
#[must_use = "without the receipt, a failed ack goes unnoticed"]
pub struct AckReceipt(Pending<answer::Settled>);

impl AckReceipt {
    /// Waits until the server has answered.
    ///
    /// # Errors
    ///
    /// Why the ack is not confirmed, as for [`Delivery::ack`].
    pub fn wait(self) -> Result<(), Error> {
        self.0.wait()
    }

    /// Waits until the server has answered, for `timeout` at most; `None` if it has not. The ack goes on.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<(), Error>> {
        self.0.wait_timeout(timeout)
    }

    /// The result, if the server has answered.
    pub fn try_wait(&mut self) -> Option<Result<(), Error>> {
        self.0.wait_timeout(Duration::ZERO)
    }
}
