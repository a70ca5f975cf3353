//! When and where to dial, and what follows from a failure. Decides; does nothing itself.

use std::time::{Duration, Instant};

use super::closed;
use crate::config::{Backoff, Endpoint, Reconnect, Settings};
use crate::dialect::Dialect;
use crate::earliest_deadline::earlier;
use crate::error::{Error, ErrorKind};
use crate::machine::DialId;
use crate::message::{QueueName, Secret};
use crate::random::Random;

/// A connection that lasted this long was a success even if nothing was asked on it.
pub(super) const STABLE: Duration = Duration::from_secs(1);

/// So many openings in a row that a server closes without a word in TLS, at an address where nothing ever worked, show
/// that it does not speak TLS there. Fewer may be a server that restarts behind a proxy.
const UNANSWERED_TLS: u32 = 4;

/// For so many servers the last failure is kept, to be told when no attempt succeeded.
const MAX_FAILURES: usize = 16;

/// Whom a channel dials.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The configured servers, in turn.
    Configured,
    /// The leader of a queue as far as it is known, else the configured servers.
    LeaderOf(QueueName),
    /// One node of the cluster, once.
    Node(Endpoint),
}

/// Where a channel is with its connection.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) phase: Phase,
    pub(super) target: Target,
    /// Which of the configured endpoints is next.
    next_endpoint: usize,
    /// Dial this node next, once: a leader that was named.
    detour: Option<Endpoint>,
    /// Leaders followed since the last success.
    followed: Vec<Endpoint>,
    /// Failed attempts since the last success.
    pub(super) attempts: u32,
    /// Failures in a row that another attempt at the same endpoint cannot fix.
    fatal_in_a_row: usize,
    dials: u32,
    /// By when the first connection must be there.
    pub(super) open_by: Option<Instant>,
    pub(super) was_ready: bool,
    /// The dialect to try once because the one before it was refused, or not answered: a guess.
    pub(super) other_dialect: Option<Dialect>,
    pub(super) key: Option<Secret>,
    /// The handshake under way does not carry the key (see `Channel::withholds_key`).
    pub(super) key_withheld: bool,
    pub(super) last_error: Option<Error>,
    /// The last failure of each server since a connection was ready, in the order of the first ones.
    failures: Vec<(Endpoint, Error)>,
    /// Attempts that failed since a connection was ready.
    failed_dials: u32,
    /// Openings in a row that were closed without a word in TLS.
    unanswered_tls: u32,
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
    /// The connection is lost, and the machine has not said what is to follow.
    Lost,
    /// Given up, until somebody asks for something.
    Failed,
    /// A goodbye is on its way, or the server is given time to close.
    Leaving {
        until: Option<Instant>,
        half_closed: bool,
        /// The node to dial then; `None`: the channel is over.
        next: Option<Endpoint>,
    },
    Closed {
        error: Error,
        since: Option<Instant>,
    },
}

/// What to do after a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plan {
    /// Dial again, after a pause drawn from the backoff.
    Again(Option<Backoff>),
    /// Stop trying until somebody asks for something.
    GiveUp,
    /// Never try again.
    End,
}

impl Dialer {
    pub(super) fn new(target: Target) -> Self {
        Self {
            phase: Phase::Closed {
                error: closed("the connection"),
                since: None,
            },
            target,
            next_endpoint: 0,
            detour: None,
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
            failures: Vec::new(),
            failed_dials: 0,
            unanswered_tls: 0,
        }
    }

    // ---- looking in ----

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
            Phase::Pausing { .. } | Phase::Lost | Phase::Failed | Phase::Leaving { .. } | Phase::Closed { .. } => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Pausing { until } | Phase::Leaving { until, .. } => *until,
            // The driver keeps the deadline of a dial, this one only makes sure.
            Phase::Dialing { deadline, .. } | Phase::Opening { deadline, .. } => *deadline,
            Phase::Ready { .. } | Phase::Lost | Phase::Failed | Phase::Closed { .. } => None,
        };
        earlier(phase, self.open_by)
    }

    // ---- where to ----

    /// Dial this node next, whatever is configured.
    pub(super) fn make_detour(&mut self, endpoint: Endpoint) {
        self.detour = Some(endpoint);
    }

    /// The next server to dial. `leader`: who leads the target's queue, as far as it is known.
    pub(super) fn next_server(&mut self, settings: &Settings, leader: Option<Endpoint>) -> Option<Endpoint> {
        if let Target::Node(endpoint) = &self.target {
            return Some(endpoint.clone());
        }
        // Only this once: later attempts go by what was learned.
        let detour = self.detour.take();
        let configured = || {
            settings
                .endpoints
                .get(self.next_endpoint % settings.endpoints.len().max(1))
                .cloned()
        };
        // A leader that was named just now is news; what the directory remembers may be old; the configured servers are
        // always worth a try.
        detour.or(leader).or_else(configured)
    }

    pub(super) fn next_dial_id(&mut self) -> DialId {
        self.dials = self.dials.wrapping_add(1);
        DialId(self.dials)
    }

    /// Whether a redirect to `leader` is followed: not in circles, and not for ever.
    pub(super) fn may_follow(&mut self, leader: &Endpoint, limit: u32) -> bool {
        if self.followed.contains(leader) || self.followed.len() >= limit as usize {
            return false;
        }
        self.followed.push(leader.clone());
        true
    }

    /// No leader that was followed is in doubt any more.
    pub(super) fn forget_followed(&mut self) {
        self.followed.clear();
    }

    // ---- how it went ----

    /// The server does what it is asked: past failures count no more. A handshake alone is no success, or a
    /// server that drops every connection at once would be dialed without a pause.
    pub(super) fn note_success(&mut self) {
        self.attempts = 0;
    }

    pub(super) fn note_ready(&mut self, now: Instant, endpoint: Endpoint) {
        // `attempts` stays, so that the backoff goes on: see `note_success`.
        self.phase = Phase::Ready { endpoint, since: now };
        self.was_ready = true;
        self.fatal_in_a_row = 0;
        self.last_error = None;
        self.other_dialect = None;
        self.failures.clear();
        self.failed_dials = 0;
        self.unanswered_tls = 0;
    }

    /// An attempt to connect failed.
    pub(super) fn note_failure(&mut self, endpoint: &Endpoint, error: &Error) {
        self.failed_dials = self.failed_dials.saturating_add(1);
        if let Some((_, last)) = self.failures.iter_mut().find(|(known, _)| known == endpoint) {
            *last = error.clone();
        } else if self.failures.len() < MAX_FAILURES {
            self.failures.push((endpoint.clone(), error.clone()));
        }
    }

    /// A server ended the opening without a word in TLS; true if that shows that it does not speak TLS. `known`: a
    /// connection to it worked before.
    pub(super) fn note_unanswered_tls(&mut self, known: bool) -> bool {
        self.unanswered_tls = self.unanswered_tls.saturating_add(1);
        !known && self.unanswered_tls >= UNANSWERED_TLS
    }

    /// The server was not reached, or said something: what came before says nothing of TLS.
    pub(super) fn forget_unanswered_tls(&mut self) {
        self.unanswered_tls = 0;
    }

    /// The error to report when no further attempt follows: the last one, with all servers that were tried and how
    /// often.
    pub(super) fn summarise(&self, error: Error) -> Error {
        match self.failures.as_slice() {
            [] => error,
            [_] => error.with_attempts(self.failed_dials),
            _ => error
                .of_many_servers(list(&self.failures))
                .with_attempts(self.failed_dials),
        }
    }

    /// What happened before an attempt to reach `endpoint` that is late.
    pub(super) fn earlier_failures(&self, endpoint: Option<&Endpoint>) -> Option<String> {
        match self.failures.as_slice() {
            [] => None,
            [(only, error)] if Some(only) == endpoint => Some(error.cause().to_string()),
            failures => Some(list(failures)),
        }
    }

    pub(super) fn failed_dials(&self) -> u32 {
        self.failed_dials
    }

    /// Somebody asks for something after all: try as if for the first time.
    pub(super) fn begin_again(&mut self) {
        self.fatal_in_a_row = 0;
        self.attempts = 0;
    }

    /// What to do after this failure. Counts it.
    pub(super) fn plan_after(&mut self, error: &Error, settings: &Settings) -> Plan {
        // The route to a node ends with its connection, and its work goes back to the main route, which learns who leads
        // now.
        if matches!(self.target, Target::Node(_)) {
            return Plan::End;
        }
        let endpoints = settings.endpoints.len();
        // A redirect that leads nowhere is forgotten; the configured servers know the way.
        self.detour = None;
        // Whatever went wrong: servers take turns, so one that accepts and fails does not keep the others from being
        // tried.
        self.next_endpoint = self.next_endpoint.wrapping_add(1);
        let Reconnect::Backoff(backoff) = settings.reconnect else {
            let tried = usize::try_from(self.attempts).unwrap_or(usize::MAX);
            self.attempts = self.attempts.saturating_add(1);
            if !self.was_ready && tried + 1 < endpoints {
                return Plan::Again(None);
            }
            return Plan::End;
        };
        if is_fatal(error.kind(), self.was_ready) {
            self.fatal_in_a_row += 1;
            if self.fatal_in_a_row >= endpoints {
                return Plan::GiveUp;
            }
        } else {
            // This server may come back.
            self.fatal_in_a_row = 0;
        }
        self.attempts = self.attempts.saturating_add(1);
        if backoff.max_attempts.is_some_and(|max| self.attempts >= max) {
            return Plan::End;
        }
        // The other servers of the list are worth trying at once.
        let first_round = usize::try_from(self.attempts).unwrap_or(usize::MAX) < endpoints;
        Plan::Again((!first_round).then_some(backoff))
    }

    /// How long to pause before the next attempt: full jitter below a bound that doubles with each failure.
    pub(super) fn pause(&self, backoff: Option<Backoff>, random: &mut Random) -> Duration {
        backoff.map_or(Duration::ZERO, |backoff| {
            // A shift by more than 31 would overflow; the maximum is reached long before.
            let doublings = self.attempts.saturating_sub(1).min(31);
            let bound = backoff.initial.saturating_mul(1 << doublings).min(backoff.max);
            random.up_to(bound)
        })
    }
}

fn list(failures: &[(Endpoint, Error)]) -> String {
    let failures: Vec<String> = failures
        .iter()
        .map(|(endpoint, error)| format!("{endpoint}: {}", error.cause()))
        .collect();
    failures.join("; ")
}

/// Errors that another attempt cannot fix. A name that resolved before may do so again.
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
