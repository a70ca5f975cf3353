//! Whether the report of a close agrees with what callers were told.

use fibp_proto::machine::{CloseReport, Completion, Reply};
use fibp_proto::{Error, Outcome};

use super::token::Token;

/// What callers of a machine were told since it was asked to close.
#[derive(Debug)]
pub(super) struct Tally {
    /// The token of the close: calls with later ones were not open yet.
    close: u64,
    /// How many calls and messages were open, by all machines, or had lost their callers.
    most: u64,
    flushed: u64,
    failed: u64,
    unknown: u64,
}

impl Tally {
    pub(super) fn new(close: u64, most: u64) -> Self {
        Self {
            close,
            most,
            flushed: 0,
            failed: 0,
            unknown: 0,
        }
    }

    /// Counts what one caller is told, or compares a report.
    pub(super) fn hear(&mut self, completion: &Completion<Token>) -> Result<(), String> {
        let was_open = completion.token.number() < self.close;
        match &completion.reply {
            Reply::Enqueued(result) if was_open => {
                self.count(result.as_ref().err().map(|failed| &failed.error));
            }
            Reply::Settled(result) if was_open => self.count(result.as_ref().err()),
            Reply::Response(result) if was_open => self.count(result.as_ref().err()),
            Reply::Closed(report) => return self.compare(report),
            // Some of a list may have been told before the close.
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, error: Option<&Error>) {
        match error.map(Error::outcome) {
            None => self.flushed += 1,
            Some(Outcome::NotSent | Outcome::Rejected) => self.failed += 1,
            Some(_) => self.unknown += 1,
        }
    }

    fn compare(&self, report: &CloseReport) -> Result<(), String> {
        let told = report.flushed >= self.flushed && report.failed >= self.failed && report.unknown >= self.unknown;
        let total = report.flushed + report.failed + report.unknown;
        if told && total <= self.most {
            return Ok(());
        }
        Err(format!(
            "a close is reported as {report:?}, but callers were told {self:?}"
        ))
    }
}
