//! TLS of other makers, where this machine has them: started by the test, skipped by name where absent.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;
use fibp_proto::{ErrorKind, State};
use fila_conformance::broker::P1;
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce_skip};
use fila_conformance::script::PREAMBLE;
use fila_test_broker::certs::Authority;

/// `openssl s_server`: what is written to its input goes to the client.
struct OpenSsl {
    child: Child,
    input: Option<ChildStdin>,
    addr: SocketAddr,
    folder: PathBuf,
}

impl OpenSsl {
    /// `None`, with a note, where there is no OpenSSL.
    fn serve(env: &Env, authority: &Authority, version: &str) -> Option<Self> {
        // Its port is chosen before it binds it: another process may be faster.
        (0..10)
            .map_while(|_| Self::start(env, authority, version))
            .find_map(|mut server| server.is_listening().then_some(server))
    }

    fn start(env: &Env, authority: &Authority, version: &str) -> Option<Self> {
        let identity = authority.server(&["localhost", "127.0.0.1"]).expect("a certificate");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let addr = free.expect("a free port");
        // OpenSSL reads files only.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fila-conformance-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, pem: &str| {
            let path = folder.join(name);
            std::fs::write(&path, pem).expect("a file");
            path
        };
        let (chain, key) = (
            file("chain.pem", &identity.chain_pem),
            file("key.pem", &identity.key_pem),
        );
        let child = Command::new("openssl")
            .args(["s_server", version, "-accept", &addr.to_string()])
            .arg("-cert")
            .arg(chain)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            announce_skip(env.test(), "there is no openssl here");
            return None;
        };
        let input = child.stdin.take();
        Some(Self {
            child,
            input,
            addr,
            folder,
        })
    }

    /// It says so on its output. A connection to find out would be served, and eat the input.
    fn is_listening(&mut self) -> bool {
        let output = self.child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let listening = lines.any(|line| line.starts_with("ACCEPT"));
        // Goes on reading, so that the pipe never fills up.
        std::thread::spawn(move || lines.for_each(drop));
        listening
    }

    fn send(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("a pipe");
        input
            .write_all(bytes)
            .and_then(|()| input.flush())
            .expect("openssl reads");
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait()).is_ok();
        let _gone = std::fs::remove_dir_all(&self.folder).is_ok();
    }
}

cases! {
    Peer;

    /// The handshake succeeds with OpenSSL in both versions, without ALPN, and what it then says is understood.
    async fn openssl_is_understood(env: &Env) {
        let authority = Authority::new().expect("an authority");
        for version in ["-tls1_2", "-tls1_3"] {
            let Some(mut server) = OpenSsl::serve(env, &authority, version) else { return };
            let config = Config::new(server.addr).dialect(P1).tls(Tls::ca_pem(authority.pem()));
            let adapter = env.adapter().clone();
            let connecting = env.spawn(async move { adapter.connect(config).await });
            server.send(&PREAMBLE);
            let client = connecting.join().await.unwrap_or_else(|error| panic!("{version}: {error}"));
            assert_eq!(client.state(), State::Connected);
            client.close(PATIENCE).await;
        }
    }

    /// An authority that OpenSSL's certificate is not signed by is an error, whoever presents it.
    async fn openssl_with_a_strange_certificate_is_refused(env: &Env) {
        let (authority, stranger) = (Authority::new().expect("an authority"), Authority::new().expect("another"));
        let Some(server) = OpenSsl::serve(env, &stranger, "-tls1_3") else { return };
        let config = Config::new(server.addr).dialect(P1).tls(Tls::ca_pem(authority.pem()));
        let error = env.connect(config).await.err().expect("not to be trusted");
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    }
}
