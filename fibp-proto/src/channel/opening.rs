//! From a dial to a connection that is ready, and from a lost one to the next dial.

use std::time::Instant;

use super::dialer::{FAILED_PAUSE, Phase, Plan, STABLE, Target};
use super::{Channel, Ending, Lost, closed};
use crate::config::{Backoff, Endpoint};
use crate::connection::{Broken, Connection, Options};
use crate::dialect::{AdminRevision, Codec, Dialect};
use crate::directory::Purpose;
use crate::earliest_deadline::{earlier, is_due};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::fault::Fault;
use crate::frame::Layout;
use crate::machine::{Action, DialId};
use crate::message::Secret;

impl<W> Channel<W> {
    // ---- dialing ----

    /// Starts the first attempt. `open_by`: when it is late.
    pub(crate) fn begin(&mut self, now: Instant, open_by: Option<Instant>) {
        self.dialer.open_by = open_by;
        self.dial(now);
    }

    /// The first connection is no longer awaited, or there.
    pub(crate) fn note_opened(&mut self) {
        self.dialer.open_by = None;
    }

    pub(super) fn dial(&mut self, now: Instant) {
        let settings = self.shared.config().settings();
        let leader = match &self.dialer.target {
            Target::LeaderOf(queue) => self.shared.leader(Purpose::Consume, queue),
            Target::Configured | Target::Node(_) => None,
        };
        let Some(endpoint) = self.dialer.next_server(settings, leader) else {
            return self.give_up(now, Error::new(ErrorKind::Config, "no server address is configured"));
        };
        let deadline = earlier(self.dialer.open_by, now.checked_add(settings.connect_timeout));
        let id = self.dialer.next_dial_id();
        self.dialer.phase = Phase::Dialing {
            id,
            endpoint: endpoint.clone(),
            deadline,
        };
        self.actions.push_back(Action::Dial { id, endpoint, deadline });
    }

    /// The dial `id` succeeded. Events may follow.
    pub(crate) fn handle_dialed(&mut self, now: Instant, id: DialId, key: Result<Option<Secret>, Error>) {
        let Phase::Dialing {
            id: current,
            endpoint,
            deadline,
        } = &self.dialer.phase
        else {
            return;
        };
        if *current != id {
            return;
        }
        let (endpoint, deadline) = (endpoint.clone(), *deadline);
        self.dialer.phase = Phase::Opening {
            endpoint: endpoint.clone(),
            deadline,
        };
        self.transport.open(now);
        match key {
            Ok(key) => self.dialer.key = key,
            Err(error) => return self.break_off(now, Broken::new(error)),
        }
        match self.shared.tls() {
            Some(context) => match crate::tls::TlsPipe::new(context, &endpoint.host) {
                Ok(pipe) => self.transport.begin_tls(pipe),
                Err(error) => self.break_off(now, Broken::new(error)),
            },
            None => {
                let (dialect, admin_known) = self.plain_dialect(&endpoint);
                self.open_connection(now, dialect, admin_known);
            }
        }
    }

    /// The dial `id` failed. Events may follow.
    pub(crate) fn handle_dial_failed(&mut self, now: Instant, id: DialId, fault: Fault) {
        if matches!(&self.dialer.phase, Phase::Dialing { id: current, .. } if *current == id) {
            self.break_off(now, Broken::new(fault.into_dial_error()));
        }
    }

    /// What to open with where no ALPN tells, and whether the admin revision was configured.
    fn plain_dialect(&self, endpoint: &Endpoint) -> (Dialect, bool) {
        let configured = self.shared.config().settings().dialect;
        if configured != Dialect::Auto {
            return (configured, true);
        }
        let guess = self.dialer.other_dialect;
        let first = guess.or_else(|| self.shared.directory().dialect(endpoint));
        (first.unwrap_or(Dialect::Preamble(AdminRevision::P1)), false)
    }

    /// TLS is up: the server's choice of ALPN names the dialect.
    pub(super) fn open_in_tls(&mut self, now: Instant, alpn: Option<Vec<u8>>) {
        let Some(endpoint) = self.dialer.endpoint().cloned() else {
            return;
        };
        let configured = self.shared.config().settings().dialect;
        let (dialect, admin_known) = match alpn.as_deref() {
            Some(b"h2") => {
                let error = Error::new(
                    ErrorKind::WrongDialect,
                    "the server speaks gRPC only (it chose ALPN h2): this client needs a Fila server with FIBP",
                );
                return self.break_off(now, Broken::new(error));
            }
            Some(b"fila/1") if configured == Dialect::Auto => (Dialect::Framed, false),
            Some(b"fibp") if configured == Dialect::Auto => (Dialect::Preamble(AdminRevision::P1), false),
            _ => self.plain_dialect(&endpoint),
        };
        self.open_connection(now, dialect, admin_known);
    }

    fn open_connection(&mut self, now: Instant, dialect: Dialect, admin_known: bool) {
        let Some(endpoint) = self.dialer.endpoint().cloned() else {
            return;
        };
        let Some(codec) = dialect.codec() else { return };
        let key = self.dialer.key.take();
        self.dialer.key_withheld = key.is_some() && self.withholds_key(&endpoint, codec);
        let key = key.filter(|_| !self.dialer.key_withheld);
        if key.is_some() {
            self.warn_of_plaintext_key(&endpoint);
        }
        let settings = self.shared.config().settings();
        let options = Options {
            codec,
            admin_known,
            may_be_f1: settings.dialect == Dialect::Auto,
            key,
            limits: settings.frame_limits,
            heartbeat: settings.heartbeat.map(|heartbeat| heartbeat.every),
            heartbeat_missed: settings.heartbeat.map_or(0, |heartbeat| heartbeat.missed),
        };
        match Connection::new(options) {
            Ok(mut connection) => {
                connection.set_test_hooks(self.hooks);
                self.connection = Some(Box::new(connection));
            }
            Err(error) => self.break_off(now, Broken::new(error)),
        }
    }

    fn exposes_key(&self, endpoint: &Endpoint) -> bool {
        self.shared.tls().is_none() && !endpoint.is_loopback()
    }

    /// Whether the opening would carry the key in plaintext over a network to a server that has not even proved to be
    /// Fila, on a guess of ours. Then it goes without the key: a framed server answers it, with a refusal or not, and
    /// that answer is what makes [`plaintext_key_refusal`] final. Silence, or a connection that is just closed, proves
    /// nothing: it may be a proxy whose server restarts.
    fn withholds_key(&self, endpoint: &Endpoint, codec: &dyn Codec) -> bool {
        let guessed = self.shared.config().settings().dialect == Dialect::Auto;
        guessed && !codec.rules().authenticate && self.exposes_key(endpoint)
    }

    fn warn_of_plaintext_key(&self, endpoint: &Endpoint) {
        if self.exposes_key(endpoint) && self.shared.warn_of_plaintext_key() {
            self.push_event(Event::KeyOverPlaintext {
                endpoint: endpoint.clone(),
            });
        }
    }

    // ---- ready ----

    /// The connection is ready for requests; false if it may not be used.
    pub(super) fn note_ready(&mut self, now: Instant) -> bool {
        let (Some(endpoint), Some(connection)) = (self.dialer.endpoint().cloned(), &self.connection) else {
            return false;
        };
        if self.dialer.key_withheld {
            self.break_off(now, Broken::new(plaintext_key_refusal(&endpoint)));
            return false;
        }
        let dialect = connection.dialect();
        self.shared.directory().learn_dialect(&endpoint, dialect);
        self.dialer.note_ready(now, endpoint.clone());
        self.stats.connections += 1;
        self.push_event(Event::Connected {
            connection: self.role.clone(),
            endpoint,
            dialect,
        });
        true
    }

    // ---- lost ----

    /// The connection, or the attempt to make one, is over. Events follow.
    pub(super) fn break_off(&mut self, now: Instant, broken: Broken) {
        let Broken {
            mut error,
            try_other_dialect,
        } = broken;
        if self.ending.is_some() || self.dialer.is_closed() {
            return;
        }
        if let Phase::Leaving { .. } = self.dialer.phase {
            self.ending = Some(Ending::Left);
            return;
        }
        let here = self.dialer.endpoint().cloned();
        if try_other_dialect && self.try_other_dialect(now, here.as_ref(), &error) {
            return;
        }
        let withheld = std::mem::take(&mut self.dialer.key_withheld);
        if withheld
            && !try_other_dialect
            && error.server_text().is_some()
            && let Some(here) = &here
        {
            // Framed servers alone refuse in the words of the framed dialect.
            error = plaintext_key_refusal(here);
        }
        let guessed = self.dialer.other_dialect.take().is_some();
        // It speaks the first dialect after all, or its name is gone the moment after it was found: what counts is why
        // the first dialect failed, most likely a restart. A guess makes nothing final.
        if guessed
            && (try_other_dialect || error.kind() == ErrorKind::Resolve)
            && let Some(first) = self.dialer.last_error.take()
        {
            error = first;
        }
        self.ending = Some(Ending::Lost(error));
    }

    pub(super) fn finish_lost(&mut self, now: Instant, error: Error) -> Lost<W> {
        if let Some(here) = self.dialer.endpoint() {
            self.shared.directory().forget_leader(here);
        }
        let ready_since = match &self.dialer.phase {
            Phase::Ready { since, .. } => Some(*since),
            _ => None,
        };
        if ready_since.is_some() {
            self.stats.disconnects += 1;
        }
        if ready_since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.dialer.note_success();
        }
        self.push_event(Event::Disconnected {
            connection: self.role.clone(),
            cause: error.clone(),
        });
        self.dialer.last_error = Some(error.clone());
        let works = self.hang_up();
        self.dialer.phase = Phase::Lost;
        Lost {
            error,
            was_ready: ready_since.is_some(),
            works,
        }
    }

    fn try_other_dialect(&mut self, now: Instant, here: Option<&Endpoint>, error: &Error) -> bool {
        let auto = self.shared.config().settings().dialect == Dialect::Auto;
        if !auto || self.dialer.other_dialect.is_some() {
            return false;
        }
        let (Some(here), Some(connection)) = (here, &self.connection) else {
            return false;
        };
        self.dialer.other_dialect = Some(match connection.codec().layout() {
            Layout::FlagsFirst => Dialect::Framed,
            Layout::OpcodeFirst => Dialect::Preamble(AdminRevision::P1),
        });
        self.dialer.last_error = Some(error.clone());
        self.redial_at(now, here.clone());
        true
    }

    /// What the dialer makes of a loss: counts it.
    pub(crate) fn plan_after(&mut self, error: &Error) -> Plan {
        self.dialer.plan_after(error, self.shared.config().settings())
    }

    /// Leaves the current connection for a new one to `endpoint`, without a pause. What was in flight is dropped.
    pub(crate) fn redial_at(&mut self, now: Instant, endpoint: Endpoint) {
        drop(self.hang_up());
        self.dialer.make_detour(endpoint);
        self.dial(now);
    }

    /// Whether a redirect to `leader` is followed: not in circles, and not for ever.
    pub(crate) fn may_follow(&mut self, leader: &Endpoint) -> bool {
        let limit = self.shared.config().settings().max_redirects;
        self.dialer.may_follow(leader, limit)
    }

    /// No leader that was followed is in doubt any more.
    pub(crate) fn forget_followed(&mut self) {
        self.dialer.forget_followed();
    }

    /// Dials again after a pause drawn from `backoff`.
    pub(crate) fn retry(&mut self, now: Instant, backoff: Option<Backoff>) {
        let delay = self.dialer.pause(backoff, &mut self.random);
        self.push_event(Event::Reconnecting {
            connection: self.role.clone(),
            attempt: self.dialer.attempts,
            delay,
        });
        self.dialer.phase = Phase::Pausing {
            until: now.checked_add(delay),
        };
        if delay.is_zero() {
            self.dial(now);
        }
    }

    /// It was ready before.
    pub(crate) fn was_ready(&self) -> bool {
        self.dialer.was_ready
    }

    /// Stops trying until [`refusal`](Self::refusal) is asked after a pause.
    pub(crate) fn give_up(&mut self, now: Instant, error: Error) {
        self.dialer.phase = Phase::Failed {
            error,
            retry_at: now.checked_add(FAILED_PAUSE),
        };
    }

    /// Another attempt waits until somebody asks for something.
    pub(crate) fn has_given_up(&self) -> bool {
        matches!(self.dialer.phase, Phase::Failed { .. })
    }

    /// Why nothing new is taken; a channel that gave up tries once more when its pause is over.
    pub(crate) fn refusal(&mut self, now: Instant) -> Option<Error> {
        match &self.dialer.phase {
            Phase::Closed { error } => Some(error.clone()),
            Phase::Leaving { .. } => Some(closed("the client")),
            Phase::Failed { error, retry_at } if !is_due(*retry_at, now) => Some(error.clone()),
            Phase::Failed { .. } => {
                self.dialer.begin_again();
                self.dial(now);
                None
            }
            Phase::Pausing { .. }
            | Phase::Lost
            | Phase::Dialing { .. }
            | Phase::Opening { .. }
            | Phase::Ready { .. } => None,
        }
    }

    pub(super) fn late(&self, whom: &str) -> Error {
        match (&self.dialer.last_error, &self.dialer.phase) {
            (Some(error), Phase::Pausing { .. }) => error.clone(),
            (Some(error), _) => Error::new(
                ErrorKind::Timeout,
                format!("{whom} did not accept the connection in time; before that: {error}"),
            ),
            (None, _) => Error::new(
                ErrorKind::Timeout,
                format!("{whom} did not accept the connection in time"),
            ),
        }
    }
}

fn plaintext_key_refusal(endpoint: &Endpoint) -> Error {
    Error::new(
        ErrorKind::WrongDialect,
        format!(
            "{endpoint} speaks the framed dialect, whose handshake would carry the API key in plaintext: use TLS, or set \
             the dialect to framed to allow it"
        ),
    )
}
