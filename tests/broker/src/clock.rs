//! Where the broker gets its time from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Something with deadlines on a [`ManualClock`].
pub(crate) trait Timed: Send + Sync {
    /// Time has passed.
    fn run_timers(&self);
}

#[derive(Default)]
struct Listeners(Vec<Weak<dyn Timed>>);

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}

#[derive(Debug)]
struct Inner {
    now: Mutex<Instant>,
    listeners: Mutex<Listeners>,
}

/// A clock that stands still until it is advanced. Clones share the time.
///
/// Give one to [`BrokerBuilder::manual_clock`](crate::BrokerBuilder::manual_clock) to make visibility timeouts and the
/// expiry of keys happen when a test wants them to.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Inner>);

impl ManualClock {
    /// A clock that shows the present.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            now: Mutex::new(Instant::now()),
            listeners: Mutex::default(),
        }))
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        *lock(&self.0.now)
    }

    /// Moves the clock on. When this returns, brokers on this clock have reclaimed the leases that expired; what is
    /// redelivered because of that is being sent.
    pub fn advance(&self, by: Duration) {
        {
            let mut now = lock(&self.0.now);
            *now = now.checked_add(by).unwrap_or(*now);
        }
        let listeners = {
            let mut listeners = lock(&self.0.listeners);
            listeners.0.retain(|listener| listener.strong_count() > 0);
            listeners.0.clone()
        };
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.run_timers();
        }
    }

    pub(crate) fn listen(&self, listener: Weak<dyn Timed>) {
        lock(&self.0.listeners).0.push(listener);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock a broker runs on.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    Real,
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            Self::Manual(clock) => clock.now(),
        }
    }
}

/// Locks a mutex. What a panicking thread left behind is still consistent enough to shut down with.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
