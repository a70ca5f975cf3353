//! Between the socket's bytes and the connection's: epochs, the writer slot, and TLS.

use std::time::{Duration, Instant};

use super::Link;
use super::subscription::Subscription;
use super::work::Work;
use crate::connection::{Arrival, Broken, Connection};
use crate::error::{Error, ErrorKind};
use crate::fault::{Fault, FaultKind};
use crate::frame::{ReadBuffer, Transmit};
use crate::tls::TlsPipe;

/// Ciphertext is read in pieces of about this size.
const TLS_READ: usize = 18 * 1024;

/// About how much ciphertext is made ahead of the socket.
const TLS_WRITE: usize = 64 * 1024;

/// A write that lasts longer than this waited for room, and room comes only from a peer that takes bytes. A shorter one
/// may have filled the buffer of the operating system, which takes bytes even when nobody is there any more.
const SLOW_WRITE: Duration = Duration::from_millis(20);

/// The state of the socket as the driver reports it.
#[derive(Debug, Default)]
pub(super) struct Transport {
    /// Counts sockets: buffers of an earlier one are recognised by it.
    epoch: u32,
    open: bool,
    /// Nothing is written any more.
    finished: bool,
    writing: bool,
    /// When the writer slot was claimed last.
    writing_since: Option<Instant>,
    reading: bool,
    /// Reading had stopped for want of room and is wanted again.
    read_again: bool,
    burst: Burst,
    tls: Option<Box<Tls>>,
}

/// TLS on a socket: the pipe and what waits on either side of it.
#[derive(Debug)]
struct Tls {
    pipe: TlsPipe,
    /// Ciphertext that arrived and is not decrypted yet.
    input: ReadBuffer,
    /// Plaintext that is not encrypted yet.
    output: Transmit,
}

/// When the bytes that are being read can have become readable, at the earliest.
///
/// A burst is what is read without finding the socket empty in between. It begins when a reader that found the socket
/// empty, and slept, brings bytes again. While nothing is read (a pause), bytes may arrive at any time, so one that
/// follows a pause begins where the socket was known to be empty last.
#[derive(Debug, Default)]
struct Burst {
    began: Option<Instant>,
    /// The socket was empty at this instant, and nothing was read since.
    empty_at: Option<Instant>,
    /// Nobody has tried to read since then.
    paused: bool,
}

impl Burst {
    fn new(now: Instant) -> Self {
        Self {
            began: None,
            empty_at: Some(now),
            paused: false,
        }
    }

    /// A read brought bytes.
    fn arrived(&mut self, now: Instant) {
        if let Some(empty_at) = self.empty_at.take() {
            self.began = Some(if self.paused { empty_at } else { now });
        }
    }

    /// A read found nothing, or less than there was room for.
    fn emptied(&mut self, now: Instant) {
        self.empty_at = Some(now);
        self.paused = false;
    }

    /// Nothing is read for now.
    fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether it would be news that the socket is empty.
    fn is_unsure(&self) -> bool {
        self.paused || self.empty_at.is_none()
    }
}

impl Transport {
    pub(super) fn open(&mut self, now: Instant) {
        *self = Self {
            epoch: self.epoch.wrapping_add(1),
            open: true,
            burst: Burst::new(now),
            ..Self::default()
        };
    }

    /// What is still under way belongs to nobody any more.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.tls = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn may_write(&self) -> bool {
        self.open && !self.finished && !self.writing
    }

    pub(super) fn begin_tls(&mut self, pipe: TlsPipe) {
        self.tls = Some(Box::new(Tls {
            pipe,
            input: ReadBuffer::default(),
            output: Transmit::new(),
        }));
    }

    /// Bytes of the transport's own that wait to be written.
    pub(super) fn has_output(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.pipe.wants_write() || !tls.output.is_empty())
    }

    /// Ends the output where TLS has a word for it; true once nothing is left to be written.
    pub(super) fn finish_output(&mut self) -> bool {
        if let Some(tls) = self.tls.as_mut().filter(|tls| tls.output.is_empty()) {
            tls.pipe.close_notify();
        }
        self.finished = !self.has_output();
        self.finished
    }

    pub(super) fn wants_read_again(&self) -> bool {
        self.read_again && !self.reading
    }

    pub(super) fn note_room(&mut self) {
        self.read_again = true;
    }

    /// When what was read last can have become readable, at the earliest.
    pub(super) fn burst_began(&self) -> Option<Instant> {
        self.burst.began
    }

    /// Fills `transmit` with what is to be written and claims the writer slot; false if there is nothing.
    pub(super) fn take_transmit<W>(
        &mut self,
        now: Instant,
        connection: Option<&mut Connection<W>>,
        transmit: &mut Transmit,
    ) -> bool {
        transmit.clear();
        match (&mut self.tls, connection) {
            (None, Some(connection)) => {
                connection.out.take_into(transmit);
                connection.note_handed(transmit.len());
            }
            (None, None) => {}
            (Some(tls), connection) => tls.encrypt(connection, transmit),
        }
        if transmit.is_empty() {
            return false;
        }
        transmit.epoch = self.epoch;
        self.writing = true;
        self.writing_since = Some(now);
        true
    }

    /// Whether bytes that the socket takes now show that the peer takes them, too.
    fn writes_slowly(&self, now: Instant) -> bool {
        self.writing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= SLOW_WRITE)
    }
}

impl Tls {
    /// Encrypts what waits, about as much as is worth one write. What is encrypted counts as sent: the peer may
    /// act on it.
    fn encrypt<W>(&mut self, mut connection: Option<&mut Connection<W>>, transmit: &mut Transmit) {
        let mut ciphertext = transmit.take_spare();
        self.pipe.take_ciphertext(&mut ciphertext);
        if let Some(connection) = &mut connection {
            connection.out.take_into(&mut self.output);
            while !self.output.is_empty() && ciphertext.len() < TLS_WRITE {
                let n = self.pipe.write_plaintext(self.output.chunk());
                if n == 0 {
                    break;
                }
                self.output.advance(n);
                connection.note_written(n);
                self.pipe.take_ciphertext(&mut ciphertext);
            }
        }
        if !ciphertext.is_empty() {
            transmit.push(ciphertext);
        }
    }
}

impl<T> Link<T> {
    /// The buffer to read into; `None` while it is out, without a connection, or while input is not wanted
    /// (backpressure).
    #[must_use]
    pub fn take_read_buffer(&mut self) -> Option<ReadBuffer> {
        self.transport.read_again = false;
        if self.transport.reading || !self.wants_read() {
            return None;
        }
        let mut buffer = match &mut self.transport.tls {
            Some(tls) => {
                tls.input.reserve(TLS_READ);
                std::mem::take(&mut tls.input)
            }
            None => self.connection.as_mut()?.decoder().take_buffer()?,
        };
        buffer.hand_out(self.transport.epoch, self.transport.burst.is_unsure());
        self.transport.reading = true;
        Some(buffer)
    }

    /// Whether input is wanted: there is a connection and room for what it brings.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.transport.open && self.has_room_for_arrivals()
    }

    /// Bytes were read into the buffer from [`take_read_buffer`](Self::take_read_buffer). Return the buffer
    /// with this call even if nothing was read, which says that the socket had nothing; a buffer that
    /// [reports an empty socket](ReadBuffer::reports_empty) at once. `now` is when the reader was woken.
    pub fn handle_input(&mut self, now: Instant, buffer: ReadBuffer) {
        let _span = self.span.enter();
        if buffer.epoch != self.transport.epoch || !self.transport.reading {
            return;
        }
        self.transport.reading = false;
        if !self.transport.open {
            return;
        }
        let arrived = buffer.arrived() > 0;
        self.stats.bytes_received += buffer.arrived() as u64;
        let full = buffer.is_full();
        if buffer.arrived() > 0 {
            self.transport.burst.arrived(now);
        }
        match (&mut self.transport.tls, &mut self.connection) {
            (Some(tls), _) => tls.input = buffer,
            (None, Some(connection)) => connection.decoder().give_buffer(buffer),
            (None, None) => {}
        }
        if arrived {
            self.note_life(now);
        }
        self.process_arrivals(now);
        self.note_delivering(now);
        if !full {
            self.transport.burst.emptied(now);
        }
        if !self.has_room_for_arrivals() {
            self.transport.burst.pause();
        }
        self.finish_turn(now);
    }

    /// The peer closed its side.
    pub fn handle_eof(&mut self, now: Instant) {
        let _span = self.span.enter();
        if !self.transport.open {
            return;
        }
        let broken = self.ended(false).unwrap_or_else(|| {
            let text = if self.connection.as_deref().is_some_and(Connection::is_mid_frame) {
                "the server closed the connection in the middle of a frame"
            } else {
                "the server closed the connection"
            };
            Broken::new(Error::new(ErrorKind::Disconnected, text))
        });
        self.handle_broken(now, broken);
        self.finish_turn(now);
    }

    /// Reading or writing failed.
    pub fn handle_transport_error(&mut self, now: Instant, fault: Fault) {
        let _span = self.span.enter();
        if !self.transport.open {
            return;
        }
        // Bytes that arrived before a reset may say more than the reset.
        let broken = self
            .ended(fault.kind == FaultKind::Reset)
            .unwrap_or_else(|| Broken::new(fault.into_error(ErrorKind::Disconnected, crate::Outcome::NotSent)));
        self.handle_broken(now, broken);
        self.finish_turn(now);
    }

    fn ended(&mut self, reset: bool) -> Option<Broken> {
        if let Some(tls) = &mut self.transport.tls {
            let handshaking = tls.pipe.is_handshaking();
            if let Err(error) = tls.pipe.handle_eof() {
                // A server that restarts, or a proxy before it, cuts handshakes short: no reason to give up for good.
                let kind = if handshaking {
                    ErrorKind::Disconnected
                } else {
                    error.kind()
                };
                return Some(Broken::new(error.with_kind(kind)));
            }
        }
        self.connection
            .as_ref()
            .and_then(|connection| connection.closed_early(reset))
    }

    /// `n` bytes of `transmit` were taken by the socket. When `transmit` is empty afterwards, the writer slot
    /// is free again.
    pub fn transmitted(&mut self, now: Instant, transmit: &mut Transmit, n: usize) {
        if transmit.epoch != self.transport.epoch || !self.transport.writing {
            transmit.clear();
            return;
        }
        let n = n.min(transmit.len());
        transmit.advance(n);
        self.stats.bytes_sent += n as u64;
        if n > 0 && self.transport.writes_slowly(now) {
            self.note_life(now);
        }
        let done = transmit.is_empty();
        if let Some(connection) = &mut self.connection
            && self.transport.tls.is_none()
        {
            connection.note_written(n);
            if done {
                connection.out.recycle(transmit);
            }
        }
        if done {
            self.transport.writing = false;
            self.note_flushed(now);
        }
    }

    /// Writing failed; returns the writer slot. What `transmit` still holds is not sent.
    pub fn transmit_failed(&mut self, now: Instant, transmit: Transmit, fault: Fault) {
        if transmit.epoch == self.transport.epoch {
            self.transport.writing = false;
            if let Some(connection) = &mut self.connection {
                connection.note_returned();
            }
            self.handle_transport_error(now, fault);
        }
    }

    /// Takes in what arrived, as far as there is room for it.
    pub(super) fn process_arrivals(&mut self, now: Instant) {
        while self.has_room_for_arrivals() {
            let arrival = match &mut self.connection {
                Some(connection) => {
                    let queue = self.subscription.as_ref().map_or_else(Default::default, |s| s.queue());
                    connection.next_arrival(now, &queue)
                }
                None => Ok(None),
            };
            match arrival {
                Ok(Some(arrival)) => {
                    self.stats.frames_received += 1;
                    self.handle_arrival(now, arrival);
                }
                Ok(None) => match self.decrypt(now) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return self.handle_broken(now, Broken::new(error)),
                },
                Err(broken) => return self.handle_broken(now, broken),
            }
        }
        self.update_heartbeat(now);
    }

    /// The connection is over: takes in the deliveries that arrived on it, room or no room.
    pub(super) fn take_last_deliveries(&mut self, now: Instant) {
        let Some(queue) = self.subscription.as_ref().map(Subscription::queue) else {
            return;
        };
        while let Some(connection) = &mut self.connection {
            let pending = connection.decoder().pending().len();
            match connection.next_arrival(now, &queue) {
                Ok(Some(Arrival::Push(push))) => self.handle_push(now, push),
                Ok(Some(Arrival::Answer { work, response })) if !matches!(work, Work::Subscribe) => {
                    self.handle_answer(now, work, response);
                }
                Ok(Some(Arrival::Again(work))) => self.send_again(now, work),
                Ok(Some(_)) => {}
                // One that cannot be decoded does not hide the next.
                Err(_) if connection.decoder().pending().len() < pending => {}
                Err(_) => break,
                Ok(None) => {
                    if !matches!(self.decrypt(now), Ok(true)) {
                        break;
                    }
                }
            }
        }
    }

    /// Decrypts some of what arrived; false when there is nothing to go on with.
    fn decrypt(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(tls) = &mut self.transport.tls else {
            return Ok(false);
        };
        let mut failed = None;
        let mut consumed = 0;
        if !tls.pipe.has_plaintext() && !tls.input.filled().is_empty() {
            match tls.pipe.read_ciphertext(tls.input.filled()) {
                Ok(n) => consumed = n,
                Err(error) => failed = Some(error),
            }
            tls.input.consume(consumed);
        }
        if self.connection.is_none() && !tls.pipe.is_handshaking() && failed.is_none() {
            let alpn = tls.pipe.alpn().map(<[u8]>::to_vec);
            self.open_in_tls(now, alpn);
            return Ok(true);
        }
        let mut decrypted = 0;
        if let Some(connection) = &mut self.connection
            && tls.pipe.has_plaintext()
            && let Some(mut buffer) = connection.decoder().take_buffer()
        {
            decrypted = tls.pipe.plaintext(buffer.unfilled());
            buffer.advance(decrypted);
            connection.decoder().give_buffer(buffer);
        }
        match failed {
            // What came before the fault is taken in first.
            Some(error) if decrypted == 0 => Err(error),
            Some(_) => Ok(true),
            None => Ok(consumed + decrypted > 0),
        }
    }

    /// The peer sent bytes, or took some: it is alive, however long the frame is that they belong to. What a peer that
    /// sends a byte now and then leaves undone is for the deadlines of the calls to end.
    fn note_life(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.note_life(now);
        }
    }

    /// A queue whose deliveries are on their way is not silent.
    fn note_delivering(&mut self, now: Instant) {
        let delivering = self.connection_mut().is_some_and(Connection::take_delivering);
        if let Some(subscription) = self.subscription.as_mut().filter(|_| delivering) {
            subscription.rearm(now, self.shared.config().settings().connect_timeout);
        }
    }

    /// Silence means nothing while nothing is read.
    pub(super) fn update_heartbeat(&mut self, now: Instant) {
        let room = self.has_room_for_arrivals();
        if let Some(connection) = &mut self.connection {
            if room {
                connection.resume_heartbeat(now);
            } else {
                connection.suspend_heartbeat();
            }
        }
    }

    pub(super) fn finish_turn(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
        self.settle_accounts(now);
        self.check_closing(now);
        self.publish_stats();
    }

    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection<Work<T>>> {
        self.connection.as_deref_mut()
    }
}
