//! Headers and payloads of the messages of one frame, moved out of the read buffer.
//!
//! A slice of a frame's body keeps the whole read buffer in memory, and keeps the buffer from being read into again.
//! Small parts are therefore copied, all of one frame together into one arena of exactly their size; only large
//! payloads stay slices.

use alloc::sync::Arc;
use core::ops::Range;

use bytes::Bytes;

use super::records::shared_len;
use crate::frame::{DecodeError, Reader};
use crate::message::{Headers, WireHeaders};
use crate::prelude::*;

/// Payloads from this size on stay slices of the read buffer: they make up a good part of it.
const SLICE_FROM: usize = 64 * 1024;

#[derive(Debug)]
struct Parts {
    header_count: usize,
    headers: Range<usize>,
    payload: Range<usize>,
}

/// Where the headers and payloads of a frame's messages lie in its body.
#[derive(Debug)]
pub(crate) struct Contents {
    parts: Vec<Parts>,
    arena_len: usize,
}

/// What is kept of each message until all of them are read.
pub(crate) const PARTS_SIZE: usize = size_of::<Parts>();

impl Contents {
    /// The memory of the places, [`PARTS_SIZE`] each, is counted by the caller.
    pub(crate) fn with_capacity(messages: usize) -> Self {
        Self {
            parts: Vec::with_capacity(messages),
            arena_len: 0,
        }
    }

    /// Reads `header_count` pairs of `str16`, then a payload of `bytes32`: one message's.
    pub(crate) fn read(&mut self, header_count: usize, body: &mut Reader<'_>) -> Result<(), DecodeError> {
        let headers = body.str16_pairs(header_count)?;
        let payload = body.bytes32()?;
        let mut copied = headers.len();
        if payload.len() < SLICE_FROM {
            copied = copied.saturating_add(payload.len());
        }
        body.hold(copied)?;
        self.arena_len = self.arena_len.saturating_add(copied);
        self.parts.push(Parts {
            header_count,
            headers,
            payload,
        });
        Ok(())
    }

    /// The headers and payloads, in the order of [`read`](Self::read). `body` is what was read from.
    pub(crate) fn take_from(self, body: &Bytes) -> impl Iterator<Item = (Headers, Bytes)> {
        let mut arena = Vec::with_capacity(self.arena_len);
        for parts in &self.parts {
            arena.extend_from_slice(body.get(parts.headers.clone()).unwrap_or_default());
            if parts.payload.len() < SLICE_FROM {
                arena.extend_from_slice(body.get(parts.payload.clone()).unwrap_or_default());
            }
        }
        let mut arena = Bytes::from(arena);
        self.parts.into_iter().map(move |parts| {
            let headers = Headers::from_wire(WireHeaders {
                count: parts.header_count,
                pairs: take(&mut arena, parts.headers.len()),
            });
            let payload = if parts.payload.len() < SLICE_FROM {
                take(&mut arena, parts.payload.len())
            } else {
                body.slice(parts.payload)
            };
            (headers, payload)
        })
    }
}

/// The next `len` bytes; an empty value holds on to nothing.
fn take(arena: &mut Bytes, len: usize) -> Bytes {
    match len {
        0 => Bytes::new(),
        _ if len >= arena.len() => core::mem::take(arena),
        _ => arena.split_to(len),
    }
}

/// The next `str16` as a shared string: the previous message's if it is equal, as it mostly is.
pub(crate) fn share(previous: Option<&Arc<str>>, body: &mut Reader<'_>) -> Result<Arc<str>, DecodeError> {
    let text = body.str16()?;
    match previous {
        Some(previous) if **previous == *text => Ok(Arc::clone(previous)),
        _ => {
            body.hold(shared_len(text))?;
            Ok(text.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn body(messages: &[(Pairs<'_>, &[u8])]) -> Bytes {
        let mut body = Vec::new();
        for (headers, payload) in messages {
            for text in headers.iter().flat_map(|(key, value)| [key, value]) {
                body.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
            body.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            body.extend_from_slice(payload);
        }
        body.into()
    }

    fn decode(body: &Bytes, counts: &[usize]) -> Result<Vec<(Headers, Bytes)>, DecodeError> {
        let mut reader = Reader::new(body);
        let mut contents = Contents::with_capacity(counts.len());
        for &count in counts {
            contents.read(count, &mut reader)?;
        }
        Ok(contents.take_from(body).collect())
    }

    fn lies_in(part: &[u8], whole: &[u8]) -> bool {
        whole.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn small_parts_leave_the_body_and_large_ones_stay() {
        let large = vec![9; SLICE_FROM];
        let body = body(&[
            (&[("tenant", "acme"), ("a", "")], b"hello"),
            (&[], b""),
            (&[("k", "v")], &large),
            (&[], b"last"),
        ]);
        let messages = decode(&body, &[2, 0, 1, 0]).unwrap();
        let payloads: Vec<_> = messages.iter().map(|(_, payload)| &payload[..]).collect();
        assert_eq!(payloads, [&b"hello"[..], b"", &large, b"last"]);
        assert_eq!(messages[0].0.get("tenant"), Some("acme"));
        assert_eq!(messages[0].0.get("a"), Some(""));
        assert_eq!(messages[2].0.get("k"), Some("v"));
        assert!(messages[1].0.is_empty());

        assert!(!lies_in(&messages[0].1, &body));
        assert!(!lies_in(&messages[3].1, &body));
        assert!(lies_in(&messages[2].1, &body));
        let first = messages[0].1.as_ptr_range().start;
        let last = messages[3].1.as_ptr_range().end;
        assert!(
            (last as usize) - (first as usize) < 64,
            "small parts lie together in one arena"
        );
    }

    #[test]
    fn bad_text_is_refused() {
        assert!(matches!(
            decode(&Bytes::from_static(b"\0\x01\xff\0\0\0\0\0\0"), &[1]),
            Err(DecodeError::Utf8(_))
        ));
        assert!(matches!(
            decode(&Bytes::from_static(b"\xff\xff\xff\xff"), &[0]),
            Err(DecodeError::UnexpectedEnd { .. })
        ));
    }

    #[test]
    fn equal_neighbours_share_a_key() {
        let body = Bytes::from_static(b"\0\x07default\0\x07default\0\x05other\0");
        let mut body = Reader::new(&body);
        let first = share(None, &mut body).unwrap();
        assert!(Arc::ptr_eq(&first, &share(Some(&first), &mut body).unwrap()));
        assert_eq!(&*share(Some(&first), &mut body).unwrap(), "other");
        assert!(share(Some(&first), &mut body).is_err());
    }
}
