//! A delivery's lease, as it is handed out.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::message::Received;

/// A received message and its lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The message.
    pub received: Received,
    /// When the lease ends at the earliest, by the client's clock and the configured visibility timeout.
    pub deadline: Option<Instant>,
    /// Counts deliveries of this consumer: distinguishes redeliveries of one id.
    pub sequence: u64,
    /// Its credit comes back with [`Consumer::release_delivery`](super::Consumer::release_delivery), once it is settled or dropped.
    pub is_counted: bool,
    /// Does that when the last clone of the lease is gone, if the adapter puts it there.
    pub guard: Option<LeaseGuard>,
}

/// Tells a consumer that a delivery was settled or dropped, when the last clone is dropped.
#[derive(Clone)]
pub struct LeaseGuard(#[expect(dead_code, reason = "kept for its drop")] Arc<OnRelease>);

struct OnRelease {
    sequence: u64,
    release: Arc<dyn ReleaseDelivery>,
}

/// What passes a delivery's end on to [`Consumer::release_delivery`](super::Consumer::release_delivery).
pub trait ReleaseDelivery: Send + Sync {
    /// The delivery with this number was settled or dropped.
    fn release_delivery(&self, sequence: u64);
}

impl Drop for OnRelease {
    fn drop(&mut self) {
        self.release.release_delivery(self.sequence);
    }
}

impl LeaseGuard {
    /// A guard for the delivery with this number.
    pub fn new(sequence: u64, release: Arc<dyn ReleaseDelivery>) -> Self {
        Self(Arc::new(OnRelease { sequence, release }))
    }
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseGuard")
    }
}
