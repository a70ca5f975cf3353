//! What all links of one client share: configuration, what was learned of the servers, events and counters.

use std::sync::Arc;

use crate::config::Config;
use crate::error::Error;
use crate::event::{Cursor, Event, State, Stats};

/// Shared by all links of one client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
}

#[allow(unused_variables)]
impl Shared {
    /// Checks the configuration and prepares TLS.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), saying which setting is wrong.
    pub fn new(config: Config) -> Result<Self, Error> {
        todo!()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Where the main link is.
    #[must_use]
    pub fn state(&self) -> State {
        todo!()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// A cursor that sees the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Cursor {
        todo!()
    }

    /// The next event for this subscriber.
    pub fn next_event(&self, cursor: &mut Cursor) -> Option<Event> {
        todo!()
    }

    /// Grows with every event: a driver compares it across a turn to know whether subscribers are to be woken.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        todo!()
    }
}
