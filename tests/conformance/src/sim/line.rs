//! The simulated driver of one channel: its socket, and what it took from the machine for it.

use std::time::Instant;

use fibp_proto::config::{Credentials, Endpoint};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{ChannelId, Completion, DialId, Machine};
use fibp_proto::simulation::AnyMachine;
use fibp_proto::{Fault, FaultKind};
use fila_test_broker::ConnectionId;

use super::broker::{Cluster, Wire};
use super::network::{End, Read};
use super::pair::random::Random;
use super::pair::{Arrived, Dialed, Driver, Left, Network};
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
    driver: Driver,
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
            driver: Driver::new(channel),
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
        self.driver.buffer.as_ref()?;
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
        news |= self.feed_read(turn)?;
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

    /// Lets the driver do something to the socket; `Err` if that is something that no driver does.
    fn drive_socket(
        &mut self,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Driver, Instant, &mut AnyMachine<Token>, &mut Socket<'_>) -> bool,
    ) -> Result<bool, String> {
        let mut socket = Socket {
            now: turn.now,
            channel: self.channel,
            cluster: turn.cluster,
            random: turn.random,
            wire: &mut self.wire,
            dialing: &mut self.dialing,
            stale: &mut self.stale,
            wrote_late: false,
        };
        let moved = act(&mut self.driver, turn.now, turn.machine, &mut socket);
        if socket.wrote_late {
            return Err(format!("{:?} writes after it closed its side", self.channel));
        }
        Ok(moved)
    }

    fn feed_written(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        self.drive_socket(turn, |driver, now, machine, socket| {
            let mut news = false;
            while driver.write(now, machine, socket) {
                news = true;
            }
            news
        })
    }

    fn feed_read(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        let id = self.wire;
        let wire = |turn: &Turn<'_>| id.and_then(|id| turn.cluster.wires.get(&id)).map(|wire| wire.down.read);
        let before = wire(turn);
        // It may have left the connection since it gave the buffer out.
        let wants_read = turn.machine.wants_read(self.channel);
        let (is_leaving, is_deaf) = turn.machine.leaving();
        let news = self.drive_socket(turn, |driver, now, machine, socket| driver.read(now, machine, socket))?;
        if let Some(wire) = id.and_then(|id| turn.cluster.wires.get_mut(&id))
            && wants_read
            && !is_deaf
            && Some(wire.down.read) > before
        {
            wire.note_reached(is_leaving);
        }
        Ok(news)
    }

    /// Takes what the machine wants done, and ends the turn.
    fn take(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        let (now, channel) = (turn.now, self.channel);
        self.drive_socket(turn, |driver, now, machine, socket| driver.act(now, machine, socket))?;
        if self.wire.is_some() {
            let _ = self.driver.claim(now, turn.machine, WRITE_SIZE);
            let _ = self.driver.listen(turn.machine);
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
}

/// A channel's socket, and the network behind it.
struct Socket<'a> {
    now: Instant,
    channel: ChannelId,
    cluster: &'a mut Cluster,
    random: &'a mut Random,
    wire: &'a mut Option<ConnectionId>,
    dialing: &'a mut Option<Dialing>,
    stale: &'a mut Vec<(Instant, Stale)>,
    wrote_late: bool,
}

impl Socket<'_> {
    fn open(&mut self) -> Option<(&mut Wire, &mut Random)> {
        let wire = self.cluster.wires.get_mut(self.wire.as_ref()?)?;
        Some((wire, self.random))
    }
}

impl Network<AnyMachine<Token>> for Socket<'_> {
    fn dial(&mut self, id: DialId, endpoint: &Endpoint, deadline: Option<Instant>) -> Dialed {
        let now = self.now;
        let fault = if self.cluster.stormy && self.random.chance(15) {
            self.random
                .pick(&[FaultKind::Refused, FaultKind::TimedOut, FaultKind::Unreachable])
        } else {
            None
        };
        let at = match fault {
            Some(FaultKind::TimedOut) => deadline.unwrap_or(now),
            _ => {
                let at = now + self.random.millis(0, 40);
                deadline.map_or(at, |deadline| at.min(deadline))
            }
        };
        *self.dialing = Some(Dialing {
            id,
            endpoint: endpoint.clone(),
            at,
            fault,
        });
        Dialed::Pending
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let now = self.now;
        let Some((wire, random)) = self.open() else {
            return Ok(0);
        };
        wire.up.write(now, random, bytes).map_err(|end| {
            self.wrote_late |= end == End::Fin;
            Fault::new(FaultKind::Reset, "writing failed")
        })
    }

    fn read(&mut self, into: &mut [u8]) -> Arrived {
        let now = self.now;
        let Some((wire, random)) = self.open() else {
            return Arrived::Nothing;
        };
        match wire.down.read(now, random, into) {
            Read::Data(n) => Arrived::Data(n),
            Read::Nothing => Arrived::Nothing,
            Read::End(End::Fin) => Arrived::End(None),
            Read::End(End::Reset) => Arrived::End(Some(Fault::new(FaultKind::Reset, "connection reset"))),
        }
    }

    fn half_close(&mut self) {
        let now = self.now;
        if let Some((wire, _)) = self.open() {
            wire.up.end(now, End::Fin);
        }
    }

    fn hang_up(&mut self, machine: &mut AnyMachine<Token>, left: Left) {
        let now = self.now;
        *self.dialing = None;
        let later = now + self.random.millis(0, 300);
        if let Some(buffer) = left.buffer {
            match self.random.below(3) {
                0 => self.stale.push((later, Stale::Buffer(buffer))),
                1 => machine.handle_input(now, self.channel, buffer),
                _ => {}
            }
        }
        if !left.transmit.is_empty() && self.random.chance(50) {
            self.stale.push((later, Stale::Transmit(left.transmit)));
        }
        let Some(id) = self.wire.take() else { return };
        let rude = self.cluster.stormy && self.random.chance(50);
        if let Some(wire) = self.cluster.wires.get_mut(&id) {
            wire.client = false;
            wire.up.end(now, if rude { End::Reset } else { End::Fin });
            // What arrives now meets a closed socket.
            wire.down.end(now, End::Reset);
        }
    }
}
