//! Methods that the types of all adapters have in common, written once.
//!
//! Inherent methods of a type must be in its own crate; so these are macros to be called within an `impl` block.

/// The option methods of a consumer's builder, whose field `settings` is a [`ConsumerSettings`](crate::config::ConsumerSettings).
#[doc(hidden)]
#[macro_export]
macro_rules! consumer_options {
    () => {
        /// P3: how many deliveries may be leased and not settled; P1, P2 and framed: how many may wait in the client before
        /// nothing more is read. 256.
        ///
        /// A slow handler needs a `prefetch` at which `prefetch` × handling time stays below the queue's visibility timeout;
        /// on P1, P2 and the framed dialect, whose servers lease ahead of that, also a stated
        /// [`visibility_timeout`](Self::visibility_timeout).
        pub fn prefetch(mut self, deliveries: usize) -> Self {
            self.settings = self.settings.prefetch(deliveries);
            self
        }

        /// Credit policy, where the dialect has credit: how many messages are leased to a consumer
        /// that does not read: [`Credit`](crate::Credit) has the figures.
        pub fn credit(mut self, credit: $crate::config::Credit) -> Self {
            self.settings = self.settings.credit(credit);
            self
        }

        /// The queue's visibility timeout, which no server announces: lease deadlines are computed from it, and deliveries
        /// whose lease has ended before they are handed out are skipped (see [`expired`](Self::expired)). `None`, the
        /// default, assumes 30 s and hands everything out.
        pub fn visibility_timeout(mut self, timeout: impl Into<Option<::core::time::Duration>>) -> Self {
            self.settings = self.settings.visibility_timeout(timeout);
            self
        }

        /// What becomes of deliveries whose lease has ended before they are handed out, where the visibility timeout is
        /// stated. They are skipped: the server delivers them again.
        pub fn expired(mut self, expired: $crate::config::Expired) -> Self {
            self.settings = self.settings.expired(expired);
            self
        }

        /// How long the queue may be silent before the consumer subscribes again, or `None` for no limit. 60 s.
        pub fn idle_resubscribe(mut self, silence: impl Into<Option<::core::time::Duration>>) -> Self {
            self.settings = self.settings.idle_resubscribe(silence);
            self
        }

        /// Whether to subscribe again after a lost connection. Yes; otherwise the loss is the consumer's last item.
        pub fn resubscribe(mut self, resubscribe: bool) -> Self {
            self.settings = self.settings.resubscribe(resubscribe);
            self
        }

        /// Whether the consumer asks for the queue before it subscribes: when it is opened, after every lost connection, and
        /// whenever it renews an idle subscription. A single node accepts consumers of queues that do not exist, and says
        /// nothing when a queue is deleted; with this the consumer ends with `QueueNotFound`. No.
        pub fn verify_queue(mut self, verify: bool) -> Self {
            self.settings = self.settings.verify_queue(verify);
            self
        }

        /// The size of the socket's receive buffer in bytes, or `None` for the operating system's choice. Together with
        /// `prefetch` it bounds what a server leases ahead where credit does not. 256 KiB.
        pub fn receive_buffer(mut self, bytes: impl Into<Option<u32>>) -> Self {
            self.settings = self.settings.receive_buffer(bytes);
            self
        }
    };
}

/// What a delivery says about its message. Its field `common` is a [`Delivery`](crate::client::common::Delivery).
#[doc(hidden)]
#[macro_export]
macro_rules! delivery_accessors {
    () => {
        /// The server's id of the message.
        #[must_use]
        pub fn id(&self) -> &$crate::MessageId {
            &self.common.lease().received.id
        }

        /// The queue it came from.
        #[must_use]
        pub fn queue(&self) -> &str {
            &self.common.lease().received.queue
        }

        /// The message as it was received.
        #[must_use]
        pub fn received(&self) -> &$crate::Received {
            &self.common.lease().received
        }

        /// Header keys and values.
        #[must_use]
        pub fn headers(&self) -> &$crate::Headers {
            &self.common.lease().received.headers
        }

        /// The payload. `Bytes`, so that a clone copies nothing.
        #[must_use]
        pub fn payload(&self) -> &$crate::Bytes {
            &self.common.lease().received.payload
        }

        /// The fairness key it was scheduled under.
        #[must_use]
        pub fn fairness_key(&self) -> &str {
            &self.common.lease().received.fairness_key
        }

        /// How often it was nacked or its lease expired before.
        #[must_use]
        pub fn attempt_count(&self) -> u32 {
            self.common.lease().received.attempt_count
        }

        /// The scheduling weight, where the dialect carries it.
        #[must_use]
        pub fn weight(&self) -> Option<u32> {
            self.common.lease().received.weight
        }

        /// The throttle keys, where the dialect carries them.
        #[must_use]
        pub fn throttle_keys(&self) -> Option<&[String]> {
            self.common.lease().received.throttle_keys.as_deref()
        }

        /// When the server stored it (milliseconds since the Unix epoch), where known.
        #[must_use]
        pub fn enqueued_at_ms(&self) -> Option<u64> {
            self.common.lease().received.enqueued_at_ms
        }

        /// When the server leased it (milliseconds since the Unix epoch), where known.
        #[must_use]
        pub fn leased_at_ms(&self) -> Option<u64> {
            self.common.lease().received.leased_at_ms
        }

        /// When the lease ends at the earliest, by this machine's clock and the consumer's `visibility_timeout`.
        #[must_use]
        pub fn lease_deadline(&self) -> Option<::std::time::Instant> {
            self.common.lease().deadline
        }
    };
}

/// What an acker says about its message. Its field `common` is an [`Acker`](crate::client::common::Acker).
#[doc(hidden)]
#[macro_export]
macro_rules! acker_accessors {
    () => {
        /// The server's id of the message.
        #[must_use]
        pub fn id(&self) -> &$crate::MessageId {
            &self.common.as_ack().id
        }

        /// The queue it came from.
        #[must_use]
        pub fn queue(&self) -> &str {
            &self.common.as_ack().queue
        }

        /// When the lease ends at the earliest, by this machine's clock and the consumer's `visibility_timeout`.
        #[must_use]
        pub fn lease_deadline(&self) -> Option<::std::time::Instant> {
            self.common.as_ack().lease_deadline
        }
    };
}

/// The option methods of a producer's builder, whose field `settings` is a [`ProducerSettings`](crate::config::ProducerSettings).
#[doc(hidden)]
#[macro_export]
macro_rules! producer_options {
    () => {
        /// When messages share a frame.
        pub fn batching(mut self, batching: $crate::config::Batching) -> Self {
            self.settings = self.settings.batching(batching);
            self
        }

        /// The most messages in one frame.
        pub fn max_messages(mut self, messages: usize) -> Self {
            self.settings = self.settings.max_messages(messages);
            self
        }

        /// The most bytes of messages in one frame; a single larger message has a frame of its own.
        pub fn max_bytes(mut self, bytes: usize) -> Self {
            self.settings = self.settings.max_bytes(bytes);
            self
        }

        /// The most bytes of messages that wait unconfirmed.
        pub fn buffer(mut self, bytes: usize) -> Self {
            self.settings = self.settings.buffer(bytes);
            self
        }

        /// What [`Producer::send`] does when the buffer is full.
        pub fn on_full(mut self, on_full: $crate::config::OnFull) -> Self {
            self.settings = self.settings.on_full(on_full);
            self
        }
    };
}
