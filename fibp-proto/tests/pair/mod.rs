//! A machine's channel and what is at the other end of its socket, joined in memory: the drivers' contract
//! ([`fibp_proto::machine`]), driven in one place for the tests of the machines, the simulation and the fuzz targets.
//!
//! They include this file by its path. It is no feature of `fibp-proto`, which has no test code; and its own tests have to
//! run without features.

#![allow(dead_code, reason = "not everybody needs all of it")]

pub(crate) mod random;

use std::time::Instant;

use fibp_proto::config::Endpoint;
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{Action, ChannelId, DialId, Machine};
use fibp_proto::{Fault, Secret};

/// What became of a dial.
#[derive(Debug)]
pub(crate) enum Dialed {
    /// A connection is open, to be opened with this key.
    Open(Result<Option<Secret>, fibp_proto::Error>),
    Failed(Fault),
    /// It is under way. Whoever dials tells the machine later, or never.
    Pending,
}

/// What reading brings.
#[derive(Debug)]
pub(crate) enum Arrived {
    Data(usize),
    Nothing,
    /// The end: EOF, or a fault.
    End(Option<Fault>),
}

/// What a driver took from the machine for a socket that is gone.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) buffer: Option<ReadBuffer>,
    pub(crate) transmit: Transmit,
}

/// The socket of one channel, and what is at its other end.
pub(crate) trait Network<M: Machine> {
    fn dial(&mut self, id: DialId, endpoint: &Endpoint, deadline: Option<Instant>) -> Dialed;

    /// Takes some of the bytes, none if there is no room; `Err` if writing fails.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault>;

    /// Brings some of what arrived.
    fn read(&mut self, into: &mut [u8]) -> Arrived;

    /// The client closed its side.
    fn half_close(&mut self);

    /// The client closed the socket, or gave up its dial. What was taken for it may be given back to the machine, or not.
    fn hang_up(&mut self, machine: &mut M, left: Left);
}

/// Drives one channel.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) channel: ChannelId,
    /// What is read into as soon as something arrives.
    pub(crate) buffer: Option<ReadBuffer>,
    /// What is being written.
    pub(crate) transmit: Transmit,
}

impl Driver {
    pub(crate) fn new(channel: ChannelId) -> Self {
        Self {
            channel,
            buffer: None,
            transmit: Transmit::new(),
        }
    }

    /// Does what is to be done to the socket; true if there was anything.
    pub(crate) fn act<M: Machine>(&mut self, now: Instant, machine: &mut M, network: &mut impl Network<M>) -> bool {
        let mut moved = false;
        while let Some(action) = machine.poll_action(self.channel) {
            moved = true;
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    // There is one socket at a time.
                    let _ = self.leave();
                    match network.dial(id, &endpoint, deadline) {
                        Dialed::Open(key) => machine.handle_dialed(now, self.channel, id, key),
                        Dialed::Failed(fault) => machine.handle_dial_failed(now, self.channel, id, fault),
                        Dialed::Pending => {}
                    }
                }
                Action::HalfClose => network.half_close(),
                Action::Hangup => {
                    let left = self.leave();
                    network.hang_up(machine, left);
                }
                other => panic!("{other:?} is not known here"),
            }
        }
        moved
    }

    fn leave(&mut self) -> Left {
        Left {
            buffer: self.buffer.take(),
            transmit: std::mem::take(&mut self.transmit),
        }
    }

    /// Takes what is to be written next, about `most` bytes, unless a write is under way.
    pub(crate) fn claim<M: Machine>(&mut self, now: Instant, machine: &mut M, most: usize) -> bool {
        !self.transmit.is_empty() || machine.take_transmit(now, self.channel, most, &mut self.transmit)
    }

    /// Writes once; false if there is nothing to write, or no room.
    pub(crate) fn write<M: Machine>(&mut self, now: Instant, machine: &mut M, network: &mut impl Network<M>) -> bool {
        if self.transmit.is_empty() {
            return false;
        }
        match network.write(self.transmit.chunk()) {
            Ok(0) => false,
            Ok(n) => {
                machine.transmitted(now, self.channel, &mut self.transmit, n);
                true
            }
            Err(fault) => {
                let transmit = std::mem::take(&mut self.transmit);
                machine.transmit_failed(now, self.channel, transmit, fault);
                true
            }
        }
    }

    /// Takes the buffer to read into, unless it is out already; false if no input is wanted.
    pub(crate) fn listen<M: Machine>(&mut self, machine: &mut M) -> bool {
        if self.buffer.is_none() {
            self.buffer = machine.take_read_buffer(self.channel);
        }
        self.buffer.is_some()
    }

    /// Reads once; false if nothing arrived, or none is wanted. A reader that finds nothing says so where that is wanted,
    /// and sleeps.
    pub(crate) fn read<M: Machine>(&mut self, now: Instant, machine: &mut M, network: &mut impl Network<M>) -> bool {
        let Some(mut buffer) = self.buffer.take() else {
            return false;
        };
        assert!(!buffer.unfilled().is_empty(), "a buffer without room");
        let arrived = network.read(buffer.unfilled());
        match arrived {
            Arrived::Data(n) => buffer.advance(n),
            Arrived::Nothing if !buffer.reports_empty() => {
                self.buffer = Some(buffer);
                return false;
            }
            Arrived::Nothing | Arrived::End(_) => {}
        }
        machine.handle_input(now, self.channel, buffer);
        match arrived {
            Arrived::Data(_) | Arrived::Nothing => {}
            Arrived::End(None) => machine.handle_eof(now, self.channel),
            Arrived::End(Some(fault)) => machine.handle_transport_error(now, self.channel, fault),
        }
        true
    }
}
