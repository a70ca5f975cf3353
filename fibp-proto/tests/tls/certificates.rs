//! Whom the client trusts, and what it says when it does not.

use fibp_proto::dialect::Dialect;
use fibp_proto::tls::{Tls, TlsContext};
use fibp_proto::{Config, ErrorKind};
use rcgen::date_time_ymd;
use rustls::{AlertDescription, ClientConfig};

use crate::authority::{Authority, Leaf, provider, self_signed};
use crate::pair::{NAME, Pair, ServerOptions, context};

/// Connects to `host` at a server with this certificate and returns how it went.
fn connect(tls: &Tls, host: &str, leaf: &Leaf) -> Pair {
    let mut pair = Pair::new(&context(tls), host, ServerOptions::new(leaf).build());
    pair.run();
    pair
}

#[track_caller]
fn assert_refused(pair: &Pair, says: &[&str], alert: AlertDescription) {
    let text = pair.client_failure();
    for part in says {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    // The alert reached the server although the client had failed.
    assert_eq!(pair.server_error, Some(rustls::Error::AlertReceived(alert)));
}

#[test]
fn names_and_addresses_are_verified() {
    let authority = Authority::new("ca");
    let tls = Tls::ca_pem(authority.pem());
    let leaf = authority.sign(&[NAME, "*.wild.test", "127.0.0.1", "::1"]);
    for host in [
        NAME,
        "BROKER.test",
        "broker.test.",
        "a.wild.test",
        "127.0.0.1",
        "::1",
        "::1%lo",
    ] {
        connect(&tls, host, &leaf).assert_connected();
    }
    for host in ["other.test", "a.b.wild.test", "127.0.0.2", "::2"] {
        let pair = connect(&tls, host, &leaf);
        let quoted = format!("\"{host}\"");
        assert_refused(
            &pair,
            &[&quoted, "broker.test", "server_name"],
            AlertDescription::BadCertificate,
        );
    }
}

#[test]
fn another_server_name_can_be_expected() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    let tls = Tls::ca_pem(authority.pem());
    connect(&tls.clone().server_name(NAME), "10.0.0.1", &leaf).assert_connected();
    let pair = connect(&tls.server_name("other.test"), NAME, &leaf);
    assert_refused(&pair, &["\"other.test\""], AlertDescription::BadCertificate);
}

#[test]
fn one_of_several_ca_certificates_is_enough() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let tls = Tls::ca_pem(format!("comment\n{}{}", first.pem(), second.pem()));
    for authority in [first, second] {
        connect(&tls, NAME, &authority.sign(&[NAME])).assert_connected();
    }
}

#[test]
fn a_foreign_ca_is_refused() {
    let leaf = Authority::new("theirs").sign(&[NAME]);
    let pair = connect(&Tls::ca_pem(Authority::new("ours").pem()), NAME, &leaf);
    assert_refused(&pair, &["no trusted CA", "ca_pem"], AlertDescription::UnknownCA);
}

#[test]
fn a_self_signed_certificate_is_refused_unless_it_is_given() {
    let leaf = self_signed(&[NAME]);
    let pair = connect(&Tls::ca_pem(Authority::new("ours").pem()), NAME, &leaf);
    assert_refused(&pair, &["or by itself", "ca_pem"], AlertDescription::UnknownCA);
    connect(&Tls::ca_pem(&leaf.certificate_pem), NAME, &leaf).assert_connected();
}

#[test]
fn validity_in_time_is_verified() {
    let authority = Authority::new("ca");
    let tls = Tls::ca_pem(authority.pem());
    let expired = authority.sign_with(&[NAME], |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let pair = connect(&tls, NAME, &expired);
    assert_refused(&pair, &["has expired", "clock"], AlertDescription::CertificateExpired);

    let early = authority.sign_with(&[NAME], |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
    });
    let pair = connect(&tls, NAME, &early);
    assert_refused(&pair, &["not valid yet", "clock"], AlertDescription::CertificateExpired);
}

#[test]
fn a_certificate_for_clients_only_is_refused() {
    let authority = Authority::new("ca");
    let leaf = authority.sign_with(&[NAME], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let pair = connect(&Tls::ca_pem(authority.pem()), NAME, &leaf);
    assert!(pair.client_failure().contains("serverAuth"));
}

#[test]
fn a_ready_configuration_is_used_and_left_alone() {
    let authority = Authority::new("ca");
    let mut ready = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    ready.alpn_protocols = vec![b"mine".to_vec()];
    let ready = std::sync::Arc::new(ready);
    let pair = connect(&Tls::config(ready.clone()), NAME, &authority.sign(&[NAME]));
    pair.assert_connected();
    assert_eq!(pair.client.alpn(), Some(&b"fibp"[..]));
    assert_eq!(ready.alpn_protocols, [b"mine"]);
}

#[test]
fn impossible_settings_are_named_before_connecting() {
    let authority = Authority::new("ca");
    let ready = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let cut = authority.pem().replace("-----END CERTIFICATE-----", "");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (tls, says) in [
        (Tls::ca_pem(""), "no certificate in the CA PEM"),
        (Tls::ca_pem(cut), "the CA PEM is malformed"),
        (Tls::ca_pem(junk), "certificate 1 of the CA PEM"),
        (Tls::ca_pem(authority.pem()).server_name("not a name"), "\"not a name\""),
        (
            Tls::config(std::sync::Arc::new(ready)).identity_pem("x", "x"),
            "cannot be combined",
        ),
    ] {
        let validated = Config::new(NAME).tls(tls.clone()).validate().unwrap_err();
        let built = TlsContext::new(&tls, Dialect::Auto).unwrap_err();
        for error in [validated, built] {
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{error} does not say {says:?}");
        }
    }
}

/// Which roots are compiled in decides whether a context can be made; that it is said plainly is what counts.
#[test]
fn roots_that_the_build_lacks_are_named() {
    for (tls, compiled, feature) in [
        (Tls::webpki(), cfg!(feature = "tls-webpki-roots"), "tls-webpki-roots"),
        (
            Tls::platform(),
            cfg!(feature = "tls-platform-roots"),
            "tls-platform-roots",
        ),
    ] {
        match TlsContext::new(&tls, Dialect::Auto) {
            Ok(_) => assert!(compiled),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Config);
                let expected = if compiled { "roots" } else { feature };
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
}
