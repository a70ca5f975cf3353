//! The incremental frame decoder.

use bytes::{Buf, Bytes};

use super::buffer::ReadBuffer;
#[cfg(feature = "std")]
use super::pool::Pool;
use super::{Frame, FrameHeader, FrameRef, HEADER_LEN, Layout, Limits, PREFIX_LEN};

/// The read buffer of a quiet connection.
const SMALL_BUFFER: usize = 16 * 1024;

/// The read buffer of a busy connection: what many of them hold is bounded by it, and more would hardly save a read.
const LARGE_BUFFER: usize = 64 * 1024;

/// A larger place is not lent to messages, each of which may be kept for long.
const LENT: usize = 128 * 1024;

/// The least that is reserved inside a large frame.
const RESERVED: usize = 64 * 1024;

/// A read buffer with less free space is replaced.
const MIN_SPARE: usize = 2 * 1024;

/// What a larger frame needs is rounded up to a multiple of this.
const STEP: usize = 4 * 1024;

/// Places that may be lent are as large as a multiple of this, so that one that is free again fits the next need.
const PLACE_STEP: usize = 16 * 1024;

/// Why the byte stream cannot be cut into frames any further. Fatal for the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is below 6, so that it cannot even cover the header.
    #[error("frame length {length} is shorter than the frame header")]
    TooShort {
        /// The length field.
        length: u32,
    },
    /// The length field is above the limit.
    #[error("frame length {length} exceeds the limit of {limit}")]
    TooLong {
        /// The length field.
        length: u64,
        /// The limit.
        limit: u32,
    },
}

/// What to do with a frame whose length field is above the receive limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversize {
    /// Fail as soon as the length field is there: what servers do.
    Refuse,
    /// Report its header, pass over its body without storing it, and go on: what clients do.
    Skip,
}

/// What the decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole frame.
    Frame(Frame),
    /// The header of a frame that is too long and is being skipped.
    Oversized {
        /// Its header.
        header: FrameHeader,
        /// Its length field.
        length: u32,
    },
}

/// What [`Decoder::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole frame: [`Decoder::frame`] shows it, [`Decoder::pass`] or [`Decoder::take_frame`] go on to the next.
    Frame {
        header: FrameHeader,
        /// Prefix and header included.
        wire_len: usize,
    },
    /// As [`Item::Oversized`].
    Oversized { header: FrameHeader, length: u32 },
}

/// Cuts a byte stream into frames.
///
/// Either hand it buffers ([`take_buffer`](Self::take_buffer), read into it, [`give_buffer`](Self::give_buffer)),
/// or [`feed`](Self::feed) it slices; then call [`next_item`](Self::next_item) until it returns `Ok(None)`.
///
/// Frames carry no marker, so a decoder cannot re-synchronise: after an error, or when bytes of the stream are missing,
/// no later frame of the stream can be found with certainty. ([`Conversation`](crate::observe::Conversation) guesses,
/// and says so.) For frames that are in memory already, [`parse`](super::parse) needs no decoder.
///
/// A declared length allocates nothing by itself: at most the larger of 64 KiB and four times what has
/// arrived of the frame is reserved ahead.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    layout: Layout,
    oversize: Oversize,
    /// Bytes of the stream before those that are pending.
    decoded: u64,
    buffer: ReadBuffer,
    /// How large its place was made. Frames that are taken out take their part of it along.
    place_len: usize,
    taken: bool,
    /// Bytes of an oversized frame that are still to be passed over.
    skip: u64,
    busy: bool,
    /// Has been quiet for long: a large buffer is given back.
    quiet: bool,
    failed: Option<FrameError>,
    #[cfg(feature = "std")]
    pool: Pool,
}

impl Decoder {
    /// A decoder that skips oversized frames. `limits.receive` bounds the length field; where addresses have 32 bits, no
    /// frame above 512 MiB can be held.
    #[must_use]
    pub fn new(layout: Layout, limits: Limits) -> Self {
        Self {
            limits,
            layout,
            decoded: 0,
            oversize: Oversize::Skip,
            buffer: ReadBuffer::default(),
            place_len: 0,
            taken: false,
            skip: 0,
            busy: false,
            quiet: false,
            failed: None,
            #[cfg(feature = "std")]
            pool: Pool::default(),
        }
    }

    /// The same decoder, which shares the places that it lends and finds free ones here.
    #[cfg(feature = "std")]
    pub(crate) fn pool(mut self, pool: Pool) -> Self {
        self.pool = pool;
        self
    }

    /// The same decoder with another treatment of oversized frames.
    #[must_use]
    pub fn oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    pub(crate) fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// The header layout that frames are read in.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The offset in the stream of the first pending byte: where the next frame begins, and after an error, where the
    /// frame begins that cannot be decoded. While an oversized frame is skipped it moves through that frame.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.decoded
    }

    /// The bytes that arrived and belong to no frame yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.filled()
    }

    /// Bytes of memory the decoder holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Passes over `n` pending bytes that are not a frame (a preamble).
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.pending().len());
        self.buffer.consume(n);
        self.decoded = self.decoded.saturating_add(n as u64);
    }

    /// The buffer to read into, or `None` while it is out. It holds what is pending and free space.
    pub fn take_buffer(&mut self) -> Option<ReadBuffer> {
        if core::mem::replace(&mut self.taken, true) {
            return None;
        }
        self.make_room();
        Some(core::mem::take(&mut self.buffer))
    }

    /// The connection has been quiet for long: gives the memory of its busy times back when the buffer is there.
    pub(crate) fn shrink(&mut self) {
        self.quiet = true;
    }

    /// Returns the buffer from [`take_buffer`](Self::take_buffer).
    pub fn give_buffer(&mut self, buffer: ReadBuffer) {
        self.taken = false;
        self.busy = buffer.is_full();
        if self.pending().is_empty() {
            self.buffer = buffer;
        } else {
            // Bytes were fed while the buffer was out: those arrived later.
            let late = core::mem::replace(&mut self.buffer, buffer);
            self.feed(late.filled());
        }
    }

    /// Appends bytes by copying them.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.make_room();
            let n = self.buffer.copy_from(bytes);
            bytes = bytes.get(n..).unwrap_or_default();
            self.pass_over();
        }
    }

    /// The next frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// The stream cannot be decoded any further; every later call returns the same error.
    pub fn next_item(&mut self) -> Result<Option<Item>, FrameError> {
        Ok(self.look()?.map(|found| match found {
            Found::Frame { header, wire_len } => Item::Frame(self.take_frame(header, wire_len)),
            Found::Oversized { header, length } => Item::Oversized { header, length },
        }))
    }

    /// As [`next_item`](Self::next_item), but leaves the frame where it is.
    pub(crate) fn look(&mut self) -> Result<Option<Found>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.pass_over();
        if self.skip > 0 {
            return Ok(None);
        }
        let Some((prefix, rest)) = self.pending().split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix);
        if (length as usize) < HEADER_LEN {
            return Err(self.fail(FrameError::TooShort { length }));
        }
        let too_long = length > self.limits.receive;
        if too_long && self.oversize == Oversize::Refuse {
            return Err(self.fail(FrameError::TooLong {
                length: length.into(),
                limit: self.limits.receive,
            }));
        }
        let Some((header, _)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = FrameHeader::parse(self.layout, *header);
        if too_long {
            self.skip = PREFIX_LEN as u64 + u64::from(length);
            self.pass_over();
            return Ok(Some(Found::Oversized { header, length }));
        }
        let arrived = self.pending().len();
        let Some(wire_len) = complete(length, arrived) else {
            let limit = holdable(usize::BITS);
            if arrived >= limit as usize {
                let length = length.into();
                return Err(self.fail(FrameError::TooLong { length, limit }));
            }
            return Ok(None);
        };
        Ok(Some(Found::Frame { header, wire_len }))
    }

    /// The next frame, if it is whole and not too long: what [`look`](Self::look) would find.
    pub(crate) fn next_whole(&self) -> Option<(FrameHeader, usize)> {
        let length = u32::from_be_bytes(*self.pending().first_chunk::<PREFIX_LEN>()?);
        let is_sound =
            self.failed.is_none() && (HEADER_LEN..=self.limits.receive as usize).contains(&(length as usize));
        let wire_len = complete(length, self.pending().len()).filter(|_| is_sound)?;
        Some((self.next_header()?, wire_len))
    }

    /// The frame that [`look`](Self::look) found.
    pub(crate) fn frame(&self, header: FrameHeader, wire_len: usize) -> FrameRef<'_> {
        let body = self
            .pending()
            .get(PREFIX_LEN + HEADER_LEN..wire_len)
            .unwrap_or_default();
        FrameRef { header, body }
    }

    /// Goes on to the next frame. The place of the one that [`look`](Self::look) found serves again.
    pub(crate) fn pass(&mut self, wire_len: usize) {
        self.consume(wire_len);
    }

    /// Takes out the frame that [`look`](Self::look) found. Its place stays with its body.
    pub(crate) fn take_frame(&mut self, header: FrameHeader, wire_len: usize) -> Frame {
        let mut body = self.buffer.split_off(wire_len);
        self.decoded = self.decoded.saturating_add(wire_len as u64);
        body.advance((PREFIX_LEN + HEADER_LEN).min(body.len()));
        Frame { header, body }
    }

    /// Lends the read buffer's place to what is decoded next, if that is worth it: what is kept of it later holds at most
    /// [`LENT`] bytes, and at least half of the place is filled.
    #[cfg(feature = "std")]
    pub(crate) fn lend(&mut self) {
        let place = self.buffer.len();
        if place <= LENT && self.pending().len() >= place / 2 {
            self.buffer.lend();
        }
    }

    /// The body of the frame that [`look`](Self::look) found, if the place it lies in is lent.
    #[cfg(feature = "std")]
    pub(crate) fn lent_body(&self, wire_len: usize) -> Option<Bytes> {
        self.buffer.lent_part(PREFIX_LEN + HEADER_LEN..wire_len)
    }

    /// Whether the bytes to come belong to a frame that is too long.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skip > 0
    }

    /// The header of the frame that has begun to arrive and will be returned whole.
    pub(crate) fn next_header(&self) -> Option<FrameHeader> {
        let header = self.pending().get(PREFIX_LEN..)?.first_chunk::<HEADER_LEN>()?;
        (self.skip == 0).then(|| FrameHeader::parse(self.layout, *header))
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.failed = Some(error);
        error
    }

    fn pass_over(&mut self) {
        // What was fed while the buffer is out comes after what it brings.
        if self.skip > 0 && !self.taken {
            let n = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(self.pending().len());
            self.consume(n);
            self.skip -= n as u64;
        }
    }

    /// Sees to it that some of the buffer is free.
    fn make_room(&mut self) {
        let pending = self.pending().len();
        if core::mem::take(&mut self.quiet) {
            // A quiet connection keeps no place for its busy times, unless part of a frame lies in it.
            if pending == 0 {
                self.buffer = ReadBuffer::default();
                self.place_len = 0;
            }
            #[cfg(feature = "std")]
            self.pool.clear();
        }
        // What the frame under way still needs, if that is known.
        let missing = self
            .pending()
            .first_chunk::<PREFIX_LEN>()
            .map(|prefix| u32::from_be_bytes(*prefix))
            .filter(|length| *length <= self.limits.receive)
            .map_or(0, |length| missing(length, pending));
        let enough = MIN_SPARE.max(missing.min(RESERVED));
        let base = if self.busy { LARGE_BUFFER } else { SMALL_BUFFER };
        if self.place_len >= base && !self.buffer.is_lent() {
            let len = self.buffer.len();
            if self.buffer.free() >= enough {
                return;
            }
            // Frames that were decoded where they lay have left room: what follows them is part of one frame at most,
            // unless it was fed, so that no byte moves twice.
            if len - pending >= enough {
                return self.buffer.compact();
            }
        }
        // Frames that were fed and wait: as much again, or they would be moved again and again.
        let more = if missing == 0 { pending / 2 } else { 0 };
        let most = RESERVED.max(pending.saturating_mul(4));
        // A little more than it needs: the next frame may be a little larger.
        let want = missing.checked_next_multiple_of(STEP).unwrap_or(missing);
        let want = want.max(more).clamp(MIN_SPARE, most.max(more));
        // One like the place that was lent: the frames to come are likely to be as those before.
        let like_before = if self.buffer.is_lent() { self.place_len } else { 0 };
        let size = pending.saturating_add(want).max(base).max(like_before);
        // Rounded only within what may be reserved: a declared length is not worth more than before.
        let rounded = size.next_multiple_of(PLACE_STEP);
        let size = if rounded <= LENT.min(pending.saturating_add(most)) {
            rounded
        } else {
            size
        };
        #[cfg(feature = "std")]
        if let Some(lent) = self.buffer.replace(size, || self.pool.take(size)) {
            self.pool.lend(lent);
        }
        #[cfg(not(feature = "std"))]
        self.buffer.replace(size, || None);
        self.place_len = self.buffer.len();
    }
}

/// The largest length field that a machine whose addresses have `pointer_bits` can hold as a frame, with room for
/// the copy that a buffer makes while it grows.
fn holdable(pointer_bits: u32) -> u32 {
    if pointer_bits < 64 { u32::MAX >> 3 } else { u32::MAX }
}

// Lengths come from the peer: no sum of them is made in a `usize`, which has 32 bits on some machines.

/// The size of a frame with this length field, prefix included, if that much arrived.
fn complete(length: u32, filled: usize) -> Option<usize> {
    let total = PREFIX_LEN as u64 + u64::from(length);
    usize::try_from(total).ok().filter(|total| *total <= filled)
}

/// How many bytes a frame with this length field still needs.
fn missing(length: u32, filled: usize) -> usize {
    let total = PREFIX_LEN as u64 + u64::from(length);
    usize::try_from(total.saturating_sub(filled as u64)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_length_overflows_and_small_machines_hold_what_they_can() {
        assert_eq!(complete(u32::MAX, 10), None);
        assert_eq!(complete(u32::MAX - 3, 10), None);
        assert_eq!(complete(6, 9), None);
        assert_eq!(complete(6, 10), Some(10));
        assert_eq!(missing(6, 4), 6);
        assert_eq!(missing(6, 400), 0);
        assert!(missing(u32::MAX, 4) >= u32::MAX as usize);
        assert_eq!(holdable(64), u32::MAX);
        // Prefix, frame and the copy of it stay below isize::MAX.
        assert!((PREFIX_LEN as u64 + u64::from(holdable(32))) * 3 < u64::from(u32::MAX / 2));
    }

    #[test]
    fn ten_bytes_that_declare_the_largest_frame_are_waited_for() {
        for length in [u32::MAX, u32::MAX - 1, u32::MAX - 3, u32::MAX - 4] {
            let limits = Limits::new(u32::MAX, u32::MAX);
            let mut decoder = Decoder::new(Layout::FlagsFirst, limits);
            decoder.feed(&[&length.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1]].concat());
            assert_eq!(decoder.next_item(), Ok(None));
            assert!(decoder.capacity() < 1024 * 1024);
        }
    }

    fn read(decoder: &mut Decoder, bytes: &[u8]) -> usize {
        let mut buffer = decoder.take_buffer().unwrap();
        let n = buffer.copy_from(bytes);
        decoder.give_buffer(buffer);
        while decoder.next_item().unwrap().is_some() {}
        n
    }

    /// Reads frames until the decoder's place is full; what is left of them.
    #[cfg(feature = "std")]
    fn fill<'a>(decoder: &mut Decoder, mut bytes: &'a [u8]) -> &'a [u8] {
        loop {
            let mut buffer = decoder.take_buffer().unwrap();
            bytes = &bytes[buffer.copy_from(bytes)..];
            let full = buffer.is_full();
            decoder.give_buffer(buffer);
            if full || bytes.is_empty() {
                return bytes;
            }
        }
    }

    #[test]
    #[cfg(feature = "std")]
    fn a_full_place_is_lent_and_serves_again_when_nobody_holds_it() {
        let frame = [&[0, 0, 3, 238, 0, 0x21, 0, 0, 0, 1][..], &[7; 1000]].concat();
        let stream = frame.repeat(2_000);
        let mut decoder = Decoder::new(Layout::FlagsFirst, Limits::default());
        let mut places = Vec::new();
        let mut kept = Vec::new();
        let mut left = &stream[..];
        while !left.is_empty() {
            left = fill(&mut decoder, left);
            let mut lent = Vec::new();
            decoder.lend();
            while let Some(Found::Frame { header, wire_len }) = decoder.look().unwrap() {
                lent.extend(decoder.lent_body(wire_len));
                assert_eq!(decoder.frame(header, wire_len).body, &[7; 1000]);
                decoder.pass(wire_len);
            }
            assert!(lent.iter().all(|body| body == &[7; 1000][..]));
            if let Some(first) = lent.first() {
                places.push(first.as_ptr() as usize / 4096);
            }
            // What is kept of a place keeps all of it.
            if places.len() == 3 {
                kept.extend(lent);
            }
        }
        assert_eq!(decoder.offset(), stream.len() as u64);
        assert!(places.len() > 25, "{} places were lent", places.len());
        places.sort_unstable();
        places.dedup();
        assert!(places.len() < 10, "{} different ones", places.len());
        assert!(kept.iter().all(|body| body == &[7; 1000][..]));

        // When it is quiet, the places are forgotten: those that are held end with their messages.
        kept.truncate(1);
        assert!(!kept[0].is_unique());
        decoder.shrink();
        assert!(decoder.take_buffer().is_some());
        assert!(kept[0].is_unique());

        // With little in it, a place is not worth it.
        let mut quiet = Decoder::new(Layout::FlagsFirst, Limits::default());
        fill(&mut quiet, &frame);
        quiet.lend();
        assert_eq!(quiet.lent_body(frame.len()), None);
    }

    #[test]
    fn a_busy_connection_reads_into_one_large_buffer_and_a_quiet_one_gives_it_back() {
        let frame = [&[0, 0, 0, 106, 0, 0x21, 0, 0, 0, 1][..], &[0; 100]].concat();
        let stream = frame.repeat(if cfg!(miri) { 5_000 } else { 100_000 });
        let mut decoder = Decoder::new(Layout::FlagsFirst, Limits::default());
        let mut places = Vec::new();
        let mut left = &stream[..];
        while !left.is_empty() {
            left = &left[read(&mut decoder, left)..];
            places.push(decoder.buffer.filled().as_ptr() as usize / LARGE_BUFFER);
        }
        assert!(places.len() < 180, "{} reads for 11 MB", places.len());
        places.dedup();
        assert!(places.len() < 4, "the place is used again: {places:?}");
        assert_eq!(decoder.place_len, LARGE_BUFFER);
        decoder.shrink();
        read(&mut decoder, &frame);
        assert!(decoder.capacity() <= SMALL_BUFFER);
    }
}
