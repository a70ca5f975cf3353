//! One direction of an observed connection: bytes with holes, cut into frames with their offsets.

use bytes::{Buf, BytesMut};

use super::Side;
use crate::dialect::{Dialect, Incoming};
use crate::frame::{self, Frame, FrameError, FrameHeader, HEADER_LEN, Layout, PREFIX_LEN};
use crate::message::QueueName;
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::{Push, Response};

/// While frames are searched for, older bytes than this are given up.
const WINDOW: usize = 1024 * 1024;

/// A frame that is larger is not recognised while frames are searched for.
const MAX_FOUND: u32 = 16 * 1024 * 1024;

/// The dialects that frames are tried in while they are searched for; the header distinguishes the layouts.
const CANDIDATES: [Dialect; 5] = [
    Dialect::Preamble(crate::dialect::AdminRevision::Protobuf),
    Dialect::Preamble(crate::dialect::AdminRevision::ProtobufRenumbered),
    Dialect::Preamble(crate::dialect::AdminRevision::Binary),
    Dialect::Handshake,
    Dialect::HandshakeEarly,
];

/// What a stream yields.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(Frame),
    /// A frame above the limit, of which only the header is reported.
    Oversized {
        header: FrameHeader,
        length: u32,
    },
    /// Frames cannot be cut any further; they are searched for from here on.
    Broken(FrameError),
    /// A frame was found again after so many bytes that are not understood.
    Found {
        dialect: Dialect,
        skipped: u64,
    },
}

/// What a hole did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hole {
    /// It lies within one frame, which is lost; the next one follows where it should.
    Within(Option<FrameHeader>),
    /// The boundary of frames is lost.
    Beyond,
}

#[derive(Debug)]
enum Mode {
    /// Frames follow one another.
    Cutting,
    /// The next frame is searched for.
    Searching(Search),
}

#[derive(Debug, Default)]
struct Search {
    /// Where the bytes begin that were not understood.
    from: u64,
    /// Bytes of the buffer whose headers were looked at.
    scanned: usize,
    /// Places in the buffer where a frame may begin.
    candidates: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Stream {
    side: Side,
    limit: u32,
    buffer: BytesMut,
    /// The offset in the stream of the first byte of `buffer`.
    offset: u64,
    /// Bytes of a frame that are still to be passed over.
    skip: u64,
    mode: Mode,
}

impl Stream {
    pub(super) fn new(side: Side, limit: u32) -> Self {
        Self {
            side,
            limit,
            buffer: BytesMut::new(),
            offset: 0,
            skip: 0,
            mode: Mode::Cutting,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let n = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes = bytes.get(n..).unwrap_or_default();
            self.skip -= n as u64;
            self.offset = self.offset.saturating_add(n as u64);
        }
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn consume(&mut self, n: usize) {
        let n = n.min(self.buffer.len());
        self.buffer.advance(n);
        self.offset = self.offset.saturating_add(n as u64);
    }

    /// Frames are searched for from the next byte on.
    pub(super) fn search(&mut self) {
        self.mode = Mode::Searching(Search {
            from: self.offset,
            ..Search::default()
        });
    }

    /// The next `len` bytes of the stream are missing; `None` if their number is unknown.
    pub(super) fn hole(&mut self, layout: Option<Layout>, len: Option<u64>) -> Hole {
        let pending = self.buffer.len() as u64;
        let left = match (&self.mode, layout) {
            (Mode::Searching(_), _) | (_, None) => None,
            (Mode::Cutting, Some(_)) if self.skip > 0 => Some((None, self.skip)),
            (Mode::Cutting, Some(layout)) => self.frame_under_way(layout),
        };
        self.buffer.clear();
        self.offset = self.offset.saturating_add(pending).saturating_add(len.unwrap_or(0));
        match (left, len) {
            (Some((header, left)), Some(len)) if len <= left => {
                self.skip = left - len;
                Hole::Within(header)
            }
            _ => {
                self.skip = 0;
                match &mut self.mode {
                    // The hole is a part of what is not understood.
                    Mode::Searching(search) => {
                        search.scanned = 0;
                        search.candidates.clear();
                    }
                    Mode::Cutting => self.search(),
                }
                Hole::Beyond
            }
        }
    }

    /// The frame that is not complete, and how many bytes of it are missing.
    fn frame_under_way(&self, layout: Layout) -> Option<(Option<FrameHeader>, u64)> {
        let (length, header) = header_at(layout, &self.buffer)?;
        let total = PREFIX_LEN as u64 + u64::from(length);
        Some((Some(header), total.checked_sub(self.buffer.len() as u64)?))
    }

    /// The next piece and the offset it begins at. `layout` is `None` while nothing is known of the dialect.
    pub(super) fn next_piece(&mut self, layout: Option<Layout>) -> Option<(u64, Piece)> {
        match (&self.mode, layout) {
            (Mode::Searching(_), layout) => self.find(layout),
            (Mode::Cutting, Some(layout)) => self.cut(layout),
            (Mode::Cutting, None) => None,
        }
    }

    fn cut(&mut self, layout: Layout) -> Option<(u64, Piece)> {
        let at = self.offset;
        if let Some((length, header)) = header_at(layout, &self.buffer)
            && length > self.limit
        {
            let total = PREFIX_LEN as u64 + u64::from(length);
            let here = self.buffer.len();
            self.skip = total.saturating_sub(here as u64);
            self.consume(usize::try_from(total).unwrap_or(usize::MAX).min(here));
            return Some((at, Piece::Oversized { header, length }));
        }
        match frame::parse(layout, &self.buffer) {
            Ok(None) => None,
            Ok(Some(frame)) => {
                let total = frame.wire_len();
                let header = frame.header;
                let mut whole = self.buffer.split_to(total);
                self.offset = self.offset.saturating_add(total as u64);
                whole.advance(PREFIX_LEN + HEADER_LEN);
                let body = whole.freeze();
                Some((at, Piece::Frame(Frame { header, body })))
            }
            Err(error) => {
                self.search();
                Some((at, Piece::Broken(error)))
            }
        }
    }

    /// The first place where a whole frame begins that one of the dialects understands. Frames have no marker, so this
    /// is a guess: a length that fits, an opcode of this side, and a body that can be read.
    fn find(&mut self, layout: Option<Layout>) -> Option<(u64, Piece)> {
        let Mode::Searching(search) = &mut self.mode else {
            return None;
        };
        while let Some(rest) = self.buffer.get(search.scanned..)
            && rest.len() >= PREFIX_LEN + HEADER_LEN
        {
            if LAYOUTS
                .into_iter()
                .filter(|known| layout.is_none_or(|layout| layout == *known))
                .any(|layout| header_at(layout, rest).is_some_and(|(length, _)| (6..=MAX_FOUND).contains(&length)))
            {
                search.candidates.push(search.scanned);
            }
            search.scanned += 1;
        }
        let mut found = None;
        let (side, buffer) = (self.side, &self.buffer);
        search.candidates.retain(|at| {
            if found.is_some() {
                return true;
            }
            let rest = buffer.get(*at..).unwrap_or_default();
            let mut waits = false;
            for dialect in CANDIDATES {
                if layout.is_some_and(|layout| layout != dialect.layout()) {
                    continue;
                }
                match frame::parse(dialect.layout(), rest) {
                    Ok(Some(frame)) if is_understood(side, dialect, &frame.to_frame()) => {
                        found = Some((*at, dialect));
                        return true;
                    }
                    Ok(None) => waits |= is_opcode(side, dialect, rest),
                    Ok(Some(_)) | Err(_) => {}
                }
            }
            waits
        });
        if let Some((at, dialect)) = found {
            let from = search.from;
            self.mode = Mode::Cutting;
            self.consume(at);
            let skipped = self.offset.saturating_sub(from);
            return Some((self.offset, Piece::Found { dialect, skipped }));
        }
        if self.buffer.len() > WINDOW {
            let give_up = self.buffer.len() - WINDOW / 2;
            search.scanned = search.scanned.saturating_sub(give_up);
            search.candidates.retain(|at| *at >= give_up);
            for at in &mut search.candidates {
                *at -= give_up;
            }
            self.consume(give_up);
        }
        None
    }
}

const LAYOUTS: [Layout; 2] = [Layout::FlagsFirst, Layout::OpcodeFirst];

/// Length field and header at the front of `bytes`, if they are there.
fn header_at(layout: Layout, bytes: &[u8]) -> Option<(u32, FrameHeader)> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    let (header, _) = rest.split_first_chunk::<HEADER_LEN>()?;
    Some((u32::from_be_bytes(*prefix), FrameHeader::parse(layout, *header)))
}

/// Whether the header at the front of `bytes` has an opcode that this side sends, and the flags that go with it.
fn is_opcode(side: Side, dialect: Dialect, bytes: &[u8]) -> bool {
    let Some((_, header)) = header_at(dialect.layout(), bytes) else {
        return true;
    };
    let flags = match dialect.layout() {
        Layout::FlagsFirst => header.flags == 0 || (side == Side::Server && header.flags == 4),
        Layout::OpcodeFirst => header.flags <= 1,
    };
    let Some(codec) = dialect.codec() else { return false };
    flags
        && match side {
            Side::Client => Op::ALL.into_iter().any(|op| codec.opcode_of(op) == Some(header.opcode)),
            Side::Server => {
                codec.classify(header) == Incoming::Push
                    || Op::ALL
                        .into_iter()
                        .any(|op| codec.answer_opcode_of(op) == Some(header.opcode))
            }
        }
}

/// Whether the frame can be read as something that this side sends.
fn is_understood(side: Side, dialect: Dialect, frame: &Frame) -> bool {
    let Some(codec) = dialect.codec() else { return false };
    // A heartbeat is empty, and so is much that is none: too little to go by, but for its opcode.
    let flags = match dialect.layout() {
        Layout::FlagsFirst => frame.header.flags == 0 || frame.header.flags == 4,
        Layout::OpcodeFirst => frame.header.flags == 0,
    };
    if !flags {
        return false;
    }
    match side {
        Side::Client => frame.header.flags == 0 && Request::decode(dialect, frame).is_ok(),
        Side::Server if codec.classify(frame.header) == Incoming::Push => {
            Push::decode(dialect, &QueueName::default(), frame).is_ok_and(|push| !push.deliveries.is_empty())
        }
        Side::Server => {
            frame.header.flags == 0
                && frame.header.id != 0
                && Op::ALL.into_iter().any(|op| {
                    codec.answer_opcode_of(op) == Some(frame.header.opcode)
                        && Response::decode(dialect, op, frame).is_ok()
                })
        }
    }
}
