//! How a link ends: what is open is flushed or failed, and the server is left with a goodbye where there is one.

use std::time::Instant;

use super::Link;
use super::completion::{Action, CallId, CloseReport, Completion, Reply};
use super::session::Phase;
use super::submit::closed;
use crate::config::Endpoint;
use crate::error::{Error, ErrorKind, Outcome};
use crate::event::{LinkName, State};
use crate::soonest::is_due;

/// How long a goodbye waits for the server to close.
const GOODBYE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// A close under way.
#[derive(Debug)]
pub(super) struct Closing<T> {
    pub(super) tokens: Vec<(CallId, T)>,
    /// When to stop waiting; `None`: no limit.
    pub(super) until: Option<Instant>,
    report: CloseReport,
    /// Nothing is open any more.
    done: bool,
}

impl<T> Closing<T> {
    pub(super) fn new(id: CallId, token: T, until: Option<Instant>) -> Self {
        Self {
            tokens: vec![(id, token)],
            until,
            report: CloseReport::default(),
            done: false,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.filter(|_| !self.done || !self.tokens.is_empty())
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Something that was open is over.
    pub(super) fn note(&mut self, error: Option<&Error>) {
        let count = match error.map(Error::outcome) {
            None => &mut self.report.flushed,
            Some(Outcome::Unknown) => &mut self.report.unknown,
            Some(Outcome::NotSent | Outcome::Rejected) => &mut self.report.failed,
        };
        *count = count.saturating_add(1);
    }
}

impl<T> Link<T> {
    /// Completes a close once nothing is open any more, or its deadline is here.
    pub(super) fn check_closing(&mut self, now: Instant) {
        let Some(closing) = &self.closing else { return };
        if !closing.done {
            let late = is_due(closing.until, now);
            if !late && self.open_work() > 0 && !self.session.is_closed() {
                return;
            }
            self.stop(now, "closed before it was done");
        }
        if let Some(closing) = &mut self.closing {
            closing.done = true;
            let report = closing.report;
            for (_, token) in closing.tokens.drain(..) {
                self.completions.push(Completion {
                    token,
                    reply: Reply::Closed(report),
                });
            }
        }
    }

    /// Closes without waiting: everything open fails with `Closed`. For the last handle's drop.
    pub fn abort(&mut self, now: Instant) {
        self.stop(now, "closed");
        if let Some(closing) = &mut self.closing {
            closing.until = Some(now);
        }
        self.check_closing(now);
        self.publish_stats();
        self.note_change();
    }

    /// Fails what is open and leaves.
    fn stop(&mut self, now: Instant, why: &str) {
        self.take_last_deliveries(now);
        self.fail_everything(&Error::new(ErrorKind::Closed, format!("the client was {why}")));
        self.complete_opened(Err(closed("the client")));
        self.shut(now);
        if self.session.is_closed() {
            self.end_consumer(None);
        }
        if self.name == LinkName::Main {
            self.shared.set_state(State::Closed);
        }
    }

    /// Leaves the connection: with a goodbye where the dialect has one, at once elsewhere.
    pub(super) fn shut(&mut self, now: Instant) {
        if let Phase::Leaving { next, .. } = &mut self.session.phase {
            *next = None;
            return;
        }
        if self.session.is_closed() || self.say_goodbye(now, None) {
            return;
        }
        // Waiters were told already: what is left only keeps its ids.
        drop(self.hang_up());
        self.session.phase = Phase::Closed {
            error: closed("the client"),
        };
    }

    /// Leaves a consumer's connection for a new one to the same server: with a goodbye where the dialect has one, or
    /// what the server tells to this one meanwhile is told to nobody, and the server takes long to notice
    /// (docs/protocol/framed.md 5).
    pub(super) fn renew(&mut self, now: Instant, endpoint: Endpoint) {
        if !self.say_goodbye(now, Some(endpoint.clone())) {
            self.redial_at(now, endpoint);
        }
    }

    /// Where the dialect has a goodbye, begins to leave for `next`.
    fn say_goodbye(&mut self, now: Instant, next: Option<Endpoint>) -> bool {
        let connection = self.connection.as_mut().filter(|_| self.session.is_ready());
        let said = connection
            .filter(|connection| connection.rules().goodbye)
            .is_some_and(|connection| connection.encode(&crate::Request::Goodbye).is_ok());
        if said {
            self.session.phase = Phase::Leaving {
                until: now.checked_add(GOODBYE_TIMEOUT),
                half_closed: false,
                next,
            };
            self.needs_driver = true;
        }
        said
    }

    /// Everything encoded was written.
    pub(super) fn note_flushed(&mut self, _now: Instant) {
        if let Phase::Leaving { half_closed, .. } = &mut self.session.phase {
            let written = self
                .connection
                .as_ref()
                .is_none_or(|connection| connection.out.is_empty());
            if written && !*half_closed && self.transport.finish_output() {
                *half_closed = true;
                self.actions.push_back(Action::HalfClose);
            }
            self.needs_driver = true;
        }
    }

    pub(super) fn finish_leaving(&mut self, now: Instant) {
        if let Phase::Leaving { next: Some(next), .. } = &self.session.phase {
            let next = next.clone();
            self.take_last_deliveries(now);
            return self.redial_at(now, next);
        }
        let error = self.session.last_error.clone().unwrap_or_else(|| closed("the client"));
        self.take_last_deliveries(now);
        drop(self.hang_up());
        self.session.phase = Phase::Closed { error };
        self.end_consumer(None);
    }
}
