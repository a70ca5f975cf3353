//! What all threads of a broker share: the machine, the connections, and one lock around both.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fibp_proto::Response;
use fibp_proto::server::ServerEvent;

use super::link::Link;
use crate::clock::{Clock, Timed, lock};
use crate::machine::{BrokerMachine, ConnectionId, Ending, Output};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    state: Mutex<State>,
    /// The timer has to look again.
    timer: Condvar,
    /// Something changed that [`Shared::wait_until`] may wait for.
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: BrokerMachine,
    pub(super) links: BTreeMap<ConnectionId, Link>,
    pub(super) stopping: bool,
    next_connection: u64,
    /// When the timer wakes up by itself.
    timer_wakes: Option<Instant>,
    watchers: usize,
}

impl Shared {
    pub(super) fn new(clock: Clock, machine: BrokerMachine) -> Arc<Self> {
        let shared = Arc::new(Self {
            clock,
            state: Mutex::new(State {
                machine,
                links: BTreeMap::new(),
                stopping: false,
                next_connection: 0,
                timer_wakes: None,
                watchers: 0,
            }),
            timer: Condvar::new(),
            changed: Condvar::new(),
        });
        if let Clock::Manual(clock) = &shared.clock {
            let weak: std::sync::Weak<dyn Timed> = Arc::<Self>::downgrade(&shared);
            clock.listen(weak);
        }
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// To be called with the lock held after anything that may have changed deadlines or figures.
    pub(super) fn notice(&self, state: &State) {
        if state.watchers > 0 {
            self.changed.notify_all();
        }
        let due = state.machine.poll_timeout();
        if due.is_some_and(|due| state.timer_wakes.is_none_or(|wakes| due < wakes)) {
            self.timer.notify_one();
        }
    }

    pub(super) fn wake_timer(&self) {
        self.timer.notify_one();
    }

    /// Runs until the broker stops: reclaims leases when they are due.
    pub(super) fn run_timer(&self) {
        let mut state = self.lock();
        while !state.stopping {
            let now = self.clock.now();
            state.handle_timeout(now);
            let due = state.machine.poll_timeout();
            state.timer_wakes = due;
            state = match (due, &self.clock) {
                (Some(due), Clock::Real) => {
                    let wait = due.saturating_duration_since(now);
                    let waited = self.timer.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                // A manual clock calls by itself when it advances.
                _ => self.timer.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until `condition` holds, for at most `within` of real time.
    pub(super) fn wait_until(&self, within: Duration, mut condition: impl FnMut(&State) -> bool) -> bool {
        let deadline = Instant::now().checked_add(within);
        let mut state = self.lock();
        state.watchers += 1;
        let met = loop {
            if condition(&state) {
                break true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => break false,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        };
        state.watchers -= 1;
        met
    }
}

impl Timed for Shared {
    fn run_timers(&self) {
        let mut state = self.lock();
        state.handle_timeout(self.clock.now());
        self.notice(&state);
    }
}

impl State {
    pub(super) fn next_connection(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }

    /// The sockets of all connections.
    pub(super) fn sockets(&self) -> Vec<Arc<TcpStream>> {
        self.links.values().map(|link| Arc::clone(&link.socket)).collect()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        self.route(None);
    }

    /// Passes what a client did to the machine, and the machine's answers to the connections.
    pub(super) fn process(&mut self, now: Instant, connection: ConnectionId) {
        while let Some(event) = self
            .links
            .get_mut(&connection)
            .and_then(|link| link.server.poll_event())
        {
            match event {
                ServerEvent::Opened { dialect, key } => {
                    let opened = self.machine.connect(now, connection, dialect, key.as_ref());
                    if let Some(link) = self.links.get_mut(&connection) {
                        match opened {
                            Ok(()) => link.server.accept(),
                            Err(refusal) => link.server.refuse(refusal),
                        }
                    }
                }
                ServerEvent::Request { id, request } => self.machine.handle(now, connection, id, request),
                ServerEvent::Malformed { id, op, answer } => {
                    self.machine.handle_malformed(connection, id, op, answer);
                }
                // What is left to write is written; `is_finished` tells when.
                ServerEvent::Closed => {}
                _ => {}
            }
            self.route(Some(connection));
        }
    }

    /// Reports pushes as written.
    pub(super) fn pushes_written(&mut self, now: Instant, connection: ConnectionId, pushes: usize) {
        if pushes > 0 {
            self.machine.pushes_written(now, connection, pushes);
            self.route(Some(connection));
        }
    }

    /// Forgets a connection that is over.
    pub(super) fn remove(&mut self, now: Instant, connection: ConnectionId, ending: Ending) {
        if let Some(link) = self.links.remove(&connection) {
            link.wake.notify_all();
        }
        self.machine.disconnect(now, connection, ending);
        self.route(None);
    }

    /// Hands the machine's outputs to the connections. The thread of `own` flushes that one itself; the writers of
    /// others are woken.
    pub(super) fn route(&mut self, own: Option<ConnectionId>) {
        while let Some(output) = self.machine.poll_output() {
            let connection = output.connection();
            let Some(link) = self.links.get_mut(&connection) else {
                continue;
            };
            match output {
                Output::Answer { request, response, .. } => {
                    let consuming = matches!(response, Response::Consume { .. });
                    if link.server.respond(request, &response).is_err() {
                        // Real servers have no better idea either.
                        link.server.close();
                    }
                    if consuming && !self.machine.settings().faults.consume_ack_coalesced {
                        link.hold_pushes();
                    }
                }
                Output::Refuse { id, error, .. } => link.server.respond_error(id, &error),
                Output::Push { consume_id, push, .. } => link.queue_push(consume_id, push),
                Output::Close { .. } => link.server.close(),
            }
            if own != Some(connection) {
                link.wake.notify_all();
            }
        }
    }
}
