//! A pipe and a server with a wire between them.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use fibp_proto::Error;
use fibp_proto::dialect::Dialect;
use fibp_proto::tls::{Tls, TlsContext, TlsPipe};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::authority::{Authority, Leaf, provider};

pub(crate) const NAME: &str = "broker.test";

/// What a test server is to be like.
pub(crate) struct ServerOptions<'a> {
    pub(crate) leaf: &'a Leaf,
    /// The CA whose client certificates are required.
    pub(crate) clients: Option<&'a Authority>,
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) alpn: &'a [&'a [u8]],
}

impl<'a> ServerOptions<'a> {
    pub(crate) fn new(leaf: &'a Leaf) -> Self {
        Self {
            leaf,
            clients: None,
            versions: rustls::ALL_VERSIONS,
            alpn: &[b"fibp"],
        }
    }

    pub(crate) fn build(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder
            .with_single_cert(vec![self.leaf.certificate.clone()], self.leaf.private_key())
            .unwrap();
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

pub(crate) fn context(tls: &Tls) -> TlsContext {
    TlsContext::new(tls, Dialect::Auto).unwrap()
}

pub(crate) struct Pair {
    pub(crate) client: TlsPipe,
    pub(crate) server: ServerConnection,
    /// How many bytes travel at a time.
    pub(crate) chunk: usize,
    pub(crate) client_received: Vec<u8>,
    pub(crate) server_received: Vec<u8>,
    /// The first failure of each side.
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<rustls::Error>,
}

impl Pair {
    pub(crate) fn new(context: &TlsContext, host: &str, server: Arc<ServerConfig>) -> Self {
        Self {
            client: TlsPipe::new(context, host).unwrap(),
            server: ServerConnection::new(server).unwrap(),
            chunk: usize::MAX,
            client_received: Vec::new(),
            server_received: Vec::new(),
            client_error: None,
            server_error: None,
        }
    }

    /// A pair whose client trusts the server, connected.
    pub(crate) fn connected() -> Self {
        let authority = Authority::new("ca");
        let leaf = authority.sign(&[NAME]);
        let context = context(&Tls::ca_pem(authority.pem()));
        let mut pair = Self::new(&context, NAME, ServerOptions::new(&leaf).build());
        pair.run();
        pair.assert_connected();
        pair
    }

    /// Carries bytes both ways until nothing moves.
    pub(crate) fn run(&mut self) {
        while self.client_to_server() | self.server_to_client() {}
    }

    fn client_to_server(&mut self) -> bool {
        let mut wire = Vec::new();
        let moved = self.client.take_ciphertext(&mut wire) > 0;
        for piece in wire.chunks(self.chunk) {
            self.feed_server(piece);
        }
        moved
    }

    pub(crate) fn feed_server(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.server_error.is_none() {
            self.server.read_tls(&mut piece).unwrap();
            if let Err(error) = self.server.process_new_packets() {
                self.server_error = Some(error);
            }
            // Would-block only.
            let _ = self.server.reader().read_to_end(&mut self.server_received);
        }
    }

    fn server_to_client(&mut self) -> bool {
        let wire = self.take_from_server();
        for piece in wire.chunks(self.chunk) {
            self.feed_client(piece);
        }
        !wire.is_empty()
    }

    pub(crate) fn take_from_server(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut wire).unwrap();
        }
        wire
    }

    pub(crate) fn feed_client(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match self.client.read_ciphertext(piece) {
                Ok(taken) => {
                    assert!(taken > 0 || self.client.has_plaintext(), "no progress");
                    piece = &piece[taken..];
                }
                Err(error) => {
                    self.client_error.get_or_insert(error);
                    piece = &[];
                }
            }
            self.drain_client();
        }
    }

    fn drain_client(&mut self) {
        let mut buffer = [0; 5000];
        loop {
            let read = self.client.plaintext(&mut buffer);
            self.client_received.extend_from_slice(&buffer[..read]);
            if read == 0 {
                assert!(!self.client.has_plaintext());
                return;
            }
        }
    }

    /// Sends both ways as far as the bounds allow, and returns how much went.
    pub(crate) fn write(&mut self, to_server: &[u8], to_client: &[u8]) -> (usize, usize) {
        let sent = self.client.write_plaintext(to_server);
        (sent, self.server.writer().write(to_client).unwrap())
    }

    #[track_caller]
    pub(crate) fn assert_connected(&self) {
        assert!(self.client_error.is_none(), "{:?}", self.client_error);
        assert!(self.server_error.is_none(), "{:?}", self.server_error);
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
    }

    /// The client's failure, which must be of kind TLS with rustls' own error inside.
    #[track_caller]
    pub(crate) fn client_failure(&self) -> String {
        let error = self.client_error.as_ref().expect("the client did not fail");
        assert_eq!(error.kind(), fibp_proto::ErrorKind::Tls);
        let source = error.get_ref().expect("no error of rustls");
        assert!(source.is::<rustls::Error>());
        let text = error.to_string();
        assert!(!text.contains('\n'));
        text
    }
}
