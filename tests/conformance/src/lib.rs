//! One conformance suite for the three adapters, and what it needs: a scripted server, a fault proxy, an embedded
//! broker. And the simulation of the core on virtual time.

#![allow(missing_docs, reason = "not a library for others")]

pub mod adapter;
pub mod broker;
pub mod env;
pub mod external;
pub mod front;
pub mod golden;
#[cfg(doctest)]
pub mod guides;
pub mod poll;
pub mod proxy;
pub mod remote;
pub mod script;
pub mod session;
pub mod sim;
