//! The opening exchange (spec/framed.md 2).

use super::opcode::{HANDSHAKE, HANDSHAKE_OK};
use crate::dialect::EncodeError;
use crate::dialect::put::{Body, Put};
use crate::frame::{DecodeError, Frame, Reader};
use crate::message::Secret;

/// The only protocol version there is.
pub(super) const VERSION: u16 = 1;

/// What a client opens with. No `Debug`: it holds the key.
pub(super) struct Handshake<'a> {
    pub(super) key: Option<&'a str>,
}

impl Body for Handshake<'_> {
    fn put<P: Put>(&self, to: &mut P) -> Result<(), EncodeError> {
        to.u16(VERSION);
        put_option(to, "API key", self.key)
    }
}

/// What a server reads in a client's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirstFrame {
    /// A Handshake of version 1, with the key it carries.
    Handshake(Option<Secret>),
    /// A Handshake of another version.
    OtherVersion,
    /// Another opcode.
    NoHandshake,
    /// A Handshake that cannot be decoded.
    Malformed,
}

/// Reads a client's first frame.
pub(crate) fn read_first_frame(frame: &Frame) -> FirstFrame {
    if frame.head.opcode != HANDSHAKE {
        return FirstFrame::NoHandshake;
    }
    let mut body = Reader::new(&frame.body);
    let fields = (|| Ok::<_, DecodeError>((body.u16()?, read_option(&mut body)?)))();
    match fields {
        Ok((VERSION, key)) => FirstFrame::Handshake(key.map(Secret::from)),
        Ok(_) => FirstFrame::OtherVersion,
        Err(_) => FirstFrame::Malformed,
    }
}

/// What a server accepts a Handshake with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandshakeOk {
    /// The protocol version.
    pub(crate) version: u16,
    /// The server's node id; 0 outside a cluster.
    pub(crate) node_id: u64,
    /// The largest length field that the server accepts.
    pub(crate) max_frame_size: u32,
}

impl HandshakeOk {
    /// That of a server of version 1.
    pub(crate) fn new(node_id: u64, max_frame_size: u32) -> Self {
        Self {
            version: VERSION,
            node_id,
            max_frame_size,
        }
    }

    /// Reads a server's first frame, which is this or an Error frame.
    pub(crate) fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        if frame.head.opcode != HANDSHAKE_OK {
            return Err(DecodeError::UnexpectedOpcode {
                opcode: frame.head.opcode,
            });
        }
        let mut body = Reader::new(&frame.body);
        Ok(Self {
            version: body.u16()?,
            node_id: body.u64()?,
            max_frame_size: body.u32()?,
        })
    }
}

impl Body for HandshakeOk {
    fn put<P: Put>(&self, to: &mut P) -> Result<(), EncodeError> {
        to.u16(self.version);
        to.u64(self.node_id);
        to.u32(self.max_frame_size);
        Ok(())
    }
}

/// `u8` 0, or `u8` 1 and the text.
pub(super) fn put_option<P: Put>(to: &mut P, field: &'static str, text: Option<&str>) -> Result<(), EncodeError> {
    to.bool(text.is_some());
    text.map_or(Ok(()), |text| to.str16(field, text))
}

/// Reads what [`put_option`] writes.
pub(super) fn read_option<'a>(body: &mut Reader<'a>) -> Result<Option<&'a str>, DecodeError> {
    if body.bool()? { body.str16().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::frame::{Head, OutBuf};

    fn frame(opcode: u8, body: &'static [u8]) -> Frame {
        Frame {
            head: Head {
                opcode,
                flags: 0,
                id: 0,
            },
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn first_frames_are_told_apart() {
        let read = |opcode, body| read_first_frame(&frame(opcode, body));
        assert_eq!(read(1, b"\0\x01\0"), FirstFrame::Handshake(None));
        assert_eq!(
            read(1, b"\0\x01\x01\0\x03keyand more"),
            FirstFrame::Handshake(Some("key".into()))
        );
        assert_eq!(read(1, b"\0\x02\0"), FirstFrame::OtherVersion);
        assert_eq!(read(3, b""), FirstFrame::NoHandshake);
        for body in [&b""[..], b"\0\x01", b"\0\x01\x01\0\x03ke", b"\0\x01\x01\0\x01\xff"] {
            assert_eq!(read(1, body), FirstFrame::Malformed, "{body:?}");
        }
    }

    #[test]
    fn acceptance_of_a_cluster_node() {
        let ok = HandshakeOk::new(3, 16_777_216);
        let mut out = OutBuf::new();
        ok.put(&mut out).expect("fixed size");
        let body = out.take_bytes();
        assert_eq!(&body[..], b"\0\x01\0\0\0\0\0\0\0\x03\x01\0\0\0");
        let mut accepted = frame(2, b"");
        accepted.body = body;
        assert_eq!(HandshakeOk::decode(&accepted), Ok(ok));
        accepted.body.truncate(13);
        assert!(HandshakeOk::decode(&accepted).is_err());
        accepted.head.opcode = 0xFE;
        assert_eq!(
            HandshakeOk::decode(&accepted),
            Err(DecodeError::UnexpectedOpcode { opcode: 0xFE })
        );
    }
}
