//! Length-prefixed frames, usable alone and in both directions.
//!
//! Both dialects share the outer shape (docs/protocol/preamble.md 1.2, docs/protocol/framed.md 1):
//!
//! ```text
//! u32 length | u8 | u8 | u32 correlation id | body        length = 6 + len(body)
//! ```
//!
//! and differ in which of the two single bytes comes first ([`Layout`]).

mod buffer;
mod continuation;
mod decoder;
#[cfg(feature = "std")]
mod pool;
mod reader;

pub use buffer::{OutBuf, ReadBuffer, Transmit};
pub use continuation::{CONTINUATION, Reassembler, ReassemblyError};
pub(crate) use continuation::{MAX_REASSEMBLED, Splitter, max_body};
pub(crate) use decoder::Found;
pub use decoder::{Decoder, FrameError, Item, Oversize};
#[cfg(feature = "std")]
pub(crate) use pool::Pool;
#[cfg(feature = "protobuf")]
pub(crate) use reader::Budget;
pub use reader::DecodeError;
pub(crate) use reader::Reader;

use core::fmt;

use bytes::Bytes;

/// Bytes of a frame that the length field counts besides the body.
pub const HEADER_LEN: usize = 6;

/// Bytes of the length field itself.
pub const PREFIX_LEN: usize = 4;

/// The largest length field that real servers accept by default: 16 MiB.
pub const DEFAULT_MAX_LENGTH: u32 = 16 * 1024 * 1024;

/// Which header byte comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `flags`, then `opcode`: the preamble dialect.
    FlagsFirst,
    /// `opcode`, then `flags`: the framed dialect.
    OpcodeFirst,
}

/// The largest length fields, in bytes, that may be sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    /// The largest length field to send.
    pub send: u32,
    /// The largest length field to accept. A server answers with frames larger than it accepts, so keep it
    /// above `send`.
    pub receive: u32,
}

impl Limits {
    /// Length fields of at most `send` and `receive` bytes.
    #[must_use]
    pub const fn new(send: u32, receive: u32) -> Self {
        Self { send, receive }
    }
}

impl Default for Limits {
    /// 16 MiB out, 32 MiB in.
    fn default() -> Self {
        Self {
            send: DEFAULT_MAX_LENGTH,
            receive: 2 * DEFAULT_MAX_LENGTH,
        }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    /// The operation.
    pub opcode: u8,
    /// The flags.
    pub flags: u8,
    /// The correlation id ("request id" in the framed dialect).
    pub id: u32,
}

impl FrameHeader {
    pub(crate) fn parse(layout: Layout, bytes: [u8; HEADER_LEN]) -> Self {
        let [first, second, id @ ..] = bytes;
        let (flags, opcode) = match layout {
            Layout::FlagsFirst => (first, second),
            Layout::OpcodeFirst => (second, first),
        };
        Self {
            opcode,
            flags,
            id: u32::from_be_bytes(id),
        }
    }

    fn bytes(self, layout: Layout) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.id.to_be_bytes();
        match layout {
            Layout::FlagsFirst => [self.flags, self.opcode, a, b, c, d],
            Layout::OpcodeFirst => [self.opcode, self.flags, a, b, c, d],
        }
    }
}

/// One frame.
///
/// `Debug` shows the length of the body instead of its bytes: they may be payloads or an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Its body.
    pub body: Bytes,
}

impl Frame {
    /// The frame as it would lie in a buffer.
    pub(crate) fn as_frame_ref(&self) -> FrameRef<'_> {
        FrameRef {
            header: self.header,
            body: &self.body,
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("header", &self.header)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// A whole frame at the start of some bytes; see [`parse`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its body.
    pub body: &'a [u8],
}

impl FrameRef<'_> {
    /// How many bytes the frame takes, prefix and header included.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.body.len().saturating_add(PREFIX_LEN + HEADER_LEN)
    }

    /// The frame with a copy of its body.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        Frame {
            header: self.header,
            body: Bytes::copy_from_slice(self.body),
        }
    }
}

impl fmt::Debug for FrameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameRef")
            .field("header", &self.header)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// The frame that `bytes` begin with, or `None` where it is not complete. Keeps no state and copies nothing; bytes
/// after the frame ([`FrameRef::wire_len`]) are left alone.
///
/// # Errors
///
/// [`FrameError::TooShort`] if the length field cannot cover the header. No limit is applied.
pub fn parse(layout: Layout, bytes: &[u8]) -> Result<Option<FrameRef<'_>>, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix);
    if (length as usize) < HEADER_LEN {
        return Err(FrameError::TooShort { length });
    }
    let whole = rest.get(..length as usize);
    Ok(whole
        .and_then(<[u8]>::split_first_chunk::<HEADER_LEN>)
        .map(|(header, body)| FrameRef {
            header: FrameHeader::parse(layout, *header),
            body,
        }))
}

/// Writes length prefix and header of a frame whose body of `body_len` bytes follows.
pub(crate) fn encode_header(layout: Layout, header: FrameHeader, body_len: usize, out: &mut OutBuf) {
    // Every encoder checks the body against a u32 limit first.
    let length = u32::try_from(HEADER_LEN.saturating_add(body_len)).unwrap_or(u32::MAX);
    out.put_u32(length);
    out.put_slice(&header.bytes(layout));
}

/// Writes a whole frame.
///
/// # Errors
///
/// [`FrameError::TooLong`] if the length field would exceed `max_length`; nothing is written then.
pub fn encode(layout: Layout, frame: &Frame, max_length: u32, out: &mut OutBuf) -> Result<(), FrameError> {
    let length = frame.body.len().saturating_add(HEADER_LEN);
    if length > max_length as usize {
        return Err(FrameError::TooLong {
            length: length as u64,
            limit: max_length,
        });
    }
    encode_header(layout, frame.header, frame.body.len(), out);
    out.put_shared(&frame.body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &[u8] = b"\0\0\0\x08\0\x21\0\0\0\x07hi";

    #[test]
    fn parsing_keeps_no_state() {
        for end in 0..PING.len() {
            assert_eq!(parse(Layout::FlagsFirst, &PING[..end]), Ok(None));
        }
        let bytes = [PING, b"more"].concat();
        let frame = parse(Layout::FlagsFirst, &bytes)
            .expect("well formed")
            .expect("complete");
        assert_eq!(
            (frame.header.opcode, frame.header.id, frame.body),
            (0x21, 7, &b"hi"[..])
        );
        assert_eq!(frame.wire_len(), PING.len());
        let other = parse(Layout::OpcodeFirst, &bytes)
            .expect("well formed")
            .expect("complete");
        assert_eq!((other.header.opcode, other.header.flags), (0, 0x21));
        assert_eq!(
            parse(Layout::FlagsFirst, b"\0\0\0\x05"),
            Err(FrameError::TooShort { length: 5 })
        );
        assert_eq!(parse(Layout::FlagsFirst, b"\xff\xff\xff\xff\0\x21\0\0\0\x07"), Ok(None));
    }

    #[test]
    fn no_body_is_printed() {
        let frame = parse(Layout::FlagsFirst, b"\0\0\0\x0c\0\x30\0\0\0\x01secret")
            .expect("well formed")
            .expect("complete");
        let mut reassembler = Reassembler::new(100);
        let mut part = frame.to_frame();
        part.header.flags = CONTINUATION;
        assert_eq!(reassembler.push(part), Ok(None));
        let shown = format!(
            "{frame:?} {:?} {:?} {reassembler:?}",
            frame.to_frame(),
            Item::Frame(frame.to_frame())
        );
        // 115, 101 are the first bytes of the key.
        assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
        assert_eq!(shown.matches("body_len: 6").count(), 4, "{shown}");
    }
}
