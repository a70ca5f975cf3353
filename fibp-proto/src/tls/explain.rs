//! What rustls found, in one line that says what to do.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
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
            "the server's certificate is signed by no trusted CA, or by itself: set the CA's certificate with ca_file, \
             ca_pem or FILA_CA_FILE"
                .to_owned()
        }
        CertificateError::Expired => expired(""),
        CertificateError::ExpiredContext { time, not_after } => expired(&format!(
            " (it was valid until {}, and this machine's clock says {})",
            date(*not_after),
            date(*time)
        )),
        CertificateError::NotValidYet => not_valid_yet(""),
        CertificateError::NotValidYetContext { time, not_before } => not_valid_yet(&format!(
            " (it is valid from {}, and this machine's clock says {})",
            date(*not_before),
            date(*time)
        )),
        CertificateError::Revoked => "the server's certificate has been revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not meant for servers: it lacks the serverAuth purpose".to_owned()
        }
        _ => format!("the server's certificate was refused: {problem}"),
    }
}

fn expired(when: &str) -> String {
    format!("the server's certificate has expired{when}: renew it, or set this machine's clock")
}

fn not_valid_yet(when: &str) -> String {
    format!("the server's certificate is not valid yet{when}: set this machine's clock, or the server's")
}

/// As `2026-11-26 10:30:00 UTC`.
fn date(time: UnixTime) -> String {
    let seconds = time.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil days in eras of 400 years, which begin on the first of March: the leap day is the last of a year.
    let day = days.saturating_add(719_468);
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (era * 400 + year, month + 3)
    } else {
        (era * 400 + year + 1, month - 9)
    };
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// A name as rustls shows it, `DnsName("broker.example.com")` or `IpAddress(127.0.0.1)`, without the type.
fn plain_name(presented: &str) -> &str {
    let inner = ["DnsName(", "IpAddress("]
        .into_iter()
        .find_map(|kind| presented.strip_prefix(kind)?.strip_suffix(')'))
        .unwrap_or(presented);
    inner
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(inner)
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
        .map(|name| {
            plain_name(name)
                .chars()
                .take(100)
                .flat_map(char::escape_debug)
                .collect()
        })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (978_307_200, "2001-01-01 00:00:00 UTC"),
            (1_795_672_596, "2026-11-26 05:56:36 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), shown);
        }
        // However far away: no overflow.
        date(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn names_are_shown_without_their_type() {
        for (presented, shown) in [
            ("DnsName(\"broker.example.com\")", "broker.example.com"),
            ("IpAddress(127.0.0.1)", "127.0.0.1"),
            ("Unsupported(1)", "Unsupported(1)"),
            ("plain", "plain"),
        ] {
            assert_eq!(plain_name(presented), shown);
        }
        let presented = ["DnsName(\"a\n\")".to_owned(), "IpAddress(::1)".to_owned()];
        assert_eq!(names(&presented), "a\\n, ::1");
    }
}
