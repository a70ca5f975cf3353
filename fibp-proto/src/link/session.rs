//! When and where to dial, how to open, and what a lost connection means.

use std::time::Instant;

use super::Link;
use super::completion::{Action, Completion, DialId, Reply};
use super::submit::closed;
use super::work::Work;
use crate::config::{Backoff, Endpoint, Reconnect, Settings};
use crate::connection::{Arrival, Broken, Connection, Options};
use crate::dialect::{AdminRevision, Codec, Dialect};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, LinkName, State};
use crate::fault::Fault;
use crate::frame::Layout;
use crate::message::Secret;
use crate::soonest::{earlier, is_due};

/// A connection that lasted this long was a success even if nothing was asked on it.
const STABLE: std::time::Duration = std::time::Duration::from_secs(1);

/// After an error that another attempt will not mend, calls fail at once for this long; then one may try again.
const FAILED_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a link is with its connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    /// Which of the configured endpoints is next.
    next_endpoint: usize,
    /// A node to dial instead: the one this link is for, or a leader it was sent to.
    target: Option<Endpoint>,
    /// Leaders followed since the last success.
    followed: Vec<Endpoint>,
    /// Failed attempts since the last success.
    attempts: u32,
    /// Failures in a row that another attempt at the same endpoint will not mend.
    fatal_in_a_row: usize,
    dials: u32,
    /// By when the first connection must be there.
    open_by: Option<Instant>,
    was_ready: bool,
    /// The dialect to try once because the one before it was refused, or not answered: a guess.
    other_dialect: Option<Dialect>,
    key: Option<Secret>,
    /// The handshake under way does not carry the key (see [`Link::withholds_key`]).
    key_withheld: bool,
    pub(super) last_error: Option<Error>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Between attempts.
    ///
    /// Here as everywhere, an instant beyond the clock's range is `None`: no limit.
    Pausing {
        until: Option<Instant>,
    },
    Dialing {
        id: DialId,
        endpoint: Endpoint,
        deadline: Option<Instant>,
    },
    /// The socket is open; TLS, greeting and authentication are under way.
    Opening {
        endpoint: Endpoint,
        deadline: Option<Instant>,
    },
    Ready {
        endpoint: Endpoint,
        since: Instant,
    },
    /// Given up, for now.
    Failed {
        error: Error,
        retry_at: Option<Instant>,
    },
    /// A goodbye is on its way, or the server is given time to close.
    Leaving {
        until: Option<Instant>,
        half_closed: bool,
        /// The node to dial then; `None`: the link is over.
        next: Option<Endpoint>,
    },
    Closed {
        error: Error,
    },
}

impl Session {
    pub(super) fn new(_settings: &Settings) -> Self {
        Self {
            phase: Phase::Closed {
                error: closed("the link"),
            },
            next_endpoint: 0,
            target: None,
            followed: Vec::new(),
            attempts: 0,
            fatal_in_a_row: 0,
            dials: 0,
            open_by: None,
            was_ready: false,
            other_dialect: None,
            key: None,
            key_withheld: false,
            last_error: None,
        }
    }

    /// Dial this node, not the configured ones.
    pub(super) fn aim_at(&mut self, endpoint: Endpoint) {
        self.target = Some(endpoint);
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. } | Phase::Closed { .. })
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// The node of the current attempt or connection.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        match &self.phase {
            Phase::Dialing { endpoint, .. } | Phase::Opening { endpoint, .. } | Phase::Ready { endpoint, .. } => {
                Some(endpoint)
            }
            Phase::Pausing { .. } | Phase::Failed { .. } | Phase::Leaving { .. } | Phase::Closed { .. } => None,
        }
    }

    pub(super) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Pausing { until } | Phase::Leaving { until, .. } => *until,
            // The driver keeps the deadline of a dial, this one only makes sure.
            Phase::Dialing { deadline, .. } | Phase::Opening { deadline, .. } => *deadline,
            Phase::Ready { .. } | Phase::Failed { .. } | Phase::Closed { .. } => None,
        };
        earlier(phase, self.open_by)
    }

    /// The server does what it is asked: past failures count no more. A handshake alone is no success, or a
    /// server that drops every connection at once would be dialed without a pause.
    pub(super) fn note_success(&mut self) {
        self.attempts = 0;
    }

    /// No leader that was followed is in doubt any more.
    pub(super) fn forget_followed(&mut self) {
        self.followed.clear();
    }

    /// Whether a redirect to `leader` is followed: not in circles, and not for ever.
    pub(super) fn may_follow(&mut self, leader: &Endpoint, limit: u32) -> bool {
        if self.followed.contains(leader) || self.followed.len() >= limit as usize {
            return false;
        }
        self.followed.push(leader.clone());
        true
    }
}

impl<T> Link<T> {
    /// Starts the first attempt.
    pub(super) fn begin(&mut self, now: Instant, opened: Option<T>) {
        let timeout = self.shared.config().settings().connect_timeout;
        if let Some(token) = opened {
            let id = self.next_call_id();
            self.opened = Some((id, token));
            self.session.open_by = now.checked_add(timeout);
        }
        // Others may still be needed for what is being flushed.
        if matches!(self.name, LinkName::Consumer(_)) && self.shared.state() == State::Closed {
            return self.end_for_good(now, closed("the client"));
        }
        self.dial(now);
    }

    // ---- dialing ----

    fn dial(&mut self, now: Instant) {
        let settings = self.shared.config().settings();
        let learned = self
            .subscription
            .as_ref()
            .and_then(|subscription| self.shared.leader(Purpose::Consume, &subscription.queue()));
        let configured = settings
            .endpoints
            .get(self.session.next_endpoint % settings.endpoints.len().max(1));
        let Some(endpoint) = self.session.target.clone().or(learned).or_else(|| configured.cloned()) else {
            return self.give_up(now, Error::new(ErrorKind::Config, "no server address is configured"));
        };
        let deadline = earlier(self.session.open_by, now.checked_add(settings.connect_timeout));
        self.session.dials = self.session.dials.wrapping_add(1);
        let id = DialId(self.session.dials);
        self.session.phase = Phase::Dialing {
            id,
            endpoint: endpoint.clone(),
            deadline,
        };
        self.actions.push_back(Action::Dial { id, endpoint, deadline });
        self.needs_driver = true;
    }

    /// The dial `id` succeeded: a TCP connection is open. `key` is what the configuration's credentials say now
    /// ([`Credentials::key`](crate::config::Credentials::key)); ask them before taking the lock this link is under.
    pub fn handle_dialed(&mut self, now: Instant, id: DialId, key: Result<Option<Secret>, Error>) {
        let _span = self.span.enter();
        let Phase::Dialing {
            id: current,
            endpoint,
            deadline,
        } = &self.session.phase
        else {
            return;
        };
        if *current != id {
            return;
        }
        let (endpoint, deadline) = (endpoint.clone(), *deadline);
        self.session.phase = Phase::Opening {
            endpoint: endpoint.clone(),
            deadline,
        };
        self.transport.open(now);
        match key {
            Ok(key) => self.session.key = key,
            Err(error) => return self.handle_broken(now, Broken::new(error)),
        }
        match self.shared.tls() {
            Some(context) => match crate::tls::TlsPipe::new(context, &endpoint.host) {
                Ok(pipe) => self.transport.begin_tls(pipe),
                Err(error) => self.handle_broken(now, Broken::new(error)),
            },
            None => {
                let (dialect, admin_known) = self.plain_dialect(&endpoint);
                self.open_connection(now, dialect, admin_known);
            }
        }
        self.finish_turn(now);
    }

    /// The dial `id` failed.
    pub fn handle_dial_failed(&mut self, now: Instant, id: DialId, fault: Fault) {
        let _span = self.span.enter();
        if matches!(&self.session.phase, Phase::Dialing { id: current, .. } if *current == id) {
            self.handle_broken(now, Broken::new(fault.into_dial_error()));
        }
        self.finish_turn(now);
    }

    /// What to open with where no ALPN tells, and whether the admin revision was configured.
    fn plain_dialect(&self, endpoint: &Endpoint) -> (Dialect, bool) {
        let configured = self.shared.config().settings().dialect;
        if configured != Dialect::Auto {
            return (configured, true);
        }
        let guess = self.session.other_dialect;
        let first = guess.or_else(|| self.shared.directory().dialect(endpoint));
        (first.unwrap_or(Dialect::Preamble(AdminRevision::P1)), false)
    }

    /// TLS is up: the server's choice of ALPN names the dialect.
    pub(super) fn open_in_tls(&mut self, now: Instant, alpn: Option<Vec<u8>>) {
        let Some(endpoint) = self.session.endpoint().cloned() else {
            return;
        };
        let configured = self.shared.config().settings().dialect;
        let (dialect, admin_known) = match alpn.as_deref() {
            Some(b"h2") => {
                let error = Error::new(
                    ErrorKind::WrongDialect,
                    "the server speaks gRPC only (it chose ALPN h2): this client needs a Fila server with FIBP",
                );
                return self.handle_broken(now, Broken::new(error));
            }
            Some(b"fila/1") if configured == Dialect::Auto => (Dialect::Framed, false),
            Some(b"fibp") if configured == Dialect::Auto => (Dialect::Preamble(AdminRevision::P1), false),
            _ => self.plain_dialect(&endpoint),
        };
        self.open_connection(now, dialect, admin_known);
    }

    fn open_connection(&mut self, now: Instant, dialect: Dialect, admin_known: bool) {
        let Some(endpoint) = self.session.endpoint().cloned() else {
            return;
        };
        let Some(codec) = dialect.codec() else { return };
        let key = self.session.key.take();
        self.session.key_withheld = key.is_some() && self.withholds_key(&endpoint, codec);
        let key = key.filter(|_| !self.session.key_withheld);
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
                connection.turn_knobs(self.knobs);
                self.connection = Some(Box::new(connection));
            }
            Err(error) => self.handle_broken(now, Broken::new(error)),
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
            self.shared.push_event(Event::KeyOverPlaintext {
                endpoint: endpoint.clone(),
            });
        }
    }

    // ---- arrivals ----

    pub(super) fn handle_arrival(&mut self, now: Instant, arrival: Arrival<Work<T>>) {
        match arrival {
            Arrival::Ready => self.handle_ready(now),
            Arrival::AdminRevision(Ok(())) => self.release_admin_calls(),
            Arrival::AdminRevision(Err(error)) => self.fail_admin_calls(&error),
            Arrival::Answer { work, response } => self.handle_answer(now, work, response),
            Arrival::Again(work) => self.send_again(now, work),
            Arrival::Push(push) => self.handle_push(now, push),
            Arrival::Goodbye(text) => {
                let text = if text.is_empty() {
                    "the server says goodbye".to_owned()
                } else {
                    format!("the server says goodbye: {text}")
                };
                self.handle_broken(now, Broken::new(Error::new(ErrorKind::Disconnected, text)));
            }
        }
    }

    fn handle_ready(&mut self, now: Instant) {
        let (Some(endpoint), Some(connection)) = (self.session.endpoint().cloned(), &self.connection) else {
            return;
        };
        if self.session.key_withheld {
            return self.handle_broken(now, Broken::new(plaintext_key_refusal(&endpoint)));
        }
        let dialect = connection.dialect();
        self.lanes.set_one_each(now, connection.is_cluster());
        self.shared.directory().learn_dialect(&endpoint, dialect);
        self.session.phase = Phase::Ready {
            endpoint: endpoint.clone(),
            since: now,
        };
        self.session.was_ready = true;
        self.session.fatal_in_a_row = 0;
        self.session.last_error = None;
        self.session.other_dialect = None;
        self.stats.connections += 1;
        self.shared.push_event(Event::Connected {
            link: self.name.clone(),
            endpoint,
            dialect,
        });
        if self.subscription.is_some() {
            self.subscribe(now);
        } else {
            self.set_state(State::Connected);
            self.complete_opened(Ok(()));
        }
    }

    pub(super) fn complete_opened(&mut self, result: Result<(), Error>) {
        self.session.open_by = None;
        if let Some((_, token)) = self.opened.take() {
            self.completions.push(Completion {
                token,
                reply: Reply::Opened(result),
            });
        }
    }

    // ---- failures ----

    /// The connection, or the attempt to make one, is over.
    pub(super) fn handle_broken(&mut self, now: Instant, broken: Broken) {
        let Broken {
            mut error,
            try_other_dialect,
        } = broken;
        if let Phase::Leaving { .. } = self.session.phase {
            return self.finish_leaving(now);
        }
        if self.session.is_closed() {
            return;
        }
        let here = self.session.endpoint().cloned();
        if try_other_dialect && self.try_other_dialect(now, here.as_ref(), &error) {
            return;
        }
        let withheld = std::mem::take(&mut self.session.key_withheld);
        if withheld
            && !try_other_dialect
            && error.server_text().is_some()
            && let Some(here) = &here
        {
            // Framed servers alone refuse in the words of the framed dialect.
            error = plaintext_key_refusal(here);
        }
        let guessed = self.session.other_dialect.take().is_some();
        // It speaks the first dialect after all, or its name is gone the moment after it was found: what counts is why
        // the first dialect failed, most likely a restart. A guess makes nothing final.
        if guessed
            && (try_other_dialect || error.kind() == ErrorKind::Resolve)
            && let Some(first) = self.session.last_error.take()
        {
            error = first;
        }
        if let Some(here) = &here {
            self.shared.directory().forget_leader(here);
        }
        let ready_since = match &self.session.phase {
            Phase::Ready { since, .. } => Some(*since),
            _ => None,
        };
        let was_ready = ready_since.is_some();
        if was_ready {
            self.stats.disconnects += 1;
            self.take_last_deliveries(now);
        }
        if ready_since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.session.note_success();
        }
        self.shared.push_event(Event::Disconnected {
            link: self.name.clone(),
            cause: error.clone(),
        });
        self.session.last_error = Some(error.clone());
        let plan = self.plan_after(&error, was_ready);
        let works = self.hang_up();
        self.retry_or_fail(now, works, &error, !matches!(plan, Plan::End));
        match plan {
            Plan::End => self.end_for_good(now, error),
            Plan::GiveUp => self.give_up(now, error),
            Plan::ReturnToMain => {
                self.return_everything();
                self.end_for_good(now, error);
            }
            Plan::Again(backoff) => self.pause(now, backoff),
        }
    }

    fn plan_after(&mut self, error: &Error, was_ready: bool) -> Plan {
        let settings = self.shared.config().settings();
        let endpoints = settings.endpoints.len();
        if matches!(self.name, LinkName::Node(_)) {
            return Plan::ReturnToMain;
        }
        if self.ends_with_connection() || (self.subscription.is_some() && spoils_consumer(error, was_ready)) {
            return Plan::End;
        }
        // A redirect that leads nowhere is forgotten; the configured servers know the way.
        self.session.target = None;
        self.session.next_endpoint = self.session.next_endpoint.wrapping_add(1);
        let Reconnect::Backoff(backoff) = settings.reconnect else {
            let tried = usize::try_from(self.session.attempts).unwrap_or(usize::MAX);
            self.session.attempts = self.session.attempts.saturating_add(1);
            if !self.session.was_ready && tried + 1 < endpoints {
                return Plan::Again(None);
            }
            return Plan::End;
        };
        if is_fatal(error.kind(), self.session.was_ready) {
            self.session.fatal_in_a_row += 1;
            if self.session.fatal_in_a_row >= endpoints {
                return self.given_up();
            }
        } else {
            // This server may come back.
            self.session.fatal_in_a_row = 0;
        }
        self.session.attempts = self.session.attempts.saturating_add(1);
        if backoff.max_attempts.is_some_and(|max| self.session.attempts >= max) {
            return self.given_up();
        }
        // The other servers of the list are worth trying at once.
        let first_round = usize::try_from(self.session.attempts).unwrap_or(usize::MAX) < endpoints;
        Plan::Again((!first_round).then_some(backoff))
    }

    /// A link that somebody waits to see open, or a consumer, ends; a main link lets later calls try again.
    fn given_up(&self) -> Plan {
        if self.opened.is_some() || self.subscription.is_some() {
            Plan::End
        } else {
            Plan::GiveUp
        }
    }

    /// Drops the socket and what belongs to it; returns what was in flight.
    pub(super) fn hang_up(&mut self) -> Vec<(Work<T>, bool)> {
        self.note_unsubscribed();
        let has_socket = self.transport.is_open() || matches!(self.session.phase, Phase::Dialing { .. });
        if has_socket && !matches!(self.actions.back(), Some(Action::Hangup)) {
            self.actions.push_back(Action::Hangup);
        }
        self.transport.close();
        self.release_admin_calls();
        self.needs_driver = true;
        self.connection
            .take()
            .map(|mut connection| connection.drain())
            .unwrap_or_default()
    }

    fn try_other_dialect(&mut self, now: Instant, here: Option<&Endpoint>, error: &Error) -> bool {
        let auto = self.shared.config().settings().dialect == Dialect::Auto;
        if !auto || self.session.other_dialect.is_some() {
            return false;
        }
        let (Some(here), Some(connection)) = (here, &self.connection) else {
            return false;
        };
        self.session.other_dialect = Some(match connection.codec().layout() {
            Layout::FlagsFirst => Dialect::Framed,
            Layout::OpcodeFirst => Dialect::Preamble(AdminRevision::P1),
        });
        self.session.last_error = Some(error.clone());
        self.redial_at(now, here.clone());
        true
    }

    /// Leaves the current connection for a new one to `endpoint`, without a pause.
    pub(super) fn redial_at(&mut self, now: Instant, endpoint: Endpoint) {
        let works = self.hang_up();
        let error = Error::new(ErrorKind::Disconnected, "the connection was left for another");
        self.retry_or_fail(now, works, &error, true);
        self.session.target = Some(endpoint);
        self.dial(now);
        // Only this once: later attempts go by what was learned.
        if !matches!(self.name, LinkName::Node(_)) {
            self.session.target = None;
        }
    }

    fn pause(&mut self, now: Instant, backoff: Option<Backoff>) {
        let attempt = self.session.attempts;
        let delay = backoff.map_or(std::time::Duration::ZERO, |backoff| {
            let doublings = attempt.saturating_sub(1).min(31);
            let bound = backoff.initial.saturating_mul(1 << doublings).min(backoff.max);
            self.random.up_to(bound)
        });
        self.shared.push_event(Event::Reconnecting {
            link: self.name.clone(),
            attempt,
            delay,
        });
        if self.session.was_ready {
            self.set_state(State::Reconnecting);
        }
        self.session.phase = Phase::Pausing {
            until: now.checked_add(delay),
        };
        if delay.is_zero() {
            self.dial(now);
        }
    }

    /// Another attempt will not mend it: what waits fails, later calls may try once more.
    fn give_up(&mut self, now: Instant, error: Error) {
        self.fail_everything(&error);
        self.set_state(State::Failed);
        self.session.phase = Phase::Failed {
            error,
            retry_at: now.checked_add(FAILED_PAUSE),
        };
    }

    /// The link is over: what waits fails, nothing new is taken.
    pub(super) fn end_for_good(&mut self, now: Instant, error: Error) {
        if self.session.is_closed() {
            return;
        }
        self.fail_everything(&error);
        self.complete_opened(Err(error.clone()));
        self.end_consumer(Some(error.clone()));
        self.session.last_error = Some(error.clone());
        self.shut(now);
        if let Phase::Closed { error: shown } = &mut self.session.phase {
            *shown = error;
        }
        self.set_state(State::Failed);
    }

    fn set_state(&self, state: State) {
        if self.name == LinkName::Main {
            self.shared.set_state(state);
        }
    }

    /// Why nothing new is taken; a given-up link whose pause is over tries once more.
    pub(super) fn session_refusal(&mut self, now: Instant) -> Option<Error> {
        match &self.session.phase {
            Phase::Closed { error } => Some(error.clone()),
            Phase::Leaving { .. } => Some(closed("the client")),
            Phase::Failed { error, retry_at } if !is_due(*retry_at, now) => Some(error.clone()),
            Phase::Failed { .. } => {
                self.session.fatal_in_a_row = 0;
                self.session.attempts = 0;
                self.set_state(State::Reconnecting);
                self.dial(now);
                None
            }
            Phase::Pausing { .. } | Phase::Dialing { .. } | Phase::Opening { .. } | Phase::Ready { .. } => None,
        }
    }

    // ---- time ----

    pub(super) fn check_session(&mut self, now: Instant) {
        if is_due(self.session.open_by, now) {
            let error = self.late("the server");
            self.session.last_error = Some(error.clone());
            return self.end_for_good(now, error);
        }
        match &self.session.phase {
            Phase::Pausing { until } if is_due(*until, now) => self.dial(now),
            Phase::Dialing { deadline, endpoint, .. } | Phase::Opening { deadline, endpoint }
                if is_due(*deadline, now) =>
            {
                let error = self.late(&endpoint.to_string());
                self.handle_broken(now, Broken::new(error));
            }
            Phase::Leaving { until, .. } if is_due(*until, now) => self.finish_leaving(now),
            _ => {}
        }
        if let Some(Err(broken)) = self.connection_mut().map(|connection| connection.heartbeat(now)) {
            self.handle_broken(now, broken);
        }
    }

    fn late(&self, whom: &str) -> Error {
        match (&self.session.last_error, &self.session.phase) {
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

enum Plan {
    /// Dial again, after a pause drawn from the backoff.
    Again(Option<Backoff>),
    /// Stop trying by itself.
    GiveUp,
    /// The link is over.
    End,
    /// The node is gone; the main link takes over.
    ReturnToMain,
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

/// Errors that another attempt will not mend. A name that resolved before may do so again.
fn is_fatal(kind: ErrorKind, was_ready: bool) -> bool {
    match kind {
        ErrorKind::Auth
        | ErrorKind::Forbidden
        | ErrorKind::Tls
        | ErrorKind::NotFila
        | ErrorKind::WrongDialect
        | ErrorKind::Config
        | ErrorKind::Unsupported
        | ErrorKind::InvalidArgument => true,
        ErrorKind::Resolve => !was_ready,
        _ => false,
    }
}

/// Deliveries that cannot be taken in would come again and again.
fn spoils_consumer(error: &Error, was_ready: bool) -> bool {
    was_ready && matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Protocol)
}
