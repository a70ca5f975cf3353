//! Those who consume: what they open, and what becomes of what they get.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::QueueName;
use fibp_proto::config::ConsumerSettings;
use fibp_proto::consumer::{Consumer as Machine, Lease, Leases};
use fibp_proto::requests::Settle;

use super::port::Port;
use super::truth::Awaits;
use super::world::{Phase, World};

/// How long a channel that leaves waits for the server at most.
const GOODBYE: Duration = Duration::from_secs(1);

/// A consumer and its user.
#[derive(Debug)]
pub(super) struct Consumer {
    client: usize,
    queue: QueueName,
    settings: ConsumerSettings,
    state: Consuming,
}

#[derive(Debug)]
enum Consuming {
    /// Opens a consumer then.
    Away(Instant),
    Opening(usize),
    Waiting(usize),
    /// Settles these then.
    Busy(usize, Instant, VecDeque<Lease>),
}

impl Consuming {
    fn port(&self) -> Option<usize> {
        match self {
            Self::Away(_) => None,
            Self::Opening(port) | Self::Waiting(port) | Self::Busy(port, ..) => Some(*port),
        }
    }
}

impl Consumer {
    pub(super) fn new(client: usize, queue: QueueName, settings: ConsumerSettings, start: Instant) -> Self {
        Self {
            client,
            queue,
            settings,
            state: Consuming::Away(start),
        }
    }

    pub(super) fn poll_timeout(&self, phase: Phase) -> Option<Instant> {
        match &self.state {
            Consuming::Away(_) if matches!(phase, Phase::Close { .. }) => None,
            Consuming::Away(at) | Consuming::Busy(_, at, _) => Some(*at),
            Consuming::Opening(_) | Consuming::Waiting(_) => None,
        }
    }
}

impl World {
    /// The bound of deliveries at a port.
    pub(super) fn prefetch(&self, port: usize) -> usize {
        self.consumers
            .iter()
            .find(|consumer| consumer.state.port() == Some(port))
            .map_or(usize::MAX / 2, |consumer| consumer.settings.prefetch)
    }

    pub(super) fn consume(&mut self, index: usize) -> Result<bool, String> {
        let now = self.now;
        let due = self
            .consumers
            .get(index)
            .and_then(|consumer| consumer.poll_timeout(self.phase))
            .is_some_and(|at| at <= now);
        let Some(consumer) = self.consumers.get_mut(index).filter(|_| due) else {
            return Ok(false);
        };
        match std::mem::replace(&mut consumer.state, Consuming::Away(now)) {
            Consuming::Away(_) => self.open_consumer(index),
            Consuming::Busy(port, _, leases) => {
                let client = consumer.client;
                if let Some(machine) = self.consumer_machine(port) {
                    for lease in &leases {
                        machine.release_delivery(lease.sequence);
                    }
                }
                self.settle_leases(client, leases);
                if self.phase == Phase::Storm && self.random.chance(3) {
                    self.stop(port);
                }
                self.wait(index, port);
            }
            other => consumer.state = other,
        }
        Ok(true)
    }

    fn open_consumer(&mut self, index: usize) {
        let Some(consumer) = self.consumers.get(index) else {
            return;
        };
        let client = consumer.client;
        let (queue, settings) = (QueueName::clone(&consumer.queue), consumer.settings);
        self.replace_ended(client);
        let port = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let Some(shared) = self.clients.get(client).map(|client| client.shared.clone()) else {
            return;
        };
        let deadline = self.now.checked_add(shared.config().settings().connect_timeout);
        let (_, token) = self.truth.token(Awaits::Opened(port), deadline);
        let seed = self.random.next();
        let machine = Machine::new(&shared, queue, settings, self.now, seed, Some(token));
        let credentials = shared.config().settings().credentials.clone();
        self.add_port(Port::new(machine.into(), client, credentials));
        if let Some(consumer) = self.consumers.get_mut(index) {
            consumer.state = Consuming::Opening(port);
        }
    }

    /// The user of a consumer has enough, for now: takes what it still brings, and opens another.
    fn stop(&mut self, port: usize) {
        let now = self.now;
        let patience = self.random.millis(0, 2000);
        let way = self.random.below(3);
        self.note(|| format!("port {port}: the consumer is stopped, way {way}"));
        let mut token = |awaits, within| self.truth.token(awaits, now.checked_add(within)).1;
        let token = match way {
            0 => Some(token(Awaits::Drained, GOODBYE)),
            1 => Some(token(Awaits::Closed, patience)),
            _ => None,
        };
        let Some(machine) = self.consumer_machine(port) else {
            return;
        };
        match (way, token) {
            (0, Some(token)) => drop(machine.stop_consuming(now, token)),
            (_, Some(token)) => drop(machine.close(now, patience, token)),
            (_, None) => machine.abort(now),
        }
    }

    fn wait(&mut self, index: usize, port: usize) {
        let now = self.now;
        let (_, token) = self.truth.token(Awaits::Ready(port), None);
        if let Some(machine) = self.consumer_machine(port) {
            machine.wait_delivery(now, token);
        }
        if let Some(consumer) = self.consumers.get_mut(index) {
            consumer.state = Consuming::Waiting(port);
        }
    }

    /// The consumer whose machine is at a port.
    pub(super) fn consumer_at(&self, port: usize) -> Option<usize> {
        self.consumers
            .iter()
            .position(|consumer| consumer.state.port() == Some(port))
    }

    /// A machine is open, or will never be.
    pub(super) fn opened(&mut self, port: usize, ok: bool) -> Result<(), String> {
        let Some(index) = self.consumer_at(port) else {
            return Ok(());
        };
        if ok {
            self.wait(index, port);
        } else {
            self.consumer_ended(index, port);
        }
        Ok(())
    }

    fn consumer_ended(&mut self, index: usize, port: usize) {
        let pause = self.random.millis(1, 500);
        if let Some(consumer) = self.consumers.get_mut(index) {
            consumer.state = Consuming::Away(self.now + pause);
        }
        self.note(|| format!("port {port}: the consumer ended"));
    }

    /// A delivery waits at a port, or its consumer has ended.
    pub(super) fn ready(&mut self, port: usize) -> Result<(), String> {
        let Some(index) = self.consumer_at(port) else {
            return Ok(());
        };
        let most = self.random.spread(200);
        let mut leases = Leases::new();
        let now = self.now;
        let Some(at) = self.ports.get_mut(port).and_then(Option::as_mut) else {
            return Ok(());
        };
        let Some(machine) = at.machine.consumer() else {
            return Ok(());
        };
        let taken = machine.take_leases(now, most, &mut leases);
        let end = machine.poll_end();
        if taken != leases.len() || taken > most {
            return Err(format!("{taken} deliveries are {}", leases.len()));
        }
        let leases: VecDeque<Lease> = leases.collect();
        for lease in &leases {
            at.check_delivery(lease, &self.cluster)?;
        }
        if end.is_some() {
            at.check_end(&self.cluster)?;
        }
        for lease in &leases {
            self.truth.delivered(&lease.received)?;
        }
        self.note(|| format!("port {port}: {taken} deliveries, end: {end:?}"));
        match (taken, end) {
            (0, None) => Err("a consumer was woken for nothing".to_owned()),
            (0, Some(_)) => {
                self.consumer_ended(index, port);
                Ok(())
            }
            _ => {
                let longest = match self.phase {
                    Phase::Storm if self.random.chance(10) => 8000,
                    Phase::Storm => 30,
                    Phase::Drain { .. } | Phase::Close { .. } => 2,
                };
                let pause = self.random.millis(0, longest);
                if let Some(consumer) = self.consumers.get_mut(index) {
                    consumer.state = Consuming::Busy(port, self.now + pause, leases);
                }
                Ok(())
            }
        }
    }

    fn settle_leases(&mut self, client: usize, leases: VecDeque<Lease>) {
        let has_main = self.clients.get(client).is_some_and(|client| client.main.is_some());
        if matches!(self.phase, Phase::Close { .. }) && !has_main {
            return;
        }
        let mut settles = Vec::new();
        for lease in leases {
            let choice = if self.phase == Phase::Storm {
                self.random.below(100)
            } else {
                0
            };
            let nack = match choice {
                0..=84 => {
                    self.truth.ack_asked(&lease.received);
                    None
                }
                85..=92 => Some("not now".to_owned()),
                // Forgotten: its lease will expire.
                _ => continue,
            };
            settles.push(Settle {
                queue: lease.received.queue,
                id: lease.received.id,
                nack,
                lease_deadline: lease.deadline,
            });
        }
        let (port, now) = (self.main(client), self.now);
        let (timeout, deadline) = self.timeout(client);
        if self.random.chance(50) {
            let (number, token) = self.truth.token(Awaits::SettledMany(settles.len()), deadline);
            if let Some(requests) = self.requests(port) {
                let call = requests.settle_many(now, settles, timeout, token);
                self.remember(client, port, call, number);
            }
            return;
        }
        for settle in settles {
            let (number, token) = self.truth.token(Awaits::Settled, deadline);
            if let Some(requests) = self.requests(port) {
                let call = requests.settle(now, settle, timeout, token);
                self.remember(client, port, call, number);
            }
        }
    }
}
