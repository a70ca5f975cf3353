//! The first bytes of a connection, before anything is known to be a frame (docs/protocol/revisions.md, "First bytes").
//!
//! A client that opens with one of the two dialects may meet the other, a gRPC-only Fila, a server that
//! wants TLS, or something else altogether. Each is recognised from the fewest bytes that suffice.

use core::fmt::Write;

use bytes::Bytes;

use super::Dialect;
use crate::error::{Error, ErrorKind, Outcome};
use crate::frame::{
    DEFAULT_MAX_LENGTH, DecodeError, Decoder, Frame, FrameHeader, HEADER_LEN, Limits, PREFIX_LEN, Reader,
};
use crate::prelude::*;
use crate::request::Op;
use crate::response::{Response, ServerError};

/// What every preamble begins with; major and minor version follow.
pub(crate) const MAGIC: [u8; 4] = *b"FIBP";

/// The only major version of the preamble dialect.
pub(crate) const PREAMBLE_MAJOR: u8 = 1;

/// The only version of the framed dialect.
pub(crate) const FRAMED_VERSION: u16 = 1;

/// A greeting is not waited for beyond this many bytes of body.
const MAX_GREETING: usize = 4 * 1024;

/// How many bytes of a greeting an error shows at most.
const SHOWN: usize = 16;

/// What a client opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// The preamble.
    Preamble,
    /// The Handshake frame.
    Handshake,
}

/// What a server greets with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Greeting {
    /// More bytes are needed.
    Incomplete,
    /// The preamble was echoed.
    Preamble {
        /// The minor version.
        minor: u8,
    },
    /// The handshake was accepted.
    Handshake {
        /// The version: 1.
        version: u16,
        /// The server's node id; 0 outside a cluster.
        node_id: u64,
        /// The largest length field, in bytes, that the server accepts.
        max_frame_size: u32,
    },
}

/// Tells what a server's first bytes are, and how many of them the greeting takes: what clients decide by
/// (docs/protocol/revisions.md, "First bytes"). `limits.receive` bounds the length of what is taken for a frame.
///
/// # Errors
///
/// What the server is instead, or why it refuses.
pub fn recognise_server(offered: Offered, first: &[u8], limits: Limits) -> Result<(Greeting, usize), Error> {
    inspect(offered, first, limits).map_err(|failure| failure.error)
}

/// No connection in the dialect that was offered.
#[derive(Debug, Clone)]
pub(crate) struct OpeningFailure {
    pub(crate) error: Error,
    /// The other opening may succeed on this server, on a new connection.
    pub(crate) try_other: bool,
}

/// Tells what a server's first bytes are. A complete greeting is consumed.
pub(crate) fn recognise(offered: Offered, decoder: &mut Decoder, limits: Limits) -> Result<Greeting, OpeningFailure> {
    let (greeting, len) = inspect(offered, decoder.pending(), limits)?;
    decoder.consume(len);
    Ok(greeting)
}

/// What it means that the connection ended (`reset`: with a reset) before the greeting was complete.
pub(crate) fn closed_before_greeting(offered: Offered, pending: &[u8], reset: bool) -> OpeningFailure {
    let how = if reset { "reset" } else { "closed" };
    if !pending.is_empty() {
        // A preamble server's refusal of a Handshake frame may be cut short by its own reset.
        let try_other = offered == Offered::Handshake && reset;
        let message = format!(
            "the server {how} the connection within its greeting, after {}",
            shown(pending)
        );
        return failure(ErrorKind::Disconnected, message, try_other);
    }
    match offered {
        Offered::Preamble => failure(
            ErrorKind::Disconnected,
            format!(
                "the server {how} the connection without answering the FIBP preamble: it may speak the framed dialect, \
                 or not be ready"
            ),
            true,
        ),
        Offered::Handshake => failure(
            ErrorKind::Disconnected,
            format!(
                "the server {how} the connection without answering the Handshake frame: it may speak the preamble \
                 dialect, or not be ready"
            ),
            reset,
        ),
    }
}

fn failure(kind: ErrorKind, message: impl Into<String>, try_other: bool) -> OpeningFailure {
    OpeningFailure {
        error: Error::new(kind, message),
        try_other,
    }
}

/// The greeting and its length in bytes.
fn inspect(offered: Offered, pending: &[u8], limits: Limits) -> Result<(Greeting, usize), OpeningFailure> {
    const INCOMPLETE: (Greeting, usize) = (Greeting::Incomplete, 0);
    match *pending {
        [] | [_] => Ok(INCOMPLETE),
        [0x15, 0x03, ..] => Err(failure(
            ErrorKind::Tls,
            "the server answered with a TLS alert: it expects TLS, so use fila+tls:// or configure TLS",
            false,
        )),
        [0x16, 0x03, ..] => Err(failure(
            ErrorKind::NotFila,
            "the peer began a TLS handshake of its own: it is a TLS client or a misconfigured proxy",
            false,
        )),
        [_, _] | [_, _, _] => Ok(INCOMPLETE),
        [b'F', b'I', b'B', b'P', ref version @ ..] => match *version {
            [] => Ok(INCOMPLETE),
            [major, ..] if major != PREAMBLE_MAJOR => Err(failure(
                ErrorKind::WrongDialect,
                format!("the server speaks FIBP {major}.x, this client speaks FIBP {PREAMBLE_MAJOR}.x"),
                false,
            )),
            [_] => Ok(INCOMPLETE),
            [_, minor, ..] => match offered {
                Offered::Preamble => Ok((Greeting::Preamble { minor }, MAGIC.len() + 2)),
                Offered::Handshake => Err(failure(
                    ErrorKind::WrongDialect,
                    "the server speaks the preamble dialect, not the framed one",
                    true,
                )),
            },
        },
        // An empty HTTP/2 SETTINGS would be too short a frame of ours: wait until it can be told.
        [0, 0, _, 4] | [0, 0, _, 4, 0] => Ok(INCOMPLETE),
        [0, 0, len, 4, 0, 0, ..] if len % 6 == 0 => Err(failure(
            ErrorKind::WrongDialect,
            "the server speaks gRPC (HTTP/2), not FIBP: it is a Fila release older than FIBP, or this port is not the \
             one of its FIBP listener; use a release that speaks FIBP and the listen_addr of its [fibp] section",
            false,
        )),
        [a, b, c, d, ref rest @ ..] => {
            let length = u32::from_be_bytes([a, b, c, d]);
            let Some(body_len) = (length as usize)
                .checked_sub(HEADER_LEN)
                .filter(|_| length <= limits.receive)
            else {
                return Err(not_fila(pending));
            };
            let body = rest
                .get(HEADER_LEN..)
                .and_then(|body| body.get(..body_len.min(MAX_GREETING)));
            let greeting = match (rest, body) {
                ([0x00, 0xFF, ..], Some(body)) => return Err(preamble_goodbye(offered, body)),
                ([0xFE, 0x00, ..], Some(body)) => return Err(framed_error(offered, pending, body)),
                ([0x02, 0x00, ..], Some(body)) if body.len() == body_len => handshake_ok(offered, body)?,
                ([0x00, 0xFF, ..] | [0xFE | 0x02, 0x00, ..] | [] | [_], None) => return Ok(INCOMPLETE),
                _ => return Err(not_fila(pending)),
            };
            Ok((greeting, PREFIX_LEN + HEADER_LEN + body_len))
        }
    }
}

/// A GOAWAY frame: only preamble servers send it, in answer to an opening they do not accept.
fn preamble_goodbye(offered: Offered, text: &[u8]) -> OpeningFailure {
    let refusal = ServerError::new(ErrorKind::WrongDialect, String::from_utf8_lossy(text));
    let message = match offered {
        Offered::Preamble => "the server refuses this version of the preamble dialect",
        Offered::Handshake => "the server speaks the preamble dialect, not the framed one",
    };
    OpeningFailure {
        error: refused(refusal).with_message(message),
        try_other: offered == Offered::Handshake,
    }
}

/// Nothing but an opening was sent.
fn refused(refusal: ServerError) -> Error {
    Error::from_server(refusal).with_outcome(Outcome::NotSent)
}

fn framed_error(offered: Offered, pending: &[u8], body: &[u8]) -> OpeningFailure {
    let frame = Frame {
        header: FrameHeader {
            opcode: 0xFE,
            flags: 0,
            id: 0,
        },
        body: Bytes::copy_from_slice(body),
    };
    // How an Error frame reads does not depend on the operation.
    let Ok(Response::Error(refusal)) = Response::decode(Dialect::Handshake, Op::Heartbeat, &frame) else {
        return not_fila(pending);
    };
    match offered {
        Offered::Preamble => OpeningFailure {
            error: refused(refusal).with_message("the server speaks the framed dialect, not the preamble one"),
            try_other: true,
        },
        Offered::Handshake => OpeningFailure {
            error: refused(refusal),
            try_other: false,
        },
    }
}

fn handshake_ok(offered: Offered, body: &[u8]) -> Result<Greeting, OpeningFailure> {
    if offered == Offered::Preamble {
        let message = "the server speaks the framed dialect, not the preamble one";
        return Err(failure(ErrorKind::WrongDialect, message, true));
    }
    let greeting = read_handshake_ok(body).map_err(|error| {
        let message = format!("the server's HandshakeOk is malformed: {error}");
        failure(ErrorKind::Protocol, message, false)
    })?;
    match greeting {
        Greeting::Handshake { version, .. } if version != FRAMED_VERSION => Err(failure(
            ErrorKind::WrongDialect,
            format!("the server chose version {version} of the framed dialect, this client speaks {FRAMED_VERSION}"),
            false,
        )),
        greeting => Ok(greeting),
    }
}

fn read_handshake_ok(body: &[u8]) -> Result<Greeting, DecodeError> {
    let body = Bytes::copy_from_slice(body);
    let mut body = Reader::new(&body);
    Ok(Greeting::Handshake {
        version: body.u16()?,
        node_id: body.u64()?,
        max_frame_size: body.u32()?,
    })
}

fn not_fila(pending: &[u8]) -> OpeningFailure {
    let message = format!("the peer does not speak FIBP, its first bytes are {}", shown(pending));
    failure(ErrorKind::NotFila, message, false)
}

/// The first few bytes in hex, and as text where they are that.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut shown = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(shown, "{}{byte:02x}", if at > 0 { " " } else { "" });
    }
    match core::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().any(u8::is_ascii_alphanumeric) => {
            let _ = write!(shown, " ({text:?})");
        }
        _ => {}
    }
    shown
}

/// What a client opened with, seen from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientOpening {
    /// Fewer than six bytes: real preamble servers wait for that many before they decide.
    Incomplete,
    /// `FIBP` and a version; six bytes. The minor version is ignored by servers.
    Preamble {
        /// The major version; only 1 is known.
        major: u8,
        /// The minor version.
        minor: u8,
    },
    /// Something that looks like a length-prefixed frame, a framed Handshake perhaps.
    FramedFrame,
    /// A TLS ClientHello.
    Tls,
    /// The first bytes of an HTTP/2 client, as of gRPC.
    Http2,
    /// None of these.
    Unknown,
}

/// Tells from a client's first bytes how it opens: what servers decide by. Consumes nothing.
#[must_use]
pub fn recognise_client(pending: &[u8]) -> ClientOpening {
    let Some((first, _)) = pending.split_first_chunk::<6>() else {
        return ClientOpening::Incomplete;
    };
    match *first {
        [b'F', b'I', b'B', b'P', major, minor] => ClientOpening::Preamble { major, minor },
        [0x16, 0x03, ..] => ClientOpening::Tls,
        [b'P', b'R', b'I', b' ', b'*', b' '] => ClientOpening::Http2,
        [a, b, c, d, ..] => {
            let length = u32::from_be_bytes([a, b, c, d]);
            if (HEADER_LEN as u64..=DEFAULT_MAX_LENGTH.into()).contains(&length.into()) {
                ClientOpening::FramedFrame
            } else {
                ClientOpening::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Layout;

    /// What a server's bytes lead to: whole, and the same byte by byte, never later than the last byte.
    fn greet(offered: Offered, bytes: &[u8]) -> Result<Greeting, OpeningFailure> {
        let limits = Limits::default();
        let mut whole = Decoder::new(Layout::FlagsFirst, limits);
        whole.feed(bytes);
        let at_once = recognise(offered, &mut whole, limits);

        let mut decoder = Decoder::new(Layout::FlagsFirst, limits);
        let mut result = Ok(Greeting::Incomplete);
        for byte in bytes {
            decoder.feed(&[*byte]);
            result = recognise(offered, &mut decoder, limits);
            if !matches!(result, Ok(Greeting::Incomplete)) {
                break;
            }
        }
        match (&at_once, &result) {
            (Ok(at_once), Ok(stepwise)) => assert_eq!(at_once, stepwise),
            (Err(at_once), Err(stepwise)) => {
                assert_eq!(at_once.error.kind(), stepwise.error.kind());
                assert_eq!(at_once.try_other, stepwise.try_other);
            }
            _ => panic!("whole {at_once:?}, byte by byte {result:?}"),
        }
        at_once
    }

    #[track_caller]
    fn fails(offered: Offered, bytes: &[u8], kind: ErrorKind, try_other: bool, text: &str) {
        let failure = greet(offered, bytes).expect_err("no greeting");
        let message = failure.error.to_string();
        assert_eq!(failure.error.kind(), kind, "{message}");
        assert_eq!(failure.try_other, try_other, "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(failure.error.outcome(), Outcome::NotSent);
    }

    fn goaway(text: &str) -> Vec<u8> {
        let mut frame = u32::try_from(6 + text.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0xFF, 0, 0, 0, 0]);
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    const HANDSHAKE_OK: &[u8] = b"\0\0\0\x14\x02\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x03\x01\0\0\0";
    const BOTH: [Offered; 2] = [Offered::Preamble, Offered::Handshake];

    #[test]
    fn greetings_are_consumed_and_nothing_more() {
        for (offered, greeting, expected) in [
            (Offered::Preamble, &b"FIBP\x01\x07"[..], Greeting::Preamble { minor: 7 }),
            (
                Offered::Handshake,
                HANDSHAKE_OK,
                Greeting::Handshake {
                    version: 1,
                    node_id: 3,
                    max_frame_size: 16 * 1024 * 1024,
                },
            ),
        ] {
            assert_eq!(greet(offered, greeting).unwrap(), expected);
            let mut decoder = Decoder::new(Layout::FlagsFirst, Limits::default());
            decoder.feed(&[greeting, b"next"].concat());
            assert_eq!(recognise(offered, &mut decoder, Limits::default()).unwrap(), expected);
            assert_eq!(decoder.pending(), b"next");
            for prefix in 0..greeting.len() {
                assert_eq!(greet(offered, &greeting[..prefix]).unwrap(), Greeting::Incomplete);
            }
        }
    }

    #[test]
    fn a_tls_server_is_named() {
        for offered in BOTH {
            fails(
                offered,
                b"\x15\x03\x03\0\x02\x02\x32",
                ErrorKind::Tls,
                false,
                "fila+tls://",
            );
            fails(
                offered,
                b"\x16\x03\x01\x02\0\x01",
                ErrorKind::NotFila,
                false,
                "TLS client",
            );
        }
    }

    #[test]
    fn a_grpc_server_is_named() {
        for offered in BOTH {
            for settings in [
                &b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80"[..],
                b"\0\0\0\x04\0\0\0\0\0",
                b"\0\0\x06\x04\0\0",
            ] {
                fails(offered, settings, ErrorKind::WrongDialect, false, "gRPC");
            }
        }
    }

    #[test]
    fn a_preamble_server_refuses_with_goaway() {
        let magic = goaway("invalid magic");
        fails(
            Offered::Handshake,
            &magic,
            ErrorKind::WrongDialect,
            true,
            "invalid magic",
        );
        fails(
            Offered::Handshake,
            &magic,
            ErrorKind::WrongDialect,
            true,
            "speaks the preamble dialect",
        );
        fails(
            Offered::Preamble,
            &magic,
            ErrorKind::WrongDialect,
            false,
            "invalid magic",
        );
        let major = goaway("unsupported protocol version 2.x (server supports 1.x)");
        fails(
            Offered::Preamble,
            &major,
            ErrorKind::WrongDialect,
            false,
            "server supports 1.x",
        );
        fails(
            Offered::Preamble,
            b"FIBP\x02\0",
            ErrorKind::WrongDialect,
            false,
            "FIBP 2.x",
        );
        fails(
            Offered::Handshake,
            b"FIBP\x01\0",
            ErrorKind::WrongDialect,
            true,
            "preamble dialect",
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes long without showing more")]
    fn a_long_farewell_is_not_waited_for() {
        let long = goaway(&"x".repeat(2 * MAX_GREETING));
        let enough = &long[..PREFIX_LEN + HEADER_LEN + MAX_GREETING];
        fails(Offered::Handshake, enough, ErrorKind::WrongDialect, true, "xxx");
        assert_eq!(
            greet(Offered::Handshake, &enough[..enough.len() - 1]).unwrap(),
            Greeting::Incomplete
        );
    }

    #[test]
    fn a_framed_server_is_named() {
        fails(
            Offered::Preamble,
            HANDSHAKE_OK,
            ErrorKind::WrongDialect,
            true,
            "framed dialect",
        );
        let mut later = HANDSHAKE_OK.to_vec();
        later[11] = 2;
        fails(Offered::Handshake, &later, ErrorKind::WrongDialect, false, "version 2");
        fails(
            Offered::Handshake,
            b"\0\0\0\x08\x02\0\0\0\0\0\0\x01",
            ErrorKind::Protocol,
            false,
            "malformed",
        );
    }

    #[test]
    fn a_framed_refusal_keeps_its_code_and_metadata() {
        let error = |code: u8, text: &str| {
            let mut body = vec![code, 0, u8::try_from(text.len()).unwrap()];
            body.extend_from_slice(text.as_bytes());
            body.extend_from_slice(b"\0\x01\0\x0bmax_version\0\x011");
            let mut frame = u32::try_from(6 + body.len()).unwrap().to_be_bytes().to_vec();
            frame.extend_from_slice(&[0xFE, 0, 0, 0, 0, 0]);
            frame.extend_from_slice(&body);
            frame
        };
        for (code, text, kind) in [
            (0x0A, "invalid API key", ErrorKind::Auth),
            (0x0A, "API key required", ErrorKind::Auth),
            (0x0D, "only protocol version 1 is supported", ErrorKind::WrongDialect),
        ] {
            fails(Offered::Handshake, &error(code, text), kind, false, text);
            let refusal = greet(Offered::Handshake, &error(code, text)).unwrap_err().error;
            assert_eq!(refusal.server_code(), Some(code.into()));
            assert_eq!(refusal.metadata(), [("max_version".to_owned(), "1".to_owned())]);
        }
        fails(Offered::Preamble, &error(0x0E, "x"), ErrorKind::Protocol, true, "x");
        fails(
            Offered::Handshake,
            b"\0\0\0\x07\xfe\0\0\0\0\0\x0a",
            ErrorKind::NotFila,
            false,
            "fe 00",
        );
    }

    #[test]
    fn anything_else_is_shown() {
        for offered in BOTH {
            fails(
                offered,
                b"HTTP/1.1 400 Bad Request",
                ErrorKind::NotFila,
                false,
                "48 54 54 50",
            );
            fails(
                offered,
                b"\0\0\0\x05\0\0",
                ErrorKind::NotFila,
                false,
                "00 00 00 05 00 00",
            );
            fails(
                offered,
                b"\0\0\0\x09\x07\x07\0\0\0\0abc",
                ErrorKind::NotFila,
                false,
                "00 00 00 09 07 07",
            );
            fails(
                offered,
                b"SSH-2.0-OpenSSH",
                ErrorKind::NotFila,
                false,
                "\"SSH-2.0-OpenSSH\"",
            );
        }
    }

    #[test]
    fn silence_suggests_the_other_opening_where_it_could_help() {
        for (offered, pending, reset, try_other) in [
            (Offered::Preamble, &b""[..], false, true),
            (Offered::Preamble, b"", true, true),
            (Offered::Handshake, b"", false, false),
            (Offered::Handshake, b"", true, true),
            (Offered::Preamble, b"FIB", false, false),
            (Offered::Handshake, b"\0\0\0\x13", true, true),
        ] {
            let failure = closed_before_greeting(offered, pending, reset);
            assert_eq!(failure.error.kind(), ErrorKind::Disconnected);
            assert_eq!(failure.try_other, try_other, "{failure:?}");
        }
    }

    #[test]
    fn clients_are_told_apart() {
        let cases: [(&[u8], ClientOpening); 9] = [
            (b"PRI * HTTP/2.0", ClientOpening::Http2),
            (b"", ClientOpening::Incomplete),
            (b"FIBP\x01", ClientOpening::Incomplete),
            (b"FIBP\x01\x00", ClientOpening::Preamble { major: 1, minor: 0 }),
            (b"FIBP\x02\x07more", ClientOpening::Preamble { major: 2, minor: 7 }),
            (b"\0\0\0\x09\x01\0\0\0\0\0\0\x01\0", ClientOpening::FramedFrame),
            (b"\x16\x03\x01\x02\x00\x01", ClientOpening::Tls),
            (b"HTTP/1", ClientOpening::Unknown),
            (b"\0\0\0\x05\0\0", ClientOpening::Unknown),
        ];
        for (bytes, expected) in cases {
            assert_eq!(recognise_client(bytes), expected, "{bytes:x?}");
        }
    }
}
