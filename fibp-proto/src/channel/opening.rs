//! From a dial to a connection that is ready, and from a lost one to the next dial.

use std::time::Instant;

use super::dialer::{Phase, Plan, STABLE, Target};
use super::{Channel, Ending, Lost, closed};
use crate::config::{Backoff, Endpoint};
use crate::connection::{Broken, Connection, Options};
use crate::dial::NO_ANSWER;
use crate::dialect::{AdminRevision, Codec, Dialect};
use crate::directory::Purpose;
use crate::earliest_deadline::earlier;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::fault::{Fault, FaultKind};
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
            self.dialer.phase = Phase::Closed {
                error: Error::new(ErrorKind::Config, "no server address is configured"),
                since: Some(now),
            };
            return;
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
        // A dial that was given up may succeed all the same. It is not the attempt that counts.
        if *current != id {
            return;
        }
        let (endpoint, deadline) = (endpoint.clone(), *deadline);
        self.dialer.phase = Phase::Opening {
            endpoint: endpoint.clone(),
            deadline,
        };
        // Before anything can fail: only an open transport is hung up, and the driver holds a socket by now.
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
                // Under TLS this waits until ALPN has named the dialect: `open_in_tls`.
                let (dialect, admin_known) = self.plain_dialect(&endpoint);
                self.open_connection(now, dialect, admin_known);
            }
        }
    }

    /// The dial `id` failed. Events may follow.
    pub(crate) fn handle_dial_failed(&mut self, now: Instant, id: DialId, fault: Fault) {
        if matches!(&self.dialer.phase, Phase::Dialing { id: current, .. } if *current == id) {
            self.dialer.forget_unanswered_tls();
            let error = self.dial_error(fault);
            self.break_off(now, Broken::new(error));
        }
    }

    /// The error of a dial that failed. It names the address by itself.
    fn dial_error(&self, mut fault: Fault) -> Error {
        if let Some(endpoint) = self.dialer.endpoint()
            && let Some(cause) = fault.text.strip_prefix(&format!("{endpoint}: "))
        {
            fault.text = cause.to_owned();
        }
        if fault.kind == FaultKind::TimedOut {
            fault.text = match &*fault.text {
                NO_ANSWER => self.no_connection(),
                text => format!("{}: {text}", self.no_connection()),
            };
        }
        fault.into_dial_error()
    }

    fn no_connection(&self) -> String {
        let limit = self.shared.config().settings().connect_timeout;
        format!("no TCP connection within the connect_timeout of {limit:?}")
    }

    /// Says where an error happened, and how to give a key where one is missing.
    pub(crate) fn place(&self, error: Error) -> Error {
        let error = error.at(self.dialer.endpoint());
        if error.kind() != ErrorKind::Auth {
            return error;
        }
        error.with_remedy(if self.shared.config().settings().credentials.is_none() {
            "the server requires an API key, and none is configured: set one with api_key, as fila://KEY@host:port, or \
             with FILA_API_KEY"
        } else {
            "the server does not accept the API key that is configured: check it with its administrator"
        })
    }

    /// The peer ended a TLS handshake. A server that restarts, or a proxy before it, cuts handshakes short: that is no
    /// reason to give up for good, unless it happens whenever it is tried. `heard`: the peer began to answer.
    pub(super) fn judge_tls_end(&mut self, error: Error, heard: bool) -> Error {
        let known = self
            .dialer
            .endpoint()
            .is_some_and(|endpoint| self.shared.directory().dialect(endpoint).is_some());
        if heard {
            self.dialer.forget_unanswered_tls();
        } else if self.dialer.note_unanswered_tls(known) {
            return error.with_remedy("use fila:// if it does not");
        }
        error.with_kind(ErrorKind::Disconnected)
    }

    /// What to open with where no ALPN tells, and whether the admin revision was configured.
    fn plain_dialect(&self, endpoint: &Endpoint) -> (Dialect, bool) {
        let configured = self.shared.config().settings().dialect;
        if configured != Dialect::Auto {
            return (configured, true);
        }
        let guess = self.dialer.other_dialect;
        let first = guess.or_else(|| self.shared.directory().dialect(endpoint));
        (first.unwrap_or(Dialect::Preamble(AdminRevision::Protobuf)), false)
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
            Some(b"fila/1") if configured == Dialect::Auto => (Dialect::Handshake, false),
            Some(b"fibp") if configured == Dialect::Auto => (Dialect::Preamble(AdminRevision::Protobuf), false),
            _ => self.plain_dialect(&endpoint),
        };
        self.open_connection(now, dialect, admin_known);
    }

    fn open_connection(&mut self, now: Instant, dialect: Dialect, admin_known: bool) {
        let Some(endpoint) = self.dialer.endpoint().cloned() else {
            return;
        };
        // Only `Auto` has none, and `plain_dialect` has decided by now.
        let Some(codec) = dialect.codec() else { return };
        // Taken: the next dial asks for the credentials again, and a key that was replaced is not kept.
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
            pool: self.shared.pool().clone(),
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
            self.break_off(now, Broken::new(plaintext_key_refusal()));
            return false;
        }
        let dialect = connection.dialect();
        // Learned from an answer, not from the socket: a proxy accepts connections to a server that is down.
        self.shared.directory().learn_dialect(&endpoint, dialect);
        self.dialer.note_ready(now, endpoint.clone());
        self.traffic.connections += 1;
        self.span.record(&endpoint, dialect);
        if self.renewing {
            crate::trace::renewed(&endpoint);
        } else {
            self.push_event(Event::Connected {
                connection: self.role.clone(),
                endpoint,
                dialect,
            });
        }
        true
    }

    // ---- lost ----

    /// The connection, or the attempt to make one, is over. Events follow.
    pub(super) fn break_off(&mut self, now: Instant, broken: Broken) {
        let Broken {
            error,
            try_other_dialect,
        } = broken;
        let mut error = self.place(error);
        if !self.dialer.is_ready() {
            error = error.connecting();
        }
        // The first reason is the one to report. What follows it, such as a reset after a bad frame, says less.
        if self.ending.is_some() || self.dialer.is_closed() {
            return;
        }
        // However a connection ends after our goodbye: that is what we asked for, and no failure.
        if let Phase::Leaving { .. } = self.dialer.phase {
            self.ending = Some(Ending::Left);
            return;
        }
        let here = self.dialer.endpoint().cloned();
        if try_other_dialect && self.try_other_dialect(now, here.as_ref(), &error) {
            return;
        }
        let withheld = std::mem::take(&mut self.dialer.key_withheld);
        if withheld && !try_other_dialect && error.server_text().is_some() {
            // Framed servers alone refuse in the words of the framed dialect.
            error = self.place(plaintext_key_refusal()).connecting();
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
        if let Some(here) = self.dialer.endpoint().cloned() {
            // It may have lost its queues, too. Whoever asks next learns from the configured servers who leads.
            self.shared.directory().forget_leader(&here);
            if !self.dialer.is_ready() {
                self.dialer.note_failure(&here, &error);
            }
        }
        let ready_since = match &self.dialer.phase {
            Phase::Ready { since, .. } => Some(*since),
            _ => None,
        };
        if ready_since.is_some() {
            self.traffic.disconnects += 1;
        }
        // Before the machine plans: what follows a connection that lasted is the first attempt of a new series.
        if ready_since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.dialer.note_success();
        }
        self.renewing = false;
        self.push_event(Event::Disconnected {
            connection: self.role.clone(),
            cause: error.clone(),
        });
        self.dialer.last_error = Some(error.clone());
        // After the event: whoever hears of the failures can find out why.
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
            Layout::FlagsFirst => Dialect::Handshake,
            Layout::OpcodeFirst => Dialect::Preamble(AdminRevision::Protobuf),
        });
        self.dialer.last_error = Some(error.clone());
        self.redial_at(now, here.clone());
        true
    }

    /// What the dialer makes of a loss: counts it.
    pub(crate) fn plan_after(&mut self, error: &Error) -> Plan {
        self.dialer.plan_after(error, self.shared.config().settings())
    }

    /// The error to report when no further attempt follows this one: with all servers that were tried, and how often.
    pub(crate) fn summarise(&self, error: Error) -> Error {
        self.dialer.summarise(error)
    }

    /// Leaves the current connection for a new one to `endpoint`, without a pause. What was in flight is dropped.
    pub(crate) fn redial_at(&mut self, now: Instant, endpoint: Endpoint) {
        // Callers see to it that nothing with a token is in flight: this happens before a connection is ready, or to a
        // consumer.
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
        // At once: a timeout of now would have to find its way to the driver first.
        if delay.is_zero() {
            self.dial(now);
        }
    }

    /// It was ready before.
    pub(crate) fn was_ready(&self) -> bool {
        self.dialer.was_ready
    }

    /// Stops trying until [`refusal`](Self::refusal) is asked.
    pub(crate) fn give_up(&mut self) {
        self.dialer.phase = Phase::Failed;
    }

    /// Another attempt waits until somebody asks for something.
    pub(crate) fn has_given_up(&self) -> bool {
        matches!(self.dialer.phase, Phase::Failed)
    }

    /// Why nothing new is taken; a channel that gave up tries once more.
    pub(crate) fn refusal(&mut self, now: Instant) -> Option<Error> {
        match &self.dialer.phase {
            Phase::Closed { error, since } => Some(ended(now, *since, error)),
            Phase::Leaving { .. } => Some(closed("the client")),
            Phase::Failed => {
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

    /// The first connection takes too long, however many attempts there were.
    pub(super) fn late(&self) -> Error {
        if let (Phase::Pausing { .. }, Some(error)) = (&self.dialer.phase, &self.dialer.last_error) {
            return self.summarise(error.clone());
        }
        let error = self.late_attempt();
        let error = match self.dialer.earlier_failures(self.dialer.endpoint()) {
            Some(before) => error.after(&before),
            None => error,
        };
        error.with_attempts(self.dialer.failed_dials().saturating_add(1))
    }

    /// The attempt under way takes too long.
    pub(super) fn late_attempt(&self) -> Error {
        let limit = self.shared.config().settings().connect_timeout;
        let handshaking = self.transport.tls.as_ref().map(|tls| tls.pipe.is_handshaking());
        let (text, remedy) = match (&self.dialer.phase, handshaking) {
            (Phase::Opening { .. }, Some(true)) => (
                format!(
                    "TCP was accepted, but the TLS handshake was not answered within the connect_timeout of {limit:?}"
                ),
                Some("check that the server speaks TLS on this port, or use fila:// if it does not"),
            ),
            (Phase::Opening { .. }, tls) => (
                format!(
                    "TCP was accepted, but the FIBP handshake was not answered within the connect_timeout of {limit:?}"
                ),
                Some(if tls.is_some() {
                    "check that a Fila server listens on this port, and is not overloaded"
                } else {
                    "check that a Fila server listens on this port, and use fila+tls:// if it speaks TLS"
                }),
            ),
            _ => (self.no_connection(), None),
        };
        let error = Error::new(ErrorKind::Timeout, text)
            .at(self.dialer.endpoint())
            .connecting();
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}

/// Why a channel that is over takes nothing.
fn ended(now: Instant, since: Option<Instant>, error: &Error) -> Error {
    if error.kind() == ErrorKind::Closed {
        return error.clone();
    }
    let ago = match since.map_or(0, |since| now.saturating_duration_since(since).as_secs()) {
        0 => "less than a second ago".to_owned(),
        seconds => format!("{seconds} s ago"),
    };
    let text = format!("the client gave up {ago}: {}", error.without_remedy());
    Error::new(ErrorKind::Closed, text).with_remedy("mend the cause, then connect a new client")
}

fn plaintext_key_refusal() -> Error {
    Error::new(
        ErrorKind::Config,
        "the server speaks the framed dialect, whose handshake would carry the API key in plaintext over the network: use \
         TLS, or set the dialect to framed to allow it",
    )
}
