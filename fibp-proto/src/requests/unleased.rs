//! Acks and nacks that the server finds no lease for.

use std::time::Instant;

use super::settle::Settle;
use super::work::Attempt;
use crate::error::{Error, ErrorKind, Outcome};

/// Whether it depends on the servers' being a cluster what a settle amounts to that the server finds no lease for.
pub(super) fn is_doubtful(now: Instant, settle: &Settle, attempt: &Attempt) -> bool {
    settle.lease_deadline.is_some_and(|deadline| deadline > now) && !attempt.replayed
}

/// What a settle amounts to that the server finds no lease for.
///
/// Inside its lease that is success if an earlier attempt may have succeeded, and on a cluster, whose leader ends the
/// lease before it looks for it (docs/protocol/clusters.md 4). After its lease the message may be with somebody else.
/// A nack is never taken for done: what it asks for, another delivery, may not come.
pub(super) fn judge_unleased(
    now: Instant,
    clustered: bool,
    settle: &Settle,
    attempt: &Attempt,
    error: Error,
) -> Result<(), Error> {
    let over = settle.lease_deadline.is_some_and(|deadline| deadline <= now);
    let held = settle.lease_deadline.is_some() && !over;
    // Without a known lease, an ack that was sent twice is the only witness.
    let done = (held && clustered) || (!over && attempt.replayed);
    if settle.nack.is_none() && done {
        return Ok(());
    }
    let error = if over {
        error.with_kind(ErrorKind::LeaseLost)
    } else {
        error
    };
    Err(if clustered {
        error.with_outcome(Outcome::Unknown)
    } else {
        error
    })
}
