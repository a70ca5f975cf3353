//! A null server behind TLS, and the bare rustls loop against it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use fila_test_broker::certs::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::bare::FrameCounter;
use crate::null_server::{Manner, answer_all, serve_with};
use crate::servers::Server;
use crate::target::PREAMBLE;
use crate::{Rate, Slice, Start};

/// Starts a server that lives as long as the process; returns its address and what its certificate is signed by.
///
/// # Panics
///
/// Certificates cannot be made.
pub(super) fn start() -> (SocketAddr, String) {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost", "127.0.0.1"]).expect("a certificate");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .expect("a server configuration");
    let config = Arc::new(config);
    let addr = serve_with(move |stream| {
        let connection = ServerConnection::new(config.clone()).expect("a server session");
        let stream = std::cell::RefCell::new(StreamOwned::new(connection, stream));
        answer_all(Shared(&stream), &mut Shared(&stream), Manner::default());
    });
    (addr, authority.pem())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

type ServerStream = StreamOwned<ServerConnection, TcpStream>;

/// Both halves of a stream that reads and writes in turn.
struct Shared<'a>(&'a std::cell::RefCell<ServerStream>);

impl Read for Shared<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().read(bytes)
    }
}

impl Write for Shared<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

/// As [`crate::bare::Bare`], through rustls.
pub(super) struct BareTls {
    stream: StreamOwned<ClientConnection, TcpStream>,
    counter: FrameCounter,
    buffer: Vec<u8>,
}

impl BareTls {
    /// # Panics
    ///
    /// The server refuses.
    pub(super) fn connect(server: &Server) -> Self {
        Self {
            stream: open(server),
            counter: FrameCounter::default(),
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Sends `window` frames at a time and waits for their answers, as the client does with as many in flight.
    ///
    /// # Panics
    ///
    /// The server closes.
    pub(super) fn pipeline(&mut self, frame: &[u8], messages: u64, window: usize, slice: Slice) -> Rate {
        let frames = frame.repeat(window);
        let start = Start::now();
        let mut answered = 0;
        self.stream.write_all(&frames).expect("a server");
        let mut in_flight = window;
        while in_flight > 0 {
            let read = self.stream.read(&mut self.buffer).expect("a server");
            let done = self.counter.count(&self.buffer[..read]);
            answered += done as u64 * messages;
            if !slice.is_over(start.at, answered) {
                self.stream.write_all(&frames[..done * frame.len()]).expect("a server");
            } else {
                in_flight -= done;
            }
        }
        start.rate(answered)
    }
}

/// A TLS connection that is open.
///
/// # Panics
///
/// The server refuses.
pub(super) fn open(server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(server.ca_pem.as_bytes()) {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(server.addr).expect("a server");
    socket.set_nodelay(true).expect("a connected socket");
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(&PREAMBLE).expect("a server");
    stream.read_exact(&mut [0; PREAMBLE.len()]).expect("a server");
    stream
}
