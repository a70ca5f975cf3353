//! Hooks for simulations of machines: looking inside, and breaking them on purpose to see that it is noticed.
//!
//! Not part of the stable interface. Without the feature `simulation` all of this folds away; with it, nothing
//! changes until `set_test_hooks` is called.

#![cfg_attr(not(feature = "simulation"), allow(dead_code, unreachable_pub))]

#[cfg(feature = "simulation")]
mod any_machine;

#[cfg(feature = "simulation")]
pub use any_machine::AnyMachine;

/// A defect to put into a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// Correlation ids go round after four, whether they are in use or not.
    EarlyId,
    /// An abandoned or expired request frees its id before its answer came.
    DroppedTombstone,
    /// Credit is not topped up.
    SkippedTopUp,
    /// A request whose deadline passes unanswered is not reported.
    LostWaiter,
    /// A delivery does not wake the consumer that waits for it.
    LostWakeUp,
    /// A call that waits for room is forgotten when there is some.
    ForgottenCall,
}

/// How a machine departs from its usual self.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TestHooks {
    /// Give out the lowest free correlation id: an id that is freed is used again at once.
    pub lowest_free_ids: bool,
    /// The first correlation id of each connection; 0 leaves it as it is.
    pub first_id: u32,
    /// The defect.
    pub defect: Option<Defect>,
}

impl TestHooks {
    /// Gives out the lowest free correlation id, or goes round.
    #[must_use]
    pub const fn lowest_free_ids(mut self, on: bool) -> Self {
        self.lowest_free_ids = on;
        self
    }

    /// Sets the first correlation id of each connection: near the last there is, the ids soon wrap around.
    #[must_use]
    pub const fn first_id(mut self, id: u32) -> Self {
        self.first_id = id;
        self
    }

    /// Puts in a defect.
    #[must_use]
    pub const fn defect(mut self, defect: Defect) -> Self {
        self.defect = Some(defect);
        self
    }

    /// Whether this defect is in. Never without the feature.
    pub(crate) fn has(self, defect: Defect) -> bool {
        cfg!(feature = "simulation") && self.defect == Some(defect)
    }

    /// Whether ids are given out from the bottom. Never without the feature.
    pub(crate) fn takes_lowest_id(self) -> bool {
        cfg!(feature = "simulation") && self.lowest_free_ids
    }

    /// The first id, if it is not the usual one. Never without the feature.
    pub(crate) fn starts_at(self) -> Option<u32> {
        (cfg!(feature = "simulation") && self.first_id > 0).then_some(self.first_id)
    }
}

/// What a machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Calls that are not encoded.
    pub calls: usize,
    /// Calls that wait for an instant or for the admin revision, and settles that wait for word of a cluster.
    pub delayed: usize,
    /// Items of batches that are not encoded.
    pub queued_items: usize,
    /// Jobs that wait for room.
    pub parked: usize,
    /// Calls whose whereabouts are known, in case that their callers go away.
    pub places: usize,
    /// Requests charged to the client's budget.
    pub charged_requests: usize,
    /// Bytes charged to all budgets.
    pub charged_bytes: usize,
    /// Requests in flight that somebody waits for, the connection's own among them.
    pub in_flight: usize,
    /// Ids that are kept although nobody waits any more.
    pub tombstones: usize,
    /// Encoded bytes that no writer has taken.
    pub output: usize,
    /// Bytes of memory of the decoder.
    pub decoder: usize,
    /// Deliveries that nobody has taken.
    pub deliveries: usize,
    /// Completions and actions that nobody has taken.
    pub unclaimed: usize,
}
