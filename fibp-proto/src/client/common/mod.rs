//! What the handles of all adapters have in common, whether they are asynchronous or block. Each handle wraps one of these.
//!
//! Nothing here waits: what takes time is a future, which an asynchronous adapter awaits, and which a thread polls while it
//! works for the machine.

mod calls;
mod deliveries;
mod delivery;
mod pending;
mod producer;

pub use deliveries::Deliveries;
pub use delivery::{Acker, Delivery};
pub use pending::Pending;
pub use producer::Producer;
