//! The socket as the driver reports it: epochs, the writer slot, and TLS.

use std::time::{Duration, Instant};

use super::burst::Burst;
use crate::connection::Connection;
use crate::frame::{ReadBuffer, Transmit};
use crate::tls::TlsPipe;

/// About how much ciphertext is made ahead of the socket: what one turn of a driver encodes at the most, 64 KiB and a batch of
/// 128 KiB. A frame that took two writes would need the driver for its rest.
const TLS_WRITE: usize = 192 * 1024;

/// What records add to the plaintext of one write.
const RECORD_HEADS: usize = 1024;

/// A write that lasts longer than this waited for room, and room comes only from a peer that takes bytes. A shorter one
/// may have filled the buffer of the operating system, which takes bytes even when the peer is gone.
const SLOW_WRITE: Duration = Duration::from_millis(20);

/// The state of the socket as the driver reports it.
#[derive(Debug, Default)]
pub(super) struct Transport {
    /// Counts sockets: buffers of an earlier one are recognised by it.
    pub(super) epoch: u32,
    pub(super) open: bool,
    /// Nothing is written any more.
    finished: bool,
    pub(super) writing: bool,
    /// When the writer slot was claimed last.
    writing_since: Option<Instant>,
    pub(super) reading: bool,
    /// Reading had stopped because there was no room, and is wanted again.
    pub(super) read_again: bool,
    pub(super) burst: Burst,
    pub(super) tls: Option<Box<Tls>>,
}

/// TLS on a socket: the pipe and what waits on either side of it.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) pipe: TlsPipe,
    /// Ciphertext that arrived and is not decrypted yet.
    pub(super) input: ReadBuffer,
    /// The last read filled the buffer.
    pub(super) more_waits: bool,
    /// Plaintext that is not encrypted yet.
    output: Transmit,
    /// For ciphertext; away while that is written.
    spare: Vec<u8>,
}

impl Transport {
    pub(super) fn open(&mut self, now: Instant) {
        // Buffers of the last socket may still be out, and the slots start free all the same: their epoch tells them from
        // this socket's when they come back.
        *self = Self {
            epoch: self.epoch.wrapping_add(1),
            open: true,
            burst: Burst::new(now),
            ..Self::default()
        };
    }

    /// What is still under way is ignored.
    pub(super) fn close(&mut self) {
        // The epoch and the slots stay. Until the next socket is opened, a buffer that comes back is this one's: it frees
        // its slot, and nothing else.
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
            more_waits: false,
            output: Transmit::new(),
            spare: Vec::new(),
        }));
    }

    /// Bytes of the transport's own that wait to be written.
    pub(super) fn has_output(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.pipe.wants_write() || (!tls.output.is_empty() && !tls.pipe.is_closing()))
    }

    /// Whether the end of the output was said: what is encoded now is too late to be sent.
    pub(super) fn has_said_end(&self) -> bool {
        self.finished || self.tls.as_ref().is_some_and(|tls| tls.pipe.is_closing())
    }

    /// Ends the output where TLS has a word for it; true once nothing is left to be written.
    pub(super) fn finish_output(&mut self) -> bool {
        if let Some(tls) = self.tls.as_mut().filter(|tls| tls.output.is_empty()) {
            // Not while plaintext waits to be encrypted: nothing that follows a close_notify is sent.
            tls.pipe.close_notify();
        }
        self.finished = !self.has_output();
        self.finished
    }

    pub(super) fn wants_read_again(&self) -> bool {
        self.open && self.read_again && !self.reading
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
                // From here on these bytes may reach the server, whatever the writer says later or does not get to say.
                connection.note_handed(transmit.len());
            }
            (None, None) => {}
            (Some(tls), connection) => tls.encrypt(connection, transmit),
        }
        if transmit.is_empty() {
            return false;
        }
        // So that a report that comes after the next socket was opened is not counted on that one.
        transmit.epoch = self.epoch;
        self.writing = true;
        self.writing_since = Some(now);
        true
    }

    /// A quiet connection gives back the memory of its busy times.
    pub(super) fn shrink(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.spare.shrink_to_fit();
        }
    }

    /// Whether bytes that the socket takes now show that the peer takes them, too.
    pub(super) fn writes_slowly(&self, now: Instant) -> bool {
        self.writing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= SLOW_WRITE)
    }
}

impl Tls {
    /// Encrypts what waits, a record at a time, about as much as is worth one write. What is encrypted counts as sent: the
    /// peer may act on it.
    fn encrypt<W>(&mut self, mut connection: Option<&mut Connection<W>>, transmit: &mut Transmit) {
        let mut ciphertext = std::mem::take(&mut self.spare);
        self.pipe.take_ciphertext(&mut ciphertext);
        if let Some(connection) = &mut connection {
            connection.out.take_into(&mut self.output);
            if !self.output.is_empty() {
                ciphertext.reserve(self.output.len().min(TLS_WRITE) + RECORD_HEADS);
            }
            while !self.output.is_empty() && ciphertext.len() < TLS_WRITE {
                let n = self.pipe.write_plaintext(self.output.chunk());
                // After the end of TLS nothing is taken: the rest stays in `output`.
                if n == 0 {
                    break;
                }
                self.output.advance(n);
                connection.note_written(n);
                self.pipe.take_ciphertext(&mut ciphertext);
            }
            connection.out.recycle(&mut self.output);
        }
        if ciphertext.is_empty() {
            self.spare = ciphertext;
        } else {
            transmit.push(ciphertext);
        }
    }

    /// Takes back the storage of ciphertext that was written.
    pub(super) fn recycle(&mut self, written: &mut Transmit) {
        self.spare = written.take_spare();
    }
}
