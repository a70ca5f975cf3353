//! A machine and the simulated adapter that drives its channels.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::config::Credentials;
use fibp_proto::consumer::Lease;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::simulation::AnyMachine;
use fila_test_broker::ConnectionId;

use super::broker::Cluster;
use super::line::{Line, Turn, WRITE_SIZE, Yield};
use super::pair::random::Random;
use super::plan::Plan;
use super::tally::Tally;
use super::token::Token;

/// The room that a busy connection has for one read.
const LARGEST_READ: usize = 256 * 1024;

/// A turn that does more rounds than this is going in circles: fewer bytes are under way in a network, read one by one.
const MAX_ROUNDS: usize = 100_000;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) machine: AnyMachine<Token>,
    pub(super) client: usize,
    credentials: Credentials,
    /// A driver for each channel, the main one's first.
    lines: Vec<Line>,
    /// The connections whose deliveries are awaited, oldest first, and how many were taken of the first.
    trail: VecDeque<ConnectionId>,
    taken: usize,
    sequence: u64,
    /// The machine was asked to close.
    tally: Option<Tally>,
}

impl Port {
    pub(super) fn new(machine: AnyMachine<Token>, client: usize, credentials: Credentials) -> Self {
        Self {
            machine,
            client,
            credentials,
            lines: vec![Line::new(ChannelId::MAIN)],
            trail: VecDeque::new(),
            taken: 0,
            sequence: 0,
            tally: None,
        }
    }

    /// Asks the machine to close. `most` calls and messages are open, or have lost their callers.
    pub(super) fn close(&mut self, now: Instant, patience: Duration, token: Token, most: u64) {
        if self.tally.is_none() {
            self.tally = Some(Tally::new(token.number(), most));
        }
        self.machine.close(now, patience, token);
    }

    /// What it is for, for reports.
    pub(super) fn role(&self) -> &'static str {
        if self.machine.is_consumer() {
            "consumer"
        } else {
            "requests"
        }
    }

    /// Whether the machine is over, and nothing of it is left in the simulated process.
    pub(super) fn is_over(&self) -> bool {
        self.machine.is_over() && self.lines.iter().all(Line::is_over)
    }

    /// What it is, and what it waits for.
    pub(super) fn describe(&mut self) -> String {
        let usage = self.machine.usage();
        let lines: Vec<String> = self.lines.iter().map(|line| line.describe(&self.machine)).collect();
        format!("{}: {}, {usage:?}", self.role(), lines.join(", "))
    }

    /// When to look again, for what is not under way in the network.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.lines.iter().filter_map(Line::poll_timeout).min()
    }

    /// When bytes arrive that the machine wants.
    pub(super) fn readable_at(&self, cluster: &Cluster) -> Option<Instant> {
        self.lines.iter().filter_map(|line| line.readable_at(cluster)).min()
    }

    /// What the drivers do that there is a reason to wake, and those that this wakes.
    pub(super) fn drive(&mut self, now: Instant, cluster: &mut Cluster, random: &mut Random) -> Result<Yield, String> {
        let mut out = Yield::default();
        for round in 0.. {
            if round > MAX_ROUNDS {
                return Err(format!("at one instant for ever: {}", self.describe()));
            }
            let mut news = false;
            for line in &mut self.lines {
                news |= line.drive(&mut Turn {
                    now,
                    machine: &mut self.machine,
                    credentials: &self.credentials,
                    cluster,
                    random,
                    out: &mut out,
                })?;
            }
            self.trail.extend(out.wires.drain(..));
            self.lines.extend(out.channels.drain(..).map(Line::new));
            self.lines
                .retain(|line| line.channel == ChannelId::MAIN || !line.is_over());
            if !news {
                break;
            }
            out.progress = true;
        }
        if self.lines.iter().all(|line| line.ended) {
            self.look_after_end(&mut out)?;
        }
        if let Some(tally) = &mut self.tally {
            for completion in &out.completions {
                tally.hear(completion)?;
            }
        }
        Ok(out)
    }

    /// No driver is left: callers who come late take what they are told themselves.
    fn look_after_end(&mut self, out: &mut Yield) -> Result<(), String> {
        let before = out.completions.len();
        self.machine.drain_completions(&mut out.completions);
        out.progress |= out.completions.len() > before;
        if self.machine.poll_new_channel().is_some() || !self.machine.is_over() {
            return Err(format!("goes on without a driver: {}", self.describe()));
        }
        Ok(())
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
                Some(skipped) if skipped.end <= wire.owed => {
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
                Some(skipped) if skipped.end <= wire.owed => {
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
        let usage = self.machine.usage();
        let channels = self.machine.channels().count();
        // One that is left, and its successor, for each node.
        if channels > 1 + 2 * plan.nodes {
            return Err(format!("{channels} channels to {} nodes", plan.nodes));
        }
        // One push beyond the bound, and those that one read of the largest buffer can hold.
        let push_bytes = 64 * (plan.largest + 200);
        let decoder = 2 * push_bytes + LARGEST_READ;
        // One push beyond the bound; and when the connection is lost, what one read had brought behind it.
        let bound = prefetch.saturating_add(64 + LARGEST_READ / 56);
        if usage.deliveries > bound {
            return Err(format!("{} deliveries wait, {bound} are allowed", usage.deliveries));
        }
        if usage.decoder > channels * decoder {
            return Err(format!("{channels} decoders hold {} bytes", usage.decoder));
        }
        let frame = 200_000 + plan.largest;
        if usage.output > channels * (WRITE_SIZE + frame) {
            return Err(format!("{} bytes of output wait on {channels} channels", usage.output));
        }
        Ok(())
    }
}
