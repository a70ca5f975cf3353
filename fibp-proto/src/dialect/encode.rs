//! Writing frame bodies: every layout is spelled once, run over [`Measure`] first (which checks each wire
//! limit and yields the exact size) and over the output buffer second.

use bytes::Bytes;

use super::EncodeError;
use crate::frame::{self, FrameHeader, HEADER_LEN, Layout, OutBuf};
use crate::message::Headers;

/// Something that body fields can be written to. All numbers are big-endian.
pub(crate) trait Encoder {
    fn write(&mut self, bytes: &[u8]);

    /// As [`write`](Self::write), but large values may be shared instead of copied.
    fn write_shared(&mut self, bytes: &Bytes);

    fn u8(&mut self, value: u8) {
        self.write(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.write(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.write(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.write(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.write(&value.to_be_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.write(&value.to_be_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// `u8` count of what `field` names.
    fn count8(&mut self, field: &'static str, count: usize) -> Result<(), EncodeError> {
        let wire = u8::try_from(count).map_err(|_| too_many(field, count, u8::MAX.into()))?;
        self.u8(wire);
        Ok(())
    }

    /// `u16` count of what `field` names.
    fn count16(&mut self, field: &'static str, count: usize) -> Result<(), EncodeError> {
        let wire = u16::try_from(count).map_err(|_| too_many(field, count, u16::MAX.into()))?;
        self.u16(wire);
        Ok(())
    }

    /// `u32` count of what `field` names, of which the protocol allows `limit`.
    fn count32(&mut self, field: &'static str, count: usize, limit: u32) -> Result<(), EncodeError> {
        match u32::try_from(count) {
            Ok(wire) if wire <= limit => self.u32(wire),
            _ => return Err(too_many(field, count, limit as usize)),
        }
        Ok(())
    }

    /// `u16` length and UTF-8.
    fn str16(&mut self, field: &'static str, text: &str) -> Result<(), EncodeError> {
        self.text16(field, text.as_bytes())
    }

    /// As [`str16`](Self::str16), of the bytes of a text.
    fn text16(&mut self, field: &'static str, text: &[u8]) -> Result<(), EncodeError> {
        let len = u16::try_from(text.len()).map_err(|_| EncodeError::StringTooLong {
            field,
            len: text.len(),
            limit: u16::MAX.into(),
        })?;
        self.u16(len);
        self.write(text);
        Ok(())
    }

    /// `u32` length and raw bytes.
    fn bytes32(&mut self, field: &'static str, bytes: &Bytes) -> Result<(), EncodeError> {
        let len = u32::try_from(bytes.len()).map_err(|_| EncodeError::StringTooLong {
            field,
            len: bytes.len(),
            limit: u32::MAX as usize,
        })?;
        self.u32(len);
        self.write_shared(bytes);
        Ok(())
    }

    /// The pairs of a header map, without their count. Headers in wire form are copied as they are.
    fn header_pairs(&mut self, headers: &Headers) -> Result<(), EncodeError> {
        if let Some(wire) = headers.wire() {
            self.write(&wire.pairs);
            return Ok(());
        }
        write_pairs(self, headers)
    }
}

fn write_pairs<E: Encoder + ?Sized>(to: &mut E, headers: &Headers) -> Result<(), EncodeError> {
    for (key, value) in headers {
        to.str16("header key", key)?;
        to.str16("header value", value)?;
    }
    Ok(())
}

fn too_many(field: &'static str, count: usize, limit: usize) -> EncodeError {
    EncodeError::TooMany { field, count, limit }
}

/// Counts instead of writing.
#[derive(Debug, Default)]
pub(crate) struct Measure(usize);

impl Measure {
    /// The size of what `encode` writes.
    pub(crate) fn of(encode: impl FnOnce(&mut Self) -> Result<(), EncodeError>) -> Result<usize, EncodeError> {
        let mut measure = Self::default();
        encode(&mut measure)?;
        Ok(measure.0)
    }
}

impl Encoder for Measure {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }

    fn write_shared(&mut self, bytes: &Bytes) {
        self.write(bytes);
    }

    #[inline]
    fn header_pairs(&mut self, headers: &Headers) -> Result<(), EncodeError> {
        // Together they are not too long, so none is, and they need not be looked at one by one.
        let len = headers.content_len();
        if len <= u16::MAX.into() {
            self.0 = self.0.saturating_add(len).saturating_add(4 * headers.len());
            return Ok(());
        }
        write_pairs(self, headers)
    }
}

impl Encoder for OutBuf {
    fn write(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn write_shared(&mut self, bytes: &Bytes) {
        Self::put_shared(self, bytes);
    }
}

/// The body of a frame. `encode` must write the same bytes each time.
pub(crate) trait Body {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError>;

    /// How many bytes [`encode`](Self::encode) writes.
    fn measure(&self) -> Result<usize, EncodeError> {
        Measure::of(|measure| self.encode(measure))
    }
}

/// The length of a body whose items were measured one by one before, so that only what is before them is measured now.
pub(crate) fn measure_items<B: Body>(
    body: &B,
    items_len: Option<usize>,
    base: impl FnOnce(&mut Measure) -> Result<(), EncodeError>,
) -> Result<usize, EncodeError> {
    let Some(items_len) = items_len else {
        return Measure::of(|measure| body.encode(measure));
    };
    let len = Measure::of(base)?.saturating_add(items_len);
    debug_assert_eq!(Measure::of(|measure| body.encode(measure)), Ok(len));
    Ok(len)
}

/// A body that is bytes already, or empty.
impl Body for [u8] {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.write(self);
        Ok(())
    }
}

/// Writes a whole frame whose length field is at most `limit`. On an error nothing is written.
pub(crate) fn encode_frame<B: Body + ?Sized>(
    layout: Layout,
    header: FrameHeader,
    body: &B,
    limit: u32,
    out: &mut OutBuf,
) -> Result<(), EncodeError> {
    let body_len = body.measure()?;
    let len = body_len.saturating_add(HEADER_LEN);
    if len > limit as usize {
        return Err(EncodeError::FrameTooLarge { len, limit });
    }
    out.reserve_up_to(len + frame::PREFIX_LEN);
    frame::encode_header(layout, header, body_len, out);
    body.encode(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Texts<'a>(&'a [&'a str]);

    impl Body for Texts<'_> {
        fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
            to.count8("texts", self.0.len())?;
            self.0.iter().try_for_each(|text| to.str16("text", text))
        }
    }

    const HEAD: FrameHeader = FrameHeader {
        opcode: 2,
        flags: 1,
        id: 3,
    };

    fn frame(texts: &[&str], limit: u32) -> Result<Bytes, EncodeError> {
        let mut out = OutBuf::new();
        let result = encode_frame(Layout::FlagsFirst, HEAD, &Texts(texts), limit, &mut out);
        assert_eq!(result.is_err(), out.is_empty(), "an error leaves nothing behind");
        result.map(|()| out.take_bytes())
    }

    #[test]
    fn the_length_field_covers_head_and_body() {
        let bytes = frame(&["ab", ""], 13).unwrap();
        assert_eq!(&bytes[..], b"\0\0\0\x0d\x01\x02\0\0\0\x03\x02\0\x02ab\0\0");
    }

    #[test]
    fn limits_are_checked_before_anything_is_written() {
        assert_eq!(
            frame(&["ab", ""], 12),
            Err(EncodeError::FrameTooLarge { len: 13, limit: 12 })
        );
        let long = "x".repeat(65_536);
        assert_eq!(
            frame(&["a", &long], u32::MAX),
            Err(EncodeError::StringTooLong {
                field: "text",
                len: 65_536,
                limit: 65_535
            })
        );
        assert!(frame(&["a", &long[1..]], u32::MAX).is_ok());
        assert_eq!(
            frame(&["a"; 256], u32::MAX),
            Err(EncodeError::TooMany {
                field: "texts",
                count: 256,
                limit: 255
            })
        );
    }

    #[test]
    fn counts_stop_at_their_limits() {
        let mut measure = Measure::default();
        assert!(measure.count16("items", 65_535).is_ok());
        assert!(measure.count16("items", 65_536).is_err());
        assert!(measure.count32("items", 1_000_000, 1_000_000).is_ok());
        assert!(measure.count32("items", 1_000_001, 1_000_000).is_err());
        assert_eq!(measure.0, 6);
    }
}
