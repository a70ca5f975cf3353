//! Bounds-checked reading of frame bodies.

use crate::prelude::*;

/// Why a body could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body ends inside a field.
    #[error("body ends inside a {field}: {needed} bytes needed, {available} left")]
    UnexpectedEnd {
        /// What was being read (`u8`, `u16`, `u32`, `u64`, `string`, `bytes`).
        field: &'static str,
        /// How many bytes it takes.
        needed: usize,
        /// How many there were.
        available: usize,
    },
    /// Text is not UTF-8.
    #[error("text is not UTF-8: {0}")]
    Utf8(#[from] core::str::Utf8Error),
    /// A protobuf body is malformed, in the words of the protobuf decoder.
    #[error("{0}")]
    Protobuf(String),
    /// The opcode is not what the exchange calls for.
    #[error("unexpected opcode 0x{opcode:02x}")]
    UnexpectedOpcode {
        /// The opcode.
        opcode: u8,
    },
    /// More items were announced than the protocol allows.
    #[error("{count} items announced, at most {limit} allowed")]
    TooManyItems {
        /// How many were announced.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// What the body says in few bytes would take much memory: more than four times the body, and more than 16 MiB.
    #[error("decoding would take more than {limit} bytes of memory")]
    TooMuchMemory {
        /// The most that decoding this body may take, in bytes.
        limit: usize,
    },
    /// A field has a value that the protocol does not define.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// What was decoded from a body may hold so many times its length.
const HELD_PER_BYTE: usize = 4;

/// What was decoded from any body may hold as much, in bytes.
const HELD_AT_LEAST: usize = 16 * 1024 * 1024;

/// A count of the memory that decoding takes, so that a peer cannot make much of it with few bytes: an empty name takes
/// two bytes of a body, and a hundred once it is a record of a list.
///
/// Whoever keeps something of a body counts it with [`hold`](Self::hold), before or as it is allocated.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
    limit: usize,
}

impl Budget {
    pub(crate) fn of(body: &[u8]) -> Self {
        let limit = body.len().saturating_mul(HELD_PER_BYTE).max(HELD_AT_LEAST);
        Self { left: limit, limit }
    }

    /// Counts `bytes` of memory.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or(DecodeError::TooMuchMemory { limit: self.limit })?;
        Ok(())
    }
}

/// A cursor over a body. Every read is checked; nothing is allocated for announced lengths.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    budget: Budget,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            at: 0,
            budget: Budget::of(body),
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.body.len().saturating_sub(self.at)
    }

    fn take(&mut self, field: &'static str, needed: usize) -> Result<&'a [u8], DecodeError> {
        let available = self.remaining();
        let end = self.at.checked_add(needed);
        match end.and_then(|end| self.body.get(self.at..end)) {
            Some(bytes) => {
                self.at = self.at.saturating_add(needed);
                Ok(bytes)
            }
            None => Err(DecodeError::UnexpectedEnd {
                field,
                needed,
                available,
            }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array("u8")?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array("u16")?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array("u32")?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array("u64")?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array("u64")?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.array("u64")?))
    }

    /// `u8`, 0 is false.
    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.u8()? != 0)
    }

    /// `u16` length and UTF-8.
    pub(crate) fn str16(&mut self) -> Result<&'a str, DecodeError> {
        Ok(core::str::from_utf8(self.bytes16()?)?)
    }

    /// `u16` length and UTF-8, as bytes.
    pub(crate) fn text16(&mut self) -> Result<&'a [u8], DecodeError> {
        let text = self.bytes16()?;
        // Most text is ASCII, which is seen sooner.
        if !text.is_ascii() {
            core::str::from_utf8(text)?;
        }
        Ok(text)
    }

    /// As [`str16`](Self::str16), whose caller looks whether it is UTF-8.
    pub(crate) fn bytes16(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16()?);
        self.take("string", len)
    }

    /// `count` pairs of `str16`, validated, as a range of the body.
    pub(crate) fn str16_pairs(&mut self, count: usize) -> Result<core::ops::Range<usize>, DecodeError> {
        let start = self.at;
        for _ in 0..count {
            self.text16()?;
            self.text16()?;
        }
        Ok(start..self.at)
    }

    /// `u32` length and raw bytes, as a range of the body.
    pub(crate) fn bytes32(&mut self) -> Result<core::ops::Range<usize>, DecodeError> {
        // A length beyond usize cannot fit the body either.
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let start = self.at;
        self.take("bytes", len)?;
        Ok(start..self.at)
    }

    /// Counts `bytes` of memory that what is read takes; see [`Budget`].
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.budget.hold(bytes)
    }

    /// How many items to make room for when `count` are announced, each of which takes at least `wire_len` bytes of the
    /// body and `size` bytes of memory besides what it points to. No more than can still come, so that the place never
    /// grows; the memory is counted.
    pub(crate) fn reserve(&mut self, count: usize, wire_len: usize, size: usize) -> Result<usize, DecodeError> {
        let count = count.min(self.remaining() / wire_len.max(1));
        self.hold(count.saturating_mul(size))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_count_alone_reserves_nothing() {
        let body = Bytes::from_static(&[0; 8]);
        let mut reader = Reader::new(&body);
        assert_eq!(reader.reserve(65_535, 2, 200), Ok(4));
        assert_eq!(reader.reserve(3, 2, 200), Ok(3));
        assert_eq!(reader.reserve(usize::MAX, 0, 0), Ok(8));
        assert!(reader.reserve(usize::MAX, 1, usize::MAX).is_err());
        assert_eq!(reader.u64(), Ok(0));
        assert_eq!(reader.reserve(usize::MAX, 1, 1), Ok(0));
    }

    #[test]
    fn what_is_held_is_bounded_by_the_body() {
        let mut small = Budget::of(&[0; 8]);
        assert_eq!(small.hold(HELD_AT_LEAST), Ok(()));
        assert_eq!(small.hold(1), Err(DecodeError::TooMuchMemory { limit: HELD_AT_LEAST }));
        let large = vec![0; HELD_AT_LEAST];
        assert_eq!(Budget::of(&large).hold(4 * large.len()), Ok(()));
        assert!(Budget::of(&large).hold(4 * large.len() + 1).is_err());
    }

    #[test]
    fn reads_stop_at_the_end() {
        let body = Bytes::from_static(b"\0\x02ab\xff\xff\xff\xffrest");
        let mut reader = Reader::new(&body);
        assert_eq!(reader.str16(), Ok("ab"));
        assert_eq!(
            reader.bytes32(),
            Err(DecodeError::UnexpectedEnd {
                field: "bytes",
                needed: u32::MAX as usize,
                available: 4
            })
        );
        assert_eq!(reader.remaining(), 4);
        assert_eq!(
            reader.u64(),
            Err(DecodeError::UnexpectedEnd {
                field: "u64",
                needed: 8,
                available: 4
            })
        );
        assert_eq!(reader.u32(), Ok(u32::from_be_bytes(*b"rest")));
        assert!(reader.u8().is_err());
    }
}
