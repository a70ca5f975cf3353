//! TLS as bytes in, bytes out: rustls without a socket.
//!
//! [`Tls`] says what is wanted, a [`TlsContext`] is made of it once per client, and each connection has a
//! [`TlsPipe`] of its own. In a build without the feature `tls` all three exist, and making a context fails.

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod context;
#[cfg(feature = "tls")]
mod explain;
mod identity;
#[cfg(feature = "tls")]
mod name;
#[cfg(feature = "tls")]
mod pem;
#[cfg(feature = "tls")]
mod pipe;
mod settings;

#[cfg(not(feature = "tls"))]
pub use absent::{TlsContext, TlsPipe};
#[cfg(feature = "tls")]
pub use context::TlsContext;
#[cfg(feature = "tls")]
pub use pipe::TlsPipe;
pub use settings::Tls;

/// How a peer ended its side of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsEnd {
    /// With a close_notify: nothing is missing.
    CloseNotify,
    /// With a bare end of file. Someone may have cut the stream; Fila servers of the preamble dialect end every
    /// connection so (docs/protocol/preamble.md 1.12), so the frames have to show whether something is missing.
    Ragged,
}
