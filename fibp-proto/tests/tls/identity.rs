//! Client certificates.

use fibp_proto::dialect::Dialect;
use fibp_proto::tls::{Tls, TlsContext};
use fibp_proto::{Config, ErrorKind};
use rcgen::KeyPair;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::authority::{Authority, Leaf};
use crate::pair::{NAME, Pair, ServerOptions, context};

/// Connects to a server that requires certificates of `clients`.
fn connect(authority: &Authority, tls: &Tls, version: &'static SupportedProtocolVersion) -> Pair {
    let leaf = authority.sign(&[NAME]);
    let server = ServerOptions {
        clients: Some(authority),
        versions: &[version],
        ..ServerOptions::new(&leaf)
    };
    let mut pair = Pair::new(&context(tls), NAME, server.build());
    pair.run();
    pair
}

fn with_identity(authority: &Authority, leaf: &Leaf) -> Tls {
    Tls::ca_pem(authority.pem()).identity_pem(&leaf.certificate_pem, leaf.key.serialize_pem())
}

#[test]
fn a_good_certificate_is_accepted() {
    let authority = Authority::new("ca");
    let client = authority.sign(&["client"]);
    for version in [&TLS12, &TLS13] {
        let mut pair = connect(&authority, &with_identity(&authority, &client), version);
        pair.assert_connected();
        assert_eq!(pair.server.peer_certificates(), Some(&[client.certificate.clone()][..]));
        pair.write(b"to server", b"to client");
        pair.run();
        assert_eq!(
            (&pair.server_received[..], &pair.client_received[..]),
            (&b"to server"[..], &b"to client"[..])
        );
    }
}

#[test]
fn a_missing_certificate_is_asked_for() {
    let authority = Authority::new("ca");
    for version in [&TLS12, &TLS13] {
        let pair = connect(&authority, &Tls::ca_pem(authority.pem()), version);
        let text = pair.client_failure();
        assert!(
            text.contains("client certificate") && text.contains("identity_pem"),
            "{text}"
        );
    }
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_the_server() {
    let authority = Authority::new("ca");
    let client = Authority::new("other").sign(&["client"]);
    for version in [&TLS12, &TLS13] {
        let pair = connect(&authority, &with_identity(&authority, &client), version);
        let text = pair.client_failure();
        assert!(text.contains("the server refused the client certificate"), "{text}");
    }
}

#[test]
fn with_tls13_the_refusal_comes_after_the_handshake() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    let server = ServerOptions {
        clients: Some(&authority),
        versions: &[&TLS13],
        ..ServerOptions::new(&leaf)
    };
    let mut pair = Pair::new(&context(&Tls::ca_pem(authority.pem())), NAME, server.build());
    let mut hello = Vec::new();
    pair.client.take_ciphertext(&mut hello);
    pair.feed_server(&hello);
    let flight = pair.take_from_server();
    pair.feed_client(&flight);
    assert!(pair.client_error.is_none() && !pair.client.is_handshaking());
    assert_eq!(pair.client.write_plaintext(b"early"), 5);
    pair.run();
    assert!(pair.client_failure().contains("requires a client certificate"));
    assert!(pair.server_received.is_empty());
    assert_eq!(pair.client.write_plaintext(b"late"), 0);
}

/// The content of the OCTET STRING that ends a PKCS#8 structure: the key in its own older format.
fn inner_key(pkcs8: &[u8]) -> Vec<u8> {
    let mut at = pkcs8.len();
    while at > 0 {
        at -= 1;
        let length = match pkcs8[at..] {
            [0x04, length @ 0..=0x7f, ..] => (2, usize::from(length)),
            [0x04, 0x81, length, ..] => (3, usize::from(length)),
            _ => continue,
        };
        let content = &pkcs8[at + length.0..];
        if content.len() == length.1 && content.first() == Some(&0x30) {
            return content.to_vec();
        }
    }
    panic!("no inner key");
}

fn armoured(label: &str, der: &[u8]) -> String {
    armour(label, &base64(der))
}

fn armour(label: &str, base64: &str) -> String {
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            let sextet = usize::try_from(bits >> (18 - 6 * index) & 63).unwrap();
            text.push(if index <= group.len() {
                char::from(ALPHABET[sextet])
            } else {
                '='
            });
        }
    }
    text
}

#[test]
fn keys_in_each_format() {
    let authority = Authority::new("ca");
    let ecdsa = authority.sign(&["client"]);
    // Made for this test: the certificate maker can sign with RSA keys, but not generate them.
    let pkcs1 = armour("RSA PRIVATE KEY", include_str!("rsa-pkcs1.base64").trim());
    let rsa = authority.sign_key(&["client"], KeyPair::from_pem(&rsa_pkcs8(&pkcs1)).unwrap(), |_| {});
    let sec1 = armoured("EC PRIVATE KEY", &inner_key(ecdsa.key.serialized_der()));
    for (leaf, key) in [
        (&ecdsa, ecdsa.key.serialize_pem()),
        (&ecdsa, sec1),
        // The key may follow the certificates of the same file.
        (
            &ecdsa,
            format!("{}{}", ecdsa.certificate_pem, ecdsa.key.serialize_pem()),
        ),
        (&rsa, pkcs1),
    ] {
        let tls = Tls::ca_pem(authority.pem()).identity_pem(&leaf.certificate_pem, key);
        connect(&authority, &tls, &TLS13).assert_connected();
    }
}

/// Wraps a PKCS#1 key of 2048 bits, whose lengths all need two bytes, for the certificate maker.
fn rsa_pkcs8(pkcs1_pem: &str) -> String {
    use rustls::pki_types::PrivatePkcs1KeyDer;
    use rustls::pki_types::pem::PemObject as _;
    const RSA: &[u8] = &[
        0x02, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
    ];
    let key = PrivatePkcs1KeyDer::from_pem_slice(pkcs1_pem.as_bytes()).unwrap();
    let long = |tag: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, high, low], content].concat()
    };
    let octets = long(0x04, key.secret_pkcs1_der());
    armoured("PRIVATE KEY", &long(0x30, &[RSA, &octets].concat()))
}

#[test]
fn what_is_no_identity_is_named() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.sign(&["one"]), authority.sign(&["other"]));
    let (certificate, key) = (&one.certificate_pem, one.key.serialize_pem());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let broken = key.replace("MIG", "?");
    for (certificate, key, says) in [
        ("", &key, "no certificate in the client certificate PEM"),
        (&key, &key, "no certificate in the client certificate PEM"),
        (certificate, &String::new(), "no private key"),
        (certificate, certificate, "but a certificate"),
        (certificate, &encrypted, "encrypted"),
        (certificate, &broken, "client key PEM is malformed"),
        (certificate, &other.key.serialize_pem(), "not for the client key"),
    ] {
        let tls = Tls::ca_pem(authority.pem()).identity_pem(certificate, key.as_str());
        let error = TlsContext::new(&tls, Dialect::Auto).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(says), "{shown} does not say {says:?}");
        let secret = key.lines().nth(1).unwrap_or("nothing secret");
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn keys_are_never_shown() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&["client"]);
    let tls = with_identity(&authority, &leaf);
    let secret = leaf.key.serialize_pem();
    let secret = secret.lines().nth(1).unwrap();
    let shown = format!("{:?} {:?} {:?}", tls, Config::new(NAME).tls(tls.clone()), context(&tls));
    assert!(!shown.contains(secret) && shown.contains("redacted"));
}
