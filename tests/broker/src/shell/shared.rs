//! What all threads of a broker share: the host, the sockets, and one lock around both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::clock::{Clock, Timed, lock};
use crate::host::BrokerHost;
use crate::machine::{ConnectionId, Ending};

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
    pub(super) host: BrokerHost,
    pub(super) links: BTreeMap<ConnectionId, Link>,
    pub(super) stopping: bool,
    /// Nodes whose listeners are to be closed.
    pub(super) down: BTreeSet<u64>,
    /// When the timer wakes up by itself.
    timer_wakes: Option<Instant>,
    watchers: usize,
}

impl Shared {
    pub(super) fn new(clock: Clock, host: BrokerHost) -> Arc<Self> {
        let shared = Arc::new(Self {
            clock,
            state: Mutex::new(State {
                host,
                links: BTreeMap::new(),
                stopping: false,
                down: BTreeSet::new(),
                timer_wakes: None,
                watchers: 0,
            }),
            timer: Condvar::new(),
            changed: Condvar::new(),
        });
        if let Clock::Manual(clock) = &shared.clock {
            let weak: Weak<dyn Timed> = Arc::<Self>::downgrade(&shared);
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
        let due = state.host.poll_timeout();
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
            let due = state.host.poll_timeout();
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
    /// Whether a node is to accept nothing any more.
    pub(super) fn is_closed(&self, node: u64) -> bool {
        self.stopping || self.down.contains(&node)
    }

    /// Ends the connections of a node, or of all, see [`Link::end`]. Returns which.
    pub(super) fn end_connections(&mut self, node: Option<u64>, reset: bool) -> Vec<ConnectionId> {
        let ended: Vec<ConnectionId> = match node {
            Some(node) => self.host.connections_of(node).collect(),
            None => self.links.keys().copied().collect(),
        };
        for connection in &ended {
            if let Some(link) = self.links.get_mut(connection) {
                link.end(reset);
            }
        }
        ended
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.host.handle_timeout(now);
        self.wake_others();
    }

    /// Forgets a connection that is over.
    pub(super) fn remove(&mut self, now: Instant, connection: ConnectionId, ending: Ending) -> Option<Link> {
        let link = self.links.remove(&connection);
        if let Some(link) = &link {
            link.wake.notify_all();
        }
        self.host.disconnect(now, connection, ending);
        self.wake_others();
        link
    }

    /// Wakes the writers of connections that others gave something to write.
    pub(super) fn wake_others(&mut self) {
        while let Some(connection) = self.host.poll_woken() {
            if let Some(link) = self.links.get(&connection) {
                link.wake.notify_all();
            }
        }
    }
}
