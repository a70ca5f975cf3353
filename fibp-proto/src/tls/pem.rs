//! Certificates and keys from PEM texts.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::identity::Identity;
use crate::error::{Error, ErrorKind};

pub(super) fn roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(pem, "CA")?.into_iter().enumerate() {
        store.add(certificate).map_err(|error| {
            let number = index.saturating_add(1);
            refuse(format!("certificate {number} of the CA PEM cannot be used: {error}")).with_source(Arc::new(error))
        })?;
    }
    Ok(store)
}

/// The chain and the key of a client certificate.
pub(super) type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(super) fn identity(identity: &Identity) -> Result<Presented, Error> {
    let chain = certificates(&identity.certificates, "client certificate")?;
    let pem = identity.key.expose_bytes();
    // The cause is left out: it may quote the key.
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        refuse(match error {
            PemError::NoItemsFound if contains(pem, b"ENCRYPTED") => "the client key is encrypted: decrypt it first",
            PemError::NoItemsFound if contains(pem, b"-----BEGIN CERTIFICATE-----") => {
                "there is no private key in the client key PEM, but a certificate"
            }
            PemError::NoItemsFound => "there is no private key in the client key PEM",
            _ => "the client key PEM is malformed",
        })
    })?;
    Ok((chain, key))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| match what {
        // A key may stand in the same text by mistake.
        _ if contains(pem, b"PRIVATE KEY-----") => refuse(format!("the {what} PEM is malformed")),
        _ => refuse(format!("the {what} PEM is malformed: {error}")).with_source(Arc::new(error)),
    })?;
    if found.is_empty() {
        return Err(refuse(format!("there is no certificate in the {what} PEM")));
    }
    Ok(found)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}
