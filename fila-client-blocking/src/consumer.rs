//! Receiving and settling.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::client::{AckItem, Deliveries, Input, answer};
use fibp_proto::config::ConsumerSettings;
use fibp_proto::consumer::{Lease, LeaseGuard};
use fibp_proto::requests::Settle;
use fibp_proto::{Error, ErrorKind, QueueName, Received};

use crate::caller::{Caller, Pending};
use crate::connect::Stream;
use crate::wait::{wait, wait_until};
use fibp_proto::client::ConsumerCell;

/// Options of a [`Consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    caller: Caller,
    queue: QueueName,
    settings: ConsumerSettings,
}

impl ConsumerBuilder {
    pub(crate) fn new(caller: Caller, queue: &str) -> Self {
        Self {
            caller,
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
            caller,
            queue,
            settings,
        } = self;
        settings.validate()?;
        let (cell, opened) = caller.handle.clients().open_consumer(queue, settings);
        let consumer = Consumer {
            caller,
            deliveries: Deliveries::new(Arc::clone(&cell), settings.prefetch),
            cell,
        };
        wait(consumer.caller.handle.clients(), &consumer.cell, opened.opened())?;
        Ok(consumer)
    }
}

/// The deliveries of one queue: an iterator that blocks, on a connection of its own.
///
/// After a lost connection the consumer reconnects and subscribes again; both are [events](crate::Events), not items. An `Err`
/// item is final, and `None` follows. When the consumer is dropped its connection is closed, and the messages it
/// holds come back to the queue when their leases expire.
#[derive(Debug)]
pub struct Consumer {
    caller: Caller,
    cell: Arc<ConsumerCell<Stream>>,
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
        match self.next()? {
            Ok(first) => {
                let mut chunk = vec![first];
                chunk.extend(self.ready_chunk(max.max(1) - 1));
                Some(Ok(chunk))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The deliveries that were received, `max` at most, without waiting: perhaps none.
    pub fn ready_chunk(&mut self, max: usize) -> Vec<Delivery> {
        let Self { caller, deliveries, .. } = self;
        let delivery = |lease| Delivery {
            lease,
            caller: caller.clone(),
        };
        deliveries.take_many(Instant::now, max, delivery)
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
        let clients = self.caller.handle.clients();
        wait(clients, &self.cell, self.deliveries.drain(Instant::now()));
    }

    /// `None` at `until`; else what a stream would give.
    fn recv_until(&mut self, until: Option<Instant>) -> Option<Option<Result<Delivery, Error>>> {
        let Self {
            caller,
            cell,
            deliveries,
        } = self;
        // Most are there. The caller is cloned first, as a delivery is large and would be moved once more to wait for it.
        if deliveries.has_taken() {
            let caller = caller.clone();
            if let Some(lease) = deliveries.take() {
                return Some(Some(Ok(Delivery { lease, caller })));
            }
        }
        let next = wait_until(caller.handle.clients(), cell, Input::Push, until, |cx| {
            deliveries.poll(Instant::now, cx)
        })?;
        let delivery = |lease| Delivery {
            lease,
            caller: caller.clone(),
        };
        Some(next.map(|lease| lease.map(delivery)))
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
    caller: Caller,
}

#[expect(clippy::result_large_err, reason = "the error gives the delivery back")]
impl Delivery {
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
        let settle = self.lease.settle(nack);
        match self.caller.settle(settle) {
            Ok(()) => Ok(()),
            Err(error) => Err(AckError { delivery: self, error }),
        }
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
    pub fn ack_queued(self) -> AckReceipt {
        let (settle, _guard) = self.lease.into_settle(None);
        AckReceipt::new(self.caller, settle)
    }

    /// Nacks without waiting: the nack travels in the next frame of nacks, even if the receipt is dropped.
    pub fn nack_queued(self, why: &str) -> AckReceipt {
        let (settle, _guard) = self.lease.into_settle(Some(why));
        AckReceipt::new(self.caller, settle)
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
        let Self { lease, caller } = self;
        let ack = lease.settle(None);
        let acker = Acker {
            ack,
            _guard: lease.guard,
            caller,
        };
        (lease.received, acker)
    }
}

impl From<&Delivery> for Settle {
    /// For [`Client::ack_many`](crate::Client::ack_many), which settles many deliveries in one call.
    fn from(delivery: &Delivery) -> Self {
        delivery.lease.settle(None)
    }
}

impl From<&Delivery> for AckItem {
    /// For an ack after the delivery itself is gone.
    fn from(delivery: &Delivery) -> Self {
        Self::from(&delivery.lease)
    }
}

/// Settles the message of a [`Delivery`] that was taken apart.
#[derive(Debug)]
pub struct Acker {
    ack: Settle,
    _guard: Option<LeaseGuard>,
    caller: Caller,
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
        AckReceipt::new(self.caller, self.ack)
    }

    /// As [`Delivery::nack_queued`].
    pub fn nack_queued(self, why: &str) -> AckReceipt {
        let settle = self.ack.into_nack(why);
        AckReceipt::new(self.caller, settle)
    }

    fn settle(self, nack: Option<&str>) -> Result<(), AckError<Self>> {
        let ack = self.ack.clone();
        let settle = match nack {
            Some(why) => ack.into_nack(why),
            None => ack,
        };
        match self.caller.settle(settle) {
            Ok(()) => Ok(()),
            Err(error) => Err(AckError { delivery: self, error }),
        }
    }
}

/// Why an ack or a nack is not confirmed, with the delivery (or its acker), to try again with.
pub type AckError<D = Delivery> = fibp_proto::AckError<D>;

/// A queued ack or nack. Keeps the client alive; if it is dropped, the ack still goes.
#[derive(Debug)]
#[must_use = "without the receipt, a failed ack goes unnoticed"]
pub struct AckReceipt(Pending<answer::Settled>);

impl AckReceipt {
    fn new(caller: Caller, settle: Settle) -> Self {
        let main = caller.handle.main();
        let call = main.settle_queued(Instant::now(), settle, caller.timeout);
        Self(Pending::new(caller, call))
    }

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
