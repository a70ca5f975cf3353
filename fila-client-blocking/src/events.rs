//! What happens to a client's connections.

use std::iter::FusedIterator;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fibp_proto::event::Cursor;
use fibp_proto::{Event, Shared, State};

use crate::waiter::{lock, wait};

/// Wakes subscribers.
#[derive(Debug, Default)]
pub(crate) struct EventBell {
    rings: Mutex<u64>,
    bell: Condvar,
}

impl EventBell {
    /// There are new events, or none will follow.
    pub(crate) fn ring(&self) {
        let mut rings = lock(&self.rings);
        *rings = rings.wrapping_add(1);
        drop(rings);
        self.bell.notify_all();
    }
}

/// The events of a client from the moment of [`Client::events`](crate::Client::events) on: an iterator that
/// blocks.
///
/// It does not keep the client alive: after the last handle is gone, or after
/// [`Client::close`](crate::Client::close), it gives what is left and then `None`. A subscriber that is 1024
/// events behind loses the oldest and is told so by [`Event::Lagged`].
#[derive(Debug)]
pub struct Events {
    shared: Shared,
    cursor: Cursor,
    bell: Arc<EventBell>,
}

impl Events {
    pub(crate) fn new(shared: &Shared, bell: &Arc<EventBell>) -> Self {
        Self {
            shared: shared.clone(),
            cursor: shared.subscribe(),
            bell: Arc::clone(bell),
        }
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.shared.next_event(&mut self.cursor)
    }

    /// The next event, if there is one within `timeout`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Event> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&mut self, until: Option<Instant>) -> Option<Event> {
        loop {
            let seen = *lock(&self.bell.rings);
            let is_closed = self.shared.state() == State::Closed;
            let event = self.shared.next_event(&mut self.cursor);
            if event.is_some() || is_closed {
                return event;
            }
            let mut rings = lock(&self.bell.rings);
            while *rings == seen {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return None;
                }
                rings = wait(&self.bell.bell, rings, until);
            }
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv_until(None)
    }
}

impl FusedIterator for Events {}
