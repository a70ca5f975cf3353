//! Settling.

use super::pending::Pending;
use crate::client::ack_item::AckItem;
use crate::client::cell::RequestCall;
use crate::client::clients::Handle;
use crate::client::waiter::answer;
use crate::consumer::{Lease, LeaseGuard};
use crate::message::Received;
use crate::requests::Settle;

/// A lease, and what settles it.
#[derive(Debug)]
pub struct Delivery<S> {
    pub(super) lease: Lease,
    pub(super) handle: Handle<S>,
}

impl<S: Send + Sync + 'static> Delivery<S> {
    /// The message and its lease.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// What settles it.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Acks the message, or nacks it and says why.
    pub fn settle(&self, nack: Option<&str>) -> RequestCall<'_, S, answer::Settled> {
        self.handle.settle(self.lease.settle(nack))
    }

    /// As [`settle`](Self::settle), in the next frame, even if the receipt is dropped.
    #[inline]
    pub fn settle_queued(self, nack: Option<&str>) -> Pending<S, answer::Settled> {
        // Where credit is a window, the guard gives it back: not before the ack is on its way.
        let (settle, _guard) = self.lease.into_settle(nack);
        self.handle.settle_queued(settle)
    }

    /// The message, and what settles it.
    #[must_use]
    pub fn into_parts(self) -> (Received, Acker<S>) {
        let Self { lease, handle } = self;
        let ack = lease.settle(None);
        let acker = Acker {
            ack,
            guard: lease.guard,
            handle,
        };
        (lease.received, acker)
    }
}

impl<S> From<&Delivery<S>> for Settle {
    fn from(delivery: &Delivery<S>) -> Self {
        delivery.lease.settle(None)
    }
}

impl<S> From<&Delivery<S>> for AckItem {
    fn from(delivery: &Delivery<S>) -> Self {
        Self::from(&delivery.lease)
    }
}

/// Settles the message of a delivery that was taken apart.
#[derive(Debug)]
pub struct Acker<S> {
    ack: Settle,
    guard: Option<LeaseGuard>,
    handle: Handle<S>,
}

impl<S: Send + Sync + 'static> Acker<S> {
    /// The ack that it can send.
    #[must_use]
    pub fn as_ack(&self) -> &Settle {
        &self.ack
    }

    /// What settles the message.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// As [`Delivery::settle`].
    pub fn settle(&self, nack: Option<&str>) -> RequestCall<'_, S, answer::Settled> {
        self.handle.settle(as_said(self.ack.clone(), nack))
    }

    /// As [`Delivery::settle_queued`].
    pub fn settle_queued(self, nack: Option<&str>) -> Pending<S, answer::Settled> {
        let Self { ack, guard, handle } = self;
        let pending = handle.settle_queued(as_said(ack, nack));
        drop(guard);
        pending
    }
}

fn as_said(ack: Settle, nack: Option<&str>) -> Settle {
    match nack {
        Some(why) => ack.into_nack(why),
        None => ack,
    }
}
