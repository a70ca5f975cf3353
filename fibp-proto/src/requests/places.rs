//! Where to look for a call whose caller is gone.

use crate::by_number::ByNumber;
use crate::machine::CallId;

/// Where a call was seen last. Routes number their batch queues and correlation ids by themselves, so several may have
/// something at a place: the call's id tells whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the batch queue with this index.
    Waiting(u32),
    /// In flight with this correlation id.
    InFlight(u32),
    /// Answered, and not ended.
    InDoubt,
}

/// The places of calls with one item that wait in batch queues, and of all calls in flight, except those that are parts
/// of a call with many.
#[derive(Debug, Default)]
pub(super) struct Places(ByNumber<Place>);

impl Places {
    pub(super) fn get(&self, call: CallId) -> Option<Place> {
        self.0.get(call.number).copied()
    }

    pub(super) fn set(&mut self, call: CallId, place: Place) {
        self.0.set(call.number, place);
    }

    /// The call is over.
    pub(super) fn remove(&mut self, call: CallId) {
        self.0.remove(call.number);
    }

    /// How many calls have a place.
    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
