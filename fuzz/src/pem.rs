//! Certificates and keys in PEM: malformed ones are refused in one line that shows nothing of the key.

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::tls::{Tls, TlsContext, TlsPipe};
use fibp_proto::{Dialect, ErrorKind};

#[derive(Debug, Arbitrary)]
struct Case {
    roots: Vec<Piece>,
    identity: Option<(Vec<Piece>, Vec<Piece>)>,
    server_name: Option<String>,
}

/// A piece of a PEM text.
#[derive(Debug, Arbitrary)]
enum Piece {
    Certificate,
    Key,
    /// A part of one of them.
    Part {
        key: bool,
        from: u16,
        len: u16,
    },
    Label {
        end: bool,
        what: Label,
    },
    NewLine,
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Label {
    Certificate,
    Pkcs8,
    Encrypted,
    Pkcs1,
    Sec1,
}

/// A certificate and its key.
fn made() -> &'static (String, String) {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["broker.test".to_owned()]).expect("can be made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    })
}

fn text(pieces: &[Piece]) -> Vec<u8> {
    let (certificate, key) = made();
    let mut text = Vec::new();
    for piece in pieces.iter().take(20) {
        match piece {
            Piece::Certificate => text.extend_from_slice(certificate.as_bytes()),
            Piece::Key => text.extend_from_slice(key.as_bytes()),
            Piece::Part { key: of_key, from, len } => {
                let whole = if *of_key { key } else { certificate }.as_bytes();
                let from = usize::from(*from) % whole.len();
                let to = whole.len().min(from + usize::from(*len));
                text.extend_from_slice(&whole[from..to]);
            }
            Piece::Label { end, what } => {
                let what = match what {
                    Label::Certificate => "CERTIFICATE",
                    Label::Pkcs8 => "PRIVATE KEY",
                    Label::Encrypted => "ENCRYPTED PRIVATE KEY",
                    Label::Pkcs1 => "RSA PRIVATE KEY",
                    Label::Sec1 => "EC PRIVATE KEY",
                };
                let side = if *end { "END" } else { "BEGIN" };
                text.extend_from_slice(format!("-----{side} {what}-----\n").as_bytes());
            }
            Piece::NewLine => text.push(b'\n'),
            Piece::Text(other) => text.extend_from_slice(other.as_bytes()),
            Piece::Bytes(bytes) => text.extend_from_slice(bytes),
        }
    }
    text
}

/// Builds the client's side of TLS from what the input describes.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut tls = Tls::ca_pem(text(&case.roots));
    if let Some((certificates, key)) = &case.identity {
        tls = tls.identity_pem(text(certificates), text(key));
    }
    if let Some(name) = &case.server_name {
        tls = tls.server_name(name.clone());
    }
    assert_silent(&format!("{tls:?}"));
    let pipe = TlsContext::new(&tls, Dialect::Auto).and_then(|context| TlsPipe::new(&context, "broker.test"));
    match pipe {
        Ok(mut pipe) => assert!(pipe.take_ciphertext(&mut Vec::new()) > 0, "the client speaks first"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = source {
                assert_silent(&error.to_string());
                source = error.source();
            }
        }
    }
}

/// No part of the key is in the text.
fn assert_silent(text: &str) {
    let (_, key) = made();
    let body = key.lines().filter(|line| !line.starts_with('-'));
    // The first bytes say only what kind of key it is.
    for line in body.skip(1) {
        for part in line.as_bytes().chunks_exact(12) {
            assert!(!text.as_bytes().windows(12).any(|window| window == part), "{text}");
        }
    }
}
