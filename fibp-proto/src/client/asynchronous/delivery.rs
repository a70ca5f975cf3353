//! Settling.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::runtime::Runtime;
use crate::client::ack_item::AckItem;
use crate::client::common::{self, Pending};
use crate::client::waiter::answer;
use crate::error::{AckError, Error};
use crate::message::Received;
use crate::requests::Settle;

/// A message leased to this consumer. Settle it with [`ack`](Self::ack) or [`nack`](Self::nack) before
/// [`lease_deadline`](Self::lease_deadline); if it is dropped, it comes back to the queue when the lease expires.
#[derive(Debug)]
#[must_use = "a delivery that is not settled comes back"]
pub struct Delivery<R: Runtime> {
    common: common::Delivery<R::Writer>,
}

impl<R: Runtime> Delivery<R> {
    #[inline]
    pub(super) fn new(common: common::Delivery<R::Writer>) -> Self {
        Self { common }
    }

    crate::delivery_accessors!();

    /// Acknowledges the message, and waits for the confirmation.
    ///
    /// # Errors
    ///
    /// Why it is not confirmed, with the delivery. [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) or [`ErrorKind::MessageNotFound`](crate::ErrorKind::MessageNotFound): the lease
    /// has ended, and the message is or was delivered again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws an ack that is not sent yet, and drops the delivery.
    pub async fn ack(self) -> Result<(), AckError<Self>> {
        self.settle(None).await
    }

    /// Reports to the server that handling the message failed, and why: it is delivered again, its attempt count one higher, or
    /// goes to the dead-letter queue.
    ///
    /// # Errors
    ///
    /// As for [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// As for [`ack`](Self::ack).
    ///
    /// ```
    /// # use fibp_proto::client::{Delivery, Runtime};
    /// # async fn example<R: Runtime>(delivery: Delivery<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// delivery.nack("the warehouse is closed").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn nack(self, why: &str) -> Result<(), AckError<Self>> {
        self.settle(Some(why)).await
    }

    async fn settle(self, nack: Option<&str>) -> Result<(), AckError<Self>> {
        let result = self.common.settle(nack).await;
        result.map_err(|error| AckError { delivery: self, error })
    }

    /// Acks without waiting: the ack travels in the next frame of acks, even if the receipt is dropped.
    ///
    /// ```
    /// # use fibp_proto::client::{Delivery, Runtime};
    /// # async fn example<R: Runtime>(delivery: Delivery<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let receipt = delivery.ack_queued(); // the next delivery can be handled meanwhile
    /// receipt.await?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn ack_queued(self) -> AckReceipt<R> {
        AckReceipt {
            call: self.common.settle_queued(None),
        }
    }

    /// Nacks without waiting: the nack travels in the next frame of nacks, even if the receipt is dropped.
    pub fn nack_queued(self, why: &str) -> AckReceipt<R> {
        AckReceipt {
            call: self.common.settle_queued(Some(why)),
        }
    }

    /// The message, and what settles it: for handing them to different tasks.
    ///
    /// ```
    /// # use fibp_proto::client::{Delivery, Runtime};
    /// # async fn example<R: Runtime>(delivery: Delivery<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let (received, acker) = delivery.into_parts();
    /// println!("{} bytes", received.payload.len());
    /// acker.ack().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_parts(self) -> (Received, Acker<R>) {
        let (received, common) = self.common.into_parts();
        (received, Acker { common })
    }
}

impl<R: Runtime> From<&Delivery<R>> for Settle {
    /// For [`Client::ack_many`](super::Client::ack_many), which settles many deliveries in one call.
    fn from(delivery: &Delivery<R>) -> Self {
        Self::from(&delivery.common)
    }
}

impl<R: Runtime> From<&Delivery<R>> for AckItem {
    /// For an ack after the delivery itself is gone.
    fn from(delivery: &Delivery<R>) -> Self {
        Self::from(&delivery.common)
    }
}

/// Settles the message of a [`Delivery`] that was taken apart.
#[derive(Debug)]
pub struct Acker<R: Runtime> {
    common: common::Acker<R::Writer>,
}

impl<R: Runtime> Acker<R> {
    crate::acker_accessors!();

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

    /// As [`Delivery::ack_queued`].
    pub fn ack_queued(self) -> AckReceipt<R> {
        AckReceipt {
            call: self.common.settle_queued(None),
        }
    }

    /// As [`Delivery::nack_queued`].
    pub fn nack_queued(self, why: &str) -> AckReceipt<R> {
        AckReceipt {
            call: self.common.settle_queued(Some(why)),
        }
    }

    async fn settle(self, nack: Option<&str>) -> Result<(), AckError<Self>> {
        let result = self.common.settle(nack).await;
        result.map_err(|error| AckError { delivery: self, error })
    }
}

/// A queued ack or nack: ready when the server has answered. Keeps the client alive; if it is dropped, the ack still goes.
#[derive(Debug)]
#[must_use = "without the receipt, a failed ack goes unnoticed"]
pub struct AckReceipt<R: Runtime> {
    call: Pending<R::Writer, answer::Settled>,
}

impl<R: Runtime> Future for AckReceipt<R> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx)
    }
}
