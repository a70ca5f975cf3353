//! One run: virtual time, the network, the cluster and everybody who uses it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fibp_proto::Dialect;
use fibp_proto::consumer::Consumer as ConsumerMachine;
use fibp_proto::requests::Requests;
use fibp_proto::simulation::Defect;

use super::broker::Cluster;
use super::consumers::Consumer;
use super::faults::Faulter;
use super::pair::random::Random;
use super::plan::Plan;
use super::port::Port;
use super::token::Token;
use super::truth::{News, PATIENCE, Truth};
use super::users::{Client, Outside};

/// More rounds than this at one instant mean that somebody is busy with nothing.
const MAX_ROUNDS: usize = 20_000;

/// Wires that nobody holds any more are forgotten each time after so many steps.
const SWEEP_EVERY: u64 = 64;

/// More steps than this mean that a run does not end.
const MAX_STEPS: u64 = 3_000_000;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults happen, users have ideas.
    Storm,
    /// Nothing goes wrong any more; everything has to come to rest.
    Drain { until: Instant },
    /// Everybody leaves.
    Close { until: Instant },
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) random: Random,
    pub(super) plan: Plan,
    pub(super) phase: Phase,
    pub(super) cluster: Cluster,
    pub(super) truth: Truth,
    pub(super) ports: Vec<Option<Box<Port>>>,
    pub(super) clients: Vec<Client>,
    /// Messages whose senders wait for room, by the tokens of these waits.
    pub(super) outside: BTreeMap<u64, Outside>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) faulter: Faulter,
    pub(super) produced: usize,
    pub(super) verbose: bool,
    pub(super) steps: u64,
}

impl World {
    pub(super) fn new(seed: u64, start: Instant, defect: Option<Defect>, verbose: bool) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random, defect);
        let clients: Vec<Client> = (0..plan.clients)
            .filter_map(|_| Client::new(&plan, start, &mut random))
            .collect();
        // Sent again, or sent by way of another node, messages may overtake each other.
        let ordered = plan.nodes == 1 && clients.iter().all(|client| !client.replays_enqueues());
        let cluster = Cluster::new(&plan, start, random.next(), ordered)?;
        let mut consumers = Vec::new();
        for index in 0..plan.consumers {
            let queue = cluster.queues().get(index % plan.queues).cloned();
            let client = random.below(clients.len());
            consumers.extend(queue.map(|queue| Consumer::new(client, queue, plan.consumer(&mut random), start)));
        }
        if clients.len() < plan.clients {
            return Err(format!("no client is configured like this: {plan:?}"));
        }
        let faulter = Faulter::new(&plan, start, &mut random);
        Ok(Self {
            now: start,
            start,
            phase: Phase::Storm,
            cluster,
            truth: Truth::default(),
            ports: Vec::new(),
            clients,
            outside: BTreeMap::new(),
            consumers,
            faulter,
            produced: 0,
            verbose,
            steps: 0,
            random,
            plan,
        })
    }

    /// What happens, for those who replay a seed.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12?} {}", self.now - self.start, what());
        }
    }

    /// Runs until everybody has left.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.note(|| format!("{:?}", self.plan));
        while !self.is_over() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("the run does not end".to_owned());
            }
            self.settle()?;
            self.check()?;
            let before = self.phase;
            self.change_phase()?;
            if self.phase == before {
                self.advance();
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Close { .. })
            && self.truth.open_calls() == 0
            && self.ports.iter().all(Option::is_none)
    }

    /// Lets everybody do what there is to do at this instant.
    fn settle(&mut self) -> Result<(), String> {
        for round in 0.. {
            if round > MAX_ROUNDS {
                return Err("this instant never ends".to_owned());
            }
            let mut progress = self.faulter_acts()?;
            progress |= self.users_act()?;
            for port in 0..self.ports.len() {
                progress |= self.drive(port)?;
            }
            progress |= self.cluster.run(self.now, &mut self.random, &mut self.truth)?;
            if !progress {
                break;
            }
        }
        Ok(())
    }

    fn drive(&mut self, index: usize) -> Result<bool, String> {
        let Some(mut port) = self.ports.get_mut(index).and_then(Option::take) else {
            return Ok(false);
        };
        let result = port.drive(self.now, &mut self.cluster, &mut self.random);
        let client = port.client;
        if let Some(place) = self.ports.get_mut(index) {
            *place = Some(port);
        }
        let out = result?;
        self.report_events(client);
        for completion in out.completions {
            self.note(|| format!("port {index}: {completion:?}"));
            let news = self.truth.complete(completion.token, completion.reply)?;
            self.heard(news)?;
        }
        if self.may_retire(index) {
            self.retire(index);
        }
        Ok(out.progress)
    }

    /// Whether a port is of no use any more. The machine of a client's requests stays for late calls.
    fn may_retire(&self, index: usize) -> bool {
        let Some(port) = self.ports.get(index).and_then(Option::as_ref) else {
            return false;
        };
        let closed = self.clients.get(port.client).is_some_and(|client| client.closed);
        port.is_over() && (port.machine.is_consumer() || closed)
    }

    fn report_events(&mut self, client: usize) {
        let verbose = self.verbose;
        let since = self.now - self.start;
        if let Some(client) = self.clients.get_mut(client) {
            while let Some(event) = client.next_event() {
                if verbose {
                    println!("{since:>12?} {event:?}");
                }
            }
        }
    }

    fn heard(&mut self, news: News) -> Result<(), String> {
        match news {
            News::Opened { port, ok } => self.opened(port, ok),
            News::Ready { port } => self.ready(port),
            News::Room { token, result } => self.got_room(token, result),
            News::Other => Ok(()),
        }
    }

    /// The place of a new port.
    pub(super) fn add_port(&mut self, mut port: Port) -> usize {
        port.machine.set_test_hooks(self.plan.hooks);
        let port = Some(Box::new(port));
        match self.ports.iter().position(Option::is_none) {
            Some(index) if self.ports.get_mut(index).is_some_and(|place| place.take().is_none()) => {
                if let Some(place) = self.ports.get_mut(index) {
                    *place = port;
                }
                index
            }
            _ => {
                self.ports.push(port);
                self.ports.len() - 1
            }
        }
    }

    /// The port, if it is there.
    pub(super) fn port(&mut self, port: usize) -> Option<&mut Port> {
        self.ports.get_mut(port).and_then(Option::as_deref_mut)
    }

    /// The machine of a port, if it is that of a client's requests.
    pub(super) fn requests(&mut self, port: usize) -> Option<&mut Requests<Token>> {
        self.port(port)?.machine.requests()
    }

    /// The machine of a port, if it is that of a subscription.
    pub(super) fn consumer_machine(&mut self, port: usize) -> Option<&mut ConsumerMachine<Token>> {
        self.port(port)?.machine.consumer()
    }

    /// What must hold at every instant.
    fn check(&mut self) -> Result<(), String> {
        self.truth.check_waiters(self.now)?;
        for queue in self.cluster.queues() {
            let held = self.truth.held(queue);
            if let Some(depth) = self.cluster.depth(queue).filter(|depth| *depth < held) {
                return Err(format!(
                    "{queue} has {depth} messages, {held} of it are confirmed and not acked"
                ));
            }
        }
        for index in 0..self.ports.len() {
            let prefetch = self.prefetch(index);
            if let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) {
                port.check_memory(&self.plan, prefetch)?;
            }
        }
        if self.steps.is_multiple_of(SWEEP_EVERY) {
            let ports = &self.ports;
            self.cluster
                .forget_abandoned(|id| ports.iter().flatten().any(|port| port.remembers(id)));
        }
        Ok(())
    }

    fn change_phase(&mut self) -> Result<(), String> {
        match self.phase {
            Phase::Storm => {
                if self.now - self.start >= self.plan.storm {
                    self.note(|| "the storm is over".to_owned());
                    self.phase = Phase::Drain {
                        until: self.now + PATIENCE,
                    };
                    self.calm()?;
                }
            }
            Phase::Drain { until } => {
                let rest = self.is_at_rest();
                match rest {
                    Ok(()) => {
                        self.note(|| "everybody leaves".to_owned());
                        self.phase = Phase::Close {
                            until: self.now + PATIENCE,
                        };
                        self.leave();
                    }
                    Err(why) if self.now > until => {
                        let ports: Vec<String> = self.ports.iter_mut().flatten().map(|port| port.describe()).collect();
                        return Err(format!("no rest: {why}; {}", ports.join(", ")));
                    }
                    Err(_) => {}
                }
            }
            Phase::Close { until } => {
                for index in 0..self.ports.len() {
                    let over = self
                        .ports
                        .get(index)
                        .and_then(Option::as_ref)
                        .is_some_and(|port| port.is_over());
                    if over {
                        self.retire(index);
                    }
                }
                if self.now > until {
                    let ports: Vec<String> = self.ports.iter_mut().flatten().map(|port| port.describe()).collect();
                    return Err(format!(
                        "machines that do not end: {}; {}",
                        ports.join(", "),
                        self.truth.describe_open()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether all messages are consumed and nothing is kept that has no reason any more.
    fn is_at_rest(&mut self) -> Result<(), String> {
        for queue in self.cluster.queues() {
            match self.cluster.depth(queue) {
                Some(0) => {}
                depth => return Err(format!("{queue} has {depth:?} messages")),
            }
        }
        if self.truth.pending() > 0 {
            return Err(self.truth.describe_open());
        }
        for port in self.ports.iter_mut().flatten() {
            let mut usage = port.machine.usage();
            // The buffer in wait for the next frame.
            usage.decoder = 0;
            if usage != fibp_proto::simulation::Usage::default() {
                return Err(format!("the {} machine still holds {usage:?}", port.role()));
            }
        }
        Ok(())
    }

    /// Goes to the next instant at which something happens.
    fn advance(&mut self) {
        let now = self.now;
        let later = |at: Option<Instant>| at.map(|at| at.max(now));
        let mut next = later(self.cluster.poll_timeout());
        let mut consider = |at: Option<Instant>| {
            next = match (next, at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        for port in self.ports.iter().flatten() {
            consider(later(port.poll_timeout()));
            consider(port.readable_at(&self.cluster).filter(|at| *at > now));
        }
        for wire in self.cluster.wires.values() {
            consider(wire.up.readable_at().filter(|at| *at > now));
        }
        consider(later(self.faulter.poll_timeout()));
        for client in &self.clients {
            consider(later(client.poll_timeout(self.phase)));
        }
        for consumer in &self.consumers {
            consider(later(consumer.poll_timeout(self.phase)));
        }
        match self.phase {
            Phase::Storm => consider(Some(self.start + self.plan.storm)),
            // Idle connections have heartbeats; nothing else may be under way for ever.
            Phase::Drain { until } | Phase::Close { until } => consider(Some(until + Duration::from_millis(1))),
        }
        self.now = next.map_or(now, |next| next.max(now)) + self.faulter.take_jump();
    }

    /// What the run was about, for its report.
    pub(super) fn dialect(&self) -> Dialect {
        self.plan.server
    }
}
