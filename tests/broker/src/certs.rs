//! Certificates for TLS tests, made in memory.
//!
//! ```
//! use fila_test_broker::certs::Authority;
//! use fila_test_broker::{Broker, ServerTls};
//!
//! let authority = Authority::new()?;
//! let server = authority.server(&["localhost", "127.0.0.1"])?;
//! let tls = ServerTls::from_pem(&server.chain_pem, &server.key_pem)?;
//! let broker = Broker::builder().tls(tls).start()?;
//! // Let the client trust `authority.pem()`.
//! # drop(broker);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate chain, leaf first, and its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate chain.
    pub chain_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    ///
    /// The cryptographic library fails.
    pub fn new() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        // Authorities of one name and different keys would be told apart by their signatures only.
        let tail: String = key
            .public_key_raw()
            .iter()
            .rev()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut params = named(&format!("fila-test-broker authority {tail}"), &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        Ok(Self { issuer })
    }

    /// Its certificate (PEM).
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    ///
    /// A name is neither, or the cryptographic library fails.
    pub fn server(&self, names: &[&str]) -> io::Result<Identity> {
        self.sign(server_params(names)?)
    }

    /// A server certificate that expired long ago.
    ///
    /// # Errors
    ///
    /// As for [`server`](Self::server).
    pub fn expired_server(&self, names: &[&str]) -> io::Result<Identity> {
        let mut params = server_params(names)?;
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(params)
    }

    /// A server certificate that is not valid for a long time to come.
    ///
    /// # Errors
    ///
    /// As for [`server`](Self::server).
    pub fn future_server(&self, names: &[&str]) -> io::Result<Identity> {
        let mut params = server_params(names)?;
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
        self.sign(params)
    }

    /// A client certificate.
    ///
    /// # Errors
    ///
    /// The cryptographic library fails.
    pub fn client(&self, name: &str) -> io::Result<Identity> {
        let mut params = named(name, &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> io::Result<Identity> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Identity {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// A server certificate that nobody but itself vouches for.
///
/// # Errors
///
/// A name is neither a DNS name nor an IP address, or the cryptographic library fails.
pub fn self_signed(names: &[&str]) -> io::Result<Identity> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = server_params(names)?.self_signed(&key).map_err(io::Error::other)?;
    Ok(Identity {
        chain_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn server_params(names: &[&str]) -> io::Result<CertificateParams> {
    let mut params = named("fila-test-broker", names)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn named(common_name: &str, names: &[&str]) -> io::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
