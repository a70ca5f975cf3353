//! What travels: messages, deliveries and their parts.

mod headers;
mod id;
mod secret;
mod trace_context;

use alloc::sync::Arc;
use core::fmt;

use bytes::Bytes;

use crate::prelude::*;
pub(crate) use headers::WireHeaders;
pub use headers::{Headers, Iter as HeaderIter};
pub(crate) use id::IdText;
pub use id::MessageId;
pub use secret::Secret;
pub use trace_context::TraceContext;

/// A queue's name. Shared, so that a clone copies no bytes.
pub type QueueName = Arc<str>;

/// Whether two names are the same: most often they share their bytes, which are not compared then.
pub(crate) fn same_queue(a: &QueueName, b: &QueueName) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// A message to enqueue.
///
/// Building never fails; what the wire cannot carry (a name, header key or value over 65 535 bytes, more
/// than 255 headers in the preamble dialect) is refused when the message is submitted.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The queue it goes to.
    pub queue: QueueName,
    /// Header keys and values.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
}

impl Message {
    /// A message without headers.
    pub fn new(queue: impl Into<QueueName>, payload: impl Into<Bytes>) -> Self {
        Self {
            queue: queue.into(),
            headers: Headers::new(),
            payload: payload.into(),
        }
    }

    /// Adds a header, or replaces the value of the same key.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(key, value);
        self
    }

    /// Adds headers, or replaces the values of the same keys.
    ///
    /// ```
    /// # use fibp_proto::Message;
    /// let message = Message::new("orders", "two apples").headers([("tenant", "acme"), ("lang", "en")]);
    /// assert_eq!(message.headers.get("tenant"), Some("acme"));
    /// ```
    #[must_use]
    pub fn headers<K: Into<String>, V: Into<String>>(mut self, headers: impl IntoIterator<Item = (K, V)>) -> Self {
        self.headers.extend(headers);
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("queue", &self.queue)
            .field("headers", &self.headers)
            .field("payload_len", &self.payload.len())
            .finish()
    }
}

/// A message as a consumer received it.
///
/// Messages that arrive together lie together, mostly in the buffer that they were read into: one that is kept holds up to
/// 128 KiB besides its own bytes, until all its neighbours are gone, too. A payload of 64 KiB or more may hold the frame
/// that it came in. Copy what is to be kept for long: [`detach`](Self::detach).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The server's id of the message.
    pub id: MessageId,
    /// The queue it came from.
    pub queue: QueueName,
    /// Header keys and values.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
    /// The fairness key it was scheduled under.
    pub fairness_key: Arc<str>,
    /// How often it was nacked or its lease expired before this delivery.
    pub attempt_count: u32,
    /// The scheduling weight, where the dialect carries it.
    pub weight: Option<u32>,
    /// The throttle keys, where the dialect carries them.
    pub throttle_keys: Option<Vec<String>>,
    /// When the server stored it (milliseconds since the Unix epoch), where known.
    pub enqueued_at_ms: Option<u64>,
    /// When the server leased it (milliseconds since the Unix epoch), where known.
    pub leased_at_ms: Option<u64>,
}

impl Received {
    /// A delivery with the fields that every dialect carries; the others are `None`.
    pub fn new(
        id: MessageId,
        queue: impl Into<QueueName>,
        headers: Headers,
        payload: impl Into<Bytes>,
        fairness_key: impl Into<Arc<str>>,
        attempt_count: u32,
    ) -> Self {
        Self {
            id,
            queue: queue.into(),
            headers,
            payload: payload.into(),
            fairness_key: fairness_key.into(),
            attempt_count,
            weight: None,
            throttle_keys: None,
            enqueued_at_ms: None,
            leased_at_ms: None,
        }
    }

    /// What a broker that stored `message` under `id` delivers: with the fairness key `default`, for the first time.
    #[must_use]
    pub fn from_message(id: MessageId, message: Message) -> Self {
        Self::new(id, message.queue, message.headers, message.payload, "default", 0)
    }

    /// The message with copies of its headers and payload, so that keeping it holds nothing of what arrived with it.
    ///
    /// ```
    /// # use fibp_proto::message::Received;
    /// # fn example(received: Received, cache: &mut Vec<Received>) {
    /// cache.push(received.detach());
    /// # }
    /// ```
    #[must_use]
    pub fn detach(mut self) -> Self {
        self.headers.detach();
        self.payload = Bytes::copy_from_slice(&self.payload);
        self
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("headers", &self.headers)
            .field("payload_len", &self.payload.len())
            .field("fairness_key", &self.fairness_key)
            .field("attempt_count", &self.attempt_count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_detached_holds_its_own_bytes_only() {
        let shared = Bytes::from(b"\0\x01a\0\x011payload".repeat(100));
        let headers = Headers::from_wire(WireHeaders {
            count: 1,
            pairs: shared.slice(..6),
        });
        let received = Received::new("id".into(), "q", headers, shared.slice(6..13), "default", 0);
        let detached = received.clone().detach();
        assert_eq!(detached, received);
        drop(received);
        assert!(shared.is_unique());
        assert!(detached.payload.try_into_mut().is_ok_and(|own| own.capacity() < 100));
    }
}
