//! What the lock of a machine protects: the machine, and what is known of its channels' sockets.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::attention::Attention;
use super::lead::Lead;
use super::waiter::{Waiter, Waiters};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{CallId, ChannelId, DialId, Machine};

/// What the lock protects.
pub struct Locked<M, S> {
    /// The machine.
    pub machine: M,
    /// Of the machine's calls.
    pub(super) waiters: Waiters,
    /// The main channel's.
    main: Port<S>,
    /// Those of further channels.
    further: Vec<Port<S>>,
    /// Told when a write begins.
    pub(super) claimed: fn(&S),
}

/// What drivers and callers know of one channel.
pub(super) struct Port<S> {
    channel: ChannelId,
    /// Wakes the channel's driver.
    pub(super) attention: Arc<Attention>,
    /// The socket of the channel's connection. Out of reach between a hangup and the next dial.
    pub(super) socket: Option<Arc<S>>,
    /// What a caller took from the machine and could not write: for the driver to go on with.
    pub(super) unwritten: Transmit,
    /// The dial whose socket is wanted. Known where threads dial.
    pub(super) dialing: Option<DialId>,
    /// Who reads, where threads do.
    pub(super) lead: Lead,
}

impl<S> Port<S> {
    fn new(channel: ChannelId) -> Self {
        Self {
            channel,
            attention: Arc::new(Attention::new()),
            socket: None,
            unwritten: Transmit::new(),
            dialing: None,
            lead: Lead::default(),
        }
    }

    /// Forgets the socket and what belongs to it, and gives up a dial. Returns the socket, to be closed, and who waits
    /// to read it.
    pub(super) fn hang_up(&mut self) -> (Option<Arc<S>>, Option<Waker>) {
        self.unwritten = Transmit::new();
        self.dialing = None;
        (self.socket.take(), self.lead.end())
    }
}

impl<M: Machine, S> Locked<M, S> {
    pub(super) fn new(machine: M, waiters: Waiters) -> Self {
        Self {
            machine,
            waiters,
            main: Port::new(ChannelId::MAIN),
            further: Vec::new(),
            claimed: |_| (),
        }
    }

    /// Makes a call, and returns the number of its waiter too.
    pub(super) fn call(&mut self, call: impl FnOnce(&mut M, Waiter) -> CallId) -> (CallId, u64) {
        let (waiter, number) = self.waiters.next();
        (call(&mut self.machine, waiter), number)
    }

    /// The machine, and the port of one of its channels. A channel that is over, and whose driver has ended, has an
    /// empty one again for those who come late.
    #[inline]
    pub(super) fn with_port(&mut self, channel: ChannelId) -> (&mut M, &mut Port<S>) {
        let Self {
            machine, main, further, ..
        } = self;
        if channel == ChannelId::MAIN {
            return (machine, main);
        }
        (machine, further_port(further, channel))
    }

    #[inline]
    pub(super) fn port(&mut self, channel: ChannelId) -> &mut Port<S> {
        self.with_port(channel).1
    }

    /// The channel's driver has ended.
    pub(super) fn remove_port(&mut self, channel: ChannelId) {
        self.further.retain(|port| port.channel != channel);
    }

    /// The drivers of channels other than `but` that have something to do. Kick them after unlocking.
    #[inline]
    pub(super) fn needed(&self, but: ChannelId) -> Vec<Arc<Attention>> {
        // The usual case, one channel, costs no allocation.
        if self.further.is_empty() && but == ChannelId::MAIN {
            return Vec::new();
        }
        std::iter::once(&self.main)
            .chain(&self.further)
            .filter(|port| port.channel != but && self.machine.needs_driver(port.channel))
            .map(|port| Arc::clone(&port.attention))
            .collect()
    }

    /// Takes the writer slot if there is something new to write.
    pub(super) fn claim(&mut self, now: Instant, channel: ChannelId, max: usize) -> Option<(Arc<S>, Transmit)> {
        let claimed = self.claimed;
        let (machine, port) = self.with_port(channel);
        let socket = port.socket.as_ref()?;
        // What the last write left goes first, and is the driver's: nobody may write around it.
        if !port.unwritten.is_empty() || !machine.wants_write(channel) {
            return None;
        }
        let mut transmit = std::mem::take(&mut port.unwritten);
        if machine.take_transmit(now, channel, max, &mut transmit) {
            claimed(socket);
            return Some((Arc::clone(socket), transmit));
        }
        // Its capacity is kept for the next frame.
        port.unwritten = transmit;
        None
    }

    /// Takes what the last write left, or else something new of up to about `max` bytes, and the socket to write it to.
    pub(super) fn claim_all(&mut self, now: Instant, channel: ChannelId, max: usize) -> Option<(Arc<S>, Transmit)> {
        let port = self.port(channel);
        if port.unwritten.is_empty() {
            return self.claim(now, channel, max);
        }
        let socket = port.socket.as_ref()?;
        Some((Arc::clone(socket), std::mem::take(&mut port.unwritten)))
    }

    /// Takes in how a write ended: how many bytes the socket took. What it did not take is left to the driver.
    pub(super) fn written(
        &mut self,
        now: Instant,
        channel: ChannelId,
        mut transmit: Transmit,
        result: Result<usize, Fault>,
    ) {
        let (machine, port) = self.with_port(channel);
        match result {
            Ok(n) => {
                machine.transmitted(now, channel, &mut transmit, n);
                // What is empty may be of an earlier connection, and is kept for its capacity only.
                if !transmit.is_empty() || port.unwritten.is_empty() {
                    port.unwritten = transmit;
                }
            }
            Err(fault) => machine.transmit_failed(now, channel, transmit, fault),
        }
    }

    /// Takes in how a read ended: how many bytes came, 0 at the end of the stream, or `None` if there was nothing yet.
    pub(super) fn read(
        &mut self,
        now: Instant,
        channel: ChannelId,
        buffer: ReadBuffer,
        result: Result<Option<usize>, Fault>,
    ) {
        self.machine.handle_read(now, channel, buffer, result);
    }

    /// Whether something is left for the driver.
    pub(super) fn needs_driver(&mut self, channel: ChannelId) -> bool {
        let (machine, port) = self.with_port(channel);
        !port.unwritten.is_empty() || machine.needs_driver(channel)
    }

    /// As [`needs_driver`](Self::needs_driver), after a write and nothing else since then.
    pub(super) fn needs_driver_after_write(&mut self, channel: ChannelId) -> bool {
        let (machine, port) = self.with_port(channel);
        !port.unwritten.is_empty() || machine.wants_write(channel) || machine.has_actions(channel)
    }
}

fn further_port<S>(further: &mut Vec<Port<S>>, channel: ChannelId) -> &mut Port<S> {
    let place = further.iter().position(|port| port.channel == channel);
    let place = place.unwrap_or_else(|| {
        further.push(Port::new(channel));
        further.len() - 1
    });
    // Invariant: `place` is a port's.
    #[expect(clippy::indexing_slicing, reason = "the place was just found")]
    &mut further[place]
}

impl<M: fmt::Debug, S> fmt::Debug for Locked<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked")
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}
