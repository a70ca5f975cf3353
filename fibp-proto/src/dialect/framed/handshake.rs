//! The opening exchange (docs/protocol/framed.md 2).

use super::opcode::HANDSHAKE;
use crate::dialect::EncodeError;
use crate::dialect::encode::{Body, Encoder};
use crate::dialect::opening::FRAMED_VERSION;
use crate::frame::{DecodeError, Frame, Reader};
use crate::message::Secret;
use crate::request::Request;

/// What a client opens with. No `Debug`: it holds the key.
pub(super) struct Handshake<'a> {
    pub(super) version: u16,
    pub(super) key: Option<&'a str>,
}

impl Body for Handshake<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.u16(self.version);
        encode_option(to, "API key", self.key)
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
    if frame.header.opcode != HANDSHAKE {
        return FirstFrame::NoHandshake;
    }
    match read(frame) {
        Ok(Request::Handshake { version, key }) if version == FRAMED_VERSION => FirstFrame::Handshake(key),
        Ok(_) => FirstFrame::OtherVersion,
        Err(_) => FirstFrame::Malformed,
    }
}

/// Reads a Handshake of any version.
pub(super) fn read(frame: &Frame) -> Result<Request, DecodeError> {
    let mut body = Reader::new(&frame.body);
    Ok(Request::Handshake {
        version: body.u16()?,
        key: read_option(&mut body)?.map(Secret::from),
    })
}

/// What a server accepts a Handshake with.
pub(crate) struct HandshakeOk {
    /// The server's node id; 0 outside a cluster.
    pub(crate) node_id: u64,
    /// The largest length field that the server accepts.
    pub(crate) max_frame_size: u32,
}

impl Body for HandshakeOk {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.u16(FRAMED_VERSION);
        to.u64(self.node_id);
        to.u32(self.max_frame_size);
        Ok(())
    }
}

/// `u8` 0, or `u8` 1 and the text.
pub(super) fn encode_option<E: Encoder>(
    to: &mut E,
    field: &'static str,
    text: Option<&str>,
) -> Result<(), EncodeError> {
    to.bool(text.is_some());
    text.map_or(Ok(()), |text| to.str16(field, text))
}

/// Reads what [`encode_option`] writes.
pub(super) fn read_option<'a>(body: &mut Reader<'a>) -> Result<Option<&'a str>, DecodeError> {
    if body.bool()? { body.str16().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::frame::FrameHeader;

    fn frame(opcode: u8, body: &'static [u8]) -> Frame {
        Frame {
            header: FrameHeader {
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
}
