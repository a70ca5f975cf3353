//! A link and the simulated adapter that drives it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::config::{Credentials, Endpoint};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::link::{Action, Completion, DialId, Lease, Parcel};
use fibp_proto::{Fault, FaultKind, Link};
use fila_test_broker::ConnectionId;

use super::broker::Cluster;
use super::network::{End, Read};
use super::plan::Plan;
use super::random::Random;
use super::tally::Tally;
use super::token::Token;

/// About how much is encoded for one write.
const WRITE_SIZE: usize = 16 * 1024;
/// The room that a busy connection has for one read.
const LARGEST_READ: usize = 256 * 1024;

/// A turn that does more rounds than this is going in circles.
const MAX_ROUNDS: usize = 10_000;

/// A machine that is due this often at one instant is going in circles: each time somebody must have been told
/// something.
const MAX_TIMEOUTS: usize = 100;

/// What a link is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Node(Endpoint),
    Consumer,
}

#[derive(Debug)]
struct Dialing {
    id: DialId,
    endpoint: Endpoint,
    at: Instant,
    /// What keeps it from succeeding.
    fault: Option<FaultKind>,
}

/// Work for the link to another node; `None` is the main link.
pub(super) type Rerouted = (Option<Endpoint>, Parcel<Token>);

#[derive(Debug)]
pub(super) struct Port {
    pub(super) link: Link<Token>,
    pub(super) client: usize,
    pub(super) role: Role,
    credentials: Credentials,
    wire: Option<ConnectionId>,
    dialing: Option<Dialing>,
    buffer: Option<ReadBuffer>,
    transmit: Transmit,
    sleep: Option<Instant>,
    /// How many timeouts there were at the instant of the last.
    timeouts: (Option<Instant>, usize),
    /// Buffers of connections that are gone, which come back late.
    stale: Vec<(Instant, Stale)>,
    /// The connections whose deliveries are awaited, oldest first, and how many were taken of the first.
    trail: VecDeque<ConnectionId>,
    taken: usize,
    sequence: u64,
    /// The link was asked to close.
    tally: Option<Tally>,
}

#[derive(Debug)]
enum Stale {
    Buffer(ReadBuffer),
    Transmit(Transmit),
}

/// What a turn left for others to do.
#[derive(Debug, Default)]
pub(super) struct Yield {
    pub(super) progress: bool,
    pub(super) completions: Vec<Completion<Token>>,
    pub(super) rerouted: Vec<Rerouted>,
}

impl Port {
    pub(super) fn new(link: Link<Token>, client: usize, role: Role, credentials: Credentials) -> Self {
        Self {
            link,
            credentials,
            client,
            role,
            wire: None,
            dialing: None,
            buffer: None,
            transmit: Transmit::new(),
            sleep: None,
            timeouts: (None, 0),
            stale: Vec::new(),
            trail: VecDeque::new(),
            taken: 0,
            sequence: 0,
            tally: None,
        }
    }

    /// Asks the link to close. `most` calls and messages are open, or have lost their callers.
    pub(super) fn close(&mut self, now: Instant, patience: Duration, token: Token, most: u64) {
        if self.tally.is_none() {
            self.tally = Some(Tally::new(token.number(), most));
        }
        self.link.close(now, patience, token);
    }

    /// Whether nothing of it is left in the simulated process.
    pub(super) fn is_quiet(&self) -> bool {
        self.stale.is_empty() && self.wire.is_none()
    }

    /// What it is, and what it waits for.
    pub(super) fn describe(&mut self) -> String {
        let over = self.link.is_terminated();
        let holdings = self.link.holdings();
        let Self {
            role,
            wire,
            dialing,
            sleep,
            ..
        } = self;
        format!("{role:?} (terminated: {over}, {wire:?}, dialing: {dialing:?}, sleeps until {sleep:?}, {holdings:?})")
    }

    /// When to look again, for what is not under way in the network.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let dial = self.dialing.as_ref().map(|dialing| dialing.at);
        let stale = self.stale.iter().map(|(at, _)| *at).min();
        [self.sleep, dial, stale].into_iter().flatten().min()
    }

    /// When bytes arrive that the link wants.
    pub(super) fn readable_at(&self, cluster: &Cluster) -> Option<Instant> {
        let wire = cluster.wires.get(&self.wire?)?;
        self.buffer.as_ref()?;
        wire.down.readable_at()
    }

    /// What a driver does when it is woken, if there is a reason to wake it.
    pub(super) fn drive(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> Result<Yield, String> {
        let mut out = Yield::default();
        for round in 0.. {
            if round > MAX_ROUNDS {
                return Err(format!("the link to {:?} goes on for ever at one instant", self.role));
            }
            let mut news = self.feed(now, cluster, random)?;
            if news || self.link.needs_driver() {
                news = true;
                self.take(now, cluster, random, &mut out);
            }
            if !news {
                break;
            }
            out.progress = true;
        }
        if let Some(tally) = &mut self.tally {
            for completion in &out.completions {
                tally.hear(completion)?;
            }
        }
        Ok(out)
    }

    /// Tells the link what happened.
    fn feed(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> Result<bool, String> {
        // What was read in the same turn is not lost to what time does.
        let mut news = self.feed_dial(now, cluster, random);
        news |= self.feed_read(now, cluster, random);
        news |= self.feed_written(now, cluster, random)?;
        if self.sleep.is_some_and(|at| at <= now) {
            self.link.handle_timeout(now);
            self.sleep = None;
            news = true;
            self.timeouts = match self.timeouts {
                (at, count) if at == Some(now) => (at, count + 1),
                _ => (Some(now), 1),
            };
            if self.timeouts.1 > MAX_TIMEOUTS {
                return Err(format!("due again and again: {}", self.describe()));
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
                Stale::Buffer(buffer) => self.link.handle_input(now, buffer),
                Stale::Transmit(mut transmit) => {
                    let n = transmit.len() / 2;
                    self.link.transmitted(now, &mut transmit, n);
                    let fault = Fault::new(FaultKind::Reset, "a late fault");
                    self.link.transmit_failed(now, transmit, fault);
                }
            }
        }
        Ok(news)
    }

    fn feed_dial(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> bool {
        let Some(dialing) = self.dialing.take_if(|dialing| dialing.at <= now) else {
            return false;
        };
        let fault = dialing.fault;
        let wire = match fault {
            Some(_) => None,
            None => cluster.accept(now, &dialing.endpoint),
        };
        match wire {
            Some(wire) => {
                self.wire = Some(wire);
                self.trail.push_back(wire);
                self.link.handle_dialed(now, dialing.id, self.credentials.key());
            }
            None => {
                let kind = fault.unwrap_or(FaultKind::Refused);
                self.link
                    .handle_dial_failed(now, dialing.id, Fault::new(kind, "the dial failed"));
            }
        }
        if random.chance(5) {
            // Nobody asked for this any more.
            self.link
                .handle_dial_failed(now, dialing.id, Fault::new(FaultKind::TimedOut, "late"));
        }
        true
    }

    fn feed_written(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> Result<bool, String> {
        let Some(wire) = self.wire.and_then(|id| cluster.wires.get_mut(&id)) else {
            return Ok(false);
        };
        let mut news = false;
        while !self.transmit.is_empty() {
            match wire.up.write(now, random, self.transmit.chunk()) {
                Ok(0) => break,
                Ok(n) => self.link.transmitted(now, &mut self.transmit, n),
                Err(End::Fin) => return Err(format!("{:?} writes after it closed its side", self.role)),
                Err(End::Reset) => {
                    let fault = Fault::new(FaultKind::Reset, "writing failed");
                    let transmit = std::mem::take(&mut self.transmit);
                    self.link.transmit_failed(now, transmit, fault);
                    return Ok(true);
                }
            }
            news = true;
        }
        Ok(news)
    }

    fn feed_read(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> bool {
        let Some(wire) = self.wire.and_then(|id| cluster.wires.get_mut(&id)) else {
            return false;
        };
        if !wire.down.is_readable(now) {
            return false;
        }
        let Some(mut buffer) = self.buffer.take() else {
            return false;
        };
        let read = wire.down.read(now, random, buffer.unfilled());
        if let Read::Data(n) = read {
            buffer.advance(n);
            // It may have left the connection since it gave the buffer out.
            if self.link.wants_read() {
                wire.reached = wire.down.read;
            }
        }
        self.link.handle_input(now, buffer);
        match read {
            Read::Data(_) | Read::Nothing => {}
            Read::End(End::Fin) => self.link.handle_eof(now),
            Read::End(End::Reset) => {
                let fault = Fault::new(FaultKind::Reset, "connection reset");
                self.link.handle_transport_error(now, fault);
            }
        }
        true
    }

    /// Takes what the link wants done, and ends the turn.
    fn take(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random, out: &mut Yield) {
        while let Some(action) = self.link.poll_action() {
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    let fault = if cluster.stormy && random.chance(15) {
                        random.pick(&[FaultKind::Refused, FaultKind::TimedOut, FaultKind::Unreachable])
                    } else {
                        None
                    };
                    let at = match fault {
                        Some(FaultKind::TimedOut) => deadline.unwrap_or(now),
                        _ => {
                            let at = now + random.millis(0, 40);
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
                Action::HalfClose => {
                    if let Some(wire) = self.wire.and_then(|id| cluster.wires.get_mut(&id)) {
                        wire.up.end(now, End::Fin);
                    }
                }
                Action::Hangup => self.hang_up(now, cluster, random),
                Action::Reroute { endpoint, parcel } => out.rerouted.push((endpoint, parcel)),
                _ => {}
            }
        }
        if self.transmit.is_empty() && self.wire.is_some() {
            let _ = self.link.take_transmit(now, WRITE_SIZE, &mut self.transmit);
        }
        if self.buffer.is_none() && self.wire.is_some() {
            self.buffer = self.link.take_read_buffer();
        }
        self.link.drain_completions(&mut out.completions);
        self.sleep = self.link.poll_timeout();
    }

    fn hang_up(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) {
        self.dialing = None;
        let later = now + random.millis(0, 300);
        if let Some(buffer) = self.buffer.take() {
            match random.below(3) {
                0 => self.stale.push((later, Stale::Buffer(buffer))),
                1 => self.link.handle_input(now, buffer),
                _ => {}
            }
        }
        let transmit = std::mem::take(&mut self.transmit);
        if !transmit.is_empty() && random.chance(50) {
            self.stale.push((later, Stale::Transmit(transmit)));
        }
        let Some(id) = self.wire.take() else { return };
        let rude = cluster.stormy && random.chance(50);
        if let Some(wire) = cluster.wires.get_mut(&id) {
            wire.client = false;
            wire.up.end(now, if rude { End::Reset } else { End::Fin });
            // What arrives now meets a closed socket.
            wire.down.end(now, End::Reset);
        }
    }

    // ---- deliveries ----

    /// A delivery was taken: it must be the next that was pushed, or everything between was lost in the network.
    pub(super) fn check_delivery(&mut self, lease: &Lease, cluster: &Cluster) -> Result<(), String> {
        self.sequence += 1;
        if lease.sequence != self.sequence {
            return Err(format!(
                "delivery {} follows delivery {}",
                lease.sequence,
                self.sequence - 1
            ));
        }
        while let Some(id) = self.trail.front().copied() {
            let Some(wire) = cluster.wires.get(&id) else {
                return Err("a delivery arrived on a connection that is forgotten".to_owned());
            };
            match wire.pushed.get(self.taken) {
                Some(next) if next.is(&lease.received) && next.end <= wire.reached => {
                    self.taken += 1;
                    return Ok(());
                }
                Some(skipped) if skipped.end <= wire.reached => {
                    return Err(format!(
                        "{skipped:?} was read from {id:?} and skipped; {lease:?} came next"
                    ));
                }
                _ => {}
            }
            self.trail.pop_front();
            self.taken = 0;
        }
        Err(format!("delivery {} was never pushed", lease.received.id.as_str()))
    }

    /// The consumer has ended: everything that its connections brought must have been taken.
    pub(super) fn check_end(&self, cluster: &Cluster) -> Result<(), String> {
        let mut taken = self.taken;
        for id in &self.trail {
            let Some(wire) = cluster.wires.get(id) else {
                return Err("the consumer's connection is forgotten".to_owned());
            };
            match wire.pushed.get(taken) {
                Some(skipped) if skipped.end <= wire.reached => {
                    return Err(format!(
                        "{skipped:?} was read from {id:?}; the consumer ended without it"
                    ));
                }
                _ => taken = 0,
            }
        }
        Ok(())
    }

    /// Whether deliveries of this connection are still compared.
    pub(super) fn remembers(&self, id: ConnectionId) -> bool {
        self.trail.contains(&id)
    }

    /// Checks that memory stays within what was configured.
    pub(super) fn check_memory(&mut self, plan: &Plan, prefetch: usize) -> Result<(), String> {
        let holdings = self.link.holdings();
        // One push beyond the bound, and those that one read of the largest buffer can hold.
        let push_bytes = 64 * (plan.largest + 200);
        let decoder = 2 * push_bytes + LARGEST_READ;
        // One push beyond the bound; and when the connection is lost, what one read had brought behind it.
        let bound = prefetch.saturating_add(64 + LARGEST_READ / 56);
        if holdings.deliveries > bound {
            return Err(format!("{} deliveries wait, {bound} are allowed", holdings.deliveries));
        }
        if holdings.decoder > decoder {
            return Err(format!("the decoder holds {} bytes", holdings.decoder));
        }
        let frame = 200_000 + plan.largest;
        if holdings.output > WRITE_SIZE + frame {
            return Err(format!("{} bytes of output wait", holdings.output));
        }
        Ok(())
    }
}
