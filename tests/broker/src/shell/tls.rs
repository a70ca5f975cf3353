//! TLS over rustls' buffered connections.

use std::io::{self, Write};
use std::sync::Arc;

use fibp_proto::Dialect;
use fibp_proto::server::ServerConnection;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::transport::{Step, Transport};

/// The broker's side of TLS.
///
/// By default like real servers: ALPN offers `fibp` or `fila/1`, as the dialects are, and connections end without
/// close_notify.
#[derive(Debug, Clone)]
pub struct ServerTls {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    client_roots: Option<Arc<RootCertStore>>,
    alpn: bool,
    close_notify: bool,
}

impl ServerTls {
    /// Presents this certificate chain, leaf first. Both are PEM.
    ///
    /// # Errors
    ///
    /// The PEM is malformed, or holds no certificate or no key.
    pub fn from_pem(chain: &str, key: &str) -> io::Result<Self> {
        Ok(Self {
            chain: certificates(chain)?,
            key: Arc::new(PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(invalid)?),
            client_roots: None,
            alpn: true,
            close_notify: false,
        })
    }

    /// Demands a client certificate that one of these authorities (PEM) has signed.
    ///
    /// # Errors
    ///
    /// The PEM is malformed or holds no certificate.
    pub fn client_ca_pem(mut self, authorities: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            roots.add(certificate).map_err(invalid)?;
        }
        self.client_roots = Some(Arc::new(roots));
        Ok(self)
    }

    /// Whether to take part in ALPN.
    #[must_use]
    pub fn alpn(mut self, on: bool) -> Self {
        self.alpn = on;
        self
    }

    /// Whether to end connections with close_notify.
    #[must_use]
    pub fn close_notify(mut self, on: bool) -> Self {
        self.close_notify = on;
        self
    }

    pub(super) fn acceptor(self, dialects: &[Dialect]) -> io::Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let builder = match self.client_roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().map_err(invalid)?)
            }
        };
        let mut config = builder
            .with_single_cert(self.chain, self.key.clone_key())
            .map_err(invalid)?;
        if self.alpn {
            let names = dialects.iter().map(|dialect| match dialect {
                Dialect::Preamble(_) => b"fibp".to_vec(),
                _ => b"fila/1".to_vec(),
            });
            config.alpn_protocols = names.collect();
        }
        Ok(TlsAcceptor {
            config: Arc::new(config),
            close_notify: self.close_notify,
        })
    }
}

fn certificates(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    if certificates.is_empty() {
        return Err(invalid("no certificate in the PEM"));
    }
    Ok(certificates)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[derive(Debug, Clone)]
pub(super) struct TlsAcceptor {
    config: Arc<rustls::ServerConfig>,
    close_notify: bool,
}

impl TlsAcceptor {
    pub(super) fn transport(&self) -> io::Result<Transport> {
        let mut session = rustls::ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        // What is handed over is bounded by the server connection.
        session.set_buffer_limit(None);
        Ok(Transport::Tls(Box::new(TlsTransport {
            session,
            sealed: Vec::new(),
            opened: 0,
            close_notify: self.close_notify,
        })))
    }
}

#[derive(Debug)]
pub(super) struct TlsTransport {
    session: rustls::ServerConnection,
    /// What came off the socket.
    sealed: Vec<u8>,
    /// How much of it the session has seen: it takes no more while it holds plaintext.
    opened: usize,
    /// Whether the end is still to be announced.
    close_notify: bool,
}

impl TlsTransport {
    pub(super) fn step(&mut self, server: &mut ServerConnection) -> Step {
        let Some(mut buffer) = server.take_read_buffer() else {
            return Step::Blocked;
        };
        let read = buffer.read_from(&mut self.session.reader());
        server.handle_input(buffer);
        match read {
            Ok(None) if self.sealed.is_empty() => Step::ReadSealed,
            Ok(None | Some(1..)) => Step::Arrived,
            // The client's close_notify.
            Ok(Some(0)) | Err(_) => {
                server.handle_eof();
                Step::Arrived
            }
        }
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.sealed.extend_from_slice(bytes);
    }

    /// Decrypts until there is plaintext to read.
    pub(super) fn feed(&mut self) -> io::Result<()> {
        loop {
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(());
            }
            let Some(mut rest) = self.sealed.get(self.opened..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            self.opened += self.session.read_tls(&mut rest)?;
        }
        self.sealed.clear();
        self.opened = 0;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(bytes)
    }

    /// What is to go to the socket. Announces the end if the connection is `finished` and the client is to know.
    pub(super) fn take_sealed(&mut self, finished: bool) -> io::Result<Vec<u8>> {
        if finished && std::mem::take(&mut self.close_notify) {
            self.session.send_close_notify();
        }
        let mut sealed = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }
}
