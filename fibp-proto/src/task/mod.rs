//! What asynchronous adapters share: the waiter token, the lock around a link and wake-ups.
//!
//! Nothing here does IO, reads a clock or knows a runtime: wakers come from whoever polls. An adapter keeps one
//! [`LinkCell`] per link; callers [`submit`](LinkCell::submit) to it, and a driver task of the adapter's own
//! runtime feeds it with bytes.

mod cell;
mod race;
mod waiter;
mod watchers;

pub use cell::{Arrival, Call, LinkCell, Locked, TryWrite, enqueued, settled};
pub use race::race;
pub use waiter::{Wait, Waiter, complete};
pub use watchers::{WatchId, Watchers};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks on, even after a panic elsewhere: no value here is left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
