//! A lower bound on when something is due.

use std::time::Instant;

/// The earliest of many instants, kept without tracking each: things that go away leave it in place, so it may
/// fire early; whoever it wakes looks at everything once and sets it again. With thousands of requests that are
/// answered long before their deadline this costs one comparison each, and one look per timeout period.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EarliestDeadline(Option<Instant>);

impl EarliestDeadline {
    pub(crate) fn at(self) -> Option<Instant> {
        self.0
    }

    pub(crate) fn add(&mut self, at: Option<Instant>) {
        self.0 = earlier(self.0, at);
    }

    /// Whether it is due; if so, it is cleared and must be set again from what is left.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_some_and(|at| at <= now);
        if due {
            self.0 = None;
        }
        due
    }
}

/// Whether an instant, if there is one, has come.
pub(crate) fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// The earlier of two instants, where there are any.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
