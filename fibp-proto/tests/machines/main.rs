//! Machines against scripted servers, in memory, on virtual time. Every case ends with the same questions: did every
//! token come back exactly once, is nothing left in flight, does the machine ask for nothing more?

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc-rs"))]
#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "the TLS pipe's tests use the rest")]
mod authority;
mod batching;
mod callers;
mod calls;
mod chaos;
mod closing;
mod clusters;
mod consumers;
mod cuts;
mod deadlines;
mod doubts;
mod flow;
mod harness;
mod host;
mod invariants;
mod leases;
mod lists;
mod liveness;
mod numbers;
mod opening;
mod order;
#[path = "../pair/mod.rs"]
mod pair;
mod producers;
mod reconnect;
mod redirects;
mod replaced;
mod replay;
mod scale;
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc-rs"))]
mod tls;
mod unlimited;
