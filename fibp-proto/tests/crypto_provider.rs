//! Where the crypto provider comes from. One test in a process of its own, as a provider is installed.
#![cfg(feature = "tls")]

use fibp_proto::ErrorKind;
use fibp_proto::dialect::Dialect;
use fibp_proto::tls::{Tls, TlsContext, TlsPipe};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::CryptoProvider;

#[test]
fn a_provider_is_found_or_missed_without_a_panic() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let tls = Tls::ca_pem(authority.pem());
    let compiled = cfg!(any(feature = "tls-ring", feature = "tls-aws-lc-rs"));

    match TlsContext::new(&tls, Dialect::Auto) {
        Ok(_) => assert!(compiled),
        Err(error) => {
            assert!(!compiled);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("tls-ring"), "{error}");
        }
    }
    assert!(
        CryptoProvider::get_default().is_none(),
        "nothing was installed behind the program's back"
    );

    let provider = rustls::crypto::ring::default_provider();
    assert!(provider.install_default().is_ok());
    let context = TlsContext::new(&tls, Dialect::Auto).unwrap();
    assert!(TlsPipe::new(&context, "broker.test").unwrap().wants_write());
}
