//! The first bytes of a connection, before anything is a frame (spec/revisions.md, "First bytes").

use crate::frame::{DEFAULT_MAX_LENGTH, HEAD_LEN};

/// What every preamble begins with; major and minor version follow.
pub(crate) const MAGIC: [u8; 4] = *b"FIBP";

/// What a client opened with, seen from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientOpening {
    /// Fewer than six bytes: real preamble servers wait for that many before they decide.
    Incomplete,
    /// `FIBP` and a version; six bytes. The minor version is ignored by servers.
    Preamble { major: u8, minor: u8 },
    /// Something that looks like a length-prefixed frame, a framed Handshake perhaps.
    FramedFrame,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Unknown,
}

/// Tells from a client's first bytes how it opens. Consumes nothing.
pub(crate) fn recognise_client(pending: &[u8]) -> ClientOpening {
    let Some((first, _)) = pending.split_first_chunk::<6>() else {
        return ClientOpening::Incomplete;
    };
    match *first {
        [b'F', b'I', b'B', b'P', major, minor] => ClientOpening::Preamble { major, minor },
        [0x16, 0x03, ..] => ClientOpening::Tls,
        [a, b, c, d, ..] => {
            let length = u32::from_be_bytes([a, b, c, d]);
            if (HEAD_LEN as u64..=DEFAULT_MAX_LENGTH.into()).contains(&length.into()) {
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

    #[test]
    fn clients_are_told_apart() {
        let cases: [(&[u8], ClientOpening); 8] = [
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
