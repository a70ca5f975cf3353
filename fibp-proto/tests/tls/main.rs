//! The TLS pipe against a rustls server, in memory.
#![cfg(any(feature = "tls-ring", feature = "tls-aws-lc-rs"))]

mod authority;
mod certificates;
mod identity;
mod pair;
mod protocols;
mod stream;
