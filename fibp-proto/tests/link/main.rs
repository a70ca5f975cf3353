//! Links against scripted servers, in memory, on virtual time. Every case ends with the same questions: did every
//! token come back exactly once, is nothing left in flight, does the link ask for nothing more?

#![allow(clippy::type_complexity)]

mod batching;
mod calls;
mod closing;
mod consumers;
mod harness;
mod host;
mod opening;
mod producers;
mod reconnect;
mod redirects;
mod replay;
