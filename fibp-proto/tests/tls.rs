//! The TLS pipe against a rustls server, in memory.
