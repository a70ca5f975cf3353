//! What goes wrong, and when.

use std::time::{Duration, Instant};

use fibp_proto::Op;
use fila_test_broker::{ConnectionId, Faults};

use super::network::{End, Weather};
use super::pair::random::Random;
use super::plan::Plan;
use super::world::{Phase, World};

/// The operations that answers are held back for.
const STALLED: [Op; 5] = [Op::Enqueue, Op::Ack, Op::Consume, Op::GetConfig, Op::Heartbeat];

/// The longest ways once nothing goes wrong any more.
const CALM_LATENCY: Duration = Duration::from_millis(2);

/// Decides on the next fault.
#[derive(Debug)]
pub(super) struct Faulter {
    next: Option<Instant>,
    /// A misbehaviour of the broker ends.
    behaves_at: Option<Instant>,
    /// A stopped node comes back.
    returns: Vec<(Instant, usize)>,
    elected_at: Option<Instant>,
    jump: Duration,
    /// Heartbeats were swallowed: the requests that still wait for their answers do so for good.
    swallowed: bool,
}

impl Faulter {
    pub(super) fn new(plan: &Plan, start: Instant, random: &mut Random) -> Self {
        Self {
            next: Some(start + random.millis(0, plan.calm)),
            behaves_at: None,
            returns: Vec::new(),
            elected_at: None,
            jump: Duration::ZERO,
            swallowed: false,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let returns = self.returns.iter().map(|(at, _)| *at).min();
        [self.next, self.behaves_at, returns, self.elected_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// How far the clock jumps, besides going to the next event.
    pub(super) fn take_jump(&mut self) -> Duration {
        std::mem::take(&mut self.jump)
    }
}

impl World {
    /// Does what is due to go wrong, or right again.
    pub(super) fn faulter_acts(&mut self) -> Result<bool, String> {
        let now = self.now;
        if self.faulter.poll_timeout().is_none_or(|at| at > now) {
            return Ok(false);
        }
        if self.faulter.behaves_at.is_some_and(|at| at <= now) {
            self.faulter.behaves_at = None;
            self.behave();
        }
        let mut back = Vec::new();
        self.faulter.returns.retain(|(at, node)| {
            if *at <= now {
                back.push(*node);
            }
            *at > now
        });
        for node in back {
            self.note(|| format!("node {node} is back"));
            self.cluster.start(now, node);
        }
        if self.faulter.elected_at.is_some_and(|at| at <= now) {
            self.faulter.elected_at = None;
            let (queue, node) = (self.random.below(self.plan.queues), self.random.below(self.plan.nodes));
            self.note(|| format!("node {node} leads queue {queue}"));
            self.cluster.elect(now, queue, node);
        }
        if self.faulter.next.is_some_and(|at| at <= now) && self.phase == Phase::Storm {
            self.faulter.next = Some(now + self.random.millis(1, self.plan.calm));
            self.strike()?;
        }
        Ok(true)
    }

    fn any_wire(&mut self) -> Option<ConnectionId> {
        let ids: Vec<ConnectionId> = self.cluster.wires.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn strike(&mut self) -> Result<(), String> {
        let now = self.now;
        match self.random.below(100) {
            0..=14 => {
                let end = if self.random.chance(70) { End::Reset } else { End::Fin };
                if let Some(id) = self.any_wire() {
                    self.note(|| format!("the server ends {id:?}: {end:?}"));
                    self.cluster.hang_up(now, id, end);
                }
            }
            15..=34 => {
                let until = now + self.random.millis(10, 5000);
                let up = self.random.chance(50);
                if let Some(id) = self.any_wire() {
                    self.note(|| format!("{id:?} stalls (up: {up}) until {:?}", until - self.start));
                    if let Some(wire) = self.cluster.wires.get_mut(&id) {
                        if up { &mut wire.up } else { &mut wire.down }.stall(until);
                    }
                }
            }
            35..=42 => {
                let node = self.random.below(self.plan.nodes);
                let end = if self.random.chance(50) { End::Reset } else { End::Fin };
                let back = now + self.random.millis(1, 3000);
                self.note(|| format!("node {node} stops: {end:?}"));
                self.cluster.stop(now, node, end);
                self.faulter.returns.push((back, node));
            }
            43..=52 if self.plan.nodes > 1 => {
                let queue = self.random.below(self.plan.queues);
                self.note(|| format!("the leader of queue {queue} steps down"));
                self.cluster.step_down(now, queue);
                self.faulter.elected_at = Some(now + self.random.millis(0, 1500));
            }
            53..=59 => {
                self.faulter.jump = self.random.millis(100, 40_000);
                self.note(|| format!("the clock jumps by {:?}", self.faulter.jump));
            }
            60..=66 => {
                let capacity = self.random.spread(200);
                if let Some(wire) = self.any_wire().and_then(|id| self.cluster.wires.get_mut(&id)) {
                    wire.up.narrow(capacity);
                    wire.down.narrow(capacity);
                }
            }
            67..=72 => {
                if let Some(id) = self.any_wire() {
                    self.cluster.beat(id);
                }
            }
            73 | 74 => self.close_any_client(),
            _ => self.misbehave(),
        }
        Ok(())
    }

    /// The broker shows one of its faults for a while.
    fn misbehave(&mut self) {
        let choice = self.random.below(12);
        let op = self.random.pick(&STALLED).unwrap_or(Op::Ack);
        let times = u32::try_from(self.random.between(1, 3)).unwrap_or(1);
        let missing = self.random.between(1, 3);
        // An id that is used again at once cannot be told from one that is answered twice.
        let may_repeat = !self.plan.hooks.lowest_free_ids;
        self.note(|| format!("the broker misbehaves: {choice} {op:?}"));
        self.cluster.set_faults(|faults: Faults| match choice {
            0 | 1 => faults.stall(op),
            2 | 3 => faults.drop_before_answer(op, times),
            4 => faults.missing_results(missing),
            5 if may_repeat => faults.duplicate_answer(op),
            6 if may_repeat => faults.unknown_answer_first(op),
            7 => faults.heartbeats_ignored(true),
            8 => faults.overloaded(true),
            9 => faults.storage_failing(true),
            10 => faults.errors_close(true),
            _ => faults.slow_refill(true),
        });
        self.faulter.swallowed |= choice == 7;
        self.faulter.behaves_at = Some(self.now + self.random.millis(10, 4000));
    }

    fn behave(&mut self) {
        self.cluster.behave();
        if std::mem::take(&mut self.faulter.swallowed) {
            let ids: Vec<ConnectionId> = self.cluster.wires.keys().copied().collect();
            for id in ids {
                self.cluster.hang_up(self.now, id, End::Reset);
            }
        }
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.faulter.next = None;
        self.faulter.behaves_at = None;
        self.faulter.elected_at = None;
        self.faulter.returns.clear();
        self.cluster.stormy = false;
        self.behave();
        self.cluster.recover(self.now);
        // Servers lease far ahead of the smallest windows: with long ways those leases would end before their turn comes,
        // over and over.
        let weather = Weather {
            capacity: 64_000,
            portion: 64_000,
            latency: self.plan.weather.latency.min(CALM_LATENCY),
        };
        self.cluster.calm(weather);
        Ok(())
    }
}
