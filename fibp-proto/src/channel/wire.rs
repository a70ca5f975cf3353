//! Between the socket's bytes and the connection's.

use std::time::Instant;

use super::Channel;
use crate::connection::{Broken, Connection};
use crate::error::{Error, ErrorKind, Outcome};
use crate::fault::{Fault, FaultKind};
use crate::frame::{ReadBuffer, Transmit};

/// Ciphertext is read in pieces of about this size, in bytes: a record, or two where more waits than one.
const TLS_READ: usize = 18 * 1024;

impl<W> Channel<W> {
    // ---- in ----

    /// The buffer to read into; `None` while it is out, without a connection, or without `room` for what arrives.
    pub(crate) fn take_read_buffer(&mut self, room: bool) -> Option<ReadBuffer> {
        // Whoever asks knows that reading is wanted again.
        self.transport.read_again = false;
        if self.transport.reading || !self.wants_read(room) {
            return None;
        }
        let mut buffer = match &mut self.transport.tls {
            Some(tls) => {
                tls.input.reserve(if tls.more_waits { 2 * TLS_READ } else { TLS_READ });
                // What could be decrypted is: a part of a record at most goes along, and comes back with the rest of it.
                std::mem::take(&mut tls.input)
            }
            None => self.connection.as_mut()?.decoder().take_buffer()?,
        };
        buffer.hand_out(self.transport.epoch, self.transport.burst.is_unsure());
        self.transport.reading = true;
        Some(buffer)
    }

    /// Whether input is wanted: there is a connection and `room` for what it brings.
    pub(crate) fn wants_read(&self, room: bool) -> bool {
        self.transport.open && room
    }

    /// There is room again for what arrives.
    pub(crate) fn note_room(&mut self) {
        self.transport.read_again = true;
    }

    /// Whether the connection is ready and delivers; before that, nothing that arrives needs room.
    pub(crate) fn is_delivering(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_ready())
    }

    /// When what was read last can have become readable, at the earliest.
    pub(crate) fn burst_began(&self) -> Option<Instant> {
        self.transport.burst.began
    }

    /// Takes a buffer back, with what was read. False if it is none of this connection's. Events may follow; when they
    /// are taken, [`note_read`](Self::note_read) is due.
    pub(crate) fn handle_input(&mut self, now: Instant, buffer: ReadBuffer) -> bool {
        if buffer.epoch != self.transport.epoch || !self.transport.reading {
            return false;
        }
        // Whatever is left of its connection, the buffer is back.
        self.transport.reading = false;
        // Nothing that was read on a socket that is hung up is taken in: what was in flight on it is settled.
        if !self.transport.open {
            return false;
        }
        let arrived = buffer.arrived();
        self.traffic.bytes_received += arrived as u64;
        if arrived > 0 {
            // Before the bytes are decoded: the deliveries among them ask when their burst began.
            self.transport.burst.arrived(now);
        }
        match (&mut self.transport.tls, &mut self.connection) {
            (Some(tls), _) => {
                tls.more_waits = buffer.is_full();
                tls.input = buffer;
            }
            (None, Some(connection)) => connection.decoder().give_buffer(buffer),
            // The opening failed, and the hang-up is on its way.
            (None, None) => {}
        }
        if arrived > 0 {
            self.note_life(now);
        }
        true
    }

    /// Whether a delivery is on its way since this was asked last, if only in part: its queue is not silent.
    pub(crate) fn take_delivering(&mut self) -> bool {
        self.connection_mut().is_some_and(Connection::take_delivering)
    }

    /// The peer sent bytes, or took some: it is alive, however long the frame is that they belong to. What a peer that
    /// sends a byte now and then leaves undone is for the deadlines of the calls to end.
    fn note_life(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.note_life(now);
        }
    }

    /// A read is over: whether it filled the buffer, so that there may be more, and whether there is room for more.
    pub(crate) fn note_read(&mut self, now: Instant, full: bool, room: bool) {
        if !full {
            self.transport.burst.emptied(now);
        }
        // Bytes may arrive from now on without being read, so the next burst may have begun at any time since.
        if !room {
            self.transport.burst.pause();
        }
    }

    /// The peer closed its side. Events follow.
    pub(crate) fn handle_eof(&mut self, now: Instant) {
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
        self.break_off(now, broken);
    }

    /// Reading or writing failed. Events follow.
    pub(crate) fn handle_transport_error(&mut self, now: Instant, fault: Fault) {
        if !self.transport.open {
            return;
        }
        // Bytes that arrived before a reset may say more than the reset.
        let broken = self
            .ended(fault.kind == FaultKind::Reset)
            .unwrap_or_else(|| Broken::new(fault.into_error(ErrorKind::Disconnected, Outcome::NotSent)));
        self.break_off(now, broken);
    }

    fn ended(&mut self, reset: bool) -> Option<Broken> {
        if let Some(tls) = &mut self.transport.tls {
            let handshaking = tls.pipe.is_handshaking();
            // TLS first: a handshake that is cut short, or an earlier failure, says more than the connection can.
            if let Err(error) = tls.pipe.handle_eof() {
                let heard = tls.pipe.has_heard();
                let error = if handshaking {
                    self.judge_tls_end(error, heard)
                } else {
                    error
                };
                return Some(Broken::new(error));
            }
        }
        self.connection
            .as_ref()
            .and_then(|connection| connection.closed_early(reset))
    }

    /// Decrypts some of what arrived; false when there is nothing to go on with.
    pub(super) fn decrypt(&mut self, now: Instant) -> Result<bool, Error> {
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
        // Only now is the dialect known. What was decrypted along with the handshake waits in the pipe for the next
        // round.
        if self.connection.is_none() && !tls.pipe.is_handshaking() && failed.is_none() {
            let alpn = tls.pipe.alpn().map(<[u8]>::to_vec);
            self.open_in_tls(now, alpn);
            return Ok(true);
        }
        let mut decrypted = 0;
        // A piece at a time: the machine takes the events of each before it asks for more, so room bounds what is
        // decrypted.
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

    /// Silence means nothing while nothing is read.
    pub(super) fn update_heartbeat(&mut self, now: Instant, room: bool) {
        if let Some(connection) = &mut self.connection {
            if room {
                connection.resume_heartbeat(now);
            } else {
                connection.suspend_heartbeat();
            }
        }
    }

    // ---- out ----

    /// Whether the writer slot is free, and may be used.
    pub(crate) fn may_write(&self) -> bool {
        self.transport.may_write()
    }

    /// Whether something is encoded and not handed to a writer.
    pub(crate) fn has_output(&self) -> bool {
        let encoded = |channel: &Self| {
            let connection = channel.connection.as_ref();
            connection.is_some_and(|connection| !connection.out.is_empty())
        };
        self.transport.has_output() || (!self.transport.has_said_end() && encoded(self))
    }

    /// Moves what is encoded into `transmit` and claims the writer slot; false if there is nothing.
    pub(crate) fn take_transmit(&mut self, now: Instant, transmit: &mut Transmit) -> bool {
        self.transport
            .take_transmit(now, self.connection.as_deref_mut(), transmit)
    }

    /// `n` bytes of `transmit` were taken by the socket. When `transmit` is empty afterwards, the writer slot
    /// is free again.
    pub(crate) fn transmitted(&mut self, now: Instant, transmit: &mut Transmit, n: usize) {
        // Of an earlier socket: what it carried was settled when that was lost, and must not count on this one.
        if transmit.epoch != self.transport.epoch || !self.transport.writing {
            transmit.clear();
            return;
        }
        // A driver that reports more than there was is not believed.
        let n = n.min(transmit.len());
        transmit.advance(n);
        self.traffic.bytes_sent += n as u64;
        // A large frame may take longer than a heartbeat waits: bytes that the peer takes are signs of life.
        if n > 0 && self.transport.writes_slowly(now) {
            self.note_life(now);
        }
        let done = transmit.is_empty();
        match (&mut self.transport.tls, &mut self.connection) {
            // These bytes counted as written when they were encrypted.
            (Some(tls), _) => {
                if done {
                    tls.recycle(transmit);
                }
            }
            (None, Some(connection)) => {
                connection.note_written(n);
                if done {
                    connection.out.recycle(transmit);
                }
            }
            (None, None) => {}
        }
        if done {
            self.transport.writing = false;
            self.note_flushed();
        }
    }

    /// Writing failed; returns the writer slot. What `transmit` still holds is not sent. Events follow.
    pub(crate) fn transmit_failed(&mut self, now: Instant, transmit: &Transmit, fault: Fault) {
        if transmit.epoch != self.transport.epoch {
            return;
        }
        self.transport.writing = false;
        if let Some(connection) = &mut self.connection {
            // Before the loss is judged: what the writer gives back was certainly not sent.
            connection.note_returned();
        }
        self.handle_transport_error(now, fault);
    }
}
