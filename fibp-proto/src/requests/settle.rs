//! Acks and nacks.

use std::time::Instant;

use super::work::BatchKind;
use crate::consumer::{Lease, LeaseGuard};
use crate::error::Doing;
use crate::message::{MessageId, QueueName};
use crate::request::{AckItem, NackItem};

/// An ack or a nack.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub id: MessageId,
    /// `None` acks; `Some(why)` nacks.
    pub nack: Option<String>,
    /// When the lease ends, if known: to notice late acks.
    pub lease_deadline: Option<Instant>,
}

impl Settle {
    /// An ack.
    pub fn ack(queue: impl Into<QueueName>, id: &MessageId) -> Self {
        Self {
            queue: queue.into(),
            id: id.clone(),
            nack: None,
            lease_deadline: None,
        }
    }

    /// A nack, and why.
    pub fn nack(queue: impl Into<QueueName>, id: &MessageId, why: impl Into<String>) -> Self {
        Self {
            nack: Some(why.into()),
            ..Self::ack(queue, id)
        }
    }

    /// Which frames it can share.
    pub(super) fn kind(&self) -> BatchKind {
        match self.nack {
            None => BatchKind::Ack,
            Some(_) => BatchKind::Nack,
        }
    }

    /// What is done, for errors.
    pub(super) fn doing(&self) -> Doing {
        Doing::on_message(self.kind().op(), &self.queue, &self.id)
    }

    /// The ack of the same delivery.
    #[must_use]
    pub fn into_ack(self) -> Self {
        Self { nack: None, ..self }
    }

    /// The nack of the same delivery, and why.
    #[must_use]
    pub fn into_nack(self, why: impl Into<String>) -> Self {
        Self {
            nack: Some(why.into()),
            ..self
        }
    }
}

impl From<AckItem> for Settle {
    fn from(ack: AckItem) -> Self {
        Self {
            queue: ack.queue,
            id: ack.id,
            nack: None,
            lease_deadline: None,
        }
    }
}

impl From<NackItem> for Settle {
    fn from(nack: NackItem) -> Self {
        Self {
            queue: nack.queue,
            id: nack.id,
            nack: Some(nack.error),
            lease_deadline: None,
        }
    }
}

impl Lease {
    /// The settling of this delivery: an ack, or a nack and why.
    #[must_use]
    pub fn settle(&self, nack: Option<&str>) -> Settle {
        Settle {
            queue: QueueName::clone(&self.received.queue),
            id: self.received.id.clone(),
            nack: nack.map(str::to_owned),
            lease_deadline: self.deadline,
        }
    }

    /// As [`settle`](Self::settle), of a delivery that is not needed any more. Nothing is copied; drop the guard when the
    /// settling is on its way.
    #[inline(always)]
    #[must_use]
    pub fn into_settle(self, nack: Option<&str>) -> (Settle, Option<LeaseGuard>) {
        let settle = Settle {
            queue: self.received.queue,
            id: self.received.id,
            nack: nack.map(str::to_owned),
            lease_deadline: self.deadline,
        };
        (settle, self.guard)
    }
}
