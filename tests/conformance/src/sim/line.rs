//! The simulated driver of one channel: its socket, and what it took from the machine for it.

use std::time::Instant;

use fibp_proto::config::{Credentials, Endpoint};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{Action, ChannelId, Completion, DialId, Machine};
use fibp_proto::simulation::AnyMachine;
use fibp_proto::{Fault, FaultKind};
use fila_test_broker::ConnectionId;

use super::broker::Cluster;
use super::network::{End, Read};
use super::random::Random;
use super::token::Token;

/// About how much is encoded for one write.
pub(super) const WRITE_SIZE: usize = 16 * 1024;

/// A channel that is due this often at one instant is going in circles: each time somebody must have been told
/// something.
const MAX_TIMEOUTS: usize = 100;

#[derive(Debug)]
struct Dialing {
    id: DialId,
    endpoint: Endpoint,
    at: Instant,
    /// What keeps it from succeeding.
    fault: Option<FaultKind>,
}

#[derive(Debug)]
enum Stale {
    Buffer(ReadBuffer),
    Transmit(Transmit),
}

/// One channel's driver.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) channel: ChannelId,
    wire: Option<ConnectionId>,
    dialing: Option<Dialing>,
    buffer: Option<ReadBuffer>,
    transmit: Transmit,
    sleep: Option<Instant>,
    /// How many timeouts there were at the instant of the last.
    timeouts: (Option<Instant>, usize),
    /// Buffers of connections that are gone, which come back late.
    stale: Vec<(Instant, Stale)>,
    /// The channel is over: nobody drives it any more.
    pub(super) ended: bool,
}

/// The machine and its surroundings, for one turn of a driver.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) machine: &'a mut AnyMachine<Token>,
    pub(super) credentials: &'a Credentials,
    pub(super) cluster: &'a mut Cluster,
    pub(super) random: &'a mut Random,
    pub(super) out: &'a mut Yield,
}

/// What turns left for others to do.
#[derive(Debug, Default)]
pub(super) struct Yield {
    pub(super) progress: bool,
    pub(super) completions: Vec<Completion<Token>>,
    /// Connections that were made.
    pub(super) wires: Vec<ConnectionId>,
    /// Channels that were opened.
    pub(super) channels: Vec<ChannelId>,
}

impl Line {
    pub(super) fn new(channel: ChannelId) -> Self {
        Self {
            channel,
            wire: None,
            dialing: None,
            buffer: None,
            transmit: Transmit::new(),
            sleep: None,
            timeouts: (None, 0),
            stale: Vec::new(),
            ended: false,
        }
    }

    /// Whether its driver is gone, and nothing that it took is left.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.stale.is_empty()
    }

    /// Where it is, and what it waits for.
    pub(super) fn describe(&self, machine: &AnyMachine<Token>) -> String {
        let over = machine.is_terminated(self.channel);
        let Self {
            channel,
            wire,
            dialing,
            sleep,
            ended,
            ..
        } = self;
        format!(
            "{channel:?} (terminated: {over}, ended: {ended}, {wire:?}, dialing: {dialing:?}, sleeps until {sleep:?})"
        )
    }

    /// When to look again, for what is not under way in the network.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let dial = self.dialing.as_ref().map(|dialing| dialing.at);
        let stale = self.stale.iter().map(|(at, _)| *at).min();
        [self.sleep, dial, stale].into_iter().flatten().min()
    }

    /// When bytes arrive that the channel wants.
    pub(super) fn readable_at(&self, cluster: &Cluster) -> Option<Instant> {
        let wire = cluster.wires.get(&self.wire?)?;
        self.buffer.as_ref()?;
        wire.down.readable_at()
    }

    /// What a driver does when it is woken, if there is a reason to wake it; whether there was.
    pub(super) fn drive(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        let news = self.feed(turn)?;
        if self.ended || !(news || turn.machine.needs_driver(self.channel)) {
            return Ok(news);
        }
        self.take(turn)?;
        Ok(true)
    }

    /// Tells the machine what happened.
    fn feed(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        let (now, channel) = (turn.now, self.channel);
        // What was read in the same turn is not lost to what time does.
        let mut news = self.feed_dial(turn);
        news |= self.feed_read(turn);
        news |= self.feed_written(turn)?;
        if self.sleep.is_some_and(|at| at <= now) {
            turn.machine.handle_timeout(now);
            self.sleep = None;
            news = true;
            self.timeouts = match self.timeouts {
                (at, count) if at == Some(now) => (at, count + 1),
                _ => (Some(now), 1),
            };
            if self.timeouts.1 > MAX_TIMEOUTS {
                let usage = turn.machine.usage();
                return Err(format!(
                    "due again and again: {}, {usage:?}",
                    self.describe(turn.machine)
                ));
            }
        }
        let mut due = Vec::new();
        self.stale.retain_mut(|(at, stale)| {
            let now_due = *at <= now;
            if now_due {
                due.push(std::mem::replace(stale, Stale::Transmit(Transmit::new())));
            }
            !now_due
        });
        for stale in due {
            news = true;
            match stale {
                Stale::Buffer(buffer) => turn.machine.handle_input(now, channel, buffer),
                Stale::Transmit(mut transmit) => {
                    let n = transmit.len() / 2;
                    turn.machine.transmitted(now, channel, &mut transmit, n);
                    let fault = Fault::new(FaultKind::Reset, "a late fault");
                    turn.machine.transmit_failed(now, channel, transmit, fault);
                }
            }
        }
        Ok(news)
    }

    fn feed_dial(&mut self, turn: &mut Turn<'_>) -> bool {
        let (now, channel) = (turn.now, self.channel);
        let Some(dialing) = self.dialing.take_if(|dialing| dialing.at <= now) else {
            return false;
        };
        let fault = dialing.fault;
        let wire = match fault {
            Some(_) => None,
            None => turn.cluster.accept(now, &dialing.endpoint),
        };
        match wire {
            Some(wire) => {
                self.wire = Some(wire);
                turn.out.wires.push(wire);
                turn.machine
                    .handle_dialed(now, channel, dialing.id, turn.credentials.key());
            }
            None => {
                let fault = Fault::new(fault.unwrap_or(FaultKind::Refused), "the dial failed");
                turn.machine.handle_dial_failed(now, channel, dialing.id, fault);
            }
        }
        if turn.random.chance(5) {
            // Nobody asked for this any more.
            let fault = Fault::new(FaultKind::TimedOut, "late");
            turn.machine.handle_dial_failed(now, channel, dialing.id, fault);
        }
        true
    }

    fn feed_written(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        let (now, channel) = (turn.now, self.channel);
        let Some(wire) = self.wire.and_then(|id| turn.cluster.wires.get_mut(&id)) else {
            return Ok(false);
        };
        let mut news = false;
        while !self.transmit.is_empty() {
            match wire.up.write(now, turn.random, self.transmit.chunk()) {
                Ok(0) => break,
                Ok(n) => turn.machine.transmitted(now, channel, &mut self.transmit, n),
                Err(End::Fin) => return Err(format!("{channel:?} writes after it closed its side")),
                Err(End::Reset) => {
                    let fault = Fault::new(FaultKind::Reset, "writing failed");
                    let transmit = std::mem::take(&mut self.transmit);
                    turn.machine.transmit_failed(now, channel, transmit, fault);
                    return Ok(true);
                }
            }
            news = true;
        }
        Ok(news)
    }

    fn feed_read(&mut self, turn: &mut Turn<'_>) -> bool {
        let (now, channel) = (turn.now, self.channel);
        let Some(wire) = self.wire.and_then(|id| turn.cluster.wires.get_mut(&id)) else {
            return false;
        };
        if !wire.down.is_readable(now) {
            return false;
        }
        let Some(mut buffer) = self.buffer.take() else {
            return false;
        };
        let read = wire.down.read(now, turn.random, buffer.unfilled());
        if let Read::Data(n) = read {
            buffer.advance(n);
            // It may have left the connection since it gave the buffer out.
            let (is_leaving, is_deaf) = turn.machine.leaving();
            if turn.machine.wants_read(channel) && !is_deaf {
                wire.note_reached(is_leaving);
            }
        }
        turn.machine.handle_input(now, channel, buffer);
        match read {
            Read::Data(_) | Read::Nothing => {}
            Read::End(End::Fin) => turn.machine.handle_eof(now, channel),
            Read::End(End::Reset) => {
                let fault = Fault::new(FaultKind::Reset, "connection reset");
                turn.machine.handle_transport_error(now, channel, fault);
            }
        }
        true
    }

    /// Takes what the machine wants done, and ends the turn.
    fn take(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        let (now, channel) = (turn.now, self.channel);
        while let Some(action) = turn.machine.poll_action(channel) {
            match action {
                Action::Dial { id, endpoint, deadline } => self.dial(turn, id, endpoint, deadline),
                Action::HalfClose => {
                    if let Some(wire) = self.wire.and_then(|id| turn.cluster.wires.get_mut(&id)) {
                        wire.up.end(now, End::Fin);
                    }
                }
                Action::Hangup => self.hang_up(turn),
                other => return Err(format!("{other:?} is not known here")),
            }
        }
        if self.transmit.is_empty() && self.wire.is_some() {
            let _ = turn.machine.take_transmit(now, channel, WRITE_SIZE, &mut self.transmit);
        }
        if self.buffer.is_none() && self.wire.is_some() {
            self.buffer = turn.machine.take_read_buffer(channel);
        }
        turn.machine.drain_completions(&mut turn.out.completions);
        while let Some(channel) = turn.machine.poll_new_channel() {
            turn.out.channels.push(channel);
        }
        self.sleep = turn.machine.poll_timeout(channel);
        turn.machine.note_sleep(channel, self.sleep);
        self.ended = turn.machine.is_terminated(channel);
        if self.ended && (self.wire.is_some() || self.dialing.is_some()) {
            return Err(format!("over without a hangup: {}", self.describe(turn.machine)));
        }
        Ok(())
    }

    fn dial(&mut self, turn: &mut Turn<'_>, id: DialId, endpoint: Endpoint, deadline: Option<Instant>) {
        let now = turn.now;
        let fault = if turn.cluster.stormy && turn.random.chance(15) {
            turn.random
                .pick(&[FaultKind::Refused, FaultKind::TimedOut, FaultKind::Unreachable])
        } else {
            None
        };
        let at = match fault {
            Some(FaultKind::TimedOut) => deadline.unwrap_or(now),
            _ => {
                let at = now + turn.random.millis(0, 40);
                deadline.map_or(at, |deadline| at.min(deadline))
            }
        };
        self.dialing = Some(Dialing {
            id,
            endpoint,
            at,
            fault,
        });
    }

    fn hang_up(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        self.dialing = None;
        let later = now + turn.random.millis(0, 300);
        if let Some(buffer) = self.buffer.take() {
            match turn.random.below(3) {
                0 => self.stale.push((later, Stale::Buffer(buffer))),
                1 => turn.machine.handle_input(now, self.channel, buffer),
                _ => {}
            }
        }
        let transmit = std::mem::take(&mut self.transmit);
        if !transmit.is_empty() && turn.random.chance(50) {
            self.stale.push((later, Stale::Transmit(transmit)));
        }
        let Some(id) = self.wire.take() else { return };
        let rude = turn.cluster.stormy && turn.random.chance(50);
        if let Some(wire) = turn.cluster.wires.get_mut(&id) {
            wire.client = false;
            wire.up.end(now, if rude { End::Reset } else { End::Fin });
            // What arrives now meets a closed socket.
            wire.down.end(now, End::Reset);
        }
    }
}
