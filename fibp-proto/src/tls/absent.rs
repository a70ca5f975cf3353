//! The types of a build without TLS: they have no values.

use std::convert::Infallible;

use super::{Tls, TlsEnd};
use crate::dialect::Dialect;
use crate::error::Error;

/// TLS made ready for a client. This build has none.
#[derive(Debug, Clone)]
pub struct TlsContext(Infallible);

/// The TLS of one connection. This build has none.
#[derive(Debug)]
pub struct TlsPipe(Infallible);

impl TlsContext {
    /// Fails: this build has no TLS.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the features.
    pub fn new(tls: &Tls, _dialect: Dialect) -> Result<Self, Error> {
        Err(match tls.validate() {
            Err(error) => error,
            Ok(()) => super::settings::unsupported(),
        })
    }
}

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "never called; documented where it exists"
)]
impl TlsPipe {
    pub fn new(context: &TlsContext, _host: &str) -> Result<Self, Error> {
        match context.0 {}
    }

    pub fn read_ciphertext(&mut self, _input: &[u8]) -> Result<usize, Error> {
        match self.0 {}
    }

    pub fn plaintext(&mut self, _out: &mut [u8]) -> usize {
        match self.0 {}
    }

    pub fn has_plaintext(&self) -> bool {
        match self.0 {}
    }

    pub fn write_plaintext(&mut self, _data: &[u8]) -> usize {
        match self.0 {}
    }

    pub fn take_ciphertext(&mut self, _out: &mut Vec<u8>) -> usize {
        match self.0 {}
    }

    pub fn wants_write(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn has_heard(&self) -> bool {
        match self.0 {}
    }

    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        match self.0 {}
    }

    pub(crate) fn is_closing(&self) -> bool {
        match self.0 {}
    }

    pub fn close_notify(&mut self) {
        match self.0 {}
    }

    pub fn handle_eof(&mut self) -> Result<TlsEnd, Error> {
        match self.0 {}
    }
}
