//! The frame decoder: however the bytes arrive, the same frames come out, in bounded memory.

mod common;

use bytes::Bytes;
use common::cases;
use fibp_proto::frame::{
    self, DEFAULT_MAX_LENGTH, Decoder, Frame, FrameError, FrameHeader, HEADER_LEN, Item, Layout, Limits, OutBuf,
    Oversize, PREFIX_LEN,
};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: Limits = Limits::new(100_000, 100_000);

/// How a stream reaches the decoder.
#[derive(Debug, Clone)]
enum Arrival {
    /// By `feed`, in pieces of these sizes, over and over.
    Fed(Vec<usize>),
    /// By read buffers, at most so many bytes at a time.
    Read(Vec<usize>),
}

/// Everything that comes out of `stream`.
fn decode(mut decoder: Decoder, stream: &[u8], arrival: &Arrival) -> (Vec<Item>, Option<FrameError>) {
    let mut items = Vec::new();
    let (Arrival::Fed(sizes) | Arrival::Read(sizes)) = arrival;
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    loop {
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_item(), Err(error), "the error stays");
                    return (items, Some(error));
                }
            }
        }
        if rest.is_empty() {
            return (items, None);
        }
        let want = (*sizes.next().expect("endless")).clamp(1, rest.len());
        let n = match arrival {
            Arrival::Fed(_) => {
                decoder.feed(&rest[..want]);
                want
            }
            Arrival::Read(_) => {
                let mut buffer = decoder.take_buffer().expect("not out");
                assert!(decoder.take_buffer().is_none(), "only one at a time");
                let n = want.min(buffer.unfilled().len());
                assert!(n > 0, "there is always room");
                buffer.unfilled()[..n].copy_from_slice(&rest[..n]);
                buffer.advance(n);
                decoder.give_buffer(buffer);
                n
            }
        };
        rest = &rest[n..];
    }
}

fn wire(layout: Layout, frames: &[Frame]) -> Vec<u8> {
    let mut out = OutBuf::new();
    for frame in frames {
        frame::encode(layout, frame, u32::MAX, &mut out).expect("fits");
    }
    out.take_bytes().to_vec()
}

fn frame(len: usize) -> Frame {
    Frame {
        header: FrameHeader {
            opcode: 1,
            flags: 4,
            id: 7,
        },
        body: (0..len).map(|at| at as u8).collect::<Vec<_>>().into(),
    }
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let body = prop_oneof![
        6 => 0_usize..40,
        2 => 1_000_usize..5_000,
        // Some are over the limit, some larger than any read buffer.
        1 => 60_000_usize..150_000,
    ];
    let one = (any::<(u8, u8, u32)>(), body, any::<u8>()).prop_map(|((opcode, flags, id), len, byte)| Frame {
        header: FrameHeader { opcode, flags, id },
        body: vec![byte; len].into(),
    });
    vec(one, 1..12)
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let sizes = || vec(prop_oneof![1_usize..20, 1_000_usize..70_000], 1..8);
    prop_oneof![sizes().prop_map(Arrival::Fed), sizes().prop_map(Arrival::Read)]
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::FlagsFirst), Just(Layout::OpcodeFirst)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    #[test]
    fn the_chunks_do_not_matter(layout in layout(), frames in frames(), arrival in arrival()) {
        let expected: Vec<Item> = frames.iter().map(|frame| {
            let length = u32::try_from(frame.body.len() + HEADER_LEN).expect("small");
            if length > LIMITS.receive {
                Item::Oversized { header: frame.header, length }
            } else {
                Item::Frame(frame.clone())
            }
        }).collect();
        let decoder = Decoder::new(layout, LIMITS);
        let (items, error) = decode(decoder, &wire(layout, &frames), &arrival);
        prop_assert_eq!(error, None);
        prop_assert_eq!(items, expected);
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..400), arrival in arrival(), refuse: bool) {
        let oversize = if refuse { Oversize::Refuse } else { Oversize::Skip };
        let whole = decode(Decoder::new(Layout::FlagsFirst, LIMITS).oversize(oversize), &bytes, &Arrival::Fed(vec![bytes.len()]));
        let pieces = decode(Decoder::new(Layout::FlagsFirst, LIMITS).oversize(oversize), &bytes, &arrival);
        prop_assert_eq!(whole, pieces);
    }
}

#[test]
fn byte_by_byte() {
    let frames = [frame(0), frame(1), frame(3_000), frame(20)];
    for layout in [Layout::FlagsFirst, Layout::OpcodeFirst] {
        for arrival in [Arrival::Fed(vec![1]), Arrival::Read(vec![1])] {
            let (items, error) = decode(Decoder::new(layout, LIMITS), &wire(layout, &frames), &arrival);
            assert_eq!(error, None);
            assert_eq!(items, frames.clone().map(Item::Frame));
        }
    }
}

#[test]
fn lengths_stop_at_the_limits() {
    let length = |length: u32| {
        let mut decoder = Decoder::new(Layout::FlagsFirst, LIMITS).oversize(Oversize::Refuse);
        decoder.feed(&length.to_be_bytes());
        decoder.next_item()
    };
    for short in 0..6 {
        assert_eq!(length(short), Err(FrameError::TooShort { length: short }));
    }
    assert_eq!(length(6), Ok(None));
    assert_eq!(length(100_000), Ok(None));
    // Known from the length field alone, as servers do it.
    for long in [100_001, u32::MAX] {
        let limit = LIMITS.receive;
        let length_field = u64::from(long);
        assert_eq!(
            length(long),
            Err(FrameError::TooLong {
                length: length_field,
                limit
            })
        );
    }
}

#[test]
fn an_oversized_frame_is_passed_over_without_being_stored() {
    let mut decoder = Decoder::new(Layout::FlagsFirst, LIMITS);
    let length = if cfg!(miri) { 1 << 18 } else { 32 * DEFAULT_MAX_LENGTH };
    decoder.feed(&length.to_be_bytes());
    assert_eq!(decoder.next_item(), Ok(None), "the header says whose it is");
    decoder.feed(&[4, 1, 0, 0, 0, 9]);
    let header = FrameHeader {
        opcode: 1,
        flags: 4,
        id: 9,
    };
    assert_eq!(decoder.next_item(), Ok(Some(Item::Oversized { header, length })));
    let mut left = length as usize - HEADER_LEN;
    let chunk = vec![0xAB; 1 << 20];
    while left > 0 {
        let n = left.min(chunk.len());
        decoder.feed(&chunk[..n]);
        left -= n;
        assert_eq!(decoder.next_item(), Ok(None));
        assert!(decoder.capacity() < 1 << 20);
    }
    decoder.feed(&wire(Layout::FlagsFirst, &[frame(3)]));
    assert_eq!(decoder.next_item(), Ok(Some(Item::Frame(frame(3)))));
}

#[test]
fn a_declared_length_reserves_little() {
    let limits = Limits::new(u32::MAX, u32::MAX);
    let mut decoder = Decoder::new(Layout::FlagsFirst, limits);
    decoder.feed(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0]);
    for received in [0, 1_000, 100_000, 1_000_000] {
        decoder.feed(&vec![0; received]);
        assert_eq!(decoder.next_item(), Ok(None));
        let buffer = decoder.take_buffer().expect("not out");
        let pending = buffer.filled().len();
        decoder.give_buffer(buffer);
        // At most the larger of 64 KiB and four times what has arrived is reserved ahead.
        assert!(
            decoder.capacity() <= pending + (64 * 1024).max(4 * pending),
            "{} for {pending}",
            decoder.capacity()
        );
    }
}

#[test]
fn what_is_no_frame_can_be_consumed() {
    let mut decoder = Decoder::new(Layout::FlagsFirst, LIMITS);
    decoder.feed(b"FIBP\x01\0");
    decoder.feed(&wire(Layout::FlagsFirst, &[frame(5)]));
    assert!(decoder.pending().starts_with(b"FIBP"));
    decoder.consume(6);
    assert_eq!(decoder.next_item(), Ok(Some(Item::Frame(frame(5)))));
    decoder.consume(1_000);
    assert!(decoder.pending().is_empty());
}

#[test]
fn bytes_fed_while_the_buffer_is_out_come_after_it() {
    let stream = wire(Layout::FlagsFirst, &[frame(10), frame(11)]);
    let (first, second) = stream.split_at(7);
    let mut decoder = Decoder::new(Layout::FlagsFirst, LIMITS);
    let mut buffer = decoder.take_buffer().expect("not out");
    decoder.feed(second);
    buffer.unfilled()[..first.len()].copy_from_slice(first);
    buffer.advance(first.len());
    decoder.give_buffer(buffer);
    assert_eq!(decoder.next_item(), Ok(Some(Item::Frame(frame(10)))));
    assert_eq!(decoder.next_item(), Ok(Some(Item::Frame(frame(11)))));
}

#[test]
fn what_is_skipped_is_what_came_first() {
    let stream = wire(Layout::FlagsFirst, &[frame(200), frame(11)]);
    let limits = Limits::new(100, 100);
    let mut decoder = Decoder::new(Layout::FlagsFirst, limits).oversize(Oversize::Skip);
    decoder.feed(&stream[..20]);
    assert!(matches!(
        decoder.next_item(),
        Ok(Some(Item::Oversized { length: 206, .. }))
    ));
    let (first, second) = stream[20..].split_at(150);
    let mut buffer = decoder.take_buffer().expect("not out");
    decoder.feed(second);
    buffer.unfilled()[..first.len()].copy_from_slice(first);
    buffer.advance(first.len());
    decoder.give_buffer(buffer);
    assert_eq!(decoder.next_item(), Ok(Some(Item::Frame(frame(11)))));
}

#[test]
fn frames_are_limited_on_the_way_out() {
    let mut out = OutBuf::new();
    let large = frame(11);
    assert_eq!(
        frame::encode(Layout::FlagsFirst, &large, 16, &mut out),
        Err(FrameError::TooLong { length: 17, limit: 16 })
    );
    assert!(out.is_empty());
    assert_eq!(frame::encode(Layout::FlagsFirst, &large, 17, &mut out), Ok(()));
    assert_eq!(out.len(), PREFIX_LEN + 17);
    let shared = Frame {
        body: Bytes::from(vec![1; 1 << 20]),
        ..large
    };
    assert_eq!(frame::encode(Layout::OpcodeFirst, &shared, u32::MAX, &mut out), Ok(()));
    assert_eq!(
        out.take_bytes().len(),
        PREFIX_LEN + 17 + PREFIX_LEN + HEADER_LEN + (1 << 20)
    );
}
