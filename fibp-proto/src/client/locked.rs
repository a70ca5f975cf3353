//! What the lock of a link protects: the link, and what is known of its socket.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::lead::Lead;
use super::waiter::Waiter;
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::link::{DialId, Link};

/// What the lock protects.
pub struct Locked<S> {
    /// The link.
    pub link: Link<Waiter>,
    /// The socket of the link's connection. Out of reach between a hangup and the next dial.
    pub socket: Option<Arc<S>>,
    /// What a caller took from the link and could not write: for the driver to go on with.
    pub unwritten: Transmit,
    /// The dial whose socket is wanted. Known where threads dial.
    pub(super) dialing: Option<DialId>,
    /// Who reads, where threads do.
    pub(super) lead: Lead,
    /// Told when a write begins.
    pub(super) claimed: fn(&S),
}

impl<S> Locked<S> {
    pub(super) fn new(link: Link<Waiter>) -> Self {
        Self {
            link,
            socket: None,
            unwritten: Transmit::new(),
            dialing: None,
            lead: Lead::default(),
            claimed: |_| (),
        }
    }

    /// Takes the writer slot if there is something new to write.
    pub(super) fn claim(&mut self, now: Instant, max: usize) -> Option<(Arc<S>, Transmit)> {
        let socket = self.socket.as_ref()?;
        if !self.unwritten.is_empty() || !self.link.wants_write() {
            return None;
        }
        let mut transmit = std::mem::take(&mut self.unwritten);
        if self.link.take_transmit(now, max, &mut transmit) {
            (self.claimed)(socket);
            return Some((Arc::clone(socket), transmit));
        }
        self.unwritten = transmit;
        None
    }

    /// Takes what the last write left, or else something new of up to about `max` bytes, and the socket to write it to.
    pub fn claim_all(&mut self, now: Instant, max: usize) -> Option<(Arc<S>, Transmit)> {
        if self.unwritten.is_empty() {
            return self.claim(now, max);
        }
        let socket = self.socket.as_ref()?;
        Some((Arc::clone(socket), std::mem::take(&mut self.unwritten)))
    }

    /// Takes in how a write ended: how many bytes the socket took. What it did not take is left to the driver.
    pub fn written(&mut self, now: Instant, mut transmit: Transmit, result: Result<usize, Fault>) {
        match result {
            Ok(n) => {
                self.link.transmitted(now, &mut transmit, n);
                // What is empty may be of an earlier connection, and is kept for its capacity only.
                if !transmit.is_empty() || self.unwritten.is_empty() {
                    self.unwritten = transmit;
                }
            }
            Err(fault) => self.link.transmit_failed(now, transmit, fault),
        }
    }

    /// Takes in how a read ended: how many bytes came, 0 at the end of the stream, or `None` if there was nothing yet.
    pub fn read(&mut self, now: Instant, buffer: ReadBuffer, result: Result<Option<usize>, Fault>) {
        self.link.handle_input(now, buffer);
        match result {
            Ok(Some(0)) => self.link.handle_eof(now),
            Ok(_) => {}
            Err(fault) => self.link.handle_transport_error(now, fault),
        }
    }

    /// Whether something is left for the driver, after a caller did some of its work itself.
    pub(super) fn still_needs_driver(&mut self) -> bool {
        !self.unwritten.is_empty() || self.link.still_needs_driver()
    }

    /// As [`still_needs_driver`](Self::still_needs_driver), after a write and nothing else since then.
    pub(super) fn needs_driver_after_write(&self) -> bool {
        !self.unwritten.is_empty() || self.link.wants_write() || self.link.has_actions()
    }

    /// Forgets the socket and what belongs to it, and gives up a dial. Returns the socket, to be closed, and who waits
    /// to read it.
    pub(super) fn hang_up(&mut self) -> (Option<Arc<S>>, Option<Waker>) {
        self.unwritten = Transmit::new();
        self.dialing = None;
        (self.socket.take(), self.lead.end())
    }
}

impl<S> fmt::Debug for Locked<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
