//! Bodies that go on in further frames: split at any limit, joined in any company.

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::frame::{CONTINUATION, Decoder, Item, Layout, Limits, Oversize, Reassembler};
use fibp_proto::{Dialect, Request};

use crate::frame_decode::only_frame;
use crate::reference::{self, Header, Joiner, Part};
use crate::values::AnyRequest;

/// The most frames that a body is split into.
const MAX_PARTS: usize = 300;

#[derive(Debug, Arbitrary)]
enum Case {
    /// Requests, each split at its own limit, their frames interleaved as the numbers say.
    Split {
        early: bool,
        requests: Vec<(u8, AnyRequest)>,
        turns: Vec<u8>,
    },
    /// Frames that no encoder of ours writes.
    Join { limit: u16, frames: Vec<Stray> },
}

#[derive(Debug, Arbitrary)]
enum Stray {
    /// A frame of one of four ids and one of two opcodes.
    Frame {
        id: u8,
        opcode: bool,
        flags: u8,
        body: Vec<u8>,
    },
    /// The beginnings of many sequences.
    Many { count: u8 },
}

/// Splits and joins.
pub fn run(data: &[u8]) {
    match Case::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Case::Split { early, requests, turns }) => {
            let dialect = if early {
                Dialect::HandshakeEarly
            } else {
                Dialect::Handshake
            };
            split(dialect, &requests, &turns);
        }
        Ok(Case::Join { limit, frames }) => join(limit.into(), &frames),
        Err(_) => {}
    }
}

/// A frame and its bytes.
type Split = (Header, Vec<u8>);

fn split(dialect: Dialect, requests: &[(u8, AnyRequest)], turns: &[u8]) {
    let mut sequences: Vec<(Vec<u8>, Vec<Split>)> = Vec::new();
    for (number, (limit, AnyRequest(request))) in (1..).zip(requests.iter().take(4)) {
        let limits = |send| Limits::new(send, send);
        let Ok(whole) = request.encode(dialect, number, limits(u32::MAX)) else {
            continue;
        };
        let body = whole.len() - 10;
        // Small, but not so small that a large body makes thousands of frames; often exactly what is needed, or one off.
        let exact = body + 6;
        let limit = match limit {
            0..=199 => 7 + usize::from(*limit) % 100 + body / MAX_PARTS,
            200..=220 => exact.max(7),
            221..=240 => (exact - 1).max(7),
            _ => (exact / 2).max(7),
        };
        let bytes = request
            .encode(dialect, number, limits(u32::try_from(limit).expect("small")))
            .expect("any body can be split");
        let parts = parts(dialect.layout(), limit, &bytes);
        assert_eq!(
            parts.len(),
            body.div_ceil(limit - 6).max(1),
            "full frames, and the rest"
        );
        let opcode = whole[4];
        let mut joined = Vec::new();
        for (at, (header, part)) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            assert!(last || part.len() == limit - 6, "full");
            let flags = if last { 0 } else { CONTINUATION };
            let id = number;
            assert_eq!(*header, Header { opcode, flags, id }, "part {at} of {}", parts.len());
            joined.extend_from_slice(part);
        }
        assert_eq!(joined, whole[10..], "the parts are the body");
        assert_same_request(dialect, request, &whole);
        sequences.push((whole.to_vec(), parts));
    }
    interleave(dialect, sequences, turns);
}

fn parts(layout: Layout, limit: usize, bytes: &[u8]) -> Vec<Split> {
    let limit = u32::try_from(limit).expect("small");
    let (parts, error) = reference::cut(layout, limit, Oversize::Refuse, bytes);
    assert_eq!(error, None, "all within the limit");
    let frames: Vec<Split> = parts
        .into_iter()
        .map(|part| match part {
            Part::Frame(header, body) => (header, body),
            Part::Oversized(..) => panic!("{part:?}"),
        })
        .collect();
    let lengths: usize = frames.iter().map(|(_, body)| 10 + body.len()).sum();
    assert_eq!(lengths, bytes.len(), "nothing after the frames");
    frames
}

fn assert_same_request(dialect: Dialect, request: &Request, whole: &[u8]) {
    let read = Request::decode(dialect, &only_frame(dialect, whole)).expect("was written by us");
    assert_eq!(read.op(), request.op());
}

/// Frames of different ids may come between each other: every sequence is joined to what was split.
fn interleave(dialect: Dialect, sequences: Vec<(Vec<u8>, Vec<Split>)>, turns: &[u8]) {
    let mut reassembler = Reassembler::new(usize::MAX);
    let mut left: Vec<_> = sequences
        .into_iter()
        .map(|(whole, parts)| (whole, parts.into_iter()))
        .collect();
    let mut turns = turns.iter();
    while !left.is_empty() {
        let turn = turns.next().map_or(0, |turn| usize::from(*turn)) % left.len();
        let (whole, parts) = &mut left[turn];
        let (header, body) = parts.next().expect("what is over was removed");
        let frame = only_frame(dialect, &reference::frame(dialect.layout(), header, &body));
        let is_last = parts.len() == 0;
        match reassembler.push(frame).expect("in order") {
            Some(joined) => {
                assert!(is_last, "complete too early");
                assert_eq!(joined, only_frame(dialect, whole));
                left.swap_remove(turn);
            }
            None => assert!(!is_last, "never complete"),
        }
    }
}

/// Compares the reassembler with the reference, up to the first error.
fn join(limit: usize, frames: &[Stray]) {
    let mut reassembler = Reassembler::new(limit);
    let mut joiner = Joiner::new(limit);
    let layout = Layout::OpcodeFirst;
    for stray in frames.iter().take(100) {
        let frames: Vec<(Header, &[u8])> = match stray {
            Stray::Frame {
                id,
                opcode,
                flags,
                body,
            } => {
                let (opcode, id) = (0x10 + u8::from(*opcode), u32::from(id % 4));
                let flags = *flags;
                vec![(Header { opcode, flags, id }, &body[..])]
            }
            Stray::Many { count } => (0..u32::from(*count))
                .map(|id| {
                    let (opcode, flags) = (0x10, CONTINUATION);
                    (
                        Header {
                            opcode,
                            flags,
                            id: 4 + id,
                        },
                        &[0][..],
                    )
                })
                .collect(),
        };
        for (header, body) in frames {
            let mut decoder = Decoder::new(layout, Limits::default());
            decoder.feed(&reference::frame(layout, header, body));
            let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
                panic!("no frame");
            };
            let joined = reassembler.push(frame).map(|frame| {
                frame.map(|frame| match Part::from(Item::Frame(frame)) {
                    Part::Frame(header, body) => (header, body),
                    Part::Oversized(..) => unreachable!("was a frame"),
                })
            });
            let expected = joiner.push(header, body);
            assert_eq!(joined, expected, "after {header:?}");
            if expected.is_err() {
                return;
            }
        }
    }
}
