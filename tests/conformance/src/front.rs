//! A proxy that speaks TLS to clients and passes on plain bytes: any plain server with any certificate.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

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
pub struct Front {
    addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Front {
    /// Stands before `upstream`.
    ///
    /// # Panics
    ///
    /// The PEM is malformed, or the loopback interface has no free port.
    pub fn start(upstream: SocketAddr, presents: &Presents<'_>) -> Self {
        let config = Arc::new(presents.config());
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
                        Link::start(client, server, &config);
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

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Front {
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

/// Both sides of one connection.
struct Link {
    client: TcpStream,
    server: TcpStream,
    session: Mutex<ServerConnection>,
    /// Whoever writes to the client holds it from encrypting on: records must not overtake each other.
    writer: Mutex<()>,
}

impl Link {
    fn start(client: TcpStream, server: TcpStream, config: &Arc<ServerConfig>) {
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("a connected socket");
        }
        let mut session = ServerConnection::new(config.clone()).expect("a session");
        session.set_buffer_limit(None);
        let link = Arc::new(Self {
            client,
            server,
            session: Mutex::new(session),
            writer: Mutex::new(()),
        });
        let down = link.clone();
        std::thread::spawn(move || link.run(Self::pump_up));
        std::thread::spawn(move || down.run(Self::pump_down));
    }

    fn run(&self, pump: impl FnOnce(&Self) -> io::Result<()>) {
        if pump(self).is_err() {
            for socket in [&self.client, &self.server] {
                let _gone = socket.shutdown(Shutdown::Both).is_err();
            }
        }
    }

    fn pump_up(&self) -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = (&self.client).read(&mut bytes)?;
            if read == 0 {
                return self.server.shutdown(Shutdown::Write);
            }
            let mut plaintext = Vec::new();
            let (failed, answers) = {
                let mut session = lock(&self.session);
                let failed = decrypt(&mut session, &bytes[..read], &mut plaintext).err();
                (failed, session.wants_write())
            };
            if answers {
                self.write(&[])?;
            }
            if let Some(failed) = failed {
                return Err(failed);
            }
            (&self.server).write_all(&plaintext)?;
        }
    }

    fn pump_down(&self) -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = (&self.server).read(&mut bytes)?;
            if read == 0 {
                // Real servers end without close_notify.
                return self.client.shutdown(Shutdown::Write);
            }
            self.write(&bytes[..read])?;
        }
    }

    /// Encrypts these bytes and writes them, and what the session has to say itself.
    fn write(&self, plaintext: &[u8]) -> io::Result<()> {
        let _writer = lock(&self.writer);
        let mut ciphertext = Vec::new();
        {
            let mut session = lock(&self.session);
            session.writer().write_all(plaintext)?;
            while session.wants_write() {
                session.write_tls(&mut ciphertext)?;
            }
        }
        (&self.client).write_all(&ciphertext)
    }
}

fn decrypt(session: &mut ServerConnection, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> io::Result<()> {
    while !ciphertext.is_empty() {
        session.read_tls(&mut ciphertext)?;
        session.process_new_packets().map_err(io::Error::other)?;
        match session.reader().read_to_end(plaintext) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
