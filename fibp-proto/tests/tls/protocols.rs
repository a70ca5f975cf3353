//! ALPN, versions, resumption, and peers that do not speak TLS.

use std::sync::Arc;

use fibp_proto::ErrorKind;
use fibp_proto::dialect::{AdminRevision, Dialect};
use fibp_proto::tls::{Tls, TlsContext, TlsPipe};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, HandshakeKind};

use crate::authority::Authority;
use crate::pair::{NAME, Pair, ServerOptions, context};

fn negotiate(dialect: Dialect, alpn: &[&[u8]]) -> Pair {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    let context = TlsContext::new(&Tls::ca_pem(authority.pem()), dialect).unwrap();
    let server = ServerOptions {
        alpn,
        ..ServerOptions::new(&leaf)
    };
    let mut pair = Pair::new(&context, NAME, server.build());
    pair.run();
    pair
}

#[test]
fn alpn_tells_the_dialect() {
    let preamble = Dialect::Preamble(AdminRevision::Protobuf);
    for (dialect, server, chosen) in [
        (Dialect::Auto, &[&b"fibp"[..]][..], Some(&b"fibp"[..])),
        (Dialect::Auto, &[b"fila/1"], Some(b"fila/1")),
        (Dialect::Auto, &[b"h2"], Some(b"h2")),
        (Dialect::Auto, &[b"h2", b"fila/1"], Some(b"h2")),
        (Dialect::Auto, &[], None),
        (preamble, &[b"fibp"], Some(b"fibp")),
        (preamble, &[], None),
        (Dialect::Handshake, &[b"fila/1"], Some(b"fila/1")),
        (Dialect::HandshakeEarly, &[b"h2", b"fila/1"], Some(b"fila/1")),
    ] {
        let pair = negotiate(dialect, server);
        pair.assert_connected();
        assert_eq!(pair.client.alpn(), chosen);
    }
}

#[test]
fn no_common_alpn_is_explained() {
    for (dialect, server) in [
        (Dialect::Auto, &b"http/1.1"[..]),
        (Dialect::Preamble(AdminRevision::Binary), b"fila/1"),
        (Dialect::Handshake, b"fibp"),
    ] {
        let text = negotiate(dialect, &[server]).client_failure();
        assert!(
            text.contains("no_application_protocol") && text.contains("dialect"),
            "{text}"
        );
    }
}

#[test]
fn both_versions_are_spoken_and_resumed() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    for version in [&TLS12, &TLS13] {
        let context = context(&Tls::ca_pem(authority.pem()));
        let server = ServerOptions {
            versions: &[version],
            ..ServerOptions::new(&leaf)
        }
        .build();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            // A clone shares the sessions.
            let mut pair = Pair::new(&context.clone(), NAME, Arc::clone(&server));
            pair.run();
            pair.assert_connected();
            assert_eq!(pair.server.protocol_version(), Some(version.version));
            assert_eq!(pair.server.handshake_kind(), Some(kind));
            assert_eq!(pair.client.alpn(), Some(&b"fibp"[..]));
        }
    }
}

#[test]
fn a_peer_without_tls_is_recognised() {
    let context = context(&Tls::ca_pem(Authority::new("ca").pem()));
    for answer in [
        &b"FIBP\x01\x00"[..],
        b"\x00\x00\x00\x13\x00\xff\x00\x00\x00\x00invalid magic",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let mut pipe = TlsPipe::new(&context, NAME).unwrap();
        let error = pipe.read_ciphertext(answer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(error.to_string().contains("does not speak TLS on this port"), "{error}");
        // Every later call says the same.
        assert_eq!(pipe.read_ciphertext(b"x").unwrap_err().to_string(), error.to_string());
        assert_eq!(pipe.handle_eof().unwrap_err().to_string(), error.to_string());
    }
}

#[test]
fn alerts_in_the_clear_are_named() {
    let context = context(&Tls::ca_pem(Authority::new("ca").pem()));
    for (alert, says) in [
        (AlertDescription::ProtocolVersion, "neither TLS 1.2 nor TLS 1.3"),
        (AlertDescription::UnrecognisedName, "no certificate for \"broker.test\""),
        (AlertDescription::HandshakeFailure, "client certificate"),
        (AlertDescription::InternalError, "InternalError"),
    ] {
        let mut pipe = TlsPipe::new(&context, NAME).unwrap();
        let error = pipe
            .read_ciphertext(&[0x15, 3, 3, 0, 2, 2, u8::from(alert)])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_host_that_no_certificate_can_name_is_refused() {
    let context = context(&Tls::ca_pem(Authority::new("ca").pem()));
    let error = TlsPipe::new(&context, "under score\n").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(!error.to_string().contains('\n'));
}
