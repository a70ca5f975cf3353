//! What a broker is made of, decided before it starts.

use std::time::{Duration, Instant};

use fibp_proto::Secret;
use fibp_proto::frame::DEFAULT_MAX_LENGTH;

use crate::Faults;

/// The settings of a [`BrokerMachine`](crate::BrokerMachine).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The instant at which `wall_ms` holds.
    pub start: Instant,
    /// The wall clock at `start`, in milliseconds since the Unix epoch: message ids and expiries derive from it.
    pub wall_ms: u64,
    /// What ids and keys derive from.
    pub seed: u64,
    /// The bootstrap key, a superadmin. Without one, authentication is off.
    pub api_key: Option<Secret>,
    /// The largest length field of a preamble push, in bytes.
    pub max_frame_size: u32,
    /// The visibility timeout of queues that name none: 30 s.
    pub visibility_timeout: Duration,
    /// How long the scheduler must be idle before it reclaims expired leases: 100 ms.
    pub idle_timeout: Duration,
    /// Messages per turn of a fairness key: 1000.
    pub quantum: u32,
    /// The header that names a message's fairness key, in place of an `on_enqueue` script. Without one, or
    /// without the header, the key is `default`.
    pub fairness_header: Option<String>,
    /// Move a message to the dead-letter queue at this many nacks, in place of an `on_failure` script. Without
    /// it, messages are retried for ever.
    pub dead_letter_after: Option<u32>,
    /// The addresses of a cluster's nodes as clients reach them (`host:port`), node 1 first; empty for a single node.
    pub nodes: Vec<String>,
    /// How long after its creation by a client a queue of a cluster has no leader: 65 ms.
    pub creation_delay: Duration,
    /// How long it takes a cluster to elect a leader in place of one that is gone: 300 ms.
    pub election_timeout: Duration,
    /// What to do wrong.
    pub faults: Faults,
}

impl Settings {
    /// The settings of real servers, without authentication.
    #[must_use]
    pub fn new(start: Instant, wall_ms: u64) -> Self {
        Self {
            start,
            wall_ms,
            seed: 0,
            api_key: None,
            max_frame_size: DEFAULT_MAX_LENGTH,
            visibility_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_millis(100),
            quantum: 1000,
            fairness_header: None,
            dead_letter_after: None,
            nodes: Vec::new(),
            creation_delay: Duration::from_millis(65),
            election_timeout: Duration::from_millis(300),
            faults: Faults::default(),
        }
    }

    /// The wall clock at `now`.
    pub(super) fn wall_at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        self.wall_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}
