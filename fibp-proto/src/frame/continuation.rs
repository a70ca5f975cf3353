//! Bodies that go on in further frames (docs/protocol/framed.md 1).

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use core::fmt;

use bytes::Bytes;

use super::{Frame, FrameHeader, HEADER_LEN, Layout, OutBuf, encode_header};
use crate::prelude::*;

/// Flag bit 0: the body goes on in the next frame with the same opcode and id.
pub const CONTINUATION: u8 = 0x01;

/// The most bytes that real servers reassemble: 256 frames of 16 MiB.
pub(crate) const MAX_REASSEMBLED: u64 = 256 * 16 * 1024 * 1024;

/// How many unfinished sequences real servers keep.
const MAX_SEQUENCES: usize = 64;

/// Why a continuation sequence cannot be joined. Servers close without a frame then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReassemblyError {
    /// The id of an unfinished sequence came with another opcode.
    #[error("opcode 0x{found:02x} inside a continuation sequence of opcode 0x{expected:02x}")]
    OpcodeChanged {
        /// The sequence's opcode.
        expected: u8,
        /// The opcode that came.
        found: u8,
    },
    /// More than 64 sequences are unfinished.
    #[error("more than {MAX_SEQUENCES} unfinished continuation sequences")]
    TooManySequences,
    /// The unfinished sequences together exceed the limit.
    #[error("unfinished continuation sequences exceed {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

/// Joins continued frames; frames of other ids may come between.
///
/// Parts are copied, so that what is kept is what was received, never the read buffers it came in.
#[derive(Debug)]
pub struct Reassembler {
    sequences: BTreeMap<u32, Sequence>,
    /// Bytes in all sequences.
    held: usize,
    limit: usize,
}

struct Sequence {
    opcode: u8,
    body: Vec<u8>,
}

/// Bodies hold payloads and keys, which are not for logs.
impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence")
            .field("opcode", &self.opcode)
            .field("body_len", &self.body.len())
            .finish()
    }
}

impl Reassembler {
    /// A reassembler whose unfinished sequences may hold `limit` bytes together.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            sequences: BTreeMap::new(),
            held: 0,
            limit,
        }
    }

    /// Whether a frame is part of a continued one.
    pub(crate) fn concerns(&self, header: FrameHeader) -> bool {
        header.flags & CONTINUATION != 0 || (!self.sequences.is_empty() && self.sequences.contains_key(&header.id))
    }

    /// Takes a frame; returns it whole once it is complete, `None` while it goes on. Other flag bits are kept
    /// as the last frame had them.
    ///
    /// # Errors
    ///
    /// The sequence cannot be joined; the stream is to be given up.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Frame>, ReassemblyError> {
        let FrameHeader { opcode, flags, id } = frame.header;
        let goes_on = flags & CONTINUATION != 0;
        let unfinished = self.sequences.len();
        match self.sequences.entry(id) {
            Entry::Vacant(_) if !goes_on => Ok(Some(frame)),
            Entry::Vacant(place) => {
                if unfinished >= MAX_SEQUENCES {
                    return Err(ReassemblyError::TooManySequences);
                }
                self.held = held(self.held, frame.body.len(), self.limit)?;
                place.insert(Sequence {
                    opcode,
                    body: frame.body.to_vec(),
                });
                Ok(None)
            }
            Entry::Occupied(mut place) => {
                let sequence = place.get_mut();
                if sequence.opcode != opcode {
                    return Err(ReassemblyError::OpcodeChanged {
                        expected: sequence.opcode,
                        found: opcode,
                    });
                }
                self.held = held(self.held, frame.body.len(), self.limit)?;
                sequence.body.extend_from_slice(&frame.body);
                if goes_on {
                    return Ok(None);
                }
                let body = place.remove().body;
                self.held = self.held.saturating_sub(body.len());
                Ok(Some(Frame {
                    header: frame.header,
                    body: body.into(),
                }))
            }
        }
    }
}

fn held(now: usize, more: usize, limit: usize) -> Result<usize, ReassemblyError> {
    now.checked_add(more)
        .filter(|held| *held <= limit)
        .ok_or(ReassemblyError::TooLarge { limit })
}

/// Writes one body as several frames, of which all but the last are full and have [`CONTINUATION`] set.
#[derive(Debug)]
pub(crate) struct Splitter<'a> {
    out: &'a mut OutBuf,
    layout: Layout,
    header: FrameHeader,
    /// Body bytes per frame; at least 1.
    max_body: usize,
    /// Body bytes that the frame under way still takes.
    room: usize,
    /// Body bytes that come after the frame under way.
    after: usize,
}

impl<'a> Splitter<'a> {
    /// Begins a body of `len` bytes, at most `max_body` of them per frame.
    pub(crate) fn new(layout: Layout, header: FrameHeader, len: usize, max_body: usize, out: &'a mut OutBuf) -> Self {
        let mut splitter = Self {
            out,
            layout,
            header,
            max_body: max_body.max(1),
            room: 0,
            after: len,
        };
        splitter.begin_frame();
        splitter
    }

    /// Appends to the body by copying.
    pub(crate) fn put_slice(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.part(bytes.len()));
            self.out.put_slice(now);
            bytes = later;
        }
    }

    /// Appends to the body; what is large is shared.
    pub(crate) fn put_shared(&mut self, bytes: &Bytes) {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let now = rest.split_to(self.part(rest.len()));
            self.out.put_shared(&now);
        }
    }

    /// How many of the next `len` bytes go into the frame under way.
    fn part(&mut self, len: usize) -> usize {
        if self.room == 0 {
            self.begin_frame();
        }
        let part = len.min(self.room);
        self.room -= part;
        part
    }

    fn begin_frame(&mut self) {
        // Bytes beyond the announced length would go into frames of their own rather than be lost.
        self.room = if self.after == 0 {
            self.max_body
        } else {
            self.after.min(self.max_body)
        };
        self.after = self.after.saturating_sub(self.room);
        let flags = if self.after > 0 { CONTINUATION } else { 0 };
        let header = FrameHeader { flags, ..self.header };
        encode_header(self.layout, header, self.room, self.out);
    }
}

/// The largest body of a frame whose length field may be `limit`.
pub(crate) fn max_body(limit: u32) -> usize {
    (limit as usize).saturating_sub(HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Decoder, Item, Limits};

    fn frame(opcode: u8, flags: u8, id: u32, body: &[u8]) -> Frame {
        Frame {
            header: FrameHeader { opcode, flags, id },
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn joins_interleaved_sequences() {
        let mut reassembler = Reassembler::new(100);
        assert_eq!(reassembler.push(frame(0x10, 1, 1, b"he")), Ok(None));
        assert_eq!(reassembler.push(frame(0x16, 1, 2, b"wor")), Ok(None));
        let ping = frame(0x03, 0, 3, b"");
        assert_eq!(reassembler.push(ping.clone()), Ok(Some(ping)));
        assert_eq!(reassembler.push(frame(0x10, 1, 1, b"")), Ok(None));
        assert_eq!(
            reassembler.push(frame(0x16, 0, 2, b"ld")),
            Ok(Some(frame(0x16, 0, 2, b"world")))
        );
        assert_eq!(
            reassembler.push(frame(0x10, 0, 1, b"llo")),
            Ok(Some(frame(0x10, 0, 1, b"hello")))
        );
        assert_eq!(reassembler.held, 0);
    }

    #[test]
    fn refuses_excess_and_a_changed_opcode() {
        let mut reassembler = Reassembler::new(4);
        assert_eq!(reassembler.push(frame(0x10, 1, 1, b"abc")), Ok(None));
        assert_eq!(
            reassembler.push(frame(0x10, 1, 2, b"de")),
            Err(ReassemblyError::TooLarge { limit: 4 })
        );
        assert_eq!(
            reassembler.push(frame(0x03, 0, 1, b"")),
            Err(ReassemblyError::OpcodeChanged {
                expected: 0x10,
                found: 0x03
            })
        );

        let mut reassembler = Reassembler::new(4);
        for id in 0..64 {
            assert_eq!(reassembler.push(frame(0x10, 1, id, b"")), Ok(None));
        }
        assert_eq!(
            reassembler.push(frame(0x10, 1, 64, b"")),
            Err(ReassemblyError::TooManySequences)
        );
    }

    #[test]
    fn splits_at_any_byte() {
        let body: Vec<u8> = (0..100).collect();
        for max_body in 1..=101 {
            let mut out = OutBuf::new();
            let header = frame(0x10, 0, 7, b"").header;
            let mut splitter = Splitter::new(Layout::OpcodeFirst, header, body.len(), max_body, &mut out);
            splitter.put_slice(&body[..30]);
            splitter.put_shared(&Bytes::copy_from_slice(&body[30..]));

            let mut decoder = Decoder::new(Layout::OpcodeFirst, Limits::default());
            decoder.feed(&out.take_bytes());
            let mut reassembler = Reassembler::new(1000);
            let (mut frames, mut whole) = (0, None);
            while let Ok(Some(Item::Frame(part))) = decoder.next_item() {
                assert!(part.body.len() <= max_body && whole.is_none());
                frames += 1;
                whole = reassembler.push(part).expect("in order");
            }
            assert_eq!(frames, body.len().div_ceil(max_body));
            assert_eq!(whole, Some(frame(0x10, 0, 7, &body)));
        }
    }
}
