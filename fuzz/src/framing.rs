//! Frames of every length around the limits, in any portions: the decoder finds what the specification says, no more and
//! no less.

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::frame::{self, Decoder, FrameError, Item, Layout, Limits, OutBuf, Oversize};

use crate::reference::{self, Header, Part};

/// A stream and how it arrives.
#[derive(Debug, Arbitrary)]
struct Case {
    opcode_first: bool,
    refuse: bool,
    /// By read buffers instead of slices.
    read: bool,
    limit: u16,
    portions: Vec<u8>,
    pieces: Vec<Piece>,
}

/// A piece of the stream.
#[derive(Debug, Arbitrary)]
enum Piece {
    /// A frame within the limit.
    Frame { header: (u8, u8, u32), len: u8, fill: u8 },
    /// A frame whose length field is as much over the limit.
    Edge { header: (u8, u8, u32), over: i8, fill: u8 },
    /// A length field of at most 7, and what may follow it.
    Short { length: u8, rest: [u8; 7] },
    /// A length field alone, and some bytes.
    Announced { length: u32, rest: Vec<u8> },
    /// Anything.
    Raw(Vec<u8>),
}

/// Compares what comes out of the decoder with the reference.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let layout = if case.opcode_first {
        Layout::OpcodeFirst
    } else {
        Layout::FlagsFirst
    };
    let oversize = if case.refuse { Oversize::Refuse } else { Oversize::Skip };
    let limit = 6 + u32::from(case.limit) % 3000;
    let mut stream = Vec::new();
    for piece in case.pieces.iter().take(40) {
        piece.write(layout, limit, &mut stream);
    }
    let expected = reference::cut(layout, limit, oversize, &stream);
    let limits = Limits::new(limit, limit);
    let decoder = || Decoder::new(layout, limits).oversize(oversize);
    for portions in [&[][..], &[1], &case.portions] {
        let found = decode(decoder(), layout, &stream, portions, case.read);
        assert_eq!(found, expected, "{case:?}");
    }
    for part in expected.0 {
        if let Part::Frame(header, body) = part {
            assert_encoded(layout, header, &body);
        }
    }
}

impl Piece {
    fn write(&self, layout: Layout, limit: u32, stream: &mut Vec<u8>) {
        let mut write = |(opcode, flags, id), len: usize, fill: u8| {
            // Bodies count up, so that no two parts of one are alike.
            let body: Vec<u8> = (0..len).map(|at| fill.wrapping_add(at.to_le_bytes()[0])).collect();
            stream.extend(reference::frame(layout, Header { opcode, flags, id }, &body));
        };
        match self {
            Self::Frame { header, len, fill } => write(*header, usize::from(*len), *fill),
            Self::Edge { header, over, fill } => {
                let length = limit.saturating_add_signed(i32::from(over % 3));
                write(*header, length.saturating_sub(6) as usize, *fill);
            }
            Self::Short { length, rest } => {
                let length = usize::from(length % 8);
                stream.extend_from_slice(&[0, 0, 0, length.to_le_bytes()[0]]);
                stream.extend_from_slice(&rest[..length.min(rest.len())]);
            }
            Self::Announced { length, rest } => {
                stream.extend_from_slice(&length.to_be_bytes());
                stream.extend_from_slice(rest);
            }
            Self::Raw(bytes) => stream.extend_from_slice(bytes),
        }
    }
}

/// What comes out of `stream`, which arrives in `portions`, over and over; all at once if there are none.
fn decode(
    mut decoder: Decoder,
    layout: Layout,
    stream: &[u8],
    portions: &[u8],
    read: bool,
) -> (Vec<Part>, Option<FrameError>) {
    let mut parts = Vec::new();
    let mut portions = portions.iter().cycle().map(|n| 1 + usize::from(*n));
    let mut rest = stream;
    assert_eq!(decoder.layout(), layout);
    loop {
        loop {
            let arrived = u64::try_from(stream.len() - rest.len()).expect("small");
            let pending = u64::try_from(decoder.pending().len()).expect("small");
            assert_eq!(decoder.offset() + pending, arrived, "nothing is counted twice or lost");
            match decoder.next_item() {
                Ok(Some(item)) => parts.push(Part::from(item)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_item(), Err(error), "the error stays");
                    return (parts, Some(error));
                }
            }
        }
        if rest.is_empty() {
            return (parts, None);
        }
        let mut n = portions.next().unwrap_or(usize::MAX).min(rest.len());
        if read {
            let mut buffer = decoder.take_buffer().expect("is not out");
            n = n.min(buffer.unfilled().len());
            assert!(n > 0, "there is always room");
            assert!(decoder.take_buffer().is_none(), "it is out");
            // What is fed while the buffer is out comes after what it brings.
            let (brought, fed) = rest[..n].split_at(n.div_ceil(2));
            decoder.feed(fed);
            assert_eq!(buffer.copy_from(brought), brought.len());
            decoder.give_buffer(buffer);
        } else {
            decoder.feed(&rest[..n]);
        }
        rest = &rest[n..];
        // The buffer of a busy connection, and twice what came.
        assert!(decoder.capacity() <= 2 * stream.len() + 256 * 1024);
    }
}

/// The encoder writes the same frame if the limit allows, and nothing if it is one less.
fn assert_encoded(layout: Layout, header: Header, body: &[u8]) {
    let bytes = reference::frame(layout, header, body);
    let mut decoder = Decoder::new(layout, Limits::default());
    decoder.feed(&bytes);
    let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
        panic!("no frame: {bytes:?}");
    };
    let length = u32::try_from(bytes.len() - 4).expect("small");
    let mut out = OutBuf::new();
    let limit = length - 1;
    let refused = frame::encode(layout, &frame, limit, &mut out);
    let length_field = length.into();
    assert_eq!(
        refused,
        Err(FrameError::TooLong {
            length: length_field,
            limit
        })
    );
    assert!(out.is_empty());
    assert_eq!(frame::encode(layout, &frame, length, &mut out), Ok(()));
    assert_eq!(out.take_bytes(), bytes);
}
