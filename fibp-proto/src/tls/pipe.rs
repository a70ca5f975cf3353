//! The TLS of one connection.

use std::fmt;
use std::io::{BufRead as _, Read as _, Write as _};

use rustls::ClientConnection;

use super::explain::{Circumstances, explain};
use super::{TlsContext, TlsEnd};
use crate::error::{Error, ErrorKind};

/// How much decrypted data may wait before reading stops. One more record may come on top.
const MAX_WAITING: usize = 16 * 1024;

/// How much encrypted data may wait before writing stops: one record. rustls gives each record memory of its own, which the
/// next one has again, still in the cache, if it is fetched in between.
const MAX_SENDABLE: usize = 16 * 1024;

/// One TLS connection as bytes in, bytes out. It does no IO.
///
/// Feed what arrived to [`read_ciphertext`](Self::read_ciphertext), emptying
/// [`plaintext`](Self::plaintext) until all is consumed. Give data to
/// [`write_plaintext`](Self::write_plaintext). After every call, an error included, send what
/// [`take_ciphertext`](Self::take_ciphertext) gives: the handshake and fatal alerts travel that way.
///
/// Memory is bounded: about 32 KiB of received and 16 KiB of sendable data, 64 KiB of handshake.
pub struct TlsPipe {
    connection: ClientConnection,
    /// The name that is verified, for texts.
    name: String,
    presents_certificate: bool,
    /// Decrypted bytes that wait.
    waiting: usize,
    peer_closed: bool,
    closing: bool,
    failed: Option<Error>,
}

impl TlsPipe {
    /// A connection to `host`, a name or an IP address, which the certificate must be for unless
    /// [`Tls::server_name`](super::Tls::server_name) says otherwise. The first bytes to send are ready at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if no certificate could be for that name.
    pub fn new(context: &TlsContext, host: &str) -> Result<Self, Error> {
        let name = context.verified_name(host)?;
        let shown = name.to_str().into_owned();
        let mut connection = ClientConnection::new(context.config.clone(), name).map_err(|error| {
            Error::new(ErrorKind::Tls, format!("cannot begin TLS: {error}")).with_source(std::sync::Arc::new(error))
        })?;
        connection.set_buffer_limit(Some(MAX_SENDABLE));
        Ok(Self {
            connection,
            name: shown,
            presents_certificate: context.presents_certificate,
            waiting: 0,
            peer_closed: false,
            closing: false,
            failed: None,
        })
    }

    /// Takes in bytes from the socket and returns how many: fewer than given when decrypted data waits to be
    /// fetched. What follows a close_notify, the peer's or our own, is swallowed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tls`], saying what to do, with rustls' error as its [`get_ref`](Error::get_ref). The connection is over then, and
    /// every later call fails alike; a fatal alert may wait to be sent, and data from before the failure may
    /// wait to be fetched. That a client certificate was refused shows here, in TLS 1.3 after the handshake.
    pub fn read_ciphertext(&mut self, input: &[u8]) -> Result<usize, Error> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.closing {
            // rustls does not expect to fail after its own close_notify, which a damaged record would make it do.
            return Ok(input.len());
        }
        let mut rest = input;
        while !rest.is_empty() && self.waiting < MAX_WAITING {
            if self.peer_closed {
                return Ok(input.len());
            }
            if let Err(full) = self.connection.read_tls(&mut rest) {
                // Room was made sure of above, so that the peer has overfilled a handshake message.
                return self.fail(Error::new(ErrorKind::Tls, full.to_string()));
            }
            match self.connection.process_new_packets() {
                Ok(state) => {
                    self.waiting = state.plaintext_bytes_to_read();
                    self.peer_closed = state.peer_has_closed();
                }
                Err(error) => {
                    // What came in records before the fault is good.
                    self.waiting = self.connection.reader().fill_buf().map_or(0, <[u8]>::len);
                    let at = Circumstances {
                        name: &self.name,
                        presents_certificate: self.presents_certificate,
                        heard_tls: self.connection.protocol_version().is_some(),
                    };
                    let error = explain(error, &at);
                    return self.fail(error);
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.failed = Some(error.clone());
        Err(error)
    }

    /// Moves decrypted bytes into `out` and returns how many.
    pub fn plaintext(&mut self, out: &mut [u8]) -> usize {
        // That nothing waits, or never will, is the only failure.
        let read = self.connection.reader().read(out).unwrap_or(0);
        self.waiting = self.waiting.saturating_sub(read);
        read
    }

    /// Whether decrypted bytes wait.
    #[must_use]
    pub fn has_plaintext(&self) -> bool {
        self.waiting > 0
    }

    /// Encrypts bytes and returns how many: fewer than given when enough waits to be sent, none before the
    /// handshake is done and after the end.
    #[must_use]
    pub fn write_plaintext(&mut self, data: &[u8]) -> usize {
        if self.closing || self.failed.is_some() || self.connection.is_handshaking() {
            return 0;
        }
        self.connection.writer().write(data).unwrap_or(0)
    }

    /// Appends everything that is to be sent to `out` and returns how many bytes that is.
    pub fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        while self.connection.wants_write() {
            // Writing to a Vec cannot fail.
            if self.connection.write_tls(out).is_err() {
                break;
            }
        }
        out.len() - before
    }

    /// Whether [`take_ciphertext`](Self::take_ciphertext) has something.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the peer has answered in TLS.
    pub(crate) fn has_heard(&self) -> bool {
        self.connection.protocol_version().is_some()
    }

    /// Whether the handshake is still going on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The ALPN name that the server chose, once the handshake is done.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Queues a close_notify, after which nothing more is written. Repeated calls do nothing.
    pub fn close_notify(&mut self) {
        if !self.closing && self.failed.is_none() {
            self.closing = true;
            self.connection.send_close_notify();
        }
    }

    /// Whether a close_notify was queued: neither side is listened to any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The socket was read to its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tls`] if that cuts the handshake short, and the earlier failure if there was one.
    pub fn handle_eof(&mut self) -> Result<TlsEnd, Error> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.connection.is_handshaking() {
            let text = if self.connection.protocol_version().is_some() {
                "the server closed the connection during the TLS handshake"
            } else {
                "the server closed the connection instead of answering in TLS: does it speak TLS on this port?"
            };
            return self.fail(Error::new(ErrorKind::Tls, text));
        }
        Ok(if self.peer_closed {
            TlsEnd::CloseNotify
        } else {
            TlsEnd::Ragged
        })
    }
}

impl fmt::Debug for TlsPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPipe")
            .field("name", &self.name)
            .field("handshaking", &self.is_handshaking())
            .field("waiting", &self.waiting)
            .field("peer_closed", &self.peer_closed)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
