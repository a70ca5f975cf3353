//! Acks of many messages.

use std::time::Instant;

use crate::consumer::Lease;
use crate::message::{MessageId, QueueName};
use crate::requests::Settle;

/// One message to ack with [`Client::ack_many`](super::Client::ack_many). `AckItem::from(&delivery)` keeps what an ack needs of
/// a delivery, its lease included: an ack after the lease is [`LeaseLost`](crate::ErrorKind::LeaseLost), also where it was sent
/// a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AckItem {
    /// Its queue.
    pub queue: QueueName,
    /// Its id.
    pub id: MessageId,
    /// When its lease ends, if known. Without it, an ack that was sent twice and finds nothing left to do counts as done.
    pub lease_deadline: Option<Instant>,
}

impl AckItem {
    /// A message of which no more is known.
    pub fn new(queue: impl Into<QueueName>, id: impl Into<MessageId>) -> Self {
        Self {
            queue: queue.into(),
            id: id.into(),
            lease_deadline: None,
        }
    }
}

impl From<&Lease> for AckItem {
    fn from(lease: &Lease) -> Self {
        Self {
            queue: QueueName::clone(&lease.received.queue),
            id: lease.received.id.clone(),
            lease_deadline: lease.deadline,
        }
    }
}

impl From<AckItem> for Settle {
    fn from(item: AckItem) -> Self {
        Self {
            lease_deadline: item.lease_deadline,
            ..Self::ack(item.queue, &item.id)
        }
    }
}
