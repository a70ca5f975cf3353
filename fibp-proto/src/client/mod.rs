//! What adapters share: the waiter token, the lock around a link, the links of a client, wake-ups.
//!
//! Nothing here does IO or knows a runtime: wakers come from whoever polls, the clock and the way to start a driver
//! are lent by the adapter. There is one [`LinkCell`] per link; callers [`submit`](LinkCell::submit) to it, and a
//! driver task of the adapter's own runtime feeds it with bytes. Where there is no runtime, threads share that work, each
//! as a [`Worker`].

mod asynchronous;
mod cell;
mod clients;
mod deliveries;
mod lead;
mod locked;
#[cfg(all(test, shuttle))]
mod models;
mod race;
mod sync;
mod transport;
mod waiter;
mod watchers;
mod worker;

pub use asynchronous::{
    AckReceipt, Acker, Admin, Client, Consumer, ConsumerBuilder, Delivery, Events, Producer, ProducerBuilder, Receipt,
    Runtime, SocketOptions,
};
pub use cell::{Arrival, Call, LinkCell, TryWrite, enqueued, settled};
pub use clients::{Clients, Handle, Sources, Spawn};
pub use deliveries::Deliveries;
pub use locked::Locked;
pub use transport::{fault, presented_key};
pub use waiter::{Wait, Waiter, complete};
pub use watchers::{Subscription, Watchers};
pub use worker::{Dialed, Input, Job, News, SLICE, Worker};

use std::sync::PoisonError;

use sync::{Mutex, MutexGuard};

/// Locks on, even after a panic elsewhere: no value here is left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A waker that counts.
#[cfg(test)]
#[derive(Default)]
struct Count(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl std::task::Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}
