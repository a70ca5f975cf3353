//! What rustls found, in one line that says what to do.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error as RustlsError, PeerIncompatible};

use crate::error::{Error, ErrorKind};

/// What the text depends on besides the error.
pub(super) struct Circumstances<'a> {
    /// The name that the certificate had to have.
    pub(super) name: &'a str,
    /// Whether this side has a client certificate.
    pub(super) presents_certificate: bool,
    /// Whether the server has said anything in TLS yet.
    pub(super) heard_tls: bool,
}

pub(super) fn explain(error: RustlsError, at: &Circumstances<'_>) -> Error {
    let text = match &error {
        RustlsError::InvalidCertificate(problem) => certificate(problem, at.name),
        RustlsError::AlertReceived(alert) => alert_text(*alert, at),
        RustlsError::NoApplicationProtocol => no_alpn(),
        RustlsError::InvalidMessage(_) if !at.heard_tls => {
            "the server does not speak TLS on this port: use its TLS port, or fila:// if it has none".to_owned()
        }
        RustlsError::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => no_version(),
        _ => error.to_string(),
    };
    Error::new(ErrorKind::Tls, text).with_source(Arc::new(error))
}

fn certificate(problem: &CertificateError, name: &str) -> String {
    match problem {
        CertificateError::NotValidForName => {
            format!("the server's certificate is not for \"{name}\": connect by a name it has, or set server_name")
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the server's certificate is not for \"{name}\" but for {}: connect by a name it has, or set server_name",
            names(presented)
        ),
        CertificateError::UnknownIssuer => {
            "the server's certificate is signed by no trusted CA, or by itself: set the CA's certificate with ca_pem \
             or FILA_CA_FILE"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the server's certificate has expired ({problem}): renew it, or set this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet ({problem}): set this machine's clock, or the server's")
        }
        CertificateError::Revoked => "the server's certificate has been revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not meant for servers: it lacks the serverAuth purpose".to_owned()
        }
        _ => format!("the server's certificate was refused: {problem}"),
    }
}

/// The first few of the names that a peer presented, which may be many and anything.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 5;
    if presented.is_empty() {
        return "no name".to_owned();
    }
    let mut shown: Vec<String> = presented
        .iter()
        .take(SHOWN)
        .map(|name| name.chars().take(100).flat_map(char::escape_debug).collect())
        .collect();
    if presented.len() > SHOWN {
        shown.push(format!("{} more", presented.len() - SHOWN));
    }
    shown.join(", ")
}

fn alert_text(alert: AlertDescription, at: &Circumstances<'_>) -> String {
    match alert {
        AlertDescription::CertificateRequired => needs_certificate(),
        AlertDescription::HandshakeFailure if !at.presents_certificate => {
            "the server refused the handshake: it may require a client certificate (set one with identity_pem), or \
             share no cipher suite"
                .to_owned()
        }
        // What servers say of a certificate, rustls ones of a missing one too.
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
            if at.presents_certificate =>
        {
            format!("the server refused the client certificate ({alert:?}): use one that its CA has signed")
        }
        AlertDescription::BadCertificate | AlertDescription::NoCertificate => needs_certificate(),
        AlertDescription::NoApplicationProtocol => no_alpn(),
        AlertDescription::ProtocolVersion => no_version(),
        AlertDescription::UnrecognisedName => format!(
            "the server has no certificate for \"{}\": connect by a name it has, or set server_name",
            at.name
        ),
        other => format!("the server ended TLS with the alert {other:?}"),
    }
}

fn needs_certificate() -> String {
    "the server requires a client certificate: set one with identity_pem or FILA_CLIENT_CERT_FILE".to_owned()
}

fn no_alpn() -> String {
    "the server speaks none of the protocols offered (no_application_protocol): it is no Fila server, or of another \
     dialect than configured"
        .to_owned()
}

fn no_version() -> String {
    "the server has neither TLS 1.2 nor TLS 1.3".to_owned()
}
