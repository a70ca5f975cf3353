//! TLS: who is trusted, what is refused, and what may happen to the bytes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;
use fibp_proto::{Dialect, Error, ErrorKind, Message, Outcome};
use fila_conformance::adapter::Client;
use fila_conformance::broker::{Broker, FRAMED, Faults, P1, ServerTls, start_with};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce_skip, next};
use fila_conformance::front::{Front, Presents};
use fila_conformance::proxy::{Fault, Flow, Plan, Proxy};
use fila_conformance::session;
use fila_test_broker::certs::{Authority, Identity, self_signed};
use futures::future::Either;

/// The names by which the test servers are reached.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A server with TLS.
struct Served {
    addr: SocketAddr,
    _server: Either<Broker, Front>,
}

/// What a server with TLS is started with.
#[derive(Default)]
struct Options {
    /// PEM of who signs clients' certificates.
    client_authority: Option<String>,
    without_alpn: bool,
    leases_end: bool,
    /// The key that is demanded.
    api_key: Option<String>,
}

/// Starts the embedded broker with TLS; a front before an external server.
fn serve(env: &Env, dialect: Dialect, identity: &Identity, options: &Options) -> Served {
    if env.is_external() {
        let alpn = if matches!(dialect, Dialect::Preamble(_)) {
            "fibp"
        } else {
            "fila/1"
        };
        let presents = Presents {
            chain: &identity.chain_pem,
            key: &identity.key_pem,
            client_authority: options.client_authority.as_deref(),
            alpn: (!options.without_alpn).then_some(alpn),
        };
        let front = Front::start(env.upstream(), &presents);
        return Served {
            addr: front.addr(),
            _server: Either::Right(front),
        };
    }
    let mut tls = server_tls(identity).alpn(!options.without_alpn);
    if let Some(authority) = &options.client_authority {
        tls = tls.client_ca_pem(authority).expect("an authority");
    }
    let faults = Faults::default().leases_kept(!options.leases_end);
    let broker = start_with(dialect, |builder| {
        let builder = builder.tls(tls).faults(faults);
        match &options.api_key {
            Some(key) => builder.api_key(key.as_str()),
            None => builder,
        }
    });
    Served {
        addr: broker.addr(),
        _server: Either::Left(broker),
    }
}

fn server_tls(identity: &Identity) -> ServerTls {
    ServerTls::from_pem(&identity.chain_pem, &identity.key_pem).expect("a server identity")
}

/// Starts a server with TLS; returns the authority that vouches for it, too.
fn start(env: &Env, options: impl FnOnce(&Authority) -> Options) -> (Served, Authority) {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&NAMES).expect("a certificate");
    (serve(env, env.dialect(), &identity, &options(&authority)), authority)
}

fn plain(_: &Authority) -> Options {
    Options::default()
}

/// How to reach it: which dialect is spoken is found out.
fn reach(env: &Env, addr: SocketAddr) -> Config {
    env.at(&addr.to_string()).dialect(Dialect::Auto)
}

fn trusting(env: &Env, server: &Served, authority: &Authority) -> Config {
    reach(env, server.addr).tls(Tls::ca_pem(authority.pem()))
}

async fn refused(env: &Env, config: Config) -> Error {
    let error = env
        .connect(config.connect_timeout(PATIENCE))
        .await
        .err()
        .expect("not to be trusted");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Tls, Outcome::NotSent),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

/// The queue of a session, which creates it. A cluster has it already: clients cannot leave the TLS before one node.
async fn session_queue(env: &Env) -> String {
    match env.is_in_cluster() {
        true => {
            let client = env.client().await;
            env.queue_here(&client, |spec| spec.visibility_timeout(Duration::from_secs(1)))
                .await
        }
        false => env.queue_name(),
    }
}

async fn works(env: &Env, config: Config) -> Arc<dyn Client> {
    let client = env.connect(config).await.expect("a client");
    let queue = env.queue(&client).await;
    let id = client
        .enqueue(Message::new(queue.as_str(), "x"))
        .await
        .expect("confirmed");
    let mut consumer = env.consumer(&client, &queue).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.received().id, id);
    delivery.ack().await.map_err(|(error, _)| error).expect("acked");
    client
}

cases! {
    PlainServer;

    /// Row 22: an authority given as PEM, alone or among others; reached by address, the certificate names it.
    async fn row_22_authorities_are_parsed_in_memory(env: &Env) {
        let (server, authority) = start(env, plain);
        works(env, trusting(env, &server, &authority)).await;
        let others = format!("{}{}", Authority::new().expect("another").pem(), authority.pem());
        works(env, reach(env, server.addr).tls(Tls::ca_pem(others))).await;
    }

    /// Row 23: no process-wide provider is installed, before or after.
    async fn row_23_no_process_wide_provider_is_needed(env: &Env) {
        let (server, authority) = start(env, plain);
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
        works(env, trusting(env, &server, &authority)).await;
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    }

    async fn row_21_a_wrong_host_name_is_refused(env: &Env) {
        let (server, authority) = start(env, plain);
        let elsewhere = Tls::ca_pem(authority.pem()).server_name("elsewhere.example");
        refused(env, reach(env, server.addr).tls(elsewhere)).await;
        // The same name is fine when it is the right one.
        works(env, reach(env, server.addr).tls(Tls::ca_pem(authority.pem()).server_name("localhost"))).await;
    }

    /// Mutual TLS: with the certificate it works, without it the failure comes from the handshake (TLS 1.2) or from
    /// the first read (TLS 1.3).
    async fn client_certificates_are_presented(env: &Env) {
        let client_authority = |authority: &Authority| Options { client_authority: Some(authority.pem()), ..Options::default() };
        let (server, authority) = start(env, client_authority);
        let identity = authority.client("worker").expect("a certificate");
        let tls = Tls::ca_pem(authority.pem()).identity_pem(&identity.chain_pem, identity.key_pem.as_str());
        works(env, reach(env, server.addr).tls(tls)).await;

        refused(env, trusting(env, &server, &authority)).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = Arc::new(client_config(&authority, version));
            refused(env, reach(env, server.addr).tls(Tls::config(config))).await;
        }
        let stranger = Authority::new().expect("another").client("stranger").expect("a certificate");
        let tls = Tls::ca_pem(authority.pem()).identity_pem(&stranger.chain_pem, stranger.key_pem.as_str());
        refused(env, reach(env, server.addr).tls(tls)).await;
    }

    /// Certificates and keys may be in files, which are read when a client connects.
    async fn row_31_certificates_in_files(env: &Env) {
        let client_authority = |authority: &Authority| Options {
            client_authority: Some(authority.pem()),
            ..Options::default()
        };
        let (server, authority) = start(env, client_authority);
        let identity = authority.client("worker").expect("a certificate");
        let folder = Folder::new();
        let ca = folder.file("ca.pem", &authority.pem());
        let (chain, key) = (folder.file("chain.pem", &identity.chain_pem), folder.file("key.pem", &identity.key_pem));
        works(env, reach(env, server.addr).ca_file(ca.as_str()).client_files(chain.as_str(), key.as_str())).await;
        refused(env, reach(env, server.addr).ca_file(ca)).await;
        let stranger = folder.file("stranger.pem", &Authority::new().expect("another").pem());
        refused(env, reach(env, server.addr).ca_file(stranger).client_files(chain, key)).await;
    }

    /// A ready configuration is used as it is, and each version of TLS works.
    async fn ready_configurations_and_both_versions_work(env: &Env) {
        let (server, authority) = start(env, plain);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = Arc::new(client_config(&authority, version));
            works(env, reach(env, server.addr).tls(Tls::config(config))).await;
        }
    }

    /// Servers without ALPN are recognised by their first bytes inside TLS, in both dialects.
    async fn servers_without_alpn_are_recognised(env: &Env) {
        let dialects = if env.is_external() { vec![env.dialect()] } else { vec![P1, FRAMED] };
        for dialect in dialects {
            let authority = Authority::new().expect("an authority");
            let identity = authority.server(&NAMES).expect("a certificate");
            let options = Options { without_alpn: true, ..Options::default() };
            let server = serve(env, dialect, &identity, &options);
            works(env, trusting(env, &server, &authority)).await.close(PATIENCE).await;
        }
    }

    /// The key travels, once TLS is up; the server's answer decides.
    async fn row_27_keys_are_presented_over_tls(env: &Env) {
        let Some(key) = env.required_key() else {
            return announce_skip(env.test(), "FILA_API_KEY names no key that the server demands");
        };
        let (server, authority) = start(env, |_| Options { api_key: Some(key.clone()), ..Options::default() });
        works(env, trusting(env, &server, &authority).api_key(key)).await;
        let error = env.connect(trusting(env, &server, &authority).api_key("wrong")).await.err().expect("a wrong key");
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    }

    /// 10 MiB in each direction at once, encrypted.
    async fn ten_mib_both_ways_over_tls(env: &Env) {
        const MESSAGES: usize = 40;
        const PAYLOAD: usize = 256 * 1024;
        let (server, authority) = start(env, plain);
        let client = env.connect(trusting(env, &server, &authority)).await.expect("a client");
        let (up, down) = (env.queue(&client).await, env.queue(&client).await);
        let messages = |queue: &str| (0..MESSAGES).map(|n| Message::new(queue, vec![n as u8; PAYLOAD])).collect();
        for sent in client.enqueue_many(messages(&down)).await {
            sent.expect("confirmed");
        }
        let sending = env.spawn({
            let (client, messages) = (client.clone(), messages(&up));
            async move { client.enqueue_many(messages).await.into_iter().filter(Result::is_ok).count() }
        });
        let mut consumer = env.consumer(&client, &down).await;
        for n in 0..MESSAGES {
            let delivery = next(&mut consumer).await;
            assert!(delivery.received().payload == vec![n as u8; PAYLOAD], "delivery {n}");
            delivery.ack().await.map_err(|(error, _)| error).expect("acked");
        }
        assert_eq!(sending.join().await, MESSAGES);
    }

    /// Records that come in pieces of any size.
    async fn dribbled_records_are_put_together(env: &Env) {
        let (server, authority) = start(env, plain);
        for size in [1, 100] {
            let proxy = Proxy::start(server.addr, move |_| Plan::Split(size));
            let config = session::patient(env.through(&proxy)).tls(Tls::ca_pem(authority.pem()));
            env.session_on(session_queue(env).await, config, format!("split by {size}")).await;
        }
    }
}

mod refused {
    use super::*;

    cases! {
        PlainServer;

        async fn row_21_a_wrong_authority_is_refused(env: &Env) {
            let (server, _) = start(env, plain);
            let stranger = Authority::new().expect("another");
            let error = refused(env, trusting(env, &server, &stranger)).await;
            assert!(error.get_ref().is_some(), "the cause is kept: {error:?}");
        }

        async fn row_21_an_address_that_the_certificate_lacks_is_refused(env: &Env) {
            let authority = Authority::new().expect("an authority");
            let identity = authority.server(&["localhost"]).expect("a certificate");
            let server = serve(env, env.dialect(), &identity, &Options::default());
            refused(env, trusting(env, &server, &authority)).await;
        }

        async fn row_21_expired_future_and_self_signed_certificates_are_refused(env: &Env) {
            let authority = Authority::new().expect("an authority");
            let expired = authority.expired_server(&NAMES).expect("a certificate");
            let future = authority.future_server(&NAMES).expect("a certificate");
            let alone = self_signed(&NAMES).expect("a certificate");
            for (identity, hint) in [(expired, "expired"), (future, "not valid yet"), (alone, "")] {
                let server = serve(env, env.dialect(), &identity, &Options::default());
                let error = refused(env, trusting(env, &server, &authority)).await;
                assert!(error.to_string().contains(hint), "{hint}: {error}");
            }
        }

        /// Row 21: plaintext to a TLS server.
        async fn row_21_a_plaintext_client_is_told_of_tls(env: &Env) {
            let (server, _) = start(env, plain);
            for dialect in [P1, FRAMED] {
                let error = env.connect(reach(env, server.addr).dialect(dialect)).await.err().expect("not plaintext");
                assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::WrongDialect | ErrorKind::NotFila), "{error}");
                assert!(error.to_string().contains("TLS"), "{error}");
            }
        }

        /// Row 21 and 27: TLS to a plaintext server; the key is not sent.
        async fn row_21_row_27_a_plaintext_server_gets_no_key(env: &Env) {
            let authority = Authority::new().expect("an authority");
            let proxy = env.proxy(|_| Plan::Pass);
            let config = reach(env, proxy.addr()).tls(Tls::ca_pem(authority.pem())).api_key("a-secret-key");
            let error = env.connect(config.connect_timeout(Duration::from_secs(2))).await.err().expect("not TLS");
            assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
            if matches!(env.dialect(), Dialect::Preamble(_)) {
                // A framed server closes without a word.
                assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::NotFila), "{error}");
            }
            for passed in proxy.passed() {
                assert!(!passed.up.windows(12).any(|window| window == b"a-secret-key"));
            }
        }
    }
}

mod broken {
    use super::*;

    cases! {
        QuietPlainServer;

        /// Connections that end without close_notify, at any stage: handshake, authentication, session.
        async fn truncation_is_a_lost_connection_at_every_stage(env: &Env) {
            let (server, authority) = start(env, |_| Options { leases_end: true, ..Options::default() });
            let tls = || Tls::ca_pem(authority.pem());
            let whole = Proxy::start(server.addr, |_| Plan::Pass);
            let config = session::patient(env.through(&whole)).tls(tls());
            env.session_on(session_queue(env).await, config, "unbroken".to_owned()).await;
            let lengths: Vec<_> = whole.passed().iter().map(|passed| passed.down.len()).collect();
            for (broken, length) in lengths.into_iter().enumerate() {
                // Inside the hello, inside the certificates, after the handshake, in the session.
                for after in [0, 3, 100, length / 2, length * 3 / 4, length.saturating_sub(20), length.saturating_sub(1)] {
                    let fault = Fault::Cut;
                    let plan = move |number| if number == broken { Plan::Break { flow: Flow::Down, after, fault } } else { Plan::Pass };
                    let proxy = Proxy::start(server.addr, plan);
                    let what = format!("connection {broken} cut after {after} of {length} bytes");
                    let config = session::config(env.through(&proxy)).tls(tls());
                    env.session_on(session_queue(env).await, config, what).await;
                }
            }
        }
    }
}

/// A folder for files of a case, deleted after it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fila-conformance-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, contents).expect("a file");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0).is_ok();
    }
}

fn client_config(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let pem = authority.pem();
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    roots.add(certificate).expect("a root");
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
