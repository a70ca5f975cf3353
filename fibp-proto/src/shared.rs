//! What all machines of one client share: configuration, what was learned of the servers, events and counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, Endpoint, KEY_OVER_PLAINTEXT};
use crate::directory::{Directory, Purpose};
use crate::error::Error;
use crate::event::{Cursor, Event, Ring, State, Stats};
use crate::frame::Pool;
use crate::message::QueueName;
use crate::tls::TlsContext;

/// Shared by all machines of one client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    tls: Option<TlsContext>,
    directory: Mutex<Directory>,
    /// Some node said what only a node of a cluster says, where handshakes say nothing (docs/protocol/clusters.md 1).
    in_cluster: AtomicBool,
    /// Most clients never learn of a leader, and need not look for one.
    knows_leaders: AtomicBool,
    record: Mutex<Record>,
    events: AtomicU64,
    pool: Pool,
}

#[derive(Debug, Default)]
struct Record {
    state: State,
    ring: Ring,
    stats: Stats,
    warned_of_plaintext_key: bool,
}

impl Shared {
    /// Checks the configuration and prepares TLS.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), saying which setting is wrong.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let settings = config.settings();
        let tls = match &settings.tls {
            Some(tls) => Some(TlsContext::new(tls, settings.dialect)?),
            None => None,
        };
        let mut warnings = config.warnings();
        // That one has an event of its own, when the key is sent.
        warnings.retain(|text| *text != KEY_OVER_PLAINTEXT);
        for text in &warnings {
            crate::trace::event(&Event::Warning { text });
        }
        let record = Record {
            ring: Ring::new(warnings),
            ..Record::default()
        };
        Ok(Self(Arc::new(Inner {
            tls,
            config,
            directory: Mutex::default(),
            in_cluster: AtomicBool::new(false),
            knows_leaders: AtomicBool::new(false),
            record: Mutex::new(record),
            events: AtomicU64::new(0),
            pool: Pool::default(),
        })))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Where the main connection is.
    #[must_use]
    pub fn state(&self) -> State {
        self.record().state
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.record().stats
    }

    /// A cursor that sees the configuration's warnings, and the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Cursor {
        self.record().ring.cursor()
    }

    /// The next event for this subscriber.
    pub fn next_event(&self, cursor: &mut Cursor) -> Option<Event> {
        self.record().ring.next(cursor)
    }

    /// Grows with every event and change of state: a driver compares it across a turn to know whether
    /// subscribers are to be woken.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        self.0.events.load(Ordering::Acquire)
    }

    /// Where read buffers find free places.
    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn tls(&self) -> Option<&TlsContext> {
        self.0.tls.as_ref()
    }

    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.0.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node that leads a queue, as far as it was learned.
    pub(crate) fn leader(&self, purpose: Purpose, queue: &QueueName) -> Option<Endpoint> {
        if !self.0.knows_leaders.load(Ordering::Acquire) {
            return None;
        }
        self.directory().leader(purpose, queue)
    }

    pub(crate) fn learn_leader(&self, purpose: Purpose, queue: &QueueName, endpoint: Endpoint) {
        self.directory().learn_leader(purpose, queue, endpoint);
        self.0.knows_leaders.store(true, Ordering::Release);
    }

    /// Whether a preamble server is known to be a node of a cluster.
    pub(crate) fn in_cluster(&self) -> bool {
        self.0.in_cluster.load(Ordering::Relaxed)
    }

    pub(crate) fn note_cluster(&self) {
        self.0.in_cluster.store(true, Ordering::Relaxed);
    }

    pub(crate) fn push_event(&self, event: Event) {
        crate::trace::event(&event);
        self.record().ring.push(event);
        self.0.events.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn set_state(&self, state: State) {
        let mut record = self.record();
        if record.state != state && record.state != State::Closed {
            record.state = state;
            self.0.events.fetch_add(1, Ordering::Release);
        }
    }

    /// Adds a machine's counters and clears them.
    pub(crate) fn add_stats(&self, stats: &mut Stats) {
        self.record().stats.drain(stats);
    }

    /// True the first time.
    pub(crate) fn warn_of_plaintext_key(&self) -> bool {
        !std::mem::replace(&mut self.record().warned_of_plaintext_key, true)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
