//! Owned buffers that change hands between the core and its driver.

use alloc::collections::VecDeque;
use core::fmt;
#[cfg(feature = "std")]
use std::io::{self, IoSlice};

use crate::prelude::*;
use bytes::{Buf, Bytes, BytesMut};

/// Payloads from this size on are passed on as shared slices; smaller ones are copied into one
/// contiguous buffer, which is cheaper than a slice each.
const SHARE_FROM: usize = 16 * 1024;

/// Output buffers up to this capacity are kept for reuse while the connection is busy.
const KEEP_CAPACITY: usize = 256 * 1024;

/// The most pieces of one write.
#[cfg(feature = "std")]
const SLICES: usize = 16;

/// What arrived and what is still free: read into [`unfilled`](Self::unfilled), then
/// [`advance`](Self::advance).
///
/// The buffer carries the epoch of the connection it belongs to, so that one that comes back after a
/// reconnect is recognised as stale.
#[derive(Default)]
pub struct ReadBuffer {
    place: Place,
    /// What is before it was decoded where it lies, and is free once the rest has moved there.
    start: usize,
    /// Not before `start`.
    filled: usize,
    /// How much was filled when the buffer was handed out.
    handed_out: usize,
    pub(crate) epoch: u32,
    reports_empty: bool,
}

/// Where the bytes of a buffer lie.
enum Place {
    /// Initialised to its whole length.
    Own(BytesMut),
    /// Messages that were decoded may hold parts of it: it cannot be read into.
    Lent(Bytes),
}

impl Default for Place {
    fn default() -> Self {
        Self::Own(BytesMut::new())
    }
}

impl Place {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Lent(bytes) => bytes,
        }
    }
}

impl ReadBuffer {
    /// Notes that the buffer goes out, to the connection numbered `epoch`.
    pub(crate) fn hand_out(&mut self, epoch: u32, reports_empty: bool) {
        self.handed_out = self.filled;
        self.epoch = epoch;
        self.reports_empty = reports_empty;
    }

    /// Whether to return the buffer as it is if the socket has nothing at this moment: what arrives later is known then to
    /// have arrived later, which leases begin with. The next buffer says no.
    #[must_use]
    pub fn reports_empty(&self) -> bool {
        self.reports_empty
    }

    /// How many bytes arrived since the buffer was handed out.
    pub(crate) fn arrived(&self) -> usize {
        self.filled.saturating_sub(self.handed_out)
    }

    /// Whether there is no free part left, so that more may wait where the bytes came from.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.len()
    }

    /// How large its place is.
    pub(super) fn len(&self) -> usize {
        self.place.bytes().len()
    }

    /// How much of it can be read into.
    pub(super) fn free(&self) -> usize {
        match &self.place {
            Place::Own(bytes) => bytes.len().saturating_sub(self.filled),
            Place::Lent(_) => 0,
        }
    }

    /// Sees to it that at least `room` bytes are free.
    pub(crate) fn reserve(&mut self, room: usize) {
        if self.free() < room {
            self.compact();
        }
        if self.free() < room {
            self.replace(self.filled.saturating_add(room), || None);
        }
    }

    /// Lends the place to what is decoded from now on. Whoever reads on needs another.
    #[cfg(feature = "std")]
    pub(super) fn lend(&mut self) {
        if let Place::Own(bytes) = &mut self.place {
            self.place = Place::Lent(core::mem::take(bytes).freeze());
        }
    }

    pub(super) fn is_lent(&self) -> bool {
        matches!(self.place, Place::Lent(_))
    }

    /// A part of what arrived and is not decoded yet, if the place is lent.
    pub(super) fn lent_part(&self, part: core::ops::Range<usize>) -> Option<Bytes> {
        let (from, to) = (self.start.checked_add(part.start)?, self.start.checked_add(part.end)?);
        match &self.place {
            Place::Lent(lent) if from <= to && to <= self.filled => Some(lent.slice(from..to)),
            _ => None,
        }
    }

    /// Forgets the first `n` bytes. Nothing is moved before room is needed.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.filled);
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        }
    }

    /// Moves what is left to the front.
    pub(super) fn compact(&mut self) {
        if let Place::Own(bytes) = &mut self.place
            && self.start > 0
        {
            bytes.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
    }

    /// Moves what is left to a place of `size` bytes at least: the one before, if nobody holds on to frames that were taken
    /// out; else one of `others`, or a new one. Returns the place before, if it was lent.
    pub(super) fn replace(&mut self, size: usize, others: impl FnOnce() -> Option<BytesMut>) -> Option<Bytes> {
        self.compact();
        if let Place::Own(bytes) = &mut self.place {
            bytes.truncate(self.filled);
            if bytes.try_reclaim(size.saturating_sub(self.filled)) {
                bytes.resize(size, 0);
                return None;
            }
        }
        let mut place = others().unwrap_or_else(|| BytesMut::zeroed(size));
        let left = self.filled().len();
        if let Some(to) = place.get_mut(..left) {
            to.copy_from_slice(self.filled());
        }
        (self.start, self.filled) = (0, left);
        match core::mem::replace(&mut self.place, Place::Own(place)) {
            Place::Own(_) => None,
            Place::Lent(before) => Some(before),
        }
    }

    /// Takes the first `n` bytes out, as far as they are there. Their place is no longer the buffer's.
    pub(super) fn split_off(&mut self, n: usize) -> Bytes {
        let n = n.min(self.filled().len());
        match &mut self.place {
            Place::Own(bytes) => {
                bytes.advance(self.start);
                self.filled -= self.start + n;
                self.start = 0;
                bytes.split_to(n).freeze()
            }
            Place::Lent(bytes) => {
                let part = bytes.slice(self.start..self.start + n);
                self.consume(n);
                part
            }
        }
    }

    /// The free part. Never empty in a buffer that was just handed out.
    pub fn unfilled(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Own(bytes) => bytes.get_mut(self.filled..).unwrap_or_default(),
            Place::Lent(_) => &mut [],
        }
    }

    /// Records that `n` bytes were written to the front of [`unfilled`](Self::unfilled); more than it
    /// holds is taken as all of it.
    pub fn advance(&mut self, n: usize) {
        self.filled += n.min(self.free());
    }

    /// Copies as much of `bytes` as there is room for, and says how much that is: for bytes that are in memory already.
    #[must_use = "what is left is to be copied later"]
    pub fn copy_from(&mut self, bytes: &[u8]) -> usize {
        let place = self.unfilled();
        let n = place.len().min(bytes.len());
        if let (Some(place), Some(bytes)) = (place.get_mut(..n), bytes.get(..n)) {
            place.copy_from_slice(bytes);
        }
        self.advance(n);
        n
    }

    /// Reads once from a socket and says how many bytes it brought: 0 at the end of the stream, `None` if there was nothing
    /// yet (a socket that does not block, or one whose read timeout passed, or a signal came). This is what
    /// [`Machine::handle_read`](crate::machine::Machine::handle_read) wants to know.
    ///
    /// # Errors
    ///
    /// Reading failed.
    #[cfg(feature = "std")]
    pub fn read_from<R: io::Read + ?Sized>(&mut self, from: &mut R) -> io::Result<Option<usize>> {
        match from.read(self.unfilled()) {
            Ok(n) => {
                self.advance(n);
                Ok(Some(n))
            }
            Err(error) if is_for_later(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes that arrived and are not decoded yet.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.place.bytes().get(self.start..self.filled).unwrap_or_default()
    }
}

enum Chunk {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Encoded bytes on their way out: a contiguous run of small pieces, broken only by large shared payloads.
#[derive(Default)]
pub struct OutBuf {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    len: usize,
}

impl OutBuf {
    /// An empty buffer; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a big-endian number.
    pub fn put_u16(&mut self, value: u16) {
        self.put_slice(&value.to_be_bytes());
    }

    /// Appends a big-endian number.
    pub fn put_u32(&mut self, value: u32) {
        self.put_slice(&value.to_be_bytes());
    }

    /// Makes room for a frame of `len` bytes, so that it is not moved while it grows. The large payloads of a large
    /// frame are shared and need none.
    pub(crate) fn reserve_up_to(&mut self, len: usize) {
        if len <= KEEP_CAPACITY {
            self.tail.reserve(len);
        }
    }

    /// Gives back the memory kept for reuse.
    pub(crate) fn shrink(&mut self) {
        self.tail.shrink_to_fit();
    }

    /// Appends bytes by copying them.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// Appends bytes; large ones are shared, not copied.
    pub fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM {
            self.put_slice(bytes);
            return;
        }
        self.close_tail();
        self.len = self.len.saturating_add(bytes.len());
        self.chunks.push_back(Chunk::Shared(bytes.clone()));
    }

    /// Moves everything to the back of `to`.
    pub fn take_into(&mut self, to: &mut Transmit) {
        // Mostly there is but one piece.
        if !self.chunks.is_empty() {
            to.chunks.append(&mut self.chunks);
        }
        if !self.tail.is_empty() {
            to.chunks.push_back(Chunk::Owned(core::mem::take(&mut self.tail)));
        }
        to.len = to.len.saturating_add(self.len);
        self.len = 0;
    }

    /// Everything as one contiguous value, leaving the buffer empty.
    #[must_use]
    pub fn take_bytes(&mut self) -> Bytes {
        if self.chunks.is_empty() {
            self.len = 0;
            return core::mem::take(&mut self.tail).into();
        }
        self.close_tail();
        let mut all = Vec::with_capacity(self.len);
        for chunk in self.chunks.drain(..) {
            all.extend_from_slice(chunk.as_slice());
        }
        self.len = 0;
        all.into()
    }

    /// Takes back the storage of a finished [`Transmit`], so that a steady flow of small frames allocates
    /// nothing.
    pub(crate) fn recycle(&mut self, done: &mut Transmit) {
        if let Some(mut spare) = done.spare.take()
            && self.tail.capacity() == 0
            && spare.capacity() <= KEEP_CAPACITY
        {
            spare.clear();
            self.tail = spare;
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(Chunk::Owned(core::mem::take(&mut self.tail)));
        }
    }
}

/// Bytes handed to the driver for writing.
///
/// Write [`chunk`](Self::chunk) or [`slices`](Self::slices) to the socket and report the number of bytes
/// taken to the machine that filled it.
#[derive(Default)]
pub struct Transmit {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written already.
    offset: usize,
    len: usize,
    spare: Option<Vec<u8>>,
    pub(crate) epoch: u32,
}

impl Transmit {
    /// An empty value to hand to the machine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes are still to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next contiguous bytes to write; empty when all is written.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        self.chunks
            .front()
            .and_then(|chunk| chunk.as_slice().get(self.offset..))
            .unwrap_or_default()
    }

    /// Fills `slices` for a vectored write and returns the part that was filled.
    #[cfg(feature = "std")]
    pub fn slices<'a, 's>(&'a self, slices: &'s mut [IoSlice<'a>]) -> &'s [IoSlice<'a>] {
        let mut skip = self.offset;
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(chunk.as_slice().get(skip..).unwrap_or_default());
            skip = 0;
            count += 1;
        }
        slices.get(..count).unwrap_or_default()
    }

    /// Writes once to a socket and says how many bytes it took: 0 if it takes none yet (one that does not block, or whose
    /// write timeout passed, or a signal came). Report them to the machine:
    /// [`Machine::handle_written`](crate::machine::Machine::handle_written).
    ///
    /// # Errors
    ///
    /// Writing failed, or the socket takes nothing any more.
    #[cfg(feature = "std")]
    pub fn write_to<W: io::Write + ?Sized>(&self, to: &mut W) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        match to.write_vectored(self.slices(&mut slices)) {
            Ok(0) if !self.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if is_for_later(&error) => Ok(0),
            result => result,
        }
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: Vec<u8>) {
        self.len = self.len.saturating_add(bytes.len());
        self.chunks.push_back(Chunk::Owned(bytes));
    }

    /// An empty buffer to fill, which may have served before.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        let mut spare = self.spare.take().unwrap_or_default();
        spare.clear();
        spare
    }

    /// Forgets the first `n` bytes. Called by the machine.
    pub(crate) fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        let mut left = self.offset.saturating_add(n);
        while let Some(first) = self.chunks.front() {
            let size = first.as_slice().len();
            if left < size {
                break;
            }
            left -= size;
            if let Some(Chunk::Owned(bytes)) = self.chunks.pop_front() {
                self.spare = Some(bytes);
            }
        }
        self.offset = left;
    }

    pub(crate) fn clear(&mut self) {
        self.advance(self.len);
    }
}

/// Whether the socket is as it was, and the same call may succeed later.
#[cfg(feature = "std")]
fn is_for_later(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

// What waits in buffers are payloads and keys, which are not for logs.

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuffer")
            .field("filled", &self.filled().len())
            .field("capacity", &self.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OutBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_shared_and_order_is_kept() {
        let large = Bytes::from(vec![7; SHARE_FROM]);
        let mut out = OutBuf::new();
        out.put_u16(1);
        out.put_shared(&large);
        out.put_shared(&Bytes::from_static(b"tail"));
        assert_eq!(out.len(), 2 + SHARE_FROM + 4);

        let mut transmit = Transmit::new();
        out.take_into(&mut transmit);
        assert!(out.is_empty());
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(transmit.slices(&mut slices).len(), 3);

        let mut written = Vec::new();
        while !transmit.is_empty() {
            let n = transmit.chunk().len().min(1000);
            written.extend_from_slice(&transmit.chunk()[..n]);
            transmit.advance(n);
        }
        assert_eq!(&written[..2], &[0, 1]);
        assert_eq!(&written[2..2 + SHARE_FROM], &large[..]);
        assert_eq!(&written[2 + SHARE_FROM..], b"tail");
    }

    /// A socket that takes and gives three bytes at a time, then says this.
    struct Socket(Vec<u8>, Option<io::ErrorKind>);

    impl io::Read for Socket {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.1.take() {
                Some(kind) => Err(kind.into()),
                None => (&self.0[..3]).read(into),
            }
        }
    }

    impl io::Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.1.take() {
                Some(kind) => Err(kind.into()),
                None => self.0.write(&bytes[..bytes.len().min(3)]),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_socket_that_is_not_ready_has_nothing_yet() {
        use io::ErrorKind::{ConnectionReset, Interrupted, TimedOut, WouldBlock};
        let mut buffer = ReadBuffer::default();
        buffer.reserve(8);
        let (mut out, mut transmit) = (OutBuf::new(), Transmit::new());
        out.put_slice(b"12345");
        out.take_into(&mut transmit);
        for kind in [WouldBlock, TimedOut, Interrupted] {
            let mut socket = Socket(Vec::new(), Some(kind));
            assert_eq!(buffer.read_from(&mut socket).expect("later"), None);
            let mut socket = Socket(Vec::new(), Some(kind));
            assert_eq!(transmit.write_to(&mut socket).expect("later"), 0);
        }
        let mut socket = Socket(Vec::new(), Some(ConnectionReset));
        assert_eq!(
            buffer.read_from(&mut socket).expect_err("it failed").kind(),
            ConnectionReset
        );
        socket.1 = Some(ConnectionReset);
        assert_eq!(
            transmit.write_to(&mut socket).expect_err("it failed").kind(),
            ConnectionReset
        );
        assert_eq!((buffer.filled(), transmit.len()), (&b""[..], 5));

        assert_eq!(transmit.write_to(&mut socket).expect("ready"), 3);
        assert_eq!(buffer.read_from(&mut socket).expect("ready"), Some(3));
        assert_eq!(buffer.filled(), b"123");
        assert_eq!(buffer.read_from(&mut io::empty()).expect("the end"), Some(0));
        // Nobody waits for a socket that will never take anything.
        let stuck = transmit.write_to(&mut &mut [][..]).expect_err("no room");
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn what_a_buffer_has_no_room_for_is_left() {
        let mut buffer = ReadBuffer::default();
        buffer.reserve(4);
        assert_eq!(buffer.copy_from(b"123"), 3);
        assert_eq!(buffer.copy_from(b"456"), 1);
        assert_eq!(buffer.copy_from(b"56"), 0);
        assert_eq!(buffer.filled(), b"1234");
    }

    #[test]
    fn advancing_too_far_is_harmless() {
        let mut buffer = ReadBuffer::default();
        buffer.advance(10);
        assert!(buffer.filled().is_empty());
        let mut transmit = Transmit::new();
        transmit.advance(10);
        assert!(transmit.is_empty());
    }
}
