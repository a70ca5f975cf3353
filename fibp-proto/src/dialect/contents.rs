//! Headers and payloads of messages, moved out of the read buffer.
//!
//! A slice of a frame's body keeps the whole place in memory that it lies in, and keeps it from being read into again.
//! Where messages fill most of a read buffer, it is lent to them: they are slices of it. Else small parts are copied,
//! those that arrived together into arenas of at most [`ARENA`] bytes; only large payloads of large frames stay slices.
//! What a kept message holds besides its own bytes is bounded by that.
//!
//! What a delivery is decoded with is `inline(always)`: a result that is too large for registers is written to memory and read
//! back at once, in other pieces, which makes processors wait. That was a third of the time of decoding.

use alloc::sync::Arc;
use core::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::records::shared_len;
use crate::frame::{DecodeError, Reader};
use crate::message::{Headers, WireHeaders};

/// Payloads from this size on stay slices of their frame's body, where that has a place of its own.
const SLICE_FROM: usize = 64 * 1024;

/// The most bytes of an arena.
const ARENA: usize = 64 * 1024;

/// What is larger has a place of its own instead of a part of an arena.
const ALONE_FROM: usize = ARENA / 4;

/// Where small parts of messages are copied to.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Empty, with the room that is left.
    room: BytesMut,
    /// About how many bytes arrived behind the body that is being read, of more messages.
    behind: usize,
}

/// The bytes that messages are read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    body: &'a [u8],
    sharing: Sharing<'a>,
}

/// What may stay where it lies.
#[derive(Debug, Clone, Copy)]
enum Sharing<'a> {
    Nothing,
    /// Payloads from [`SLICE_FROM`] on, as slices of these bytes.
    LargePayloads(&'a Bytes),
    /// Headers and payloads.
    #[cfg(feature = "std")]
    All(&'a Bytes),
}

impl<'a> Source<'a> {
    /// A body that lies in a read buffer, which is needed again.
    pub(crate) fn borrowed(body: &'a [u8]) -> Self {
        let sharing = Sharing::Nothing;
        Self { body, sharing }
    }

    /// A body in a place that is lent to what is decoded from it.
    #[cfg(feature = "std")]
    pub(crate) fn lent(body: &'a Bytes) -> Self {
        let sharing = Sharing::All(body);
        Self { body, sharing }
    }

    /// A body with a place of its own.
    pub(crate) fn shared(body: &'a Bytes) -> Self {
        let sharing = Sharing::LargePayloads(body);
        Self { body, sharing }
    }

    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Where headers and payload of a message lie in the body.
#[derive(Debug)]
pub(crate) struct Contents {
    header_count: usize,
    headers: Range<usize>,
    payload: Range<usize>,
}

impl Contents {
    /// Reads `header_count` pairs of `str16`, then a payload of `bytes32`. The copy of them is counted.
    #[inline(always)]
    pub(crate) fn read(header_count: usize, body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let headers = match header_count {
            0 => body.position()..body.position(),
            _ => body.str16_pairs(header_count)?,
        };
        let payload = body.bytes32()?;
        // What is left of an arena when the next message does not fit is lost.
        body.hold(headers.len().saturating_add(payload.len()).saturating_mul(2))?;
        Ok(Self {
            header_count,
            headers,
            payload,
        })
    }
}

impl Arena {
    /// Lets go of the arena. Even without room it would hold what was copied into it.
    pub(crate) fn clear(&mut self) {
        self.room = BytesMut::new();
    }

    /// More messages arrived behind the next body: about so many bytes, which make larger arenas worthwhile.
    pub(crate) fn expect(&mut self, behind: usize) {
        self.behind = behind;
    }

    /// Moves headers and payload of a message out of the body. The message takes up `message` of the body.
    #[inline(always)]
    pub(crate) fn take(&mut self, contents: Contents, message: Range<usize>, from: Source<'_>) -> (Headers, Bytes) {
        #[cfg(feature = "std")]
        if let Sharing::All(body) = from.sharing {
            let headers = Headers::from_wire(WireHeaders {
                count: contents.header_count,
                pairs: part(body, contents.headers),
            });
            return (headers, part(body, contents.payload));
        }
        self.take_copies(contents, message, from)
    }

    fn take_copies(&mut self, contents: Contents, message: Range<usize>, from: Source<'_>) -> (Headers, Bytes) {
        let Contents {
            header_count,
            headers,
            payload,
        } = contents;
        let slice = match from.sharing {
            Sharing::LargePayloads(body) if payload.len() >= SLICE_FROM => Some(body),
            _ => None,
        };
        let copied = headers.len() + if slice.is_some() { 0 } else { payload.len() };
        if copied > self.room.capacity() && copied < ALONE_FROM {
            // The messages to come are likely to be as this one: so much of them will be copied, too.
            let left = from
                .body
                .len()
                .saturating_sub(message.start)
                .saturating_add(self.behind);
            let like_this = left.saturating_mul(copied) / message.len().max(1);
            self.room = BytesMut::with_capacity(like_this.clamp(copied, ARENA));
        }
        let bytes = |range: Range<usize>| from.body.get(range).unwrap_or_default();
        let headers = Headers::from_wire(WireHeaders {
            count: header_count,
            pairs: self.copy(bytes(headers)),
        });
        let payload = match slice {
            Some(body) => body.slice(payload),
            None => self.copy(bytes(payload)),
        };
        (headers, payload)
    }

    /// A copy of its own, or a part of the arena. An empty value holds on to nothing.
    fn copy(&mut self, part: &[u8]) -> Bytes {
        if part.is_empty() {
            Bytes::new()
        } else if part.len() > self.room.capacity() {
            Bytes::copy_from_slice(part)
        } else {
            self.room.put_slice(part);
            self.room.split().freeze()
        }
    }
}

/// A part of the body. An empty one holds on to nothing.
#[cfg(feature = "std")]
fn part(body: &Bytes, part: Range<usize>) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        body.slice(part)
    }
}

/// The next `str16` as a shared string: the previous message's if it is equal, as it mostly is.
#[inline(always)]
pub(crate) fn share(previous: Option<&Arc<str>>, body: &mut Reader<'_>) -> Result<Arc<str>, DecodeError> {
    let text = body.bytes16()?;
    match previous {
        // What is equal to text is text.
        Some(previous) if previous.as_bytes() == text => Ok(Arc::clone(previous)),
        _ => share_anew(text, body),
    }
}

#[cold]
fn share_anew(text: &[u8], body: &mut Reader<'_>) -> Result<Arc<str>, DecodeError> {
    let text = core::str::from_utf8(text)?;
    body.hold(shared_len(text.len()))?;
    Ok(text.into())
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

    fn decode(from: Source<'_>, counts: &[usize], arena: &mut Arena) -> Result<Vec<(Headers, Bytes)>, DecodeError> {
        let mut reader = Reader::new(from.body());
        let read = |&count: &usize| {
            let start = reader.position();
            let contents = Contents::read(count, &mut reader)?;
            Ok(arena.take(contents, start..reader.position(), from))
        };
        counts.iter().map(read).collect()
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
        for from in [Source::shared(&body), Source::borrowed(&body)] {
            let messages = decode(from, &[2, 0, 1, 0], &mut Arena::default()).unwrap();
            let payloads: Vec<_> = messages.iter().map(|(_, payload)| &payload[..]).collect();
            assert_eq!(payloads, [&b"hello"[..], b"", &large, b"last"]);
            assert_eq!(messages[0].0.get("tenant"), Some("acme"));
            assert_eq!(messages[0].0.get("a"), Some(""));
            assert_eq!(messages[2].0.get("k"), Some("v"));
            assert!(messages[1].0.is_empty());

            assert!(!lies_in(&messages[0].1, &body));
            assert!(!lies_in(&messages[3].1, &body));
            assert_eq!(
                lies_in(&messages[2].1, &body),
                matches!(from.sharing, Sharing::LargePayloads(_))
            );
            let first = messages[0].1.as_ptr_range().start;
            let last = messages[3].1.as_ptr_range().end;
            assert!(
                (last as usize) - (first as usize) < 64,
                "small parts lie together in one arena"
            );
        }
    }

    #[test]
    fn an_arena_is_as_large_as_what_is_copied_and_no_larger_than_it_may_be() {
        let body = body(&[(&[("tenant", "acme")][..], &[7; 1000][..]); 100]);
        let mut arena = Arena::default();
        let messages = decode(Source::borrowed(&body), &[1; 100], &mut arena).unwrap();
        let starts: Vec<usize> = messages.iter().map(|(_, payload)| payload.as_ptr() as usize).collect();
        let step = 1000 + 14;
        let arenas = starts.windows(2).filter(|pair| pair[1] != pair[0] + step).count() + 1;
        assert_eq!(arenas, (100 * step).div_ceil(ARENA));
        assert!(arena.room.capacity() < step, "{} bytes are left", arena.room.capacity());

        // One that is kept holds no more than its arena.
        let kept = messages[50].1.clone();
        drop(messages);
        assert!(kept.try_into_mut().is_ok_and(|kept| kept.capacity() <= ARENA));

        // With more behind it, one message has an arena that the others fit, too.
        let one = body.slice(..4 + step + 4);
        arena.expect(9 * one.len());
        decode(Source::borrowed(&one), &[1], &mut arena).unwrap();
        let room = arena.room.capacity();
        assert!((9 * step..10 * step).contains(&room), "{room} bytes");
    }

    #[test]
    fn bad_text_is_refused() {
        let decode = |body, count| decode(Source::borrowed(body), &[count], &mut Arena::default());
        assert!(matches!(
            decode(b"\0\x01\xff\0\0\0\0\0\0", 1),
            Err(DecodeError::Utf8(_))
        ));
        assert!(matches!(
            decode(b"\xff\xff\xff\xff", 0),
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
        assert!(matches!(
            share(Some(&first), &mut Reader::new(b"\0\x01\xff")),
            Err(DecodeError::Utf8(_))
        ));
    }
}
