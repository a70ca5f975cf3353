//! How a client's requests end: what is open is flushed or failed, then every channel is left.

use std::time::{Duration, Instant};

use super::Requests;
use super::submit::closed;
use crate::earliest_deadline::{earlier, is_due};
use crate::error::{Error, ErrorKind, Outcome};
use crate::event::State;
use crate::machine::{CallId, CloseReport, Reply};

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
    fn new(id: CallId, token: T, until: Option<Instant>) -> Self {
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

    /// So many requests that were open are over.
    pub(super) fn note(&mut self, requests: u64, error: Option<&Error>) {
        let count = match error.map(Error::outcome) {
            None => &mut self.report.flushed,
            Some(Outcome::Unknown) => &mut self.report.unknown,
            Some(Outcome::NotSent | Outcome::Rejected) => &mut self.report.failed,
        };
        *count = count.saturating_add(requests);
    }
}

impl<T> Requests<T> {
    /// Flushes, waits for answers, then closes; completes with [`Reply::Closed`] by `now + deadline` at the
    /// latest; a deadline beyond the clock's range is no limit. Later calls fail with `Closed`.
    pub fn close(&mut self, now: Instant, deadline: Duration, token: T) -> CallId {
        let id = self.next_call_id();
        let until = now.checked_add(deadline);
        match &mut self.ledger.closing {
            Some(closing) => {
                closing.tokens.push((id, token));
                // Whoever is in a hurry decides for all: nobody's close may last longer than it was given.
                closing.until = earlier(closing.until, until);
            }
            None => self.ledger.closing = Some(Closing::new(id, token, until)),
        }
        self.router.flush(now, None);
        self.check_closing(now);
        id
    }

    /// Closes without waiting: everything open fails with `Closed`. For the last handle's drop.
    pub fn abort(&mut self, now: Instant) {
        self.stop(now, "closed");
        if let Some(closing) = &mut self.ledger.closing {
            closing.until = Some(now);
        }
        self.check_closing(now);
        self.finish_turn(now);
    }

    /// Completes a close once nothing is open any more, or its deadline is here.
    pub(super) fn check_closing(&mut self, now: Instant) {
        let Some(closing) = &self.ledger.closing else { return };
        if !closing.done {
            // A main channel that is closed has failed everything, so nothing more can end.
            let late = is_due(closing.until, now);
            if !late && self.has_open_work() && !self.router.main().channel.is_closed() {
                return;
            }
            self.stop(now, "closed before it was done");
        }
        if let Some(closing) = &mut self.ledger.closing {
            closing.done = true;
            let report = closing.report;
            // Again for those who close a client that is closed: they get the same report.
            for (_, token) in std::mem::take(&mut closing.tokens) {
                self.ledger.complete(token, Reply::Closed(report));
            }
        }
    }

    /// Fails what is open and leaves.
    fn stop(&mut self, now: Instant, why: &str) {
        // Before the channels are shut, which drops what they have in flight, tokens and all.
        self.fail_everything(&Error::new(ErrorKind::Closed, format!("the client was {why}")));
        self.complete_opened(Err(closed("the client")));
        self.shut_channels(now, &closed("the client"));
        self.shared.set_state(State::Closed);
    }

    /// Whether somebody waits for something, or was promised room.
    fn has_open_work(&self) -> bool {
        let is_promised = || {
            self.ledger
                .budgets
                .iter()
                .any(|budget| budget.parked() + budget.reserved() > 0)
        };
        self.router.iter().any(|route| route.open_work() > 0) || is_promised()
    }
}
