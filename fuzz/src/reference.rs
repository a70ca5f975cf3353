//! Framing and reassembly a second time, straight from docs/protocol/framed.md 1 and as simple as can be: what the
//! decoder, the splitter and the reassembler are compared with.

use std::collections::BTreeMap;

use fibp_proto::frame::{CONTINUATION, FrameError, Item, Layout, Oversize, ReassemblyError};

/// How many unfinished sequences there may be.
const MAX_SEQUENCES: usize = 64;

/// A frame's header without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
}

/// What a stream consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Frame(Header, Vec<u8>),
    Oversized(Header, u32),
}

impl From<Item> for Part {
    fn from(item: Item) -> Self {
        match item {
            Item::Frame(frame) => Self::Frame(
                Header {
                    opcode: frame.header.opcode,
                    flags: frame.header.flags,
                    id: frame.header.id,
                },
                frame.body.to_vec(),
            ),
            Item::Oversized { header, length } => Self::Oversized(
                Header {
                    opcode: header.opcode,
                    flags: header.flags,
                    id: header.id,
                },
                length,
            ),
        }
    }
}

/// One frame's bytes, whatever its length.
pub(crate) fn frame(layout: Layout, header: Header, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 6).expect("inputs are small");
    let (first, second) = match layout {
        Layout::FlagsFirst => (header.flags, header.opcode),
        Layout::OpcodeFirst => (header.opcode, header.flags),
    };
    [
        &length.to_be_bytes()[..],
        &[first, second],
        &header.id.to_be_bytes(),
        body,
    ]
    .concat()
}

/// Cuts `stream` into frames: all that are complete, and the error that ends it.
pub(crate) fn cut(
    layout: Layout,
    limit: u32,
    oversize: Oversize,
    mut stream: &[u8],
) -> (Vec<Part>, Option<FrameError>) {
    let mut parts = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length);
        if length < 6 {
            return (parts, Some(FrameError::TooShort { length }));
        }
        let too_long = length > limit;
        if too_long && oversize == Oversize::Refuse {
            let length = length.into();
            return (parts, Some(FrameError::TooLong { length, limit }));
        }
        let Some(([first, second, id @ ..], _)) = rest.split_first_chunk::<6>() else {
            break;
        };
        let (flags, opcode) = match layout {
            Layout::FlagsFirst => (*first, *second),
            Layout::OpcodeFirst => (*second, *first),
        };
        let id = u32::from_be_bytes(*id);
        let header = Header { opcode, flags, id };
        let length_of_all = length as usize;
        if too_long {
            parts.push(Part::Oversized(header, length));
            stream = rest.get(length_of_all..).unwrap_or_default();
        } else {
            let Some(frame) = rest.get(..length_of_all) else { break };
            parts.push(Part::Frame(header, frame[6..].to_vec()));
            stream = &rest[length_of_all..];
        }
    }
    (parts, None)
}

/// Joins continued frames.
#[derive(Debug)]
pub(crate) struct Joiner {
    unfinished: BTreeMap<u32, (u8, Vec<u8>)>,
    limit: usize,
}

impl Joiner {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            unfinished: BTreeMap::new(),
            limit,
        }
    }

    pub(crate) fn push(&mut self, header: Header, body: &[u8]) -> Result<Option<(Header, Vec<u8>)>, ReassemblyError> {
        let goes_on = header.flags & CONTINUATION == CONTINUATION;
        let (opcode, mut joined) = match self.unfinished.remove(&header.id) {
            None if !goes_on => return Ok(Some((header, body.to_vec()))),
            None if self.unfinished.len() == MAX_SEQUENCES => return Err(ReassemblyError::TooManySequences),
            None => (header.opcode, Vec::new()),
            Some(sequence) => sequence,
        };
        if opcode != header.opcode {
            return Err(ReassemblyError::OpcodeChanged {
                expected: opcode,
                found: header.opcode,
            });
        }
        joined.extend_from_slice(body);
        let others: usize = self.unfinished.values().map(|(_, body)| body.len()).sum();
        if others + joined.len() > self.limit {
            return Err(ReassemblyError::TooLarge { limit: self.limit });
        }
        if goes_on {
            self.unfinished.insert(header.id, (opcode, joined));
            return Ok(None);
        }
        Ok(Some((header, joined)))
    }
}
