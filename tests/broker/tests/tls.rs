//! TLS: what real servers do, and certificates that clients must refuse.
#![cfg(feature = "tls")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use fila_test_broker::certs::{self, Authority, Identity};
use fila_test_broker::{AdminRevision, Broker, Dialect, ServerTls};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Stream = StreamOwned<ClientConnection, TcpStream>;

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

fn tls(identity: &Identity) -> ServerTls {
    ServerTls::from_pem(&identity.chain_pem, &identity.key_pem).expect("well formed")
}

fn start(tls: ServerTls, dialects: &[Dialect]) -> Broker {
    let builder = Broker::builder().queue("orders").tls(tls).dialects(dialects);
    builder.start().expect("loopback is there")
}

/// A client that trusts `authority`.
struct Client<'a> {
    authority: &'a Authority,
    identity: Option<&'a Identity>,
    alpn: &'a [&'a str],
    name: &'static str,
}

impl<'a> Client<'a> {
    fn trusting(authority: &'a Authority) -> Self {
        Self {
            authority,
            identity: None,
            alpn: &[],
            name: "localhost",
        }
    }

    fn connect(&self, broker: &Broker) -> io::Result<Stream> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).expect("well formed");
        roots.add(authority).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("provider has them")
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("well formed");
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("well formed");
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.name).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("configured");
        let socket = TcpStream::connect(broker.addr())?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = StreamOwned::new(connection, socket);
        // Completes the handshake.
        stream.flush()?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn refusal(&self, broker: &Broker) -> String {
        match self.connect(broker) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }
}

/// Opens in the preamble dialect and exchanges a heartbeat.
fn greet(stream: &mut Stream) -> io::Result<()> {
    let heartbeat = b"\0\0\0\x06\0\x21\0\0\0\x07";
    stream.write_all(b"FIBP\x01\0")?;
    stream.write_all(heartbeat)?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer[6..], heartbeat);
    Ok(())
}

/// Says goodbye and returns how the connection ends.
fn ending(mut stream: Stream) -> io::Result<usize> {
    stream.write_all(b"\0\0\0\x06\0\xff\0\0\0\0")?;
    stream.read(&mut [0])
}

#[test]
fn alpn_names_the_dialect() {
    let authority = Authority::new().expect("keys can be made");
    let identity = authority.server(&["localhost"]).expect("valid name");
    let all = ["fila/1", "fibp", "h2"];
    for (dialects, offered, selected) in [
        (&[P1][..], &all[..], Some("fibp")),
        (&[Dialect::Handshake], &all, Some("fila/1")),
        (&[P1, Dialect::Handshake], &["fila/1"], Some("fila/1")),
        (&[P1], &[], None),
    ] {
        let broker = start(tls(&identity), dialects);
        let mut client = Client::trusting(&authority);
        client.alpn = offered;
        let stream = client.connect(&broker).expect("accepted");
        assert_eq!(stream.conn.alpn_protocol(), selected.map(str::as_bytes));
    }
    let broker = start(tls(&identity), &[P1]);
    let mut client = Client::trusting(&authority);
    client.alpn = &["fila/1"];
    assert!(client.refusal(&broker).contains("NoApplicationProtocol"));
    let broker = start(tls(&identity).alpn(false), &[P1]);
    assert_eq!(client.connect(&broker).expect("accepted").conn.alpn_protocol(), None);
}

#[test]
fn connections_end_without_close_notify_unless_switched_on() {
    let authority = Authority::new().expect("keys can be made");
    let identity = authority.server(&["localhost"]).expect("valid name");
    for (close_notify, expected) in [(false, Err(io::ErrorKind::UnexpectedEof)), (true, Ok(0))] {
        let broker = start(tls(&identity).close_notify(close_notify), &[P1]);
        assert!(broker.url().starts_with("fila+tls://"));
        let mut stream = Client::trusting(&authority).connect(&broker).expect("accepted");
        greet(&mut stream).expect("served");
        assert_eq!(ending(stream).map_err(|error| error.kind()), expected);
    }
}

#[test]
fn client_certificates_may_be_demanded() {
    let (authority, other) = (
        Authority::new().expect("keys can be made"),
        Authority::new().expect("keys can be made"),
    );
    let identity = authority.server(&["localhost"]).expect("valid name");
    let tls = tls(&identity).client_ca_pem(&authority.pem()).expect("well formed");
    let broker = start(tls, &[P1]);
    let (known, stranger) = (
        authority.client("svc").expect("valid name"),
        other.client("svc").expect("valid name"),
    );
    let mut client = Client::trusting(&authority);
    client.identity = Some(&known);
    greet(&mut client.connect(&broker).expect("accepted")).expect("served");
    for identity in [None, Some(&stranger)] {
        client.identity = identity;
        // With TLS 1.3 the client learns of it only when it reads.
        let refused = client.connect(&broker).and_then(|mut stream| greet(&mut stream));
        assert!(refused.is_err());
    }
}

#[test]
fn certificates_that_clients_refuse() {
    let (authority, other) = (
        Authority::new().expect("keys can be made"),
        Authority::new().expect("keys can be made"),
    );
    let names = &["localhost", "127.0.0.1"];
    for (identity, why) in [
        (authority.expired_server(names), "Expired"),
        (authority.future_server(names), "not valid yet"),
        (authority.server(&["elsewhere"]), "not valid for name"),
        (other.server(names), "UnknownIssuer"),
        (certs::self_signed(names), "UnknownIssuer"),
    ] {
        let broker = start(tls(&identity.expect("can be made")), &[P1]);
        let refusal = Client::trusting(&authority).refusal(&broker);
        assert!(refusal.contains("certificate"), "{refusal}");
        assert!(
            refusal.to_lowercase().contains(&why.to_lowercase()),
            "{refusal} is not {why}"
        );
    }
    // An address is a name too.
    let broker = start(tls(&authority.server(names).expect("can be made")), &[P1]);
    let mut client = Client::trusting(&authority);
    client.name = "127.0.0.1";
    greet(&mut client.connect(&broker).expect("accepted")).expect("served");
}

#[test]
fn a_plain_client_gets_an_alert() {
    let authority = Authority::new().expect("keys can be made");
    let identity = authority.server(&["localhost"]).expect("valid name");
    let broker = start(tls(&identity), &[P1]);
    let mut socket = TcpStream::connect(broker.addr()).expect("broker listens");
    socket.write_all(b"FIBP\x01\0").expect("broker reads");
    let mut answer = Vec::new();
    // It may end with a reset.
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 0x32]);
}

#[test]
fn large_messages_pass_both_ways() {
    let authority = Authority::new().expect("keys can be made");
    let identity = authority.server(&["localhost"]).expect("valid name");
    let broker = start(tls(&identity), &[P1]);
    let mut stream = Client::trusting(&authority).connect(&broker).expect("accepted");
    greet(&mut stream).expect("served");
    let payload: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let size = u32::try_from(payload.len()).expect("small");
    let body = [b"\0\x06orders\0\x01\0", &size.to_be_bytes()[..], &payload].concat();
    let length = u32::try_from(body.len() + 6).expect("small");
    let frame = [&length.to_be_bytes()[..], b"\0\x01\0\0\0\x09", &body].concat();
    stream.write_all(&frame).expect("broker reads");
    stream
        .write_all(b"\0\0\0\x12\0\x02\0\0\0\x0a\0\x06orders\0\0\0\x01")
        .expect("broker reads");
    // Two answers, then the push.
    let mut answers = vec![0; 10 + 41 + 10 + 4 + 8 + 56];
    stream.read_exact(&mut answers).expect("broker answers");
    let mut pushed = vec![0; payload.len()];
    stream.read_exact(&mut pushed).expect("broker pushes");
    assert_eq!(pushed, payload);
}

#[test]
fn nonsense_is_not_a_certificate() {
    let identity = certs::self_signed(&["localhost"]).expect("can be made");
    assert!(ServerTls::from_pem("", &identity.key_pem).is_err());
    assert!(ServerTls::from_pem(&identity.chain_pem, "").is_err());
    assert!(tls(&identity).client_ca_pem("nonsense").is_err());
    let other = certs::self_signed(&["localhost"]).expect("can be made");
    let mixed = ServerTls::from_pem(&identity.chain_pem, &other.key_pem).expect("well formed");
    assert!(Broker::builder().tls(mixed).start().is_err());
}
