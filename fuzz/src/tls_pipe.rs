//! A TLS connection to a real server over a wire that loses, changes and adds bytes: what arrives is a beginning of what
//! was sent, and an end that was not signed is not taken for one that was.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::tls::{Tls, TlsContext, TlsEnd, TlsPipe};
use fibp_proto::{Dialect, ErrorKind};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

const NAME: &str = "broker.test";

#[derive(Debug, Arbitrary)]
struct Case {
    old: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// Both ways until nothing moves.
    Carry,
    ClientSends(u16),
    ServerSends(u16),
    ToServer {
        most: u16,
    },
    ToClient {
        most: u16,
    },
    /// Changes a byte on its way to the client.
    Change {
        at: u16,
        by: u8,
    },
    /// Loses what is on its way from there on.
    Lose {
        from: u16,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    ServerCloses,
    ClientCloses,
}

struct Keys {
    client: TlsContext,
    servers: [Arc<ServerConfig>; 2],
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("can be made");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = |version| {
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .expect("known")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key);
            Arc::new(config.expect("a certificate"))
        };
        Keys {
            client: TlsContext::new(&Tls::ca_pem(made.cert.pem()), Dialect::Auto).expect("a CA"),
            servers: [server(&rustls::version::TLS12), server(&rustls::version::TLS13)],
        }
    })
}

/// Sends bytes both ways over the wire that the input describes.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut pair = Pair::new(case.old);
    for step in case.steps.iter().take(40) {
        pair.step(step);
    }
    pair.feed_client(usize::MAX);
    let end = pair.client.handle_eof();
    if pair.failed {
        assert!(end.is_err(), "the failure stays");
    } else if matches!(end, Ok(TlsEnd::CloseNotify)) {
        assert!(pair.server_closed, "nobody signed this end");
        assert_eq!(pair.received, pair.server_sent, "and all arrived before it");
    }
}

struct Pair {
    client: TlsPipe,
    server: ServerConnection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    server_sent: usize,
    received: usize,
    failed: bool,
    server_failed: bool,
    server_closed: bool,
    client_closed: bool,
    /// Not everything on the wire is the server's.
    changed: bool,
}

/// The byte that is sent at this place.
fn byte(at: usize) -> u8 {
    (at % 251).to_le_bytes()[0]
}

fn bytes(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(byte).collect()
}

impl Pair {
    fn new(old: bool) -> Self {
        let server = Arc::clone(&keys().servers[usize::from(!old)]);
        Self {
            client: TlsPipe::new(&keys().client, NAME).expect("a name"),
            server: ServerConnection::new(server).expect("a configuration"),
            to_server: Vec::new(),
            to_client: Vec::new(),
            server_sent: 0,
            received: 0,
            failed: false,
            server_failed: false,
            server_closed: false,
            client_closed: false,
            changed: false,
        }
    }

    fn step(&mut self, step: &Step) {
        self.collect();
        match step {
            Step::Carry => {
                for _ in 0..20 {
                    self.feed_server(usize::MAX);
                    self.collect();
                    self.feed_client(usize::MAX);
                    self.collect();
                }
            }
            Step::ClientSends(n) => {
                let sent = self.client.write_plaintext(&bytes(0, usize::from(*n)));
                assert!(sent <= usize::from(*n));
                assert!(sent == 0 || !self.failed, "after a failure nothing is written");
            }
            // What waits for the end of a handshake is lost when the server closes before that.
            Step::ServerSends(n) if !self.server_failed && !self.server_closed && !self.server.is_handshaking() => {
                let more = bytes(self.server_sent, usize::from(*n));
                self.server_sent += self.server.writer().write(&more).unwrap_or(0);
            }
            Step::ToServer { most } => self.feed_server(usize::from(*most)),
            Step::ToClient { most } => self.feed_client(usize::from(*most)),
            Step::Change { at, by } if !self.client_closed => {
                self.changed = true;
                let n = self.to_client.len().max(1);
                if let Some(byte) = self.to_client.get_mut(usize::from(*at) % n) {
                    *byte ^= by;
                }
            }
            Step::Lose { from } if !self.client_closed => {
                self.changed = true;
                self.to_client.truncate(usize::from(*from));
            }
            Step::Insert { at, bytes } if !self.client_closed => {
                self.changed = true;
                let at = usize::from(*at).min(self.to_client.len());
                self.to_client.splice(at..at, bytes.iter().copied());
            }
            // Whose alert is out already has nothing to close.
            Step::ServerCloses if !self.server_failed => {
                self.server_closed = true;
                self.server.send_close_notify();
            }
            // In debug builds rustls asserts that no bad record comes after its own close_notify.
            Step::ClientCloses if !self.changed => {
                self.client_closed = true;
                self.client.close_notify();
            }
            Step::ServerSends(_) | Step::ServerCloses | Step::ClientCloses => {}
            Step::Change { .. } | Step::Lose { .. } | Step::Insert { .. } => {}
        }
    }

    /// Puts on the wire what both sides want to send.
    fn collect(&mut self) {
        let before = self.to_server.len();
        let n = self.client.take_ciphertext(&mut self.to_server);
        assert_eq!(self.to_server.len(), before + n);
        assert!(n <= 160 * 1024, "{n} bytes waited to be sent");
        assert!(!self.client.wants_write());
        while self.server.wants_write() && self.to_client.len() < 1 << 20 {
            self.server.write_tls(&mut self.to_client).expect("into memory");
        }
    }

    fn feed_server(&mut self, most: usize) {
        let n = most.min(self.to_server.len());
        let piece: Vec<u8> = self.to_server.drain(..n).collect();
        let mut piece = &piece[..];
        while !piece.is_empty() && !self.server_failed && !self.server_closed {
            let taken = self.server.read_tls(&mut piece);
            self.server_failed = taken.is_err() || self.server.process_new_packets().is_err();
            let mut sink = Vec::new();
            // Would-block only.
            let _ = self.server.reader().read_to_end(&mut sink);
        }
    }

    fn feed_client(&mut self, most: usize) {
        let n = most.min(self.to_client.len());
        let piece: Vec<u8> = self.to_client.drain(..n).collect();
        let mut piece = &piece[..];
        while !piece.is_empty() {
            match self.client.read_ciphertext(piece) {
                Ok(taken) => {
                    assert!(!self.failed, "a failure is for ever");
                    assert!(taken > 0 || self.client.has_plaintext(), "no progress");
                    piece = &piece[taken..];
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
                    self.failed = true;
                    piece = &[];
                }
            }
            self.fetch();
        }
    }

    fn fetch(&mut self) {
        let mut buffer = [0; 3000];
        loop {
            let n = self.client.plaintext(&mut buffer);
            if n == 0 {
                return assert!(!self.client.has_plaintext());
            }
            let sent = (self.received..).map(byte);
            assert!(buffer[..n].iter().copied().eq(sent.take(n)), "nobody sent this");
            self.received += n;
            assert!(self.received <= self.server_sent, "more than was sent");
        }
    }
}
