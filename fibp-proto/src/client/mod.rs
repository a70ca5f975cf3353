//! What adapters share, behind the feature `client`: the asynchronous client, and what threads need instead.
//!
//! Nothing here does IO, reads a clock or knows a runtime by name. An **asynchronous adapter** implements [`Runtime`], names its
//! type, and has the handles: [`Client<R>`](Client), [`Producer<R>`](Producer), [`Consumer<R>`](Consumer) and so on. One task
//! per connection, spawned on that runtime, moves the bytes.
//!
//! ```
//! use fibp_proto::client::{Client, Runtime};
//! use fibp_proto::{Config, Error, Message};
//!
//! /// Works on every runtime.
//! async fn order<R: Runtime>(runtime: R) -> Result<(), Error> {
//!     let client = Client::connect_on(runtime, Config::new("localhost:5555")).await?;
//!     let id = client.enqueue(Message::new("orders", "two apples")).await?;
//!     println!("stored as {id}");
//!     Ok(())
//! }
//! ```
//!
//! The other types are for adapters without a runtime, and for the client's own use. There is one [`Cell`] per machine: the
//! lock around it, with the waker of its driver. Callers submit to it and wait by [`Call`]s. Where there
//! is no runtime, threads share the driver's work, each as a [`Worker`].

mod ack_item;
mod asynchronous;
mod attention;
mod cell;
mod clients;
pub mod common;
mod lead;
mod locked;
#[cfg(all(test, shuttle))]
mod models;
mod race;
mod replies;
mod sync;
mod transport;
mod waiter;
mod watchers;
mod worker;

pub use ack_item::AckItem;
pub use asynchronous::{
    AckReceipt, Acker, Admin, Client, Consumer, ConsumerBuilder, Delivery, Events, Producer, ProducerBuilder, Receipt,
    Runtime, SocketOptions, States,
};
pub use attention::Attention;
pub use cell::{Call, CallerWrites, Cell, ConsumerCall, ConsumerCell, RequestCall, RequestsCell, Taken, TryWrite};
pub use clients::{Clients, Driven, Drivers, Handle, Sources, StartDriver};
pub use locked::Locked;
pub use transport::presented_key;
pub use waiter::{Answer, Waiter, answer};
pub use watchers::{StateWatch, Subscription, Watchers};
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
