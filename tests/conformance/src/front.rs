//! Proxies with TLS on one side and plain bytes on the other. A front speaks TLS to clients: any plain server with any
//! certificate. A back speaks TLS to the server: any server with TLS as a plain one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use fibp_proto::tls::{TlsContext, TlsPipe};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

/// What a front presents and demands. Everything is PEM.
#[derive(Debug, Clone, Default)]
pub struct Presents<'a> {
    /// Its certificate, and those up to the authority.
    pub chain: &'a str,
    /// Its private key.
    pub key: &'a str,
    /// Who signs the certificates of clients that are let in; `None` lets in everybody.
    pub client_authority: Option<&'a str>,
    /// The one protocol that it takes part in ALPN with.
    pub alpn: Option<&'a str>,
}

/// A running front. Dropping it ends with the connections that it accepted.
#[derive(Debug)]
pub struct Front(Listening);

impl Front {
    /// Stands before `upstream`.
    ///
    /// # Panics
    ///
    /// The PEM is malformed, or the loopback interface has no free port.
    pub fn start(upstream: SocketAddr, presents: &Presents<'_>) -> Self {
        let config = Arc::new(presents.config());
        Self(Listening::start(upstream, move |client, server| {
            let mut session = ServerConnection::new(config.clone()).expect("a session");
            session.set_buffer_limit(None);
            Link::start(client, server, Session::Server(Box::new(session)));
        }))
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// A running back. Dropping it ends with the connections that it accepted.
#[derive(Debug)]
pub struct Back(Listening);

impl Back {
    /// Stands before `upstream`, whose certificate is for `host`.
    ///
    /// # Panics
    ///
    /// No certificate could be for that name, or the loopback interface has no free port.
    pub fn start(upstream: SocketAddr, host: &str, context: TlsContext) -> Self {
        let host = host.to_owned();
        Self(Listening::start(upstream, move |client, server| {
            let session = TlsPipe::new(&context, &host).expect("a name");
            Link::start(server, client, Session::Client(Box::new(session)));
        }))
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// The accepting side of both.
#[derive(Debug)]
struct Listening {
    addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Listening {
    fn start(upstream: SocketAddr, link: impl Fn(TcpStream, TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on the loopback interface");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = std::thread::spawn({
            let stopping = stopping.clone();
            move || {
                while let Ok((client, _)) = listener.accept() {
                    if stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    // Without a server the client sees its connection closed.
                    if let Ok(server) = TcpStream::connect(upstream) {
                        link(client, server);
                    }
                }
            }
        });
        Self {
            addr,
            stopping,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
        let _panicked = self.accepting.take().is_some_and(|thread| thread.join().is_err());
    }
}

impl Presents<'_> {
    fn config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match self.client_authority {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem) {
                    roots.add(certificate).expect("a root");
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let mut config = builder
            .with_single_cert(certificates(self.chain), key)
            .expect("a certificate and its key");
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates")
}

/// The TLS of one connection, from either end.
enum Session {
    Server(Box<ServerConnection>),
    Client(Box<TlsPipe>),
}

impl Session {
    /// Appends what these bytes decrypt to. The session may have something to send afterwards, even if it failed.
    fn decrypt(&mut self, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> io::Result<()> {
        while !ciphertext.is_empty() {
            match self {
                Self::Server(session) => {
                    session.read_tls(&mut ciphertext)?;
                    session.process_new_packets().map_err(io::Error::other)?;
                    match session.reader().read_to_end(plaintext) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
                Self::Client(session) => {
                    let read = session.read_ciphertext(ciphertext);
                    let mut piece = [0; 16 * 1024];
                    while session.has_plaintext() {
                        let length = session.plaintext(&mut piece);
                        plaintext.extend_from_slice(&piece[..length]);
                    }
                    ciphertext = &ciphertext[read.map_err(io::Error::other)?..];
                }
            }
        }
        Ok(())
    }

    /// Whether data can be encrypted already.
    fn is_ready(&self) -> bool {
        match self {
            // What is written earlier waits in the session.
            Self::Server(_) => true,
            Self::Client(session) => !session.is_handshaking(),
        }
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::Server(session) => session.wants_write(),
            Self::Client(session) => session.wants_write(),
        }
    }

    /// Appends what these bytes encrypt to, after what the session has to say itself.
    fn encrypt(&mut self, mut plaintext: &[u8], ciphertext: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Server(session) => {
                session.writer().write_all(plaintext)?;
                while session.wants_write() {
                    session.write_tls(ciphertext)?;
                }
            }
            Self::Client(session) => {
                session.take_ciphertext(ciphertext);
                while !plaintext.is_empty() {
                    let written = session.write_plaintext(plaintext);
                    if written == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    plaintext = &plaintext[written..];
                    session.take_ciphertext(ciphertext);
                }
            }
        }
        Ok(())
    }
}

/// Both sides of one connection.
struct Link {
    encrypted: TcpStream,
    plain: TcpStream,
    session: Mutex<Session>,
    /// The session's handshake went on, or the link ended.
    moved: Condvar,
    ended: AtomicBool,
    /// Whoever writes to the encrypted side holds it from encrypting on: records must not overtake each other.
    writer: Mutex<()>,
}

impl Link {
    fn start(encrypted: TcpStream, plain: TcpStream, session: Session) {
        for socket in [&encrypted, &plain] {
            socket.set_nodelay(true).expect("a connected socket");
        }
        let link = Arc::new(Self {
            encrypted,
            plain,
            session: Mutex::new(session),
            moved: Condvar::new(),
            ended: AtomicBool::new(false),
            writer: Mutex::new(()),
        });
        let other = link.clone();
        std::thread::spawn(move || link.run(Self::pump_decrypted));
        std::thread::spawn(move || other.run(Self::pump_encrypted));
    }

    fn run(&self, pump: impl FnOnce(&Self) -> io::Result<()>) {
        if pump(self).is_err() {
            self.end();
            for socket in [&self.encrypted, &self.plain] {
                let _gone = socket.shutdown(Shutdown::Both).is_err();
            }
        }
    }

    /// Nobody needs to wait for the handshake any more.
    fn end(&self) {
        let _session = lock(&self.session);
        self.ended.store(true, Ordering::SeqCst);
        self.moved.notify_all();
    }

    fn pump_decrypted(&self) -> io::Result<()> {
        // The end that connects begins.
        self.write(&[])?;
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = (&self.encrypted).read(&mut bytes)?;
            if read == 0 {
                self.end();
                return self.plain.shutdown(Shutdown::Write);
            }
            let mut plaintext = Vec::new();
            let (failed, answers) = {
                let mut session = lock(&self.session);
                let failed = session.decrypt(&bytes[..read], &mut plaintext).err();
                self.moved.notify_all();
                (failed, session.wants_write())
            };
            if answers {
                self.write(&[])?;
            }
            (&self.plain).write_all(&plaintext)?;
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
    }

    fn pump_encrypted(&self) -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = (&self.plain).read(&mut bytes)?;
            self.wait_ready()?;
            if read == 0 {
                // Real servers end without close_notify.
                return self.encrypted.shutdown(Shutdown::Write);
            }
            self.write(&bytes[..read])?;
        }
    }

    fn wait_ready(&self) -> io::Result<()> {
        let mut session = lock(&self.session);
        while !session.is_ready() {
            if self.ended.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            session = self.moved.wait(session).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Encrypts these bytes and writes them, and what the session has to say itself.
    fn write(&self, plaintext: &[u8]) -> io::Result<()> {
        let _writer = lock(&self.writer);
        let mut ciphertext = Vec::new();
        lock(&self.session).encrypt(plaintext, &mut ciphertext)?;
        (&self.encrypted).write_all(&ciphertext)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
