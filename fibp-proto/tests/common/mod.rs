//! What the codec's tests have in common. Each test crate uses a part of it.
#![allow(dead_code)]

use fibp_proto::frame::{Decoder, Frame, Item, Limits};
use fibp_proto::{AdminRevision, Dialect};

/// The revisions of the preamble dialect.
pub(crate) const PREAMBLES: [Dialect; 3] = [
    Dialect::Preamble(AdminRevision::Protobuf),
    Dialect::Preamble(AdminRevision::ProtobufRenumbered),
    Dialect::Preamble(AdminRevision::Binary),
];

/// Every dialect and revision.
pub(crate) const ALL: [Dialect; 5] = [
    PREAMBLES[0],
    PREAMBLES[1],
    PREAMBLES[2],
    Dialect::Handshake,
    Dialect::HandshakeEarly,
];

/// How many cases a property is tried with: few where each takes seconds (`scripts/miri`).
pub(crate) const fn cases(usual: u32) -> u32 {
    if cfg!(miri) { 8 } else { usual }
}

/// How long a value gets whose length is not what matters: short where each byte costs (`scripts/miri`).
pub(crate) const fn size(usual: usize) -> usize {
    if cfg!(miri) { usual / 64 } else { usual }
}

/// Bytes from hex digits; words in single quotes stand for their ASCII bytes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, part) in text.split('\'').enumerate() {
        if at % 2 == 1 {
            all.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            all.push(u8::from_str_radix(pair, 16).expect("hex"));
        }
    }
    all
}

/// The one frame that `bytes` are.
#[track_caller]
pub(crate) fn frame(dialect: Dialect, bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::new(dialect.layout(), Limits::default());
    decoder.feed(bytes);
    match decoder.next_item() {
        Ok(Some(Item::Frame(frame))) => {
            assert!(decoder.pending().is_empty(), "more than one frame: {bytes:02x?}");
            frame
        }
        other => panic!("no frame: {other:?} in {bytes:02x?}"),
    }
}
